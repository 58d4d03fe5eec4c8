"""The accumulators: partial sums of a tile, two banks, so that one is drained while the other is summed up.

    acc = (ZERO: 0 | KEEP: acc | DOUBLE: 2 acc | LIMB: 128 acc) + sums           modulo 2**24

    cycle 0  1          2           3                4           5            6
          update        memory      memory output    bank        adder        memory
          registered -> read     -> register      -> chosen   -> register  -> written
                                     sums taken ------------^ at `sums_delay` = 4

An update of a single lane leaves the other lanes as they are: their mode becomes KEEP and their sums 0.

The memories are simple dual-port block RAMs, one per bank and output word. The read port of a bank serves updates and
the drain; both may run at a time, on different banks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from spikeloom.arithmetic import LIMB_BITS
from spikeloom.config import ACCUMULATOR_BITS, MachineConfig

from ..isa import Accumulate
from .shared import shared
from .tables import ENTRY_BITS

__all__ = ["AccumulatorWord", "Accumulators", "Update"]

_SHIFTS = {Accumulate.KEEP: 0, Accumulate.DOUBLE: 1, Accumulate.LIMB: LIMB_BITS}
LANE_BITS = 3
"""Width of the number of a lane."""

_READ = 4
"""Cycles from an update to its accumulators, chosen between the banks and registered: the adder's cycle."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """One update: `sums` is int64[Po, Pt]; `cycle` is when it is presented. `lane`: the only one, None: all. `narrow`:
    of output word 0 alone."""

    cycle: int
    bank: int
    address: int
    mode: Accumulate
    sums: np.ndarray
    lane: int | None = None
    narrow: bool = False


@shared
class AccumulatorWord(wiring.Component):
    """The accumulators of one output word (Wc x Pt), both banks.

    Ports: `update` (address valid in this cycle), `bank`, `address`; `mode` (one per lane) and `sums` `_READ - 1`
    cycles later; `write`, `write_bank`, `write_address` a cycle after those; `read_address`; `read_data` of both banks,
    two cycles after `read_address`. `sums` has Wc * Pt signed values of `sum_bits` bits.
    """

    update: Signal
    bank: Signal
    address: Signal
    chosen_bank: Signal
    mode: Signal
    sums: Signal
    write: Signal
    write_bank: Signal
    write_address: Signal
    read_address: Signal
    read_data: Signal

    def __init__(self, config: MachineConfig, *, sum_bits: int) -> None:
        self.config, self.sum_bits = config, sum_bits
        address = ceil_log2(config.accumulator_depth)
        self.width = config.beat_bits * ACCUMULATOR_BITS
        super().__init__({
            "update": In(1), "bank": In(1), "address": In(address), "chosen_bank": In(1),
            "mode": In(2 * config.lanes), "sums": In(config.beat_bits * sum_bits),
            "write": In(1), "write_bank": In(1), "write_address": In(address),
            "read_address": In(address), "read_data": Out(2 * self.width)})  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        outputs, written = [], Signal(self.width)
        for bank in range(2):
            m.submodules[f"bank{bank}"] = rows = memory.Memory(
                shape=self.width, depth=self.config.accumulator_depth, init=[], attrs={"ram_style": "block"}
            )
            read, write = rows.read_port(), rows.write_port()
            output = Signal(self.width, name=f"output{bank}")
            updating = self.update & (self.bank == bank)
            m.d.comb += [
                read.addr.eq(Mux(updating, self.address, self.read_address)),
                write.addr.eq(self.write_address),
                write.en.eq(self.write & (self.write_bank == bank)),
                write.data.eq(written),
            ]
            m.d.sync += output.eq(read.data)
            outputs.append(output)
        before = Signal(self.width)
        m.d.sync += before.eq(Mux(self.chosen_bank, outputs[1], outputs[0]))
        m.d.sync += written.eq(Cat(self._add(m, before, i) for i in range(self.config.beat_bits)))
        m.d.comb += self.read_data.eq(Cat(outputs))
        return m

    def _add(self, m: Module, before: Value, index: int) -> Value:
        """One accumulator; per bit one LUT (three candidates, mode, sum) and the carry.

        The sum is the first operand: the carry chain takes that one directly, which leaves the choice to the same LUT.
        """
        accumulator = before.word_select(index, ACCUMULATOR_BITS)
        scaled = Signal(ACCUMULATOR_BITS, name=f"scaled{index}")
        with m.Switch(self.mode.word_select(index % self.config.lanes, 2)):
            for mode, shift in _SHIFTS.items():
                with m.Case(mode):
                    m.d.comb += scaled.eq(Cat(Const(0, shift), accumulator))
        total = Signal(signed(ACCUMULATOR_BITS), name=f"total{index}")
        m.d.comb += total.eq(self.sums.word_select(index, self.sum_bits).as_signed() + scaled)
        return total


class Accumulators(wiring.Component):
    """Two banks of `accumulator_depth` pixels x Po x Pt signed 24-bit accumulators.

    Ports:
        valid, bank, address, mode: An update of all accumulators of a pixel; one per cycle.
        single, lane: With it: only those of this lane.
        narrow: There are sums of output word 0 alone; those of the others count as 0.
        sums: Po x Pt signed values of `sum_bits` bits, value `o * Pt + t` at bit `(o * Pt + t) * sum_bits`; taken
            `sums_delay` cycles after their `valid`.
        read_bank, read_address, read_word: A read; one per cycle.
        read_data: Wc x Pt accumulators of outputs `read_word * Wc ...`, value `c * Pt + t` at bit
            `(c * Pt + t) * 24`; `read_latency` cycles after the address.

    Two updates of the same address and bank are at least `spacing` cycles apart; a read sees the updates of at least
    `spacing` cycles before. Updates and reads go on at the same time on different banks; a read of bank b has
    arbitrary data if an update of bank b is presented in the same cycle. Sums wrap; the compiler proves that they
    do not.

    Args:
        sum_bits: Width of a sum; by default that of the table engine.
        sums_delay: 0 to 4. Sums are registered `4 - sums_delay` times here: with 4 the announcement of an update comes
            four cycles before its sums, and those registers are saved.
    """

    valid: Signal
    bank: Signal
    address: Signal
    mode: Signal
    single: Signal
    narrow: Signal
    lane: Signal
    sums: Signal
    read_bank: Signal
    read_address: Signal
    read_word: Signal
    read_data: Signal

    spacing = _READ + 1
    read_latency = 4

    def __init__(self, config: MachineConfig, *, sum_bits: int | None = None, sums_delay: int = 0) -> None:
        if sums_delay not in range(_READ + 1):
            raise ValueError(f"`sums_delay` must be 0 to {_READ}, not `{sums_delay!r}`")
        if sum_bits is None:
            sum_bits = ENTRY_BITS + exact_log2(config.groups)
        if not 1 <= sum_bits <= ACCUMULATOR_BITS:
            raise ValueError(f"`sum_bits` must be 1 to {ACCUMULATOR_BITS}, not `{sum_bits!r}`")
        self.config, self.sum_bits, self.sums_delay = config, sum_bits, sums_delay
        super().__init__({
            "valid": In(1), "bank": In(1), "address": In(16), "mode": In(Accumulate),
            "single": In(1), "lane": In(LANE_BITS), "narrow": In(1),
            "sums": In(config.outputs * config.lanes * sum_bits),
            "read_bank": In(1), "read_address": In(16), "read_word": In(8),
            "read_data": Out(config.beat_bits * ACCUMULATOR_BITS)})  # fmt: skip

    def model(self, banks: np.ndarray, updates: Sequence[Update]) -> None:
        """Apply `updates`, in order, to `banks` (int64[2, depth, Po, Pt]), in place.

        Raises:
            ValueError: Two updates of an address closer than `spacing`.
        """
        latest: dict[tuple[int, int], int] = {}
        for update in updates:
            place = update.bank, update.address
            if update.cycle - latest.get(place, -self.spacing) < self.spacing:
                raise ValueError(f"updates of one address must be {self.spacing} cycles apart: {place}")
            latest[place] = update.cycle
            before = banks[place] << _SHIFTS[update.mode] if update.mode in _SHIFTS else 0
            half = 1 << ACCUMULATOR_BITS - 1
            word = np.arange(self.config.outputs)[:, None] // self.config.word_channels
            sums = np.where(update.narrow & (word > 0), 0, update.sums)
            after = (before + sums + half) % (2 * half) - half
            lanes = slice(None) if update.lane is None else update.lane
            banks[place][:, lanes] = after[:, lanes]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        stages = self._stages(m)
        others = self._others(stages, self.sums_delay)
        sums = self._gated(m, others, stages["narrow"][self.sums_delay - 1] if self.sums_delay else self.narrow)
        for stage in range(_READ - self.sums_delay):
            register = Signal.like(sums, name=f"sums{stage}")
            m.d.sync += register.eq(sums)
            sums = register
        read_address = Signal.like(self.read_address, name="read_address1")
        m.d.sync += read_address.eq(self.read_address)
        modes = Signal(2 * config.lanes, name="modes")
        for lane, other in enumerate(self._others(stages, _READ - 1)):
            m.d.sync += modes.word_select(lane, 2).eq(Mux(other, Accumulate.KEEP, stages["mode"][_READ - 2]))
        words = []
        for w in range(config.output_words):
            m.submodules[f"word{w}"] = word = AccumulatorWord(config, sum_bits=self.sum_bits)
            part = Signal.like(word.sums, name=f"sums_of{w}")
            m.d.comb += part.eq(sums.word_select(w, len(word.sums)))
            m.d.comb += [
                word.update.eq(stages["valid"][0]), word.bank.eq(stages["bank"][0]),
                word.address.eq(stages["address"][0]), word.chosen_bank.eq(stages["bank"][_READ - 2]),
                word.mode.eq(modes), word.sums.eq(part),
                word.write.eq(stages["valid"][_READ]), word.write_bank.eq(stages["bank"][_READ]),
                word.write_address.eq(stages["address"][_READ]),
                word.read_address.eq(read_address)]  # fmt: skip
            words += [word.read_data.word_select(bank, word.width) for bank in range(2)]
        chosen = Signal(1 + exact_log2(config.output_words), name="chosen0")
        m.d.sync += chosen.eq(Cat(self.read_bank, self.read_word))
        for stage in range(1, self.read_latency - 1):
            later = Signal.like(chosen, name=f"chosen{stage}")
            m.d.sync += later.eq(chosen)
            chosen = later
        m.d.sync += self.read_data.eq(Array(words)[chosen])
        return m

    def _others(self, stages: dict[str, list[Signal]], age: int) -> list[Value]:
        """Per lane: the update of `age` cycles ago is not for it."""
        single, lane = (stages["single"][age - 1], stages["lane"][age - 1]) if age else (self.single, self.lane)
        return [single & (lane != other) for other in range(self.config.lanes)]

    def _gated(self, m: Module, others: list[Value], narrow: Value) -> Value:
        """The sums, 0 in the other lanes and words. A register follows in most machines: its reset does that."""
        gated = Signal.like(Value.cast(self.sums), name="gated")
        for index in range(self.config.outputs * self.config.lanes):
            value = Value.cast(self.sums).word_select(index, self.sum_bits)
            other = others[index % self.config.lanes]
            if index >= self.config.beat_bits:
                other |= narrow
            m.d.comb += gated.word_select(index, self.sum_bits).eq(Mux(other, 0, value))
        return gated

    def _stages(self, m: Module) -> dict[str, list[Signal]]:
        """The update, delayed: entry i of each list is i + 1 cycles old."""
        stages: dict[str, list[Signal]] = {}
        for name in ("valid", "bank", "address", "mode", "single", "lane", "narrow"):
            now, stages[name] = Value.cast(getattr(self, name)), []
            for stage in range(_READ + 1):
                later = Signal.like(now, name=f"{name}{stage + 1}")
                m.d.sync += later.eq(now)
                stages[name].append(later)
                now = later
        return stages
