"""Depthwise convolution on rows dealt to the banks in turn: which bank takes which kernel row, and its weights.

Rows of output take turns, too: where the kernel of one begins in bank b, that of the next begins in bank b + 1. So the
kernel rows of the weights lie in a ring, and a chunk begins to read where bank 0's kernel row is. Two banks share a
row of the weight buffer (or more, as many as `load_groups` has halves), so there is a ring for each of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import GROUP_INPUTS, MachineConfig
from spikeloom.hw.isa import Accumulate

from .constants import BankRead, Chunk
from .feeds import DepthwiseFeed, Split, Unit
from .layout import ceil_div
from .neuron_stage import OutputTile
from .passes import Run, Segments

TAPS = 2 * GROUP_INPUTS
"""Inputs of the depthwise unit in a kernel row."""


class Ring:
    """Kernel rows in the order of the banks, over and over: `copies` times, each beginning one row later.

    Attributes:
        rows: Rows of the weight buffer that one word's weights take.
    """

    def __init__(self, kernel: int, config: MachineConfig) -> None:
        self._kernel, self._config = kernel, config
        self.copies = max(1, config.load_groups // 2)
        self._length = ceil_div(kernel - 1 + config.depthwise_rows, self.copies) * self.copies
        self._copy_rows = self._length * TAPS // config.load_groups
        self.rows = self.copies * self._copy_rows

    def spread(self, weight: NDArray[np.int8]) -> NDArray[np.int8]:
        """int8[copies, inputs, Po] of one word's kernels int8[Wc, k, k]; tap j is kernel column k - 1 - j."""
        config = self._config
        result = np.zeros((self.copies, self._length, TAPS, config.outputs), dtype=np.int8)
        for copy in range(self.copies):
            for place in range(self._length):
                row = weight[:, (copy + place) % self._kernel, ::-1]
                result[copy, place, :self._kernel, :config.word_channels] = row.T
        return result.reshape(self.copies, -1, config.outputs)

    def operand(self, turn: int) -> int:
        """Where a chunk begins to read whose first kernel row lies in bank `turn`."""
        first = -turn % self._kernel
        copy = first % self.copies
        return copy * self._copy_rows + (first - copy) * TAPS // self._config.load_groups


class DealtRows:
    """Chunks and weights; a run for each row of a tile. Attributes as those of `WholeRows`."""

    in_one_piece = False

    def __init__(self, feed: DepthwiseFeed, split: Split) -> None:
        self._feed, self._split = feed, split
        self._ring = Ring(feed.geometry.kernel, feed.config)
        self.segments = Segments(1, self._ring.rows)
        self._chunks = [self._chunk(turn) for turn in range(feed.geometry.kernel)]

    def runs(self, strip: int, output: OutputTile) -> tuple[Run, ...]:
        unit = Unit(output.lane_group, strip, 0, 0, 0)
        turns = (self._feed.turn(self._split, unit, output.tile.row + row) for row in range(output.tile.rows))
        return tuple(Run(0, 0, 0, 0, (self._chunks[turn],), row) for row, turn in enumerate(turns))

    def weights(self, kernels: NDArray[np.int8], segment: int) -> NDArray[np.int8]:
        """int8[copies, inputs, Po] of a word's kernels int8[Wc, k, k]."""
        return self._ring.spread(kernels)

    def _chunk(self, turn: int) -> Chunk:
        """The chunk of output rows of that `turn`."""
        config = self._feed.config
        banks: list[BankRead | None] = [None] * config.banks
        for bank in range(self._feed.geometry.kernel):
            banks[bank] = self._feed.read_dealt(turn, bank)
        return Chunk(accumulate=Accumulate.ZERO, operand=self._ring.operand(turn), banks=tuple(banks))
