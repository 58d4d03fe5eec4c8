"""Run a build directory's RTL and hold it against the integer reference::

    clip -+-> spikeloom.quantize.reference ---------------> tensors --+
          |                                                           +-> Comparison -> report/bit_exact.json
          +-> DIR/program -> Verilated DIR/rtl -> simulated DDR ------+
                                    '-> cycles, counters --------------> report/rtlsim_performance.json
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from spikeloom.config import MachineConfig
from spikeloom.hw.build import TOP, write_report
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.program import Program
from spikeloom.network import Network
from spikeloom.operations import additions_by_engine
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.reference import Reference

from .compare import Comparison
from .machine import Machine

__all__ = ["BuildDirectoryError", "ClipRun", "Rig", "Simulation", "input_clip", "simulate"]


class BuildDirectoryError(ValueError):
    """A directory is not the output of one build: the message names it and says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Both reports of a simulation, as written."""

    bit_exact: Mapping[str, Any]
    performance: Mapping[str, Any]
    summary: str

    @property
    def mismatches(self) -> int:
        """Values in which RTL and reference differ."""
        return self.bit_exact["mismatches"]


@dataclass(frozen=True, kw_only=True)
class ClipRun:
    """One clip through reference and RTL.

    Attributes:
        expected: Tensors of the reference, by name.
        logits: The network's output as the RTL wrote it, logits or not.
        mismatches: Values that differ.
        cycles: Clock cycles from start to interrupt.
        seconds: Wall time of the RTL simulation.
    """

    expected: Mapping[str, NDArray[Any]]
    logits: NDArray[Any]
    mismatches: int
    cycles: int
    seconds: float


class Rig:
    """A build directory brought to life: integer reference and Verilated RTL side by side.

    Args:
        directory: Output of `spikeloom.hw.build.build`.
        every_layer: Compare every tensor that goes to DDR, otherwise only the output.
        observe: Compile the network again so that every tensor goes to DDR: all are compared, in more cycles.
        layers: Simulate only the operators [first, last), with inputs from the reference; all are observed.
        wave: Write a waveform (VCD) of everything run here. Slows the simulation down by an order of magnitude.
        progress: Hears one line per step.

    Raises:
        BuildDirectoryError: `directory` is none, or its parts are of different builds.
        NetworkError, ProgramError: The network or the program in it is malformed.
    """

    def __init__(
        self, directory: str | Path, *, every_layer: bool = True, observe: bool = False,
        layers: tuple[int, int] | None = None, wave: str | Path | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.directory = Path(directory)
        if not (self.directory / "program").is_dir():
            raise BuildDirectoryError(
                f"{self.directory}: holds no program; write one with `spikeloom build NETWORK_DIR --out "
                f"{self.directory}`")
        self.program = Program.load(self.directory / "program")
        self.config: MachineConfig = self.program.config
        self.network = Network.load(self.directory / "network")
        if self.program.network_hash != self.network.hash:
            raise BuildDirectoryError(
                f"{self.directory / 'program'}: made for another network ({self.program.network_hash:.12}, here "
                f"{self.network.hash:.12}); build again")
        self.reference = Reference(self.network)
        self.simulated = self.network if layers is None else self.network.part(*layers)
        if observe or layers is not None:
            self.program = compile_network(self.simulated, self.config, observe=True)
        self.comparison = Comparison(self.simulated, every_layer=every_layer or layers is not None,
                                     on_chip=self.program.on_chip)
        self._verilog = _read(self.directory / "rtl" / f"{TOP}.v")
        self._wave, self._progress = wave, progress
        self._runs: list[ClipRun] = []
        self._engines: dict[str, dict[str, int]] = {}

    @cached_property
    def machine(self) -> Machine:
        """The Verilated RTL, built when first needed (from the cache if it is there)."""
        return Machine(self.config, self.program, verilog=self._verilog, wave=self._wave, progress=self._progress)

    def run(self, clip: NDArray[Any]) -> ClipRun:
        """Run one clip and compare.

        Raises:
            ValueError: The clip does not have the input's shape and type.
            BuildError: The simulation model cannot be built.
            SimulationError: The machine stopped with an error, or did not stop in time.
        """
        expected = {name: tensor.numpy() for name, tensor in self.reference.run(clip).items()}
        machine = self.machine
        if self._progress is not None:
            self._progress(f"simulate {self.network.frames} frames")
        began = time.perf_counter()
        part = self.simulated
        given = {name: expected[name] for name in part.given}
        result = machine.run(clip if part.input == self.network.input else expected[part.input], given=given)
        seconds = time.perf_counter() - began
        got = {name: result.tensor(name) for name in self.comparison.tensors}
        wrong = self.comparison.add(expected, got, cycle=result.write_cycle)
        for engine, counters in result.engines.items():
            totals = self._engines.setdefault(engine, dict.fromkeys(counters, 0))
            for name, value in counters.items():
                totals[name] += value
        run = ClipRun(expected=expected, logits=got[part.output], mismatches=wrong, cycles=result.cycles,
                      seconds=seconds)
        self._runs.append(run)
        return run

    def finish(self) -> Simulation:
        """Write both reports over all clips run so far. ValueError if there are none."""
        if not self._runs:
            raise ValueError("no clip was run")
        bit_exact = {
            "network_hash": self.network.hash, "config_hash": f"{self.config.hash:08x}",
            "frames": self.network.frames * len(self._runs), "clips": len(self._runs), **self.comparison.report()}
        performance = self._performance()
        report = self.directory / "report"
        write_report(report / "bit_exact.json", bit_exact)
        write_report(report / "rtlsim_performance.json", performance)
        return Simulation(bit_exact=bit_exact, performance=performance, summary=self.comparison.summary())

    def _performance(self) -> dict[str, Any]:
        """`synaptic_ops` and `utilisation` are those of the array, `additions` those of every engine."""
        cycles, clips = sum(run.cycles for run in self._runs), len(self._runs)
        frames, seconds = clips * self.network.frames, cycles / (self.config.clock_mhz * 1e6)
        additions = {engine: clips * count for engine, count in additions_by_engine(self.simulated).items()}
        peak = self.config.peak_ops_per_cycle
        return {
            "cycles": cycles, "frames": frames, "clips": clips,
            "synaptic_ops": additions["array"], "peak_ops_per_cycle": peak,
            "utilisation": additions["array"] / (cycles * peak),
            "clock_mhz": self.config.clock_mhz, "frames_per_second_at_clock": frames / seconds,
            "additions": additions,
            "additions_per_second_at_clock": sum(additions.values()) / seconds,
            "ops_per_second_at_clock_2_per_addition": 2 * sum(additions.values()) / seconds,
            "engines": self._engines,
            "simulated_cycles_per_second": cycles / sum(run.seconds for run in self._runs),
        }


def simulate(
    directory: str | Path, *, video: str | Path | None = None, random: int | None = None, every_layer: bool = False,
    observe: bool = False, layers: tuple[int, int] | None = None, wave: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Simulation:
    """Simulate one clip and write `report/bit_exact.json` and `report/rtlsim_performance.json`.

    Args:
        directory: Output of `build`.
        video: Video file to take the clip from; or
        random: Seed of a random clip. Exactly one of the two.
        every_layer, observe, layers, wave, progress: As for `Rig`.

    Raises:
        ValueError: Neither or both of `video` and `random`, and whatever `Rig` refuses.
        VideoError: The video cannot be read.
    """
    rig = Rig(directory, every_layer=every_layer, observe=observe, layers=layers, wave=wave, progress=progress)
    rig.run(input_clip(rig.network, video=video, random=random))
    return rig.finish()


def input_clip(network: Network, *, video: str | Path | None = None, random: int | None = None) -> NDArray[Any]:
    """A clip for a network's input: `uint8[T, H, W, 3]` pixels or, random only, `bool[T, C, H, W]` spikes.

    Raises:
        ValueError: Not exactly one source, or a video for a network that takes spikes.
        VideoError: The video cannot be read.
    """
    if (video is None) == (random is None):
        raise ValueError("exactly one of `video` and `random` must be given")
    if video is not None:
        from spikeloom.quantize.video import read_clip

        tensor = network.tensors[network.input]
        if tensor.kind != "pixels":
            raise ValueError(f"`video` must not be given: the network takes {tensor.kind}; use a random clip")
        return read_clip(video, frames=network.frames, height=tensor.height, width=tensor.width)
    assert random is not None
    return random_clip(network, random)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise BuildDirectoryError(f"{path}: no such file; build again") from error
