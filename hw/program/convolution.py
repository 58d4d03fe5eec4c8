"""Lowering of Conv: array chunks over words and taps; pixels through the packer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Core, Target
from spikeloom.network import Conv, Network

from .constants import pack_weights
from .emitter import Emitter
from .feeds import EVERY_COLUMN, Columns, Feed, Geometry, SpikeFeed
from .layout import ChannelMap, TensorPlace, ceil_div, lane_groups
from .neuron_stage import NeuronStage
from .passes import ChunkSource, Pass, Segments, array_chunks, build_runs, output_tiles, plane_rounds
from .pixel_feed import PixelFeed
from .residual import Residuals
from .splits import choose_group_rows, choose_pixel_split, choose_split, groups_together, tile_rows
from .tiling import Tiling
from .work import Lowered


def lower_conv(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: Conv, residuals: Residuals,
    tile: int | None = None, columns: Columns = EVERY_COLUMN,
) -> Lowered:
    """Jobs of a convolution, in strips of one tile of `tile` rows if given; of `columns` of the map.

    Raises MappingError.
    """
    config, source = emitter.config, places[operator.input]
    weight = network.arrays[operator.weight]
    geometry = Geometry(source.height, source.width, weight.shape[2], operator.stride, operator.padding, *columns)
    out_map = places[operator.neuron.outputs[0]].channel_map(config)
    rows, groups = tile or tile_rows(geometry, config), lane_groups(network.frames, config)
    if source.kind == "pixels":
        feed: Feed = PixelFeed(source, geometry, operator.pad_codes, config)
        weight = _packed_pixels(weight)
        physical = _padded(weight, 1, feed.words * config.word_channels)
        split = choose_pixel_split(feed, out_map.words, config, None if tile is None else 2 * tile)
    else:
        feed = SpikeFeed(source, geometry, config)
        physical = source.channel_map(config).spread(weight, 1)
        if tile is None and not operator.neuron.pool:
            passes = ceil_div(out_map.words, config.output_words)
            tile = choose_group_rows(feed, rows, passes, groups, config)
            rows = tile or rows
        split = choose_split(feed, rows, config, groups=groups, one_tile=tile is not None)
    stage = NeuronStage(emitter, network, places, operator.neuron, out_map, geometry.out_height, geometry.out_width,
                        config.output_words, residuals)
    together = 1
    if isinstance(feed, SpikeFeed) and tile is not None and not operator.neuron.pool and stage.on_chip:
        together = groups_together(feed, split, groups, config)
        feed = SpikeFeed(source, geometry, config, together)
    read = groups * feed.size(replace(split, words=feed.words))
    by_group = operator.neuron.pool and groups > 1 and read > config.spike_depth and (
        out_map.words <= config.accumulator_depth * config.output_words)
    chunks = array_chunks(feed, split, config)
    segments = Segments.of(len(chunks), config.chunk_rows, config)
    runs = build_runs(feed, split, chunks, plane_rounds(feed), segments, config)
    weights = ArrayWeights(physical, out_map, chunks, config)
    load = ConstantWeights(emitter, weights, segments).load
    tiling = Tiling(emitter, Core.ARRAY, feed, split, segments, stage, load, frames=network.frames,
                    together=together, by_group=by_group)
    return Lowered((emitter.layer,), tiling.jobs([
        Pass(output, strip, output.word // config.output_words, runs) for strip, output in output_tiles(
            feed, split, out_map.words, config.output_words, network.frames, operator.neuron.pool, rows, config,
            together, by_group)]))


class ConstantWeights:
    """Loads segments of a convolution's weights from the constants; `copies` of each chunk, one behind the other."""

    def __init__(self, emitter: Emitter, weights: ArrayWeights, segments: Segments, copies: int = 1) -> None:
        self._emitter, self._weights, self._segments, self._copies = emitter, weights, segments, copies

    def load(self, key: tuple[int, int], row: int) -> None:
        config = self._emitter.config
        data = self._weights.segment(*key, self._segments.chunks, self._copies)
        self._emitter.load_constants(Target.WEIGHTS, row, len(data) // config.weight_row_bytes,
                                     self._emitter.constant(data), len(data) // config.beat_bytes)


class ArrayWeights:
    """Weight chunks of a convolution.

    Args:
        weight: int8[Co, physical input channels, kh, kw].
        chunks: What the banks of each chunk hold.
    """

    def __init__(
        self, weight: NDArray[np.int8], out_map: ChannelMap, chunks: Sequence[ChunkSource], config: MachineConfig
    ) -> None:
        self._config, self._chunks = config, chunks
        tiles = ceil_div(out_map.words, config.output_words)
        spread = _padded(out_map.spread(weight, 0), 0, tiles * config.outputs)
        _, inputs, kh, kw = spread.shape
        split = spread.reshape(tiles, config.outputs, inputs // config.word_channels, config.word_channels, kh, kw)
        self._weight = split.transpose(0, 2, 4, 5, 3, 1)  # [tile][word][ky][kx][channel][output]

    def segment(self, tile: int, segment: int, chunks: int, copies: int = 1) -> bytes:
        """Rows of chunks [segment * chunks, ...) for an output tile, each `copies` times."""
        part = self._chunks[segment * chunks:(segment + 1) * chunks]
        banks = [[(bank[1], *bank[2], 1) if bank else (0, 0, 0, 0) for bank in chunk.banks] for chunk in part]
        word, ky, kx, used = np.moveaxis(np.array(banks), -1, 0)
        blocks = self._weight[tile][word, ky, kx] * used[..., None, None].astype(np.int8)
        blocks = blocks.reshape(len(part), self._config.inputs, self._config.outputs)
        return pack_weights(np.repeat(blocks, copies, axis=0), self._config)


def _packed_pixels(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """int8[Co, 3, kh, kw] -> int8[Co, 3 * kw, kh, 1]: channel 3 * kx + colour of packed rows."""
    co, colours, kh, kw = weight.shape
    return weight.transpose(0, 3, 1, 2).reshape(co, colours * kw, kh, 1)


def _padded(array: NDArray[np.int8], axis: int, size: int) -> NDArray[np.int8]:
    """Zeros appended along `axis`."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths)
