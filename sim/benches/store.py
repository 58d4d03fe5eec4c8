"""Store engines: STORE from either source and STORE_RESIDUAL at the same time."""

import random

import cocotb
from cocotb.triggers import RisingEdge

from spikeloom.hw.isa import Opcode, Source

from . import dma, support


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
    config = dma.config()
    await dma.start(dut)
    ddr = dma.Ddr()
    dma.WriteRam(dut, ddr, stall)
    feeders = {name: Feeder(dut, name, config.beat_bits, pace)
               for name in ("store_source0", "store_source1", "residual_source0")}
    return config, random.Random(support.seed()), ddr, feeders


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
async def both_engines_and_an_error(dut):
    config, rng, ddr, feeders = await begin(dut)
    ddr.broken = range(dma.BASES[0], dma.BASES[0] + 1)

    async def failing() -> None:
        for _ in range(3):
            outcome = await dma.execute(dut, "store", Opcode.STORE, {"region": 0, "run": 60, "count1": 1, "count2": 1})
            assert outcome.errors == 1

    async def healthy() -> None:
        for _ in range(5):
            body = transfer(rng, config, 20) | {"region": 1}
            before, taken = [bytes(region) for region in ddr.regions], len(feeders["residual_source0"].sent)
            outcome = await dma.execute(dut, "residual", Opcode.STORE_RESIDUAL, body)
            assert outcome.errors == 0
            check(config, ddr, before, body, feeders["residual_source0"].sent[taken:])

    await support.within(dut, 20_000, [failing(), healthy()])


@cocotb.test()
async def full_speed(dut):
    """Limited by the port: 17 cycles per burst of 16."""
    await begin(dut, 0.0, 0.0)
    outcome = await dma.execute(dut, "store", Opcode.STORE, {"region": 1, "run": 320, "count1": 1, "count2": 1})
    assert outcome.cycles < 320 * 17 // 16 + 60, outcome.cycles


@cocotb.test()
async def nothing_to_store(dut):
    _, _, _, feeders = await begin(dut)
    for zero in ("run", "count1", "count2"):
        outcome = await dma.execute(dut, "store", Opcode.STORE, {"run": 1, "count1": 1, "count2": 1} | {zero: 0})
        assert outcome.cycles < 6
    assert not any(feeder.sent for feeder in feeders.values())


@cocotb.test()
async def abort_and_restart(dut):
    config, rng, ddr, feeders = await begin(dut)
    for _ in range(10):
        tasks = [cocotb.start_soon(dma.execute(dut, "store", Opcode.STORE, transfer(rng, config, 150))),
                 cocotb.start_soon(dma.execute(dut, "residual", Opcode.STORE_RESIDUAL, transfer(rng, config, 150)))]
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
