"""Resources: what a device has, what a netlist takes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["DEVICE", "LIMITS", "NAME", "RESOURCES", "cells", "cost_of", "total"]

NAME = "XCZU7EV"

DEVICE: Mapping[str, int] = MappingProxyType({
    "LUT": 230_400, "LUTRAM": 101_760, "FF": 460_800, "CARRY8": 28_800, "DSP48E2": 1_728, "RAMB36": 312, "URAM288": 96})
"""What the XCZU7EV of the ZCU104 has. LUTRAM: look-up tables that can be memory; they are among those of LUT."""

RESOURCES = tuple(DEVICE)

LIMITS: Mapping[str, float] = MappingProxyType({"LUT": 0.8, "DSP48E2": 0.9, "RAMB36": 0.9, "URAM288": 0.9})
"""Share of the device that a machine may take, so that a router has room."""

_MEMORY_LUTS = {
    "RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4, "RAM512X1S": 8, "RAM32X1D": 2, "RAM64X1D": 2,
    "RAM128X1D": 4, "RAM256X1D": 8, "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM64X8SW": 8,
    "RAM32X16DR8": 8, "SRL16E": 1, "SRLC16E": 1, "SRLC32E": 1}
"""LUTs of a distributed memory or shift register."""

_COSTS: dict[str, dict[str, float]] = {
    **{f"LUT{inputs}": {"LUT": 1} for inputs in range(1, 7)}, "INV": {"LUT": 1},
    **{name: {"LUT": luts, "LUTRAM": luts} for name, luts in _MEMORY_LUTS.items()},
    **{name: {"FF": 1} for name in ("FDRE", "FDSE", "FDCE", "FDPE", "LDCE", "LDPE")},
    "DSP48E2": {"DSP48E2": 1}, "RAMB36E2": {"RAMB36": 1}, "RAMB18E2": {"RAMB36": 0.5}, "URAM288": {"URAM288": 1},
    "CARRY8": {"CARRY8": 1}, "CARRY4": {},  # counted by chains
    **{name: {} for name in ("MUXF7", "MUXF8", "MUXF9", "GND", "VCC", "BUFG")}}


def cost_of(cell: str) -> Mapping[str, float] | None:
    """Resources of one cell of the library, None for any other."""
    return _COSTS.get(cell)


def cells(netlist: Mapping[str, Any]) -> dict[str, float]:
    """Resources of the cells of one module (of Yosys' JSON), without the modules that it instantiates.

    A chain of n CARRY4, which is what Yosys makes, is n / 2 CARRY8, rounded up.
    """
    counts = dict.fromkeys(RESOURCES, 0.0)
    for cell in netlist["cells"].values():
        for resource, amount in (cost_of(cell["type"]) or {}).items():
            counts[resource] += amount
    counts["CARRY8"] += sum(-(-length // 2) for length in _carry_chains(netlist))
    return counts


def total(parts: list[Mapping[str, float]]) -> dict[str, float]:
    """Sum of several counts."""
    return {name: sum(part[name] for part in parts) for name in RESOURCES}


def _carry_chains(netlist: Mapping[str, Any]) -> list[int]:
    """Length of every chain of CARRY4."""
    carries = [cell["connections"] for cell in netlist["cells"].values() if cell["type"] == "CARRY4"]
    following = {pins["CI"][0]: pins for pins in carries}
    driven = {pins["CO"][3] for pins in carries if len(pins["CO"]) == 4}
    lengths = []
    for pins in carries:
        if pins["CI"][0] in driven:
            continue
        length, last = 1, pins
        while len(last["CO"]) == 4 and last["CO"][3] in following:
            last, length = following[last["CO"][3]], length + 1
        lengths.append(length)
    return lengths
