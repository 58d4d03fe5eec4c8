"""Load engine, LOAD_PIXELS: bank writes against `PixelPacker.model`, bit for bit and in order."""

import random

import cocotb

from spikeloom.hw.gateware.packer import PixelPacker
from spikeloom.hw.isa import Opcode

from . import dma, load, memory, support

OP = Opcode.LOAD_PIXELS


def instruction(rng: random.Random, config) -> dict[str, int]:
    """Random rows and columns in and around a random picture."""
    beat = config.beat_bytes
    width, height = rng.randint(1, min(40, config.line_bytes // 3)), rng.randint(1, 12)
    stride = rng.choice((1, 1, 2, 4))
    words, fold = rng.randint(1, 5), 1 << rng.randrange(config.banks.bit_length())
    rows = rng.randint(1, 4)
    row, start = rng.randint(-rows - 1, height), 3 * rng.randint(-4, 2) + rng.choice((0, 0, 1))
    cols = rng.randint(1, max(1, width // stride // 2 + 3))
    pitch = -(-3 * width // beat) * beat + beat * rng.randint(0, 2)
    stride_of_frames = pitch * height + beat * rng.randint(0, 3)
    room = memory.REGION_BYTES - config.lanes * stride_of_frames
    return {
        "region": rng.randrange(4), "offset": rng.randrange(0, room, beat), "pitch": pitch,
        "frame_stride": stride_of_frames, "frames": rng.randint(1, config.lanes), "row": row, "rows": rows,
        "height": height, "row_bytes": 3 * width, "start": start, "step": 3 * stride, "cols": cols, "words": words,
        "fold": fold, "pad0": rng.getrandbits(8), "pad1": rng.getrandbits(8), "pad2": rng.getrandbits(8),
        "address": rng.getrandbits(20), "plane_stride": rng.getrandbits(12), "word_stride": rng.getrandbits(10)}


async def check(dut, config, ddr, writes, body) -> dma.Outcome:
    """Execute an instruction; compare the words that the banks of the mask get, write by write."""
    writes.seen.clear()
    outcome = await dma.execute(dut, "load", OP, body)
    block = PixelPacker(config)
    model = block.model(ddr.regions[body["region"]], body["offset"], body)
    support.compare(f"LOAD_PIXELS {body}", writes.seen, [tuple(write) for write in model])
    return outcome


@cocotb.test()
async def matches_the_model(dut):
    config, rng, ddr, _, writes = await load.begin(dut)
    for number in range(24):
        writes.stall = (0.0, 0.2, 0.9)[number % 3]
        outcome = await check(dut, config, ddr, writes, instruction(rng, config))
        assert outcome.errors == 0


@cocotb.test()
async def every_fold(dut):
    """All numbers of words with every fold: one word, pairs, a last word alone."""
    config, rng, ddr, _, writes = await load.begin(dut, planes=0.2)
    for fold in (1 << k for k in range(config.banks.bit_length())):
        for words in (1, 2, 3, 4, 7, 14, 15):
            body = instruction(rng, config) | {"words": words, "fold": fold, "rows": 1, "cols": rng.randint(1, 3)}
            await check(dut, config, ddr, writes, body)


@cocotb.test()
async def long_stall(dut):
    """The banks refuse everything for a long time while memory is fast: nothing is lost, nothing is written twice."""
    config, rng, ddr, _, writes = await load.begin(dut, stall=0)
    body = instruction(rng, config) | {"row": -1, "rows": 3, "cols": 9, "words": 3, "fold": 2}

    async def refuse() -> None:
        await support.ticks(dut, 60)
        writes.stall = 1.0
        await support.ticks(dut, 300)
        writes.stall = 0.0

    refusing = cocotb.start_soon(refuse())
    outcome = await check(dut, config, ddr, writes, body)
    await refusing
    assert outcome.cycles > 300 + PixelPacker(config).cycles(3, 9, 3, 2)


@cocotb.test()
async def longest_line(dut):
    """A row that fills the line buffer, read at its end."""
    config, rng, ddr, _, writes = await load.begin(dut)
    size = config.line_bytes
    body = instruction(rng, config) | {
        "offset": 0, "row_bytes": size, "pitch": size, "frame_stride": 2 * size, "height": 2, "row": 0, "rows": 2,
        "start": size - 40, "step": 3, "cols": 14, "frames": config.lanes}
    await check(dut, config, ddr, writes, body)


@cocotb.test()
async def rows_beyond_a_carry(dut):
    """The first row lies beyond a multiple of 2**20 bytes and of 2**32, the picture begins before it."""
    config, rng, ddr, _, writes = await load.begin(dut)
    for row in (0, 1, 7, 10, 11):
        body = instruction(rng, config) | {
            "region": 3, "offset": 0x600, "row_bytes": 60, "pitch": 256, "frame_stride": 256 * 16, "height": 16,
            "row": row, "rows": 2, "cols": 2}
        await check(dut, config, ddr, writes, body)


@cocotb.test()
async def cycles(dut):
    """Rows outside the picture need no memory: the exact count, 8 per column and pair. Rows inside: hidden."""
    config, rng, ddr, _, writes = await load.begin(dut, stall=0)
    block = PixelPacker(config)
    for words, fold, windows in ((2, 2, 1), (2, 1, 2), (1, 2, 1), (1, 1, 1), (3, 2, 2), (4, 2, 2), (5, 2, 3)):
        body = instruction(rng, config) | {"row": -5, "rows": 4, "cols": 6, "words": words, "fold": fold}
        outcome = await check(dut, config, ddr, writes, body)
        count = block.cycles(4, 6, words, fold)
        assert count == 4 * (8 * 6 * windows + 1) + 17
        # hand-over -> instruction -> start, start -> busy, finished -> ended -> done
        assert outcome.cycles == count + 5, (outcome.cycles, count)
    body |= {"row": 1, "rows": 5, "height": 8, "row_bytes": 96, "pitch": 96, "frame_stride": 768, "offset": 0,
             "cols": 30, "frames": config.lanes, "words": 2, "fold": 2}
    outcome = await check(dut, config, ddr, writes, body)
    count = block.cycles(5, 30, 2, 2)
    first_row = config.lanes * 96 // config.beat_bytes
    assert count < outcome.cycles < count + 60 + 2 * first_row, (outcome.cycles, count)


@cocotb.test()
async def among_words(dut):
    """LOAD_PIXELS between LOADs: what is before it is written first, what is after it waits."""
    config, rng, ddr, _, writes = await load.begin(dut, planes=0.2)
    block, given, counts, expected = PixelPacker(config), [], [], []
    for _ in range(24):
        opcode = rng.choice((OP, load.OP, load.OP))
        body = load.instruction(rng, config, 1, 40) if opcode is load.OP else instruction(rng, config) | {"cols": 2}
        if rng.random() < 0.2:
            body |= {"count1": 0} if opcode is load.OP else {"cols": 0}
        given.append((opcode, body))
        expected += (load.expected(config, ddr, body) if opcode is load.OP else
                     [tuple(write) for write in block.model(bytes(ddr.regions[body["region"]]), body["offset"], body)])
        counts.append(len(expected))
    batch = await dma.execute_all(dut, "load", given)
    support.compare("LOAD and LOAD_PIXELS", writes.seen, expected)
    batch.check_order(counts, writes.cycles, "instruction")


@cocotb.test()
async def nothing_to_pack(dut):
    config, rng, _, _, writes = await load.begin(dut)
    for zero in ("rows", "cols", "words"):
        await dma.execute(dut, "load", OP, {**instruction(rng, config), zero: 0})
    assert not writes.seen


@cocotb.test()
async def abort_and_restart(dut):
    config, rng, ddr, _, writes = await load.begin(dut, planes=0.3)
    for _ in range(8):
        task = cocotb.start_soon(dma.execute(dut, "load", OP, instruction(rng, config) | {"cols": 20}))
        await support.ticks(dut, rng.randint(1, 400))
        task.cancel()
        dut.load_i__valid.value = 0
        await dma.abort_and_reset(dut)
        await check(dut, config, ddr, writes, instruction(rng, config))
        words = load.instruction(rng, config, 1, 60)
        writes.seen.clear()
        await dma.execute(dut, "load", Opcode.LOAD, words)
        support.compare(f"LOAD {words}", writes.seen, load.expected(config, ddr, words))
