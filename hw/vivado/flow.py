"""From a built machine to a bitstream: write the scripts, run Vivado, read its reports back.

    DIR/rtl/spikeloom.v, DIR/report/build.json        of `spikeloom build`
    DIR/vivado/                                       scripts, wrapper, expected .hwh; Vivado's projects and logs
    DIR/report/*.rpt                                  Vivado's reports, and from them:
    DIR/report/post_implementation_timing.json, post_implementation_resources.json
    DIR/bitfile/spikeloom.bit, spikeloom.hwh          only if the timing is met
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from spikeloom.board import STEM
from spikeloom.config import MachineConfig

from ..gateware.cache import write_atomically
from .block_design import build_script
from .compare_hwh import compare_hwh, read_hwh
from .design import design_problems, zcu104_design
from .hwh import expected_hwh
from .package_ip import ooc_constraints, package_ip_script
from .reports import Timing, read_resources, read_timing
from .wrapper import TOP, wrapper_verilog

__all__ = ["EXPECTED", "SCRIPTS", "VivadoError", "bitstream", "built_config", "vivado"]

SCRIPTS = ("package_ip.tcl", "build_zcu104.tcl")
"""In the order in which they run."""

EXPECTED = "expected.hwh"

Listener = Callable[[str], None]


class VivadoError(RuntimeError):
    """Vivado is missing, failed, or its result is not usable."""


def vivado(directory: str | Path) -> list[Path]:
    """Write what Vivado needs into `directory`/vivado.

    Args:
        directory: Directory that `build` wrote.

    Returns:
        The files written.

    Raises:
        ValueError: `directory` holds no machine, or Verilog and report are of different builds.
    """
    directory = Path(directory)
    config = built_config(directory)
    design = zcu104_design(config)
    if problems := design_problems(design, config):
        raise VivadoError(f"the block design is not sound: {'; '.join(problems)}")
    texts = {
        f"{TOP}.v": wrapper_verilog(config), f"{TOP}_ooc.xdc": ooc_constraints(config),
        SCRIPTS[0]: package_ip_script(config), SCRIPTS[1]: build_script(design, config),
        EXPECTED: expected_hwh(design, config)}
    (directory / "vivado").mkdir(exist_ok=True)
    for name, text in texts.items():
        write_atomically(directory / "vivado" / name, text)
    return [directory / "vivado" / name for name in texts]


def bitstream(
    directory: str | Path, *, jobs: int = 4, collect: bool = False, progress: Listener | None = None,
    show: Listener | None = None,
) -> dict[str, Any]:
    """Write the scripts, run them in Vivado and read the reports back. Takes as long as Vivado takes: hours.

    Args:
        directory: Directory that `build` wrote.
        jobs: Processes that Vivado may use.
        collect: Run nothing; read back what a run elsewhere has left in `directory`.
        progress: Hears one line per step.
        show: Hears every line that Vivado prints.

    Returns:
        `timing` and `resources` as written to `report/`, and the paths `bit` and `hwh`.

    Raises:
        ValueError: `directory` holds no machine; a report cannot be read.
        VivadoError: No Vivado on the PATH, a script failed, the timing is not met, or the hardware description is not
            the expected one.
    """
    directory = Path(directory)
    tell = progress or (lambda message: None)
    vivado(directory)
    if not collect:
        _run_scripts(directory, jobs, tell, show or (lambda line: None))
    tell("read the reports")
    return _collect(directory)


def built_config(directory: Path) -> MachineConfig:
    """The configuration that `directory` was built for. ValueError if it holds no machine, or parts of several."""
    path, verilog = directory / "report" / "build.json", directory / "rtl" / "spikeloom.v"
    for file in (path, verilog):
        if not file.exists():
            raise ValueError(f"{directory}: holds no {file.relative_to(directory)}; write it with "
                             f"`spikeloom build NETWORK --out {directory}`")
    try:
        report = json.loads(path.read_text())
        names = {field.name for field in fields(MachineConfig)}
        config = MachineConfig(**{name: value for name, value in report["config"].items() if name in names})
        stored = report["config_hash"], report["verilog"]["sha256"]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error!r}") from error
    if stored != (f"{config.hash:08x}", hashlib.sha256(verilog.read_bytes()).hexdigest()):
        raise ValueError(f"{directory}: rtl/spikeloom.v, report/build.json and this version of Spikeloom do not belong "
                         f"together; run `spikeloom build` again")
    return config


def _run_scripts(directory: Path, jobs: int, tell: Listener, show: Listener) -> None:
    executable = shutil.which("vivado")
    if executable is None:
        raise VivadoError(
            f"no `vivado` on the PATH. Where Vivado (2022.1 or later) is, with a copy of {directory}: "
            f"{_command_elsewhere()}; then bring report/ and bitfile/ back and run "
            f"`spikeloom bitstream {shlex.quote(str(directory))} --collect`")
    for name in (*(f"report/{stem}.rpt" for stem in ("timing_summary", "utilization")),
                 *(f"bitfile/{STEM}.{kind}" for kind in ("bit", "hwh"))):
        (directory / name).unlink(missing_ok=True)
    for script in SCRIPTS:
        tell(f"vivado: {script}")
        status = _stream(executable, directory / "vivado", script, jobs, show)
        if status:
            _raise_failure(directory, script, status)


def _command_elsewhere() -> str:
    commands = [f"vivado -mode batch -source {script}" for script in SCRIPTS]
    return " && ".join(["cd vivado", *commands])


def _stream(executable: str, folder: Path, script: str, jobs: int, show: Listener) -> int:
    """Run one script; its output goes to `show` line by line and to a log. No time-out. Returns the exit status."""
    stem = Path(script).stem
    command = [executable, "-mode", "batch", "-notrace", "-journal", f"{stem}.jou", "-log", f"{stem}.vivado.log",
               "-source", script]
    environment = {**os.environ, "SPIKELOOM_JOBS": str(jobs)}
    with open(folder / f"{stem}.log", "w") as log, subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                show(line.rstrip("\n"))
        except BaseException:
            # Vivado's runs are processes of their own; they end with their group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
    return process.returncode


def _raise_failure(directory: Path, script: str, status: int) -> None:
    """The timing's failure where there is a report of one, else the first error in the log."""
    if (directory / "report" / "timing_summary.rpt").exists():
        _collect_timing(directory)
    log = directory / "vivado" / f"{Path(script).stem}.log"
    errors = [line.strip() for line in log.read_text().splitlines() if line.startswith(("ERROR", "error"))]
    reason = errors[0] if errors else "it names no error"
    raise VivadoError(f"Vivado ended with status {status} in {script}: {reason}; see {log}")


def _collect(directory: Path) -> dict[str, Any]:
    for name in ("timing_summary", "utilization"):
        if not (directory / "report" / f"{name}.rpt").exists():
            raise VivadoError(f"{directory / 'report' / name}.rpt: no such file; Vivado has not been run")
    resources = read_resources((directory / "report" / "utilization.rpt").read_text())
    _write(directory / "report" / "post_implementation_resources.json", resources)
    timing = _collect_timing(directory)
    bit, hwh = (directory / "bitfile" / f"{STEM}.{kind}" for kind in ("bit", "hwh"))
    for path in (bit, hwh):
        if not path.exists():
            raise VivadoError(f"{path}: no such file; bring bitfile/ back from where Vivado ran")
    expected = (directory / "vivado" / EXPECTED).read_text()
    if differences := compare_hwh(expected, read_hwh(hwh)):
        report = directory / "report" / "hwh_differences.txt"
        report.write_text("\n".join(differences) + "\n")
        raise VivadoError(f"{hwh}: not what the driver expects, {len(differences)} differences, the first: "
                          f"{differences[0]}; all in {report}")
    return {"timing": timing.as_dict(), "resources": resources, "bit": str(bit), "hwh": str(hwh)}


def _collect_timing(directory: Path) -> Timing:
    """Read the timing back and write it; raises VivadoError if it is not met."""
    timing = read_timing((directory / "report" / "timing_summary.rpt").read_text())
    _write(directory / "report" / "post_implementation_timing.json", timing.as_dict())
    if not timing.met:
        raise VivadoError(timing.failure())
    return timing


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1) + "\n")
