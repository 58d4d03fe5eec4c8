"""Bench of `DrainEngine`: random instructions in a row, against the model under backpressure; cycles without.

The buffers that it reads are modelled here: they answer an address exactly as many cycles later as the engine asks
for, and with noise in every other cycle (no shortcut: 0). A residual is seen by reads as late as the engine allows.
"""

import random
from collections import deque
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

from spikeloom.arithmetic import MEMBRANE_BITS, PLANE_BITS, RESIDUAL_BITS
from spikeloom.config import ACCUMULATOR_BITS, MachineConfig
from spikeloom.hw.gateware.drain import DrainEngine, DrainMemories
from spikeloom.hw.isa import FIELDS, Mode, Opcode, pack_fields

from . import support
from .fixed_latency import bits_of, magnitudes
from .neuron import parameter_rows, random_settings

INSTRUCTIONS = 120


def memories(config: MachineConfig, rng: np.random.Generator) -> DrainMemories:
    """Random contents; carry memory and sums are written before they are read."""
    item = (config.word_channels, config.lanes)
    return DrainMemories(
        accumulators=magnitudes(rng, (2, config.output_words, config.accumulator_depth, *item), ACCUMULATOR_BITS),
        residual=magnitudes(rng, (config.residual_depth, *item), RESIDUAL_BITS),
        parameters=parameter_rows(rng, config.parameter_depth, config.word_channels),
        carry=np.zeros((config.output_words * config.accumulator_depth, config.word_channels), np.int64),
        sums=np.zeros((config.output_words, *item), np.int64))


def random_body(engine: DrainEngine, rng: np.random.Generator, before: dict[str, int]) -> dict[str, int]:
    """Fields of a DRAIN that make sense together and stay within the buffers; often near the one `before`."""
    config = engine.config
    body = random_settings(rng, config.lanes)
    if rng.random() < 0.7:  # else the main beats are mostly of another kind, and nothing overlaps
        body["mode"] = before["mode"]
    body["pool"] &= int(body["mode"] == Mode.RESIDUAL and rng.random() < 0.5)
    body["carry_in"] &= int(rng.random() < 0.5)
    words, pixels = int(rng.integers(1, config.output_words + 1)), int(rng.choice([1, 2, 3, 5, 17, 30]))
    outputs = {Mode.DIRECT: ["spikes"], Mode.RESIDUAL: ["spikes", "residual"], Mode.PLANES: ["planes"],
               Mode.SUM: ["raw"]}[Mode(body["mode"])]
    put = {name: int(rng.random() < 0.8) for name in outputs}
    place = {"acc_base": config.accumulator_depth - pixels, "word": config.output_words - words,
             "parameter": config.parameter_depth - words}
    local = {"local": body["mode"] == Mode.PLANES and rng.random() < 0.7, "local_bank": rng.integers(8),
             "local_address": rng.integers(1 << 20), "local_stride": rng.integers(1 << 20)}
    return {**body, **put, **{name: int(rng.integers(top + 1)) for name, top in place.items()},
            **{name: int(value) for name, value in local.items()}, **_items(config, rng, words, pixels, before),
            "acc_bank": int(rng.integers(2)), "pixels": pixels * int(rng.random() > 0.05), "words": words,
            "carry": int(rng.integers(2))}


def _items(config: MachineConfig, rng: np.random.Generator, words: int, pixels: int,
           before: dict[str, int]) -> dict[str, int]:
    """Places in the residual buffer: in place, or shortcuts and residuals apart."""
    spare = config.residual_depth - words * pixels
    gaps = max(1, words - 1)
    stride = pixels + int(rng.integers(min(9, spare // gaps + 1))) if words > 1 else int(rng.integers(1 << 16))
    top = config.residual_depth - (words - 1) * stride * (words > 1) - pixels
    near = before.get("residual_item", 0) + int(rng.choice([0, before["pixels"], before["pixels"] - 2, -3]))
    first = min(max(near, 0), top) if rng.random() < 0.85 else int(rng.integers(top + 1))
    other = [item for item in range(top + 1) if abs(item - first) > config.residual_depth - top]
    second = int(rng.choice(other)) if other and rng.random() < 0.3 else first
    return {"shortcut_item": first, "residual_item": second, "item_stride": stride}


def random_bodies(engine: DrainEngine, rng: np.random.Generator) -> list[dict[str, int]]:
    """A sequence of instructions, after those that give the memories contents."""
    bodies = _overwrite(engine)
    for _ in range(INSTRUCTIONS):
        bodies.append(random_body(engine, rng, bodies[-1]))
    return bodies


def encoded(body: dict[str, int]) -> int:
    return pack_fields(FIELDS[Opcode.DRAIN], body, "bench")


class Buffers:
    """Answers the engine's addresses, keeps what it writes.

    Attributes:
        done: Cycles with `done`; `progress`: (items read, residuals, writes of planes) up to each of them.
        reads: Cycles in which an item is read.
        planes: (mask, address, data) written, data outside of the mask being 0; `plane_cycles`: when.
        residual: Contents of the residual buffer, one integer per item.
    """

    def __init__(self, dut: Any, engine: DrainEngine, contents: DrainMemories) -> None:
        self.dut, self.engine, self.rng = dut, engine, random.Random(support.seed())
        self.done: list[int] = []
        self.progress: list[tuple[int, int, int]] = []
        self.reads: list[int] = []
        self.residuals = 0
        self.planes: list[tuple[int, int, int]] = []
        self.plane_cycles: list[int] = []
        acc = contents.accumulators
        self.acc = [[[bits_of(item, ACCUMULATOR_BITS) for item in row] for row in bank] for bank in acc]
        self.residual = [bits_of(item, RESIDUAL_BITS) for item in contents.residual]
        self.parameters = [bits_of(row, 32) for row in contents.parameters]
        self.written: deque[tuple[int, int] | None] = deque([None] * (engine.READ_AFTER_WRITE - 1))
        self.answers = {"acc_data": deque([None] * (engine.acc_latency - 1)), "parameter_data": deque(),
                        "shortcut_data": deque([None] * (engine.residual_latency - 1))}

    async def run(self) -> None:
        while True:
            await ReadOnly()
            self._look()
            self._keep()
            if int(self.dut.done.value):
                self.done.append(support.cycle())
                self.progress.append((len(self.reads), self.residuals, len(self.planes)))
            await RisingEdge(self.dut.clk)
            self._answer()

    def _look(self) -> None:
        dut, read = self.dut, int(self.dut.acc_read.value)
        if read:
            self.reads.append(support.cycle())
        word, address = int(dut.acc_word.value), int(dut.acc_address.value)
        bank = self.acc[int(dut.acc_bank.value)]
        self.answers["acc_data"].append(bank[word][address] if read else None)
        wanted = int(dut.shortcut_en.value)
        self.answers["shortcut_data"].append(self.residual[int(dut.shortcut_item.value)] if wanted else 0)
        self.answers["parameter_data"].append(self.parameters[int(dut.parameter_row.value) % len(self.parameters)])

    def _keep(self) -> None:
        dut, config = self.dut, self.engine.config
        write = int(dut.residual_write.value)
        self.residuals += write
        self.written.append((int(dut.residual_row.value), int(dut.residual_data.value)) if write else None)
        if (late := self.written.popleft()) is not None:
            self.residual[late[0]] = late[1]
        mask = int(dut.plane_mask.value)
        assert int(dut.plane_valid.value) == (mask != 0), f"cycle {support.cycle()}: plane_valid, mask {mask:#x}"
        if mask:
            word = (1 << config.beat_bits) - 1
            keep = sum(word << config.beat_bits * bank for bank in range(config.banks) if mask >> bank & 1)
            self.planes.append((mask, int(dut.plane_address.value), int(dut.plane_data.value) & keep))
            self.plane_cycles.append(support.cycle())

    def _answer(self) -> None:
        for name, answers in self.answers.items():
            port, value = getattr(self.dut, name), answers.popleft()
            port.value = self.rng.getrandbits(len(port)) if value is None else value


async def _begin(dut) -> tuple[DrainEngine, DrainMemories, Buffers, np.random.Generator]:
    parameters = support.parameters()
    engine = DrainEngine(MachineConfig(**parameters["config"]), acc_latency=parameters["acc_latency"],
                         residual_latency=parameters["residual_latency"])
    rng = np.random.default_rng(support.seed())
    contents = memories(engine.config, rng)
    buffers = Buffers(dut, engine, contents)
    await support.start(dut)
    cocotb.start_soon(buffers.run())
    return engine, contents, buffers, rng


async def _finish(dut, engine: DrainEngine, buffers: Buffers, contents: DrainMemories, count: int,
                  planes: list[tuple[int, int, int]]) -> None:
    """The end of `count` instructions: everything is written."""
    for _ in range(2000):
        if len(buffers.done) == count:
            break
        await RisingEdge(dut.clk)
    await support.ticks(dut, 2 * engine.flight)
    assert len(buffers.done) == count, f"{len(buffers.done)} times done, expected {count}"
    support.compare("planes", buffers.planes, planes)
    support.compare("residual buffer", buffers.residual, [bits_of(item, RESIDUAL_BITS) for item in contents.residual])


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.8])
async def matches_the_model(dut, stall):
    engine, contents, buffers, rng = await _begin(dut)
    bodies = random_bodies(engine, rng)
    results = [engine.model(body, contents) for body in bodies]
    main = [beat for beats, _ in results for beat in beats]
    planes = [write for _, writes in results for write in writes]
    got = await support.exchange(
        dut, {"i": [encoded(body) for body in bodies]}, {"main": len(main)}, stall=stall,
        max_cycles=40_000 + 8 * len(main))
    support.compare("main", got["main"], main)
    await _finish(dut, engine, buffers, contents, len(bodies), planes)
    _check_progress(buffers, bodies, [result[1] for result in results])


def _check_progress(buffers: Buffers, bodies: list[dict[str, int]], planes: list[list[tuple[int, int, int]]]) -> None:
    """`done` of an instruction comes when all of its items are read, its residuals and planes written."""
    due = np.zeros(3, int)
    for number, (body, writes) in enumerate(zip(bodies, planes, strict=True)):
        items = body["pixels"] * body["words"]
        due += [items, items * (body.get("residual", 0) & ~body.get("pool", 0)), len(writes)]
        reached = buffers.progress[number]
        assert (np.array(reached) >= due).all(), f"instruction {number} {body}: done at {reached}, expected {due}"


def _overwrite(engine: DrainEngine) -> list[dict[str, int]]:
    """Instructions that fill the carry memory and the spatial sums, which keep their contents over a reset."""
    config = engine.config
    everything = {"words": config.output_words, "lanes": config.lanes, "mode": Mode.RESIDUAL}
    return [{**everything, "pixels": config.accumulator_depth},
            {**everything, "pixels": 1, "pool": 1, "pool_first": 1}]


def _plain(engine: DrainEngine, **fields: int) -> dict[str, int]:
    config = engine.config
    return {"pixels": config.accumulator_depth // 2, "words": config.output_words, "lanes": config.lanes, **fields}


async def _in_a_row(dut, bodies: list[dict[str, int]]) -> tuple[DrainEngine, Buffers, list[int]]:
    """Run `bodies` without stalls, check the results; (engine, buffers, idle cycles between their items)."""
    engine, contents, buffers, _ = await _begin(dut)
    results = [engine.model(body, contents) for body in bodies]
    main = [beat for beats, _ in results for beat in beats]
    planes = [write for _, writes in results for write in writes]
    got = await support.exchange(dut, {"i": [encoded(body) for body in bodies]}, {"main": len(main)}, stall=0)
    support.compare("main", got["main"], main)
    await _finish(dut, engine, buffers, contents, len(bodies), planes)
    ends = np.cumsum([body["pixels"] * body["words"] for body in bodies])
    idle = [buffers.reads[end] - buffers.reads[end - 1] - 1 for end in ends[:-1]]
    _check_progress(buffers, bodies, [result[1] for result in results])
    return engine, buffers, idle


def _engine() -> DrainEngine:
    return DrainEngine(support.config(), acc_latency=support.parameters()["acc_latency"])


@cocotb.test()
async def spikes_at_full_rate(dut):
    """One item per cycle, exact latency and duration, two instructions in a row."""
    engine, contents, buffers, _ = await _begin(dut)
    body = _plain(engine, mode=Mode.DIRECT, spikes=1, leak=1)
    main, _ = engine.model(body, contents)
    got = await support.exchange(dut, {"i": [encoded(body)] * 2}, {"main": 2 * len(main)}, stall=0)
    support.compare("main", got["main"], main + main)
    taken = [item.cycle for item in got["i"]]
    assert taken[1] == taken[0] + 2 + len(main), taken
    assert buffers.done == [start + engine.cycles(body) for start in taken], (taken, buffers.done)
    for index in (0, 1):
        cycles = [item.cycle for item in got["main"]][index * len(main):][:len(main)]
        reads = buffers.reads[index * len(main):][:len(main)]
        assert reads == list(range(taken[index] + 2, taken[index] + 2 + len(main))), "items are not issued every cycle"
        assert cycles == [cycle + engine.latency for cycle in reads], "spikes are late"


@cocotb.test()
async def independent_instructions_follow_at_once(dut):
    """Different settings, one kind of main beats, residuals in place; the tiles of the picture one after the other."""
    engine = _engine()
    lanes, pixels = engine.config.lanes, 17
    tile = {"pixels": pixels, "words": engine.config.output_words, "lanes": lanes, "mode": Mode.RESIDUAL, "spikes": 1,
            "shortcut": 1, "residual": 1, "item_stride": 2 * pixels}
    bodies = [{**tile, "shortcut_item": 0, "residual_item": 0},
              {**tile, "shortcut_item": pixels, "residual_item": pixels, "leak": 2, "soft": 1},
              {"pixels": 3, "words": 1, "lanes": 1, "mode": Mode.DIRECT, "spikes": 1, "strict": 1},
              {"pixels": 20, "words": 1, "lanes": lanes, "mode": Mode.PLANES, "planes": 1, "local": 1,
               "local_stride": 100},
              {"pixels": 20, "words": 1, "lanes": lanes, "mode": Mode.PLANES, "planes": 1, "local": 1, "local_bank": 3},
              {"pixels": 1, "words": 1, "lanes": lanes, "mode": Mode.DIRECT, "spikes": 1, "leak": 3},
              {**tile, "shortcut_item": 0, "residual_item": 0}]
    _, _, idle = await _in_a_row(dut, bodies)
    most = max(engine.GAP, engine.plane_interval - 1)
    assert all(engine.GAP <= cycles <= most for cycles in idle), f"idle cycles {idle}, expected {engine.GAP} to {most}"


@cocotb.test()
async def dependent_instructions_wait(dut):
    """For residuals that are read again: until those are written. For carry, pool, other beats: for the end of all."""
    engine = _engine()
    plain = {"pixels": 20, "words": 1, "lanes": engine.config.lanes, "mode": Mode.RESIDUAL}
    bodies = [{**plain, "residual": 1, "residual_item": 3}, {**plain, "shortcut": 1, "shortcut_item": 22, "spikes": 1},
              {**plain, "carry_in": 1}, {**plain, "pool": 1, "pool_first": 1, "pool_last": 1, "spikes": 1},
              {**plain, "mode": Mode.SUM, "raw": 1}]
    engine, _, idle = await _in_a_row(dut, bodies)
    assert idle[0] == engine.residual_wait - 1, f"idle cycles {idle}, expected {engine.residual_wait - 1} first"
    assert min(idle[1:]) >= engine.flight, f"idle cycles {idle}, expected {engine.flight} and more"


@cocotb.test()
async def local_planes_at_full_rate(dut):
    """One item per `plane_interval` cycles, the groups of planes one after the other."""
    body = _plain(_engine(), mode=Mode.PLANES, planes=1, local=1, local_bank=1, local_address=5, local_stride=64)
    engine, buffers, _ = await _in_a_row(dut, [body])
    start, items, interval = buffers.reads[0], body["pixels"] * body["words"], engine.plane_interval
    assert buffers.reads == list(range(start, start + items * interval, interval)), "items are not issued in time"
    first = start + engine.plane_cycle
    assert buffers.plane_cycles == list(range(first, first + items * interval)), "planes are late"


@cocotb.test()
@cocotb.parametrize(kind=["planes", "raw"])
async def long_items_without_bubbles(dut, kind):
    """8 or `raw_beats` beats per item, one per cycle from the first to the last."""
    engine, contents, buffers, _ = await _begin(dut)
    body = _plain(engine, mode={"planes": Mode.PLANES, "raw": Mode.SUM}[kind], **{kind: 1})
    beats = {"planes": PLANE_BITS, "raw": MEMBRANE_BITS // engine.config.lanes}[kind]
    expected, _ = engine.model(body, contents)
    got = await support.exchange(dut, {"i": [encoded(body)]}, {"main": len(expected)}, stall=0)
    support.compare(kind, got["main"], expected)
    assert len(expected) == beats * body["pixels"] * body["words"]
    start = buffers.reads[0] + (engine.latency if kind == "raw" else engine.early_latency)
    assert [item.cycle for item in got["main"]] == list(range(start, start + len(expected))), "bubbles"


@cocotb.test()
async def completes_without_a_reader(dut):
    """The last beat is in the FIFO: `done` does not wait for anyone to take it. Empty instructions complete as well."""
    engine, contents, buffers, _ = await _begin(dut)
    bodies = [_plain(engine, mode=Mode.RESIDUAL, spikes=1, residual=1, pixels=12, words=1),
              _plain(engine, pixels=0), _plain(engine, words=0, spikes=1)]
    for number, body in enumerate(bodies):
        (taken,) = (await support.exchange(dut, {"i": [encoded(body)]}, {}, stall=0, silent_cycles=0))["i"]
        await support.ticks(dut, engine.cycles(body) + 1)
        assert buffers.done[number:] == [taken.cycle + engine.cycles(body)], (taken, buffers.done)
    main, _ = engine.model(bodies[0], contents)
    got = await support.exchange(dut, {}, {"main": len(main)})
    support.compare("main", got["main"], main)
    await _finish(dut, engine, buffers, contents, len(bodies), [])
