"""Bench of the table loader: entries, order, exact cycles, rows read; fills with and without gaps between them."""

import itertools
import random
from dataclasses import dataclass

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

from spikeloom.hw.gateware.table_loader import TableLoader
from spikeloom.hw.gateware.tables import ENTRY_BITS

from . import support
from .schedule import extreme_weights, pack_values, unpack_values


@dataclass
class Fill:
    """One fill: its settings (ports that are looked at with `start`), its rows, when it may start and did."""

    settings: dict[str, int]
    rows: np.ndarray
    gap: int
    started: int = -1


def random_fills(rng, numbers, block, count):
    most = block.config.groups // block.config.load_groups
    fills = []
    for number in range(count):
        batches = rng.choice([1, most, rng.randint(1, most)])
        rows = extreme_weights(numbers, (4 * batches, block.values))
        settings = {
            "row": rng.choice([0, 0xFFFF - len(rows), rng.randrange(0xFFFF - len(rows))]), "batches": batches,
            "negate": number & 1, "bipolar": number >> 1 & 1, "half": rng.getrandbits(1),
        }  # fmt: skip
        fills.append(Fill(settings, rows, rng.choice([0, 0, 0, rng.randrange(30)])))
    return fills


async def play(dut, block, rng, fills):
    """Offer each fill its gap after the one before was taken, answer the reads.

    Returns the writes (cycle, table, batch, entry, values), the cycles of `filled`, those in which `busy`.
    """
    waiting, writes, filled, busy = list(fills), [], [], []
    answer, cycle, wait, idle, reading = None, 0, 0, 0, fills[0]
    while idle < 30:
        offered = waiting[0] if waiting and wait == 0 else None
        dut.start.value = int(offered is not None)
        for name in fills[0].settings:  # looked at with `start` and `ready` only
            port = getattr(dut, name)
            port.value = offered.settings[name] if offered else rng.getrandbits(len(port))
        dut.read_data.value = rng.getrandbits(8 * block.config.weight_row_bytes) if answer is None else answer
        await ReadOnly()
        answer = None
        if dut.read_en.value:
            row = int(dut.read_row.value) - reading.settings["row"]
            assert 0 <= row < len(reading.rows), f"cycle {cycle}: row {row} of {len(reading.rows)} is read"
            answer = pack_values(reading.rows[row], 8)
        if dut.write_en.value:
            values = unpack_values(int(dut.write_data.value), ENTRY_BITS, block.values)
            place = [int(port.value) for port in (dut.write_table, dut.write_batch, dut.write_entry)]
            writes.append((cycle, *place, values))
        filled += [cycle] if dut.filled.value else []
        busy += [cycle] if dut.busy.value else []
        idle = 0 if dut.busy.value or waiting else idle + 1
        wait = max(0, wait - 1)
        if offered and dut.ready.value:
            offered.started, reading = cycle, waiting.pop(0)
            wait = waiting[0].gap if waiting else 0
        await RisingEdge(dut.clk)
        cycle += 1
        assert cycle < 20_000, "no end"
    return writes, filled, busy


def first_writes(block, fills):
    """Cycle of the first write of every fill, by the rule in the docstring of `TableLoader`."""
    cycles, free = [], 0
    for fill in fills:
        cycles.append(max(free, fill.started + block.latency))
        free = cycles[-1] + 16 * fill.settings["batches"]
    return cycles


@cocotb.test()
async def fills_tables(dut):
    config = support.config()
    block = TableLoader(config)
    rng, numbers = random.Random(support.seed()), np.random.default_rng(support.seed())
    await support.start(dut)
    fills = random_fills(rng, numbers, block, 24)
    writes, filled, busy = await play(dut, block, rng, fills)
    expected, entries, ends = [], [], []
    for fill, first in zip(fills, first_writes(block, fills), strict=True):
        settings, batches = fill.settings, fill.settings["batches"]
        tables = block.model(fill.rows, negate=bool(settings["negate"]), bipolar=bool(settings["bipolar"]))
        by_batch = tables.reshape(batches, config.load_groups, 16, config.outputs)
        for number in range(16 * batches):
            batch, step = divmod(number, 16)
            expected.append((first + number, settings["half"], batch, step ^ step >> 1))
            entries.append(by_batch[batch, :, step ^ step >> 1].ravel().tolist())
        ends.append(expected[-1][0])
    support.compare("writes", [write[:4] for write in writes], expected)
    support.compare("entries", [write[4] for write in writes], entries)
    support.compare("filled", filled, [end - block.write_delay for end in ends])
    assert set(busy) >= {write[0] for write in writes}
    assert len(busy) == len({c for f, e in zip(fills, ends, strict=True) for c in range(f.started + 1, e + 1)})
    without_gap = sum(a[0] + 1 == b[0] for a, b in itertools.pairwise(expected))
    assert without_gap > len(expected) - len(fills), "no fill followed another one without a gap"
