"""Lowering of Depthwise: one output word per pass, kernel rows in groups of `depthwise_rows`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import GROUP_INPUTS, MachineConfig
from spikeloom.hw.isa import Core, Target
from spikeloom.network import Depthwise, Network

from .constants import pack_weights
from .emitter import Emitter
from .feeds import DepthwiseFeed, Geometry, Split, choose_split
from .layout import TensorPlace
from .neuron_stage import NeuronStage
from .passes import ChunkSource, Pass, PassRunner, Run, Segments, build_runs, output_tiles, plane_rounds


def lower_depthwise(emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: Depthwise) -> None:
    """Emit a depthwise convolution. Raises MappingError."""
    config, source = emitter.config, places[operator.input]
    weight = network.arrays[operator.weight][:, 0]
    kernel = weight.shape[1]
    geometry = Geometry(source.height, source.width, kernel, 1, operator.padding)
    out_map = source.channel_map(config)
    feed = DepthwiseFeed(source, geometry, config)
    split = choose_split(feed, network.frames, max(1, config.accumulator_depth // geometry.out_width), config)
    stage = NeuronStage(emitter, network, places, operator.neuron, out_map, geometry.out_height, geometry.out_width, 1)
    chunks = depthwise_chunks(split, geometry, config)
    rows = GROUP_INPUTS * config.depthwise_groups // config.load_groups
    segments = Segments.of(len(chunks), rows, config)
    runs = build_runs(feed, split, chunks, plane_rounds(feed), segments, config)
    spread = out_map.spread(weight, 0).reshape(out_map.words, config.word_channels, kernel, kernel)
    by_word = [tuple(Run(word, *run.key[1:], run.chunks) for run in runs) for word in range(out_map.words)]
    passes = [
        Pass(output, strip, output.word, by_word[output.word]) for strip, output in output_tiles(
            feed, split, out_map.words, 1, network.frames, operator.neuron.pool, config)]

    def load_weights(key: tuple[int, int], row: int) -> None:
        word, segment = key
        part = chunks[segment * segments.chunks:(segment + 1) * segments.chunks]
        data = pack_weights(np.stack([_chunk_weights(spread[word], chunk, config) for chunk in part]), config)
        emitter.load_constants(Target.WEIGHTS, row, len(part) * rows, emitter.constant(data),
                               len(data) // config.beat_bytes)

    PassRunner(emitter, Core.DEPTHWISE, feed, split, segments, stage, load_weights).run(passes)


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
