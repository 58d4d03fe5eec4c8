"""Row buffer and spike banks against a dictionary: random writes and reads, latency 1, holding."""

import random

import cocotb
from cocotb.triggers import RisingEdge

from spikeloom.hw.gateware.buffers import SPIKE_ADDRESS_BITS

from . import dma, support


@cocotb.test()
async def random_accesses(dut):
    await support.start(dut)
    await (rows(dut) if support.parameters()["kind"] == "rows" else banks(dut))


async def rows(dut) -> None:
    depth, beats, bits = (support.parameters()[name] for name in ("depth", "row_beats", "beat_bits"))
    rng, content, held = random.Random(support.seed()), {}, None
    for row in range(depth):
        for slot in range(beats):
            await _write_row(dut, content, row, slot, rng.getrandbits(bits))
    for _ in range(600):
        row, slot, value, enable, read = (
            rng.randrange(depth), rng.randrange(beats), rng.getrandbits(bits), rng.random() < 0.6, rng.random() < 0.7)
        _offer(dut, enable, row, slot, value)
        asked = rng.randrange(depth) if rng.random() < 0.7 else row
        dut.read_en.value, dut.read_row.value = read, asked
        await RisingEdge(dut.clk)
        if held is not None:
            assert int(dut.read_data.value) == held
        if read:
            held = sum(content[asked, k] << k * bits for k in range(beats))  # old value, also if written now
        if enable:
            content[row, slot] = value


def _offer(dut, enable: int, row: int, slot: int, value: int) -> None:
    dut.write_en.value, dut.write_row.value, dut.write_data.value = enable, row, value
    if hasattr(dut, "write_slot"):  # a port of no bits is none
        dut.write_slot.value = slot


async def _write_row(dut, content, row: int, slot: int, value: int) -> None:
    _offer(dut, 1, row, slot, value)
    content[row, slot] = value
    await RisingEdge(dut.clk)


async def banks(dut) -> None:
    config, rng = dma.config(), random.Random(support.seed())
    near = [rng.randrange(config.spike_depth) for _ in range(12)] + [0, config.spike_depth - 1]
    content: dict[tuple[int, int], int] = {}
    held: list[int | None] = [None] * config.banks
    for _ in range(800):
        mask, at, value = rng.getrandbits(config.banks), rng.choice(near), rng.getrandbits(config.beat_bits)
        dut.write_mask.value, dut.write_address.value, dut.write_data.value = mask, at, value
        asked, read = [rng.choice(near) for _ in held], rng.getrandbits(config.banks)
        dut.read_en.value = read
        dut.read_address.value = sum(a << SPIKE_ADDRESS_BITS * b for b, a in enumerate(asked))
        await RisingEdge(dut.clk)
        data = int(dut.read_data.value)
        for bank, expected in enumerate(held):
            if expected is not None:
                assert data >> bank * config.beat_bits & (1 << config.beat_bits) - 1 == expected
            if read >> bank & 1:
                held[bank] = content.get((bank, asked[bank]), 0)
            if mask >> bank & 1:
                content[bank, at] = value
