"""The order of the items of a DRAIN: for word in words, for pixel in pixels; and their addresses in every memory."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spikeloom.config import MachineConfig

from ..isa import Opcode
from .instruction import body_layout

__all__ = ["ItemWalk"]


class ItemWalk(wiring.Component):
    """Walks `words` x `pixels` items, one per cycle in which there is `room`.

    Item x of word k (both from 0)::

        address       = acc_base + x                                number   = word + k
        shortcut_item = work.shortcut_item + k * item_stride + x    row      = parameter + k
        residual_item = work.residual_item + k * item_stride + x    bank     = local_bank + k
        plane_address = local_address + k * pixels + x              carry    = work.carry + items put out before

    Latency: the first item can be issued in the cycle after `start`. Overflow: all addresses wrap.

    Args:
        config: The machine.

    Ports:
        start: Pulse, while not walking; `pixels` and `words` are at least 1.
        work: Body of the DRAIN, from `start` until the last item is issued.
        room: An item may be issued.
        issue: An item is issued; what follows describes it.
        first, last: First and last pixel of its word.
        final: Last item of all.
        emit: It is put out: with `pool` only the last pixel of a word is, if `pool_last`.
        address, number, row, shortcut_item, residual_item, bank, plane_address, carry: See above.
    """

    start: Signal
    work: data.View
    room: Signal
    issue: Signal
    first: Signal
    last: Signal
    final: Signal
    emit: Signal
    address: Signal
    number: Signal
    row: Signal
    shortcut_item: Signal
    residual_item: Signal
    bank: Signal
    plane_address: Signal
    carry: Signal

    def __init__(self, config: MachineConfig) -> None:
        carry_depth = config.output_words * config.accumulator_depth
        super().__init__({
            "start": In(1), "work": In(body_layout(Opcode.DRAIN)), "room": In(1), "issue": Out(1), "first": Out(1),
            "last": Out(1), "final": Out(1), "emit": Out(1), "address": Out(range(config.accumulator_depth)),
            "number": Out(max(1, ceil_log2(config.output_words))), "row": Out(range(config.parameter_depth)),
            "shortcut_item": Out(16), "residual_item": Out(16), "bank": Out(range(config.banks)),
            "plane_address": Out(20), "carry": Out(range(carry_depth))})

    def elaborate(self, platform) -> Module:
        m = Module()
        work = self.work
        m.d.comb += self.emit.eq(~work.pool | (work.pool_last & self.last))
        self._count(m)
        next_word = Signal()
        m.d.comb += next_word.eq(self.issue & self.last)
        for counter, begin in ((self.number, work.word), (self.row, work.parameter), (self.bank, work.local_bank)):
            self._rise(m, counter, begin, next_word)
        self._rise(m, self.carry, work.carry, self.issue & self.emit)
        self._rise(m, self.plane_address, work.local_address, self.issue)
        with m.If(self.start | next_word):
            m.d.sync += self.address.eq(work.acc_base)
        with m.Elif(self.issue):
            m.d.sync += self.address.eq(self.address + 1)
        self._items(m, self.shortcut_item, work.shortcut_item, next_word)
        self._items(m, self.residual_item, work.residual_item, next_word)
        return m

    def _count(self, m: Module) -> None:
        """Pixels and words left, the present one included; the ends are known a cycle ahead."""
        work = self.work
        active, last_word = Signal(), Signal()
        pixels, words = Signal(16), Signal(8)
        m.d.comb += [self.issue.eq(active & self.room), self.final.eq(self.last & last_word)]
        with m.If(self.start | (self.issue & self.last)):
            m.d.sync += [self.first.eq(1), self.last.eq(work.pixels == 1), pixels.eq(work.pixels)]
        with m.Elif(self.issue):
            m.d.sync += [self.first.eq(0), self.last.eq(pixels == 2), pixels.eq(pixels - 1)]
        with m.If(self.start):
            m.d.sync += [active.eq(1), last_word.eq(work.words == 1), words.eq(work.words)]
        with m.Elif(self.issue & self.last):
            m.d.sync += [active.eq(~last_word), last_word.eq(words == 2), words.eq(words - 1)]

    def _rise(self, m: Module, counter: Signal, begin: Value, step: Value) -> None:
        with m.If(self.start):
            m.d.sync += counter.eq(begin)
        with m.Elif(step):
            m.d.sync += counter.eq(counter + 1)

    def _items(self, m: Module, item: Signal, begin: Value, next_word: Value) -> None:
        """Items rise by one within a word; words begin `item_stride` apart."""
        following = Signal(16, name=f"{item.name}_following")
        with m.If(self.start):
            m.d.sync += [item.eq(begin), following.eq(begin + self.work.item_stride)]
        with m.Elif(next_word):
            m.d.sync += [item.eq(following), following.eq(following + self.work.item_stride)]
        with m.Elif(self.issue):
            m.d.sync += item.eq(item + 1)
