"""Runs a cocotb bench against an Amaranth component: ``run_bench(Lif(...), "spikeloom.sim.benches.lif", name="lif")``.

cocotb's own runner calls make and perl and exposes every signal of the design (``--public-flat-rw``: 5x slower).
Here `verilator.build_program` makes the simulator, with the ports of the top module public and nothing else, and
keeps it in the cache: only the first run of a bench on an unchanged component compiles.

The bench runs in a process of its own, started in a temporary folder. It reads its parameters with
``support.parameters()`` and its seed with ``support.seed()``.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from spikeloom.hw.gateware.emit import emit_verilog

from .verilator import BuildError, Progress, build_program

__all__ = ["BenchError", "BenchResult", "run_bench"]

_COCOTB = "2.1.0"  # the start-up environment below is that of this version
_LOG_TAIL = 12_000


class BenchError(AssertionError):
    """A bench failed or ran out of wall-clock time; the message ends with its log."""


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """A bench that passed: names of its tests, what it printed, wall time in seconds, waveform if asked for."""

    tests: tuple[str, ...]
    log: str
    build_seconds: float
    run_seconds: float
    wave: Path | None = None


def run_bench(
    component: Any,
    module: str,
    *,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 1,
    tests: str | None = None,
    timeout: float = 900.0,
    wave: Path | None = None,
    ports: Any = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Simulate ``component`` as Verilog module ``name`` under the cocotb tests of ``module``; raise unless all pass.

    ``module`` is importable by name (``spikeloom.sim.benches.lif``; folders of ``sys.path`` are passed on).
    ``parameters`` reach it as JSON. ``seed`` fixes both cocotb's random numbers and `support.seed`. ``tests`` is a
    regular expression that picks tests by name. After ``timeout`` seconds of simulation the process is killed.
    ``wave`` names a VCD file to write (needs a build of its own). ``component`` may also be a Verilog text.

    Raises `BenchError` (an `AssertionError`) with the seed and the log if a test fails, none is found or time runs
    out; `BuildError` if the simulator cannot be built.
    """
    verilog = component if isinstance(component, str) else emit_verilog(component, name=name, ports=ports)
    started = time.monotonic()
    program = _build(verilog, name, wave is not None, progress)
    built = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
        results = Path(folder) / "results.xml"
        env = _environment(name, module, seed, results, tests)
        inputs = [port for port, (direction, _) in top_ports(verilog, name).items() if direction == "input"]
        bench = {"seed": seed, "parameters": dict(parameters or {}), "inputs": inputs}
        env["SPIKELOOM_BENCH"] = json.dumps(bench)
        arguments = ["--trace", "--trace-file", str(Path(wave).resolve())] if wave else []
        status, log = _execute([str(program), *arguments], env, folder, timeout)
        _check(results, status, log, f"{module} on {name}, seed {seed}, parameters {dict(parameters or {})}", timeout)
        passed = tuple(case.get("name", "?") for case in ElementTree.parse(results).iter("testcase"))
    done = time.monotonic()
    return BenchResult(tests=passed, log=log, build_seconds=built - started, run_seconds=done - built, wave=wave)


def top_ports(verilog: str, top: str) -> dict[str, tuple[str, int]]:
    """Ports of module ``top`` of an `emit_verilog` text: name -> (``"input"`` or ``"output"``, width in bits)."""
    found = re.search(rf"^module {re.escape(top)} \(.*?^endmodule", verilog, re.S | re.M)
    if found is None:
        raise ValueError(f"`top` must be a module of the Verilog text, not {top!r}")
    declaration = re.compile(r"^  (input|output) (?:signed )?(?:\[(\d+):0\] )?(\\\S+|\w+) ?;", re.M)
    return {match[3]: (match[1], int(match[2] or 0) + 1) for match in declaration.finditer(found[0])}


def _build(verilog: str, name: str, trace: bool, progress: Progress | None) -> Path:
    try:
        import cocotb_tools.config as config
    except ImportError as error:
        raise BuildError(f"cocotb is missing: `pip install 'spikeloom[sim]'` brings cocotb {_COCOTB}.") from error
    if (version := metadata.version("cocotb")) != _COCOTB:
        raise BuildError(f"this runner starts cocotb {_COCOTB}, not {version}: `pip install cocotb=={_COCOTB}`")
    public = "".join(f'public_flat_rw -module "{name}" -var "{port}"\n' for port in top_ports(verilog, name))
    return build_program(
        verilog,
        top=name,
        sources=[Path(config.share_dir) / "lib" / "verilator" / "verilator.cpp"],
        verilator_flags=["--vpi", "--timescale", "1ns/1ps"],
        control=public,
        link_flags=[f"-Wl,-rpath,{config.libs_dir}", f"-L{config.libs_dir}", "-lcocotbvpi_verilator", "-ldl"],
        trace=trace,
        progress=progress,
    )


def _environment(name: str, module: str, seed: int, results: Path, tests: str | None) -> dict[str, str]:
    """What cocotb 2.1.0 needs to find Python, itself and the bench."""
    import cocotb_tools.config as config
    from find_libpython import find_libpython

    library = os.environ.get("LIBPYTHON_LOC") or find_libpython()
    if library is None:
        raise BuildError("cocotb needs Python's shared library: use a Python built with --enable-shared")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("COCOTB_", "GPI_"))}
    env |= {
        "PATH": os.pathsep.join([env.get("PATH", ""), str(config.libs_dir)]),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYGPI_PYTHON_BIN": sys.executable,
        "GPI_USERS": f"{library};{config.pygpi_entry_point()}",
        "TOPLEVEL_LANG": "verilog",
        "COCOTB_TOPLEVEL": name,
        "COCOTB_TEST_MODULES": module,
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "COCOTB_RANDOM_SEED": str(seed),
        "COCOTB_RESULTS_FILE": str(results),
    }
    if tests is not None:
        env["COCOTB_TEST_FILTER"] = tests
    return env


def _execute(command: list[str], env: dict[str, str], folder: str, timeout: float) -> tuple[int | None, str]:
    """Exit status (None: ran out of time) and output of ``command``, which leaves no process behind."""
    with open(Path(folder) / "bench.log", "w+") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        return status, log.read()


def _check(results: Path, status: int | None, log: str, bench: str, timeout: float) -> None:
    if status is None:
        raise BenchError(f"{bench}: no end after {timeout:g} s, killed\n{log[-_LOG_TAIL:]}")
    if not results.exists():
        raise BenchError(f"{bench}: the simulator stopped with status {status}, without results\n{log[-_LOG_TAIL:]}")
    cases = list(ElementTree.parse(results).iter("testcase"))
    failed = [
        case.get("name", "?") for case in cases if any(case.find(end) is not None for end in ("failure", "error"))
    ]
    if failed:
        raise BenchError(f"{bench}: failed: {', '.join(failed)}\n{log[-_LOG_TAIL:]}")
    if not cases or status:
        reason = f"status {status}" if cases else "no test was run"
        raise BenchError(f"{bench}: {reason}\n{log[-_LOG_TAIL:]}")
