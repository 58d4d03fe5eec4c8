"""Which RepConvs of a network a machine runs faster as three convolutions, by the cycle model of `spikeloom estimate`.

    fused      one dense 3x3 on spikes
    unfused    1x1 on spikes -> planes -> depthwise 3x3 -> planes -> 1x1

The choice is part of the integer network, for what lies between three convolutions is rounded to planes; so it is
made before a model is quantised, from shapes alone. It is greedy: the first block of each stage stands for all of the
stage, is compiled and estimated alone, and one RepConv after the other stays unfused if that takes fewer cycles. What
comes out is held against the fused network as a whole, and given up if it is not faster.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeloom.config import MachineConfig
from spikeloom.config import preset as named_preset
from spikeloom.hw.build import write_report
from spikeloom.hw.estimate.estimate import estimate as estimate_program
from spikeloom.hw.estimate.times import DDR, Ddr
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.errors import MappingError
from spikeloom.network import Network

if TYPE_CHECKING:
    from spikeloom.quantize.models import SpikeVideoFormerConfig

__all__ = ["RepConvChoice", "Trial", "choose_repconv"]

DEFAULT_PRESET = "zcu104"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One RepConv of the first block of a stage.

    Attributes:
        name: Of the RepConv.
        fused: Cycles of the block with this one fused, and those before it as they were chosen.
        unfused: With this one unfused; None if the machine cannot run it.
    """

    name: str
    fused: int
    unfused: int | None

    @property
    def better_unfused(self) -> bool:
        return self.unfused is not None and self.unfused < self.fused


@dataclass(frozen=True, kw_only=True)
class RepConvChoice:
    """The RepConvs that stay unfused, and why.

    Attributes:
        unfused: Names, in execution order; of every block.
        trials: What was compared.
        cycles: Of the whole network, all fused and as the trials say; None if no trial was better unfused.
        title: Of which network and machine.
    """

    unfused: tuple[str, ...]
    trials: Sequence[Trial]
    cycles: tuple[int, int] | None
    title: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write JSON, which `spikeloom quantize --repconv FILE` reads."""
        write_report(Path(path), self.to_dict())
        return Path(path)

    def table(self) -> str:
        """A line per trial, and what came out."""
        lines = [f"{'RepConv, cycles of its block, estimated':<44} {'fused':>12} {'unfused':>12}"]
        for trial in self.trials:
            unfused = "impossible" if trial.unfused is None else f"{trial.unfused:,}"
            lines.append(f"{trial.name:<44} {trial.fused:>12,} {unfused:>12}" + "  unfused" * trial.better_unfused)
        if self.cycles is not None:
            lines.append(f"{'whole network':<44} {self.cycles[0]:>12,} {self.cycles[1]:>12,}")
        lines.append(f"{self.title}: {len(self.unfused)} RepConvs unfused"
                     + (f": {', '.join(self.unfused)}" if self.unfused else ""))
        return "\n".join(lines)


def choose_repconv(
    model: str | Path | SpikeVideoFormerConfig, *, preset: str | MachineConfig = DEFAULT_PRESET,
    frames: int | None = None, size: int | None = None, memory: Ddr = DDR,
    progress: Callable[[str], None] | None = None,
) -> RepConvChoice:
    """Choose which RepConvs of a network stay unfused; see the module docstring.

    Args:
        model: Configuration, name of an architecture (`quantize.checkpoints.ARCHITECTURES`), or trained model as for
            `quantize`.
        preset: Machine.
        frames, size: Frames of a clip, and their height and width in pixels; None: as configured.
        memory: The DDR.
        progress: Hears one line per step.

    Raises:
        ValueError: No such model or preset, one without RepConvs, a directory, or the machine cannot run the fused
            network.
    """
    from spikeloom.quantize.folding import repconvs

    tell = progress or (lambda message: None)
    config = _config(model)
    machine = named_preset(preset) if isinstance(preset, str) else preset
    chooser = _Chooser(config, machine, frames, size, memory)
    names = repconvs(config)
    trials: list[Trial] = []
    for stage in dict.fromkeys(_stage(name) for name in names):
        tell(f"compare fused and unfused RepConvs of {stage}")
        trials += chooser.stage(stage, [name for name in names if name.startswith(f"{stage}.0.")])
    better = {(_stage(trial.name), _within(trial.name)) for trial in trials if trial.better_unfused}
    unfused = tuple(name for name in names if (_stage(name), _within(name)) in better)
    cycles = None
    if unfused:
        tell("compare the whole network")
        fused, chosen = chooser.whole(()), chooser.whole(unfused)
        cycles = fused, chosen
        unfused = unfused if chosen < fused else ()
    label = preset if isinstance(preset, str) else f"{machine.peak_ops_per_cycle:,} additions per cycle"
    clip = f"{frames or config.frames} frames of {size or config.height} x {size or config.width}"
    what = "network" if not isinstance(model, (str, Path)) else model
    return RepConvChoice(unfused=unfused, trials=trials, cycles=cycles, title=f"{what}, {clip}, {label}")


class _Chooser:
    """Estimates of one network on one machine."""

    def __init__(
        self, config: SpikeVideoFormerConfig, machine: MachineConfig, frames: int | None, size: int | None, memory: Ddr
    ) -> None:
        self._config, self._machine, self._memory = config, machine, memory
        self._frames, self._size = frames, size

    def stage(self, stage: str, names: Sequence[str]) -> list[Trial]:
        """Trials of the RepConvs `names` of the stage's first block, in their order."""
        trials: list[Trial] = []
        chosen: tuple[str, ...] = ()
        cycles = self._block(stage, ())
        for name in names:
            try:
                unfused = self._block(stage, (*chosen, name))
            except MappingError:
                unfused = None
            trials.append(Trial(name=name, fused=cycles, unfused=unfused))
            if trials[-1].better_unfused:
                assert unfused is not None
                chosen, cycles = (*chosen, name), unfused
        return trials

    def _block(self, stage: str, unfused: Collection[str]) -> int:
        """Cycles of the first block of a stage."""
        network = self._network(replace(self._config, depths=(1, 1)), unfused)
        own = [i for i, operator in enumerate(network.operators) if operator.name.startswith(f"{stage}.0.")]
        return self._cycles(network.part(own[0], own[-1] + 1))

    def whole(self, unfused: Collection[str]) -> int:
        """Cycles of the network."""
        return self._cycles(self._network(self._config, unfused))

    def _network(self, config: SpikeVideoFormerConfig, unfused: Collection[str]) -> Network:
        from spikeloom.quantize.shapes import shape_network

        return shape_network(config, frames=self._frames, size=self._size, unfused=unfused)

    def _cycles(self, network: Network) -> int:
        return estimate_program(compile_network(network, self._machine), memory=self._memory).cycles


def _stage(name: str) -> str:
    """`block3` of `block3.0.attn.q_conv`."""
    return name.split(".")[0]


def _within(name: str) -> str:
    """`attn.q_conv` of `block3.0.attn.q_conv`."""
    return name.split(".", 2)[2]


def _config(model: str | Path | SpikeVideoFormerConfig) -> SpikeVideoFormerConfig:
    from spikeloom.quantize.checkpoints import ARCHITECTURES
    from spikeloom.quantize.convert import load_any
    from spikeloom.quantize.repconv import with_repconvs

    if isinstance(model, str) and model in ARCHITECTURES:
        return with_repconvs(ARCHITECTURES[model].config)
    if isinstance(model, (str, Path)) and Path(model).is_dir():
        raise ValueError(f"{model}: holds an integer network or its program, whose RepConvs are what they are")
    return with_repconvs(load_any(model).config if isinstance(model, (str, Path)) else model)
