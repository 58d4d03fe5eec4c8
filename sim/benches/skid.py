"""Skid buffer: order under random stalls, latency and throughput, `ready` that does not follow the other side."""

import random

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from . import support


@cocotb.test()
async def keeps_the_order(dut):
    rng = random.Random(support.seed())
    items = [rng.getrandbits(len(dut.i__payload)) for _ in range(500)]
    await support.start(dut)
    for stall in (0.1, 0.5, 0.9):
        got = await support.exchange(dut, {"i": items}, {"o": len(items)}, stall=stall)
        support.compare("o", [item.payload for item in got["o"]], items)


@cocotb.test()
async def one_item_per_cycle(dut):
    await support.start(dut)
    got = await support.exchange(dut, {"i": range(100)}, {"o": 100}, stall=0)
    assert [out.cycle - given.cycle for given, out in zip(got["i"], got["o"], strict=True)] == [1] * 100
    assert [b.cycle - a.cycle for a, b in zip(got["o"], got["o"][1:], strict=False)] == [1] * 99


@cocotb.test()
async def shows_what_was_there_while_it_is_empty(dut):
    await support.start(dut)
    for payload in (5, 0, 9):
        dut.i__payload.value = payload
        await RisingEdge(dut.clk)
        await ReadOnly()
        assert (int(dut.o__valid.value), int(dut.o__payload.value)) == (0, payload)
        await RisingEdge(dut.clk)


@cocotb.test()
async def ready_is_a_register(dut):
    """Two items fit in while `o` waits; `i.ready` follows in the cycle after `o.ready`, not in its own."""
    await support.start(dut)
    dut.i__valid.value = 1
    for waiting, ready in ((0, 1), (0, 1), (0, 0), (1, 0), (0, 1), (0, 0)):
        dut.o__ready.value = waiting
        await ReadOnly()
        assert int(dut.i__ready.value) == ready, f"cycle {support.cycle()}"
        await RisingEdge(dut.clk)
