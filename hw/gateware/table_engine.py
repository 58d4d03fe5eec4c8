"""The table engine: binary inputs times int8 weights, by lookup.

    sums[o][t] = sum over groups g of table[g][ bits of inputs 4g..4g+3 in lane t ][o]

    words -> register -+-> TableLane 0: register -> LookupTables -> adder trees -+-> sums
                       +-> ...                                                   |
                       '-> TableLane Pt-1 ---------------------------------------'
    write port -> register -> every lane: register

Every lane has its own copy of the tables, because each looks up its own spikes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from spikeloom.config import GROUP_INPUTS, MachineConfig

from .shared import shared
from .tables import (
    ENTRY_BITS,
    LookupTable,
    add_trees,
    is_late,
    registered_write,
    trees_latency,
    unpack_bits,
    write_delay,
    write_members,
)

__all__ = ["TableEngine", "TableLane"]


@shared
class TableLane(wiring.Component):
    """The tables and adder trees of one lane; ports as `TableEngine`, of one lane.

    `word` bit i is input i. `sums` holds Po values of `sum_bits` bits, output 0 lowest.
    """

    word: Signal
    half: Signal
    write_en: Signal
    write_batch: Signal
    write_entry: Signal
    write_table: Signal
    write_data: Signal
    sums: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.sum_bits = ENTRY_BITS + exact_log2(config.groups)
        super().__init__({
            "word": In(config.inputs), "half": In(1),
            **write_members(config),
            "sums": Out(config.outputs * self.sum_bits)})  # fmt: skip

    @property
    def latency(self) -> int:
        return 1 + LookupTable.latency + trees_latency(self.config, self.config.groups)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        width = config.outputs * ENTRY_BITS
        word, half, write_table = Signal.like(self.word), Signal(), Signal()
        entry, data = Signal.like(self.write_entry), Signal.like(self.write_data)
        enables = Signal(config.groups // config.load_groups)
        late_word, late_half = Signal.like(self.word), Signal()
        m.d.sync += [word.eq(self.word), half.eq(self.half), late_word.eq(word), late_half.eq(half)]
        with m.If(self.write_en):
            m.d.sync += [entry.eq(self.write_entry), write_table.eq(self.write_table), data.eq(self.write_data)]
        for batch, enable in enumerate(enables):
            m.d.sync += enable.eq(self.write_en & (self.write_batch == batch))

        values = []
        for group in range(config.groups):
            m.submodules[f"group{group}"] = lookup = LookupTable(width=width)
            batch, slot = divmod(group, config.load_groups)
            late = is_late(config, group, config.groups)
            m.d.comb += [
                lookup.index.eq((late_word if late else word).word_select(group, GROUP_INPUTS)),
                lookup.half.eq(late_half if late else half),
                lookup.write_en.eq(enables[batch]),
                lookup.write_entry.eq(entry),
                lookup.write_table.eq(write_table),
                lookup.write_data.eq(data.word_select(slot, width)),
            ]
            values.append(lookup.value)
        trees = [
            [value.word_select(output, ENTRY_BITS).as_signed() for value in values] for output in range(config.outputs)]
        sums = add_trees(m, config, trees, "sum")
        m.d.comb += self.sums.eq(Cat(sums))
        return m


class TableEngine(wiring.Component):
    """Sums of the weights that the spikes of a position select: all outputs and lanes, a position per cycle.

    Ports:
        words: NB words; word b at bit `b * beat_bits`. Input `b * Wc + c` in lane t is bit
            `c * Pt + t` of word b.
        valid: A position is presented. `words` and `half` of other cycles do no harm.
        half: Half of the tables that this position looks up.
        write_en, write_batch, write_entry, write_table, write_data: As `TableLoader` drives them; value
            `slot * Po + o` of `write_data` goes to group `write_batch * LG + slot`, output o, in every lane.
        sums: Po x Pt signed values of `sum_bits` bits, value `o * Pt + t` at bit `(o * Pt + t) * sum_bits`.
        sums_valid: `valid`, `latency` cycles later.

    Handshake: none; a position per cycle, no stalls. A write is seen by the positions from the second cycle after it
    on, not by one in the same cycle. Sums cannot overflow. Latency: 3 + log2(groups), with `adder` "dsp" one more.
    """

    words: Signal
    valid: Signal
    half: Signal
    write_en: Signal
    write_batch: Signal
    write_entry: Signal
    write_table: Signal
    write_data: Signal
    sums: Signal
    sums_valid: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self._lanes = [TableLane(config) for _ in range(config.lanes)]
        self.sum_bits = self._lanes[0].sum_bits
        super().__init__({
            "words": In(config.banks * config.beat_bits), "valid": In(1), "half": In(1),
            **write_members(config),
            "sums": Out(config.outputs * config.lanes * self.sum_bits), "sums_valid": Out(1)})  # fmt: skip

    @property
    def latency(self) -> int:
        """Cycles from `valid` to `sums_valid`."""
        return 1 + self._lanes[0].latency

    def model(self, tables: np.ndarray, words: Sequence[int]) -> np.ndarray:
        """int64[N, Po, Pt]: sums of N positions. `tables` is int64[groups, 16, Po], `words` as the port."""
        config = self.config
        bits = unpack_bits(words, config.inputs * config.lanes)
        bits = bits.reshape(len(words), config.groups, GROUP_INPUTS, config.lanes)
        index = (bits << np.arange(GROUP_INPUTS)[:, None]).sum(2)
        found = np.asarray(tables, np.int64)[np.arange(config.groups)[:, None], index]  # [N, groups, Pt, Po]
        return found.sum(1).transpose(0, 2, 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        half = Signal()
        m.d.sync += half.eq(self.half)
        write = registered_write(m, self, stages=1 + write_delay(config, config.groups))
        for t, lane in enumerate(self._lanes):
            m.submodules[f"lane{t}"] = lane
            word = Signal(config.inputs, name=f"word{t}")
            m.d.sync += word.eq(self.words[t :: config.lanes])
            m.d.comb += [
                lane.word.eq(word),
                lane.half.eq(half),
                *(getattr(lane, name).eq(value) for name, value in write.items()),
            ]
        m.d.comb += self.sums.eq(
            Cat(lane.sums.word_select(o, self.sum_bits) for o in range(config.outputs) for lane in self._lanes)
        )
        history = Signal(self.latency)
        m.d.sync += history.eq(Cat(self.valid, history))
        m.d.comb += self.sums_valid.eq(history[-1])
        return m
