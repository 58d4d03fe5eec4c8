"""Table fill: gets the tables of each chunk into a half that no position looks up any more, ahead of the walk.

    i: chunks -> held --tables filled--> o: chunks, with the half of their tables
                  '-> table loader <- the chunk after it, once the other half is free

While one chunk is walked the next is held here, and its tables are filled; when that is done and the walk is about
to end, the loader already begins with the tables of the chunk that waits at `i`.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import Accumulate, Core
from .chunk_fetch import chunk_layout

__all__ = ["TableFill", "filled_layout"]


def filled_layout(config: MachineConfig) -> data.StructLayout:
    """A chunk that can be walked: `half` of its tables; `apart`: only when all that was walked before is finished."""
    return data.StructLayout({"chunk": chunk_layout(config), "half": 1, "apart": 1})


class TableFill(wiring.Component):
    """Drives the table loader.

    Ports:
        i: Stream of `chunk_layout`.
        o: Stream of `filled_layout`. A chunk is handed over in the cycle of the last position of the one before, or
            later, and walked from the next cycle on.
        ending: At most `Walker.near` positions are to come after that of this cycle, of all chunks handed over.
        start, row, batches, negate, bipolar, half: To the table loader.
        core: The unit whose tables it writes.
        ready, filled: From the table loader.

    A chunk that loads or swaps uses the half that the one before it does not use, any other the same half. A half
    is filled when all positions that look it up but the last `Walker.near` - 1 have been walked: these must look it up
    before the first write, `TableLoader.latency` cycles after `start`.
    `apart` marks the first chunk of an instruction that uses another unit than the one before or the Hamming unit, or
    that goes on with accumulators in an order of its own.
    """

    i: stream.Interface
    o: stream.Interface
    ending: Signal
    start: Signal
    row: Signal
    batches: Signal
    negate: Signal
    bipolar: Signal
    half: Signal
    core: Signal
    ready: Signal
    filled: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            "i": In(stream.Signature(chunk_layout(config))), "o": Out(stream.Signature(filled_layout(config))),
            "ending": In(1), "start": Out(1), "row": Out(16),
            "batches": Out(range(config.groups // config.load_groups + 1)), "negate": Out(1), "bipolar": Out(1),
            "half": Out(1), "core": Out(2), "ready": In(1), "filled": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held, holds = Signal(filled_layout(self.config), name="held"), Signal(name="holds")
        held_loads, held_swaps, begun, given_begun = (
            Signal(name=name) for name in ("held_loads", "held_swaps", "begun", "given_begun"))
        fills = Signal(2, name="fills")  # finished, and their chunks not handed over
        given, handed = self.i.payload, Signal(name="handed")
        m.d.comb += [self.o.payload.eq(held), self.i.ready.eq(~holds), handed.eq(self.o.valid & self.o.ready)]
        m.d.sync += [
            self.o.valid.eq(holds & ~handed & (~held_loads | (fills != 0))),
            fills.eq(fills + self.filled - (handed & held_loads))]
        with m.If(handed):
            m.d.sync += holds.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                holds.eq(1), held.chunk.eq(given), held.half.eq(held.half ^ (given.loads | given.common.swap)),
                held_loads.eq(given.loads), held_swaps.eq(given.common.swap),
                held.apart.eq(self._apart(given, held.chunk)), begun.eq(given_begun), given_begun.eq(0)]

        ending, own, ahead = Signal(name="was_ending"), Signal(name="own"), Signal(name="ahead")
        chosen = Signal(chunk_layout(self.config), name="chosen")
        m.d.sync += ending.eq(self.ending)
        m.d.comb += [
            own.eq(holds & held_loads & ~begun),
            ahead.eq(holds & self.i.valid & given.loads & ~given_begun & (given.body.core == held.chunk.body.core)
                     & (~held_loads & ~held_swaps | (begun | held_swaps) & ending)),
            chosen.eq(Mux(own, held.chunk.as_value(), given.as_value())),
            self.start.eq(own | ahead), self.half.eq(Mux(own, held.half, ~held.half)),
            self.row.eq(chosen.common.operand), self.negate.eq(chosen.common.negate),
            self.bipolar.eq(chosen.common.bipolar), self.batches.eq(self._batches(chosen.body.core))]
        with m.If(self.start & self.ready):
            m.d.sync += self.core.eq(chosen.body.core)
            with m.If(own):
                m.d.sync += begun.eq(1)
            with m.Else():
                m.d.sync += given_begun.eq(1)
        return m

    def _batches(self, core: Value) -> Value:
        config = self.config
        array, depthwise = (groups // config.load_groups for groups in (config.groups, config.depthwise_groups))
        return Mux(core == Core.DEPTHWISE, depthwise, array)

    def _apart(self, chunk: data.View, before: data.View) -> Value:
        def order(view: data.View) -> Value:
            return Cat(view.body.rows, view.body.cols, view.body.skip, view.body.acc_base)

        other_unit = (chunk.body.core != before.body.core) | (chunk.body.core == Core.HAMMING)
        goes_on = (chunk.common.accumulate != Accumulate.ZERO) | chunk.common.single
        other_order = goes_on & (order(chunk) != order(before))
        return chunk.first & (other_unit | other_order)
