"""Write port against cocotbext-axi's RAM."""

import itertools
import random

import cocotb
from cocotb.triggers import RisingEdge

from spikeloom.hw.gateware.axi import BURST, MAX_BEATS

from . import dma, support
from .memory import BASES, Ddr, WriteRam

CLIENTS = 3


class Writer:
    """A client: offers bursts whose data is at hand, counts responses."""

    def __init__(self, dut, number: int, beat_bytes: int, stall: float = 0.3) -> None:
        self.dut, self.number, self.beat_bytes = dut, number, beat_bytes
        self.rng = random.Random(f"{support.seed()} {number}")
        self.requests = support.StreamSource(dut, f"client{number}__request", stall, self.rng)
        self.beats = support.StreamSource(dut, f"client{number}__data", 0.0, random.Random(number))
        self.responses = self.errors = 0
        cocotb.start_soon(self._count())

    async def _count(self) -> None:
        response, error = (getattr(self.dut, f"client{self.number}__{name}") for name in ("response", "error"))
        while True:
            await RisingEdge(self.dut.clk)
            self.responses += int(response.value)
            self.errors += int(error.value)
            assert int(response.value) or not int(error.value), "error without response"

    def bursts(self, count: int, region: int) -> list[tuple[int, list[int]]]:
        """(address, beats) in own quarter of a region, legal, apart from each other."""
        result, at = [], self.number * 8 * 4096
        for _ in range(count):
            length = self.rng.choice((1, MAX_BEATS, self.rng.randint(1, MAX_BEATS)))
            at += self.rng.randint(0, 3) * self.beat_bytes
            if at % 4096 + length * self.beat_bytes > 4096:
                at += -at % 4096
            result.append((BASES[region] + at, [self.rng.getrandbits(8 * self.beat_bytes) for _ in range(length)]))
            at += length * self.beat_bytes
        return result

    def work(self, given):
        requests = [support.pack(BURST, {"address": address, "length": len(beats)}) for address, beats in given]
        return [self.requests.send(requests), self.beats.send([beat for _, beats in given for beat in beats])]


async def begin(dut, stall: float = 0.3, pace: float = 0.3):
    await dma.start(dut)
    ddr = Ddr()
    beat_bytes = support.config().beat_bytes
    ram = WriteRam(dut, ddr, stall)
    return ddr, ram, [Writer(dut, number, beat_bytes, pace) for number in range(CLIENTS)]


async def settle(dut, limit: int = 500) -> None:
    for _ in range(limit):
        await RisingEdge(dut.clk)
        if int(dut.idle.value):
            break
    else:
        raise AssertionError(f"not idle after {limit} cycles")
    await support.ticks(dut, 3)


def check_memory(ddr, beat_bytes, given) -> None:
    for address, beats in given:
        for k, beat in enumerate(beats):
            at = address + k * beat_bytes
            got = int.from_bytes(ddr.read(at, beat_bytes), "little")
            assert got == beat, f"{at:#x}: {got:#x}, expected {beat:#x}"


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.7])
async def bursts_of_all_clients(dut, stall):
    ddr, _, writers = await begin(dut, stall)
    given = [writer.bursts(30, 1) for writer in writers]
    await support.within(dut, 20_000, [work for writer, mine in zip(writers, given, strict=True)
                                       for work in writer.work(mine)])
    await settle(dut)
    for writer, mine in zip(writers, given, strict=True):
        check_memory(ddr, writer.beat_bytes, mine)
        assert (writer.responses, writer.errors) == (30, 0)


@cocotb.test()
async def error_response(dut):
    ddr, _, writers = await begin(dut)
    given = [writer.bursts(20, 3) for writer in writers]
    address = given[1][7][0]
    ddr.broken = range(address, address + 1)
    await support.within(dut, 20_000, [work for writer, mine in zip(writers, given, strict=True)
                                       for work in writer.work(mine)])
    await settle(dut)
    assert [writer.errors for writer in writers] == [0, 1, 0]
    assert [writer.responses for writer in writers] == [20, 20, 20]


@cocotb.test()
async def full_speed(dut):
    """A burst of n beats takes n + 1 cycles."""
    _, _, writers = await begin(dut, 0.0, 0.0)
    given = [(BASES[0] + 256 * k, list(range(MAX_BEATS))) for k in range(12)]
    await support.within(dut, 1000, writers[0].work(given))
    cycles = [item.cycle for item in writers[0].requests.sent]
    # The RAM model itself is slow to take an address now and then: most gaps are exact.
    gaps = [b - a for a, b in itertools.pairwise(cycles)]
    assert sorted(gaps)[len(gaps) // 2] == MAX_BEATS + 1, gaps
    assert min(gaps) == MAX_BEATS + 1


@cocotb.test()
async def outstanding_responses_are_bounded(dut):
    """Without responses a client gets 15 bursts out, not more, and the port is not idle."""
    _, ram, writers = await begin(dut, 0.0, 0.0)
    ram.b_channel.pause = True
    ram.b_channel.queue_occupancy_limit = 1000
    given = [(BASES[0] + 256 * k, [k]) for k in range(40)]
    work = [cocotb.start_soon(item) for item in writers[0].work(given)]
    await support.ticks(dut, 300)
    assert len(writers[0].requests.sent) <= 15
    assert not int(dut.idle.value)
    ram.b_channel.pause = False
    await support.ticks(dut, 400)
    assert all(task.done() for task in work)
    await settle(dut)
    assert writers[0].responses == 40


@cocotb.test()
async def abort_and_restart(dut):
    """The burst begun is finished, none is begun afterwards."""
    ddr, _, writers = await begin(dut)
    rng = random.Random(support.seed())
    for _ in range(12):
        for writer in writers:
            writer.responses = 0
            writer.requests.sent.clear()
            writer.beats.sent.clear()
        given = [writer.bursts(25, 2) for writer in writers]
        tasks = [cocotb.start_soon(work) for writer, mine in zip(writers, given, strict=True)
                 for work in writer.work(mine)]
        await support.ticks(dut, rng.randint(1, 200))
        dut.abort.value = 1
        await support.ticks(dut, 2)
        begun = [len(writer.requests.sent) for writer in writers]
        await settle(dut)
        await support.ticks(dut, 30)
        assert [len(writer.requests.sent) for writer in writers] == begun
        assert [writer.responses for writer in writers] == begun
        for writer, mine, count in zip(writers, given, begun, strict=True):
            assert len(writer.beats.sent) == sum(len(beats) for _, beats in mine[:count])
            check_memory(ddr, writer.beat_bytes, mine[:count])
        for task in tasks:
            task.cancel()
        for writer in writers:
            getattr(dut, f"client{writer.number}__request__valid").value = 0
            getattr(dut, f"client{writer.number}__data__valid").value = 0
        dut.abort.value = 0
        await support.ticks(dut, 2)
