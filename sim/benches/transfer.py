"""Transfer generator against its model: random transfers, degenerate ones, throughput."""

import itertools
import random

import cocotb
from cocotb.triggers import RisingEdge

from spikeloom.hw.gateware.axi import BOUNDARY_BYTES, BURST, MAX_BEATS
from spikeloom.hw.gateware.engine import STEP_BITS
from spikeloom.hw.gateware.transfer import TRANSFER, Burst, TransferGenerator

from . import support


def transfers(rng: random.Random, beat: int, count: int) -> list[dict[str, int]]:
    result = []
    for _ in range(count):
        address = rng.randrange(0, 1 << 40, beat)
        if rng.random() < 0.1:
            address = (1 << 40) - beat * rng.randint(1, 40)  # wraps
        elif rng.random() < 0.3:  # a burst or a run crosses from the low half of the addresses to the high one
            address = (rng.randrange(1 << 20) << 20) - beat * rng.randint(1, 100) & (1 << 40) - 1
        offset = rng.choice((0, address % (1 << 32), rng.randrange(0, 1 << 32, beat)))
        result.append({
            "base": address - offset & (1 << 40) - 1, "offset": offset,
            "run": rng.choice((0, 1, 2, 16, 17, rng.randint(1, 600))),
            "count1": rng.choice((0, 1, 1, 2, rng.randint(1, 9))), "stride1": rng.randrange(0, 1 << 32, beat),
            "count2": rng.choice((0, 1, 1, 2, rng.randint(1, 5))), "stride2": rng.randrange(0, 1 << 32, beat)})
    return result


async def note_ends(dut, ends: list[tuple[int, int]]) -> None:
    """(`beats`, `bursts`) at the end of every transfer."""
    while True:
        await RisingEdge(dut.clk)
        if int(dut.ended.value):
            ends.append((int(dut.beats.value), int(dut.bursts.value)))


async def run(dut, stall: float, count: int) -> tuple[list[dict[str, int]], list[support.Received]]:
    block = TransferGenerator(support.config())
    given = transfers(random.Random(support.seed()), block.config.beat_bytes, count)
    expected = [burst for transfer in given for burst in block.model(**transfer)]
    await support.start(dut)
    ends: list[tuple[int, int]] = []
    cocotb.start_soon(note_ends(dut, ends))
    got = await support.exchange(
        dut, {"i": [support.pack(TRANSFER, transfer) for transfer in given]}, {"o": len(expected)}, stall=stall,
        max_cycles=200_000)
    fields = [support.unpack(BURST, item.payload) for item in got["o"]]
    support.compare("o", [Burst(item.address, item.length) for item in fields], expected)
    for burst in expected:
        last = burst.address + burst.length * block.config.beat_bytes - 1
        assert 1 <= burst.length <= MAX_BEATS
        assert burst.address // BOUNDARY_BYTES == last // BOUNDARY_BYTES
    assert not int(dut.busy.value)
    sizes = [block.model(**transfer) for transfer in given]
    sums = itertools.accumulate(sizes, lambda sums, bursts: (
        sums[0] + sum(burst.length for burst in bursts), sums[1] + len(bursts)), initial=(0, 0))
    assert ends == [tuple(value % (1 << STEP_BITS) for value in pair) for pair in sums][1:]
    return given, got["o"]


@cocotb.test()
async def matches_the_model(dut):
    await run(dut, 0.3, 60)


@cocotb.test()
async def one_burst_per_cycle(dut):
    """Full speed: a burst per cycle; a transfer without bursts costs three cycles."""
    block = TransferGenerator(support.config())
    given, got = await run(dut, 0, 60)
    sizes = [len(block.model(**transfer)) for transfer in given]
    at = 0
    for size in filter(None, sizes):
        cycles = [item.cycle for item in got[at:at + size]]
        assert cycles == list(range(cycles[0], cycles[0] + size))
        at += size
    periods = [size + block.GAP if size else 3 for size in sizes]
    first, last = (next(n for n in order if sizes[n]) for order in (range(len(sizes)), range(len(sizes))[::-1]))
    assert got[-1].cycle - got[0].cycle == sum(periods[first:last]) + sizes[last] - 1
