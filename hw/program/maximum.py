"""Lowering of MaxConv: the signed maximum out of DRAINs that add, and saturate at the least residual.

The windows are visited place by place. One COMPUTE makes x, the convolution at one place of all windows, in the
accumulators; m, the largest value so far, lies in the residual buffer. Two DRAINs of the same accumulators make the
larger one of both, for with 2**15 off all that is negative saturates at -2**15::

    d = saturate(m - x - 2**15)        = max(m - x, 0) - 2**15
    m = saturate(x + 2**15 + d)        = max(m, x)

The first one negates; its bias is such that rounding half up gives the negative of what the second one rounds to. No
difference m - x exceeds 2**16 - 1, for `spikeloom.bounds` proves that x is no less than -2**15. The first place lies in
the map in all windows and makes m alone; where another one lies outside, its pixels are left out. Last comes a COMPUTE
that reads no bank, so that a single DRAIN adds 0 to m and fires: others would write to the carry memory in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from spikeloom.bounds import raise_by
from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Accumulate, Core
from spikeloom.network import MaxConv, Network

from .constants import NEVER, BankRead, Chunk, pack_parameters
from .convolution import ArrayWeights, ConstantWeights
from .emitter import Emitter
from .feeds import Geometry, SpikeFeed, Split, Tap, Unit
from .layout import ChannelMap, TensorPlace, lane_groups
from .neuron_stage import LocalPlanes, NeuronStage, OutputTile, Piece
from .passes import Pass, Run, Segments, array_chunks, build_runs, output_tiles, plane_rounds
from .residual import Residuals
from .splits import choose_split, tile_rows
from .tiling import Tiling
from .work import Job, Lowered, Need

PLAIN, LOWERED, RAISED, NOTHING = range(4)
"""Blocks of parameters: x itself; what the first and what the second of two DRAINs adds to m; 0."""


@dataclass(frozen=True)
class _Visit:
    """A place in the windows, the output rows and columns for which it lies in the map, the blocks of its DRAINs."""

    row: int
    col: int
    rows: range
    cols: range
    blocks: tuple[int, ...] = (LOWERED, RAISED)

    @property
    def first(self) -> bool:
        return self.blocks == (PLAIN,)

    @property
    def last(self) -> bool:
        return self.blocks == (NOTHING,)


def lower_maximum(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: MaxConv, residuals: Residuals,
    tile: int | None = None,
) -> Lowered:
    """Jobs of a convolution with a maximum behind it; `tile` as in `lower_conv`. Raises MappingError."""
    config, source = emitter.config, places[operator.input]
    weight = network.arrays[operator.weight]
    kernel = weight.shape[2]
    geometry = _geometry(operator, source, kernel)
    out_map = places[operator.neuron.outputs[0]].channel_map(config)
    rows = tile or tile_rows(geometry, config)
    visits = _visits(operator, source, kernel, geometry)
    feeds = [WindowFeed(source, geometry, config, kernel, (p.row * operator.stride, p.col * operator.stride))
             for p in visits]
    groups = lane_groups(network.frames, config)
    split = choose_split(feeds[0], rows, config, groups=groups, one_tile=tile is not None)
    chunks = array_chunks(feeds[0], split, config)
    segments = Segments.of(len(chunks), config.chunk_rows, config)
    weights = ArrayWeights(source.channel_map(config).spread(weight, 1), out_map, chunks, config)
    load = ConstantWeights(emitter, weights, segments).load
    stages = [MaxStage(emitter, network, places, operator, out_map, geometry, residuals, visit) for visit in visits]
    tilings = [Tiling(emitter, Core.ARRAY, feed, split, segments, stage, load, frames=network.frames)
               for feed, stage in zip(feeds, stages, strict=True)]
    runs = [build_runs(feed, split, chunks, plane_rounds(feed), segments, config) for feed in feeds[:-1]]
    zero = Chunk(accumulate=Accumulate.ZERO, operand=0, banks=(None,) * config.banks)
    runs.append((Run(*runs[0][0].key, (zero,)),))
    outputs = output_tiles(
        feeds[0], split, out_map.words, config.output_words, network.frames, False, rows, config)
    jobs = list[Job]()
    for start in range(0, len(outputs), groups):
        together = outputs[start:start + groups]
        made = [tiling.job(Pass(output, strip, output.word // config.output_words, run))
                for tiling, stage, run in zip(tilings, stages, runs, strict=True)
                for strip, output in together if stage.drains(output)]
        jobs += [*(replace(job, glued=True) for job in made[:-1]), replace(made[-1], glued=False)]
    return Lowered((emitter.layer,), jobs)


def _geometry(operator: MaxConv, source: TensorPlace, kernel: int) -> Geometry:
    """Of a convolution whose kernel covers those of all places of a window."""
    s = operator.stride
    return Geometry(source.height, source.width, kernel + (operator.window - 1) * s, operator.window_stride * s,
                    operator.padding + operator.window_padding * s)


def _visits(operator: MaxConv, source: TensorPlace, kernel: int, geometry: Geometry) -> list[_Visit]:
    """Places in the order in which they are visited: first one that lies in the map in all windows; at the end none."""
    def inside(size: int, outputs: int, place: int) -> range:
        """Outputs for which a place lies in a map of convolved `size`."""
        convolved = (size + 2 * operator.padding - kernel) // operator.stride + 1
        found = [i for i in range(outputs)
                 if 0 <= i * operator.window_stride - operator.window_padding + place < convolved]
        return range(found[0], found[-1] + 1) if found else range(0)

    rows = [inside(source.height, geometry.out_height, place) for place in range(operator.window)]
    cols = [inside(source.width, geometry.out_width, place) for place in range(operator.window)]
    middle = operator.window_padding
    first = _Visit(middle, middle, rows[middle], cols[middle], (PLAIN,))
    others = [_Visit(row, col, rows[row], cols[col]) for row in range(operator.window) for col in range(operator.window)
              if (row, col) != (middle, middle)]
    return [first, *others, replace(first, blocks=(NOTHING,))]


class WindowFeed(SpikeFeed):
    """Feed of a convolution at one place of the windows.

    `geometry`: of all places together, so that all share the units. `at`: rows and columns from the window's begin.
    """

    def __init__(self, place: TensorPlace, geometry: Geometry, config: MachineConfig, kernel: int, at: Tap) -> None:
        super().__init__(place, geometry, config)
        self._kernel, self._at = kernel, at

    def taps(self, row: int, rows: int) -> list[Tap]:
        """Of the convolution's kernel: units hold all rows."""
        return [(y, x) for y in range(self._kernel) for x in range(self._kernel)]

    def splits(self) -> Iterator[Split]:
        return (split for split in super().splits() if split.taps == self.geometry.kernel)

    def read(self, split: Split, unit: Unit, slot: int, tap: Tap, plane: int) -> BankRead:
        return super().read(split, unit, slot, (tap[0] + self._at[0], tap[1] + self._at[1]), plane)


class MaxStage(NeuronStage):
    """Drains x at one place of the windows onto the largest value so far; see the module docstring."""

    def __init__(
        self, emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: MaxConv,
        out_map: ChannelMap, geometry: Geometry, residuals: Residuals, visit: _Visit,
    ) -> None:
        neuron = operator.neuron if visit.first else replace(operator.neuron, shortcut=operator.neuron.residual)
        super().__init__(
            emitter, network, places, neuron, out_map, geometry.out_height, geometry.out_width,
            emitter.config.output_words, residuals, _blocks(network, operator, out_map))
        self._visit = visit

    def needs(self, output: OutputTile) -> tuple[Need, ...]:
        """None: what it adds to it makes itself."""
        return ()

    def drains(self, output: OutputTile) -> bool:
        """The place lies in the map in some of the windows."""
        return any(True for _ in self._pieces(output))

    def _finish(
        self, output: OutputTile, piece: Piece, bank: int, parameter: int, item: int, local: LocalPlanes | None,
        carry: int, before: int,
    ) -> None:
        for block in self._visit.blocks:
            row = self._row(output, piece, parameter, block)
            self._drain(output, piece, bank, row, item, local, carry, before, fires=self._visit.last)
        if self._visit.last or self._home(self._target, output.word + piece.word) is None:
            self._store(output, piece, item, 0)

    def _pieces(self, output: OutputTile) -> Iterator[Piece]:
        """Those windows in which the place lies in the map; a part of the columns goes row by row."""
        tile, visit = output.tile, self._visit
        for piece in super()._pieces(output):
            first, last = (max(piece.row, visit.rows.start - tile.row),
                           min(piece.row + piece.rows, visit.rows.stop - tile.row))
            left, right = (max(piece.col, visit.cols.start - tile.col),
                           min(piece.col + piece.cols, visit.cols.stop - tile.col))
            if first >= last or left >= right:
                continue
            if right - left == piece.cols:
                yield replace(piece, row=first, rows=last - first)
                continue
            for row in range(first, last):
                yield replace(piece, row=row, rows=1, col=left, cols=right - left)


def _blocks(network: Network, operator: MaxConv, out_map: ChannelMap) -> list[bytes]:
    """Parameter rows of PLAIN, LOWERED, RAISED and NOTHING."""
    n = operator.neuron
    bias, shift = (network.arrays[str(name)].astype(np.int64) for name in (n.bias, n.shift))
    never = np.full(len(bias), NEVER, np.int64)
    threshold = network.arrays[n.threshold].astype(np.int64) if n.threshold else never
    raised = raise_by(shift)
    lowered = -bias - (shift > 0) - raised  # round_shift(-a - 1) = -round_shift(a) where something is shifted out

    def block(values: np.ndarray, negate: int) -> bytes:
        return pack_parameters(
            out_map.spread(values, 0), out_map.spread(threshold, 0, NEVER), out_map.spread(shift, 0),
            out_map.spread(np.full(len(bias), negate, np.int64), 0))

    return [block(bias, 0), block(lowered, 1), block(bias + raised, 0), block(0 * bias, 0)]
