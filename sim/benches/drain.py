"""Bench of `DrainEngine`: random instructions against the model under backpressure; throughput and latency without.

The buffers that it reads are modelled here: they answer an address exactly as many cycles later as the engine asks
for, and with noise in every other cycle.
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

INSTRUCTIONS = 16


def memories(config: MachineConfig, rng: np.random.Generator) -> DrainMemories:
    """Random contents; carry memory and sums are written before they are read."""
    item = (config.word_channels, config.lanes)
    return DrainMemories(
        accumulators=magnitudes(rng, (2, config.output_words, config.accumulator_depth, *item), ACCUMULATOR_BITS),
        shortcut=magnitudes(rng, (config.shortcut_depth, *item), RESIDUAL_BITS),
        parameters=parameter_rows(rng, config.parameter_depth, config.word_channels),
        carry=np.zeros((config.output_words * config.accumulator_depth, config.word_channels), np.int64),
        sums=np.zeros((config.output_words, *item), np.int64))


def random_body(engine: DrainEngine, rng: np.random.Generator) -> dict[str, int]:
    """Fields of a DRAIN that make sense together and stay within the buffers."""
    config = engine.config
    body = random_settings(rng, config.lanes)
    words, pixels = int(rng.integers(1, config.output_words + 1)), int(rng.choice([1, 2, 5, 30]))
    outputs = {Mode.DIRECT: ["spikes"], Mode.RESIDUAL: ["spikes", "residual"], Mode.PLANES: ["planes"],
               Mode.SUM: ["raw"]}[Mode(body["mode"])]
    if body["pool"]:
        outputs = ["spikes"]
    put = {name: int(rng.random() < 0.8) for name in outputs}
    place = {"acc_base": config.accumulator_depth - pixels, "word": config.output_words - words,
             "parameter": config.parameter_depth - words, "shortcut_item": config.shortcut_depth - words * pixels}
    return {**body, **put, **{name: int(rng.integers(top + 1)) for name, top in place.items()},
            "acc_bank": int(rng.integers(2)), "pixels": pixels * int(rng.random() > 0.05), "words": words,
            "carry": int(rng.integers(2))}


def encoded(body: dict[str, int]) -> int:
    return pack_fields(FIELDS[Opcode.DRAIN], body, "bench")


class Buffers:
    """Answers the engine's addresses; counts `done` and holds it against `busy`."""

    def __init__(self, dut: Any, engine: DrainEngine, contents: DrainMemories) -> None:
        self.dut, self.rng = dut, random.Random(support.seed())
        self.done: list[int] = []
        self.reads: list[int] = []
        acc = contents.accumulators
        self.acc = [[[bits_of(item, ACCUMULATOR_BITS) for item in row] for row in bank] for bank in acc]
        self.shortcut = [bits_of(item, RESIDUAL_BITS) for item in contents.shortcut]
        self.parameters = [bits_of(row, 32) for row in contents.parameters]
        self.answers = {"acc_data": deque([None] * (engine.acc_latency - 1)), "shortcut_data": deque(),
                        "parameter_data": deque()}

    async def run(self) -> None:
        while True:
            await ReadOnly()
            done = int(self.dut.done.value)
            assert not done or int(self.dut.busy.value), "done without busy"
            assert int(self.dut.busy.value) != int(self.dut.i__ready.value), "ready must be the opposite of busy"
            if done:
                self.done.append(support.cycle())
            self._look()
            await RisingEdge(self.dut.clk)
            self._answer()

    def _look(self) -> None:
        read = int(self.dut.acc_read.value)
        if read:
            self.reads.append(support.cycle())
        word, address = int(self.dut.acc_word.value), int(self.dut.acc_address.value)
        bank = self.acc[int(self.dut.acc_bank.value)]
        self.answers["acc_data"].append(bank[word][address] if read else None)
        self.answers["shortcut_data"].append(self.shortcut[int(self.dut.shortcut_item.value) % len(self.shortcut)])
        self.answers["parameter_data"].append(
            self.parameters[int(self.dut.parameter_row.value) % len(self.parameters)])

    def _answer(self) -> None:
        for name, answers in self.answers.items():
            port, value = getattr(self.dut, name), answers.popleft()
            port.value = self.rng.getrandbits(len(port)) if value is None else value


async def _begin(dut) -> tuple[DrainEngine, DrainMemories, Buffers, np.random.Generator]:
    parameters = support.parameters()
    engine = DrainEngine(MachineConfig(**parameters["config"]), acc_latency=parameters["acc_latency"])
    rng = np.random.default_rng(support.seed())
    contents = memories(engine.config, rng)
    buffers = Buffers(dut, engine, contents)
    await support.start(dut)
    cocotb.start_soon(buffers.run())
    return engine, contents, buffers, rng


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.8])
async def matches_the_model(dut, stall):
    engine, contents, buffers, rng = await _begin(dut)
    bodies = _overwrite(engine) + [random_body(engine, rng) for _ in range(INSTRUCTIONS)]
    results = [engine.model(body, contents) for body in bodies]
    main, residual = ([beat for result in results for beat in result[index]] for index in (0, 1))
    got = await support.exchange(
        dut, {"i": [encoded(body) for body in bodies]}, {"main": len(main), "residual": len(residual)}, stall=stall,
        max_cycles=5000 + 8 * (len(main) + len(residual)))
    support.compare("main", got["main"], main)
    support.compare("residual", got["residual"], residual)
    while not int(dut.i__ready.value):
        await RisingEdge(dut.clk)
    assert len(buffers.done) == len(bodies), f"{len(buffers.done)} times done"


def _overwrite(engine: DrainEngine) -> list[dict[str, int]]:
    """Instructions that fill the carry memory and the spatial sums, which keep their contents over a reset."""
    config = engine.config
    everything = {"words": config.output_words, "lanes": config.lanes, "mode": Mode.RESIDUAL}
    return [{**everything, "pixels": config.accumulator_depth},
            {**everything, "pixels": 1, "pool": 1, "pool_first": 1}]


def _plain(engine: DrainEngine, **fields: int) -> dict[str, int]:
    config = engine.config
    return {"pixels": config.accumulator_depth // 2, "words": config.output_words, "lanes": config.lanes, **fields}


@cocotb.test()
async def spikes_at_full_rate(dut):
    """One item per cycle, exact latency and duration, two instructions in a row."""
    engine, contents, buffers, _ = await _begin(dut)
    body = _plain(engine, mode=Mode.DIRECT, spikes=1, leak=1)
    main, _ = engine.model(body, contents)
    got = await support.exchange(dut, {"i": [encoded(body)] * 2}, {"main": 2 * len(main)}, stall=0)
    support.compare("main", got["main"], main + main)
    taken = [item.cycle for item in got["i"]]
    assert buffers.done == [start + engine.cycles(body) for start in taken], (taken, buffers.done)
    assert taken[1] == buffers.done[0] + 1, (taken, buffers.done)
    for index in (0, 1):
        cycles = [item.cycle for item in got["main"]][index * len(main):][:len(main)]
        reads = buffers.reads[index * len(main):][:len(main)]
        assert reads == list(range(taken[index] + 2, taken[index] + 2 + len(main))), "items are not issued every cycle"
        assert cycles == [cycle + engine.latency for cycle in reads], "spikes are late"


@cocotb.test()
@cocotb.parametrize(kind=["planes", "raw", "residual"])
async def long_items_without_bubbles(dut, kind):
    """8, `raw_beats` or 16 beats per item, one per cycle from the first to the last."""
    engine, contents, buffers, _ = await _begin(dut)
    mode = {"planes": Mode.PLANES, "raw": Mode.SUM, "residual": Mode.RESIDUAL}[kind]
    body = _plain(engine, mode=mode, **{kind: 1})
    beats = {"planes": PLANE_BITS, "raw": MEMBRANE_BITS // engine.config.lanes, "residual": RESIDUAL_BITS}[kind]
    stream, other = ("residual", "main") if kind == "residual" else ("main", "residual")
    expected = engine.model(body, contents)[stream == "residual"]
    got = await support.exchange(dut, {"i": [encoded(body)]}, {stream: len(expected), other: 0}, stall=0)
    support.compare(kind, got[stream], expected)
    assert len(expected) == beats * body["pixels"] * body["words"]
    latency = engine.latency if kind == "raw" else engine.early_latency
    start = buffers.reads[0] + latency
    assert [item.cycle for item in got[stream]] == list(range(start, start + len(expected))), "bubbles"


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
    main, residual = engine.model(bodies[0], contents)
    got = await support.exchange(dut, {}, {"main": len(main), "residual": len(residual)})
    support.compare("main", got["main"], main)
    support.compare("residual", got["residual"], residual)
