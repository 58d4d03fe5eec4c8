"""Load engine, LOAD: words from DDR to consecutive bank addresses."""

import itertools
import random

import cocotb

from spikeloom.hw.isa import Opcode

from . import dma, memory, support

OP = Opcode.LOAD


def instruction(rng: random.Random, config, least: int = 1, most: int = 400) -> dict[str, int]:
    return {**dma.random_transfer(rng, config, least, most), "address": rng.getrandbits(20),
            "bank_mask": rng.randrange(1, 1 << config.banks)}


def expected(config, ddr: memory.Ddr, body) -> list[tuple[int, ...]]:
    region = ddr.regions[body["region"]]
    mask = body["bank_mask"]
    return [(mask, (body["address"] + k) % (1 << 20), dma.spread(config, mask, dma.beat_at(config, region, offset)))
            for k, offset in enumerate(dma.beat_offsets(config, body))]


async def begin(dut, stall: float = 0.3, planes: float = 0.0):
    """Memory that stalls; in a share `planes` of the cycles the banks take no write of the load engine."""
    config, rng = support.config(), random.Random(support.seed())
    ddr = memory.Ddr.filled(rng)
    await dma.start(dut)
    return config, rng, ddr, memory.ReadRam(dut, ddr, stall), dma.BankWrites(dut, planes)


@cocotb.test()
async def words_in_order(dut):
    config, rng, ddr, _, writes = await begin(dut, planes=0.4)
    for least in (1, 1, 1, 1, 2, 2, 20, 20, 100, 100, 200, 300):
        body = instruction(rng, config, least)
        writes.seen.clear()
        outcome = await dma.execute(dut, "load", OP, body)
        support.compare(f"LOAD {body}", writes.seen, expected(config, ddr, body))
        assert outcome.errors == 0


@cocotb.test()
async def one_after_the_other(dut):
    """LOADs under way together, empty ones among them: all words in order, `done` after those of its instruction."""
    config, rng, ddr, _, writes = await begin(dut, planes=0.4)
    for stall in (0.0, 0.3, 0.9):
        writes.stall = stall
        writes.clear()
        bodies = [instruction(rng, config, 1, 60) for _ in range(30)]
        for body in rng.sample(bodies, 9):
            body[rng.choice(("run", "count1", "count2"))] = 0
        batch = await dma.execute_all(dut, "load", [(OP, body) for body in bodies], pause=rng.choice((0, 0.3, 0.95)))
        words = [expected(config, ddr, body) for body in bodies]
        support.compare("LOADs", writes.seen, [word for part in words for word in part])
        batch.check_order(list(itertools.accumulate(map(len, words))), writes.cycles, "LOAD")
        assert not batch.errors


@cocotb.test()
async def back_to_back(dut):
    """Under a long latency a beat per cycle, from the first LOAD to the last; the latency counts once."""
    config, rng, ddr = support.config(), random.Random(support.seed()), memory.Ddr()
    await dma.start(dut)
    memory.LatentReads(dut, ddr, memory.LATENCY)
    writes = dma.BankWrites(dut)
    for count, beats in ((20, 64), (5, 320), (dma.IN_FLIGHT, 8)):
        writes.clear()
        body = instruction(rng, config) | {"offset": 0, "run": beats, "count1": 1, "count2": 1}
        batch = await dma.execute_all(dut, "load", [(OP, body)] * count)
        assert len(writes.seen) == count * beats
        dut._log.info(f"{count} LOADs of {beats} beats: {batch.cycles} cycles")
        assert batch.cycles < count * beats + memory.LATENCY + 20, (count, beats, batch.cycles)


@cocotb.test()
async def full_speed(dut):
    """Without pauses of the memory a beat per cycle, but for latency (the RAM's is the greater part)."""
    _, _, _, _, writes = await begin(dut, stall=0)
    body = {"region": 1, "offset": 0, "run": 320, "count1": 1, "count2": 1, "bank_mask": 1}
    outcome = await dma.execute(dut, "load", OP, body)
    assert len(writes.seen) == 320
    assert outcome.cycles < 320 + 40, outcome.cycles  # cocotbext's RAM takes a cycle or so between bursts


@cocotb.test()
async def nothing_to_load(dut):
    _, _, _, _, writes = await begin(dut)
    for zero in ("run", "count1", "count2"):
        body = {"run": 1, "count1": 1, "count2": 1, "bank_mask": 1} | {zero: 0}
        outcome = await dma.execute(dut, "load", OP, body)
        assert outcome.cycles < 8
    assert not writes.seen


@cocotb.test()
async def error_response(dut):
    """An error is reported, the instruction ends, the next one is unharmed."""
    config, _, ddr, _, writes = await begin(dut)
    body = {"region": 2, "offset": 0, "run": 64, "count1": 1, "count2": 1, "address": 5, "bank_mask": 1}
    ddr.broken = range(memory.BASES[2] + 20 * config.beat_bytes, memory.BASES[2] + 21 * config.beat_bytes)
    outcome = await dma.execute(dut, "load", OP, body)
    assert outcome.errors == 1
    assert len(writes.seen) == 64
    ddr.broken = range(0)
    writes.seen.clear()
    outcome = await dma.execute(dut, "load", OP, body)
    assert outcome.errors == 0
    support.compare("after an error", writes.seen, expected(config, ddr, body))


@cocotb.test()
async def abort_and_restart(dut):
    """Abort at any time: the port comes to rest, after a reset of the core all works as from new."""
    config, rng, ddr, _, writes = await begin(dut, planes=0.4)
    for _ in range(12):
        task = cocotb.start_soon(dma.execute(dut, "load", OP, instruction(rng, config, 200, 2000)))
        await support.ticks(dut, rng.randint(1, 150))
        task.cancel()
        dut.load_i__valid.value = 0
        await dma.abort_and_reset(dut)
        writes.seen.clear()
        await support.ticks(dut, 60)
        assert not writes.seen
        body = instruction(rng, config, 1, 60)
        await dma.execute(dut, "load", OP, body)
        support.compare(f"after an abort, LOAD {body}", writes.seen, expected(config, ddr, body))
