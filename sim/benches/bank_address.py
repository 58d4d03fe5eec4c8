"""Address and border of a bank against the model: a random position in every cycle."""

import random

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from spikeloom.hw.gateware.buffers import SpikeBanks
from spikeloom.hw.gateware.walker import BankAddress
from spikeloom.hw.isa import CHUNK_BANK, pack_fields

from . import support


def edge(rng: random.Random, size: int, tap: int) -> int:
    """A coordinate that with its tap lies at a border, just beyond one, or anywhere."""
    return rng.choice([-1, 0, size - 1, size, rng.randint(-20, 50) + tap]) - tap


@cocotb.test()
async def matches_the_model(dut):
    """`read_address` and the borders one cycle after the position, `in_range` with the data of the bank."""
    rng = random.Random(support.seed())
    await support.start(dut)
    for case in range(120):
        header = {"offset": rng.randint(-500, 500), "dy": rng.randint(-16, 15), "dx": rng.randint(-16, 15),
                  "enable": int(rng.random() < 0.9)}
        body = {"height": rng.choice([1, 7, 40, 65535]), "width": rng.choice([1, 7, 40, 65535])}
        dut.header.value = pack_fields(CHUNK_BANK, header, "bench")
        y, x = (edge(rng, body[size], header[tap]) for size, tap in (("height", "dy"), ("width", "dx")))
        address = rng.randrange(1 << 20)
        dut.y.value, dut.x.value, dut.address.value = y % (1 << 18), x % (1 << 18), address
        await RisingEdge(dut.clk)
        dut.height.value, dut.width.value = body["height"], body["width"]
        for port in (dut.header, dut.y, dut.x, dut.address):
            port.value = rng.getrandbits(len(port))
        await ReadOnly()
        expected = BankAddress.model(header, body, y, x, address)
        where = f"case {case}: {header} {body} y={y} x={x}"
        assert int(dut.read_address.value) == (address + header["offset"]) % (1 << 20), where
        await RisingEdge(dut.clk)
        dut.height.value, dut.width.value = rng.getrandbits(16), rng.getrandbits(16)
        await support.ticks(dut, SpikeBanks.latency - 1)
        await ReadOnly()
        assert bool(dut.in_range.value) == (expected.address is not None), where
        await RisingEdge(dut.clk)
