"""The table loader: fills lookup tables from weight rows in Gray-code order, one addition per entry and output.

    entry[e] = +-( sum over i < 4 of (bit i of e ? w_i : bipolar ? -w_i : 0) )

Entry n of the Gray code differs from entry n - 1 in input ctz(n) alone, so it is one addition of w or 2w away. The
row of input 3 is needed for the last time at step 8, of 2 at 12, of 1 at 14 and of 0 at 15: the rows of the next
batch come in at steps 12 to 15, in that order, into the same registers. On their way rows 3, 2 and 1 are summed up
for the first entry of a bipolar batch, -(w_0 + w_1 + w_2 + w_3), whose fourth addition is step 0.

    weight row -> incoming -+-> rows (4) -> select -> operand (w, 2w or 0, xor sign) -> + -> entry -> write port
                            '-> base: sum of three rows ----------------- step 0 ------'
"""

from __future__ import annotations

import numpy as np
from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import GROUP_INPUTS, MachineConfig

from .tables import ENTRIES, ENTRY_BITS

__all__ = ["TableLoader"]

_FIRST_READ = 10
"""Step in which the first of four row addresses is put out: two cycles before the row is in `incoming`."""

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
        start: Pulse while not `busy`; takes `row` (first row of the weight buffer), `batches` (1 or more), `negate`
            (all entries negated), `bipolar` (a 0 selects -w instead of 0) and `half` (of the tables, written).
        busy: From the cycle after `start` to the one of the last write.
        read_en, read_row, read_data: Weight buffer; the row is on `read_data` in the cycle after `read_en`. Byte
            `slot * Po + o` of row `row + 4 b + i` is the weight of input i of group `b * LG + slot` for output o.
        write_en, write_batch, write_entry, write_table, write_data: One entry of the LG tables of a batch; value
            `slot * Po + o` (ENTRY_BITS bits, signed) for output o.

    Every batch takes 16 cycles: 16 writes, one per cycle and without gaps. The first write comes `latency` cycles
    after `start`. Weights lie in [-127, 127]; then no entry overflows.
    """

    start: Signal
    row: Signal
    batches: Signal
    negate: Signal
    bipolar: Signal
    half: Signal
    busy: Signal
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

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.values = config.load_groups * config.outputs
        most = config.groups // config.load_groups
        super().__init__({
            "start": In(1), "row": In(16), "batches": In(range(most + 1)), "negate": In(1), "bipolar": In(1),
            "half": In(1), "busy": Out(1),
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
        self._last = Signal(name="last_batch")
        self._step = Signal(range(ENTRIES), name="step")
        self._batch = Signal(range(1 + self.config.groups // self.config.load_groups), name="batch")
        self._negate, self._bipolar = Signal(name="negated"), Signal(name="bipolar_inputs")
        self._control(m)
        incoming = self._fetch(m)
        self._compute(m, incoming)
        return m

    def _control(self, m: Module) -> None:
        """Count steps and batches. A fill begins at step `_FIRST_READ` of a batch that is not written."""
        left = Signal.like(self.batches, name="left")
        m.d.comb += self._last.eq(left == 0)
        with m.If(self._running):
            m.d.sync += self._step.eq(self._step + 1)
            with m.If(self._step == ENTRIES - 1):
                m.d.sync += [
                    self._filling.eq(~self._last),
                    self._running.eq(~self._last),
                    self._batch.eq(self._batch + self._filling),
                    left.eq(left - 1),
                ]
        with m.Elif(self.start & ~self.busy):
            m.d.sync += [
                self._running.eq(1),
                self._filling.eq(0),
                self._step.eq(_FIRST_READ),
                self._batch.eq(0),
                left.eq(self.batches),
                self._negate.eq(self.negate),
                self._bipolar.eq(self.bipolar),
                self.write_table.eq(self.half),
            ]

    def _fetch(self, m: Module) -> Signal:
        """Read rows 3, 2, 1, 0 of the next batch in the four steps from `_FIRST_READ`; the register they come into."""
        incoming = Signal.like(self.read_data, name="incoming")
        reading = (self._step >= _FIRST_READ) & (self._step < _FIRST_READ + GROUP_INPUTS)
        m.d.comb += self.read_en.eq(self._running & ~self._last & reading)
        m.d.sync += incoming.eq(self.read_data)
        with m.If(self._running):
            with m.If(reading):
                last_read = self._step == _FIRST_READ + GROUP_INPUTS - 1
                m.d.sync += self.read_row.eq(self.read_row + Mux(last_read, Const(7, 16), Const(0xFFFF, 16)))
        with m.Else():
            m.d.sync += self.read_row.eq(self.row + (GROUP_INPUTS - 1))
        return incoming

    def _compute(self, m: Module, incoming: Signal) -> None:
        rows = Array(Signal.like(incoming, name=f"row{i}") for i in range(GROUP_INPUTS))
        for i, row in enumerate(rows):
            with m.If(self._step == ENTRIES - 1 - i):
                m.d.sync += row.eq(incoming)
        self._sum_base(m, incoming)

        # Cycle 1: the weights of the input that changes.
        selected = Signal.like(incoming, name="selected")
        first, filling = Signal(2, name="first"), Signal(_PIPELINE, name="filling_after")
        subtract = Signal(2, name="subtract")
        changed = Array(Const(flipped_input(step), 2) for step in range(ENTRIES))[self._step]
        becomes_one = Array(Const(gray(step) >> flipped_input(step) & 1, 1) for step in range(ENTRIES))[self._step]
        m.d.sync += [
            selected.eq(rows[changed]),
            subtract.eq(Cat(self._negate ^ ~becomes_one, subtract)),
            first.eq(Cat(self._step == 0, first)),
            filling.eq(Cat(self._filling, filling)),
        ]
        entry = Signal(GROUP_INPUTS * _PIPELINE, name="entry_after")
        batch = [Signal.like(self.write_batch, name=f"batch_after{i}") for i in range(_PIPELINE)]
        m.d.sync += entry.eq(Cat(self._step ^ self._step >> 1, entry))
        m.d.sync += [later.eq(now) for now, later in zip([self._batch, *batch], batch, strict=False)]

        # Cycle 2: w or 2w (step 0: w if bipolar, else nothing), inverted to be subtracted. Cycle 3: the addition.
        doubled, used = self._bipolar & ~first[0], self._bipolar | ~first[0]
        for index in range(self.values):
            weight = selected.word_select(index, 8).as_signed()
            operand = Signal(ENTRY_BITS - 1, name=f"operand{index}")
            value = Signal(ENTRY_BITS, name=f"value{index}")
            chosen = Mux(doubled, Cat(Const(0, 1), weight), Cat(weight, weight[-1])) & used.replicate(9)
            m.d.sync += operand.eq(chosen ^ subtract[0].replicate(9))
            m.d.sync += value.eq(Mux(first[1], self._base[index], value) + operand.as_signed() + subtract[1])
            m.d.comb += self.write_data.word_select(index, ENTRY_BITS).eq(value)
        m.d.comb += [
            self.write_en.eq(filling[-1]),
            self.write_entry.eq(entry[-GROUP_INPUTS:]),
            self.write_batch.eq(batch[-1]),
            self.busy.eq(self._running | filling.any()),
        ]

    def _sum_base(self, m: Module, incoming: Signal) -> None:
        """`base` = the bipolar sum of rows 3, 2 and 1 of the next batch where their bits are 0; 0 if not bipolar."""
        self._base: list[Value] = []
        subtract = ~self._negate & self._bipolar
        summing = (self._step >= ENTRIES - GROUP_INPUTS) & (self._step < ENTRIES - 1)
        begin = self._step == ENTRIES - GROUP_INPUTS
        for index in range(self.values):
            base = Signal(ENTRY_BITS, name=f"base{index}")
            weight = incoming.word_select(index, 8).as_signed() & self._bipolar.replicate(8).as_signed()
            with m.If(summing):
                inverted = (weight ^ subtract.replicate(8).as_signed()).as_signed()
                m.d.sync += base.eq(Mux(begin, 0, base) + inverted + subtract)
            self._base.append(base)
