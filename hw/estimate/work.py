"""What every instruction of a program has to do, in beats and cycles, apart from waiting.

Chunk headers decide which chunks fill their tables; they are followed through the chunk buffer in program order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spikeloom.arithmetic import PLANE_BITS
from spikeloom.config import MachineConfig
from spikeloom.hw.isa import CHUNK_COMMON, Accumulate, Core, Engine, Instruction, Mode, Opcode, Source, Target
from spikeloom.hw.program.layout import Region
from spikeloom.hw.program.program import Program

__all__ = ["BURST", "PARTS", "Compute", "Drain", "Move", "Task", "Work", "digest"]

BURST = 16
"""Most beats of a burst."""

TABLE_CYCLES = 16
"""Cycles to fill the tables of one batch of groups."""

PARTS = 2
"""Words of a window that LOAD_PIXELS packs side by side, unless all go to the same banks."""

READS = (Opcode.LOAD, Opcode.LOAD_SHORTCUT, Opcode.LOAD_WEIGHTS, Opcode.LOAD_WEIGHTS_B)


@dataclass(frozen=True)
class Move:
    """A transfer: beats, the bursts they come in, and the least cycles if something but the bus sets the pace.

    `source`: stream that a store takes its beats from, None for loads and STORE_RESIDUAL.
    """

    beats: int
    bursts: int
    least: int = 0
    source: Source | None = None


@dataclass(frozen=True)
class Compute:
    """A COMPUTE.

    Attributes:
        core: The unit.
        order: Pixels in the order in which they are walked; the pipeline runs empty first between two COMPUTE of
            different order, unless the second begins with ZERO (`zero`).
        positions: Of a chunk.
        batches: Batches of tables to fill, of every chunk.
        swaps: Whether a chunk goes back to the tables before the last, of every chunk.
        beats: Beats of K^T V that are put out behind it, of every chunk.
    """

    core: Core
    order: tuple[int, ...]
    zero: bool
    positions: int
    batches: tuple[int, ...]
    swaps: tuple[int, ...]
    beats: tuple[int, ...]

    @property
    def walked(self) -> int:
        """Positions of all chunks."""
        return self.positions * len(self.batches)


@dataclass(frozen=True)
class Drain:
    """A DRAIN: cycles in which items are issued, beats of the main stream and how many of them an item has.

    `alone`: begins when all items before have left the pipeline. `local`: writes bit-planes to the spike banks, which
    take nothing else meanwhile.
    """

    cycles: int
    beats: int
    item: int
    alone: bool = False
    local: bool = False


Work = Move | Compute | Drain | None


@dataclass(frozen=True)
class Task:
    """An instruction as the model sees it."""

    engine: Engine
    layer: int
    wait: tuple[Engine, ...]
    signal: tuple[Engine, ...]
    work: Work = field(default=None)


def digest(program: Program) -> list[Task]:
    """All instructions. Raises ProgramError for bad ones."""
    reader = _Digest(program)
    return [Task(i.engine, i.layer, tuple(sorted(i.wait)), tuple(sorted(i.signal)), reader.work(i))
            for i in program.instructions()]


class _Digest:
    """Keeps the common words of the chunk headers on chip."""

    def __init__(self, program: Program) -> None:
        self._config, self._image = program.config, np.frombuffer(program.image, np.uint8)
        self._headers = np.zeros(program.config.chunk_depth, np.uint32)
        low, self._fields = 0, {}
        for entry in CHUNK_COMMON:
            self._fields[entry.name] = (low, (1 << entry.width) - 1)
            low += entry.width

    def work(self, instruction: Instruction) -> Work:
        body, opcode = instruction.body, instruction.opcode
        if opcode in (Opcode.LOAD_WEIGHTS, Opcode.LOAD_WEIGHTS_B):
            self._note_headers(body)
            return Move(body["beats"], _bursts(np.array([body["offset"]]), body["beats"], self._config))
        if opcode is Opcode.LOAD_PIXELS:
            return self._pixels(body)
        if opcode is Opcode.COMPUTE:
            return self._compute(body)
        if opcode is Opcode.DRAIN:
            return _drain(body, self._config)
        if opcode is Opcode.END:
            return None
        source = Source(body["source"]) if opcode is Opcode.STORE else None
        return _transfer(body, self._config, source)

    def _note_headers(self, body: Mapping[str, int]) -> None:
        if body["target"] != Target.CHUNKS or body["region"] != Region.PROGRAM:
            return
        size = self._config.chunk_header_beats * self._config.beat_bytes
        rows = body["beats"] * self._config.beat_bytes // size
        data = self._image[body["offset"]:body["offset"] + rows * size].reshape(rows, size)
        self._headers[body["row"]:body["row"] + rows] = np.ascontiguousarray(data[:, :4]).view("<u4")[:, 0]

    def _common(self, words: NDArray[np.uint32], name: str) -> NDArray[np.int64]:
        low, mask = self._fields[name]
        return (words >> low & mask).astype(np.int64)

    def _compute(self, body: Mapping[str, int]) -> Compute:
        config, core = self._config, Core(body["core"])
        words = self._headers[body["chunk"]:body["chunk"] + body["chunks"]]
        groups = {Core.ARRAY: config.groups, Core.DEPTHWISE: config.depthwise_groups}.get(core, 0)
        batches = self._common(words, "load") * (groups // config.load_groups)
        beats = np.zeros(len(words), np.int64)
        if core is Core.HAMMING:
            row = 8 // config.lanes
            beats = self._common(words, "finish") * self._common(words, "limbs") * config.word_channels * row
        order = tuple(body[name] for name in ("rows", "cols", "skip", "acc_base"))
        zero = bool(len(words)) and int(self._common(words, "accumulate")[0]) == Accumulate.ZERO and not int(
            self._common(words, "single")[0])
        swaps = self._common(words, "swap")
        return Compute(core, order, zero, body["rows"] * body["cols"],
                       *(tuple(values.tolist()) for values in (batches, swaps, beats)))

    def _pixels(self, body: Mapping[str, int]) -> Move:
        """The packer needs eight cycles for a column and `PARTS` words of it; the first row comes ahead of that."""
        beats = -(-body["row_bytes"] // self._config.beat_bytes)
        rows = max(0, min(body["row"] + body["rows"], body["height"]) - max(body["row"], 0))
        windows = body["words"] if body["fold"] == 1 else -(-body["words"] // PARTS)
        slots = body["rows"] * (8 * body["cols"] * windows + 1)
        runs = rows * body["frames"]
        return Move(beats * runs, -(-beats // BURST) * runs, slots + beats * body["frames"])


def _bursts(starts: NDArray[np.int64], run: int, config: MachineConfig) -> int:
    """Bursts of runs of `run` beats at byte offsets `starts`; regions begin at multiples of 4 KiB."""
    return int((-(-(starts // config.beat_bytes % BURST + run) // BURST)).sum())


def _transfer(body: Mapping[str, int], config: MachineConfig, source: Source | None) -> Move:
    first = body["offset"] + body["stride1"] * np.arange(body["count1"], dtype=np.int64)
    starts = first[:, None] + body["stride2"] * np.arange(body["count2"], dtype=np.int64)
    return Move(body["run"] * starts.size, _bursts(starts.reshape(-1), body["run"], config), source=source)


def _drain(body: Mapping[str, int], config: MachineConfig) -> Drain:
    items, item = body["pixels"] * body["words"], 0
    cycles, local = items, bool(body["planes"] and body["local"])
    if local:
        cycles = items * max(1, PLANE_BITS // config.banks)
    if body["spikes"]:
        item = 1
    elif body["planes"] and not body["local"]:
        item = PLANE_BITS
    elif body["raw"] and body["mode"] == Mode.SUM:
        item = config.raw_beats
    out = items
    if body["pool"]:
        out = body["words"] if body["pool_last"] else 0
    return Drain(cycles, out * item, item, bool(body["carry_in"] or body["pool"]), local)
