"""Parts that the table engine and the depthwise unit share: one lookup table and the registered adder trees.

A **table** holds, for four inputs of one or more outputs, the 16 sums of the weights that four spikes select. It is
a LUTRAM of 32 rows, two halves of 16: the engine reads one half while the loader fills the other.

An **adder tree** sums the values of all tables of an output. With `MachineConfig.adder == "dsp"` its first two levels
are DSP slices, four tables at a time, of which the third and fourth (`is_late`) are looked up a cycle later; and of
every eight of their sums the first four are added up in slices, too (as many as a ZCU104 has).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Module, Shape, Signal, Value, ValueLike
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Member, Out
from amaranth.utils import exact_log2

from spikeloom.config import GROUP_INPUTS, MachineConfig

from . import simd_adder
from .pipeline import held, register
from .shared import shared

__all__ = [
    "ENTRIES", "ENTRY_BITS", "LookupTable", "add_tree", "add_trees", "is_late", "registered_write", "trees_latency",
    "unpack_bits", "write_delay", "write_members"]

ENTRIES = 1 << GROUP_INPUTS
"""Entries of one half of a table."""

ENTRY_BITS = 10
"""Width of an entry: four weights of magnitude <= 127, either sign."""

_NARROW, _WIDE = 4, 2  # lanes of the two kinds of adders of slices
_LEVELS = 2  # of a tree that such an adder replaces


def write_members(config: MachineConfig) -> dict[str, Member]:
    """The write port of the tables, as `TableLoader` drives it and engine, lanes and depthwise unit take it.

    `write_en`: an entry of the LG tables of batch `write_batch` is written: row `write_entry` of half `write_table`.
    Value `slot * Po + o` of `write_data` (ENTRY_BITS bits each, signed) is for slot `slot` and output o.
    """
    return {
        "write_en": In(1), "write_batch": In(range(config.groups // config.load_groups)),
        "write_entry": In(GROUP_INPUTS), "write_table": In(1),
        "write_data": In(config.load_groups * config.outputs * ENTRY_BITS)}  # fmt: skip


@shared
class LookupTable(wiring.Component):
    """Two halves of 16 rows: `value` = the row `index` of half `half`, one cycle later.

    Ports:
        index, half: Row and half read, every cycle.
        write_en, write_entry, write_table, write_data: A write; a read in any later cycle sees it.
        value: `width` bits, registered.

    Latency: 1. A read in the very cycle of a write to its row returns the old row.
    """

    index: Signal
    half: Signal
    write_en: Signal
    write_entry: Signal
    write_table: Signal
    write_data: Signal
    value: Signal

    latency = 1

    def __init__(self, *, width: int) -> None:
        if width < 1:
            raise ValueError(f"`width` must be positive, not `{width!r}`")
        self.width = width
        super().__init__({
            "index": In(GROUP_INPUTS), "half": In(1),
            "write_en": In(1), "write_entry": In(GROUP_INPUTS), "write_table": In(1), "write_data": In(width),
            "value": Out(width)})  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rows = rows = memory.Memory(
            shape=self.width, depth=2 * ENTRIES, init=[], attrs={"ram_style": "distributed"})  # fmt: skip
        write, read = rows.write_port(), rows.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.write_en),
            write.addr.eq(Cat(self.write_entry, self.write_table)),
            write.data.eq(self.write_data),
            read.addr.eq(Cat(self.index, self.half)),
        ]
        m.d.sync += self.value.eq(read.data)
        return m


def add_tree(m: Module, operands: Sequence[Value], name: str) -> Value:
    """Signed sum of a power of two `operands` of one shape: binary tree, a register behind every adder.

    Takes `log2(len(operands))` cycles; each level is one bit wider than the one before, so nothing overflows.
    """
    if not operands or len(operands) & (len(operands) - 1):
        raise ValueError(f"`operands` must be a power of two of values, not `{len(operands)!r}`")
    level = 0
    while len(operands) > 1:
        sums = []
        for index, (a, b) in enumerate(zip(operands[::2], operands[1::2], strict=True)):
            total = a + b
            register = Signal(Shape.cast(total.shape()), name=f"{name}_{level}_{index}")
            m.d.sync += register.eq(total)
            sums.append(register)
        operands, level = sums, level + 1
    return operands[0]


def is_late(config: MachineConfig, group: int, groups: int) -> bool:
    """Table `group` of `groups` is looked up a cycle after the others."""
    return _on_dsp(config, groups) and group % simd_adder.OPERANDS >= simd_adder.OPERANDS // 2


def write_delay(config: MachineConfig, groups: int) -> int:
    """Cycles by which writes are delayed, so that a late look-up sees no write that comes with it."""
    return int(_on_dsp(config, groups))


def registered_write(m: Module, unit: Any, *, stages: int) -> dict[str, Signal]:
    """The write port of `unit` (`write_members`), registered `stages` times; between writes only `write_en` changes."""
    port: dict[str, Signal] = {name: getattr(unit, name) for name in write_members(unit.config)}
    for stage in range(stages):
        later = {name: Signal.like(signal, name=f"{name}{stage}") for name, signal in port.items()}
        m.d.sync += later["write_en"].eq(port["write_en"])
        with m.If(port["write_en"]):
            m.d.sync += [later[name].eq(signal) for name, signal in port.items() if name != "write_en"]
        port = later
    return port


def trees_latency(config: MachineConfig, groups: int) -> int:
    """Cycles that `add_trees` takes for `groups` operands."""
    if not _on_dsp(config, groups):
        return exact_log2(groups)
    levels = exact_log2(groups // simd_adder.OPERANDS)
    return simd_adder.LATENCY + levels + (simd_adder.LATENCY - _LEVELS if levels > _LEVELS else 0)


def add_trees(
    m: Module, config: MachineConfig, trees: Sequence[Sequence[Value]], name: str, *, enable: ValueLike = 1
) -> list[Value]:
    """Signed sums of several trees, each of the same power of two of table entries.

    Operand g of every tree comes a cycle later than the others if `is_late`. Takes `trees_latency` cycles, counted from
    the early ones. DSP slices hold while `enable` is low (for the rest there is Amaranth's `EnableInserter`).
    """
    if _on_dsp(config, len(trees[0])):
        trees = _first_levels(m, trees, name, enable)
        if len(trees[0]) >= 2 * simd_adder.OPERANDS:
            trees = _next_levels(m, trees, name, enable)
    return [add_tree(m, operands, f"{name}{index}") for index, operands in enumerate(trees)]


def _on_dsp(config: MachineConfig, groups: int) -> bool:
    return config.adder == "dsp" and groups >= simd_adder.OPERANDS


def _first_levels(m: Module, trees: Sequence[Sequence[Value]], name: str, enable: ValueLike) -> list[list[Value]]:
    """Operands added by fours in DSP slices, for four trees at a time."""
    sums: list[list[Value]] = [[] for _ in trees]
    for low in range(0, len(trees), _NARROW):
        lanes = trees[low:low + _NARROW]
        for first in range(0, len(lanes[0]), simd_adder.OPERANDS):
            operands = [lane[first:first + simd_adder.OPERANDS] for lane in lanes]
            found = simd_adder.simd_add(m, operands, f"{name}{low}_dsp{first}", enable=enable)
            for lane, value in enumerate(found, low):
                sums[lane].append(value)
    return sums


def _next_levels(m: Module, trees: Sequence[Sequence[Value]], name: str, enable: ValueLike) -> list[list[Value]]:
    """Of every eight operands four added in DSP slices, for two trees at a time, four in LUTs."""
    sums: list[list[Value]] = [[] for _ in trees]
    half = simd_adder.OPERANDS
    for low in range(0, len(trees), _WIDE):
        lanes = trees[low:low + _WIDE]
        for first in range(0, len(lanes[0]), 2 * half):
            operands = [
                [*lane[first:first + 2], *(register(m, lane[first + place], f"{name}{index}_{first + place}_late")
                                           for place in (2, 3))] for index, lane in enumerate(lanes, low)]
            found = simd_adder.simd_add(m, operands, f"{name}{low}_wide{first}", lane_bits=24, enable=enable)
            for index, (value, lane) in enumerate(zip(found, lanes, strict=True), low):
                other = add_tree(m, lane[first + half:first + 2 * half], f"{name}{index}_{first}_lut")
                late = held(m, other, simd_adder.LATENCY - _LEVELS, f"{name}{index}_{first}_held")
                sums[index] += [value[:len(other)].as_signed(), late]
    return sums


def unpack_bits(words: Sequence[int], width: int) -> np.ndarray:
    """int64[N, width]: the bits of N words, lowest first. For the models."""
    size = -(-width // 8)
    octets = np.frombuffer(b"".join(int(word).to_bytes(size, "little") for word in words), np.uint8)
    return np.unpackbits(octets.reshape(len(words), size), axis=1, bitorder="little")[:, :width].astype(np.int64)
