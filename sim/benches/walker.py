"""Walker against its model: random bodies, back-to-back and spaced starts."""

import random

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from spikeloom.hw.gateware.walker import Walker
from spikeloom.hw.isa import FIELDS, Opcode, pack_fields

from . import support


def random_body(rng: random.Random) -> dict[str, int]:
    """Fields of a COMPUTE with a small walk."""
    return {
        "rows": rng.randint(1, 5), "cols": rng.randint(1, 6), "skip": rng.choice([0, 0, 1, 3]),
        "address": rng.randrange(1 << 14), "col_step": rng.randint(-9, 9), "row_step": rng.randint(-99, 99),
        "y": rng.randint(-4, 9), "x": rng.randint(-4, 9), "y_step": rng.randint(0, 3), "x_step": rng.randint(0, 3),
        "height": rng.randint(1, 12), "width": rng.randint(1, 12), "acc_base": rng.choice([0, rng.getrandbits(16)])}


@cocotb.test()
async def walks_as_the_model(dut):
    """Every position of every walk, in every cycle; the second half of the walks starts in the cycle of `last`."""
    rng = random.Random(support.seed())
    await support.start(dut)
    bodies, stands = [random_body(rng) for _ in range(41)], False
    for walk, body in enumerate(bodies[:-1]):
        back_to_back = walk >= 20
        if not stands:
            dut.body.value = pack_fields(FIELDS[Opcode.COMPUTE], body, "bench")
            await RisingEdge(dut.clk)
        dut.start.value = 1
        await RisingEdge(dut.clk)
        dut.start.value, stands = 0, False
        dut.body.value = rng.getrandbits(416)  # nobody may look at it now
        expected = list(Walker.model({f.name: body.get(f.name, 0) for f in FIELDS[Opcode.COMPUTE]}))
        for number, (y, x, address, emit, pixel) in enumerate(expected):
            last = number == len(expected) - 1
            if back_to_back and number == len(expected) - 2:
                stands = True
                dut.body.value = pack_fields(FIELDS[Opcode.COMPUTE], bodies[walk + 1], "bench")
            if last and back_to_back:
                break  # the next start goes with this position
            await ReadOnly()
            got = (support.to_signed(int(dut.y.value), 18), support.to_signed(int(dut.x.value), 18),
                   int(dut.address.value), bool(dut.emit.value), int(dut.pixel.value))
            assert dut.valid.value == 1, f"walk {walk}, position {number}: not valid"
            assert got == (y, x, address, emit, pixel), f"walk {walk}, position {number}: {got} != {expected[number]}"
            assert bool(dut.last.value) == last
            assert bool(dut.first.value) == (number == 0)
            left = len(expected) - 1 - number
            assert bool(dut.ending.value) == (left <= min(Walker.near, body["cols"] - 1)), f"walk {walk}, {left} left"
            await RisingEdge(dut.clk)
        if not back_to_back:
            await ReadOnly()
            assert dut.busy.value == 0
            assert dut.ending.value == 1
            await RisingEdge(dut.clk)
