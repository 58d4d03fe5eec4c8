"""Sums over the pixels of an output word, one per lane of a channel; the way through for everything else.

::

    cycle   0                  |      1
    addend, current, raw ----> | X = addend + start  -> also to sums[word] at `last`
    first, sums[word] -------> | (start: current, raw or sums, or X)
"""

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from numpy.typing import NDArray

from spikeloom.arithmetic import GUARD_BITS, MEMBRANE_BITS, RESIDUAL_BITS

from .pipeline import chain_sum, delayed, delayed_flag, register
from .rescale import CURRENT_BITS

__all__ = ["SUM_BITS", "SpatialSum"]

SUM_BITS = MEMBRANE_BITS - GUARD_BITS
"""Width of a spatial sum: with guard bits it has the width of a membrane potential. 4096 pixels of any residual fit."""


class SpatialSum(wiring.Component):
    """Running sums of one channel.

    Equation, per lane; an instruction brings the pixels of each word one after the other::

        pool = 0:  X = ((current + addend) << GUARD_BITS) + raw
        pool = 1:  X = ((0 if fresh else sums[word]) + addend of the pixels of this word so far) << GUARD_BITS

    Overflow: sums wrap at 28 bits; the compiler proves that they fit (`spikeloom.bounds`).

    Args:
        lanes: Sums side by side.
        words: Words whose sums are kept between instructions.

    Ports (cycle relative to the value):
        ahead_word, pool, fresh (-1): of the item, one cycle ahead. Words of one instruction differ.
        valid, first, last (0): an item; the first and last pixel of a word.
        current, raw (0): `lanes` signed 26-bit numbers; at most one of them and `addend` is not 0; 0 with `pool`.
        addend (0): `lanes` signed 16-bit numbers.
        o (`latency` = 1): X, `lanes` signed 32-bit numbers.
    """

    ahead_word: Signal
    valid: Signal
    first: Signal
    last: Signal
    current: Signal
    raw: Signal
    addend: Signal
    pool: Signal
    fresh: Signal
    o: Signal

    latency = 1

    def __init__(self, lanes: int, words: int) -> None:
        for name, given in (("lanes", lanes), ("words", words)):
            if given < 1:
                raise ValueError(f"`{name}` must be at least 1, not `{given!r}`")
        self.lanes, self.words = lanes, words
        super().__init__({
            "ahead_word": In(max(1, ceil_log2(words))), "valid": In(1), "first": In(1), "last": In(1),
            "current": In(lanes * CURRENT_BITS), "raw": In(lanes * CURRENT_BITS), "addend": In(lanes * RESIDUAL_BITS),
            "pool": In(1), "fresh": In(1), "o": Out(lanes * MEMBRANE_BITS)})

    @staticmethod
    def model(value: NDArray[np.int64], kept: NDArray[np.int64], *, fresh: bool) -> NDArray[np.int64]:
        """Sum over axis 0 (pixels) on top of `kept` (of the instruction before), as it is kept and put out."""
        half = 1 << SUM_BITS - 1
        return (value.sum(0) + (0 if fresh else kept) + half) % (2 * half) - half

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
        m.d.comb += [
            self.o.eq(Cat(totals)), write.data.eq(Cat(total[GUARD_BITS:] for total in totals)),
            write.addr.eq(delayed(m, self.ahead_word, 1 + self.latency, "word")),
            write.en.eq(delayed_flag(m, self.valid & self.last & pool, self.latency, "store")[-1])]
        return m

    def _total(self, m: Module, lane: int, restart, kept: Signal) -> Signal:
        total = Signal(MEMBRANE_BITS, name=f"total{lane}", reset_less=True)
        current = self.current.word_select(lane, CURRENT_BITS).as_signed()
        raw = self.raw.word_select(lane, CURRENT_BITS).as_signed()
        before = kept.word_select(lane, SUM_BITS).as_signed() | current | (raw >> GUARD_BITS)
        start = Mux(restart, before, total[GUARD_BITS:].as_signed())
        above = chain_sum(self.addend.word_select(lane, RESIDUAL_BITS).as_signed(), start)
        with m.If(self.valid):
            m.d.sync += total.eq(Cat(raw[:GUARD_BITS], above))
        return total
