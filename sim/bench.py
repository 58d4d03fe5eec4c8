"""Benchmark: cycles of a network on each machine, counted by RTL simulation: ``python -m spikeloom.sim.bench``.

    spikeloom.sim.bench [--presets small zcu104] [--out docs/performance.md]         the demo network
    spikeloom.sim.bench --network 15M --video FILE --presets zcu104 [--frames 32]    full size, random weights

Cycles are exact and repeat; the simulator's speed depends on the computer. Every run is also held against the integer
reference: a benchmark of wrong results is an error.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spikeloom.config import PRESETS, MachineConfig, preset
from spikeloom.hw.build import emit_machine
from spikeloom.hw.program.compiler import compile_network
from spikeloom.network import Network
from spikeloom.operations import additions_by_engine
from spikeloom.quantize.convert import calibration_clips, load_model
from spikeloom.quantize.models import named_config
from spikeloom.quantize.quantizer import quantize
from spikeloom.quantize.reference import Reference
from spikeloom.quantize.tasks import get_task
from spikeloom.quantize.untrained import untrained
from spikeloom.quantize.video import read_clip

from .accelerator_model import MemoryModel
from .compare import Comparison
from .machine import Machine

__all__ = ["DDR", "Figures", "measure", "table"]

DDR = MemoryModel(total_bandwidth=2.08, latency=80, jitter=20, seed=1)
"""10 GB/s over all ports (2.08 beats of 16 bytes per cycle at 300 MHz), 80 cycles latency, up to 20 more."""

WATCHDOG = 2_000_000
"""Cycles: a COMPUTE of a full-size layer takes some 100,000."""

_SMALL = """The maps of this network are 16 x 16 to 4 x 4 pixels: a table serves 16 to 256 pixels, where a 224 x 224
network uses it for hundreds to thousands. So wide machines mostly fill tables here."""

_FULL_SIZE = """Random weights, norm statistics of the clip (`quantize/untrained.py`); the program, and so the cycles,
follow from the shapes, not from the weights' values. Residual tensors that fit the residual buffer, and the planes
between a depthwise and its 1 x 1 convolution, never reach DDR: what is made of them is compared
(`spikeloom simulate --observe` compares them too)."""

DEFAULT_PRESETS = ("tiny", "small", "zcu104-half", "zcu104")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One clip on one machine. `busy`: cycles in which each engine executed an instruction."""

    name: str
    config: MachineConfig
    frames: int
    cycles: int
    additions: int
    compared: int
    busy: Mapping[str, int]
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """At the clock of the preset."""
        return self.frames * self.config.clock_mhz * 1e6 / self.cycles

    @property
    def utilisation(self) -> float:
        """Additions of the array per cycle over its peak."""
        return self.additions / (self.cycles * self.config.peak_ops_per_cycle)


def demo_network() -> tuple[Network, np.ndarray]:
    """The demo network, quantised as `spikeloom demo` does, and one held-out clip."""
    model = load_model("digits")
    network, _ = quantize(model, calibration_clips(model.config))
    return network, get_task(model.config).batch(range(1), "test", 0)[0][0]


def full_size_network(name: str, video: Path, frames: int | None = None) -> tuple[Network, np.ndarray]:
    """A named configuration with random weights (`quantize.untrained`), and a clip of `video`. VideoError.

    `frames`: time steps, if not those of the configuration.
    """
    config = named_config(name)
    config = replace(config, frames=frames or config.frames)
    clip = read_clip(video, frames=config.frames, height=config.height, width=config.width)
    network, _ = quantize(untrained(config, clip), clip[None])
    return network, clip


def measure(name: str, network: Network, clip: np.ndarray) -> Figures:
    """Run one clip on preset `name` under `DDR`.

    Raises:
        AssertionError: RTL and reference differ.
    """
    config = preset(name)
    program = compile_network(network, config)
    with Machine(config, program, memory=DDR, verilog=emit_machine(config), watchdog=WATCHDOG) as machine:
        began = time.perf_counter()
        result = machine.run(clip)
        seconds = time.perf_counter() - began
        comparison = Comparison(network, on_chip=program.on_chip)
        expected = {tensor: value.numpy() for tensor, value in Reference(network).run(clip).items()}
        comparison.add(expected, {tensor: result.tensor(tensor) for tensor in comparison.tensors})
    if comparison.mismatches:
        raise AssertionError(f"{name}: {comparison.summary()}")
    return Figures(
        name=name, config=config, frames=network.frames, cycles=result.cycles, compared=comparison.compared,
        additions=additions_by_engine(network)["array"], seconds=seconds,
        busy={engine: counters["busy"] for engine, counters in result.engines.items()})


def table(figures: Sequence[Figures], what: str) -> str:
    """Markdown; `what` was run: network and clip."""
    first = figures[0]
    rows = [(f"`{f.name}`", f"{f.config.peak_ops_per_cycle:,}", f"{f.cycles:,}", f"{100 * f.utilisation:.1f} %",
             f"{f.frames_per_second:,.0f}", f"{f.additions / f.cycles * f.config.clock_mhz / 1e6:.2f} T",
             f"{f.cycles / f.seconds:,.0f}") for f in figures]
    head = ("preset", "additions per cycle, peak", "cycles per clip", "share of peak", "frames/s at 300 MHz",
            "additions/s at 300 MHz", "simulated cycles/s")
    busy = [(f"`{f.name}`", *(f"{cycles:,}" for cycles in f.busy.values())) for f in figures]
    lines = [
        f"{what}, {first.frames} frames: {first.additions:,} additions in the array; every value in DDR is equal to",
        f"the integer reference ({first.compared:,} compared).", "",
        *_rows(head, rows), "",
        "Cycles in which each engine executed an instruction:", "", *_rows(("preset", *first.busy), busy)]
    return "\n".join(lines) + "\n"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def page(body: str, network: str | None) -> str:
    """The committed page around a table: of the demo network, or of a full-size one."""
    title = f"SpikeVideoFormer {network}" if network else "the demo network"
    lines = [
        f"# Performance of {title}", "", "<!-- written by `python -m spikeloom.sim.bench`; do not edit -->", "",
        "Cycles are counted by RTL simulation with DDR modelled as 10 GB/s over all ports at 300 MHz and 80 to 100",
        "cycles latency. Not placed and routed: the clock is the design's goal, not a result.", "", body]
    lines += [_SMALL if network is None else _FULL_SIZE, ""]
    machine = f"Simulator on {platform.machine()}, {os.cpu_count()} shared cores: its speed is an indication only."
    return "\n".join([*lines, machine, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    parser = argparse.ArgumentParser(
        prog="spikeloom.sim.bench", description="Cycles of a network, counted by RTL simulation.")
    parser.add_argument("--presets", nargs="+", choices=sorted(PRESETS), default=list(DEFAULT_PRESETS))
    parser.add_argument("--network", choices=("15M", "31M", "55M"), help="full size, random weights; needs --video")
    parser.add_argument("--video", type=Path, help="video file to take the clip of a full-size network from")
    parser.add_argument("--frames", type=int, help="time steps of a full-size network's clip (default: 8)")
    parser.add_argument("--out", type=Path, help="write a page with the table to this file")
    options = parser.parse_args(arguments)
    if (options.network is None) != (options.video is None):
        parser.error("--network and --video go together")
    print("quantise", file=sys.stderr, flush=True)
    if options.network:
        network, clip = full_size_network(options.network, options.video, options.frames)
        what = f"SpikeVideoFormer {options.network}, random weights, {options.video.name}"
    else:
        network, clip = demo_network()
        what = "The demo network on a held-out clip of 32 x 32"
    figures = []
    for name in options.presets:
        print(f"{name}: emit, build, run", file=sys.stderr, flush=True)
        figures.append(measure(name, network, clip))
    text = table(figures, what)
    print(text)
    if options.out is not None:
        options.out.write_text(page(text, options.network))
    return 0


if __name__ == "__main__":
    sys.exit(main())
