"""`spikeloom deploy`: everything that a board needs, in one zip.

    DIR (of `spikeloom build`, with bitfile/ of `spikeloom bitstream`)  -->  ZIP/spikeloom-<preset>/
        README.txt, validate.py, spikeloom.ipynb      for people
        wheels/                                       driver, overlay (`spikeloom.hw.wheels`)
        deploy.json, bitfile/, program/, network/, labels.json, samples.npz    see `spikeloom.host.deployment`

On the board: no compiler, no torch, no network. The same build gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from spikeloom.board import STEM
from spikeloom.network import Network

from .program.program import Program
from .vivado.compare_hwh import compare_hwh, read_hwh
from .vivado.design import zcu104_design
from .vivado.flow import SCRIPTS, built_config
from .vivado.hwh import expected_hwh
from .wheels import driver_wheel, overlay_wheel

__all__ = ["DeployError", "deploy"]

SAMPLES = 8
"""Clips to try that go into the zip."""

PROGRAM_FILES = ("program.bin", "program.json", "self_test.bin", "self_test.json")

_DATE = (1980, 1, 1, 0, 0, 0)

_README = """Spikeloom {version} for the ZCU104: {what}

Needed on the board: a PYNQ image (3.0 or later: Python 3.10 or later, NumPy, PYNQ). No compiler, no torch, no network.

    sudo -i                                 # PYNQ's environment, as on any PYNQ board
    cd {name}
    pip install --no-deps wheels/*.whl
    python3 validate.py                     # self-test, layer by layer: ends with OK, or names the first wrong layer
    jupyter: open spikeloom.ipynb           # or `pynq get-notebooks spikeloom`

    from spikeloom.host.driver import SpikeloomOverlay
    with SpikeloomOverlay("bitfile/spikeloom.bit", "program") as overlay:
        logits = overlay.infer(clip)

{bitstream}
network        {network}
configuration  {config}, {preset}
files          {count}, SHA-256 of each in deploy.json
"""

_WITHOUT = """THE BITSTREAM IS MISSING. Where Vivado (2022.1 or later) is, with the directory that was packed:

    {command}

then put bitfile/spikeloom.bit and bitfile/spikeloom.hwh of that directory into bitfile/ here, or pack again.
"""


class DeployError(RuntimeError):
    """There is nothing to deploy yet; the message says what to do."""


def deploy(
    directory: str | Path, out: str | Path, *, without_bitstream: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Pack a build for a board.

    Args:
        directory: Directory that `build` wrote, with the result of `bitstream`.
        out: Zip file to write.
        without_bitstream: Pack the rest.
        progress: Hears one line per step.

    Returns:
        The content of `deploy.json`.

    Raises:
        DeployError: A bitstream or a self-test is missing; the bitstream is not for this machine.
        ValueError: `directory` holds no machine, or parts of different builds.
        ProgramError, NetworkError: Program or network are malformed.
        WheelError: The wheels cannot be built.
    """
    directory, out = Path(directory), Path(out)
    tell = progress or (lambda message: None)
    config = built_config(directory)
    program = Program.load(directory / "program", config)
    network = Network.load(directory / "network")
    if network.hash != program.network_hash:
        raise ValueError(f"{directory}: program/ and network/ do not belong together; run `spikeloom build` again")
    files = _program_files(directory)
    if not without_bitstream:
        files |= _bitfiles(directory, expected_hwh(zcu104_design(config), config))
    tell("classify the sample clips with the integer reference")
    files |= {"network/network.json": (directory / "network" / "network.json").read_bytes(),
              "samples.npz": _samples(network)}
    if (labels := directory / "labels.json").is_file():
        files["labels.json"] = labels.read_bytes()
    manifest = _manifest(files, program)
    files["deploy.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    preset = json.loads((directory / "report" / "build.json").read_text()).get("preset") or "custom"
    name, what = f"spikeloom-{preset}", f"network {network.hash[:12]} on {preset}"
    tell("build the wheels")
    files |= _wheels(files, what, with_overlay=not without_bitstream)
    missing = _WITHOUT.format(command=_command(directory)) if without_bitstream else ""
    readme = _README.format(
        version=version("spikeloom"), what=what, name=name, bitstream=missing, network=network.hash,
        config=manifest["config_hash"], preset=preset, count=len(manifest["files"]))
    files |= {"README.txt": readme.encode(), "validate.py": _host("validate.py"),
              "spikeloom.ipynb": _host("notebooks/spikeloom.ipynb")}
    tell(f"write {out}")
    _write_zip(out, name, files)
    return manifest


def _program_files(directory: Path) -> dict[str, bytes]:
    for name in PROGRAM_FILES:
        if not (directory / "program" / name).is_file():
            raise DeployError(f"{directory / 'program' / name}: no such file; run `spikeloom build` again, where torch "
                              f"is installed")
    return {f"program/{name}": (directory / "program" / name).read_bytes() for name in PROGRAM_FILES}


def _bitfiles(directory: Path, expected: str) -> dict[str, bytes]:
    """Bitstream and hardware description. DeployError if they are missing or for another machine."""
    paths = [directory / "bitfile" / f"{STEM}.{kind}" for kind in ("bit", "hwh")]
    for path in paths:
        if not path.is_file():
            raise DeployError(
                f"{path}: no such file: there is no bitstream yet. `spikeloom bitstream {shlex.quote(str(directory))}` "
                f"makes it, or, where Vivado is: {_command(directory)}. --without-bitstream packs the rest")
    if differences := compare_hwh(expected, read_hwh(paths[1])):
        raise DeployError(f"{paths[1]}: for another machine: {differences[0]} ({len(differences)} differences)")
    return {f"bitfile/{path.name}": path.read_bytes() for path in paths}


def _command(directory: Path) -> str:
    scripts = " && ".join(f"vivado -mode batch -source {script}" for script in SCRIPTS)
    return f"spikeloom vivado {shlex.quote(str(directory))} && cd {shlex.quote(str(directory / 'vivado'))} && {scripts}"


def _samples(network: Network) -> bytes:
    from spikeloom.sim.samples import make_samples

    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # numpy.savez writes the date of today
        for name, array in make_samples(network, SAMPLES).items():
            data = BytesIO()
            np.save(data, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _DATE), data.getvalue())
    return packed.getvalue()


def _manifest(files: dict[str, bytes], program: Program) -> dict[str, Any]:
    return {
        "format": "spikeloom-deployment", "version": 1, "spikeloom": version("spikeloom"),
        "network_hash": program.network_hash, "config_hash": f"{program.config.hash:08x}",
        "files": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}}


def _wheels(files: dict[str, bytes], what: str, *, with_overlay: bool) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [driver_wheel(Path(folder))]
        if with_overlay:
            paths.append(overlay_wheel(Path(folder), files, number=version("spikeloom"), what=what))
        return {f"wheels/{path.name}": path.read_bytes() for path in paths}


def _host(name: str) -> bytes:
    """A file of `spikeloom.host`, which this package does not import."""
    spec = find_spec("spikeloom.host")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / name).read_bytes()


def _write_zip(out: Path, folder: str, files: dict[str, bytes]) -> None:
    """Whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(f"{folder}/{name}", _DATE)
                entry.external_attr = (0o755 if name.endswith(".py") else 0o644) << 16
                archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
