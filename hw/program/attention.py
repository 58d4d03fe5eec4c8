"""Lowering of attention: K^T V in the Hamming unit, then the array with its limbs as weights.

Integer spikes are sums of binary ones: K^T V adds up all pairs of a map of K and a map of V, Q M all maps of Q.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Accumulate, Core, Opcode, Source, Target
from spikeloom.network import Attend, KeyValue, Network

from .constants import BankRead, Chunk
from .emitter import Emitter, Transfer
from .errors import MappingError
from .feeds import Geometry, SpikeFeed, Split, Unit
from .layout import KeyValueLayout, TensorPlace, ceil_div, keyvalue_layout, lane_groups
from .neuron_stage import NeuronStage, OutputTile
from .passes import Pass, Round, Run, Segments, array_chunks, build_runs, output_tiles
from .residual import Residuals
from .schedule import Access
from .splits import choose_split, tile_rows
from .tiling import Tiling
from .work import EVERY, Content, Job, Lowered, Name, Places, Work

MASK_BITS = 16
"""Width of `operand` of a chunk header, which masks the channels of K."""


def lower_attend(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: Attend, residuals: Residuals
) -> Lowered:
    """Jobs of Y = Q M. Rounds over the limbs of M, which lies in DDR as weight chunks. Raises MappingError.

    With an M per frame there are rounds for each frame of the lane group; all but the first frame's leave the other
    lanes alone.
    """
    config, query, matrix = emitter.config, places[operator.query], places[operator.keyvalue]
    geometry = Geometry(query.height, query.width)
    rows = tile_rows(geometry, config)
    layout = keyvalue_layout(matrix, config)
    out_map = places[operator.neuron.outputs[0]].channel_map(config)
    feed = SpikeFeed(query, geometry, config)
    split = choose_split(feed, rows, config)
    stage = NeuronStage(emitter, network, places, operator.neuron, out_map, geometry.out_height, geometry.out_width,
                        config.output_words, residuals)
    groups = lane_groups(network.frames, config) if matrix.matrices else 1
    frames = [min(config.lanes, network.frames - g * config.lanes) if matrix.matrices else 1 for g in range(groups)]
    most = max(len(layout.slots(tile)) for tile in range(layout.tiles)) * layout.limbs * frames[0]
    segments = Segments.of(most, config.chunk_rows, config)
    runs = [_attend_runs(feed, split, layout, tile, operator.bipolar, segments, config, count)
            for count in frames for tile in range(layout.tiles)]

    def weights_of(output: OutputTile) -> int:
        """Index of the weights, and of the runs, of a tile."""
        return output.lane_group % groups * layout.tiles + output.word // config.output_words

    def load_weights(key: tuple[int, int], row: int) -> None:
        (group, tile), segment = divmod(key[0], layout.tiles), key[1]
        slots = layout.slots(tile)
        count = min(segments.chunks, len(slots) * layout.limbs * frames[group] - segment * segments.chunks)
        size = count * config.chunk_rows * config.weight_row_bytes
        offset = layout.chunk_offset(tile, 0, slots[0], group * config.lanes) + matrix.offset
        offset += segment * segments.chunks * config.chunk_rows * config.weight_row_bytes
        emitter.load_constants(Target.WEIGHTS, row, count * config.chunk_rows, offset, size // config.beat_bytes,
                               Access(f"ddr {matrix.name}", offset, offset + size))

    tiling = Tiling(emitter, Core.ARRAY, feed, split, segments, stage, load_weights, frames=network.frames,
                    weights_need=emitter.needs(matrix))
    outputs = output_tiles(feed, split, out_map.words, config.output_words, network.frames, operator.neuron.pool, rows,
                           config)
    return Lowered((emitter.layer,), tiling.jobs([
        Pass(output, strip, weights_of(output), runs[weights_of(output)]) for strip, output in outputs]))


def _attend_runs(
    feed: SpikeFeed, split: Split, layout: KeyValueLayout, tile: int, bipolar: bool, segments: Segments,
    config: MachineConfig, frames: int,
) -> tuple[Run, ...]:
    slots = layout.slots(tile)
    sources = [s for s in array_chunks(feed, split, config) if s.banks[0] and s.banks[0][1] // feed.fold in slots]
    rounds = [Round(plane, (lane * layout.limbs + limb) * len(slots), _first(limb, plane), bipolar=bipolar,
                    lane=lane or None)
              for lane in range(frames) for limb in range(layout.limbs) for plane in range(feed.planes)]
    return build_runs(feed, split, sources, rounds, segments, config)


def _first(limb: int, plane: int) -> Accumulate:
    if plane:
        return Accumulate.KEEP
    return Accumulate.LIMB if limb else Accumulate.ZERO


@dataclass(frozen=True)
class _Visit:
    """One COMPUTE of the Hamming unit: a strip of a word of K and a word of V of one head. `pairs` of their maps.

    `lane`: the only one that counts; None: all. `matrix`: the frame that it is for.
    """

    key_word: int
    value_word: int
    pairs: tuple[tuple[int, int], ...]
    lane_group: int
    row: int
    first: bool
    last: bool
    lane: int | None = None
    matrix: int = 0


def lower_keyvalue(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: KeyValue
) -> Lowered:
    """Jobs of K^T V: per pair of words of a head (and frame, with `per_frame`) all strips, then a store per limb.

    Raises MappingError.
    """
    return KeyValueLowering(emitter, places, operator).run(network.frames)


class KeyValueLowering:
    """See `lower_keyvalue`. K lies in bank 0, V in bank 1."""

    def __init__(self, emitter: Emitter, places: dict[str, TensorPlace], operator: KeyValue) -> None:
        self._emitter, self._config, self._operator = emitter, emitter.config, operator
        self._layer = emitter.layer
        self._key, self._value, self._matrix = (
            places[n] for n in (operator.key, operator.value, operator.output))
        self._layout = keyvalue_layout(self._matrix, self._config)
        geometry = Geometry(self._key.height, self._key.width)
        if self._config.word_channels > MASK_BITS:
            raise MappingError(f"the mask of the Hamming unit has {MASK_BITS} bits, words have "
                               f"{self._config.word_channels} channels")
        self._feeds = tuple(SpikeFeed(place, geometry, self._config) for place in (self._key, self._value))
        width = geometry.width * max(feed.planes for feed in self._feeds)
        # the words of a head, of K and V, and as many to fetch
        head_words = self._layout.key_words + self._layout.value_words
        regions = max(2, min(2 * head_words, self._config.spike_depth // width))
        rows = min(geometry.height, self._config.spike_depth // regions // width)
        if rows < 1:
            raise MappingError(f"a row of {width} words does not fit half of a spike bank "
                               f"({self._config.spike_depth // 2} words)")
        self._split = Split(rows, 1, 1)
        self._geometry = geometry

    def run(self, frames: int) -> Lowered:
        return Lowered((self._layer,), [self._job(visit) for visit in self._visits(frames)])

    def _job(self, visit: _Visit) -> Job:
        key, value = (self._content(bank, Unit(visit.lane_group, visit.row, word, 0, 0))
                      for bank, word in enumerate((visit.key_word, visit.value_word)))

        def compute(places: Places) -> None:
            self._compute(visit, places.spikes[key.name], places.spikes[value.name], places.headers)

        def finish(_: Places) -> None:
            self._store(visit)

        def chunks(spikes: Mapping[Name, int]) -> tuple[Chunk, ...]:
            return self._chunks(visit, spikes[value.name] - spikes[key.name])

        work = Work(spikes=(key, value), weights=None, chunks=chunks, compute=compute,
                    finish=finish if visit.last else None)
        rows = min(self._split.rows, self._geometry.height - visit.row)
        return Job(layer=self._layer, rows=(visit.row, visit.row + rows), words=(0, EVERY), works=(work,),
                   accumulates=False, cycles=rows * self._geometry.width * len(visit.pairs), glued=not visit.last)

    def _visits(self, frames: int) -> list[_Visit]:
        keys, values, height = self._layout.key_words, self._layout.value_words, self._geometry.height
        pairs = list(np.ndindex(*(feed.planes for feed in self._feeds)))
        most = self._config.chunk_depth // 2
        strips = [(tuple(pairs[first:first + most]), row) for row in range(0, height, self._split.rows)
                  for first in range(0, len(pairs), most)]
        # lane groups and lanes of every matrix
        groups = range(lane_groups(frames, self._config))
        sums: list[list[tuple[int, int | None]]] = [[(group, None) for group in groups]]
        if self._operator.per_frame:
            sums = [[(frame // self._config.lanes, frame % self._config.lanes)] for frame in range(frames)]
        parts = [[(part, group, row, lane) for group, lane in which for part, row in strips] for which in sums]
        return [_Visit(head * keys + i, head * values + j, part, group, row, n == 0, n == len(parts[matrix]) - 1, lane,
                       matrix)
                for head in range(self._operator.heads) for i in range(keys) for j in range(values)
                for matrix, of_it in enumerate(parts) for n, (part, group, row, lane) in enumerate(of_it)]

    def _content(self, bank: int, unit: Unit) -> Content:
        def fill(base: int) -> None:
            self._emitter.layer = self._layer
            transfer = self._feeds[bank].transfer(self._split, unit, unit.word, 1, 1)
            self._emitter.load(transfer, base, [bank])

        feed = self._feeds[bank]
        return Content((self._layer, bank, unit), feed.size(self._split), fill,
                       feed.needs(self._emitter, self._split, unit))

    def _chunks(self, visit: _Visit, distance: int) -> tuple[Chunk, ...]:
        """The headers if V lies `distance` addresses behind K."""
        pixels = self._split.rows * self._geometry.width
        return tuple(self._chunk(visit, a * pixels, distance + b * pixels, first=i == 0, last=i == len(visit.pairs) - 1)
                     for i, (a, b) in enumerate(visit.pairs))

    def _chunk(self, visit: _Visit, key: int, value: int, *, first: bool, last: bool) -> Chunk:
        """The header of the maps that lie `key` and `value` addresses behind the position."""
        config, layout = self._config, self._layout
        before = visit.key_word % layout.key_words * config.word_channels
        channels = min(config.word_channels, layout.key_width - before)
        return Chunk(
            accumulate=Accumulate.ZERO if visit.first and first else Accumulate.KEEP, operand=(1 << channels) - 1,
            banks=(BankRead(key), BankRead(value)) + (None,) * (config.banks - 2),
            bipolar=self._operator.bipolar, load=False, finish=visit.last and last, limbs=layout.limbs,
            lane=visit.lane or 0, single=visit.lane is not None)

    def _compute(self, visit: _Visit, key: int, value: int, header: int) -> None:
        g = self._geometry
        rows = min(self._split.rows, g.height - visit.row)
        # the last unit is moved up to end with the picture
        skipped = visit.row - max(0, min(visit.row, g.height - self._split.rows))
        accesses = [Access(f"bank {b}", base, base + feed.size(self._split))
                    for b, (feed, base) in enumerate(zip(self._feeds, (key, value), strict=True))]
        accesses.append(Access(Target.CHUNKS.name, header, header + len(visit.pairs)))
        self._emitter.emit(Opcode.COMPUTE, {
            "core": Core.HAMMING, "chunk": header, "chunks": len(visit.pairs), "rows": rows, "cols": g.width,
            "address": key + skipped * g.width, "col_step": 1, "row_step": g.width, "y": visit.row, "x": 0,
            "y_step": 1, "x_step": 1, "height": g.height, "width": g.width}, accesses)

    def _store(self, visit: _Visit) -> None:
        """Right behind the COMPUTE, which waits for them when its FIFO is full."""
        config, layout = self._config, self._layout
        for limb in range(layout.limbs):
            offset = self._matrix.offset + layout.block_offset(
                visit.key_word, visit.value_word, limb, visit.matrix)
            self._emitter.store(Transfer(
                self._matrix, offset, ceil_div(config.word_channels, config.beat_bytes),
                config.word_channels // config.load_groups, config.weight_row_bytes,
                config.load_groups, config.outputs), Source.HAMMING, constant=True)
