"""Passes: everything that fills one tile of accumulators, cut into COMPUTE instructions.

A pass is a list of runs; a run is what one COMPUTE does: consecutive chunks that find their input in one unit of the
feed and their weights in one segment of the weight buffer. Several runs are needed where the input comes in several
units or the buffer does not hold all weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Accumulate

from .constants import BankRead, Chunk
from .feeds import Feed, LocalFeed, Split, Tap, Tile, Unit
from .layout import ceil_div, lane_groups
from .neuron_stage import OutputTile
from .splits import tiles


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
    `lane`: the only one it is for.
    """

    plane: int
    weights: int
    first: Accumulate
    negate: bool = False
    bipolar: bool = False
    lane: int | None = None


@dataclass(frozen=True)
class Run:
    """One COMPUTE; see the module docstring. `row`: the only row of the tile that it makes, None: all."""

    word: int
    tap: int
    plane: int
    segment: int
    chunks: tuple[Chunk, ...]
    row: int | None = None

    @property
    def key(self) -> tuple[int, int, int, int]:
        return self.word, self.tap, self.plane, self.segment

    def part(self, tile: Tile) -> Tile:
        """What it makes of a tile."""
        return tile if self.row is None else replace(tile, row=tile.row + self.row, rows=1)


@dataclass(frozen=True)
class Segments:
    """Cutting of the weight chunks of a pass: `chunks` chunks of `rows` buffer rows in one segment."""

    chunks: int
    rows: int

    @classmethod
    def of(cls, count: int, rows: int, config: MachineConfig) -> Segments:
        """All `count` chunks if three passes fit the buffer, else equal parts of which three fit (or two, or one)."""
        fit = max(1, config.weight_depth // rows // 3)
        return cls(ceil_div(count, ceil_div(count, fit)), rows)

    @property
    def size(self) -> int:
        return self.chunks * self.rows


@dataclass(frozen=True)
class Pass:
    """One tile of output, the strip of the feed it lies in, and its runs. `weights` names its set of weights.

    `offset`: where in its unit the input begins.
    """

    output: OutputTile
    strip: int
    weights: int
    runs: tuple[Run, ...]
    offset: int = 0


def plane_rounds(feed: Feed) -> list[Round]:
    """One round per bit-plane, most significant first; per map of integer spikes, which weigh the same."""
    following = Accumulate.KEEP if feed.unary else Accumulate.DOUBLE
    return [Round(plane, 0, Accumulate.ZERO if plane == feed.planes - 1 else following,
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
    for together in _groups(rounds, split):
        for index, source, turn in ((i, s, turn) for i, s in enumerate(sources) for turn in together):
            segment, position = divmod(turn.weights + index, segments.chunks)
            plane = turn.plane if split.apart else 0
            operand = position * segments.rows
            key = (source.word, source.tap, plane, segment)
            before = list(runs[-1].chunks) if runs and runs[-1].key == key else []
            new = not 0 < len(before) < most
            kept = not new and _same_tables(before[-1], operand, turn)
            swap = not new and not kept and len(before) > 1 and _same_tables(before[-2], operand, turn) and (
                before[-1].load or before[-1].swap)
            unit = Unit(0, 0, *key[:3])
            chunk = Chunk(
                accumulate=turn.first if index == 0 else Accumulate.KEEP, operand=operand, negate=turn.negate,
                bipolar=turn.bipolar, load=not kept and not swap, swap=swap, lane=turn.lane or 0,
                single=turn.lane is not None,
                banks=tuple(_read(feed, split, unit, bank, turn.plane) for bank in source.banks))
            if new:
                runs.append(Run(*key, (chunk,)))
            else:
                runs[-1] = Run(*key, (*before, chunk))
    return tuple(runs)


def _groups(rounds: Sequence[Round], split: Split) -> list[list[Round]]:
    """Rounds that only add to what is there, to the same weights, take turns: tables and weights stay for them."""
    groups: list[list[Round]] = []
    for turn in rounds:
        if turn.first is Accumulate.KEEP and groups and groups[-1][0].weights == turn.weights and not split.apart:
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return groups


def _same_tables(chunk: Chunk, operand: int, turn: Round) -> bool:
    return chunk.operand == operand and chunk.negate == turn.negate


def _read(
    feed: Feed, split: Split, unit: Unit, bank: tuple[int, int, Tap] | None, plane: int
) -> BankRead | None:
    return None if bank is None else feed.read(split, unit, bank[0], bank[2], plane)


def rotated_runs(
    feed: LocalFeed, unit_pixels: int, sources: Sequence[ChunkSource], rounds: Sequence[Round], segments: Segments,
    config: MachineConfig,
) -> tuple[Run, ...]:
    """Runs over local planes of a tile of `unit_pixels` pixels: the banks' words turn with the plane.

    Every weight chunk lies twice in its segment, one copy behind the other: reading begins where the bank's word is.
    """
    runs: list[Run] = []
    most, word_rows = config.chunk_depth // 2, config.chunk_rows // config.banks
    for turn in rounds:
        shift = turn.plane % config.banks
        for index, source in enumerate(sources):
            segment, position = divmod(index, segments.chunks)
            banks: list[BankRead | None] = [None] * config.banks
            for bank in source.banks:
                if bank is not None:
                    word = bank[1]
                    banks[(word + shift) % config.banks] = feed.read_word(word, turn.plane, unit_pixels)
            chunk = Chunk(
                accumulate=turn.first if index == 0 else Accumulate.KEEP, negate=turn.negate, banks=tuple(banks),
                operand=position * segments.rows + (-shift) % config.banks * word_rows)
            key = (0, 0, 0, segment)
            if runs and runs[-1].key == key and len(runs[-1].chunks) < most:
                runs[-1] = Run(*key, (*runs[-1].chunks, chunk))
            else:
                runs.append(Run(*key, (chunk,)))
    return tuple(runs)


def output_tiles(
    feed: Feed, split: Split, words: int, pass_words: int, frames: int, pool: bool, rows: int, config: MachineConfig,
    together: int = 1, by_group: bool = False,
) -> list[tuple[int, OutputTile]]:
    """(first row of the strip, tile) of all passes in the order in which they are computed; tiles have `rows` rows.

    All lane groups of a tile follow each other (their potentials are carried), or are made in one pass (`together`);
    with spatial sums all tiles of a lane group follow each other, or all words of all its tiles (`by_group`).
    """
    geometry, groups = feed.geometry, range(0, lane_groups(frames, config), together)
    step = split.rows if split.cols else min(rows, split.rows)
    strips = [(row, tiles(geometry, row, split.rows, step, config, split.cols))
              for row in range(0, geometry.out_height, split.rows)]
    places = [(row, tile) for row, part in strips for tile in part]
    heads = [(word, min(pass_words, words - word)) for word in range(0, words, pass_words)]

    def make(word: tuple[int, int], place: tuple[int, Tile], group: int) -> tuple[int, OutputTile]:
        return place[0], OutputTile(*word, place[1], group, place is places[0], place is places[-1])

    if by_group:
        return [make(word, place, group) for group in groups for word in heads for place in places]
    if pool:
        return [make(word, place, group) for word in heads for group in groups for place in places]
    if split.cols:
        return [make(word, place, group) for place in places for word in heads for group in groups]
    return [make(word, place, group) for row, _ in strips for word in heads
            for place in places if place[0] == row for group in groups]
