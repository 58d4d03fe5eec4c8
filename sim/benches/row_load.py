"""Row load engines: LOAD_WEIGHTS with its targets, LOAD_SHORTCUT; all engines of a port at once."""

import random

import cocotb

from spikeloom.hw.gateware.row_load import row_beats
from spikeloom.hw.isa import Opcode, Target

from . import dma, load, support


def weights(rng: random.Random, config) -> dict[str, int]:
    beats = rng.choice((1, 2, rng.randint(1, 300)))
    return {"region": rng.randrange(4), "offset": rng.randrange(0, dma.REGION_BYTES - beats * config.beat_bytes,
            config.beat_bytes), "beats": beats, "target": rng.choice(list(Target)), "row": rng.getrandbits(16)}


def shortcut(rng: random.Random, config) -> dict[str, int]:
    return {**dma.random_transfer(rng, config), "item": rng.getrandbits(16)}


def expected(config, ddr: dma.Ddr, opcode: Opcode, body) -> list[tuple[int, ...]]:
    if opcode is Opcode.LOAD_WEIGHTS:
        transfer = {**body, "run": body["beats"], "count1": 1, "stride1": 0, "count2": 1, "stride2": 0}
        target, row = body["target"], body["row"]
    else:
        transfer, target, row = body, 0, body["item"]
    beats = row_beats(config, opcode)[target]
    region = ddr.regions[body["region"]]
    return [(1 << target, (row + k // beats) % (1 << 16), k % beats, dma.beat_at(config, region, offset))
            for k, offset in enumerate(dma.beat_offsets(config, transfer))]


async def check(dut, engine: str, opcode: Opcode, make, count: int, config, rng, ddr) -> None:
    writes = dma.row_writes(dut, engine)
    for _ in range(count):
        body = make(rng, config)
        writes.seen.clear()
        outcome = await dma.execute(dut, engine, opcode, body)
        assert outcome.errors == 0
        support.compare(f"{opcode.name} {body}", writes.seen, expected(config, ddr, opcode, body))


@cocotb.test()
async def rows_and_slots(dut):
    config, rng, ddr, _, _ = await load.begin(dut)
    await check(dut, "weight", Opcode.LOAD_WEIGHTS, weights, 9, config, rng, ddr)
    await check(dut, "shortcut", Opcode.LOAD_SHORTCUT, shortcut, 6, config, rng, ddr)


@cocotb.test()
async def unknown_target(dut):
    """Target 3 does not exist: read, dropped, done."""
    config, rng, _, _, _ = await load.begin(dut)
    writes = dma.row_writes(dut, "weight")
    await dma.execute(dut, "weight", Opcode.LOAD_WEIGHTS, {**weights(rng, config), "target": 3})
    assert not writes.seen


@cocotb.test()
async def all_engines_at_once(dut):
    """Three engines share the port; an error of one is reported to that one only."""
    config, _, ddr, _, writes = await load.begin(dut)
    ddr.broken = range(dma.BASES[0] + 64, dma.BASES[0] + 64 + config.beat_bytes)
    broken = {"region": 0, "offset": 0, "run": 300, "count1": 1, "count2": 1, "bank_mask": 1}

    def healthy(make):
        return lambda rng, config: {**make(rng, config), "region": rng.randint(1, 3)}

    async def failing():
        for _ in range(3):
            outcome = await dma.execute(dut, "load", Opcode.LOAD, broken)
            assert outcome.errors == 1

    rngs = [random.Random(f"{support.seed()} {n}") for n in range(2)]
    await support.within(dut, 30_000, [
        failing(),
        check(dut, "weight", Opcode.LOAD_WEIGHTS, healthy(weights), 6, config, rngs[0], ddr),
        check(dut, "shortcut", Opcode.LOAD_SHORTCUT, healthy(shortcut), 5, config, rngs[1], ddr)])
    assert len(writes.seen) == 3 * 300


@cocotb.test()
async def abort_and_restart(dut):
    config, rng, ddr, _, _ = await load.begin(dut)
    for _ in range(6):
        long = weights(rng, config) | {"beats": 300, "offset": 0}
        tasks = [cocotb.start_soon(dma.execute(dut, "weight", Opcode.LOAD_WEIGHTS, long)),
                 cocotb.start_soon(dma.execute(dut, "shortcut", Opcode.LOAD_SHORTCUT, shortcut(rng, config)))]
        await support.ticks(dut, rng.randint(1, 200))
        for task in tasks:
            task.cancel()
        dut.weight_i__valid.value = 0
        dut.shortcut_i__valid.value = 0
        await dma.abort_and_reset(dut)
        await check(dut, "weight", Opcode.LOAD_WEIGHTS, weights, 1, config, rng, ddr)
        await check(dut, "shortcut", Opcode.LOAD_SHORTCUT, shortcut, 1, config, rng, ddr)
