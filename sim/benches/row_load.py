"""Row load engines: LOAD_WEIGHTS and LOAD_WEIGHTS_B with their targets, LOAD_SHORTCUT; all engines of a port at once.

The buffers refuse beats and items at random.
"""

import itertools
import random

import cocotb

from spikeloom.hw.gateware.buffers import row_write
from spikeloom.hw.gateware.row_load import ITEMS, row_beats
from spikeloom.hw.isa import Opcode, Target

from . import dma, load, memory, support

STALL = 0.3


def weights(rng: random.Random, config) -> dict[str, int]:
    beats = rng.choice((1, 2, rng.randint(1, 300)))
    return {"region": rng.randrange(4), "offset": rng.randrange(0, memory.REGION_BYTES - beats * config.beat_bytes,
            config.beat_bytes), "beats": beats, "target": rng.choice(list(Target)), "row": rng.getrandbits(16)}


def shortcut(rng: random.Random, config) -> dict[str, int]:
    """Whole items, or any number of beats."""
    body = {**dma.random_transfer(rng, config), "item": rng.getrandbits(16)}
    if rng.random() < 0.7:
        run = config.residual_beats * rng.randint(1, 4)
        body |= {"offset": rng.randrange(64) * config.beat_bytes, "run": run, "count1": rng.randint(1, 3), "count2": 1}
    return body


def expected_beats(config, ddr: memory.Ddr, opcode: Opcode, body) -> list[tuple[int, ...]]:
    transfer = {**body, "run": body["beats"], "count1": 1, "stride1": 0, "count2": 1, "stride2": 0}
    target, region = body["target"], ddr.regions[body["region"]]
    beats = row_beats(config, opcode)[target]
    return [(target, support.pack(row_write(config.beat_bits), {
                "row": (body["row"] + k // beats) % (1 << 16), "slot": k % beats,
                "data": dma.beat_at(config, region, offset)}))
            for k, offset in enumerate(dma.beat_offsets(config, transfer))]


def expected_items(config, ddr: memory.Ddr, body) -> list[tuple[int, ...]]:
    """Whole items only."""
    region, count = ddr.regions[body["region"]], config.residual_beats
    beats = [dma.beat_at(config, region, offset) for offset in dma.beat_offsets(config, body)]
    return [(ITEMS, (body["item"] + n) % (1 << (config.residual_depth - 1).bit_length()),
             sum(beat << k * config.beat_bits for k, beat in enumerate(beats[n * count:(n + 1) * count])))
            for n in range(len(beats) // count)]


async def check(dut, engine: str, opcode: Opcode, count: int, config, rng, ddr, writes) -> None:
    for _ in range(count):
        body = (shortcut if opcode is Opcode.LOAD_SHORTCUT else weights)(rng, config)
        if ddr.broken:
            body["region"] = rng.randint(1, 3)
        writes.seen.clear()
        outcome = await dma.execute(dut, engine, opcode, body)
        assert outcome.errors == 0
        expected = (expected_items(config, ddr, body) if opcode is Opcode.LOAD_SHORTCUT
                    else expected_beats(config, ddr, opcode, body))
        support.compare(f"{opcode.name} {body}", writes.seen, expected)


@cocotb.test()
async def rows_and_slots(dut):
    config, rng, ddr, _, _ = await load.begin(dut)
    await check(dut, "weight", Opcode.LOAD_WEIGHTS, 9, config, rng, ddr, dma.row_writes(dut, "weight", STALL))
    writes = dma.row_writes(dut, "shortcut", STALL)
    for _ in range(5):
        await check(dut, "shortcut", Opcode.LOAD_SHORTCUT, 2, config, rng, ddr, writes)
        await check(dut, "shortcut", Opcode.LOAD_WEIGHTS_B, 2, config, rng, ddr, writes)


async def check_all(dut, engine: str, opcodes, count: int, config, rng, ddr, writes) -> None:
    """Instructions under way together: beats in order, items in order, `done` after those of its instruction."""
    given, parts = [], []
    for _ in range(count):
        opcode = rng.choice(opcodes)
        if opcode is Opcode.LOAD_SHORTCUT:
            body = shortcut(rng, config) | ({"count2": 0} if rng.random() < 0.2 else {})
            parts.append(expected_items(config, ddr, body))
        else:
            body = weights(rng, config) | {"beats": rng.randint(0, 30)}
            parts.append(expected_beats(config, ddr, opcode, body))
        given.append((opcode, body))
    writes.clear()
    batch = await dma.execute_all(dut, engine, given, pause=rng.choice((0, 0.5)))
    for is_item in (False, True):
        mine = [[write for write in part if (write[0] == ITEMS) is is_item] for part in parts]
        seen = [(write, cycle) for write, cycle in zip(writes.seen, writes.cycles, strict=True)
                if (write[0] == ITEMS) is is_item]
        support.compare(engine, [write for write, _ in seen], [write for part in mine for write in part])
        batch.check_order(list(itertools.accumulate(map(len, mine))), [cycle for _, cycle in seen], engine)
    assert not batch.errors


@cocotb.test()
async def one_after_the_other(dut):
    config, rng, ddr, _, _ = await load.begin(dut)
    given = (("weight", (Opcode.LOAD_WEIGHTS,)), ("shortcut", (Opcode.LOAD_SHORTCUT, Opcode.LOAD_WEIGHTS_B)))
    for engine, opcodes in given:
        writes = dma.row_writes(dut, engine)
        for stall in (0.0, 0.3, 0.9):
            writes.stall = stall
            await check_all(dut, engine, opcodes, 20, config, rng, ddr, writes)


@cocotb.test()
async def back_to_back(dut):
    """Under a long latency a beat per cycle, from the first instruction to the last; the latency counts once."""
    config, ddr = support.config(), memory.Ddr()
    await dma.start(dut)
    memory.LatentReads(dut, ddr, memory.LATENCY)
    beats, count = 64, 20
    transfer = {"run": beats, "count1": 1, "count2": 1}
    for engine, opcode, body in (("weight", Opcode.LOAD_WEIGHTS, {"beats": beats}),
                                 ("shortcut", Opcode.LOAD_WEIGHTS_B, {"beats": beats}),
                                 ("shortcut", Opcode.LOAD_SHORTCUT, transfer)):
        writes = dma.row_writes(dut, engine)
        batch = await dma.execute_all(dut, engine, [(opcode, body)] * count)
        assert len(writes.seen) == count * (beats // config.residual_beats if body is transfer else beats)
        dut._log.info(f"{count} {opcode.name} of {beats} beats: {batch.cycles} cycles")
        assert batch.cycles < count * beats + memory.LATENCY + 20, (opcode.name, batch.cycles)


@cocotb.test()
async def items_wait_long(dut):
    """The residual buffer takes hardly anything: the last item is in it before `done`."""
    config, rng, ddr, _, _ = await load.begin(dut, stall=0)
    await check(dut, "shortcut", Opcode.LOAD_SHORTCUT, 6, config, rng, ddr, dma.row_writes(dut, "shortcut", 0.95))


@cocotb.test()
async def full_speed(dut):
    """Without pauses a beat per cycle, but for latency (the RAM's is the greater part)."""
    config, _, _, _, _ = await load.begin(dut, stall=0)
    writes = dma.row_writes(dut, "shortcut")
    body = {"region": 1, "run": 20 * config.residual_beats, "count1": 1, "count2": 1}
    outcome = await dma.execute(dut, "shortcut", Opcode.LOAD_SHORTCUT, body)
    assert len(writes.seen) == 20
    assert outcome.cycles < body["run"] + 40, outcome.cycles


@cocotb.test()
async def unknown_target(dut):
    """Target 3 does not exist: read, dropped, done."""
    config, rng, _, _, _ = await load.begin(dut)
    for engine, opcode in (("weight", Opcode.LOAD_WEIGHTS), ("shortcut", Opcode.LOAD_WEIGHTS_B)):
        writes = dma.row_writes(dut, engine)
        await dma.execute(dut, engine, opcode, {**weights(rng, config), "target": 3})
        assert not writes.seen


@cocotb.test()
async def all_engines_at_once(dut):
    """Three engines share the port; an error of one is reported to that one only."""
    config, _, ddr, _, writes = await load.begin(dut)
    ddr.broken = range(memory.BASES[0] + 64, memory.BASES[0] + 64 + config.beat_bytes)
    broken = {"region": 0, "offset": 0, "run": 300, "count1": 1, "count2": 1, "bank_mask": 1}

    async def failing():
        for _ in range(3):
            outcome = await dma.execute(dut, "load", Opcode.LOAD, broken)
            assert outcome.errors == 1

    async def healthy(engine: str, count: int, *opcodes: Opcode):
        rng, seen = random.Random(f"{support.seed()} {engine}"), dma.row_writes(dut, engine, STALL)
        for opcode in opcodes:
            await check(dut, engine, opcode, count, config, rng, ddr, seen)

    await support.within(dut, 30_000, [
        failing(), healthy("weight", 6, Opcode.LOAD_WEIGHTS),
        healthy("shortcut", 3, Opcode.LOAD_SHORTCUT, Opcode.LOAD_WEIGHTS_B)])
    assert len(writes.seen) == 3 * 300


@cocotb.test()
async def abort_and_restart(dut):
    config, rng, ddr, _, _ = await load.begin(dut)
    seen = {engine: dma.row_writes(dut, engine, STALL) for engine in ("weight", "shortcut")}
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
        await check(dut, "weight", Opcode.LOAD_WEIGHTS, 1, config, rng, ddr, seen["weight"])
        await check(dut, "shortcut", Opcode.LOAD_SHORTCUT, 1, config, rng, ddr, seen["shortcut"])
