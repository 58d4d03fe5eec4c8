"""Runs under a Python with pynq (test_pynq.py): clips back to back through PYNQ's Overlay, our driver, the RTL.

    python pynq_clips.py DIR [STALLS]     DIR/bitfile, DIR/program, DIR/rtl, DIR/clips.npz (clips, expected)

STALLS: probability that a channel of the bus stalls in a cycle. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from pynq.pl_server.device import Device  # pyright: ignore[reportMissingImports]

from spikeloom.host.driver import SpikeloomOverlay
from spikeloom.hw.program.program import Program
from spikeloom.sim.accelerator_model import MemoryModel
from spikeloom.sim.board import SimulatedBoard
from spikeloom.sim.pynq_device import SimulatedDevice


def stream(directory: Path, stalls: float) -> dict[str, float]:
    data = np.load(directory / "clips.npz")
    if stalls:
        memory = MemoryModel(bandwidth=0.8, latency=30, jitter=40, stall_probability=stalls, seed=7)
    else:
        memory = MemoryModel(total_bandwidth=2.08, latency=80, jitter=20)
    board = SimulatedBoard(
        Program.load(directory / "program").config, verilog=(directory / "rtl" / "spikeloom.v").read_text(),
        memory=memory)
    begun, results = time.perf_counter(), []
    with board:  # also raises if the machine broke a rule of AXI
        Device.active_device = SimulatedDevice(board)
        bitfile = directory / "bitfile" / "spikeloom.bit"
        with SpikeloomOverlay(bitfile, directory / "program", timeout=3600.0) as overlay:
            for logits in overlay.stream(data["clips"]):
                results.append(logits)
                print(f"{len(results)} of {len(data['clips'])}", file=sys.stderr, flush=True)
            polling = overlay.driver.accelerator.polling
        cycles = board.model.cycle
    np.testing.assert_array_equal(results, data["expected"])
    distinct = len(np.unique(data["expected"], axis=0))
    return {"clips": len(results), "distinct": distinct, "polling": polling, "cycles": cycles,
            "seconds": time.perf_counter() - begun}


if __name__ == "__main__":
    print(json.dumps(stream(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)))
