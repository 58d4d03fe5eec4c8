"""Lowering of Depthwise: one output word per pass, kernel rows in groups of `depthwise_rows`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import GROUP_INPUTS, MachineConfig
from spikeloom.hw.isa import Core, Target
from spikeloom.network import Depthwise, Network

from .constants import Chunk, pack_weights
from .dealt import DealtFeed, DealtRows
from .emitter import Emitter
from .feeds import EVERY_COLUMN, Columns, DepthwiseFeed, Geometry, LocalFeed, Split, Unit
from .layout import TensorPlace, ceil_div, lane_groups
from .neuron_stage import NeuronStage, OutputTile
from .passes import ChunkSource, Pass, Run, Segments, build_runs, output_tiles, plane_rounds
from .residual import Residuals
from .splits import LEAST_LOAD, PIECES, choose_split, tile_rows
from .tiling import Tiling
from .work import Lowered, Need

WEIGHT_PARTS = 4
"""Share of the weight buffer that the weights of one load may take."""


def lower_depthwise(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: Depthwise, residuals: Residuals,
    tile: int | None = None, columns: Columns = EVERY_COLUMN,
) -> Lowered:
    """Jobs of a depthwise convolution whose output goes to DDR; `tile`, `columns` as in `lower_conv`.

    Raises MappingError.
    """
    config = emitter.config
    geometry = depthwise_geometry(network, operator, columns)
    rows = tile or tile_rows(geometry, config)
    lowering = DepthwiseLowering(emitter, network, places, operator, residuals, rows, one_tile=tile is not None,
                                 columns=columns)
    outputs = output_tiles(lowering.feed, lowering.split, lowering.words, 1, network.frames, operator.neuron.pool,
                           rows, config)
    return Lowered((emitter.layer,), [lowering.tiling.job(lowering.at(strip, output)) for strip, output in outputs])


def depthwise_geometry(network: Network, operator: Depthwise, columns: Columns = EVERY_COLUMN) -> Geometry:
    source = network.tensors[operator.input]
    return Geometry(source.height, source.width, network.arrays[operator.weight].shape[2], 1, operator.padding,
                    *columns)


class DepthwiseLowering:
    """Passes of a depthwise convolution in tiles of `rows` rows, one output word each.

    `planes`: where its planes stay on chip; then input for `strip` rows is loaded at a time. `dealt`: its rows
    are dealt to the banks.
    """

    def __init__(
        self, emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: Depthwise,
        residuals: Residuals, rows: int, planes: LocalFeed | None = None, *, one_tile: bool = False,
        columns: Columns = EVERY_COLUMN, strip: int = 0, dealt: bool = False,
    ) -> None:
        config, source = emitter.config, places[operator.input]
        weight = network.arrays[operator.weight][:, 0]
        geometry = depthwise_geometry(network, operator, columns)
        out_map = source.channel_map(config)
        self.words = out_map.words
        feed = DealtFeed(source, geometry, config) if dealt else DepthwiseFeed(source, geometry, config)
        self.feed = feed
        if planes is None:
            groups = lane_groups(network.frames, config)
            split = choose_split(self.feed, rows, config, groups=groups, one_tile=one_tile)
            self.split = self.feed.with_words(split, config.spike_depth // PIECES)
        else:
            room = config.spike_depth - planes.size(Split(rows, 1, 1))
            whole = Split(min(strip, geometry.out_height), 1, geometry.kernel)
            pieces = ceil_div(LEAST_LOAD, self.feed.beats(whole, Unit(0, 0, 0, 0, 0)))
            self.split = self.feed.with_words(whole, min(room // 2, pieces * self.feed.size(whole)))
        stage = NeuronStage(
            emitter, network, places, operator.neuron, out_map, geometry.out_height, geometry.out_width, 1, residuals)
        self._emitter, self._config = emitter, config
        kernel = weight.shape[1]
        self._weight = out_map.spread(weight, 0).reshape(self.words, config.word_channels, kernel, kernel)
        self._rows = (DealtRows(feed, self.split) if isinstance(feed, DealtFeed) else WholeRows(feed, self.split))
        # weights of several words come together if those of one are in one piece
        segments = self._rows.segments
        room = config.weight_depth // WEIGHT_PARTS // segments.size
        self._together = max(1, min(self.words, room)) if self._rows.in_one_piece else 1
        self._behind: dict[tuple[tuple[Chunk, ...], int], tuple[Chunk, ...]] = {}
        together = replace(segments, chunks=segments.chunks * self._together)
        self.tiling = Tiling(emitter, Core.DEPTHWISE, self.feed, self.split, together, stage, self._load_weights,
                             frames=network.frames, planes=planes)

    def at(self, strip: int, output: OutputTile) -> Pass:
        word = output.word
        offset = self.feed.word_offset(self.split, word % self.split.words)
        first = word - word % self.split.words
        runs = [replace(run, word=first, chunks=self._shifted(run.chunks, word % self._together))
                for run in self._rows.runs(strip, output)]
        return Pass(output, strip, word // self._together, tuple(runs), offset)

    def needs(self, strip: int) -> tuple[Need, ...]:
        """All words of a strip."""
        everything = replace(self.split, words=self.words)
        return self.feed.needs(self._emitter, everything, Unit(0, strip, 0, 0, 0))

    def _shifted(self, chunks: tuple[Chunk, ...], words: int) -> tuple[Chunk, ...]:
        """`chunks` whose weights lie behind those of `words` other words; the same object for the same chunks."""
        if (chunks, words) not in self._behind:
            before = words * self._rows.segments.size
            self._behind[chunks, words] = tuple(replace(chunk, operand=chunk.operand + before) for chunk in chunks)
        return self._behind[chunks, words]

    def _load_weights(self, key: tuple[int, int], row: int) -> None:
        number, segment = key
        words = range(number * self._together, min(self.words, (number + 1) * self._together))
        data = pack_weights(
            np.concatenate([self._rows.weights(self._weight[word], segment) for word in words]), self._config)
        self._emitter.load_constants(Target.WEIGHTS, row, len(data) // self._config.weight_row_bytes,
                                     self._emitter.constant(data), len(data) // self._config.beat_bytes)


class WholeRows:
    """Chunks and weights where every row of the input lies in all banks.

    Attributes:
        segments: Of the weights of a word.
        in_one_piece: A word has one segment, and a tile of it one run.
    """

    def __init__(self, feed: DepthwiseFeed, split: Split) -> None:
        config = self._config = feed.config
        self._chunks = depthwise_chunks(split, feed.geometry, config)
        self.segments = Segments.of(
            len(self._chunks), GROUP_INPUTS * config.depthwise_groups // config.load_groups, config)
        self._runs = build_runs(feed, split, self._chunks, plane_rounds(feed), self.segments, config)
        self.in_one_piece = len(self._runs) == 1 and len(self._chunks) == self.segments.chunks

    def runs(self, strip: int, output: OutputTile) -> tuple[Run, ...]:
        return self._runs

    def weights(self, kernels: NDArray[np.int8], segment: int) -> NDArray[np.int8]:
        """int8[chunks, inputs, Po] of a word's kernels int8[Wc, k, k]."""
        part = self._chunks[segment * self.segments.chunks:(segment + 1) * self.segments.chunks]
        return np.stack([_chunk_weights(kernels, chunk, self._config) for chunk in part])


def depthwise_chunks(split: Split, geometry: Geometry, config: MachineConfig) -> list[ChunkSource]:
    """Chunks of one round; bank r takes one kernel row. The tap's column is 0: columns come out of the window."""
    chunks = []
    for tap in range(0, geometry.kernel, split.taps):
        last = min(geometry.kernel, tap + split.taps)
        for first in range(tap, last, config.depthwise_rows):
            chunks.append(ChunkSource(0, tap, tuple(
                (0, 0, (first + b, 0)) if b < config.depthwise_rows and first + b < last else None
                for b in range(config.banks))))
    return chunks


def _chunk_weights(weight: NDArray[np.int8], chunk: ChunkSource, config: MachineConfig) -> NDArray[np.int8]:
    """int8[4 * groups, Po] of one word's kernels int8[Wc, k, k]; tap j is kernel column k - 1 - j."""
    kernel = weight.shape[1]
    result = np.zeros((config.depthwise_groups * GROUP_INPUTS, config.outputs), dtype=np.int8)
    for r, bank in enumerate(chunk.banks):
        if bank is not None:
            first = r * 2 * GROUP_INPUTS
            result[first:first + kernel, :config.word_channels] = weight[:, bank[2][0], ::-1].T
    return result
