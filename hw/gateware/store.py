"""Store engine: output streams of the units -> DDR (STORE, STORE_RESIDUAL).

    source<n> --------------------> beat FIFO ----> WriteClient.data
    instruction --> generator ----> burst FIFO ---> WriteClient.request      (a burst enters with its last beat)
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import Opcode
from .axi import BURST, LENGTH_BITS, MAX_BEATS, WriteClient, WriteClientInterface
from .engine import EngineControl, engine_members
from .instruction import body_layout
from .transfer import TransferGenerator, assign_transfer

QUEUED_BURSTS = 8
WAITING_BITS = 8
"""Holds the bursts without a response: those queued and those that a port has outstanding."""


class StoreEngine(wiring.Component):
    """Executes STORE and STORE_RESIDUAL (whose body is that of STORE with source 0).

    Ports: those of `engine_members`; `writes` (`WriteClient`); `source0`, ...: streams of beats. An instruction takes
    exactly the beats of its transfer from the source that it names, none from the others; a source that does not
    exist gives nothing for ever. `done` comes after the response of the last burst.

    Throughput: one beat per cycle, up to `depth` beats ahead of the port.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    error: Signal
    bases: Signal
    writes: WriteClientInterface

    def __init__(self, config: MachineConfig, sources: int, *, depth: int = 64) -> None:
        if not 1 <= sources <= 2:
            raise ValueError(f"`sources` must be 1 or 2, not `{sources!r}`")
        if depth < 2 * MAX_BEATS:
            raise ValueError(f"`depth` must be at least {2 * MAX_BEATS}, not `{depth!r}`")
        self.config, self.source_count, self.depth = config, sources, depth
        super().__init__({
            **engine_members(), "writes": Out(WriteClient(config)),
            **{f"source{i}": In(stream.Signature(config.beat_bits)) for i in range(sources)}})

    @property
    def sources(self) -> list[stream.Interface]:
        """Ports `source0`, ..."""
        return [getattr(self, f"source{i}") for i in range(self.source_count)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.control = control = EngineControl()
        m.submodules.generator = generator = TransferGenerator(self.config)
        wiring.connect(m, wiring.flipped(self.i), control.i)
        body = data.View(body_layout(Opcode.STORE), control.body)
        m.d.comb += [
            self.done.eq(control.done), self.busy.eq(control.busy), self.error.eq(self.writes.error),
            generator.i.valid.eq(control.start), *assign_transfer(generator.i.payload, body, self.bases)]
        waiting = Signal(WAITING_BITS)
        begun = self._collect(m, generator.o, body.source)
        m.d.sync += waiting.eq(waiting + begun - self.writes.response)
        m.d.comb += control.finished.eq(~generator.busy & ~waiting.any())
        return m

    def _collect(self, m: Module, bursts: stream.Interface, source: Value) -> Signal:
        """Beats of burst after burst into the FIFOs; returns the pulse 'one was taken from `bursts`'."""
        m.submodules.beats = beats = fifo.SyncFIFOBuffered(width=self.config.beat_bits, depth=self.depth)
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=BURST.size, depth=QUEUED_BURSTS)
        self._hand_over(m, beats, queue)
        left, begun, last, room = Signal(LENGTH_BITS), Signal(), Signal(), Signal()
        m.d.comb += [
            last.eq(left == 1), room.eq(beats.w_rdy & (left != 0) & (~last | queue.w_rdy)),
            queue.w_en.eq(beats.w_en & last), bursts.ready.eq((left == 0) | queue.w_en),
            begun.eq(bursts.valid & bursts.ready)]
        for number, giver in enumerate(self.sources):
            with m.If(source == number):
                m.d.comb += [
                    giver.ready.eq(room), beats.w_en.eq(giver.valid & room), beats.w_data.eq(giver.payload)]
        with m.If(beats.w_en):
            m.d.sync += left.eq(left - 1)
        burst = Signal(BURST)
        m.d.comb += queue.w_data.eq(burst)
        with m.If(begun):
            m.d.sync += [burst.eq(bursts.payload), left.eq(bursts.payload.length)]
        return begun

    def _hand_over(self, m: Module, beats: fifo.SyncFIFOBuffered, queue: fifo.SyncFIFOBuffered) -> None:
        """FIFOs to the port."""
        writes = self.writes
        m.d.comb += [
            writes.request.valid.eq(queue.r_rdy), writes.request.payload.eq(queue.r_data),
            queue.r_en.eq(writes.request.ready), writes.data.valid.eq(beats.r_rdy),
            writes.data.payload.eq(beats.r_data), beats.r_en.eq(writes.data.ready)]
