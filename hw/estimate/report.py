"""Reports of an estimate: two JSON files, a table, a roofline picture.

    estimate_layer_cycles.json              per operator: cycles, what they are spent on, traffic, bound
    estimate_network_performance.json       the whole: keys as in `rtlsim_performance.json`, where both have them
    roofline.png                            additions per cycle over additions per byte, needs matplotlib
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spikeloom.hw.build import write_report

from .estimate import Estimate, OperatorEstimate
from .simulator import CAUSES

__all__ = ["layer_cycles", "network_performance", "roofline", "table", "write"]

ARRAY_KINDS = ("conv", "attend")
"""Kinds of operators that run on the array."""

COLOURS = {"compute": "tab:green", "table": "tab:olive", "ddr": "tab:red", "drain": "tab:purple",
           "queue": "tab:brown", "transition": "tab:gray"}


def array_operations(estimate: Estimate) -> int:
    """Additions of the array for one clip."""
    return sum(o.synaptic_operations for o in estimate.operators if o.kind in ARRAY_KINDS)


def utilisation(estimate: Estimate) -> float:
    """Additions of the array over what it could do in the time."""
    return array_operations(estimate) / (estimate.cycles * estimate.config.peak_ops_per_cycle)


def network_performance(estimate: Estimate) -> dict[str, Any]:
    """The whole run, as JSON."""
    config = estimate.config
    return {
        "kind": "estimate", "cycles": estimate.cycles, "frames": estimate.frames, "seconds": estimate.seconds,
        "frames_per_second": estimate.frames_per_second, "clock_mhz": config.clock_mhz,
        "config_hash": f"{config.hash:08x}", "synaptic_ops": array_operations(estimate),
        "peak_ops_per_cycle": config.peak_ops_per_cycle, "utilisation": utilisation(estimate),
        "instructions": estimate.instructions, "read_bytes": estimate.read_bytes,
        "written_bytes": estimate.written_bytes, "memory": asdict(estimate.memory), "causes": estimate.causes,
        "engines": {name: asdict(engine) for name, engine in estimate.engines.items()}}


def layer_cycles(estimate: Estimate) -> dict[str, Any]:
    """Every operator, as JSON; `cycles` add up to those of the run."""
    return {"kind": "estimate", "cycles": estimate.cycles, "layers": [asdict(o) for o in estimate.operators]}


def write(estimate: Estimate, directory: str | Path) -> list[Path]:
    """Write both JSON files. Returns their paths."""
    reports = {"estimate_layer_cycles.json": layer_cycles(estimate),
               "estimate_network_performance.json": network_performance(estimate)}
    paths = [Path(directory) / name for name in reports]
    for path, report in zip(paths, reports.values(), strict=True):
        write_report(path, report)
    return paths


def table(estimate: Estimate) -> str:
    """Text: an operator per line, the sum, the engines."""
    head = ("layer", "cycles", "share", *CAUSES, "MB", "peak")
    rows = [head, *(_row(estimate, o) for o in estimate.operators), _total(estimate)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in rows]
    engines = ", ".join(f"{name} {100 * engine.busy / estimate.cycles:.0f} %"
                        for name, engine in estimate.engines.items())
    return "\n".join([*lines, "", f"engines busy: {engines}"])


def _row(estimate: Estimate, operator: OperatorEstimate) -> Sequence[str]:
    share = operator.cycles / estimate.cycles
    traffic = operator.read_bytes + operator.written_bytes
    peak = ""
    if operator.kind in ARRAY_KINDS and operator.cycles:
        peak = f"{100 * operator.synaptic_operations / (operator.cycles * estimate.config.peak_ops_per_cycle):.0f} %"
    return (operator.name, f"{operator.cycles:,}", f"{100 * share:.1f} %",
            *(f"{operator.causes[cause]:,}" + ("*" if cause == operator.bound else " ") for cause in CAUSES),
            f"{traffic / 1e6:.2f}", peak)


def _total(estimate: Estimate) -> Sequence[str]:
    traffic = estimate.read_bytes + estimate.written_bytes
    return ("all", f"{estimate.cycles:,}", "100.0 %", *(f"{estimate.causes[cause]:,} " for cause in CAUSES),
            f"{traffic / 1e6:.2f}", f"{100 * utilisation(estimate):.0f} %")


def roofline(estimate: Estimate, path: str | Path, title: str) -> None:
    """Draw the operators of the array to `path` (PNG). ModuleNotFoundError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(8, 5), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    shown = [o for o in estimate.operators if o.kind in ARRAY_KINDS and o.cycles]
    rates = [o.synaptic_operations / o.cycles for o in shown]
    intensities = [o.synaptic_operations / max(1, o.read_bytes + o.written_bytes) for o in shown]
    whole = (array_operations(estimate) / (estimate.read_bytes + estimate.written_bytes),
             array_operations(estimate) / estimate.cycles)
    _roof(axis, estimate, [*intensities, whole[0]])
    for cause in CAUSES:
        chosen = [i for i, o in enumerate(shown) if o.bound == cause]
        if chosen:
            axis.scatter([intensities[i] for i in chosen], [rates[i] for i in chosen], s=18, color=COLOURS[cause],
                         label=f"bound by {cause}", zorder=3)
    axis.scatter(*whole, marker="*", s=140, color="black", label="network", zorder=4)
    axis.set_xlabel("additions per byte of DDR traffic")
    axis.set_ylabel("additions per cycle")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _roof(axis: Any, estimate: Estimate, intensities: Sequence[float]) -> None:
    """Peak of the array, bandwidth of the memory."""
    config = estimate.config
    peak, bandwidth = config.peak_ops_per_cycle, estimate.memory.total_bandwidth * config.beat_bytes
    low, high = min(*intensities, peak / bandwidth) / 2, max(*intensities, peak / bandwidth) * 2
    axis.loglog([low, peak / bandwidth, high], [low * bandwidth, peak, peak], color="tab:blue", linewidth=1,
                label=f"{peak:,} per cycle; {bandwidth:.1f} bytes per cycle")
