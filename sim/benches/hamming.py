"""Bench of the Hamming unit: counts over gaps, both forms of M, masks, limbs, order of beats, exact cycles."""

import random

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from spikeloom.hw.gateware.hamming import HammingUnit

from . import support
from .schedule import gaps, play


def random_positions(rng, bits, count):
    kind = rng.randrange(3)
    if kind == 0:
        return [((1 << bits) - 1, (1 << bits) - 1)] * count
    if kind == 1:
        return [(0, (1 << bits) - 1)] * count
    return [(rng.getrandbits(bits), rng.getrandbits(bits)) for _ in range(count)]


async def count(dut, rng, positions, clear, lane):
    """Present the positions with gaps, all lanes or one; noise in between."""
    bits = len(dut.key)
    cycles = dict(zip(gaps(rng, len(positions), 0.3), enumerate(positions), strict=True))
    schedule = []
    for cycle in range(max(cycles) + 1):
        ports = {"valid": 0, "clear": rng.getrandbits(1), "key": rng.getrandbits(bits), "value": rng.getrandbits(bits)}
        ports |= {"single": rng.getrandbits(1), "lane": rng.getrandbits(3)}
        if cycle in cycles:
            index, (key, value) = cycles[cycle]
            ports = {"valid": 1, "clear": int(clear and index == 0), "key": key, "value": value}
            ports |= {"single": int(lane is not None), "lane": rng.getrandbits(3) if lane is None else lane}
        schedule.append(ports)
    samples = await play(dut, schedule, ["busy"])
    assert not any(sample["busy"] for sample in samples)


async def put_out(dut, rng, settings, stall):
    """`finish`, then take beats until not busy: beats, cycle of the first one, cycle in which busy is low again."""
    beats, first, cycle, waiting = [], None, 0, None
    dut.valid.value = 0
    while True:
        dut.finish.value = int(cycle == 0)
        for name, value in settings.items():
            getattr(dut, name).value = value if cycle == 0 else rng.getrandbits(len(getattr(dut, name)))
        ready = rng.random() >= stall
        dut.o__ready.value = int(ready)
        await ReadOnly()
        valid = bool(dut.o__valid.value)
        if cycle and not dut.busy.value:
            assert not valid
            await RisingEdge(dut.clk)
            return beats, first, cycle
        payload = int(dut.o__payload.value) if valid else None
        assert waiting is None or payload == waiting, "a beat that waited has changed"
        waiting = payload if not ready else None
        if valid and first is None:
            first = cycle
        if valid and ready:
            beats.append(payload)
        await RisingEdge(dut.clk)
        cycle += 1
        assert cycle < 10_000, "no end"


def _mask(config, lane):
    """The bits of a word that belong to a lane, all of them for None."""
    if lane is None:
        return (1 << config.beat_bits) - 1
    return sum(1 << channel * config.lanes + lane for channel in range(config.word_channels))


@cocotb.test()
async def counts_and_puts_out(dut):
    config = support.config()
    block = HammingUnit(config)
    rng = random.Random(support.seed())
    await support.start(dut)
    positions = []
    for run in range(12):
        clear = not positions or rng.random() < 0.7
        more = random_positions(rng, config.beat_bits, rng.choice([1, 2, 30, 60]))
        lane = rng.choice([None, rng.randrange(config.lanes)])
        counted = [(key, value & _mask(config, lane)) for key, value in more]
        positions = counted if clear else positions + counted
        await count(dut, rng, more, clear, lane)
        mask = rng.choice([rng.getrandbits(config.word_channels), (1 << config.word_channels) - 1])
        settings = {"bipolar": run & 1, "mask": mask, "limbs": 2 + (run >> 1 & 1)}
        stall = rng.choice([0.0, 0.5])
        beats, first, cycles = await put_out(dut, rng, settings, stall)
        support.compare("o", beats, block.model(
            positions, bipolar=bool(run & 1), mask=mask, limbs=settings["limbs"]))
        assert first == block.latency
        if not stall:
            assert cycles == block.latency + block.beats(settings["limbs"])
