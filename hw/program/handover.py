"""Depthwise convolution and the 1 x 1 convolution behind it as one: the bit-planes between them stay in the banks.

Tile by tile: all words of the depthwise convolution, then all outputs of the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Core
from spikeloom.network import Conv, Depthwise, Network

from .convolution import ArrayWeights, ConstantWeights
from .depthwise import DepthwiseLowering, depthwise_geometry
from .emitter import Emitter
from .feeds import EVERY_COLUMN, Columns, Geometry, LocalFeed, Split, Tile
from .handover_tiles import HandoverTiles
from .layout import TensorPlace, lane_groups
from .neuron_stage import NeuronStage, OutputTile
from .passes import ChunkSource, Pass, Run, Segments, array_chunks, plane_rounds, rotated_runs
from .residual import Residuals
from .tiling import Tiling
from .work import Job, Lowered


class _Planes:
    """Passes over the planes of a tile."""

    def __init__(
        self, tiling: Tiling, feed: LocalFeed, chunks: list[ChunkSource], segments: Segments, config: MachineConfig
    ) -> None:
        self._tiling, self._feed, self._chunks, self._segments, self._config = tiling, feed, chunks, segments, config
        self._runs: dict[int, tuple[Run, ...]] = {}

    def job(self, output: OutputTile) -> Job:
        pixels = output.tile.pixels
        if pixels not in self._runs:
            self._runs[pixels] = rotated_runs(
                self._feed, pixels, self._chunks, plane_rounds(self._feed), self._segments, self._config)
        return self._tiling.job(Pass(output, output.tile.row, output.word // self._config.output_words,
                                     self._runs[pixels]))


@dataclass
class Handover:
    """Lowering of the operators `index` and `index + 1`; see the module docstring.

    `apart`: no other job comes between those of a tile.
    """

    emitter: Emitter
    network: Network
    places: dict[str, TensorPlace]
    index: int
    residuals: Residuals
    tiles: HandoverTiles
    apart: bool = False
    columns: Columns = EVERY_COLUMN

    def lower(self) -> Lowered:
        network, config = self.network, self.emitter.config
        depthwise, conv = network.operators[self.index:self.index + 2]
        assert isinstance(depthwise, Depthwise)
        assert isinstance(conv, Conv)
        made = depthwise_geometry(network, depthwise, self.columns)
        source = self.places[conv.input]
        geometry = Geometry(source.height, source.width, col=made.col, cols=made.cols)
        words = source.channel_map(config).words
        rows = self.tiles.rows
        feed = LocalFeed(words, geometry, rows, ("planes", self.index, self.emitter.band), config)
        self.emitter.layer = self.index
        first = DepthwiseLowering(self.emitter, network, self.places, depthwise, self.residuals, rows, feed,
                                  columns=self.columns, strip=self.tiles.strip, dealt=self.tiles.dealt)
        self.emitter.layer = self.index + 1
        second, out_words = self._conv(conv, feed, geometry)
        jobs: list[Job] = []
        for row in range(0, made.out_height, rows):
            tile = Tile(row, min(rows, made.out_height - row), made.col, made.band)
            strip = row // first.split.rows * first.split.rows
            jobs += self._tile(first, second, tile, strip, out_words)
        return Lowered((self.index, self.index + 1), jobs, (self._planes,))

    def _tile(
        self, first: DepthwiseLowering, second: _Planes, tile: Tile, strip: int, out_words: int
    ) -> list[Job]:
        config, jobs = self.emitter.config, []
        groups = lane_groups(self.network.frames, config)
        for group in range(groups):
            jobs += [first.tiling.job(first.at(strip, self._output(word, 1, tile, group)))
                     for word in range(first.words)]
            for word in range(0, out_words, config.output_words):
                output = self._output(word, min(config.output_words, out_words - word), tile, group)
                jobs.append(second.job(output))
        # no job is worth beginning before the whole tile can be made
        jobs[0] = replace(jobs[0], needs=(*jobs[0].needs, *first.needs(strip)))
        glued = groups > 1 or self.apart
        return [replace(job, glued=glued and job is not jobs[-1]) for job in jobs]

    def _output(self, word: int, words: int, tile: Tile, group: int) -> OutputTile:
        last = tile.row + tile.rows == self.network.tensors[self._planes].height
        return OutputTile(word, words, tile, group, tile.row == 0, last)

    @property
    def _planes(self) -> str:
        conv = self.network.operators[self.index + 1]
        assert isinstance(conv, Conv)
        return conv.input

    def _conv(self, operator: Conv, feed: LocalFeed, geometry: Geometry) -> tuple[_Planes, int]:
        config, network, source = self.emitter.config, self.network, self.places[operator.input]
        out_map = self.places[operator.neuron.outputs[0]].channel_map(config)
        stage = NeuronStage(self.emitter, network, self.places, operator.neuron, out_map, geometry.height,
                            geometry.width, config.output_words, self.residuals)
        split = Split(self.tiles.rows, feed.words, 1)
        chunks = array_chunks(feed, split, config)
        segments = Segments.of(len(chunks), 2 * config.chunk_rows, config)
        physical = source.channel_map(config).spread(network.arrays[operator.weight], 1)
        weights = ConstantWeights(self.emitter, ArrayWeights(physical, out_map, chunks, config), segments, copies=2)
        tiling = Tiling(
            self.emitter, Core.ARRAY, feed, split, segments, stage, weights.load, frames=network.frames,
            carried_words=lane_groups(network.frames, config) > 1)
        return _Planes(tiling, feed, chunks, segments, config), out_map.words
