"""The command `estimate`: cycles of a network on a machine, without RTL::

    name -> shape_network --compile--> program --hw.estimate--> reports
    network directory ------^          ^-- build directory, program directory

``python -m spikeloom.sim.estimate --rtl COUNTERS.json MODEL`` holds it against counters of the RTL: the JSON that
`spikeloom simulate` writes (`rtlsim_performance.json`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikeloom.config import MachineConfig
from spikeloom.config import preset as named_preset
from spikeloom.hw.build import write_report
from spikeloom.hw.estimate import bounds, report
from spikeloom.hw.estimate.bounds import Bound
from spikeloom.hw.estimate.estimate import Estimate
from spikeloom.hw.estimate.estimate import estimate as estimate_program
from spikeloom.hw.estimate.times import DDR, Ddr
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.program import Program
from spikeloom.network import Network

__all__ = ["Estimated", "compare", "estimate", "program_of"]

DEFAULT_PRESET = "zcu104"


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """The estimate, the files that were written, and what bounds it if that was asked for."""

    estimate: Estimate
    title: str
    files: Sequence[Path]
    bounds: Sequence[Bound] = ()

    @property
    def table(self) -> str:
        """A line per layer; a line per bound."""
        found = f"\n\nif transfers cost less or nothing, cycles:\n{bounds.table(self.bounds)}" if self.bounds else ""
        return report.table(self.estimate) + found

    @property
    def summary(self) -> str:
        """One line."""
        made = self.estimate
        return (f"{self.title}: {made.cycles:,} cycles, {made.frames_per_second:,.0f} frames/s at "
                f"{made.config.clock_mhz:g} MHz, {100 * report.utilisation(made):.1f} % of the array's peak, "
                f"{(made.read_bytes + made.written_bytes) / 1e6:.1f} MB of DDR traffic")


def estimate(
    model: str | Path | Network, *, frames: int | None = None, size: int | None = None,
    preset: str | MachineConfig | None = None, memory: Ddr = DDR, repconv: str | Path | Collection[str] = "fused",
    with_bounds: bool = False, out: str | Path | None = None, json: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Estimated:
    """Estimate the cycles of a network.

    Args:
        model: Name of an architecture (`quantize.checkpoints.ARCHITECTURES`; no weights are needed), directory that
            `quantize` or `build` wrote, or a network.
        frames, size: Frames of a clip, and their height and width in pixels; for names only.
        preset: Machine; None: that of the directory's program, else the flagship.
        memory: The DDR.
        repconv: RepConvs that stay unfused, as for `quantize`; for names only.
        with_bounds: Also tell what would be left if transfers cost less (`hw.estimate.bounds`), in the table.
        out: Directory for `estimate_layer_cycles.json`, `estimate_network_performance.json` and `roofline.png`.
        json: File for both reports in one.
        progress: Hears one line per step.

    Raises:
        ValueError: No such model or preset, options that do not go together, or an operator cannot be mapped.
        NetworkError, ProgramError: The network or the program is malformed.
    """
    tell = progress or (lambda message: None)
    program = program_of(model, frames=frames, size=size, preset=preset, repconv=repconv, progress=tell)
    tell(f"estimate {program.instruction_count:,} instructions")
    result = estimate_program(program, memory=memory)
    label = preset if isinstance(preset, str) else f"{program.config.peak_ops_per_cycle:,} additions per cycle"
    title = f"{'network' if isinstance(model, Network) else model}, {program.frames} frames, {label}, estimate"
    files: list[Path] = []
    if json is not None:
        write_report(Path(json), report.network_performance(result) | {"layers": report.layer_cycles(result)["layers"]})
        files.append(Path(json))
    if out is not None:
        files += report.write(result, out)
        try:
            report.roofline(result, Path(out) / "roofline.png", title)
            files.append(Path(out) / "roofline.png")
        except ModuleNotFoundError:
            tell("no picture: matplotlib is not installed (pip install 'spikeloom[plot]')")
    found: Sequence[Bound] = ()
    if with_bounds:
        tell("estimate again, without transfers")
        found = bounds.bounds(program, memory=memory)
    return Estimated(estimate=result, title=title, files=files, bounds=found)


def program_of(
    model: str | Path | Network, *, frames: int | None = None, size: int | None = None,
    preset: str | MachineConfig | None = None, repconv: str | Path | Collection[str] = "fused",
    progress: Callable[[str], None] | None = None,
) -> Program:
    """The program that `estimate` looks at; arguments and errors as there."""
    tell = progress or (lambda message: None)
    path = None if isinstance(model, Network) else Path(model)
    if path is not None and not path.exists():
        return _compile(_named(str(model), frames, size, repconv), preset, tell)
    if frames is not None or size is not None:
        raise ValueError("`frames` and `size` are for named networks: those of a directory are fixed")
    if repconv != "fused":
        raise ValueError("`repconv` is for named networks: a directory's was chosen when it was quantised")
    if isinstance(model, Network) or path is None:
        assert isinstance(model, Network)
        return _compile(model, preset, tell)
    found = path / "program" if (path / "program").is_dir() else path
    if (found / "program.json").is_file():
        config = None if preset is None else _config(preset)
        if config is None or Program.load(found).config.hash == config.hash:
            return Program.load(found)
    if (path / "network").is_dir():
        path = path / "network"
    if not (path / "network.json").is_file():
        raise ValueError(f"{model}: holds neither a network nor a program")
    return _compile(Network.load(path), preset, tell)


def _named(name: str, frames: int | None, size: int | None, repconv: str | Path | Collection[str]) -> Network:
    from spikeloom.quantize.checkpoints import ARCHITECTURES
    from spikeloom.quantize.repconv import unfused_repconvs
    from spikeloom.quantize.shapes import shape_network

    if name not in ARCHITECTURES:
        raise ValueError(f"no model `{name}`: name one of {', '.join(ARCHITECTURES)}, or a directory that `quantize` "
                         "or `build` wrote")
    unfused = unfused_repconvs(repconv, ARCHITECTURES[name].config)
    return shape_network(name, frames=frames, size=size, unfused=unfused)


def _config(preset: str | MachineConfig) -> MachineConfig:
    return named_preset(preset) if isinstance(preset, str) else preset


def _compile(network: Network, preset: str | MachineConfig | None, tell: Callable[[str], None]) -> Program:
    config = _config(preset or DEFAULT_PRESET)
    tell(f"compile {len(network.operators)} operators")
    return compile_network(network, config)


def compare(result: Estimate, counters: dict[str, Any]) -> list[tuple[str, int, int, float]]:
    """(what, estimated, counted, error in per cent) of cycles and of every engine's busy cycles.

    Args:
        result: The estimate.
        counters: `cycles` and `engines` {name: {"busy": ...}}, of as many clips as `frames` says.
    """
    clips = max(1, counters.get("frames", result.frames) // result.frames)
    rows = [("cycles", result.cycles, counters["cycles"] // clips)]
    for name, engine in result.engines.items():
        counted = counters.get("engines", {}).get(name, {})
        if "busy" in counted:
            rows.append((name, engine.busy, counted["busy"] // clips))
    return [(what, model, rtl, 100 * (model / rtl - 1) if rtl else 0.0) for what, model, rtl in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare an estimate with counters of the RTL; the exit status is 0 if the cycles agree within `--within`."""
    parser = argparse.ArgumentParser(
        prog="spikeloom.sim.estimate", description="Hold the cycle model against counters of the RTL.")
    parser.add_argument("model", help="as for `spikeloom estimate`")
    parser.add_argument("--rtl", type=Path, required=True, metavar="FILE", help="rtlsim_performance.json")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--preset")
    parser.add_argument("--within", type=float, default=3.0, metavar="PERCENT", help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        result = estimate(options.model, frames=options.frames, size=options.size, preset=options.preset).estimate
        rows = compare(result, json.loads(options.rtl.read_text()))
    except (ValueError, OSError, KeyError) as error:
        print(f"spikeloom.sim.estimate: error: {error}", file=sys.stderr)
        return 1
    for what, model, rtl, error in rows:
        print(f"{what:16} {model:>14,} {rtl:>14,} {error:+7.1f} %")
    return int(abs(rows[0][3]) > options.within)


if __name__ == "__main__":
    sys.exit(main())
