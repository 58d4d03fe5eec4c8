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
from .emitter import Emitter, Transfer
from .feeds import DepthwiseFeed, Geometry, Split, Tile, Unit
from .layout import TensorPlace, ceil_div
from .neuron_stage import OutputTile
from .passes import Run, Segments

TAPS = 2 * GROUP_INPUTS
"""Inputs of the depthwise unit in a kernel row."""


class DealtFeed(DepthwiseFeed):
    """Feed of the depthwise unit whose rows are dealt to as many banks as the kernel has rows, in turn: row r of a unit
    lies in bank r % kernel. So it takes that much less room than `DepthwiseFeed`. Binary spikes only.

    Rows of output whose kernel rows begin in another bank (`turn`) want other chunks, so a COMPUTE walks one row only.
    """

    @staticmethod
    def suits(place: TensorPlace, geometry: Geometry, config: MachineConfig) -> bool:
        """There is a bank for each kernel row, and the input is one plane."""
        return place.kind == "spikes" and place.levels == 1 and geometry.kernel <= config.depthwise_rows

    def load(self, emitter: Emitter, split: Split, unit: Unit, base: int) -> None:
        row, banks, rows = self.geometry.width * self.config.beat_bytes, self.geometry.kernel, self.input_rows(split)
        for word in range(min(split.words, self._tensor_words - unit.word)):
            start = self.transfer(split, unit, unit.word + word, 1, 1).offset
            for bank in range(min(banks, rows)):
                part = Transfer(self.place, start + bank * row, self.geometry.loaded, ceil_div(rows - bank, banks),
                                banks * row)
                emitter.load(part, base + self.word_offset(split, word), (bank,))

    def walk(self, split: Split, unit: Unit, tile: Tile, base: int) -> dict[str, int]:
        assert tile.rows == 1
        g, above = self.geometry, self._above(split, unit, tile.row) // self.geometry.kernel
        address = base + (above + 1) * g.loaded + tile.col - g.left  # `above` may be -1, an address may not
        return super().walk(split, unit, tile, base) | {"address": address}

    def turn(self, split: Split, unit: Unit, row: int) -> int:
        """The bank in which the first kernel row of output row `row` lies, or would."""
        return self._above(split, unit, row) % self.geometry.kernel

    def read_dealt(self, turn: int, bank: int) -> BankRead:
        """Where `bank` finds its kernel row for rows of output of that `turn`."""
        g, row = self.geometry, (bank - turn) % self.geometry.kernel
        above = (turn + row) // g.kernel - 1
        return BankRead(above * g.loaded - g.padding, row - g.padding, -g.padding)

    def _above(self, split: Split, unit: Unit, row: int) -> int:
        """Input row, counted from the unit's first, at which the kernel of output row `row` begins."""
        return row - self.geometry.padding - self._first_row(split, unit)

    def _slot_size(self, split: Split) -> int:
        return ceil_div(self.input_rows(split), self.geometry.kernel) * self.geometry.loaded


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

    def __init__(self, feed: DealtFeed, split: Split) -> None:
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
