"""Sequencer: random programs with random engines; order, tokens, END, bad instructions."""

import random
import zlib

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from spikeloom.config import MachineConfig
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
        """For ever: take requests, give their beats."""
        source = support.StreamSource(self.dut, "reads__data", 0.3, self.rng)
        sink = support.StreamSink(self.dut, "reads__request", 0.3, self.rng)
        while True:
            (request,) = await sink.receive(1)
            address, length = request.payload & (1 << 40) - 1, request.payload >> 40
            for beat in range(length):
                at = address - support.parameters()["base"] + beat * self.beat_bytes
                word = self.image[at:at + self.beat_bytes].ljust(self.beat_bytes, b"\0")
                await source.send([int.from_bytes(word, "little")])


class FakeEngine:
    """Takes instructions, works for a random time, says done; logs (cycle taken, cycle done, opcode, body)."""

    def __init__(self, dut, engine: Engine, rng: random.Random) -> None:
        self.dut, self.name, self.rng = dut, engine.name.lower(), rng
        self.log: list[tuple[int, int, int, int]] = []

    async def serve(self) -> None:
        """For ever."""
        port = {key: getattr(self.dut, f"{self.name}_{key}") for key in ("valid", "ready", "opcode", "body", "done")}
        while True:
            ready = self.rng.random() < 0.5
            port["ready"].value = int(ready)
            await ReadOnly()
            taken = ready and bool(port["valid"].value)
            opcode, body = int(port["opcode"].value), int(port["body"].value)
            at = support.cycle()
            await RisingEdge(self.dut.clk)
            if not taken:
                continue
            port["ready"].value = 0
            await support.ticks(self.dut, self.rng.randrange(200))
            port["done"].value = 1
            self.log.append((at, support.cycle(), opcode, body))
            await RisingEdge(self.dut.clk)
            port["done"].value = 0


async def run(dut, image: bytes, rng: random.Random) -> dict[Engine, FakeEngine]:
    """Start memory, engines and the sequencer."""
    config = MachineConfig(**support.parameters()["config"])
    await support.start(dut)
    dut.base.value = support.parameters()["base"]
    cocotb.start_soon(Memory(dut, image, config.beat_bytes, rng).serve())
    engines = {engine: FakeEngine(dut, engine, random.Random(rng.random())) for engine in QUEUED}
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
        taken, done, opcode, body = log[position[instruction.engine]]
        position[instruction.engine] += 1
        done_at[index] = done
        expected = pack_fields(FIELDS[instruction.opcode], instruction.body, "bench")
        got = opcode, body & (1 << expected.bit_length()) - 1
        assert got == (instruction.opcode, expected), f"instruction {index}"
        for producer in instruction.wait:
            source = max(i for i in range(index) if program[i].engine is producer
                         and instruction.engine in program[i].signal)
            assert done_at[source] < taken, f"instruction {index} did not wait for instruction {source}"
    assert all(len(engines[e].log) == position[e] for e in QUEUED)


def bad_instruction(kind: str, good: bytes, rng: random.Random) -> tuple[bytes, ErrorCode]:
    """64 bytes that the sequencer must refuse, and the error expected."""
    if kind == "zero":
        return bytes(64), ErrorCode.BAD_CHECKSUM
    if kind == "flipped":
        flipped = bytearray(good)
        flipped[rng.randrange(64)] ^= 1 << rng.randrange(8)
        return bytes(flipped), ErrorCode.BAD_CHECKSUM
    body = bytes([rng.randint(10, 255)]) + good[1:60]
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
