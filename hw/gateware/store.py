"""Store engine: streams of beats -> DDR (STORE; also the second half of STORE_RESIDUAL).

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
from .engine import EndQueue, EngineControl, engine_members
from .instruction import body_layout
from .transfer import TransferGenerator, assign_transfer

QUEUED_BURSTS = 8

class StoreEngine(wiring.Component):
    """Executes STORE.

    Ports: those of `engine_members`; `writes` (`WriteClient`); `source0`, ...: streams of beats; `wants`: beats of an
    accepted instruction are still to be taken. An instruction takes exactly the beats of its transfer from the source
    that it names (with one source: from that), none from the others. `done` comes after the response of its last burst.

    Throughput: one beat per cycle, up to `depth` beats ahead of the port. The beats of the next instruction follow
    while responses are awaited, after five cycles unless the last burst takes longer than that.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    error: Signal
    bases: Signal
    writes: WriteClientInterface
    wants: Signal

    def __init__(self, config: MachineConfig, sources: int, *, depth: int = 64) -> None:
        if not 1 <= sources <= 2:
            raise ValueError(f"`sources` must be 1 or 2, not `{sources!r}`")
        if depth < 2 * MAX_BEATS:
            raise ValueError(f"`depth` must be at least {2 * MAX_BEATS}, not `{depth!r}`")
        self.config, self.source_count, self.depth = config, sources, depth
        super().__init__({
            **engine_members(), "writes": Out(WriteClient(config)), "wants": Out(1),
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
        body = data.View(body_layout(Opcode.STORE), control.o.payload.body)
        # The last burst of the transfer before may still be collected: it has its source with it.
        m.d.comb += [
            self.done.eq(control.done), self.busy.eq(control.busy), control.o.ready.eq(~generator.busy),
            generator.i.valid.eq(control.o.valid & control.o.ready),
            *assign_transfer(generator.i.payload, body, self.bases)]
        m.d.sync += self.error.eq(self.writes.error)  # with the `done` that follows from the response, or before
        source = Signal.like(body.source)
        with m.If(control.o.valid & control.o.ready):
            m.d.sync += source.eq(body.source)
        left = self._collect(m, generator.o, source)
        m.d.comb += self.wants.eq(control.o.valid | generator.busy | left)
        m.submodules.ends = ends = EndQueue()
        m.d.comb += [
            ends.given.eq(generator.ended), ends.total.eq(generator.bursts), ends.step.eq(self.writes.response),
            control.ended.eq(ends.over | ends.last & ends.step), ends.taken.eq(control.ended)]
        return m

    def _collect(self, m: Module, bursts: stream.Interface, given: Signal) -> Value:
        """Beats of burst after burst into the FIFOs; `given`: the source of `bursts`. Returns 'beats are left'."""
        m.submodules.beats = beats = fifo.SyncFIFOBuffered(width=self.config.beat_bits, depth=self.depth)
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=BURST.size, depth=QUEUED_BURSTS)
        self._hand_over(m, beats, queue)
        left, last, some, room = Signal(LENGTH_BITS), Signal(), Signal(), Signal()
        burst, source = Signal(BURST), Signal.like(given)
        following, waits, next_source = Signal(BURST), Signal(), Signal.like(given)
        takes, beats_room, burst_room = Signal(), Signal(), Signal()
        m.d.comb += [
            room.eq(beats_room & some & (~last | burst_room)), takes.eq(~some | queue.w_en),
            queue.w_en.eq(beats.w_en & last), bursts.ready.eq(~waits), queue.w_data.eq(burst)]
        m.d.sync += [  # room for what comes in this cycle and in the next
            beats_room.eq(beats.w_level < self.depth - 1), burst_room.eq(queue.w_level < QUEUED_BURSTS - 1)]
        for number, giver in enumerate(self.sources):
            with m.If((source == number) | (self.source_count == 1)):
                m.d.comb += [
                    giver.ready.eq(room), beats.w_en.eq(giver.valid & room), beats.w_data.eq(giver.payload)]
        with m.If(bursts.ready):
            m.d.sync += [following.eq(bursts.payload), next_source.eq(given), waits.eq(bursts.valid)]
        with m.If(takes):
            m.d.sync += [
                burst.eq(following), source.eq(next_source), left.eq(following.length), some.eq(waits),
                last.eq(following.length == 1)]
            with m.If(waits):
                m.d.sync += waits.eq(0)
        with m.Elif(beats.w_en):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
        return some | waits

    def _hand_over(self, m: Module, beats: fifo.SyncFIFOBuffered, queue: fifo.SyncFIFOBuffered) -> None:
        """FIFOs to the port."""
        writes = self.writes
        m.d.comb += [
            writes.request.valid.eq(queue.r_rdy), writes.request.payload.eq(queue.r_data),
            queue.r_en.eq(writes.request.ready), writes.data.valid.eq(beats.r_rdy),
            writes.data.payload.eq(beats.r_data), beats.r_en.eq(writes.data.ready)]
