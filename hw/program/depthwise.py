"""Lowering of Depthwise: one output word per pass, kernel rows in groups of `depthwise_rows`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import GROUP_INPUTS, MachineConfig
from spikeloom.hw.isa import Core, Target
from spikeloom.network import Depthwise, Network

from .constants import pack_weights
from .emitter import Emitter
from .feeds import EVERY_COLUMN, Columns, DepthwiseFeed, Geometry, LocalFeed, Split, Unit
from .layout import TensorPlace
from .neuron_stage import NeuronStage, OutputTile
from .passes import ChunkSource, Pass, Run, Segments, build_runs, output_tiles, plane_rounds
from .residual import Residuals
from .splits import PIECES, choose_split, tile_rows
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

    `planes`: where its planes stay on chip.
    """

    def __init__(
        self, emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: Depthwise,
        residuals: Residuals, rows: int, planes: LocalFeed | None = None, *, one_tile: bool = False,
        columns: Columns = EVERY_COLUMN,
    ) -> None:
        config, source = emitter.config, places[operator.input]
        weight = network.arrays[operator.weight][:, 0]
        geometry = depthwise_geometry(network, operator, columns)
        out_map = source.channel_map(config)
        self.words = out_map.words
        self.feed = DepthwiseFeed(source, geometry, config)
        if planes is None:
            split = choose_split(self.feed, rows, config, one_tile=one_tile)
            self.split = self.feed.with_words(split, config.spike_depth // PIECES)
        else:
            room = config.spike_depth - planes.size(Split(rows, 1, 1))
            self.split = beside_planes(self.feed, rows, self.words, room)
        stage = NeuronStage(
            emitter, network, places, operator.neuron, out_map, geometry.out_height, geometry.out_width, 1, residuals)
        self._emitter, self._config = emitter, config
        self._chunks = depthwise_chunks(self.split, geometry, config)
        chunk_rows = GROUP_INPUTS * config.depthwise_groups // config.load_groups
        self._segments = Segments.of(len(self._chunks), chunk_rows, config)
        runs = build_runs(self.feed, self.split, self._chunks, plane_rounds(self.feed), self._segments, config)
        kernel = weight.shape[1]
        self._weight = out_map.spread(weight, 0).reshape(self.words, config.word_channels, kernel, kernel)
        # weights of several words come together if those of one are in one piece
        whole = len(runs) == 1 and len(self._chunks) == self._segments.chunks
        room = config.weight_depth // WEIGHT_PARTS // self._segments.size
        self._together = max(1, min(self.words, room)) if whole else 1
        self._runs = [tuple(self._run(word, run) for run in runs) for word in range(self.words)]
        together = replace(self._segments, chunks=self._segments.chunks * self._together)
        self.tiling = Tiling(emitter, Core.DEPTHWISE, self.feed, self.split, together, stage, self._load_weights,
                             frames=network.frames, planes=planes)

    def at(self, strip: int, output: OutputTile) -> Pass:
        offset = self.feed.word_offset(self.split, output.word % self.split.words)
        return Pass(output, strip, output.word // self._together, self._runs[output.word], offset)

    def needs(self, strip: int) -> tuple[Need, ...]:
        """All words of a strip."""
        everything = replace(self.split, words=self.words)
        return self.feed.needs(self._emitter, everything, Unit(0, strip, 0, 0, 0))

    def _run(self, word: int, run: Run) -> Run:
        before = word % self._together * self._segments.size
        chunks = tuple(replace(chunk, operand=chunk.operand + before) for chunk in run.chunks)
        return Run(word - word % self.split.words, *run.key[1:], chunks)

    def _load_weights(self, key: tuple[int, int], row: int) -> None:
        number, segment = key
        words = range(number * self._together, min(self.words, (number + 1) * self._together))
        part = self._chunks[segment * self._segments.chunks:(segment + 1) * self._segments.chunks]
        data = pack_weights(np.stack([
            _chunk_weights(self._weight[word], c, self._config) for word in words for c in part]), self._config)
        self._emitter.load_constants(Target.WEIGHTS, row, len(words) * len(part) * self._segments.rows,
                                     self._emitter.constant(data), len(data) // self._config.beat_bytes)


def beside_planes(feed: DepthwiseFeed, rows: int, words: int, room: int) -> Split:
    """The whole map of all words if that fits `room`, else a tile of `rows` rows of as many words as half of it holds.

    Tile by tile all words are used, so larger units would be loaded again for every tile.
    """
    whole = replace(next(feed.splits()), rows=feed.geometry.out_height)
    if feed.size(replace(whole, words=words)) <= room:
        return feed.with_words(whole, room // 2)
    return feed.with_words(replace(whole, rows=rows), room // 2)


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
