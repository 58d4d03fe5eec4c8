"""Token counters against integers: random puts and takes of every pair, and the overflow pulse."""

import random

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from . import support


@cocotb.test()
async def counts(dut):
    """`available` follows the counts one cycle behind; self pairs never have a token."""
    rng = random.Random(support.seed())
    engines = support.parameters()["engines"]
    tokens = [0] * engines ** 2
    before, takes = list(tokens), list(tokens)
    await support.start(dut)
    for _ in range(600):
        puts = [int(rng.random() < 0.3) if p // engines != p % engines else 0 for p in range(engines ** 2)]
        takes = [int(rng.random() < 0.6 and before[p] > 0 and not takes[p]) for p in range(engines ** 2)]
        dut.put.value = sum(bit << p for p, bit in enumerate(puts))
        dut.take.value = sum(bit << p for p, bit in enumerate(takes))
        await ReadOnly()
        assert int(dut.available.value) == sum((t > 0) << p for p, t in enumerate(before)), before
        await RisingEdge(dut.clk)
        before = tokens
        tokens = [t + a - b for t, a, b in zip(tokens, puts, takes, strict=True)]


@cocotb.test()
async def overflows_loudly(dut):
    """The 256th unanswered token is reported, two cycles after it is put."""
    await support.start(dut)
    dut.put.value = 1 << 1
    for put in range(258):
        await ReadOnly()
        assert bool(dut.overflow.value) == (put == 257), put
        await RisingEdge(dut.clk)
