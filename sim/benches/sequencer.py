"""Sequencer: random programs with random engines; order, tokens, END, bad instructions."""

import itertools
import random
import zlib

import cocotb
from cocotb.queue import Queue
from cocotb.triggers import ReadOnly, RisingEdge

from spikeloom.hw.gateware.sequencer import IN_FLIGHT, INDEX_BITS
from spikeloom.hw.isa import FIELDS, Engine, Instruction, Opcode, pack_fields
from spikeloom.registers import ErrorCode

from . import support

QUEUED = [engine for engine in Engine if engine is not Engine.SEQUENCER]
OPCODES = [opcode for opcode in Opcode if opcode is not Opcode.END]


def random_program(rng: random.Random, length: int) -> list[Instruction]:
    """Instructions with random tokens: every wait has its signal before it; END waits for a store."""
    program = []
    for _ in range(length):
        opcode = rng.choice(OPCODES)
        body = {f.name: rng.getrandbits(f.width) - (1 << f.width - 1 if f.signed else 0) for f in FIELDS[opcode]}
        program.append(Instruction(opcode=opcode, body=body))
    last: dict[tuple[Engine, Engine], int] = {}
    for index, instruction in enumerate(program):
        for producer in QUEUED:
            earlier = [i for i in range(index) if program[i].engine is producer]
            pair = (producer, instruction.engine)
            if producer is instruction.engine or not earlier or rng.random() < 0.6:
                continue
            source = earlier[-1]
            if source <= last.get(pair, -1):
                continue
            last[pair] = source
            program[source].signal |= {instruction.engine}
            instruction.wait |= {producer}
    end = Instruction(opcode=Opcode.END)
    if last:
        program[-1].signal |= {Engine.SEQUENCER}
        end.wait = frozenset({program[-1].engine})
    return [*program, end]


class Memory:
    """Answers the instruction fetch, with random pauses."""

    def __init__(self, dut, image: bytes, beat_bytes: int, rng: random.Random) -> None:
        self.dut, self.image, self.beat_bytes, self.rng = dut, image, beat_bytes, rng

    async def serve(self) -> None:
        """For ever: take requests, one after the other at once, and give their beats."""
        source = support.StreamSource(self.dut, "reads__data", 0.3, self.rng)
        requests: Queue[support.Received] = Queue()
        cocotb.start_soon(self._take(requests))
        while True:
            request = await requests.get()
            address, length = request.payload & (1 << 40) - 1, request.payload >> 40
            for beat in range(length):
                at = address - support.parameters()["base"] + beat * self.beat_bytes
                word = self.image[at:at + self.beat_bytes].ljust(self.beat_bytes, b"\0")
                await source.send([int.from_bytes(word, "little")])

    async def _take(self, requests: Queue[support.Received]) -> None:
        sink = support.StreamSink(self.dut, "reads__request", 0.3, self.rng)
        while True:
            (request,) = await sink.receive(1)
            requests.put_nowait(request)


class FakeEngine:
    """Takes instructions, up to `depth` before the first is done; each is done a random time (at most `pause` cycles)
    after the one before, often in the very next cycle.

    Logs (cycle taken, cycle done, opcode, body, index reported a cycle after `done`) and how many were in it at most.
    """

    def __init__(self, dut, engine: Engine, rng: random.Random, depth: int, pause: int) -> None:
        self.dut, self.engine, self.rng, self.depth, self.most = dut, engine, rng, depth, 0
        self.pause = pause
        self.log: list[tuple[int, int, int, int, int]] = []

    def _wait(self) -> int:
        """Cycles until the oldest instruction is done."""
        return 1 + self.rng.choice([0, self.rng.randrange(self.pause)])

    async def serve(self) -> None:
        """For ever."""
        name = self.engine.name.lower()
        port = {key: getattr(self.dut, f"{name}_{key}") for key in ("valid", "ready", "opcode", "body", "done")}
        inside: list[tuple[int, int, int]] = []
        end, late = 0, None
        while True:
            done = bool(inside) and support.cycle() >= end
            ready = len(inside) < self.depth and self.rng.random() < 0.5
            port["ready"].value, port["done"].value = int(ready), int(done)
            await ReadOnly()
            now = support.cycle()
            if late:
                at, opcode, body = late
                index = int(self.dut.indices.value) >> INDEX_BITS * self.engine & (1 << INDEX_BITS) - 1
                self.log.append((at, now - 1, opcode, body, index))
            late = inside.pop(0) if done else None
            if done:
                end = now + self._wait()
            if ready and port["valid"].value:
                end = end if inside else now + self._wait()
                inside.append((now, int(port["opcode"].value), int(port["body"].value)))
                self.most = max(self.most, len(inside))
            await RisingEdge(self.dut.clk)


async def run(dut, image: bytes, rng: random.Random, pause: int = 400) -> dict[Engine, FakeEngine]:
    """Start memory, engines and the sequencer."""
    config = support.config()
    await support.start(dut)
    dut.base.value = support.parameters()["base"]
    cocotb.start_soon(Memory(dut, image, config.beat_bytes, rng).serve())
    depths = dict(zip(QUEUED, itertools.cycle([1, 2, IN_FLIGHT, IN_FLIGHT + 2]), strict=False))
    engines = {e: FakeEngine(dut, e, random.Random(rng.random()), depth, pause) for e, depth in depths.items()}
    for engine in engines.values():
        cocotb.start_soon(engine.serve())
    dut.run.value = 1
    return engines


async def until(dut, name: str, limit: int = 60_000) -> None:
    """Wait for a level; AssertionError after `limit` cycles."""
    for _ in range(limit):
        await ReadOnly()
        if getattr(dut, name).value:
            return
        await RisingEdge(dut.clk)
    raise AssertionError(f"{name} did not come within {limit} cycles")


@cocotb.test()
async def runs_programs_in_token_order(dut):
    """Each engine gets its instructions in order, each only after all signals that it waits for."""
    rng = random.Random(support.seed())
    program = random_program(rng, 60)
    engines = await run(dut, b"".join(i.encode() for i in program), rng)
    await until(dut, "ended")
    done_at: dict[int, int] = {}
    position = dict.fromkeys(QUEUED, 0)
    for index, instruction in enumerate(program[:-1]):
        log = engines[instruction.engine].log
        taken, done, opcode, body, reported = log[position[instruction.engine]]
        position[instruction.engine] += 1
        done_at[index] = done
        expected = pack_fields(FIELDS[instruction.opcode], instruction.body, "bench")
        got = opcode, body & (1 << expected.bit_length()) - 1
        assert got == (instruction.opcode, expected), f"instruction {index}"
        assert reported == index, f"instruction {index} finished, the oldest one reported is {reported}"
        for producer in instruction.wait:
            source = max(i for i in range(index) if program[i].engine is producer
                         and instruction.engine in program[i].signal)
            assert done_at[source] < taken, f"instruction {index} did not wait for instruction {source}"
    assert all(len(engines[e].log) == position[e] for e in QUEUED)
    most = {engine.depth: engine.most for engine in engines.values()}
    assert most[1] == 1
    assert most[IN_FLIGHT + 2] <= IN_FLIGHT
    assert max(most.values()) > 1, "no engine was given an instruction before the one before was done"


def bad_instruction(kind: str, good: bytes, rng: random.Random) -> tuple[bytes, ErrorCode]:
    """64 bytes that the sequencer must refuse, and the error expected."""
    if kind == "zero":
        return bytes(64), ErrorCode.BAD_CHECKSUM
    if kind == "flipped":
        flipped = bytearray(good)
        flipped[rng.randrange(64)] ^= 1 << rng.randrange(8)
        return bytes(flipped), ErrorCode.BAD_CHECKSUM
    body = bytes([rng.randint(max(Opcode) + 1, 255)]) + good[1:60]
    return body + zlib.crc32(body).to_bytes(4, "little"), ErrorCode.BAD_OPCODE


@cocotb.test()
@cocotb.parametrize(kind=["zero", "flipped", "opcode"])
async def refuses_bad_instructions(dut, kind):
    """Zeroed memory, a flipped bit, an unknown opcode with a right checksum: each with its index."""
    rng = random.Random(f"{support.seed()} {kind}")
    good = Instruction(opcode=Opcode.LOAD, body={"run": 1, "count1": 1, "count2": 1}).encode()
    bad, code = bad_instruction(kind, good, rng)
    count = rng.randint(0, 4)
    await run(dut, good * count + bad, rng)
    await until(dut, "error")
    assert int(dut.error_code.value) == code
    assert int(dut.error_index.value) == count


@cocotb.test()
async def overflow_is_known_before_the_end(dut):
    """The last of 256 signals that nobody waits for is an error, even with END right behind."""
    body = {"run": 1, "count1": 1, "count2": 1}
    signal = Instruction(opcode=Opcode.LOAD, body=body, signal=frozenset({Engine.STORE}))
    program = signal.encode() * 256 + Instruction(opcode=Opcode.END).encode()
    await run(dut, program, random.Random(support.seed()), pause=1)
    await until(dut, "error")
    assert int(dut.error_code.value) == ErrorCode.SEMAPHORE_OVERFLOW
    await support.ticks(dut, 20)
    assert int(dut.ended.value) == 0


@cocotb.test()
async def never_more_than_in_flight(dut):
    """An engine that takes whatever comes and is slow is given no more than `IN_FLIGHT`."""
    slow = QUEUED[3]
    opcode = next(opcode for opcode in OPCODES if Instruction(opcode=opcode).engine is slow)
    program = Instruction(opcode=opcode, body=dict.fromkeys((f.name for f in FIELDS[opcode]), 1)).encode() * 12
    engines = await run(dut, program + Instruction(opcode=Opcode.END).encode(), random.Random(support.seed()), 2000)
    assert engines[slow].depth > IN_FLIGHT
    await until(dut, "ended")
    assert engines[slow].most <= IN_FLIGHT
    assert len(engines[slow].log) == 12
