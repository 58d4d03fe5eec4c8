"""The depthwise unit: every channel with its own 7-tap kernel rows, by lookup.

    sums[c][t] = sum over rows r, taps j of weight[r][c][j] * word_r[c][t] j positions ago

A window of seven words per kernel row shifts by one word per position. Per row, channel and lane two tables are
looked up: taps 0-3 and taps 4-6 (tap 0 = newest word).

    words -> windows (7 words per row) -> DepthwiseChannel, one per channel: LookupTables -> adder trees -> sums
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from spikeloom.config import GROUP_INPUTS, MachineConfig

from .shared import shared
from .tables import ENTRY_BITS, LookupTable, add_tree, unpack_bits, write_members

__all__ = ["TAPS", "DepthwiseChannel", "DepthwiseUnit"]

TAPS = 7
"""Words in the window of a kernel row."""

_HALVES = 2


@shared
class DepthwiseChannel(wiring.Component):
    """One channel in all lanes.

    `window` holds for every row, lane and tap one bit, at `(row * Pt + lane) * 8 + tap`; tap 7 is not there and
    must be 0. Bit g of `write_en` writes the table of group g = 2 * row + half in all lanes, with value g of
    `write_data`. `sums` holds Pt values of `sum_bits` bits. Latency: 1 + log2(groups).
    """

    window: Signal
    half: Signal
    write_en: Signal
    write_entry: Signal
    write_table: Signal
    write_data: Signal
    sums: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.sum_bits = ENTRY_BITS + exact_log2(config.depthwise_groups)
        super().__init__({
            "window": In(config.depthwise_groups * config.lanes * GROUP_INPUTS), "half": In(1),
            "write_en": In(config.depthwise_groups), "write_entry": In(GROUP_INPUTS), "write_table": In(1),
            "write_data": In(config.depthwise_groups * ENTRY_BITS),
            "sums": Out(config.lanes * self.sum_bits)})  # fmt: skip

    @property
    def latency(self) -> int:
        return LookupTable.latency + exact_log2(self.config.depthwise_groups)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        sums = []
        for t in range(config.lanes):
            values = []
            for group in range(config.depthwise_groups):
                m.submodules[f"lane{t}_group{group}"] = lookup = LookupTable(width=ENTRY_BITS)
                row, half = divmod(group, _HALVES)
                place = (row * config.lanes + t) * _HALVES + half
                m.d.comb += [
                    lookup.index.eq(self.window.word_select(place, GROUP_INPUTS)),
                    lookup.half.eq(self.half),
                    lookup.write_en.eq(self.write_en[group]),
                    lookup.write_entry.eq(self.write_entry),
                    lookup.write_table.eq(self.write_table),
                    lookup.write_data.eq(self.write_data.word_select(group, ENTRY_BITS)),
                ]
                values.append(lookup.value.as_signed())
            sums.append(add_tree(m, values, f"lane{t}"))
        m.d.comb += self.sums.eq(Cat(sums))
        return m


class DepthwiseUnit(wiring.Component):
    """Depthwise sums of the last seven words of every kernel row.

    Ports:
        words: One word per kernel row, row r at bit `r * beat_bits`.
        valid: Pushes `words` into the windows; `sums` follow for every push. Windows are never cleared: whoever
            does not want the words of the row before uses `sums` only once it has pushed a kernel's width.
        half: Half of the tables that this push looks up.
        write_en, write_batch, write_entry, write_table, write_data: As `TableLoader` drives them. Value
            `slot * Po + c` of `write_data` goes to group `write_batch * LG + slot` = 2 * row + half of channel c,
            in every lane; the other outputs and groups are left alone.
        sums: Wc x Pt signed values of `sum_bits` bits, value `c * Pt + t` at bit `(c * Pt + t) * sum_bits`.
        sums_valid: `valid`, `latency` cycles later.

    Handshake: none; a push per cycle, no stalls. A write is seen by the pushes of later cycles, not by one in
    the same cycle. Latency: 2 + log2(2 * rows). Sums cannot overflow.
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
        self._channels = [DepthwiseChannel(config) for _ in range(config.word_channels)]
        self.sum_bits = self._channels[0].sum_bits
        super().__init__({
            "words": In(config.depthwise_rows * config.beat_bits), "valid": In(1), "half": In(1),
            **write_members(config),
            "sums": Out(config.beat_bits * self.sum_bits), "sums_valid": Out(1)})  # fmt: skip

    @property
    def latency(self) -> int:
        """Cycles from `valid` to `sums_valid`."""
        return 1 + self._channels[0].latency

    def model(self, tables: np.ndarray, words: Sequence[int], history: Sequence[int] = ()) -> np.ndarray:
        """int64[N, Wc, Pt]: the sums after each of N pushes.

        `tables` is int64[>= 2 * rows, 16, >= Wc]; `history` are the pushes before, older ones are zero.
        """
        config = self.config
        pushed = [0] * (TAPS - 1) + list(history) + list(words)
        pushed = pushed[len(history):]
        bits = unpack_bits(pushed, config.depthwise_rows * config.beat_bits)
        bits = bits.reshape(-1, config.depthwise_rows, config.word_channels, config.lanes)
        window = np.zeros((_HALVES * GROUP_INPUTS, len(words), *bits.shape[1:]), np.int64)
        for tap in range(TAPS):
            window[tap] = bits[TAPS - 1 - tap:len(bits) - tap]
        window = window.reshape(_HALVES, GROUP_INPUTS, *window.shape[1:])  # [half, tap, N, row, channel, lane]
        index = sum(window[:, tap] << tap for tap in range(GROUP_INPUTS))
        half, row, channel = np.ogrid[:_HALVES, :config.depthwise_rows, :config.word_channels]
        group = (_HALVES * row + half)[:, None, :, :, None]
        return np.asarray(tables, np.int64)[group, index, channel[:, None, :, :, None]].sum((0, 2))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        half, write_table = Signal(), Signal()
        entry, enables = Signal.like(self.write_entry), Signal(config.depthwise_groups)
        m.d.sync += [half.eq(self.half), write_table.eq(self.write_table), entry.eq(self.write_entry)]
        for group, enable in enumerate(enables):
            batch = group // config.load_groups
            m.d.sync += enable.eq(self.write_en & (self.write_batch == batch))
        for c, channel in enumerate(self._channels):
            m.submodules[f"channel{c}"] = channel
            window = Signal.like(channel.window, name=f"window{c}")
            data = Signal.like(channel.write_data, name=f"write_data{c}")
            newest = [
                self.words[(r * config.word_channels + c) * config.lanes + t]
                for r in range(config.depthwise_rows)
                for t in range(config.lanes)
            ]
            with m.If(self.valid):
                m.d.sync += window.eq(Cat(
                    Cat(bit, window.word_select(place, 8)[:TAPS - 1], Const(0, 1)) for place, bit in enumerate(newest)))
            m.d.sync += data.eq(Cat(
                self.write_data.word_select(group % config.load_groups * config.outputs + c, ENTRY_BITS)
                for group in range(config.depthwise_groups)))
            m.d.comb += [
                channel.window.eq(window),
                channel.half.eq(half),
                channel.write_en.eq(enables),
                channel.write_entry.eq(entry),
                channel.write_table.eq(write_table),
                channel.write_data.eq(data),
            ]
        m.d.comb += self.sums.eq(Cat(channel.sums for channel in self._channels))
        history = Signal(self.latency)
        m.d.sync += history.eq(Cat(self.valid, history))
        m.d.comb += self.sums_valid.eq(history[-1])
        return m
