"""Sequencer: fetches, checks and distributes instructions; engines run decoupled, ordered by tokens.

    program -> fetch (512 bits, CRC) -> decode -> queue[engine] -> issue[engine] -> engine
                                                       issue waits for tokens, signals at `done`

An engine may take its next instruction before the one before is done; `done` comes once per instruction, in order.

See `spikeloom.hw.isa` for the instruction format and the meaning of tokens.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig
from spikeloom.registers import ErrorCode

from ..isa import BODY_HIGH, BODY_LOW, ENGINE_OF, FIELDS, INSTRUCTION_BYTES, Engine, Opcode
from .axi import ADDRESS_BITS, ReadClient
from .semaphores import Semaphores

INSTRUCTION_BITS = 8 * INSTRUCTION_BYTES
BODY_BITS = BODY_HIGH - BODY_LOW
ENGINES = len(Engine)
QUEUED = tuple(e for e in Engine if e is not Engine.SEQUENCER)
"""Engines with a queue; END runs in the sequencer itself."""

QUEUE_DEPTH = 32
FETCH_AHEAD = 4
"""Instructions requested ahead of the decoder."""

IN_FLIGHT = 4
"""Instructions that an engine may have taken and not finished."""

INDEX_BITS = 24


def body_bits(engine: Engine) -> int:
    """Body bits that the queue of `engine` has to keep."""
    return max(sum(f.width for f in FIELDS[op]) for op in Opcode if ENGINE_OF[op] is engine)


class InstructionFetch(wiring.Component):
    """Reads instructions in order and checks their CRC.

    Ports: `run` (level: fetch from `base` on; low begins no further request), `reads` (`ReadClient`), `o_*`: one
    instruction (`o_valid`, `o_ready`, `o_word`, `o_good`), `o_index` counts from 0. Word and index stand a cycle longer
    than `o_valid`.

    Throughput: one instruction in 20 cycles plus its beats (the CRC takes 32 bits per cycle); at most one
    request in 2 cycles: the high half of its address follows the low one by a cycle.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.beats = INSTRUCTION_BITS // config.beat_bits
        super().__init__({
            "run": In(1), "base": In(40), "reads": Out(ReadClient(config)), "o_valid": Out(1), "o_ready": In(1),
            "o_word": Out(INSTRUCTION_BITS), "o_good": Out(1), "o_index": Out(INDEX_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self.taken = Signal(name="taken")  # a cycle ago
        m.d.sync += self.taken.eq(self.o_valid & self.o_ready)
        self._request(m)
        collected = self._collect(m)
        self._check(m, collected)
        return m

    def _request(self, m: Module) -> None:
        half = ADDRESS_BITS // 2
        low, high, carry = (Signal(width, name=name) for width, name in ((half, "low"), (half, "high"), (1, "carry")))
        ahead, begun, waits = Signal(range(FETCH_AHEAD + 1)), Signal(name="begun"), Signal(name="waits")
        request, run = self.reads.request, Signal(name="was_run")
        m.d.comb += [
            request.valid.eq(waits), request.payload.address.eq(Cat(low, high)),
            request.payload.length.eq(self.beats)]
        issued = request.valid & request.ready
        m.d.sync += [run.eq(self.run), ahead.eq(ahead + issued - self.taken)]
        with m.If(issued):
            m.d.sync += [Cat(low, carry).eq(low + INSTRUCTION_BYTES), waits.eq(0)]
        with m.Elif(run & ~begun):
            m.d.sync += [Cat(low, high).eq(self.base), carry.eq(0), begun.eq(1)]
        with m.Elif(run & ~waits & (ahead != FETCH_AHEAD)):
            m.d.sync += [high.eq(high + carry), carry.eq(0), waits.eq(1)]

    def _collect(self, m: Module) -> Signal:
        """Shift beats into the instruction word; returns the flag 'a whole word is there, unchecked'."""
        width = self.config.beat_bits
        count = Signal(range(self.beats + 1))
        full = Signal()
        source = self.reads.data
        m.d.comb += [full.eq(count == self.beats), source.ready.eq(~full)]
        with m.If(source.valid & source.ready):
            m.d.sync += [self.o_word.eq(Cat(self.o_word[width:], source.payload)), count.eq(count + 1)]
        with m.If(self.o_valid & self.o_ready):
            m.d.sync += count.eq(0)
        with m.If(self.taken):
            m.d.sync += self.o_index.eq(self.o_index + 1)
        return full

    def _check(self, m: Module, collected: Signal) -> None:
        crc: Any = CRC32_ISO_HDLC(data_width=32).create()
        m.submodules.crc = crc
        shift = Signal(BODY_HIGH)
        step = Signal(range(BODY_HIGH // 32 + 1))
        m.d.comb += crc.data.eq(shift[:32])
        with m.FSM():
            with m.State("COLLECT"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [shift.eq(self.o_word[:BODY_HIGH]), step.eq(0)]
                with m.If(collected):
                    m.next = "CRC"
            with m.State("CRC"):
                m.d.comb += crc.valid.eq(1)
                m.d.sync += [shift.eq(shift >> 32), step.eq(step + 1)]
                with m.If(step == BODY_HIGH // 32 - 1):
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += self.o_good.eq(crc.crc == self.o_word[BODY_HIGH:])
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.o_valid.eq(1)
                with m.If(self.o_ready):
                    m.next = "COLLECT"


class InstructionQueue(wiring.Component):
    """Queue and issue unit of one engine.

    Ports: `i_*` from the decoder (`i_valid`, `i_ready`; `i_word`: an instruction, and `i_index` stand a cycle longer;
    two cycles at least lie between instructions); `available` (one bit per producer) and `take` (tokens taken, pulse);
    `put` (one bit per consumer, pulse at completion); to the engine `o_valid`, `o_ready`, `o_opcode`, `o_body` (they
    stand until `o_ready`), and back `done` (pulse, once per instruction and in order, at the earliest in the cycle
    after `o_ready`). `executing`: one is offered or in the engine, `blocked`: none is, and one waits for tokens;
    `index`: the oldest instruction that is not done, 2 cycles after its `done` the next. `empty`: nothing queued or
    executing. `finished`: `done`, a cycle later, with `put`.

        WAIT --tokens there, room--> OFFER (first cycle: take) --ready--> TAKEN (out of the queue) --> WAIT

    A register ends every decision: what the engine says (`o_ready`, `done`) goes into one, and no more than the state
    tells the FIFOs what to do. The tokens of an instruction are seen 2 cycles after those of the one before were taken,
    as `Semaphores` asks.

    The engine has at most `IN_FLIGHT` instructions. Latency: token to `o_valid` 1 cycle, `done` to `put` 1 cycle; after
    an instruction is taken the next is offered 3 cycles later.
    """

    latency = 1

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        super().__init__({
            "i_valid": In(1), "i_ready": Out(1), "i_word": In(INSTRUCTION_BITS), "i_index": In(INDEX_BITS),
            "available": In(ENGINES), "take": Out(ENGINES), "put": Out(ENGINES),
            "o_valid": Out(1), "o_ready": In(1), "o_opcode": Out(8), "o_body": Out(BODY_BITS), "done": In(1),
            "executing": Out(1), "blocked": Out(1), "index": Out(INDEX_BITS), "empty": Out(1), "finished": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = body_bits(self.engine)
        layout = data.StructLayout({
            "opcode": 8, "wait": ENGINES, "signal": ENGINES, "index": INDEX_BITS, "body": bits})
        m.submodules.fifo = queue = fifo.SyncFIFOBuffered(width=layout.size, depth=QUEUE_DEPTH)
        entry = data.View(layout, Signal(layout, name="entry").as_value())
        head = data.View(layout, queue.r_data)
        write = Signal(name="write")
        m.d.comb += [
            entry.opcode.eq(self.i_word[:8]), entry.wait.eq(self.i_word[8:16]), entry.signal.eq(self.i_word[16:24]),
            entry.index.eq(self.i_index), entry.body.eq(self.i_word[BODY_LOW:BODY_LOW + bits]),
            queue.w_data.eq(entry.as_value()), queue.w_en.eq(write),
            self.o_opcode.eq(head.opcode), self.o_body.eq(head.body)]
        m.d.sync += [write.eq(self.i_valid & self.i_ready), self.i_ready.eq(queue.w_rdy)]
        running, room = self._running(m, queue.r_en, head)
        satisfied = (head.wait & ~self.available) == 0
        fresh = Signal(name="fresh")
        m.d.sync += fresh.eq(0)
        with m.If(fresh):
            m.d.comb += self.take.eq(head.wait)
        with m.FSM() as fsm:
            with m.State("WAIT"):
                with m.If(queue.r_rdy & satisfied & room):
                    m.d.sync += fresh.eq(1)
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.o_valid.eq(1)
                with m.If(self.o_ready):
                    m.next = "TAKEN"
            with m.State("TAKEN"):
                m.d.comb += queue.r_en.eq(1)
                m.next = "WAIT"
            m.d.comb += [
                self.executing.eq(running | ~fsm.ongoing("WAIT")), self.empty.eq(~queue.r_rdy & ~running),
                self.blocked.eq(queue.r_rdy & ~satisfied & ~self.executing)]
        return m

    def _running(self, m: Module, taken: Value, head: Any) -> tuple[Value, Value]:
        """What the engine has taken: signals the oldest at `done`. Returns (there is one, there is room for one)."""
        layout = data.StructLayout({"signal": ENGINES, "index": INDEX_BITS})
        m.submodules.running = inside = fifo.SyncFIFO(width=layout.size, depth=IN_FLIGHT)
        oldest = data.View(layout, inside.r_data)
        m.d.sync += self.finished.eq(self.done)
        m.d.comb += [
            inside.w_data.eq(Cat(head.signal, head.index)), inside.w_en.eq(taken), inside.r_en.eq(self.finished),
            self.index.eq(Mux(inside.r_rdy, oldest.index, head.index))]
        with m.If(self.finished):
            m.d.comb += self.put.eq(oldest.signal)
        return inside.r_rdy, inside.w_rdy


class Sequencer(wiring.Component):
    """Runs one program from `base` until END or an error.

    Ports: `run` (level, from start to finish; the core is reset between runs), `base` (40), `reads` (`ReadClient`);
    per queued engine e (lower-case name): `<e>_valid`, `<e>_ready`, `<e>_opcode`, `<e>_body` to the engine, `<e>_done`
    back. `ended`: END was reached, its tokens taken and every queue is empty (level). `error` (pulse), `error_code`,
    `error_engine`, `error_index`: bad instruction or semaphore overflow. `executing`, `blocked` (one bit per engine),
    `indices` (oldest unfinished instruction of every engine, INDEX_BITS each; 2 cycles after its `done` the next),
    `finished` (pulse: an instruction finished, a cycle ago).

    Opcodes are looked at a cycle ahead of their instructions (`InstructionFetch` holds the word for longer than that).
    A queue that is full holds the fetch up; since waits point backwards in program order this cannot deadlock.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        members: dict[str, object] = {
            "run": In(1), "base": In(40), "reads": Out(ReadClient(config)), "ended": Out(1), "error": Out(1),
            "error_code": Out(8), "error_engine": Out(4), "error_index": Out(INDEX_BITS), "executing": Out(ENGINES),
            "blocked": Out(ENGINES), "indices": Out(INDEX_BITS * ENGINES), "finished": Out(1)}
        for engine in QUEUED:
            name = engine.name.lower()
            members |= {f"{name}_valid": Out(1), f"{name}_ready": In(1), f"{name}_opcode": Out(8),
                        f"{name}_body": Out(BODY_BITS), f"{name}_done": In(1)}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fetch = fetch = InstructionFetch(self.config)
        m.submodules.semaphores = semaphores = Semaphores(ENGINES)
        wiring.connect(m, fetch.reads, wiring.flipped(self.reads))
        m.d.comb += fetch.base.eq(self.base)
        queues = {engine: self._queue(m, engine, semaphores, fetch) for engine in QUEUED}
        self._decode(m, fetch, semaphores, queues)
        m.d.comb += self.finished.eq(Cat(queue.finished for queue in queues.values()).any())
        return m

    def _queue(self, m: Module, engine: Engine, semaphores: Semaphores, fetch: InstructionFetch) -> InstructionQueue:
        name = engine.name.lower()
        queue = InstructionQueue(engine)
        m.submodules[f"queue_{name}"] = queue
        m.d.comb += [
            queue.i_word.eq(fetch.o_word), queue.i_index.eq(fetch.o_index),
            getattr(self, f"{name}_valid").eq(queue.o_valid), queue.o_ready.eq(getattr(self, f"{name}_ready")),
            getattr(self, f"{name}_opcode").eq(queue.o_opcode), getattr(self, f"{name}_body").eq(queue.o_body),
            queue.done.eq(getattr(self, f"{name}_done")), self.executing[engine].eq(queue.executing),
            self.blocked[engine].eq(queue.blocked),
            self.indices[INDEX_BITS * engine:INDEX_BITS * (engine + 1)].eq(queue.index)]
        for other in Engine:
            m.d.comb += [
                queue.available[other].eq(semaphores.available[other * ENGINES + engine]),
                semaphores.take[other * ENGINES + engine].eq(queue.take[other]),
                semaphores.put[engine * ENGINES + other].eq(queue.put[other])]
        return queue

    def _opcode(self, m: Module, opcode: Value) -> tuple[Signal, Signal, Signal]:
        """Registers behind the opcode, which stands long before the instruction is offered.

        Returns (its queue, one bit each in the order of `QUEUED`; it is END; it is unknown).
        """
        for_queue, for_end, unknown = (
            Signal(width, name=name) for name, width in (("for_queue", len(QUEUED)), ("for_end", 1), ("unknown", 1)))
        m.d.sync += [for_queue.eq(0), for_end.eq(0), unknown.eq(0)]
        with m.Switch(opcode):
            for op, engine in ENGINE_OF.items():
                with m.Case(op):
                    m.d.sync += (for_end if engine is Engine.SEQUENCER else for_queue[QUEUED.index(engine)]).eq(1)
            with m.Default():
                m.d.sync += unknown.eq(1)
        return for_queue, for_end, unknown

    def _decode(self, m: Module, fetch: InstructionFetch, semaphores: Semaphores,
                queues: dict[Engine, InstructionQueue]) -> None:
        for_queue, for_end, unknown = self._opcode(m, fetch.o_word[:8])
        waits = fetch.o_word[8:16]
        tokens = Cat(semaphores.available[p * ENGINES + Engine.SEQUENCER] for p in range(ENGINES))
        here = INDEX_BITS * Engine.SEQUENCER
        m.d.comb += [self.error_index.eq(fetch.o_index), self.error_engine.eq(Engine.SEQUENCER),
                     self.indices[here:here + INDEX_BITS].eq(fetch.o_index)]
        # A cycle late, thus not before an overflow by the last `put` is known. The fetch brings END many cycles after
        # the instruction before it, which is at the head of its queue by then.
        empty = Signal(name="empty")
        m.d.sync += empty.eq(Cat(queue.empty for queue in queues.values()).all())
        # So is `ready`: a queue that has room keeps it until the fetch brings something.
        ready = Signal(name="ready")
        m.d.sync += ready.eq((for_queue & Cat(queue.i_ready for queue in queues.values())).any())
        with m.FSM():
            with m.State("RUN"):
                m.d.comb += fetch.run.eq(self.run)
                with m.If(semaphores.overflow):
                    m.d.comb += [self.error.eq(1), self.error_code.eq(ErrorCode.SEMAPHORE_OVERFLOW)]
                    m.next = "STOPPED"
                with m.Elif(fetch.o_valid & ~fetch.o_good):
                    m.d.comb += [self.error.eq(1), self.error_code.eq(ErrorCode.BAD_CHECKSUM)]
                    m.next = "STOPPED"
                with m.Elif(fetch.o_valid & unknown):
                    m.d.comb += [self.error.eq(1), self.error_code.eq(ErrorCode.BAD_OPCODE)]
                    m.next = "STOPPED"
                with m.Elif(fetch.o_valid):
                    with m.If(ready):
                        m.d.comb += [fetch.o_ready.eq(1),
                                     Cat(queue.i_valid for queue in queues.values()).eq(for_queue)]
                    with m.If(for_end & ((waits & ~tokens) == 0) & empty):
                        m.next = "ENDED"
            with m.State("ENDED"):
                m.d.comb += self.ended.eq(1)
            with m.State("STOPPED"):
                pass
