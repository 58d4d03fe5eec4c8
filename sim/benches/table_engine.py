"""Bench of the table engine: tables written while positions are looked up, gaps between both, exact latency."""

import random

import cocotb
import numpy as np

from spikeloom.hw.gateware.table_engine import TableEngine
from spikeloom.hw.gateware.tables import ENTRY_BITS

from . import support
from .schedule import extreme_weights, gaps, pack_values, play, unpack_values

ENTRIES = 16


def random_tables(numbers, config):
    """int64[groups, 16, Po]: tables of random weights; a quarter of the time random entries, the extremes too."""
    if numbers.integers(4) == 0:
        return numbers.choice([-508, 508, -1, 0, 1], (config.groups, ENTRIES, config.outputs))
    weights = extreme_weights(numbers, (config.groups, 4, config.outputs))
    bits = np.arange(ENTRIES)[:, None] >> np.arange(4) & 1
    return np.einsum("ei,gio->geo", 2 * bits - 1 if numbers.integers(2) else bits, weights)


def table_writes(rng, config, tables, half):
    """Writes of all entries of one half, in random order."""
    by_batch = tables.reshape(-1, config.load_groups, ENTRIES, config.outputs)
    places = [(batch, entry) for batch in range(len(by_batch)) for entry in range(ENTRIES)]
    rng.shuffle(places)
    return [
        {"write_en": 1, "write_table": half, "write_batch": batch, "write_entry": entry,
         "write_data": pack_values(by_batch[batch, :, entry].ravel(), ENTRY_BITS)}
        for batch, entry in places
    ]  # fmt: skip


def random_word(rng, bits):
    return rng.choice([rng.getrandbits(bits), rng.getrandbits(bits), 0, (1 << bits) - 1])


def idle_write(rng, dut):
    ports = ("write_table", "write_batch", "write_entry", "write_data")
    return {"write_en": 0} | {port: rng.getrandbits(len(getattr(dut, port))) for port in ports}


def rounds(rng, numbers, dut, config, width, count=4):
    """Schedule: fill half 0; then look up random words in one half while the other is filled, and so on.

    The last position of a half comes with the first write to it, the first one two cycles after the last write.

    Returns the schedule and [(cycle, word, tables)] of the positions.
    """
    schedule, positions, tables = [], [], [None, None]
    for turn in range(count + 1):
        half = turn & 1
        fresh = random_tables(numbers, config)
        writes = table_writes(rng, config, fresh, half)
        busy = dict(zip(gaps(rng, len(writes), 0.1), writes, strict=True))
        length = max(busy) + 1
        looked_up = set() if turn == 0 else {c for c in range(1, length) if rng.random() < 0.7} | {1, length - 1}
        for cycle in range(length):
            word, looked_up_half = random_word(rng, width), half if cycle == 0 else 1 - half
            valid = cycle in looked_up or (cycle == 0 and turn > 1)
            if valid:
                positions.append((len(schedule), word, tables[looked_up_half]))
            ports = {"words": word, "valid": int(valid), "half": looked_up_half}
            schedule.append(ports | (busy.get(cycle) or idle_write(rng, dut)))
        tables[half] = fresh
    return schedule, positions


async def check(dut, block, schedule, positions, expected):
    """Play the schedule; sums must come `latency` cycles after each position and at no other time."""
    samples = await play(dut, [*schedule, {"valid": 0}], ["sums_valid", "sums"], tail=block.latency + 2)
    due = {cycle + block.latency: values for (cycle, *_), values in zip(positions, expected, strict=True)}
    valid = [cycle for cycle, sample in enumerate(samples) if sample["sums_valid"]]
    support.compare("cycles of sums_valid", valid, list(due))
    got = [unpack_values(samples[cycle]["sums"], block.sum_bits, values.size) for cycle, values in due.items()]
    support.compare("sums", got, [values.ravel().tolist() for values in due.values()])


@cocotb.test()
async def sums_of_selected_weights(dut):
    config = support.config()
    block = TableEngine(config)
    rng, numbers = random.Random(support.seed()), np.random.default_rng(support.seed())
    await support.start(dut)
    schedule, positions = rounds(rng, numbers, dut, config, config.banks * config.beat_bits)
    expected = [block.model(tables, [word])[0] for _, word, tables in positions]
    await check(dut, block, schedule, positions, expected)
