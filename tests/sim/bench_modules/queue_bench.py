"""The bench that test_cocotb_runner.py runs on a FIFO: passes, or fails in the way the parameter ``mode`` asks for."""

import random

import cocotb

from spikeloom.sim.benches import support


@cocotb.test()
async def passes_everything_on_in_order(dut):
    rng = random.Random(support.seed())
    parameters = support.parameters()
    await support.start(dut)
    if parameters["mode"] == "hang":
        while True:
            await support.ticks(dut, 1000)
    stimulus = [rng.getrandbits(12) - 2048 for _ in range(parameters["count"])]
    missing = 1 if parameters["mode"] == "starve" else 0
    got = await support.exchange(dut, {"i": stimulus}, {"o": len(stimulus) + missing}, stall=parameters["stall"])
    assert len(got["i"]) == len(stimulus)
    if parameters["stall"] == 0:
        latencies = {o.cycle - i.cycle for i, o in zip(got["i"], got["o"], strict=True)}
        assert latencies == {2}, latencies
    if parameters["mode"] == "differ":
        stimulus[5] ^= 1
    support.compare("o", got["o"], stimulus, convert=lambda payload: support.to_signed(payload, 12))
