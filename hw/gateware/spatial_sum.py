"""Sums over the pixels of an output word, one per lane of a channel; the way through for everything else.

::

    cycle   0                  |      1
    addend, current, raw ----> | X = addend + start  -> also to sums[word] at `last`
    first, sums[word] -------> | (start: current, raw or sums, or X)

This is so for the low bits of all values. The high bits do the same a cycle later, with the carry of the low ones, so
that no carry chain is longer than half of a sum.
"""

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from numpy.typing import NDArray

from spikeloom.arithmetic import GUARD_BITS, MEMBRANE_BITS, RESIDUAL_BITS

from .pipeline import chain_sum, delayed, delayed_flag, low_sum, register
from .rescale import CURRENT_BITS, LOW_BITS

__all__ = ["SUM_BITS", "SpatialSum"]

SUM_BITS = MEMBRANE_BITS - GUARD_BITS
"""Width of a spatial sum: with guard bits it has the width of a membrane potential. 4096 pixels of any residual fit."""

_LOW = LOW_BITS - GUARD_BITS  # of a sum


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
        current, current_high; raw, raw_high (0, 1): `lanes` signed 26-bit numbers in two parts, as `Rescale` puts them
            out; at most one of them and `addend` is not 0; 0 with `pool`.
        addend (0): `lanes` signed 16-bit numbers.
        o, o_high (`latency` = 1, 2): X, `lanes` signed 32-bit numbers: the lowest `LOW_BITS` bits, then the others.
    """

    ahead_word: Signal
    valid: Signal
    first: Signal
    last: Signal
    current: Signal
    current_high: Signal
    raw: Signal
    raw_high: Signal
    addend: Signal
    pool: Signal
    fresh: Signal
    o: Signal
    o_high: Signal

    latency = 1

    def __init__(self, lanes: int, words: int) -> None:
        for name, given in (("lanes", lanes), ("words", words)):
            if given < 1:
                raise ValueError(f"`{name}` must be at least 1, not `{given!r}`")
        self.lanes, self.words = lanes, words
        super().__init__({
            "ahead_word": In(max(1, ceil_log2(words))), "valid": In(1), "first": In(1), "last": In(1),
            "current": In(lanes * _LOW), "current_high": In(lanes * (CURRENT_BITS - _LOW)),
            "raw": In(lanes * LOW_BITS), "raw_high": In(lanes * (CURRENT_BITS - LOW_BITS)),
            "addend": In(lanes * RESIDUAL_BITS), "pool": In(1), "fresh": In(1), "o": Out(lanes * LOW_BITS),
            "o_high": Out(lanes * (MEMBRANE_BITS - LOW_BITS))})

    @staticmethod
    def model(value: NDArray[np.int64], kept: NDArray[np.int64], *, fresh: bool) -> NDArray[np.int64]:
        """Sum over axis 0 (pixels) on top of `kept` (of the instruction before), as it is kept and put out."""
        half = 1 << SUM_BITS - 1
        return (value.sum(0) + (0 if fresh else kept) + half) % (2 * half) - half

    def elaborate(self, platform) -> Module:
        m = Module()
        pool, kept = register(m, self.pool, "pool_now"), self.pool & ~self.fresh
        restart, store = self.first | ~pool, self.valid & self.last & pool
        low = _Kept(m, "low", self.lanes * _LOW, self.words, self.ahead_word, kept)
        high = _Kept(m, "high", self.lanes * (SUM_BITS - _LOW), self.words, register(m, self.ahead_word, "word_high"),
                     register(m, kept, "kept_high"))
        again, valid = register(m, restart, "restart_high"), delayed_flag(m, self.valid, 1, "valid_high")[-1]
        totals, aboves = [], []
        for lane in range(self.lanes):
            total = self._low(m, lane, restart, low.data)
            totals.append(total)
            aboves.append(self._high(m, lane, again, valid, high.data, total[-1]))
        m.d.comb += [self.o.eq(Cat(total[:LOW_BITS] for total in totals)), self.o_high.eq(Cat(aboves))]
        stores = delayed_flag(m, store, self.latency + 1, "store")
        low.write(m, stores[-2], Cat(total[GUARD_BITS:LOW_BITS] for total in totals))
        high.write(m, stores[-1], self.o_high)
        return m

    def _low(self, m: Module, lane: int, restart: Value, kept: Signal) -> Signal:
        """The low bits of X, then the carry."""
        total = Signal(LOW_BITS + 1, name=f"total{lane}", reset_less=True)
        raw = self.raw.word_select(lane, LOW_BITS)
        before = kept.word_select(lane, _LOW) | self.current.word_select(lane, _LOW) | raw[GUARD_BITS:]
        start = Mux(restart, before, total[GUARD_BITS:LOW_BITS])
        with m.If(self.valid):
            m.d.sync += total.eq(Cat(
                raw[:GUARD_BITS], low_sum(self.addend.word_select(lane, RESIDUAL_BITS)[:_LOW], start)))
        return total

    def _high(self, m: Module, lane: int, restart: Value, valid: Value, kept: Signal, carry: Value) -> Signal:
        """The high bits of X, a cycle later."""
        above = Signal(SUM_BITS - _LOW, name=f"above{lane}", reset_less=True)
        current, raw = (port.word_select(lane, len(port) // self.lanes).as_signed()
                        for port in (self.current_high, self.raw_high))
        before = kept.word_select(lane, len(above)).as_signed() | current | raw
        start = Mux(restart, before, above.as_signed())
        addend = register(m, self.addend.word_select(lane, RESIDUAL_BITS)[_LOW:].as_signed(), f"addend{lane}")
        with m.If(valid):
            m.d.sync += above.eq(chain_sum(addend, start, carry))
        return above


class _Kept:
    """Half of the sums of every word: `data` comes a cycle after `word`, 0 unless `wanted`; written two cycles after
    it."""

    def __init__(self, m: Module, name: str, bits: int, words: int, word: Value, wanted: Value) -> None:
        m.submodules[name] = kept = memory.Memory(
            shape=bits, depth=max(2, words), init=[], attrs={"ram_style": "distributed"})
        read, self._port = kept.read_port(domain="comb"), kept.write_port()
        m.d.comb += [read.addr.eq(word), self._port.addr.eq(delayed(m, word, 1 + SpatialSum.latency, f"{name}_word"))]
        self.data = register(m, Mux(wanted, read.data, Const(0, bits)), f"{name}_data")

    def write(self, m: Module, enable: Value, total: Value) -> None:
        m.d.comb += [self._port.en.eq(enable), self._port.data.eq(total)]
