"""Lowering of Conv: array chunks over words and taps; pixels through the packer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Core, Target
from spikeloom.network import Conv, Network

from .constants import pack_weights
from .emitter import Emitter
from .feeds import Feed, Geometry, PixelFeed, SpikeFeed, choose_split
from .layout import ChannelMap, TensorPlace, ceil_div
from .neuron_stage import NeuronStage
from .passes import ChunkSource, Pass, PassRunner, Segments, array_chunks, build_runs, output_tiles, plane_rounds


def lower_conv(emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: Conv) -> None:
    """Emit a convolution. Raises MappingError."""
    config, source = emitter.config, places[operator.input]
    weight = network.arrays[operator.weight]
    geometry = Geometry(source.height, source.width, weight.shape[2], operator.stride, operator.padding)
    out_map = places[operator.neuron.outputs[0]].channel_map(config)
    if source.kind == "pixels":
        feed: Feed = PixelFeed(source, geometry, operator.pad_codes, config)
        weight = _packed_pixels(weight)
        physical = _padded(weight, 1, feed.words * config.word_channels)
    else:
        feed = SpikeFeed(source, geometry, config)
        physical = source.channel_map(config).spread(weight, 1)
    split = choose_split(feed, network.frames, max(1, config.accumulator_depth // geometry.out_width), config)
    stage = NeuronStage(emitter, network, places, operator.neuron, out_map, geometry.out_height, geometry.out_width,
                        config.output_words)
    chunks = array_chunks(feed, split, config)
    segments = Segments.of(len(chunks), config.chunk_rows, config)
    runs = build_runs(feed, split, chunks, plane_rounds(feed), segments, config)
    weights = ArrayWeights(physical, out_map, chunks, config)
    passes = [
        Pass(output, strip, output.word // config.output_words, runs) for strip, output in output_tiles(
            feed, split, out_map.words, config.output_words, network.frames, operator.neuron.pool, config)]

    def load_weights(key: tuple[int, int], row: int) -> None:
        data = weights.segment(*key, segments.chunks)
        offset = emitter.constant(data)
        emitter.load_constants(Target.WEIGHTS, row, len(data) // config.weight_row_bytes, offset,
                               len(data) // config.beat_bytes)

    PassRunner(emitter, Core.ARRAY, feed, split, segments, stage, load_weights).run(passes)


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

    def segment(self, tile: int, segment: int, chunks: int) -> bytes:
        """Rows of chunks [segment * chunks, ...) for an output tile."""
        part = self._chunks[segment * chunks:(segment + 1) * chunks]
        banks = [[(bank[1], *bank[2], 1) if bank else (0, 0, 0, 0) for bank in chunk.banks] for chunk in part]
        word, ky, kx, used = np.moveaxis(np.array(banks), -1, 0)
        blocks = self._weight[tile][word, ky, kx] * used[..., None, None].astype(np.int8)
        return pack_weights(blocks.reshape(len(part), self._config.inputs, self._config.outputs), self._config)


def _packed_pixels(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """int8[Co, 3, kh, kw] -> int8[Co, 3 * kw, kh, 1]: channel 3 * kx + colour of packed rows."""
    co, colours, kh, kw = weight.shape
    return weight.transpose(0, 3, 1, 2).reshape(co, colours * kw, kh, 1)


def _padded(array: NDArray[np.int8], axis: int, size: int) -> NDArray[np.int8]:
    """Zeros appended along `axis`."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths)
