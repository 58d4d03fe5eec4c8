"""Read port against a memory that answers in any order between IDs and interleaves their beats."""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from spikeloom.hw.gateware.axi import BURST, MAX_BEATS

from . import support
from .memory import check_addresses

CLIENTS = 3


@dataclass
class ShuffledMemory:
    """Answers reads with `word(address)`: bursts of one ID in order, everything else mixed beat by beat.

    `stall`: probability of a pause, per cycle and channel. `broken`: addresses answered with DECERR. `frozen`: no
    answers. `taken`: (ID, address, beats) of all bursts accepted. Checks that RREADY is always high.
    """

    dut: Any
    stall: float = 0.3
    rng: random.Random = field(default_factory=lambda: random.Random(support.seed()))
    broken: frozenset[int] = frozenset()
    frozen: bool = False
    taken: list[tuple[int, int, int]] = field(default_factory=list)
    queues: dict[int, deque[tuple[int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.beat_bytes = support.config().beat_bytes
        cocotb.start_soon(self._run())
        cocotb.start_soon(check_addresses(self.dut, "ar"))

    def word(self, address: int) -> int:
        return random.Random(address).getrandbits(8 * self.beat_bytes)

    async def _run(self) -> None:
        dut = self.dut
        while True:
            dut.bus__arready.value = int(self.rng.random() >= self.stall)
            self._answer()
            await RisingEdge(dut.clk)
            assert int(dut.bus__rready.value), f"cycle {support.cycle()}: rready is low"
            if int(dut.bus__arvalid.value) and int(dut.bus__arready.value):
                self._take(int(dut.bus__arid.value), int(dut.bus__araddr.value), int(dut.bus__arlen.value) + 1)

    def _take(self, number: int, address: int, beats: int) -> None:
        self.taken.append((number, address, beats))
        queue = self.queues.setdefault(number, deque())
        queue.extend((address + k * self.beat_bytes, int(k == beats - 1)) for k in range(beats))

    def _answer(self) -> None:
        dut = self.dut
        waiting = [number for number, queue in self.queues.items() if queue]
        valid = bool(waiting) and not self.frozen and self.rng.random() >= self.stall
        dut.bus__rvalid.value = int(valid)
        if not valid:
            dut.bus__rdata.value = self.rng.getrandbits(8 * self.beat_bytes)
            return
        number = self.rng.choice(waiting)
        address, last = self.queues[number].popleft()
        dut.bus__rid.value = number
        dut.bus__rdata.value = self.word(address)
        dut.bus__rresp.value = 3 if address in self.broken else 0
        dut.bus__rlast.value = last


def bursts(rng: random.Random, beat: int, count: int) -> list[tuple[int, int]]:
    """(address, beats), legal."""
    result = []
    for _ in range(count):
        length = rng.choice((1, MAX_BEATS, rng.randint(1, MAX_BEATS)))
        page, first = rng.getrandbits(28) << 12, rng.randint(0, 4096 // beat - length)
        result.append((page + first * beat, length))
    return result


def payloads(given: list[tuple[int, int]]) -> list[int]:
    return [support.pack(BURST, {"address": address, "length": length}) for address, length in given]


def words(memory: ShuffledMemory, given: list[tuple[int, int]]) -> list[int]:
    return [memory.word(address + k * memory.beat_bytes) for address, length in given for k in range(length)]


async def begin(dut, stall: float) -> tuple[random.Random, ShuffledMemory]:
    await support.start(dut)
    assert int(dut.idle.value)
    return random.Random(support.seed()), ShuffledMemory(dut, stall)


async def traffic(dut, memory, given: dict[int, list[tuple[int, int]]], stalls: dict[int, float]) -> None:
    """All bursts of all clients; every client gets its beats, in order."""
    work, sinks = [], {}
    for number, wanted in given.items():
        rng = random.Random(f"{support.seed()} {number}")
        source = support.StreamSource(dut, f"client{number}__request", stalls[number], rng)
        sinks[number] = support.StreamSink(dut, f"client{number}__data", stalls[number], rng)
        work += [source.send(payloads(wanted)), sinks[number].receive(len(words(memory, wanted)))]
    await support.within(dut, 30_000, work)
    for number, wanted in given.items():
        support.compare(f"client {number}", sinks[number].received, words(memory, wanted))
    await support.ticks(dut, 4)
    assert int(dut.idle.value)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.7])
async def every_client_gets_its_beats(dut, stall):
    rng, memory = await begin(dut, stall)
    given = {number: bursts(rng, memory.beat_bytes, 40) for number in range(CLIENTS)}
    await traffic(dut, memory, given, {0: 0.0, 1: 0.3, 2: 0.8})
    for number, wanted in given.items():
        assert [(address, beats) for who, address, beats in memory.taken if who == number] == wanted


@cocotb.test()
async def a_stalled_client_blocks_nobody(dut):
    """Client 0 asks for more than it ever takes; the others go on at their speed; its credits bound what is issued."""
    rng, memory = await begin(dut, 0.2)
    greedy = bursts(rng, memory.beat_bytes, 60)
    asking = cocotb.start_soon(support.StreamSource(dut, "client0__request", 0.0).send(payloads(greedy)))
    given = {number: bursts(rng, memory.beat_bytes, 40) for number in (1, 2)}
    work = [cocotb.start_soon(support.StreamSource(dut, f"client{n}__request", 0.0, rng).send(payloads(given[n])))
            for n in given]
    sinks = {n: support.StreamSink(dut, f"client{n}__data", 0.2, random.Random(n)) for n in given}
    await support.within(dut, 6000, [sinks[n].receive(len(words(memory, given[n]))) for n in given])
    for number in given:
        support.compare(f"client {number}", sinks[number].received, words(memory, given[number]))
    assert all(task.done() for task in work)
    issued = sum(beats for number, _, beats in memory.taken if number == 0)
    credits = support.parameters()["credits"]
    assert credits - MAX_BEATS < issued <= credits
    late = support.StreamSink(dut, "client0__data", 0.0)
    await support.within(dut, 6000, [late.receive(len(words(memory, greedy)))])
    support.compare("client 0", late.received, words(memory, greedy))
    assert asking.done()


@cocotb.test()
async def round_robin(dut):
    """Clients that always ask take turns."""
    rng, memory = await begin(dut, 0.0)
    given = {number: [(address, 1) for address, _ in bursts(rng, memory.beat_bytes, 12)] for number in range(CLIENTS)}
    await traffic(dut, memory, given, dict.fromkeys(range(CLIENTS), 0.0))
    turns = [number for number, _, _ in memory.taken]
    assert turns[3:30] == (turns[3:6] * 9)
    assert sorted(turns[3:6]) == [0, 1, 2]


@cocotb.test()
async def errors_go_to_their_client(dut):
    rng, memory = await begin(dut, 0.2)
    given = {number: bursts(rng, memory.beat_bytes, 30) for number in range(CLIENTS)}
    hit = {number: rng.sample([a + k * memory.beat_bytes for a, n in given[number] for k in range(n)], number)
           for number in given}
    memory.broken = frozenset(address for addresses in hit.values() for address in addresses)
    counts = [0] * CLIENTS

    async def count() -> None:
        while True:
            await RisingEdge(dut.clk)
            for number in given:
                counts[number] += int(getattr(dut, f"client{number}__error").value)

    cocotb.start_soon(count())
    await traffic(dut, memory, given, dict.fromkeys(range(CLIENTS), 0.2))
    assert counts == [0, 1, 2]


@cocotb.test()
async def latency_and_full_speed(dut):
    """Request to AR: 1 cycle; R to data: 3 cycles; then a beat per cycle."""
    await begin(dut, 0.0)
    count = 12
    source = support.StreamSource(dut, "client1__request", 0.0)
    sink = support.StreamSink(dut, "client1__data", 0.0)
    seen = {}

    async def watch() -> None:
        while True:
            await RisingEdge(dut.clk)
            for name in ("arvalid", "rvalid"):
                if int(getattr(dut, f"bus__{name}").value):
                    seen.setdefault(name, support.cycle() - 1)

    cocotb.start_soon(watch())
    sending = cocotb.start_soon(source.send(payloads([(4096 * k, MAX_BEATS) for k in range(count)])))
    await support.within(dut, 400, [sink.receive(count * MAX_BEATS)])
    assert sending.done()
    cycles = [item.cycle for item in sink.received]
    assert seen["arvalid"] == source.sent[0].cycle + 1
    assert cycles[0] == seen["rvalid"] + 3
    if support.parameters()["credits"] >= 2 * MAX_BEATS:
        assert cycles == list(range(cycles[0], cycles[0] + count * MAX_BEATS))


@cocotb.test()
async def abort_and_restart(dut):
    rng, memory = await begin(dut, 0.3)
    for _ in range(15):
        memory.stall = rng.choice((0.0, 0.3, 0.9))
        tasks, takers = [], []
        for number in range(CLIENTS):
            private = random.Random(rng.random())
            given = payloads(bursts(rng, memory.beat_bytes, 40))
            source = support.StreamSource(dut, f"client{number}__request", 0.2, private)
            tasks.append(cocotb.start_soon(source.send(given)))
            sink = support.StreamSink(dut, f"client{number}__data", 0.4, private)
            takers.append(cocotb.start_soon(sink.receive(10**6)))
        memory.frozen = rng.random() < 0.3
        await support.ticks(dut, rng.randint(1, 120))
        for task in takers:
            task.cancel()  # they would object: data that waits is withdrawn
        dut.abort.value = 1
        await support.ticks(dut, 2)
        on_offer = True
        for _ in range(30):
            await RisingEdge(dut.clk)
            assert on_offer or not int(dut.bus__arvalid.value), "a new request after abort"
            on_offer = bool(int(dut.bus__arvalid.value)) and not int(dut.bus__arready.value)
            assert not any(int(getattr(dut, f"client{n}__data__valid").value) for n in range(CLIENTS))
        if memory.frozen and any(memory.queues.values()):
            assert not int(dut.idle.value), "idle with data outstanding"
        memory.frozen, memory.stall = False, 0.3
        for task in tasks:
            task.cancel()
        for number in range(CLIENTS):
            getattr(dut, f"client{number}__request__valid").value = 0
            getattr(dut, f"client{number}__data__ready").value = 0
        for _ in range(1500):
            await RisingEdge(dut.clk)
            if int(dut.idle.value):
                break
        assert int(dut.idle.value)
        assert not any(memory.queues.values()), "idle with data outstanding"
        dut.abort.value = 0
        await support.ticks(dut, 1)
        memory.taken.clear()
        given = {number: bursts(rng, memory.beat_bytes, 6) for number in range(CLIENTS)}
        await traffic(dut, memory, given, dict.fromkeys(range(CLIENTS), 0.2))
