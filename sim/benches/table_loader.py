"""Bench of the table loader: entries, order, exact cycles, rows read; a weight buffer that answers a cycle later."""

import random

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

from spikeloom.config import MachineConfig
from spikeloom.hw.gateware.table_loader import TableLoader
from spikeloom.hw.gateware.tables import ENTRY_BITS

from . import support
from .schedule import extreme_weights, pack_values, unpack_values


async def fill(dut, block, rng, rows, settings):
    """Start one fill, answer its reads, return its writes [(cycle, table, batch, entry, values)] and its length."""
    writes, answer, cycle, begin = [], None, 0, settings["row"]
    while True:
        dut.start.value = int(cycle == 0)
        for name, value in settings.items():  # looked at in the cycle of `start` only
            getattr(dut, name).value = value if cycle == 0 else rng.getrandbits(len(getattr(dut, name)))
        dut.read_data.value = rng.getrandbits(8 * block.config.weight_row_bytes) if answer is None else answer
        await ReadOnly()
        if cycle and not dut.busy.value:
            assert not dut.write_en.value
            assert not dut.read_en.value
            await RisingEdge(dut.clk)
            return writes, cycle
        answer = None
        if dut.read_en.value:
            row = int(dut.read_row.value) - begin
            assert 0 <= row < len(rows), f"row {row} of {len(rows)} is read"
            answer = pack_values(rows[row], 8)
        if dut.write_en.value:
            values = unpack_values(int(dut.write_data.value), ENTRY_BITS, block.values)
            place = [int(port.value) for port in (dut.write_table, dut.write_batch, dut.write_entry)]
            writes.append((cycle, *place, values))
        await RisingEdge(dut.clk)
        cycle += 1
        assert cycle < 10_000, "no end"


@cocotb.test()
async def fills_tables(dut):
    config = MachineConfig(**support.parameters()["config"])
    block = TableLoader(config)
    rng, numbers = random.Random(support.seed()), np.random.default_rng(support.seed())
    most = config.groups // config.load_groups
    await support.start(dut)
    for run in range(16):
        batches = rng.choice([1, most, rng.randint(1, most)])
        rows = extreme_weights(numbers, (4 * batches, block.values))
        settings = {
            "row": rng.choice([0, 0xFFFF - len(rows), rng.randrange(0xFFFF - len(rows))]), "batches": batches,
            "negate": run & 1, "bipolar": run >> 1 & 1, "half": rng.getrandbits(1),
        }  # fmt: skip
        writes, cycles = await fill(dut, block, rng, rows, settings)
        tables = block.model(rows, negate=bool(settings["negate"]), bipolar=bool(settings["bipolar"]))
        by_batch = tables.reshape(batches, config.load_groups, 16, config.outputs)
        expected = [
            (block.latency + 16 * batch + step, settings["half"], batch, step ^ step >> 1)
            for batch in range(batches)
            for step in range(16)
        ]
        support.compare("writes", [write[:4] for write in writes], expected)
        data = [by_batch[batch, :, entry].ravel().tolist() for _, _, batch, entry in expected]
        support.compare("entries", [write[4] for write in writes], data)
        assert cycles == block.cycles(batches)
        for _ in range(rng.choice([0, 0, 3])):
            await RisingEdge(dut.clk)
