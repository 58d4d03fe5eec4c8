"""Scripts run by a recording stand-in for Vivado, and what they did."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from spikeloom.config import MachineConfig
from spikeloom.hw.vivado.block_design import build_script
from spikeloom.hw.vivado.design import BlockDesign, zcu104_design
from spikeloom.hw.vivado.package_ip import ooc_constraints, package_ip_script
from spikeloom.hw.vivado.wrapper import TOP, wrapper_verilog

MOCK = Path(__file__).parent / "mock_vivado.tcl"


@dataclass(frozen=True)
class Recording:
    """What a script did: exit status, output, Vivado commands with their words."""

    status: int
    output: str
    commands: list[list[str]]

    def calls(self, name: str) -> list[list[str]]:
        """Words after the command, of every call of it."""
        return [words[1:] for words in self.commands if words[0] == name]


@dataclass(frozen=True)
class Project:
    """A directory as `build` and `vivado` leave it, with Verilog that is empty."""

    folder: Path

    def run(self, script: str, **options: str) -> Recording:
        """Run one of the scripts; `options` as in mock_vivado.tcl."""
        if shutil.which("tclsh") is None:
            pytest.skip("no tclsh")
        record = self.folder / "record.txt"
        words = [f"{key}={value}" for key, value in options.items()]
        result = subprocess.run(
            ["tclsh", str(MOCK), str(self.folder / "vivado" / script), str(record), *words],
            capture_output=True, text=True, check=False, timeout=600)
        commands = [text.split("\x1f") for text in record.read_text().split("\x1e")[:-1]]
        return Recording(result.returncode, result.stdout + result.stderr, commands)


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    """Make a project for a configuration, or for a design that was tampered with."""

    def make(config: MachineConfig, design: BlockDesign | None = None) -> Project:
        folder = tmp_path / "machine"
        for name in ("rtl", "vivado"):
            (folder / name).mkdir(parents=True)
        (folder / "rtl" / "spikeloom.v").write_text("")
        (folder / "vivado" / f"{TOP}.v").write_text(wrapper_verilog(config))
        (folder / "vivado" / f"{TOP}_ooc.xdc").write_text(ooc_constraints(config))
        (folder / "vivado" / "package_ip.tcl").write_text(package_ip_script(config))
        script = build_script(design or zcu104_design(config), config)
        (folder / "vivado" / "build_zcu104.tcl").write_text(script)
        return Project(folder)

    return make
