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
from .axi import ReadClient
from .pipeline import delayed_flag
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

    Ports: `run` (level: fetch from `base` on; low stops requesting), `reads` (`ReadClient`), `o_*`: one instruction
    (`o_valid`, `o_ready`, `o_word`, `o_good`), `o_index` counts from 0.

    Throughput: one instruction in 20 cycles plus its beats (the CRC takes 32 bits per cycle).
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.beats = INSTRUCTION_BITS // config.beat_bits
        super().__init__({
            "run": In(1), "base": In(40), "reads": Out(ReadClient(config)), "o_valid": Out(1), "o_ready": In(1),
            "o_word": Out(INSTRUCTION_BITS), "o_good": Out(1), "o_index": Out(INDEX_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._request(m)
        collected = self._collect(m)
        self._check(m, collected)
        return m

    def _request(self, m: Module) -> None:
        next_index = Signal(INDEX_BITS)
        ahead = Signal(range(FETCH_AHEAD + 1))
        request = self.reads.request
        m.d.comb += [
            request.valid.eq(self.run & (ahead != FETCH_AHEAD)),
            request.payload.address.eq(self.base + (next_index << INSTRUCTION_BYTES.bit_length() - 1)),
            request.payload.length.eq(self.beats)]
        issued, taken = request.valid & request.ready, self.o_valid & self.o_ready
        m.d.sync += [ahead.eq(ahead + issued - taken)]
        with m.If(issued):
            m.d.sync += next_index.eq(next_index + 1)

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
            m.d.sync += [count.eq(0), self.o_index.eq(self.o_index + 1)]
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

    Ports: `i_*` from the decoder (`i_valid`, `i_ready`, `i_word`: an instruction, `i_index`); `available` (one bit per
    producer) and `take` (tokens taken, pulse); `put` (one bit per consumer, pulse at completion); to the engine
    `o_valid`, `o_ready`, `o_opcode`, `o_body` (they stand until `o_ready`), and back `done` (pulse, once per
    instruction and in order, at the earliest in the cycle after `o_ready`). `executing`: one is offered or in the
    engine, `blocked`: none is, and one waits for tokens; `index`: the oldest instruction that is not done. `empty`:
    nothing queued or executing.

    The engine has at most `IN_FLIGHT` instructions; after one is taken the next is offered 2 cycles later.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        super().__init__({
            "i_valid": In(1), "i_ready": Out(1), "i_word": In(INSTRUCTION_BITS), "i_index": In(INDEX_BITS),
            "available": In(ENGINES), "take": Out(ENGINES), "put": Out(ENGINES),
            "o_valid": Out(1), "o_ready": In(1), "o_opcode": Out(8), "o_body": Out(BODY_BITS), "done": In(1),
            "executing": Out(1), "blocked": Out(1), "index": Out(INDEX_BITS), "empty": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = body_bits(self.engine)
        layout = data.StructLayout({
            "opcode": 8, "wait": ENGINES, "signal": ENGINES, "index": INDEX_BITS, "body": bits})
        m.submodules.fifo = queue = fifo.SyncFIFOBuffered(width=layout.size, depth=QUEUE_DEPTH)
        entry = data.View(layout, Signal(layout, name="entry").as_value())
        head = data.View(layout, queue.r_data)
        m.d.comb += [
            entry.opcode.eq(self.i_word[:8]), entry.wait.eq(self.i_word[8:16]), entry.signal.eq(self.i_word[16:24]),
            entry.index.eq(self.i_index), entry.body.eq(self.i_word[BODY_LOW:BODY_LOW + bits]),
            queue.w_data.eq(entry.as_value()), queue.w_en.eq(self.i_valid), self.i_ready.eq(queue.w_rdy),
            self.o_opcode.eq(head.opcode), self.o_body.eq(head.body)]
        issued = Signal(name="issued")
        running, room = self._running(m, issued, head)
        satisfied = (head.wait & ~self.available) == 0
        with m.FSM() as fsm:
            with m.State("WAIT"):
                with m.If(queue.r_rdy & satisfied):
                    m.d.comb += self.take.eq(head.wait)
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += [self.o_valid.eq(room), issued.eq(room & self.o_ready), queue.r_en.eq(issued)]
                with m.If(issued):
                    m.next = "WAIT"
            m.d.comb += [
                self.executing.eq(running | fsm.ongoing("OFFER")), self.empty.eq(~queue.r_rdy & ~running),
                self.blocked.eq(queue.r_rdy & ~satisfied & ~self.executing)]
        return m

    def _running(self, m: Module, issued: Signal, head: Any) -> tuple[Value, Value]:
        """What the engine has taken: signals the oldest at `done`. Returns (there is one, there is room for one)."""
        layout = data.StructLayout({"signal": ENGINES, "index": INDEX_BITS})
        m.submodules.running = taken = fifo.SyncFIFO(width=layout.size, depth=IN_FLIGHT)
        oldest = data.View(layout, taken.r_data)
        m.d.comb += [
            taken.w_data.eq(Cat(head.signal, head.index)), taken.w_en.eq(issued), taken.r_en.eq(self.done),
            self.index.eq(Mux(taken.r_rdy, oldest.index, head.index))]
        with m.If(self.done):
            m.d.comb += self.put.eq(oldest.signal)
        return taken.r_rdy, taken.w_rdy


class Sequencer(wiring.Component):
    """Runs one program from `base` until END or an error.

    Ports: `run` (level, from start to finish; the core is reset between runs), `base` (40), `reads` (`ReadClient`);
    per queued engine e (lower-case name): `<e>_valid`, `<e>_ready`, `<e>_opcode`, `<e>_body` to the engine, `<e>_done`
    back. `ended`: END was reached, its tokens taken and every queue is empty (level). `error` (pulse), `error_code`,
    `error_engine`, `error_index`: bad instruction or semaphore overflow. `executing`, `blocked` (one bit per engine),
    `indices` (oldest unfinished instruction of every engine, INDEX_BITS each), `finished` (pulse: an instruction
    finished).

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
        m.d.comb += self.finished.eq(Cat(getattr(self, f"{e.name.lower()}_done") for e in QUEUED).any())
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

    def _decode(self, m: Module, fetch: InstructionFetch, semaphores: Semaphores,
                queues: dict[Engine, InstructionQueue]) -> None:
        opcode = fetch.o_word[:8]
        waits = fetch.o_word[8:16]
        tokens = Cat(semaphores.available[p * ENGINES + Engine.SEQUENCER] for p in range(ENGINES))
        here = INDEX_BITS * Engine.SEQUENCER
        m.d.comb += [self.error_index.eq(fetch.o_index), self.error_engine.eq(Engine.SEQUENCER),
                     self.indices[here:here + INDEX_BITS].eq(fetch.o_index)]
        # An overflow is known a few cycles after the last `done`: so long nothing is called finished.
        empty = delayed_flag(m, Cat(queue.empty for queue in queues.values()).all(), Semaphores.latency, "empty").all()
        with m.FSM():
            with m.State("RUN"):
                m.d.comb += fetch.run.eq(self.run)
                with m.If(semaphores.overflow):
                    m.d.comb += [self.error.eq(1), self.error_code.eq(ErrorCode.SEMAPHORE_OVERFLOW)]
                    m.next = "STOPPED"
                with m.Elif(fetch.o_valid & ~fetch.o_good):
                    m.d.comb += [self.error.eq(1), self.error_code.eq(ErrorCode.BAD_CHECKSUM)]
                    m.next = "STOPPED"
                with m.Elif(fetch.o_valid):
                    with m.Switch(opcode):
                        for op, engine in ENGINE_OF.items():
                            with m.Case(op):
                                if engine is Engine.SEQUENCER:
                                    with m.If(((waits & ~tokens) == 0) & empty):
                                        m.next = "ENDED"
                                else:
                                    m.d.comb += [queues[engine].i_valid.eq(1), fetch.o_ready.eq(queues[engine].i_ready)]
                        with m.Default():
                            m.d.comb += [self.error.eq(1), self.error_code.eq(ErrorCode.BAD_OPCODE)]
                            m.next = "STOPPED"
            with m.State("ENDED"):
                m.d.comb += self.ended.eq(1)
            with m.State("STOPPED"):
                pass
