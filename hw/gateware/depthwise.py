"""The depthwise unit: every channel with its own 7-tap kernel rows, by lookup.

    sums[c][t] = sum over rows r, taps j of weight[r][c][j] * word_r[c][t] j positions ago

A window of seven words per kernel row shifts by one word per position. Per row, channel and lane two tables are
looked up: taps 0-3 and taps 4-6 (tap 0 = newest word).

    words -> windows (7 words per row) -> DepthwiseChannel, one per channel: tables -> adder trees -> sums

The channels rest while nothing is pushed or written, which is most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from spikeloom.config import GROUP_INPUTS, MachineConfig

from .pipeline import register
from .shared import EnableInserter, shared
from .tables import (
    ENTRIES,
    ENTRY_BITS,
    add_trees,
    is_late,
    registered_write,
    trees_latency,
    unpack_bits,
    write_delay,
    write_members,
)

__all__ = ["TAPS", "DepthwiseChannel", "DepthwiseUnit"]

TAPS = 7
"""Words in the window of a kernel row."""

_HALVES = 2
_READERS = 7  # lanes that read one memory: 2 bits of 32 rows, one write port and 7 read ports are 8 LUTs


def _rows(config: MachineConfig) -> int:
    """Kernel rows that there is hardware for: no kernel has more rows than taps."""
    return min(config.depthwise_rows, TAPS)


@shared
class DepthwiseChannel(wiring.Component):
    """One channel in all lanes.

    `window` holds for every row, lane and tap one bit, at `(row * Pt + lane) * 8 + tap`; tap 7 is not there and
    must be 0; there are at most `TAPS` rows. Bit g of `write_en` writes the table of group g = 2 * row + half in all
    lanes, with value g of
    `write_data`. `sums` holds Pt values of `sum_bits` bits. The bits of a row whose groups are late (`is_late`) come a
    cycle after the others. While `enable` is low nothing is written and all registers hold.
    """

    enable: Signal
    window: Signal
    half: Signal
    write_en: Signal
    write_entry: Signal
    write_table: Signal
    write_data: Signal
    sums: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.groups = _HALVES * _rows(config)
        self.sum_bits = ENTRY_BITS + exact_log2(config.depthwise_groups)
        super().__init__({
            "enable": In(1), "window": In(self.groups * config.lanes * GROUP_INPUTS), "half": In(1),
            "write_en": In(self.groups), "write_entry": In(GROUP_INPUTS), "write_table": In(1),
            "write_data": In(self.groups * ENTRY_BITS),
            "sums": Out(config.lanes * self.sum_bits)})  # fmt: skip

    @property
    def latency(self) -> int:
        """Cycles from `window` to `sums`."""
        return 1 + trees_latency(self.config, self.config.depthwise_groups)

    def elaborate(self, platform: object) -> Any:
        m = Module()
        config = self.config
        late_half = Signal()
        m.d.sync += late_half.eq(self.half)
        trees: list[list[Value]] = [[] for _ in range(config.lanes)]
        for group in range(self.groups):
            late = is_late(config, group, config.depthwise_groups)
            for tree, value in zip(trees, self._look_up(m, group, late_half if late else self.half), strict=True):
                tree.append(value)
        for tree in trees:
            tree += [Const(0, signed(ENTRY_BITS))] * (config.depthwise_groups - self.groups)
        m.d.comb += self.sums.eq(Cat(add_trees(m, config, trees, "lane", enable=self.enable)))
        return EnableInserter(self.enable)(m)

    def _look_up(self, m: Module, group: int, table_half: Value) -> list[Value]:
        """The table of a group, in memories that several lanes read; per lane the entry found, registered."""
        values: list[Value] = []
        for first in range(0, self.config.lanes, _READERS):
            m.submodules[f"table{group}_{first}"] = table = memory.Memory(
                shape=ENTRY_BITS, depth=2 * ENTRIES, init=[], attrs={"ram_style": "distributed"})
            write = table.write_port()
            m.d.comb += [
                write.en.eq(self.write_en[group]), write.addr.eq(Cat(self.write_entry, self.write_table)),
                write.data.eq(self.write_data.word_select(group, ENTRY_BITS))]
            row, half = divmod(group, _HALVES)
            for t in range(first, min(first + _READERS, self.config.lanes)):
                read = table.read_port(domain="comb")
                place = (row * self.config.lanes + t) * _HALVES + half
                m.d.comb += read.addr.eq(Cat(self.window.word_select(place, GROUP_INPUTS), table_half))
                values.append(register(m, read.data, f"value{group}_{t}").as_signed())
        return values


class DepthwiseUnit(wiring.Component):
    """Depthwise sums of the last seven words of every kernel row.

    Ports:
        words: One word per kernel row, row r at bit `r * beat_bits`. The eighth row, as no kernel has one, is ignored.
        valid: Pushes `words` into the windows; `sums` follow for every push. Windows are never cleared: whoever
            does not want the words of the row before uses `sums` only once it has pushed a kernel's width.
        half: Half of the tables that this push looks up.
        write_en, write_batch, write_entry, write_table, write_data: As `TableLoader` drives them. Value
            `slot * Po + c` of `write_data` goes to group `write_batch * LG + slot` = 2 * row + half of channel c,
            in every lane; the other outputs and groups are left alone.
        sums: Wc x Pt signed values of `sum_bits` bits, value `c * Pt + t` at bit `(c * Pt + t) * sum_bits`.
        sums_valid: `valid`, `latency` cycles later.

    Handshake: none; a push per cycle, no stalls. A write is seen by the pushes from the second cycle after it on, not
    by one in the same cycle. Sums cannot overflow. Latency: 2 + log2(2 * rows), with `adder` "dsp" one more.
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
        index = np.sum([window[:, tap] << tap for tap in range(GROUP_INPUTS)], axis=0)[:, :, :_rows(config)]
        half, row, channel = np.ogrid[:_HALVES, :_rows(config), :config.word_channels]
        group = (_HALVES * row + half)[:, None, :, :, None]
        return np.asarray(tables, np.int64)[group, index, channel[:, None, :, :, None]].sum((0, 2))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        half, write_table = Signal(), Signal()
        rows, groups = _rows(config), self._channels[0].groups
        entry, enables = Signal.like(self.write_entry), Signal(groups)
        write = registered_write(m, self, stages=write_delay(config, config.depthwise_groups))
        m.d.sync += [half.eq(self.half), write_table.eq(write["write_table"]), entry.eq(write["write_entry"])]
        late_words, late_valid = Signal.like(self.words), Signal()
        m.d.sync += late_valid.eq(self.valid)
        with m.If(self.valid):
            m.d.sync += late_words.eq(self.words)
        active = self._active(m)
        for group, enable in enumerate(enables):
            batch = group // config.load_groups
            m.d.sync += enable.eq(write["write_en"] & (write["write_batch"] == batch))
        for c, channel in enumerate(self._channels):
            m.submodules[f"channel{c}"] = channel
            window = Signal.like(channel.window, name=f"window{c}")
            data = Signal.like(channel.write_data, name=f"write_data{c}")
            newest = [
                (late_words if self._is_late(r) else self.words)[(r * config.word_channels + c) * config.lanes + t]
                for r in range(rows)
                for t in range(config.lanes)
            ]
            for r in range(rows):
                span = slice(r * config.lanes, (r + 1) * config.lanes)
                with m.If(late_valid if self._is_late(r) else self.valid):
                    m.d.sync += window[8 * span.start:8 * span.stop].eq(Cat(
                        Cat(bit, window.word_select(place, 8)[:TAPS - 1], Const(0, 1))
                        for place, bit in enumerate(newest[span], span.start)))
            with m.If(write["write_en"]):
                m.d.sync += data.eq(Cat(
                    write["write_data"].word_select(group % config.load_groups * config.outputs + c, ENTRY_BITS)
                    for group in range(groups)))
            m.d.comb += [
                channel.enable.eq(active),
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

    def _active(self, m: Module) -> Signal:
        """High while a push or a write is on its way through the channels."""
        active, began = Signal(name="active"), Signal(name="began")
        recent = Signal(self.latency - 2, name="recent")
        m.d.comb += began.eq(self.valid | self.write_en)
        m.d.sync += [recent.eq(Cat(began, recent)), active.eq(began | recent.any())]
        return active

    def _is_late(self, row: int) -> bool:
        """The window of this kernel row moves a cycle after those of the others."""
        return is_late(self.config, _HALVES * row, self.config.depthwise_groups)
