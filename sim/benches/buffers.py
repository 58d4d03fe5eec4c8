"""Row buffer and spike banks against a dictionary: random writes of both writers, random reads, latency, holding."""

import random

import cocotb
from cocotb.triggers import RisingEdge

from spikeloom.hw.gateware.buffers import SPIKE_ADDRESS_BITS, SpikeBanks, row_write

from . import support


@cocotb.test()
async def random_accesses(dut):
    await support.start(dut)
    await (rows(dut) if support.parameters()["kind"] == "rows" else banks(dut))


async def rows(dut) -> None:
    depth, beats, bits = (support.parameters()[name] for name in ("depth", "row_beats", "beat_bits"))
    rng = random.Random(support.seed())
    writers, content, held = Writers(dut, bits), {}, None
    for row in range(depth):
        for slot in range(beats):
            content[row, slot] = rng.getrandbits(bits)
            writers.offer([{"row": row, "slot": slot, "data": content[row, slot]}])
            await RisingEdge(dut.clk)
    for _ in range(600):
        beats_offered = [{"row": rng.randrange(depth), "slot": rng.randrange(beats + 1), "data": rng.getrandbits(bits)}
                         if rng.random() < 0.6 else None for _ in range(writers.count)]
        writers.offer(beats_offered)
        near = next((beat["row"] for beat in beats_offered if beat), 0)
        read, asked = rng.random() < 0.7, rng.randrange(depth) if rng.random() < 0.7 else near
        dut.read_en.value, dut.read_row.value = read, asked
        await RisingEdge(dut.clk)
        if held is not None:
            assert int(dut.read_data.value) == held
        if read:
            held = sum(content[asked, k] << k * bits for k in range(beats))  # old value, also if written now
            held &= support.parameters().get("used", held)
        for beat in writers.taken(beats_offered):
            content[beat["row"], beat["slot"]] = beat["data"]


@cocotb.test()
async def two_writers_at_full_speed(dut):
    """Both fill row after row: N beats each take N + 1 cycles, if there is more than one slot."""
    if support.parameters()["kind"] != "rows" or not support.parameters()["parallel"]:
        return
    await support.start(dut)
    writers, slots = Writers(dut, support.parameters()["beat_bits"]), support.parameters()["row_beats"]
    beats = 10 * slots
    sent, cycles = [0, 0], 0
    while min(sent) < beats:
        offered = [{"row": 0, "slot": count % slots, "data": 0} if count < beats else None for count in sent]
        writers.offer(offered)
        await RisingEdge(dut.clk)
        taken = writers.taken(offered)
        sent = [count + any(beat is done for done in taken) for count, beat in zip(sent, offered, strict=True)]
        cycles += 1
    assert cycles == (2 * beats if slots == 1 else beats + 1)


class Writers:
    """The write ports of a row buffer."""

    def __init__(self, dut, bits: int) -> None:
        self.dut, self.layout, self.count = dut, row_write(bits), support.parameters()["writers"]
        self.parallel = support.parameters()["parallel"]

    def offer(self, beats) -> None:
        """One beat or None per writer; nothing from the others."""
        for number in range(self.count):
            beat = beats[number] if number < len(beats) else None
            getattr(self.dut, f"writer{number}__valid").value = int(beat is not None)
            if beat:
                getattr(self.dut, f"writer{number}__payload").value = support.pack(self.layout, beat)

    def taken(self, beats):
        """The beats that must be taken; checks that the ports say so."""
        first, second = beats[0], beats[-1] if self.count == 2 else None
        clash = first and second and (not self.parallel or first["slot"] == second["slot"])
        for number, (beat, ready) in enumerate(((first, True), (second, not clash))):
            if beat:
                assert int(getattr(self.dut, f"writer{number}__ready").value) == ready, f"writer {number}: {beats}"
        return [beat for beat in (first, None if clash else second) if beat]


async def banks(dut) -> None:
    config, rng = support.config(), random.Random(support.seed())
    near = [rng.randrange(config.spike_depth) for _ in range(12)] + [0, config.spike_depth - 1]
    content: dict[tuple[int, int], int] = {}
    held: list[int | None] = [None] * config.banks
    under_way = [list(held) for _ in range(SpikeBanks.latency)]
    for _ in range(1000):
        planes = offer(dut, "plane", rng.getrandbits(config.banks) if rng.random() < 0.4 else 0, near, rng)
        dut.plane_valid.value = planes[0] != 0
        loaded = offer(dut, "write", rng.getrandbits(config.banks), near, rng)
        asked, read = [rng.choice(near) for _ in held], rng.getrandbits(config.banks)
        dut.read_en.value = read
        dut.read_address.value = sum(a << SPIKE_ADDRESS_BITS * b for b, a in enumerate(asked))
        await RisingEdge(dut.clk)
        data = int(dut.read_data.value)
        for bank, expected in enumerate(under_way.pop(0)):
            assert expected in (None, word_of(config, data, bank))
            if read >> bank & 1:
                held[bank] = content.get((bank, asked[bank]), 0)
        under_way.append(list(held))
        assert int(dut.write_ready.value) == (planes[0] == 0)
        mask, at, words = planes if planes[0] else loaded
        content |= {(bank, at): word_of(config, words, bank) for bank in range(config.banks) if mask >> bank & 1}


def offer(dut, writer: str, mask: int, near: list[int], rng: random.Random) -> tuple[int, int, int]:
    """Random write of one writer: mask, address, data."""
    values = (mask, rng.choice(near), rng.getrandbits(len(getattr(dut, f"{writer}_data"))))
    for name, value in zip(("mask", "address", "data"), values, strict=True):
        getattr(dut, f"{writer}_{name}").value = value
    return values


def word_of(config, words: int, bank: int) -> int:
    return words >> bank * config.beat_bits & (1 << config.beat_bits) - 1
