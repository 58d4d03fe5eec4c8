"""The Hamming unit: coincidences of spikes of two words, counted over all positions, put out as weights.

    counts[i][j] += sum over lanes t of K[i][t] & V[j][t]          column[j] += sum over lanes t of V[j][t]
    M[i][j] = mask[i] ? (bipolar ? 2 counts[i][j] - column[j] : counts[i][j]) : 0

The limbs of M go out as int8 rows of a weight chunk. With B = 64 (two limbs) or 64 + 64 * 128 (three), the limb of
weight 128**n below the top is digit n of M + B in base 128, less 64; the top limb is what remains above.

    key, value -> register -> AND, threes of lanes -> popcount -> counters
    counters -> row -> 2 counts - column -> + B -> limb bytes -> beats -> o

To be put out, the rows of counters move on in a ring, so that the next one is always at the same place.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from spikeloom.arithmetic import LIMB_BITS, split_limbs
from spikeloom.config import GROUP_INPUTS, MachineConfig

from .accumulator import LANE_BITS
from .pipeline import chain_sum
from .shared import shared
from .skid import SkidBuffer
from .tables import unpack_bits

__all__ = ["HammingRow", "HammingUnit"]

_COUNT_BITS = 22
"""Width of a counter: matrices of three limbs fit (`arithmetic.limb_capacity`)."""

_THREE = 3
"""Lanes counted by one level of 6-input LUTs (three ANDs)."""


def output_order(config: MachineConfig) -> list[int]:
    """Rows i of M in the order in which they are put out, within a limb."""
    rows = config.word_channels // config.load_groups
    return [
        ((r // GROUP_INPUTS) * config.load_groups + slot) * GROUP_INPUTS + r % GROUP_INPUTS
        for slot in range(config.load_groups)
        for r in range(rows)
    ]


@shared
class HammingRow(wiring.Component):
    """Counters of one channel of K against all channels of V; ports as `HammingUnit`.

    `clear` and `valid` belong to `key` and `value` of the cycle. `counts` holds Wc values of `_COUNT_BITS`; the counts
    of a word are in it `latency` = 3 cycles later. `move` replaces them by `others`; not while words are under way.
    """

    key: Signal
    value: Signal
    valid: Signal
    clear: Signal
    move: Signal
    others: Signal
    counts: Signal

    latency = 3

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        counts = config.word_channels * _COUNT_BITS
        super().__init__({
            "key": In(config.lanes), "value": In(config.beat_bits), "valid": In(1), "clear": In(1), "move": In(1),
            "others": In(counts), "counts": Out(counts)})  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.config.lanes
        valid, clear = Signal(self.latency - 1), Signal(self.latency - 1)
        m.d.sync += [valid.eq(Cat(self.valid, valid)), clear.eq(Cat(self.clear, clear))]
        for j in range(self.config.word_channels):
            both = Signal(lanes, name=f"both{j}")
            m.d.comb += both.eq(self.key & self.value.word_select(j, lanes))
            # Cycle 1: threes of lanes, six inputs each. Cycle 2: their sum, again at most six inputs.
            parts = []
            for start in range(0, lanes, _THREE):
                bits = both[start : start + _THREE]
                part = Signal(range(_THREE + 1), name=f"part{j}_{start}")
                m.d.sync += part.eq(_total(bits))
                parts.append(part)
            popcount = Signal(range(lanes + 1), name=f"popcount{j}")
            m.d.sync += popcount.eq(Mux(valid[0], _total(parts), 0))
            # Cycle 3: the counter, in one LUT per bit.
            count = Signal(_COUNT_BITS, name=f"count{j}")
            other = self.others.word_select(j, _COUNT_BITS)
            before = Mux(self.move, other, Mux(clear[-1], 0, count))
            with m.If(valid[-1] | self.move):
                m.d.sync += count.eq(chain_sum(Cat(popcount, 0).as_signed(), before.as_signed()))
            m.d.comb += self.counts.word_select(j, _COUNT_BITS).eq(count)
        return m


class HammingUnit(wiring.Component):
    """Counts spikes that coincide in two words, and puts the matrix out as limbs.

    Ports:
        key, value: K and V of a position, one word each.
        single, lane: With it: V counts in this lane only.
        valid: A position is presented. Not while `busy`.
        clear: With `valid`: counts start from this position.
        finish: Pulse while not `busy`, with the last position or at any time after it; takes `bipolar`, `mask` (bit i
            = 0: row i of M is put out as 0) and `limbs` (2 or 3).
        o: Wc bytes per row in `8 / Pt` beats, lowest first; for every limb, the highest first, the rows in the order
            of `output_order`: slot by slot, so that a limb is a piece of a weight chunk.
        busy: From the cycle after `finish` until the last beat is handed over.

    The first beat is valid `latency` cycles after `finish`; with `ready` high a beat goes out per cycle. Counts are 22
    bits wide and wrap; M must fit its limbs (`arithmetic.limb_capacity`). They stay: positions after `finish` without
    `clear` add to them.
    """

    key: Signal
    value: Signal
    single: Signal
    lane: Signal
    valid: Signal
    clear: Signal
    finish: Signal
    bipolar: Signal
    mask: Signal
    limbs: Signal
    busy: Signal
    o: stream.Interface

    latency = 1 + HammingRow.latency + 4
    """Cycles from `finish` to the first beat."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.beats_per_row = 8 // config.lanes
        super().__init__({
            "key": In(config.beat_bits), "value": In(config.beat_bits), "single": In(1), "lane": In(LANE_BITS),
            "valid": In(1), "clear": In(1), "finish": In(1), "bipolar": In(1), "mask": In(config.word_channels),
            "limbs": In(2), "busy": Out(1), "o": Out(stream.Signature(config.beat_bits))})  # fmt: skip

    def beats(self, limbs: int) -> int:
        """Beats put out after a `finish`."""
        return limbs * self.config.word_channels * self.beats_per_row

    def matrix(self, pairs: Iterable[tuple[int, int]], *, bipolar: bool, mask: int) -> np.ndarray:
        """int64[Wc, Wc]: M of the positions (K word, V word), V without the lanes that do not count."""
        config = self.config
        keys, values = zip(*pairs, strict=True)
        shape = (-1, config.word_channels, config.lanes)
        key, value = (unpack_bits(words, config.beat_bits).reshape(shape) for words in (keys, values))
        counts = np.einsum("nit,njt->ij", key, value)
        matrix = 2 * counts - value.sum((0, 2)) if bipolar else counts
        return matrix * (mask >> np.arange(config.word_channels) & 1)[:, None]

    def model(self, pairs: Iterable[tuple[int, int]], *, bipolar: bool, mask: int, limbs: int) -> list[int]:
        """Beats of `o` after these positions, the first of them with `clear`, and `finish`."""
        matrix = self.matrix(pairs, bipolar=bipolar, mask=mask)[output_order(self.config)]
        beats = []
        for limb in split_limbs(matrix, limbs):
            data = np.asarray(limb).astype(np.int8).tobytes()
            size = self.config.beat_bytes
            beats += [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]
        return beats

    def elaborate(self, platform: object) -> Module:
        m = Module()
        move = Signal()
        self._put_out(m, *self._count(m, move), move)
        return m

    def _count(self, m: Module, move: Signal) -> tuple[Value, Value]:
        """The row of counters to be put out, and the column sums, a row whose key is all ones, which never moves."""
        config = self.config
        value, valid, clear = Signal.like(self.value), Signal(), Signal()
        mask = Cat(~self.single | (self.lane == lane) for lane in range(config.lanes))
        counted = self.value & mask.replicate(config.word_channels)
        m.d.sync += [value.eq(counted), valid.eq(self.valid), clear.eq(self.clear)]
        rows = []
        for i in range(config.word_channels + 1):
            m.submodules[f"row{i}"] = row = HammingRow(config)
            key = Signal(config.lanes, name=f"key{i}")
            word = self.key.word_select(i, config.lanes) if i < config.word_channels else Const(-1, config.lanes)
            m.d.sync += key.eq(word)
            m.d.comb += [row.key.eq(key), row.value.eq(value), row.valid.eq(valid), row.clear.eq(clear)]
            rows.append(row)
        ring = [rows[i] for i in output_order(config)]
        for row, other in zip(ring, [*ring[1:], ring[0]], strict=True):
            m.d.comb += [row.move.eq(move), row.others.eq(other.counts)]
        return ring[0].counts, rows[-1].counts

    def _put_out(self, m: Module, counts: Value, column: Value, move: Signal) -> None:
        """The row that is taken moves on with its last beat; after a limb all are where they were."""
        config, bits = self.config, _COUNT_BITS
        order = output_order(config)
        bipolar, mask, three = Signal(name="is_bipolar"), Signal.like(self.mask, name="rows"), Signal(name="three")
        wait = Signal(HammingRow.latency, name="wait")
        advance, running = Signal(name="advance"), Signal(name="running")
        place = Signal(range(len(order) * self.beats_per_row), name="place")
        limb = Signal(2, name="limb")
        m.submodules.skid = skid = SkidBuffer(config.beat_bits)
        wiring.connect(m, skid.o, wiring.flipped(self.o))
        m.d.comb += advance.eq(skid.i.ready)
        m.d.sync += wait.eq(Cat(self.finish, wait))
        with m.If(self.finish):
            m.d.sync += [
                bipolar.eq(self.bipolar),
                mask.eq(self.mask),
                three.eq(self.limbs == 3),
                limb.eq(self.limbs - 1),
                place.eq(0),
            ]
        with m.If(wait[-1]):
            m.d.sync += running.eq(1)
        with m.Elif(advance & running):
            m.d.sync += place.eq(place + 1)
            with m.If(place == len(order) * self.beats_per_row - 1):
                m.d.sync += limb.eq(limb - 1)
                with m.If(limb == 0):
                    m.d.sync += running.eq(0)

        # Cycle 1: a row. Cycle 2: M. Cycle 3: M + B. Cycle 4: bytes of the limb.
        row = [Signal(bits, name=f"row_count{j}") for j in range(config.word_channels)]
        matrix = [Signal(signed(bits + 1), name=f"matrix{j}") for j in range(config.word_channels)]
        biased = [Signal(signed(bits + 2), name=f"biased{j}") for j in range(config.word_channels)]
        shown = Signal(2, name="shown")
        valid = Signal(3, name="valid_after")
        limbs = [Signal(2, name=f"limb{stage}") for stage in range(3)]
        parts = [Signal(range(self.beats_per_row), name=f"part{stage}") for stage in range(3)]
        index = place[exact_log2(self.beats_per_row) :]
        m.d.comb += move.eq(advance & running & (place[:exact_log2(self.beats_per_row)] == self.beats_per_row - 1))
        bias = Mux(three, Const(64 + (64 << LIMB_BITS), bits), Const(64, bits))
        produced = []
        for j in range(config.word_channels):
            total = column.word_select(j, bits)
            plain = Mux(bipolar, Cat(Const(0, 1), row[j]), row[j])
            with m.If(advance):
                m.d.sync += [
                    row[j].eq(counts.word_select(j, bits)),
                    matrix[j].eq(plain - Mux(bipolar, total, 0)),
                    biased[j].eq(Mux(shown[1], matrix[j], 0) + bias),
                ]
            low, middle = biased[j][:LIMB_BITS], biased[j][LIMB_BITS : 2 * LIMB_BITS]
            top = Mux(three, biased[j][2 * LIMB_BITS :][:8], biased[j][LIMB_BITS:][:8])
            digit = Mux(limbs[-1] == 0, low, middle) ^ (1 << LIMB_BITS - 1)
            lower = Cat(digit, digit[-1])
            produced.append(Mux(limbs[-1] == 1 + three, top, lower)[:8])
        with m.If(advance):
            m.d.sync += [
                shown.eq(Cat(Array(mask[i] for i in order)[index], shown)),
                valid.eq(Cat(running, valid)),
            ]
            m.d.sync += [later.eq(now) for now, later in zip([limb, *limbs], limbs, strict=False)]
            part = place[: exact_log2(self.beats_per_row)]
            m.d.sync += [later.eq(now) for now, later in zip([part, *parts], parts, strict=False)]
        m.d.comb += [
            skid.i.valid.eq(valid[-1]), skid.i.payload.eq(Cat(produced).word_select(parts[-1], config.beat_bits)),
            self.busy.eq(wait.any() | running | valid.any() | self.o.valid)]


def _total(values: Iterable[Value]) -> Value:
    """Sum of up to three small values."""
    values = list(values)
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
