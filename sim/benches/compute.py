"""Bench of the compute engine: random COMPUTEs back to back against the interpreter; cycles between them.

Memories answer as the buffers do. The constants of an instruction are there from the cycle in which it is offered and
are gone in the cycle after `done`; accumulators are read right after it.
"""

import itertools
import random
from collections import deque
from dataclasses import dataclass, field

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

from spikeloom.config import ACCUMULATOR_BITS, GROUP_INPUTS, SCORE_BITS, MachineConfig
from spikeloom.hw.gateware.accumulator import Accumulators
from spikeloom.hw.gateware.buffers import RowBuffer, SpikeBanks
from spikeloom.hw.isa import CHUNK_BANK, CHUNK_COMMON, FIELDS, Accumulate, Core, Opcode, Target, pack_fields
from spikeloom.hw.program.constants import pack_weights
from spikeloom.hw.program.interpreter_compute import ComputeModel
from spikeloom.hw.program.memory import Memory

from . import support
from .schedule import unpack_values

SLOTS = 8
"""Instructions whose constants have a place of their own."""

CHUNKS = 4
"""Most chunks of an instruction."""

TABLES = (Core.ARRAY, Core.DEPTHWISE)
"""Units that have tables."""


@dataclass
class Work:
    """An instruction and what it does."""

    body: dict[str, int]
    headers: np.ndarray
    """uint8[chunks, bytes]"""
    weights: np.ndarray
    """uint8[rows, bytes]"""
    pixels: int
    drained: bool
    accumulators: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """int64[pixels, Po, Pt]: what they hold at its end."""
    beats: list[int] = field(default_factory=list)
    taken: int = -1
    done: int = -1
    read: bool = False

    @property
    def code(self) -> int:
        return pack_fields(FIELDS[Opcode.COMPUTE], self.body, "bench")


class Maker:
    """Makes random instructions and lets the interpreter execute them."""

    def __init__(self, config: MachineConfig, rng: random.Random, numbers: np.random.Generator) -> None:
        self.config, self.rng, self.numbers, self.count = config, rng, numbers, 0
        self.slot_rows = config.weight_depth // SLOTS
        self.spikes = numbers.integers(0, 256, (config.banks, config.spike_depth, config.beat_bytes), np.uint8)
        self.spikes[:, :, 0][:, ::7] = 0
        banks = [Memory(f"bank {b}", config.spike_depth, (config.beat_bytes,)) for b in range(config.banks)]
        for bank, words in zip(banks, self.spikes, strict=True):
            bank.fill(words)
        sizes = {Target.WEIGHTS: (config.weight_depth, config.weight_row_bytes),
                 Target.CHUNKS: (config.chunk_depth, config.chunk_header_beats * config.beat_bytes)}
        self.buffers = {t: Memory(t.name, depth, (size,)) for t, (depth, size) in sizes.items()}
        self.model = ComputeModel(config, banks, self.buffers)
        for memory in self.model.accumulators:
            memory.written[:] = True  # the bench keeps account itself: `bounds`
        self.bounds = np.full((2, config.accumulator_depth), -1)  # largest magnitude; -1: not known
        self.hamming_positions = -1
        self.previous: Work | None = None

    def make(self, core: Core, **given: int) -> Work:
        """One instruction; `given` are body fields."""
        rng, slot = self.rng, self.count % SLOTS
        self.count += 1
        body = self._body(core) | given | {"core": core, "chunk": CHUNKS * slot}
        pixels = body["rows"] * max(0, body["cols"] - body["skip"])
        body = {"acc_base": rng.randint(0, self.config.accumulator_depth - pixels)} | body
        chunks = [self._chunk(body, number, slot) for number in range(body["chunks"])]
        present: dict[str, int] = {}
        other: dict[str, int] = {}
        for common in chunks if core in TABLES else []:
            choice = rng.random()
            if present and choice < 0.3:  # the tables of the chunk before
                common |= present | {"load": 0}
            elif other and choice < 0.6:
                common |= other | {"load": 0, "swap": 1}
                present, other = other, present
            else:
                other, present = present, {name: common[name] for name in ("operand", "negate", "bipolar")}
        headers = np.zeros((len(chunks), self.config.chunk_header_beats * self.config.beat_bytes), np.uint8)
        for row, common in zip(headers, chunks, strict=True):
            words = [pack_fields(CHUNK_COMMON, common, "bench")]
            words += [pack_fields(CHUNK_BANK, self._bank(body), "bench") for _ in range(self.config.banks)]
            row[:4 * len(words)] = np.array(words, "<u4").view(np.uint8)
        work = Work(body, headers, self._weights(body), pixels, core is not Core.HAMMING and rng.random() < 0.6)
        self._execute(work, slot)
        self.previous = work
        return work

    def _body(self, core: Core) -> dict[str, int]:
        rng, before = self.rng, self.previous
        if before and before.body["core"] == core and rng.random() < 0.4:  # another run of the same pass
            same = dict(before.body)
            return same | {"chunks": rng.randint(1, CHUNKS)}
        rows, cols = rng.choice([(1, 1), (1, 2), (2, 3), (5, 8), (8, 8), (1, 64), (9, 7), (16, 6), (8, 16)])
        skip = rng.randint(0, 6) if core is Core.DEPTHWISE else 0
        if core is Core.TEMPORAL:  # a pixel per row
            rows, cols, skip = rows * cols, 1, rng.randint(0, 5)
        place = {"acc_bank": rng.getrandbits(1)}
        if before and before.pixels and rng.random() < 0.3:  # the last pixel of the one before is the first one now
            last = before.body["acc_base"] + before.pixels - 1
            place = {"acc_bank": before.body["acc_bank"], "acc_base": last}
            rows, cols = (1, 1) if last + rows * cols > self.config.accumulator_depth else (rows, cols)
        return place | {
            "chunks": rng.randint(1, CHUNKS), "rows": rows, "cols": cols + skip, "skip": skip,
            "address": rng.randint(400, self.config.spike_depth - 1200), "col_step": rng.randint(-3, 4),
            "row_step": rng.randint(-2, 4) if core is Core.TEMPORAL else rng.randint(-9, 40),
            "y": rng.randint(-3, 3), "x": rng.randint(-3, 3), "y_step": rng.randint(0, 2),
            "x_step": rng.randint(0, 2), "height": rng.randint(1, 40), "width": rng.randint(1, 40)}

    def _chunk(self, body: dict[str, int], number: int, slot: int) -> dict[str, int]:
        """Common word of a chunk header; no accumulator overflows."""
        rng, config = self.rng, self.config
        if body["core"] == Core.HAMMING:
            positions = body["rows"] * body["cols"]
            clear = self.hamming_positions < 0 or self.hamming_positions + positions > 900 or rng.random() < 0.4
            self.hamming_positions = positions + (0 if clear else self.hamming_positions)
            return self._lane() | {
                "accumulate": Accumulate.ZERO if clear else Accumulate.KEEP, "bipolar": rng.getrandbits(1),
                "finish": rng.getrandbits(1), "limbs": rng.choice([2, 3]),
                "operand": rng.getrandbits(config.word_channels)}
        largest = 127 * config.inputs if body["core"] in TABLES else (1 << SCORE_BITS - 1) - 1
        pixels = body["rows"] * (body["cols"] - body["skip"])
        bounds = self.bounds[body["acc_bank"], body["acc_base"]:body["acc_base"] + pixels]
        scales = {Accumulate.KEEP: 1, Accumulate.DOUBLE: 2, Accumulate.LIMB: 128}
        modes = [mode for mode, scale in scales.items() if (bounds >= 0).all()
                 and bounds.max() * scale + largest < 1 << ACCUMULATOR_BITS - 1]
        mode = rng.choice([*modes, Accumulate.ZERO])
        lane = self._lane() if (bounds >= 0).all() and body["core"] != Core.TEMPORAL else {}
        after = largest + (bounds * scales[mode] if mode in scales else 0 * bounds)
        bounds[:] = np.maximum(bounds, after) if lane.get("single") else after
        if body["core"] == Core.TEMPORAL:
            return {"accumulate": mode, "bipolar": rng.getrandbits(1), "lane": rng.randrange(config.lanes),
                    "operand": rng.randint(0, 2047), "load": rng.getrandbits(1)}
        rows = config.chunk_rows
        return lane | {"accumulate": mode, "negate": rng.getrandbits(1), "load": 1,
                "bipolar": rng.getrandbits(1) if body["core"] == Core.ARRAY else 0,
                "operand": slot * self.slot_rows + (number % (self.slot_rows // rows)) * rows}

    def _lane(self) -> dict[str, int]:
        return {"single": int(self.rng.random() < 0.3), "lane": self.rng.randrange(self.config.lanes)}

    def _bank(self, body: dict[str, int]) -> dict[str, int]:
        rng = self.rng
        return {"offset": rng.randint(-30, 30), "dy": rng.randint(-4, 4), "dx": rng.randint(-4, 4),
                "enable": int(rng.random() < 0.9)}

    def _weights(self, body: dict[str, int]) -> np.ndarray:
        """Rows of a slot; taps of the depthwise unit beyond `skip` are zero."""
        config = self.config
        count = self.slot_rows // config.chunk_rows
        weights = self.numbers.integers(-127, 128, (count, config.inputs, config.outputs), np.int8)
        if body["core"] == Core.DEPTHWISE:
            taps = weights[:, :GROUP_INPUTS * config.depthwise_groups]
            taps.reshape(count, config.depthwise_rows, 2 * GROUP_INPUTS, -1)[:, :, body["skip"] + 1:] = 0
        return np.frombuffer(pack_weights(weights, config), np.uint8).reshape(-1, config.weight_row_bytes)

    def _execute(self, work: Work, slot: int) -> None:
        body = work.body
        rows = slot * self.slot_rows + np.arange(len(work.weights))
        self.buffers[Target.WEIGHTS].write(rows, work.weights)
        self.buffers[Target.CHUNKS].write(body["chunk"] + np.arange(len(work.headers)), work.headers)
        filled = {f.name: body.get(f.name, 0) for f in FIELDS[Opcode.COMPUTE]}
        rows_of_bytes = [row for part in self.model.execute(filled) for row in part.reshape(-1, self.config.beat_bytes)]
        work.beats = [int.from_bytes(row.tobytes(), "little") for row in rows_of_bytes]
        if body["core"] != Core.HAMMING:
            place = body["acc_base"] + np.arange(work.pixels)
            work.accumulators = self.model.accumulators[body["acc_bank"]].data[place].copy()


class Machine:
    """Buffers, instruction stream, accumulator read port and matrix stream around the engine, cycle by cycle."""

    def __init__(self, dut, maker: Maker, works: list[Work], rng: random.Random, stall: float) -> None:
        self.dut, self.maker, self.works, self.rng, self.stall = dut, maker, works, rng, stall
        config = maker.config
        shapes = {"header": (config.chunk_depth, config.chunk_header_beats * config.beat_bytes),
                  "weight": (config.weight_depth, config.weight_row_bytes)}
        self.rows = {name: [rng.randbytes(size) for _ in range(depth)] for name, (depth, size) in shapes.items()}
        self.pipes = {name: deque([0] * RowBuffer.latency) for name in self.rows}
        self.spike_pipe = deque([0] * SpikeBanks.latency)
        self.words = [[int.from_bytes(word.tobytes(), "little") for word in bank] for bank in maker.spikes]
        self.beats: list[int] = []
        self.answers: dict[int, list[int]] = {}
        self.reads: deque[tuple[Work, int, int]] = deque()

    async def run(self) -> None:
        """Until all is done and read; AssertionError for anything that is not as the model says."""
        offered, done, wait, cycle, silent = 0, 0, 0, 0, 0
        while silent < 40:
            work = self.works[offered] if offered < len(self.works) and wait == 0 else None
            work = work if work is not None and self._may_start(offered) else None
            self._drive(work, cycle)
            await ReadOnly()
            self._sample()
            if work is not None and self.dut.i__ready.value:
                work.taken, offered = cycle, offered + 1
                wait = self.rng.randrange(200) if self.rng.random() < self.stall else 0
            elif wait:
                wait -= 1
            if cycle in self.answers:
                expected = self.answers.pop(cycle)
                got = unpack_values(int(self.dut.acc_data.value), ACCUMULATOR_BITS, self.maker.config.beat_bits)
                assert got == expected, f"cycle {cycle}: accumulators {got}, expected {expected}"
            if self.dut.done.value:
                assert done < offered, f"cycle {cycle}: more than one `done`"
                self._finish(self.works[done], done, cycle)
                done += 1
            silent = silent + 1 if done == len(self.works) and not self.reads and not self.answers else 0
            await RisingEdge(self.dut.clk)
            cycle += 1
            assert cycle < 60_000, f"no end: {done} of {len(self.works)} done"
        support.compare("matrix", self.beats, [beat for work in self.works for beat in work.beats])

    def _may_start(self, number: int) -> bool:
        """The accumulators of its bank that are to be read have been, and its slot is free."""
        bank = self.works[number].body["acc_bank"]
        before = self.works[:number]
        slot = before[number - SLOTS].done >= 0 if number >= SLOTS else True
        return slot and all(w.read or not w.drained or w.body["acc_bank"] != bank for w in before)

    def _drive(self, work: Work | None, cycle: int) -> None:
        dut, rng = self.dut, self.rng
        dut.i__valid.value = int(work is not None)
        dut.i__payload.value = work.code if work is not None else rng.getrandbits(416)
        if work is not None:
            self._place(work, work.headers, work.weights)
        dut.matrix__ready.value = int(rng.random() >= self.stall)
        for name, pipe in self.pipes.items():
            getattr(dut, f"{name}_data").value = pipe.popleft()
        dut.spike_data.value = self.spike_pipe.popleft()
        if self.reads:
            read, address, word = self.reads.popleft()
            dut.acc_bank.value, dut.acc_address.value = read.body["acc_bank"], read.body["acc_base"] + address
            dut.acc_word.value = word
            channels = self.maker.config.word_channels
            part = read.accumulators[address, word * channels:(word + 1) * channels]
            self.answers[cycle + Accumulators.read_latency] = part.ravel().tolist()
            read.read = not any(r[0] is read for r in self.reads)

    def _place(self, work: Work, headers, weights) -> None:
        slot = work.body["chunk"] // CHUNKS
        for row, content in enumerate(headers):
            self.rows["header"][work.body["chunk"] + row] = bytes(content)
        for row, content in enumerate(weights):
            self.rows["weight"][slot * self.maker.slot_rows + row] = bytes(content)

    def _sample(self) -> None:
        dut = self.dut
        for name, rows in self.rows.items():
            row = int(getattr(dut, f"{name}_row").value) % len(rows)
            self.pipes[name].append(int.from_bytes(rows[row], "little"))
        addresses, bits = int(dut.spike_address.value), self.maker.config.beat_bits
        self.spike_pipe.append(sum(
            bank[(addresses >> 20 * b & 0xFFFFF) % len(bank)] << bits * b for b, bank in enumerate(self.words)))
        if dut.matrix__valid.value and dut.matrix__ready.value:
            self.beats.append(int(dut.matrix__payload.value))

    def _finish(self, work: Work, number: int, cycle: int) -> None:
        """At `done`: the constants go, the accumulators are read, the last ones written first."""
        work.done = cycle
        assert len(self.beats) >= sum(len(w.beats) for w in self.works[:number + 1]), "`done` before the last beat"
        size = {name: len(rows[0]) for name, rows in self.rows.items()}
        self._place(work, [self.rng.randbytes(size["header"]) for _ in work.headers],
                    [self.rng.randbytes(size["weight"]) for _ in work.weights])
        if work.drained:
            self.reads += [(work, address, word) for address in reversed(range(work.pixels))
                           for word in range(self.maker.config.output_words)]


def bench():
    config = support.config()
    rng, numbers = random.Random(support.seed()), np.random.default_rng(support.seed())
    return config, rng, Maker(config, rng, numbers)


@cocotb.test()
async def computes(dut):
    """Random instructions of all units."""
    _, rng, maker = bench()
    await support.start(dut)
    for stall in (0.0, 0.4):
        cores = rng.choices(list(Core), [4, 2, 1, 2], k=50)
        for number in range(1, len(cores)):
            cores[number] = cores[number - 1] if rng.random() < 0.5 else cores[number]
        works = [maker.make(core) for core in cores]
        await Machine(dut, maker, works, rng, stall).run()


@cocotb.test()
async def follows_without_gaps(dut):
    """COMPUTEs of one chunk each: max(positions, table filling) cycles apart, a few more where these are alike."""
    config, rng, maker = bench()
    await support.start(dut)
    filling = {Core.ARRAY: 16 * config.groups // config.load_groups,
               Core.DEPTHWISE: 16 * config.depthwise_groups // config.load_groups}
    for core, fill in filling.items():
        for rows, cols in ((4, 4), (7, 7), (8, fill // 8), (11, fill // 8), (16, 16)):
            maker.previous = None
            works = [maker.make(core, chunks=1, rows=rows, cols=cols, skip=0, acc_base=0, acc_bank=n & 1)
                     for n in range(12)]
            for work in works:
                work.drained = False
            await Machine(dut, maker, works, rng, 0.0).run()
            apart = [b.done - a.done for a, b in itertools.pairwise(works[3:])]
            print(f"{core.name}: {rows * cols} positions, {fill} cycles of filling: {apart}")
            assert sum(apart) / len(apart) <= max(rows * cols, fill) + 4
            if abs(rows * cols - fill) > 16:
                assert max(apart) == max(rows * cols, fill)
