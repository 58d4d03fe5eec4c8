"""Store engines: STORE from either source, STORE_RESIDUAL from a residual buffer, and both at the same time."""

import itertools
import random

import cocotb
from cocotb.triggers import RisingEdge

from spikeloom.hw.gateware.transfer import TransferGenerator
from spikeloom.hw.isa import Opcode, Source

from . import dma, memory, support


class Feeder:
    """Endless random beats on one source; `sent` are those taken."""

    def __init__(self, dut, name: str, bits: int, stall: float) -> None:
        self.rng, self.bits = random.Random(f"{support.seed()} {name}"), bits
        self.source = support.StreamSource(dut, name, stall, random.Random(name))
        self.task = cocotb.start_soon(self.source.send(self._beats()))

    def _beats(self):
        while True:
            yield self.rng.getrandbits(self.bits)

    @property
    def sent(self) -> list[int]:
        return [item.payload for item in self.source.sent]


def transfer(rng: random.Random, config, least: int = 1, most: int = 400) -> dict[str, int]:
    """Like `dma.random_transfer`, but without overlap: what is written last would depend on order."""
    while True:
        body = dma.random_transfer(rng, config, least, most)
        offsets = dma.beat_offsets(config, body)
        if len(set(offsets)) == len(offsets):
            return body


def check(config, ddr, before, body, beats) -> None:
    """Exactly the transfer's beats were written."""
    expected = [bytearray(region) for region in before]
    for offset, beat in zip(dma.beat_offsets(config, body), beats, strict=True):
        expected[body["region"]][offset:offset + config.beat_bytes] = beat.to_bytes(config.beat_bytes, "little")
    assert ddr.regions[body["region"]] == expected[body["region"]], f"region differs after {body}"


async def begin(dut, stall: float = 0.3, pace: float = 0.2):
    config = support.config()
    await dma.start(dut)
    ddr = memory.Ddr()
    memory.WriteRam(dut, ddr, stall)
    feeders = {name: Feeder(dut, name, config.beat_bits, pace) for name in ("store_source0", "store_source1")}
    return config, random.Random(support.seed()), ddr, feeders


def items_transfer(rng: random.Random, config, least: int = 1, most: int = 400) -> dict[str, int]:
    return transfer(rng, config, least, most) | {"item": rng.randrange(config.residual_depth)}


@cocotb.test()
async def both_sources(dut):
    config, rng, ddr, feeders = await begin(dut)
    for least in (1, 1, 1, 2, 2, 20, 20, 100, 200, 300):
        body = transfer(rng, config, least) | {"source": rng.choice(list(Source))}
        before = [bytes(region) for region in ddr.regions]
        taken = {name: len(feeder.sent) for name, feeder in feeders.items()}
        outcome = await dma.execute(dut, "store", Opcode.STORE, body)
        new = {name: feeder.sent[taken[name]:] for name, feeder in feeders.items()}
        mine = new.pop(f"store_source{body['source']}")
        assert not any(new.values()), "beats taken from another source"
        check(config, ddr, before, body, mine)
        assert outcome.errors == 0


@cocotb.test()
async def done_after_the_last_response(dut):
    """`done` never comes before memory has the data and the response is there."""
    config, rng, _, _ = await begin(dut)
    outstanding = 0

    async def watch() -> None:
        nonlocal outstanding
        while True:
            await RisingEdge(dut.clk)
            assert not (int(dut.store_done.value) and outstanding), "done with bursts outstanding"
            outstanding += int(dut.bus__awvalid.value) & int(dut.bus__awready.value)
            outstanding -= int(dut.bus__bvalid.value) & int(dut.bus__bready.value)

    cocotb.start_soon(watch())
    for _ in range(8):
        await dma.execute(dut, "store", Opcode.STORE, transfer(rng, config, 1, 80))


@cocotb.test()
async def one_after_the_other(dut):
    """STOREs under way together, empty ones among them: each its beats, `done` after its last response."""
    config, rng, ddr, feeders = await begin(dut)
    answers: list[int] = []
    cocotb.start_soon(responses(dut, answers))
    bodies = [dma.random_transfer(rng, config, 1, 60) | {"source": rng.choice(list(Source))} for _ in range(40)]
    bodies = [body | {"count2": 0} if rng.random() < 0.2 else body for body in bodies]
    batch = await dma.execute_all(dut, "store", [(Opcode.STORE, body) for body in bodies], pause=0.2)
    sent = {int(source): feeders[f"store_source{source}"].sent for source in Source}
    beats = []
    for body in bodies:
        count = len(dma.beat_offsets(config, body))
        beats.append(sent[body["source"]][:count])
        del sent[body["source"]][:count]
    assert not any(sent.values()), "more beats taken than stored"
    check_all(config, ddr, bodies, beats)
    batch.check_order(bursts_so_far(config, bodies), answers, "STORE")


@cocotb.test()
async def items_one_after_the_other(dut):
    config, rng, ddr, _ = await begin(dut)
    items, answers = dma.Items(dut, config, 0.3), []
    cocotb.start_soon(responses(dut, answers))
    bodies = [items_transfer(rng, config, 1, 60) for _ in range(30)]
    bodies = [body | {"count2": 0} if rng.random() < 0.2 else body for body in bodies]
    batch = await dma.execute_all(dut, "residual", [(Opcode.STORE_RESIDUAL, body) for body in bodies], pause=0.2)
    beats = [items.beats(config, body["item"], len(dma.beat_offsets(config, body))) for body in bodies]
    check_all(config, ddr, bodies, beats)
    batch.check_order(bursts_so_far(config, bodies), answers, "STORE_RESIDUAL")


async def responses(dut, cycles: list[int]) -> None:
    """Note the cycles of all responses."""
    while True:
        await RisingEdge(dut.clk)
        if int(dut.bus__bvalid.value) and int(dut.bus__bready.value):
            cycles.append(support.cycle())


def bursts_so_far(config, bodies) -> list[int]:
    generator, names = TransferGenerator(config), ("run", "count1", "stride1", "count2", "stride2")
    bursts = [generator.model(memory.BASES[body["region"]], body["offset"], *(body[name] for name in names))
              for body in bodies]
    return list(itertools.accumulate(map(len, bursts)))


def check_all(config, ddr, bodies, beats) -> None:
    """The transfers were written in order over zeros, and nothing else."""
    expected = [bytearray(memory.REGION_BYTES) for _ in ddr.regions]
    for body, given in zip(bodies, beats, strict=True):
        for offset, beat in zip(dma.beat_offsets(config, body), given, strict=True):
            expected[body["region"]][offset:offset + config.beat_bytes] = beat.to_bytes(config.beat_bytes, "little")
    assert ddr.regions == expected


@cocotb.test()
async def back_to_back(dut):
    """Under a long latency 17 cycles per burst of 16, from the first instruction to the last; it counts once."""
    await dma.start(dut)
    config, ddr, beats, count = support.config(), memory.Ddr(), 64, 20
    memory.LatentWrites(dut, ddr, memory.LATENCY)
    Feeder(dut, "store_source0", config.beat_bits, 0.0)
    dma.Items(dut, config, 0.3)
    body = {"run": beats, "count1": 1, "count2": 1}
    for engine, opcode in (("store", Opcode.STORE), ("residual", Opcode.STORE_RESIDUAL)):
        batch = await dma.execute_all(dut, engine, [(opcode, body)] * count)
        dut._log.info(f"{count} {opcode.name} of {beats} beats: {batch.cycles} cycles")
        least = count * beats * 17 // 16 + memory.LATENCY
        assert batch.cycles < least + 40 + (0 if opcode is Opcode.STORE else 16 * count), (opcode.name, batch.cycles)


@cocotb.test()
async def an_error_of_one_of_many(dut):
    """It is reported while its instruction is the oldest that is not done, so that it gets the blame."""
    await dma.start(dut)
    ddr = memory.Ddr(broken=range(memory.BASES[1], memory.BASES[1] + 1))
    ram = memory.LatentWrites(dut, ddr, 10)
    Feeder(dut, "store_source0", support.config().beat_bits, 0.0)

    async def bunch() -> None:
        while True:
            ram.frozen = not ram.frozen
            await support.ticks(dut, 100)

    cocotb.start_soon(bunch())
    bodies = [{"region": int(number % 3 == 1), "run": 1 + number % 20, "count1": 1, "count2": 1}
              for number in range(24)]
    batch = await dma.execute_all(dut, "store", [(Opcode.STORE, body) for body in bodies])
    failing = [number for number, body in enumerate(bodies) if body["region"]]
    for number, cycle in zip(failing, batch.errors, strict=True):
        assert batch.done[number - 1] < cycle <= batch.done[number], (number, cycle, batch)


@cocotb.test()
async def both_engines_and_an_error(dut):
    config, rng, ddr, _ = await begin(dut)
    items = dma.Items(dut, config, 0.5)
    ddr.broken = range(memory.BASES[0], memory.BASES[0] + 1)

    async def failing() -> None:
        for _ in range(3):
            outcome = await dma.execute(dut, "store", Opcode.STORE, {"region": 0, "run": 60, "count1": 1, "count2": 1})
            assert outcome.errors == 1

    async def healthy() -> None:
        for _ in range(5):
            body = items_transfer(rng, config, 20) | {"region": 1}
            outcome = await store_items(dut, config, ddr, items, body)
            assert outcome.errors == 0

    await support.within(dut, 20_000, [failing(), healthy()])


async def store_items(dut, config, ddr, items, body) -> dma.Outcome:
    before = [bytes(region) for region in ddr.regions]
    outcome = await dma.execute(dut, "residual", Opcode.STORE_RESIDUAL, body)
    check(config, ddr, before, body, items.beats(config, body["item"], len(dma.beat_offsets(config, body))))
    return outcome


@cocotb.test()
async def items_in_order(dut):
    """Any number of beats from any item on, also one after the other; the drain engine leaves few reads or many."""
    config, rng, ddr, _ = await begin(dut)
    items = dma.Items(dut, config, 0.0)
    for number in range(24):
        items.stall = (0.0, 0.5, 0.95)[number % 3]
        body = items_transfer(rng, config, rng.choice((1, 1, 16, 17, 100, 250)))
        assert (await store_items(dut, config, ddr, items, body)).errors == 0


@cocotb.test()
async def full_speed(dut):
    """Limited by the port: 17 cycles per burst of 16."""
    config, _, _, _ = await begin(dut, 0.0, 0.0)
    dma.Items(dut, config, 0.3)
    for engine, opcode in (("store", Opcode.STORE), ("residual", Opcode.STORE_RESIDUAL)):
        outcome = await dma.execute(dut, engine, opcode, {"region": 1, "run": 320, "count1": 1, "count2": 1})
        assert outcome.cycles < 320 * 17 // 16 + 60, outcome.cycles


@cocotb.test()
async def nothing_to_store(dut):
    config, _, _, feeders = await begin(dut)
    dma.Items(dut, config, 0.3)
    for engine, opcode in (("store", Opcode.STORE), ("residual", Opcode.STORE_RESIDUAL)):
        for zero in ("run", "count1", "count2"):
            outcome = await dma.execute(dut, engine, opcode, {"run": 1, "count1": 1, "count2": 1} | {zero: 0})
            assert outcome.cycles < 8
    assert not any(feeder.sent for feeder in feeders.values())


@cocotb.test()
async def abort_and_restart(dut):
    config, rng, ddr, feeders = await begin(dut)
    items = dma.Items(dut, config, 0.5)
    for _ in range(10):
        long = transfer(rng, config, 150), items_transfer(rng, config, 150)
        tasks = [cocotb.start_soon(dma.execute(dut, "store", Opcode.STORE, long[0])),
                 cocotb.start_soon(dma.execute(dut, "residual", Opcode.STORE_RESIDUAL, long[1]))]
        await support.ticks(dut, rng.randint(1, 250))
        for task in tasks:
            task.cancel()
        dut.store_i__valid.value = 0
        dut.residual_i__valid.value = 0
        await dma.abort_and_reset(dut)
        body = transfer(rng, config, 1, 100)
        before, taken = [bytes(region) for region in ddr.regions], len(feeders["store_source0"].sent)
        await dma.execute(dut, "store", Opcode.STORE, body)
        check(config, ddr, before, body, feeders["store_source0"].sent[taken:])
        await store_items(dut, config, ddr, items, items_transfer(rng, config, 1, 100))
