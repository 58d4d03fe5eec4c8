"""The temporal unit: attention from frame to frame within a pixel, one frame of K and V at a time.

    score[t] = bipolar ? D - 2 * popcount(Q[.][t] ^ K[.][s]) : popcount(Q[.][t] & K[.][s])      over all words of a head
    sums[c][t] = V[c][s] ? score[t] : 0                                              added up over s by the accumulators

A pixel is a walk over the words of its head, Q in bank 0 and K in bank 1, which fill the counters, and then one word
of V in bank 0, at which `sums` go out and the counters start again. One chunk does that for one frame s and all pixels;
the sum over s is the sum over chunks.

    Q, K -> register, frame s of K -> ^ or & -> sixes -> popcount -> counters -> scores --.
    V ----> frame s of V -----------------------------------------------------> values -> masks -> sums
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from spikeloom.config import SCORE_BITS, MachineConfig

from .pipeline import delayed, delayed_flag, register
from .tables import unpack_bits

__all__ = ["Position", "TemporalUnit"]

_SIX = 6
"""Bits counted by one level of 6-input LUTs."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """What is presented in one cycle; fields as the ports of `TemporalUnit`."""

    words: tuple[int, int]
    emit: bool
    lane: int
    bipolar: bool
    width: int


class TemporalUnit(wiring.Component):
    """Scores of all frames against one, and what they add to the accumulators.

    Ports:
        words: Q and K of a position, word 0 lowest; with `emit` word 0 is V and word 1 is not looked at.
        valid: A position is presented.
        emit: With `valid`: scores of the positions since the last `emit` go out; they start again with the next.
        lane: Frame s of K and V.
        bipolar: Hamming scores, with `width` = D, the channels of the head; both count at `emit` only for the score
            (`bipolar` also chooses what the positions before it count, so it must not change in between).
        scores: Pt signed values of `sum_bits` bits, `latency` cycles after `emit`.
        values: V of frame s, a bit per channel, in the same cycle; `sums` is made of both.

    Handshake: none; a position per cycle, no stalls. Channels that a head does not fill are 0 in Q and K, so they
    count in neither score. At most 2**11 - 1 channels and matches between two `emit`: the counters wrap.
    """

    words: Signal
    valid: Signal
    emit: Signal
    lane: Signal
    bipolar: Signal
    width: Signal
    scores: Signal
    values: Signal

    sum_bits = SCORE_BITS
    latency = 5
    """Cycles from `emit` to `sums`."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            "words": In(2 * config.beat_bits), "valid": In(1), "emit": In(1), "lane": In(exact_log2(config.lanes)),
            "bipolar": In(1), "width": In(SCORE_BITS - 1), "scores": Out(config.lanes * SCORE_BITS),
            "values": Out(config.word_channels)})

    @property
    def sums(self) -> Value:
        """Wc x Pt signed values of `sum_bits` bits, value `c * Pt + t` at bit `(c * Pt + t) * sum_bits`.

        Outside the unit, so that a mask shares its LUT with what chooses between the sums of the units.
        """
        return Cat(Mux(value, self.scores.word_select(t, SCORE_BITS), Const(0, SCORE_BITS))
                   for value in self.values for t in range(self.config.lanes))

    def model(self, positions: Iterable[Position]) -> list[np.ndarray]:
        """int64[Wc, Pt]: the sums of every position with `emit`; nothing is counted before the first."""
        config, counts, sums = self.config, np.zeros(self.config.lanes, np.int64), []
        for at in positions:
            first, second = unpack_bits(at.words, config.beat_bits).reshape(2, config.word_channels, -1)
            if at.emit:
                score = at.width - 2 * counts if at.bipolar else counts
                sums.append(first[:, at.lane, None] * score)
                counts = 0 * counts
            else:
                one = second[:, at.lane, None]
                counts = counts + ((first ^ one) if at.bipolar else first & one).sum(axis=0)
        return sums

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, bits, lanes = self.config, self.config.beat_bits, self.config.lanes
        valid = delayed_flag(m, self.valid, self.latency - 1, "valid_after")
        emit = delayed(m, self.emit, self.latency - 1, "emit_after")
        bipolar = delayed(m, self.bipolar, self.latency - 1, "bipolar_after")
        width = delayed(m, self.width, self.latency - 1, "width_after")
        # Cycle 1: the frame of K and V
        early = register(m, self.bipolar, "bipolar1")
        query = register(m, self.words[:bits], "query")
        key = register(m, self._frame(self.words[bits:]), "key")
        value = delayed(m, self._frame(self.words[:bits]), self.latency, "value")
        scores = []
        for t in range(lanes):
            # Cycle 2: matches (unlike bits if bipolar). Cycle 3: sixes. Cycle 4: their sum.
            frame = Cat(query[c * lanes + t] for c in range(config.word_channels))
            found = register(m, Mux(early, frame ^ key, frame & key), f"found{t}")
            parts = [register(m, _ones(found[at:at + _SIX]), f"part{t}_{at}") for at in range(0, len(found), _SIX)]
            ones = register(m, sum(parts[1:], parts[0]), f"ones{t}")
            # Cycle 5: the counter, and the score of what it has counted
            count = Signal(SCORE_BITS - 1, name=f"count{t}")
            with m.If(valid[self.latency - 1]):
                m.d.sync += count.eq(Mux(emit, 0, count + ones))
            offset = Cat(bipolar, width & bipolar.replicate(SCORE_BITS - 1), Const(0, 1))
            change = Cat(bipolar, Mux(bipolar, ~Cat(Const(0, 1), count), Cat(count, Const(0, 1))))
            scores.append(register(m, (offset + change)[1:1 + SCORE_BITS], f"score{t}"))
        m.d.comb += [self.scores.eq(Cat(scores)), self.values.eq(value)]
        return m

    def _frame(self, word: Value) -> Value:
        """The bit of `lane` of every channel."""
        lanes = self.config.lanes
        if lanes == 1:
            return word
        return Cat(word[c * lanes:(c + 1) * lanes].bit_select(self.lane, 1) for c in range(self.config.word_channels))


def _ones(bits: Value) -> Value:
    return sum(bits[1:], bits[0])
