"""Lowering of attention: K^T V in the Hamming unit, then the array with its limbs as weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Accumulate, Core, Opcode, Source, Target
from spikeloom.network import Attend, KeyValue, Network

from .constants import BankRead, Chunk
from .emitter import Emitter, Transfer
from .errors import MappingError
from .feeds import Geometry, SpikeFeed, Split, Unit
from .layout import KeyValueLayout, TensorPlace, ceil_div, lane_groups
from .neuron_stage import NeuronStage
from .passes import Pass, Round, Run, Segments, array_chunks, build_runs, output_tiles
from .residual import Residuals
from .schedule import Access
from .splits import choose_split, tile_rows
from .tiling import Tiling
from .work import EVERY, Content, Job, Lowered, Name, Places, Work

MASK_BITS = 16
"""Width of `operand` of a chunk header, which masks the channels of K."""


def keyvalue_layout(place: TensorPlace, config: MachineConfig) -> KeyValueLayout:
    return KeyValueLayout(place.channels, place.heads, place.limbs, config)


def lower_attend(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: Attend, residuals: Residuals
) -> Lowered:
    """Jobs of Y = Q M. Rounds over the limbs of M, which lies in DDR as weight chunks. Raises MappingError."""
    config, query, matrix = emitter.config, places[operator.query], places[operator.keyvalue]
    geometry = Geometry(query.height, query.width)
    rows = tile_rows(geometry, config)
    layout = keyvalue_layout(matrix, config)
    out_map = query.channel_map(config)
    feed = SpikeFeed(query, geometry, config)
    split = choose_split(feed, rows, config)
    stage = NeuronStage(emitter, network, places, operator.neuron, out_map, geometry.out_height, geometry.out_width,
                        config.output_words, residuals)
    most = max(len(layout.slots(tile)) for tile in range(layout.tiles)) * layout.limbs
    segments = Segments.of(most, config.chunk_rows, config)
    runs = [_attend_runs(feed, split, layout, tile, operator.bipolar, segments, config)
            for tile in range(layout.tiles)]

    def load_weights(key: tuple[int, int], row: int) -> None:
        tile, segment = key
        slots = layout.slots(tile)
        count = min(segments.chunks, len(slots) * layout.limbs - segment * segments.chunks)
        size = count * config.chunk_rows * config.weight_row_bytes
        offset = layout.chunk_offset(tile, 0, slots[0]) + matrix.offset
        offset += segment * segments.chunks * config.chunk_rows * config.weight_row_bytes
        emitter.load_constants(Target.WEIGHTS, row, count * config.chunk_rows, offset, size // config.beat_bytes,
                               Access(f"ddr {matrix.name}", offset, offset + size))

    tiling = Tiling(emitter, Core.ARRAY, feed, split, segments, stage, load_weights, frames=network.frames,
                    weights_need=emitter.needs(matrix))
    outputs = output_tiles(feed, split, out_map.words, config.output_words, network.frames, operator.neuron.pool, rows,
                           config)
    return Lowered((emitter.layer,), tiling.jobs([
        Pass(output, strip, output.word // config.output_words, runs[output.word // config.output_words])
        for strip, output in outputs]))


def _attend_runs(
    feed: SpikeFeed, split: Split, layout: KeyValueLayout, tile: int, bipolar: bool, segments: Segments,
    config: MachineConfig,
) -> tuple[Run, ...]:
    slots = layout.slots(tile)
    sources = [s for s in array_chunks(feed, split, config) if s.banks[0] and s.banks[0][1] // feed.fold in slots]
    rounds = [Round(0, limb * len(slots), Accumulate.LIMB if limb else Accumulate.ZERO, bipolar=bipolar)
              for limb in range(layout.limbs)]
    return build_runs(feed, split, sources, rounds, segments, config)


@dataclass(frozen=True)
class _Visit:
    """One COMPUTE of the Hamming unit: a strip of a word of K and a word of V of one head."""

    key_word: int
    value_word: int
    lane_group: int
    row: int
    first: bool
    last: bool


def lower_keyvalue(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: KeyValue
) -> Lowered:
    """Jobs of K^T V: per pair of words of a head all strips, then a store per limb. Raises MappingError."""
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
        # the words of a head, of K and V, and as many to fetch
        regions = max(2, min(4 * self._layout.head_words, self._config.spike_depth // geometry.width))
        rows = min(geometry.height, self._config.spike_depth // regions // geometry.width)
        if rows < 1:
            raise MappingError(f"a row of {geometry.width} words does not fit half of a spike bank "
                               f"({self._config.spike_depth // 2} words)")
        self._split = Split(rows, 1, 1)
        self._size = rows * geometry.width
        self._geometry = geometry
        self._feeds = tuple(SpikeFeed(place, geometry, self._config) for place in (self._key, self._value))

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
            return (self._chunk(visit, spikes[value.name] - spikes[key.name]),)

        work = Work(spikes=(key, value), weights=None, chunks=chunks, compute=compute,
                    finish=finish if visit.last else None)
        rows = min(self._split.rows, self._geometry.height - visit.row)
        return Job(layer=self._layer, rows=(visit.row, visit.row + rows), words=(0, EVERY), works=(work,),
                   accumulates=False, cycles=rows * self._geometry.width, glued=not visit.last)

    def _visits(self, frames: int) -> list[_Visit]:
        words, height = self._layout.head_words, self._geometry.height
        parts = [(group, row) for group in range(lane_groups(frames, self._config))
                 for row in range(0, height, self._split.rows)]
        return [_Visit(head * words + i, head * words + j, *part, part == parts[0], part == parts[-1])
                for head in range(self._operator.heads) for i in range(words) for j in range(words)
                for part in parts]

    def _content(self, bank: int, unit: Unit) -> Content:
        def fill(base: int) -> None:
            self._emitter.layer = self._layer
            transfer = self._feeds[bank].transfer(self._split, unit, unit.word, 1, 1)
            self._emitter.load(transfer, base, [bank])

        feed = self._feeds[bank]
        return Content((self._layer, bank, unit), self._size, fill, feed.needs(self._emitter, self._split, unit))

    def _chunk(self, visit: _Visit, distance: int) -> Chunk:
        """The header if V lies `distance` addresses behind K."""
        config, layout = self._config, self._layout
        channels = min(config.word_channels, layout.width - visit.key_word % layout.head_words * config.word_channels)
        return Chunk(
            accumulate=Accumulate.ZERO if visit.first else Accumulate.KEEP, operand=(1 << channels) - 1,
            banks=(BankRead(0), BankRead(distance)) + (None,) * (config.banks - 2),
            bipolar=self._operator.bipolar, load=False, finish=visit.last, limbs=layout.limbs)

    def _compute(self, visit: _Visit, key: int, value: int, header: int) -> None:
        g = self._geometry
        rows = min(self._split.rows, g.height - visit.row)
        # the last unit is moved up to end with the picture
        skipped = visit.row - max(0, min(visit.row, g.height - self._split.rows))
        accesses = [Access(f"bank {b}", base, base + self._size) for b, base in enumerate((key, value))]
        accesses.append(Access(Target.CHUNKS.name, header, header + 1))
        self._emitter.emit(Opcode.COMPUTE, {
            "core": Core.HAMMING, "chunk": header, "chunks": 1, "rows": rows, "cols": g.width,
            "address": key + skipped * g.width, "col_step": 1, "row_step": g.width, "y": visit.row, "x": 0,
            "y_step": 1, "x_step": 1, "height": g.height, "width": g.width}, accesses)

    def _store(self, visit: _Visit) -> None:
        """Right behind the COMPUTE, which waits for them when its FIFO is full."""
        config, layout = self._config, self._layout
        for limb in range(layout.limbs):
            offset = self._matrix.offset + layout.block_offset(visit.key_word, visit.value_word, limb)
            self._emitter.store(Transfer(
                self._matrix, offset, ceil_div(config.word_channels, config.beat_bytes),
                config.word_channels // config.load_groups, config.weight_row_bytes,
                config.load_groups, config.outputs), Source.HAMMING, constant=True)
