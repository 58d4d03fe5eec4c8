"""Helper of the scripts that run under a Python with pynq: a simulated board for a driver that came out of its wheel.

The wheel holds no simulation: `spikeloom.sim` and what it imports come from the repository, the rest from the wheel.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def attach(build: Path):
    """Make a simulated board with the machine of a build directory PYNQ's active device; the board."""
    folders = {"spikeloom": "typings/spikeloom", "spikeloom.hw": "hw", "spikeloom.hw.program": "hw/program"}
    for name, folder in folders.items():
        importlib.import_module(name).__path__.append(str(ROOT / folder))

    from pynq.pl_server.device import Device  # pyright: ignore[reportMissingImports]

    from spikeloom.host import accelerator
    from spikeloom.hw.program.program import Program
    from spikeloom.sim.board import SimulatedBoard
    from spikeloom.sim.pynq_device import SimulatedDevice

    wheel = os.environ.get("SPIKELOOM_WHEEL_FOLDER")
    assert wheel is None or accelerator.__file__.startswith(wheel), accelerator.__file__
    board = SimulatedBoard(
        Program.load(build / "program").config, verilog=(build / "rtl" / "spikeloom.v").read_text())
    Device.active_device = SimulatedDevice(board)
    return board
