"""Passes: everything that fills one tile of accumulators, cut into COMPUTE instructions and put in order.

A pass is a list of runs; a run is what one COMPUTE does: consecutive chunks that find their input in one unit of the
feed and their weights in one segment of the weight buffer. Several runs are needed where the buffers do not hold all
units or all weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Accumulate, Core, Opcode, Target

from .buffers import LeastRecentBuffer, PlannedBuffer
from .constants import BankRead, Chunk, pack_headers
from .emitter import Emitter
from .feeds import Feed, Split, Tap, Tile, Unit, tiles
from .layout import ceil_div, lane_groups
from .neuron_stage import NeuronStage, OutputTile
from .schedule import Access


@dataclass(frozen=True)
class ChunkSource:
    """Where a chunk comes from: first word and first kernel row of its unit, what each bank takes: (slot, word, tap).

    `word` and `tap` are what the weights belong to.
    """

    word: int
    tap: int
    banks: tuple[tuple[int, int, Tap] | None, ...]


@dataclass(frozen=True)
class Round:
    """One round over all chunks: a bit-plane of the input or a limb of the weights.

    `weights`: index of the weights of the round's first chunk. `first`: what its first chunk does to the accumulators.
    """

    plane: int
    weights: int
    first: Accumulate
    negate: bool = False
    bipolar: bool = False


@dataclass(frozen=True)
class Run:
    """One COMPUTE; see the module docstring."""

    word: int
    tap: int
    plane: int
    segment: int
    chunks: tuple[Chunk, ...]

    @property
    def key(self) -> tuple[int, int, int, int]:
        return self.word, self.tap, self.plane, self.segment


@dataclass(frozen=True)
class Segments:
    """Cutting of the weight chunks of a pass: `chunks` chunks of `rows` buffer rows in one segment."""

    chunks: int
    rows: int

    @classmethod
    def of(cls, count: int, rows: int, config: MachineConfig) -> Segments:
        """All `count` chunks if two passes fit the buffer, else equal parts of which two fit."""
        fit = max(1, config.weight_depth // rows // 2)
        return cls(ceil_div(count, ceil_div(count, fit)), rows)

    @property
    def size(self) -> int:
        return self.chunks * self.rows


@dataclass(frozen=True)
class Pass:
    """One tile of output, the strip of the feed it lies in, and its runs. `weights` names its set of weights."""

    output: OutputTile
    strip: int
    weights: int
    runs: tuple[Run, ...]


def plane_rounds(feed: Feed) -> list[Round]:
    """One round per bit-plane, most significant first."""
    return [Round(plane, 0, Accumulate.ZERO if plane == feed.planes - 1 else Accumulate.DOUBLE,
                  negate=feed.signed and plane == feed.planes - 1) for plane in reversed(range(feed.planes))]


def array_chunks(feed: Feed, split: Split, config: MachineConfig) -> list[ChunkSource]:
    """Chunks of one round of the array: all words times all taps of the feed."""
    sources, side = [], config.banks // feed.fold
    for word in range(0, feed.words, split.words):
        for tap in range(0, feed.geometry.kernel, split.taps):
            taps = feed.taps(tap, min(split.taps, feed.geometry.kernel - tap))
            for slot in range(ceil_div(min(split.words, feed.words - word), feed.fold)):
                first = word + slot * feed.fold
                for start in range(0, len(taps), side):
                    part = taps[start:start + side]
                    sources.append(ChunkSource(word, tap, tuple(
                        (slot, first + b % feed.fold, part[b // feed.fold])
                        if b // feed.fold < len(part) and first + b % feed.fold < feed.words else None
                        for b in range(config.banks))))
    return sources


def build_runs(
    feed: Feed, split: Split, sources: Sequence[ChunkSource], rounds: Sequence[Round], segments: Segments,
    config: MachineConfig,
) -> tuple[Run, ...]:
    """Runs of one pass: `rounds` times `sources`."""
    runs: list[Run] = []
    most = config.chunk_depth // 2
    for turn in rounds:
        for index, source in enumerate(sources):
            segment, position = divmod(turn.weights + index, segments.chunks)
            plane = turn.plane if split.apart else 0
            operand = position * segments.rows
            key = (source.word, source.tap, plane, segment)
            before = list(runs[-1].chunks) if runs and runs[-1].key == key else []
            new = not 0 < len(before) < most
            kept = not new and before[-1].operand == operand and before[-1].negate == turn.negate
            unit = Unit(0, 0, *key[:3])
            chunk = Chunk(
                accumulate=turn.first if index == 0 else Accumulate.KEEP, operand=operand, negate=turn.negate,
                bipolar=turn.bipolar, load=not kept,
                banks=tuple(_read(feed, split, unit, bank, turn.plane) for bank in source.banks))
            if new:
                runs.append(Run(*key, (chunk,)))
            else:
                runs[-1] = Run(*key, (*before, chunk))
    return tuple(runs)


def _read(
    feed: Feed, split: Split, unit: Unit, bank: tuple[int, int, Tap] | None, plane: int
) -> BankRead | None:
    return None if bank is None else feed.read(split, unit, bank[0], bank[2], plane)


def output_tiles(
    feed: Feed, split: Split, words: int, pass_words: int, frames: int, pool: bool, config: MachineConfig
) -> list[tuple[int, OutputTile]]:
    """(first row of the strip, tile) of all passes in the order in which they are computed.

    All lane groups of a tile follow each other (their potentials are carried); with spatial sums all tiles of a lane
    group do.
    """
    geometry, groups = feed.geometry, range(lane_groups(frames, config))
    strips = [(row, tiles(geometry, row, split.rows, config)) for row in range(0, geometry.out_height, split.rows)]
    places = [(row, tile) for row, part in strips for tile in part]
    heads = [(word, min(pass_words, words - word)) for word in range(0, words, pass_words)]

    def make(word: tuple[int, int], place: tuple[int, Tile], group: int) -> tuple[int, OutputTile]:
        return place[0], OutputTile(*word, place[1], group, place is places[0], place is places[-1])

    if pool:
        return [make(word, place, group) for word in heads for group in groups for place in places]
    return [make(word, place, group) for row, _ in strips for word in heads
            for place in places if place[0] == row for group in groups]


LoadWeights = Callable[[tuple[int, int], int], None]
"""Brings (set of weights, segment) to a row of the weight buffer."""


class PassRunner:
    """Emits passes, each with its loads before it and the loads of later ones as early as the buffers allow."""

    def __init__(
        self, emitter: Emitter, core: Core, feed: Feed, split: Split, segments: Segments, stage: NeuronStage,
        load_weights: LoadWeights,
    ) -> None:
        self._emitter, self._core, self._feed, self._split = emitter, core, feed, split
        self._segments, self._stage, self._load_weights = segments, stage, load_weights
        self._size = feed.size(split)
        self._packed: dict[tuple[int, int], bytes] = {}

    def run(self, passes: Sequence[Pass]) -> None:
        config, regions = self._emitter.config, self._emitter.regions
        steps = [(p, run) for p in passes for run in p.runs]
        units = [Unit(p.output.lane_group, p.strip, r.word, r.tap, r.plane) for p, r in steps]
        spikes = PlannedBuffer(regions(config.spike_depth, self._size), units, lambda unit, base: self._feed.load(
            self._emitter, self._split, unit, base))
        weights = PlannedBuffer(regions(config.weight_depth, self._segments.size),
                                [(p.weights, r.segment) for p, r in steps], self._load_weights)
        headers = LeastRecentBuffer(regions(config.chunk_depth, max(len(r.chunks) for _, r in steps)))
        bank = parameter = 0
        for index, (current, run) in enumerate(steps):
            self._emitter.early = index == 0
            weight_row = weights.place(index)
            header_row = self._place_headers(headers, run, weight_row)
            base = spikes.place(index)
            if run is current.runs[0]:
                bank = self._stage.next_bank()
            if run is current.runs[-1]:
                parameter = self._stage.prepare(current.output)
            self._emitter.early = False
            spikes.prefetch(index)
            weights.prefetch(index)
            self._compute(current.output.tile, units[index], run, base, weight_row, header_row, bank)
            if run is current.runs[-1]:
                self._stage.drain(current.output, bank, parameter)

    def _place_headers(self, headers: LeastRecentBuffer, run: Run, weight_row: int) -> int:
        key = (id(run.chunks), weight_row)
        if key not in self._packed:
            self._packed[key] = pack_headers(list(run.chunks), weight_row, self._emitter.config)
        data, count = self._packed[key], len(run.chunks)

        def fill(row: int) -> None:
            beats = count * self._emitter.config.chunk_header_beats
            self._emitter.load_constants(Target.CHUNKS, row, count, self._emitter.constant(data), beats)

        return headers.place(data, fill)

    def _compute(
        self, tile: Tile, unit: Unit, run: Run, base: int, weight_row: int, header_row: int, bank: int
    ) -> None:
        used = {b for chunk in run.chunks for b, read in enumerate(chunk.banks) if read is not None}
        rows = max(chunk.operand for chunk in run.chunks) + self._segments.rows
        accesses = [Access(f"bank {b}", base, base + self._size) for b in sorted(used)]
        accesses += [
            Access(Target.WEIGHTS.name, weight_row, weight_row + rows),
            Access(Target.CHUNKS.name, header_row, header_row + len(run.chunks)),
            Access(f"acc {bank}", 0, tile.pixels, write=True)]
        fields = self._feed.walk(self._split, unit, tile, base)
        fields |= {"core": self._core, "chunk": header_row, "chunks": len(run.chunks), "acc_bank": bank, "acc_base": 0}
        self._emitter.emit(Opcode.COMPUTE, fields, accesses)
