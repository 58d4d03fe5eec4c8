"""Depthwise convolution and the 1 x 1 convolution behind it as one: the bit-planes between them stay in the banks.

Tile by tile: all words of the depthwise convolution, then all outputs of the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from spikeloom.arithmetic import PLANE_BITS
from spikeloom.config import GROUP_INPUTS, MachineConfig
from spikeloom.hw.isa import Core
from spikeloom.network import Conv, Depthwise, Network

from .convolution import ArrayWeights, ConstantWeights
from .depthwise import DepthwiseLowering, depthwise_geometry
from .emitter import Emitter
from .feeds import EVERY_COLUMN, Columns, DepthwiseFeed, Geometry, LocalFeed, Split, Tile, Unit
from .layout import TensorPlace, ceil_div, lane_groups
from .neuron_stage import NeuronStage, OutputTile
from .passes import ChunkSource, Pass, Run, Segments, array_chunks, plane_rounds, rotated_runs
from .residual import Residuals, Rolling
from .splits import tile_rows
from .tiling import Tiling
from .work import Job, Lowered

LATENCY = 110
"""Cycles of a load beside its beats, where nothing can be loaded ahead."""

FETCH = 22
"""Cycles in which an instruction is fetched and checked, at least."""

OTHERS = 4
"""Instructions for a word of a tile beside COMPUTE and LOAD, about."""

LOAD_SHARE = 1
"""Cycles that a beat costs which is loaded beside other work: another operator waits for it."""


@dataclass(frozen=True)
class HandoverTiles:
    """Tiles of `rows` rows.

    `strip`: output rows whose input is in the banks at a time, of all words if they are more than one tile. `dealt`:
    its rows are dealt to the banks (`DepthwiseFeed`).
    """

    rows: int
    strip: int
    dealt: bool


def handover_tiles(
    network: Network, places: dict[str, TensorPlace], index: int, config: MachineConfig,
    rolling: Rolling | None = None, columns: Columns = EVERY_COLUMN,
) -> HandoverTiles | None:
    """Tiles that cost least; their planes and what they are made of fit the banks. None if those of one row do not.

    `rolling`: the window through which the map passes; tiles and strips are no larger than it allows."""
    operator, conv = network.operators[index:index + 2]
    assert isinstance(operator, Depthwise)
    assert isinstance(conv, Conv)
    geometry, place = depthwise_geometry(network, operator, columns), places[operator.input]
    words, out_words = (places[name].channel_map(config).words for name in (conv.input, conv.neuron.outputs[0]))
    width, height = geometry.band, geometry.out_height
    tile, highest = (rolling.rows, rolling.strip) if rolling else (None, 2 * height)
    most = min(tile or tile_rows(geometry, config), config.accumulator_depth // width)
    groups = lane_groups(network.frames, config)
    if groups > 1:
        most = min(most, config.accumulator_depth * config.output_words // out_words // width)
    feeds = [DepthwiseFeed(place, geometry, config)]
    if DepthwiseFeed.can_deal(place, geometry, config):
        feeds.append(DepthwiseFeed(place, geometry, config, dealt=True))
    passes = ceil_div(out_words, config.output_words)
    costs: dict[HandoverTiles, float] = {}
    for feed in feeds:
        cost = _Cost(feed, words, groups, passes, config)
        for rows in {_even(rows, height, tile): None for rows in range(most, 0, -1)}:
            for strip in range(rows, max(rows, highest) + 1, rows):
                if cost.fits(rows, min(strip, height)):
                    costs[HandoverTiles(rows, strip, feed.dealt)] = cost(rows, min(strip, height))
    return min(costs, key=costs.__getitem__, default=None)


@dataclass(frozen=True)
class _Cost:
    """Cycles of a depthwise convolution of `words` words and of the 1 x 1 behind it, which takes `passes` passes, for
    one of `groups` lane groups."""

    feed: DepthwiseFeed
    words: int
    groups: int
    passes: int
    config: MachineConfig

    def __call__(self, rows: int, strip: int) -> float:
        """Of all tiles: of the 1 x 1 convolution, of the walks of the depthwise one, and of loads beside which nothing
        goes on. Loads in all count a little: others wait for them."""
        config, tiles = self.config, ceil_div(strip, rows)
        array = self.passes * PLANE_BITS * ceil_div(self.words, config.banks) * max(
            rows * self.feed.geometry.band, config.fill_cycles)
        walk, beats = self._walk(rows, tiles), self.feed.beats(self._split(strip), Unit(0, 0, 0, 0, 0))
        spare = self._spare(rows, strip) // self.feed.size(self._split(strip))
        if tiles > 1:  # loads go beside the last tile of the strip before
            waits = max(0, self.words * (beats - walk) - array)
        elif not spare:  # each load behind a walk
            waits = self.words * (beats + LATENCY)
        else:  # some loads go beside the array, the others beside walks
            waits = max(0, (self.words - spare) * beats - self.words * walk)
        height, loads = self.feed.geometry.out_height, waits + self.words * beats * LOAD_SHARE
        return ceil_div(height, rows) * (array + self.words * walk) + ceil_div(height, strip) * loads

    def fits(self, rows: int, strip: int) -> bool:
        return self._spare(rows, strip) >= 0

    def _split(self, strip: int) -> Split:
        return Split(strip, 1, self.feed.geometry.kernel)

    def _spare(self, rows: int, strip: int) -> int:
        """Addresses beside the planes of a tile and the input that must be there."""
        planes = self.words * rows * self.feed.geometry.band * ceil_div(PLANE_BITS, self.config.banks)
        words = self.words * self.groups if strip > rows else 1  # lane groups take turns at each tile
        return self.config.spike_depth - planes - self.feed.size(self._split(strip)) * words

    def _walk(self, rows: int, tiles: int) -> int:
        """Cycles of a word of a tile, `tiles` of which share their input: filling of tables and walking, or the fetch
        of the instructions."""
        config, kernel = self.config, self.feed.geometry.kernel
        fill = (1 << GROUP_INPUTS) * config.depthwise_groups // config.load_groups
        cols = self.feed.geometry.band + kernel - 1
        if self.feed.dealt:
            return max(rows * max(cols, fill), FETCH * (rows + kernel // tiles + OTHERS))
        return max(rows * cols, fill) * ceil_div(kernel, config.depthwise_rows)


def _even(rows: int, height: int, tile: int | None) -> int:
    """Rows of tiles of about one size, or of `tile` rows."""
    return rows if rows == tile else ceil_div(height, ceil_div(height, rows))


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
