"""The table loader: fills lookup tables from weight rows in Gray-code order, one addition per entry and output.

    entry[e] = +-( sum over i < 4 of (bit i of e ? w_i : bipolar ? -w_i : 0) )

Entry n of the Gray code differs from entry n - 1 in input ctz(n) alone, so it is one addition of w or 2w away. The
row of input 3 is needed for the last time at step 8, of 2 at 12, of 1 at 14 and of 0 at 15: the rows of the next
batch come in at steps 12 to 15, in that order, into the same registers. On their way rows 3, 2 and 1 are summed up
for the first entry of a bipolar batch, -(w_0 + w_1 + w_2 + w_3), whose fourth addition is step 0. The next batch may
be the first of the next fill, so fills can follow each other without a gap.

    weight row -> incoming -+-> rows (4) -> select -> operand (w, 2w or 0, xor sign) -> + -> entry -> write port
                            '-> base: sum of three rows ----------------- step 0 ------'
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import GROUP_INPUTS, MachineConfig

from .pipeline import chain_sum, delayed, delayed_flag
from .tables import ENTRIES, ENTRY_BITS

__all__ = ["TableLoader"]

_FIRST_READ = 10
"""Step in which the first of four row addresses is put out: two cycles before the row is in `incoming`."""

_LAST = ENTRIES - 1

_PIPELINE = 3
"""Cycles from a step to the write of its entry."""


def gray(step: int) -> int:
    """Entry written at `step`."""
    return step ^ step >> 1


def flipped_input(step: int) -> int:
    """Input whose bit changes between entries `step - 1` and `step`; 0 at step 0, where row 0 is added as well."""
    return (step & -step).bit_length() - 1 if step else 0


class TableLoader(wiring.Component):
    """Fills the tables of `batches` * LG groups from consecutive weight rows, four rows per batch.

    Ports:
        start: With `ready`, begins a fill; takes `row` (first row of the weight buffer), `batches` (1 or more),
            `negate` (all entries negated), `bipolar` (a 0 selects -w instead of 0) and `half` (of the tables, written).
        ready: Idle, or so early in the last batch of a fill that the next one can follow without a gap.
        busy: From the cycle after `start` to the one of the last write.
        filled: Pulse, once per fill, `write_delay` cycles before its last write.
        read_en, read_row, read_data: Weight buffer; the row is on `read_data` in the cycle after `read_en`. Byte
            `slot * Po + o` of row `row + 4 b + i` is the weight of input i of group `b * LG + slot` for output o.
        write_en, write_batch, write_entry, write_table, write_data: One entry of the LG tables of a batch; value
            `slot * Po + o` (ENTRY_BITS bits, signed) for output o.

    Every batch takes 16 cycles: 16 writes, one per cycle and without gaps. The first write comes `latency` cycles
    after `start` if not `busy`, else right after the last write of the fill before or `latency` cycles after
    `start`, whichever is later. Weights lie in [-127, 127]; then no entry overflows.
    """

    start: Signal
    row: Signal
    batches: Signal
    negate: Signal
    bipolar: Signal
    half: Signal
    ready: Signal
    busy: Signal
    filled: Signal
    read_en: Signal
    read_row: Signal
    read_data: Signal
    write_en: Signal
    write_batch: Signal
    write_entry: Signal
    write_table: Signal
    write_data: Signal

    latency = 1 + (ENTRIES - _FIRST_READ) + _PIPELINE
    """Cycles from `start` to the first write."""

    write_delay = _PIPELINE

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.values = config.load_groups * config.outputs
        most = config.groups // config.load_groups
        super().__init__({
            "start": In(1), "row": In(16), "batches": In(range(most + 1)), "negate": In(1), "bipolar": In(1),
            "half": In(1), "ready": Out(1), "busy": Out(1), "filled": Out(1),
            "read_en": Out(1), "read_row": Out(16), "read_data": In(8 * config.weight_row_bytes),
            "write_en": Out(1), "write_batch": Out(range(most)), "write_entry": Out(GROUP_INPUTS),
            "write_table": Out(1), "write_data": Out(self.values * ENTRY_BITS)})  # fmt: skip

    def cycles(self, batches: int) -> int:
        """Cycles from `start` to the first cycle in which `busy` is low again."""
        return self.latency + ENTRIES * batches

    def model(self, rows: np.ndarray, *, negate: bool = False, bipolar: bool = False) -> np.ndarray:
        """int64[groups, 16, Po]: the tables of weight rows int8[4 * batches, LG * Po].

        Raises:
            ValueError: Not a multiple of four rows of LG * Po weights in [-127, 127].
        """
        rows = np.asarray(rows, np.int64)
        if rows.ndim != 2 or len(rows) % GROUP_INPUTS or rows.shape[1] != self.values or abs(rows).max() > 127:
            raise ValueError(f"`rows` must be [4 * batches, {self.values}] weights in [-127, 127]")
        weights = rows.reshape(-1, GROUP_INPUTS, self.config.load_groups, self.config.outputs).swapaxes(1, 2)
        weights = weights.reshape(-1, GROUP_INPUTS, self.config.outputs)
        bits = np.arange(ENTRIES)[:, None] >> np.arange(GROUP_INPUTS) & 1
        factors = (2 * bits - 1 if bipolar else bits) * (-1 if negate else 1)
        return np.einsum("ei,gio->geo", factors, weights)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._running, self._filling = Signal(name="running"), Signal(name="filling")
        self._upcoming = Signal(range(ENTRIES), name="upcoming_step")
        self._batch = Signal.like(self.write_batch, name="batch")
        self._next_negate, self._next_bipolar = Signal(name="next_negate"), Signal(name="next_bipolar")
        self._negate, self._bipolar, self._half = (Signal(name=n) for n in ("negated", "bipolar_inputs", "half_filled"))
        last = self._control(m)
        incoming = self._fetch(m, last)
        self._compute(m, incoming)
        return m

    def _during(self, m: Module, steps: Iterable[int], name: str) -> Signal:
        """A register that is 1 in `steps`."""
        mask = sum(1 << step for step in set(steps))
        flag = Signal(init=mask >> _FIRST_READ & 1, name=name)
        m.d.sync += flag.eq(Const(mask, ENTRIES).bit_select(self._upcoming, 1))
        return flag

    def _control(self, m: Module) -> Value:
        """Count steps and batches; returns 'no batch follows the present one'.

        A fill from idle begins at step `_FIRST_READ` of a batch that is not written.
        """
        left, step = Signal.like(self.batches, name="left"), Signal(range(ENTRIES), init=_FIRST_READ, name="step")
        taken, fresh, next_half = (Signal(name=name) for name in ("taken", "fresh", "next_half"))
        last = left == 0
        end = self._during(m, [_LAST], "end_of_batch") & self._running
        early = self._during(m, range(_FIRST_READ), "early")
        m.d.comb += [
            self.ready.eq(~self._running | early & last), taken.eq(self.start & self.ready),
            self._upcoming.eq(Mux(self._running, step + 1, _FIRST_READ)),
            self.filled.eq(end & self._filling & (last | fresh))]
        m.d.sync += step.eq(self._upcoming)
        with m.If(end):
            m.d.sync += [
                self._filling.eq(~last), self._running.eq(~last), fresh.eq(0), left.eq(left - 1),
                self._batch.eq(Mux(fresh, 0, self._batch + 1)), self._negate.eq(self._next_negate),
                self._bipolar.eq(self._next_bipolar), self._half.eq(next_half)]
        with m.If(taken):
            m.d.sync += [
                self._running.eq(1), fresh.eq(1), left.eq(self.batches), self._next_negate.eq(self.negate),
                self._next_bipolar.eq(self.bipolar), next_half.eq(self.half),
                self.read_row.eq(self.row + (GROUP_INPUTS - 1))]
        return last

    def _fetch(self, m: Module, last: Value) -> Signal:
        """Read rows 3, 2, 1, 0 of the next batch in the four steps from `_FIRST_READ`; the register they come into."""
        incoming = Signal.like(self.read_data, name="incoming")
        reading = self._during(m, range(_FIRST_READ, _FIRST_READ + GROUP_INPUTS), "reading")
        last_read = self._during(m, [_FIRST_READ + GROUP_INPUTS - 1], "last_read")
        m.d.comb += self.read_en.eq(self._running & ~last & reading)
        m.d.sync += incoming.eq(self.read_data)
        with m.If(self._running & reading):
            m.d.sync += self.read_row.eq(self.read_row + Mux(last_read, Const(7, 16), Const(0xFFFF, 16)))
        return incoming

    def _compute(self, m: Module, incoming: Signal) -> None:
        rows = Array(Signal.like(incoming, name=f"row{i}") for i in range(GROUP_INPUTS))
        for i, row in enumerate(rows):
            with m.If(self._during(m, [_LAST - i], f"row{i}_comes")):
                m.d.sync += row.eq(incoming)
        base = self._sum_base(m, incoming)

        # Cycle 1: the weights of the input that changes.
        selected = Signal.like(incoming, name="selected")
        changed = Cat(
            self._during(m, (s for s in range(ENTRIES) if flipped_input(s) >> i & 1), f"changed{i}") for i in range(2))
        becomes_one = self._during(
            m, (s for s in range(ENTRIES) if gray(s) >> flipped_input(s) & 1), "becomes_one")
        entry = Cat(self._during(m, (s for s in range(ENTRIES) if gray(s) >> i & 1), f"entry{i}") for i in range(4))
        first = delayed_flag(m, self._during(m, [0], "first"), 2, "first_after")
        subtract = delayed_flag(m, self._negate ^ ~becomes_one, 2, "subtract")
        bipolar = delayed_flag(m, self._bipolar, 1, "bipolar_after")
        filling = delayed_flag(m, self._filling, _PIPELINE, "filling_after")
        m.d.sync += selected.eq(rows[changed])

        # Cycle 2: w or 2w (step 0: w if bipolar, else nothing), inverted to be subtracted. Cycle 3: the addition.
        doubled, used = bipolar[1] & ~first[1], bipolar[1] | ~first[1]
        for index in range(self.values):
            weight = selected.word_select(index, 8).as_signed()
            operand = Signal(ENTRY_BITS - 1, name=f"operand{index}")
            value = Signal(ENTRY_BITS, name=f"value{index}")
            chosen = Mux(doubled, Cat(Const(0, 1), weight), Cat(weight, weight[-1])) & used.replicate(9)
            m.d.sync += operand.eq(chosen ^ subtract[1].replicate(9))
            m.d.sync += value.eq(chain_sum(operand.as_signed(), Mux(first[2], base[index], value), subtract[2]))
            m.d.comb += self.write_data.word_select(index, ENTRY_BITS).eq(value)
        m.d.comb += [
            self.write_en.eq(filling[_PIPELINE]),
            self.write_entry.eq(delayed(m, entry, _PIPELINE, "entry_after")),
            self.write_batch.eq(delayed(m, self._batch, _PIPELINE, "batch_after")),
            self.write_table.eq(delayed(m, self._half, _PIPELINE, "half_after")),
            self.busy.eq(self._running | filling[1:].any()),
        ]

    def _sum_base(self, m: Module, incoming: Signal) -> list[Value]:
        """The bipolar sum of rows 3, 2 and 1 of the next batch where their bits are 0; 0 if not bipolar."""
        sums: list[Value] = []
        subtract = ~self._next_negate
        summing = self._during(m, range(ENTRIES - GROUP_INPUTS, _LAST), "summing")
        begin = self._during(m, [ENTRIES - GROUP_INPUTS - 1], "begin")
        for index in range(self.values):
            base = Signal(ENTRY_BITS, name=f"base{index}")
            weight = (incoming.word_select(index, 8) ^ subtract.replicate(8)).as_signed()
            with m.If(begin):
                m.d.sync += base.eq(0)
            with m.Elif(summing & self._next_bipolar):
                m.d.sync += base.eq(chain_sum(base, weight, subtract))
            sums.append(base)
        return sums
