"""Store engine of the residual buffer: items -> DDR (STORE_RESIDUAL).

    instruction --> StoreEngine ---wants---> row counter --store_row--> residual buffer
                         ^                        ^ room                      | read_data
                         '------ 16 beats <-- FIFO of items <-----------------'
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spikeloom.config import MachineConfig

from ..isa import Opcode
from .axi import WriteClient, WriteClientInterface
from .beat_output import BeatOutput
from .credit_fifo import CreditFifo
from .engine import engine_members
from .instruction import body_layout
from .shared import ResetInserter
from .store import StoreEngine

ITEM_DEPTH = 4
"""Items held: the read latency of the buffer is hidden behind the 16 beats of an item, with some to spare."""


class ResidualStoreEngine(wiring.Component):
    """Executes STORE_RESIDUAL.

    Ports: those of `engine_members`; `writes` (`WriteClient`); `store_valid`, `store_row`, `store_ready`,
    `store_data_valid`, `read_data`: read port of `ResidualBuffer`.

    Items `item`, `item` + 1, ... fill the transfer, 16 beats each; of the last one as many as are left. Row numbers
    wrap like those of the buffer. Up to `ITEM_DEPTH` + 1 items beyond the last one are read, too, and dropped.

    Throughput: one beat per cycle, while the buffer accepts one read in 16 cycles. The next instruction is taken when
    all items of the one before are read, before the responses to its writes.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    error: Signal
    bases: Signal
    writes: WriteClientInterface
    store_valid: Signal
    store_row: Signal
    store_ready: Signal
    store_data_valid: Signal
    read_data: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            **engine_members(), "writes": Out(WriteClient(config)), "store_valid": Out(1),
            "store_row": Out(ceil_log2(config.residual_depth)), "store_ready": In(1), "store_data_valid": In(1),
            "read_data": In(config.residual_beats * config.beat_bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.store = store = StoreEngine(self.config, sources=1)
        wiring.connect(m, store.writes, wiring.flipped(self.writes))
        begin, free, reading = Signal(), Signal(), Signal(range(ITEM_DEPTH + 1))
        # When the next instruction begins no item is on the way, so that what was read too much can be dropped.
        m.d.sync += free.eq(~store.wants & (reading == 0))  # stays so until an instruction is taken
        m.d.comb += [
            store.i.payload.eq(self.i.payload),
            store.i.valid.eq(self.i.valid & free), self.i.ready.eq(store.i.ready & free),
            begin.eq(self.i.valid & self.i.ready),
            store.bases.eq(self.bases), self.done.eq(store.done), self.busy.eq(store.busy), self.error.eq(store.error)]
        body = data.View(body_layout(Opcode.STORE_RESIDUAL), self.i.payload.body)
        accepted = Signal()
        m.d.comb += accepted.eq(self.store_valid & self.store_ready)
        m.d.sync += reading.eq(reading + accepted - self.store_data_valid)
        with m.If(begin):
            m.d.sync += self.store_row.eq(body.item)
        with m.Elif(accepted):
            m.d.sync += self.store_row.eq(self.store_row + 1)
        self._serialise(m, store, begin, accepted)
        return m

    def _serialise(self, m: Module, store: StoreEngine, begin: Signal, accepted: Signal) -> None:
        """Items to beats; both stages are emptied when an instruction begins."""
        bits, beats = self.config.beat_bits, self.config.residual_beats
        items, output = CreditFifo(beats * bits, ITEM_DEPTH), BeatOutput(bits, (beats,))
        m.submodules.items, m.submodules.output = ResetInserter(begin)(items), ResetInserter(begin)(output)
        wiring.connect(m, items.o, output.inputs[0])
        wiring.connect(m, output.o, store.sources[0])
        m.d.comb += [
            output.last.eq(beats - 1), self.store_valid.eq(store.wants & items.room), items.reserve.eq(accepted),
            items.push.eq(self.store_data_valid), items.item.eq(self.read_data)]
