"""Sums over the pixels of an output word, one per lane of a channel; the way through for everything else.

::

    cycle   0            |      1                     |        2
    value -------------> | total = start + value  --> | sum = saturate(total)  -> also to sums[word] at `last`
    first, sums[word] -> | (start: 0, sums or total)  |
"""

import numpy as np
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from numpy.typing import NDArray

from spikeloom.arithmetic import GUARD_BITS, MEMBRANE_BITS, saturate

from .pipeline import delayed, delayed_flag, register, saturated
from .rescale import CURRENT_BITS

__all__ = ["SUM_BITS", "SpatialSum"]

SUM_BITS = MEMBRANE_BITS - GUARD_BITS
"""Width of a spatial sum: with guard bits it has the width of a membrane potential. 4096 pixels of any residual fit."""


class SpatialSum(wiring.Component):
    """Running sums of one channel.

    Equation, per lane; an instruction brings the pixels of each word one after the other::

        pool = 0:  sum = value
        pool = 1:  sum = (0 if fresh else sums[word]) + value of the pixels of this word so far

    Overflow: `sum` saturates to 28 bits, and so does what is kept; nothing saturates in between, so that within an
    instruction order does not matter.

    Args:
        lanes: Sums side by side.
        words: Words whose sums are kept between instructions.
        pixel_bits: log2 of the most pixels that a word has in one instruction.

    Ports (cycle relative to the value):
        ahead_word, pool, fresh (-1): of the item, one cycle ahead. Words of one instruction differ.
        valid, first, last (0): an item; the first and last pixel of a word.
        value (0): `lanes` signed 26-bit numbers; with `pool` 16 bits are expected.
        sum (`latency` = 2): `lanes` signed 28-bit numbers.
    """

    ahead_word: Signal
    valid: Signal
    first: Signal
    last: Signal
    value: Signal
    pool: Signal
    fresh: Signal
    sum: Signal

    latency = 2

    def __init__(self, lanes: int, words: int, pixel_bits: int) -> None:
        for name, given in (("lanes", lanes), ("words", words), ("pixel_bits", pixel_bits)):
            if given < 1:
                raise ValueError(f"`{name}` must be at least 1, not `{given!r}`")
        self.lanes, self.words = lanes, words
        self.total_bits = max(SUM_BITS, CURRENT_BITS, 16 + pixel_bits) + 1
        super().__init__({
            "ahead_word": In(max(1, ceil_log2(words))), "valid": In(1), "first": In(1), "last": In(1),
            "value": In(lanes * CURRENT_BITS), "pool": In(1), "fresh": In(1), "sum": Out(lanes * SUM_BITS)})

    @staticmethod
    def model(value: NDArray[np.int64], kept: NDArray[np.int64], *, fresh: bool) -> NDArray[np.int64]:
        """Sum over axis 0 (pixels) on top of `kept` (of the instruction before), as it is kept and put out."""
        return saturate(value.sum(0) + (0 if fresh else kept), SUM_BITS)

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.sums = sums = memory.Memory(shape=self.lanes * SUM_BITS, depth=max(2, self.words), init=[],
                                                 attrs={"ram_style": "distributed"})
        read, write = sums.read_port(domain="comb"), sums.write_port()
        m.d.comb += read.addr.eq(self.ahead_word)
        kept = register(m, Mux(self.pool & ~self.fresh, read.data, 0), "kept")
        pool = register(m, self.pool, "pool_now")
        restart = self.first | ~pool
        totals = [self._total(m, lane, restart, kept) for lane in range(self.lanes)]
        for lane, total in enumerate(totals):
            m.d.comb += self.sum.word_select(lane, SUM_BITS).eq(register(m, saturated(total, SUM_BITS), f"sum{lane}"))
        m.d.comb += [
            write.data.eq(self.sum),
            write.addr.eq(delayed(m, self.ahead_word, 1 + self.latency, "word")),
            write.en.eq(delayed_flag(m, self.valid & self.last & pool, self.latency, "store")[-1])]
        return m

    def _total(self, m: Module, lane: int, restart, kept: Signal) -> Signal:
        total = Signal(signed(self.total_bits), name=f"total{lane}", reset_less=True)
        start = Mux(restart, kept.word_select(lane, SUM_BITS).as_signed(), total)
        with m.If(self.valid):
            m.d.sync += total.eq(start + self.value.word_select(lane, CURRENT_BITS).as_signed())
        return total
