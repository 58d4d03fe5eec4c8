"""Bench of the accumulators: all modes, wrapping, the closest spacing, drains beside updates, exact latencies."""

import random

import cocotb
import numpy as np

from spikeloom.config import MachineConfig
from spikeloom.hw.gateware.accumulator import Accumulators, Update
from spikeloom.hw.isa import Accumulate

from . import support
from .schedule import pack_values, play, unpack_values


def random_updates(rng, numbers, block, bank, start, length):
    """Updates of `bank` in cycles `start ...`: few addresses, often exactly `spacing` apart; first ZERO."""
    config, updates, latest = block.config, [], {}
    depth, low = config.accumulator_depth, 1 << block.sum_bits - 1
    addresses = sorted({0, depth - 1, *(rng.randrange(depth) for _ in range(block.spacing))})
    for cycle in range(start, start + length):
        free = [a for a in addresses if cycle - latest.get(a, -block.spacing) >= block.spacing]
        if not free or rng.random() < 0.2:
            continue
        address = rng.choice(free)
        mode = rng.choice(list(Accumulate)) if address in latest else Accumulate.ZERO
        sums = numbers.choice([-low, low - 1], (config.outputs, config.lanes))
        if rng.random() < 0.7:
            sums = numbers.integers(-low, low, (config.outputs, config.lanes))
        lane = rng.randrange(config.lanes) if address in latest and rng.random() < 0.4 else None
        updates.append(Update(cycle=cycle, bank=bank, address=address, mode=mode, sums=sums, lane=lane,
                              narrow=rng.random() < 0.3))
        latest[address] = cycle
    return updates


def drive(rng, block, updates, length):
    """Ports of the updates; sums `sums_delay` cycles later; noise where nobody should look."""
    by_cycle = {update.cycle: update for update in updates}
    schedule = []
    for cycle in range(length):
        ports = {"valid": 0, "bank": rng.getrandbits(1), "address": rng.getrandbits(16), "mode": rng.getrandbits(2),
                 "single": rng.getrandbits(1), "lane": rng.getrandbits(3), "narrow": rng.getrandbits(1)}
        if update := by_cycle.get(cycle):
            ports = {"valid": 1, "bank": update.bank, "address": update.address, "mode": int(update.mode),
                     "single": int(update.lane is not None), "narrow": int(update.narrow),
                     "lane": rng.getrandbits(3) if update.lane is None else update.lane}
        now = by_cycle.get(cycle - block.sums_delay)
        values = block.config.outputs * block.config.lanes
        noise = rng.getrandbits(values * block.sum_bits)
        ports["sums"] = pack_values(now.sums.ravel(), block.sum_bits) if now else noise
        schedule.append(ports)
    return schedule


@cocotb.test()
async def accumulates_and_drains(dut):
    parameters = support.parameters()
    config = MachineConfig(**parameters.pop("config"))
    block = Accumulators(config, **parameters)
    rng, numbers = random.Random(support.seed()), np.random.default_rng(support.seed())
    banks = np.zeros((2, config.accumulator_depth, config.outputs, config.lanes), np.int64)
    await support.start(dut)
    length, schedule, expected, settled = 120, [], {}, []
    for turn in range(5):  # one bank is updated while the other, as the turn before has left it, is read
        bank, start = turn & 1, len(schedule)
        updates = random_updates(rng, numbers, block, bank, 0, length)
        schedule += drive(rng, block, updates, length + block.spacing)
        for cycle in range(start, len(schedule)):
            reading = {"read_bank": 1 - bank, "read_address": rng.getrandbits(16), "read_word": rng.getrandbits(8)}
            if settled and rng.random() < 0.8:
                address, word = rng.choice(settled), rng.randrange(config.output_words)
                reading |= {"read_address": address, "read_word": word}
                part = banks[1 - bank, address, word * config.word_channels :][: config.word_channels]
                expected[cycle + block.read_latency] = part.ravel().tolist()
            schedule[cycle] |= reading
        block.model(banks, updates)
        settled = sorted({update.address for update in updates})
    samples = await play(dut, schedule, ["read_data"], tail=block.read_latency)
    got = [unpack_values(samples[cycle]["read_data"], 24, config.beat_bits) for cycle in expected]
    support.compare("read_data", got, list(expected.values()))
