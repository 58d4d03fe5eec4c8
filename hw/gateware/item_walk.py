"""The order of the items of a DRAIN: for word in words, for pixel in pixels."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spikeloom.config import MachineConfig

__all__ = ["ItemWalk"]


class ItemWalk(wiring.Component):
    """Walks `words` x `pixels` items, one per cycle in which there is `room`.

    Latency: the first item can be issued in the cycle after `start`.

    Args:
        config: The machine.

    Ports:
        start: Pulse, while not walking; `pixels` and `words` are at least 1.
        acc_base, pixels, word, words: Fields of the DRAIN, from `start` until the last item.
        room: An item may be issued.
        issue: An item is issued; what follows describes it.
        first, last: First and last pixel of its word.
        final: Last item of all.
        address, number: Accumulator address and output word.
    """

    start: Signal
    acc_base: Signal
    pixels: Signal
    word: Signal
    words: Signal
    room: Signal
    issue: Signal
    first: Signal
    last: Signal
    final: Signal
    address: Signal
    number: Signal

    def __init__(self, config: MachineConfig) -> None:
        super().__init__({
            "start": In(1), "acc_base": In(16), "pixels": In(16), "word": In(8), "words": In(8), "room": In(1),
            "issue": Out(1), "first": Out(1), "last": Out(1), "final": Out(1),
            "address": Out(range(config.accumulator_depth)), "number": Out(max(1, ceil_log2(config.output_words)))})

    def elaborate(self, platform) -> Module:
        m = Module()
        active = Signal()
        pixels_left, words_left = Signal(16), Signal(8)  # after the present one
        m.d.comb += [self.issue.eq(active & self.room), self.last.eq(pixels_left == 0),
                     self.final.eq(self.last & (words_left == 0))]
        with m.If(self.issue):
            m.d.sync += [self.first.eq(self.last), self.address.eq(self.address + 1), pixels_left.eq(pixels_left - 1)]
        with m.If(self.start | (self.issue & self.last)):
            m.d.sync += [self.address.eq(self.acc_base), pixels_left.eq(self.pixels - 1), words_left.eq(words_left - 1),
                         self.number.eq(self.number + 1)]
        with m.If(self.issue & self.final):
            m.d.sync += active.eq(0)
        with m.If(self.start):
            m.d.sync += [active.eq(1), self.first.eq(1), words_left.eq(self.words - 1), self.number.eq(self.word)]
        return m
