"""Feeds: how the input of a convolution gets into the spike banks and how chunks find it there.

A feed loads *units*: the part of the input that some chunks need for a strip of output rows. Normally a unit holds
all words, all kernel rows and all bit-planes of a strip. A unit holds fewer words (so that it can be moved, and used,
piece by piece), fewer kernel rows, a single bit-plane or fewer columns where the banks ask for it, see `Split`.

Input words are spread over the banks: word w lies in the banks b with b % fold == w % fold, in slot w // fold. With
fold < banks a word is in several banks, so one chunk takes several kernel taps.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from spikeloom.arithmetic import PLANE_BITS
from spikeloom.config import MachineConfig

from .constants import BankRead
from .emitter import Emitter, Transfer
from .layout import TensorPlace, ceil_div, power_of_two_above
from .work import Need

Tap = tuple[int, int]

Columns = tuple[int, int]
"""First output column that is made, and how many; 0: all."""

EVERY_COLUMN: Columns = (0, 0)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution, and the band of output columns [col, col + cols) that is made (`cols` 0: all)."""

    height: int
    width: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    col: int = 0
    cols: int = 0

    @property
    def out_height(self) -> int:
        return (self.height + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def out_width(self) -> int:
        return (self.width + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def band(self) -> int:
        """Output columns that are made."""
        return self.cols or self.out_width

    @property
    def reads(self) -> tuple[int, int]:
        """Input columns [first, last) that are looked at."""
        if not self.cols:
            return 0, self.width
        first = self.col * self.stride - self.padding
        return max(0, first), min(self.width, first + (self.cols - 1) * self.stride + self.kernel)

    @property
    def left(self) -> int:
        """First input column that is loaded."""
        return self.reads[0]

    @property
    def loaded(self) -> int:
        """Input columns that are loaded."""
        return self.reads[1] - self.reads[0]


@dataclass(frozen=True)
class Split:
    """What a unit holds: input for `rows` output rows and `cols` output columns (0: all), `words` input words (a
    multiple of fold, or all), `taps` kernel rows, all bit-planes or (`apart`) one."""

    rows: int
    words: int
    taps: int
    apart: bool = False
    cols: int = 0


@dataclass(frozen=True)
class Unit:
    """One unit: lane group, first output row, first input word, first kernel row, bit-plane (0 if all together), first
    output column."""

    lane_group: int
    row: int
    word: int
    tap: int
    plane: int
    col: int = 0


@dataclass(frozen=True)
class Tile:
    """Output pixels of one accumulator bank: a rectangle, row by row."""

    row: int
    rows: int
    col: int
    cols: int

    @property
    def pixels(self) -> int:
        return self.rows * self.cols


class Feed(Protocol):
    """See the module docstring. `planes`: bit-planes of the input, 1 for spikes. `signed`: plane 7 subtracts. `unary`:
    all planes weigh 1, for these are the maps of integer spikes."""

    planes: int
    signed: bool
    unary: bool
    words: int
    fold: int
    geometry: Geometry

    def taps(self, row: int, rows: int) -> list[Tap]:
        """Kernel taps of kernel rows [row, row + rows)."""
        ...

    def splits(self) -> Iterator[Split]:
        """Splits for one output row, the best first."""
        ...

    def size(self, split: Split) -> int:
        """Words per bank that a unit takes."""
        ...

    def beats(self, split: Split, unit: Unit) -> int:
        """Words that are loaded for a unit, about."""
        ...

    def content(self, layer: int, split: Split, unit: Unit) -> Hashable:
        """Name of a unit among all contents of the banks."""
        ...

    def load(self, emitter: Emitter, split: Split, unit: Unit, base: int) -> None:
        """Emit the loads of a unit to bank address `base`."""
        ...

    def needs(self, emitter: Emitter, split: Split, unit: Unit) -> tuple[Need, ...]:
        """What must be in DDR before that."""
        ...

    def walk(self, split: Split, unit: Unit, tile: Tile, base: int) -> dict[str, int]:
        """Fields of COMPUTE that say where the pixels of a tile are."""
        ...

    def read(self, split: Split, unit: Unit, slot: int, tap: Tap, plane: int) -> BankRead:
        """Where a chunk finds a tap of the words in `slot` (counted from the unit's first)."""
        ...


class SpikeFeed:
    """Feed from spikes, integer spikes or planes in DDR. Operators that read the same part of a tensor share its units.

    The planes of a pixel lie side by side, the maps of integer spikes behind each other.

    `together`: lane groups in a unit, whose rows take turns: row 0 of each, then row 1, and so on, as if it were one
    map of `together` times the rows and a kernel with so many rows between its own. So one COMPUTE walks over all of
    them, and tables are filled once for them. Binary spikes and stride 1 only.
    """

    def __init__(self, place: TensorPlace, geometry: Geometry, config: MachineConfig, together: int = 1) -> None:
        self.place, self.geometry, self.config, self.together = place, geometry, config, together
        self.signed, self.unary = place.kind == "planes", place.levels > 1
        self.planes = PLANE_BITS if self.signed else place.levels
        self.words = self._tensor_words = place.channel_map(config).words
        self.fold = min(config.banks, power_of_two_above(self.words))

    def taps(self, row: int, rows: int) -> list[Tap]:
        return [(y, x) for y in range(row, row + rows) for x in range(self.geometry.kernel)]

    def splits(self) -> Iterator[Split]:
        kernel, apart = self.geometry.kernel, self.planes > 1
        yield Split(1, self.words, kernel)
        if apart:
            yield Split(1, self.words, kernel, apart)
        for slots in range(ceil_div(self.words, self.fold) - 1, 0, -1):
            yield Split(1, slots * self.fold, kernel, apart)
        for taps in range(kernel - 1, 0, -1):
            yield Split(1, min(self.words, self.fold), taps, apart)

    def size(self, split: Split) -> int:
        return ceil_div(split.words, self.fold) * self._slot_size(split)

    def beats(self, split: Split, unit: Unit) -> int:
        return self.size(split) * min(self.fold, split.words, self.words - unit.word)

    def content(self, layer: int, split: Split, unit: Unit) -> Hashable:
        words = min(split.words, self._tensor_words - unit.word)
        return (type(self).__name__, self.place.name, unit.lane_group, self._first_row(split, unit),
                self.input_rows(split), unit.word, words, unit.plane, split.apart, self.geometry.reads,
                self.together)

    def load(self, emitter: Emitter, split: Split, unit: Unit, base: int) -> None:
        last = min(self.words, unit.word + split.words)
        if self.together > 1:
            for word in range(unit.word, last):
                slot = (word - unit.word) // self.fold * self._slot_size(split)
                emitter.load(self._rows_in_turn(split, unit, word), base + slot, self._banks(word))
            return
        for word in range(unit.word, min(last, unit.word + self.fold)):
            banks = self._banks(word)
            transfer = self.transfer(split, unit, word, ceil_div(last - word, self.fold), self.fold)
            emitter.load(transfer, base, banks)

    def needs(self, emitter: Emitter, split: Split, unit: Unit) -> tuple[Need, ...]:
        first = self._first_row(split, unit)
        return emitter.needs(self.place, first, first + self.input_rows(split), unit.word, unit.word + split.words)

    def transfer(self, split: Split, unit: Unit, word: int, words: int, word_step: int) -> Transfer:
        """The unit's rows of `words` words, `word_step` apart, beginning with `word`."""
        g, beat = self.geometry, self.config.beat_bytes
        plane = g.height * g.width * self.planes * beat
        start = (unit.lane_group * self._tensor_words + word) * plane
        start += self._first_row(split, unit) * g.width * self.planes * beat
        pixels = self.input_rows(split) * g.width
        if g.loaded < g.width:
            start += g.left * self.planes * beat
            return Transfer(self.place, self.place.offset + start, g.loaded * self.planes, self.input_rows(split),
                            g.width * self.planes * beat, words, word_step * plane)
        if self.unary:
            level = g.height * g.width * beat
            start = (unit.lane_group * self._tensor_words + word) * plane + unit.plane * level
            start += self._first_row(split, unit) * g.width * beat
            return Transfer(self.place, self.place.offset + start, pixels, 1 if split.apart else self.planes, level,
                            words, word_step * plane)
        if split.apart:
            return Transfer(self.place, self.place.offset + start + unit.plane * beat, 1, pixels,
                            self.planes * beat, words, word_step * plane)
        return Transfer(self.place, self.place.offset + start, pixels * self.planes, words, word_step * plane)

    def level_transfer(self, split: Split, unit: Unit, words: int, levels: int) -> Transfer:
        """The unit's rows of `levels` maps of `words` words of spikes, from its word and map on: all words of a map,
        then those of the next."""
        g, beat = self.geometry, self.config.beat_bytes
        level = g.height * g.width * beat
        start = ((unit.lane_group * self._tensor_words + unit.word) * self.planes + unit.plane) * level
        start += self._first_row(split, unit) * g.width * beat
        return Transfer(self.place, self.place.offset + start, self.input_rows(split) * g.width, words,
                        self.planes * level, levels, level)

    def _rows_in_turn(self, split: Split, unit: Unit, word: int) -> Transfer:
        """The unit's rows of a word, of all lane groups in turn."""
        g, beat = self.geometry, self.config.beat_bytes
        start = (word * g.height + self._first_row(split, unit)) * g.width + g.left
        group = self._tensor_words * g.height * g.width * beat
        return Transfer(self.place, self.place.offset + start * beat, g.loaded, self.together, group,
                        self.input_rows(split), g.width * beat)

    def _banks(self, word: int) -> list[int]:
        return [b for b in range(self.config.banks) if b % self.fold == word % self.fold]

    def walk(self, split: Split, unit: Unit, tile: Tile, base: int) -> dict[str, int]:
        g, step, turns = self.geometry, self._pixel_step(split), self.together
        y, x = tile.row * g.stride + self._shift(unit), tile.col * g.stride
        return {
            "address": base + ((y - self._first_row(split, unit)) * g.loaded * turns + x - g.left) * step,
            "col_step": g.stride * step, "row_step": g.stride * g.loaded * step, "y": y * turns, "x": x,
            "y_step": g.stride, "x_step": g.stride, "height": g.height * turns, "width": g.width,
            "rows": tile.rows * turns, "cols": tile.cols}

    def read(self, split: Split, unit: Unit, slot: int, tap: Tap, plane: int) -> BankRead:
        g, step = self.geometry, self._pixel_step(split)
        dy, dx = tap[0] - g.padding - self._shift(unit), tap[1] - g.padding
        within = plane if step > 1 else 0
        if self.unary and not split.apart:
            within = plane * (self._slot_size(split) // self.planes)
        dy *= self.together
        return BankRead(slot * self._slot_size(split) + (dy * g.loaded + dx) * step + within, dy, dx)

    def input_rows(self, split: Split) -> int:
        """Rows of a unit; the same for all units of an operator, so that they share their chunk headers."""
        return min(self.geometry.height, (split.rows - 1) * self.geometry.stride + split.taps)

    def _pixel_step(self, split: Split) -> int:
        return 1 if split.apart or self.unary else self.planes

    def _slot_size(self, split: Split) -> int:
        return self.input_rows(split) * self.geometry.loaded * self.together * self._planes_within(split)

    def _planes_within(self, split: Split) -> int:
        """Planes of a unit."""
        return 1 if split.apart else self.planes

    def _shift(self, unit: Unit) -> int:
        """Rows that the position is below `row * stride`, so that it never lies above the unit."""
        return max(0, unit.tap - self.geometry.padding)

    def _first_row(self, split: Split, unit: Unit) -> int:
        g = self.geometry
        first = unit.row * g.stride - g.padding + unit.tap
        return max(0, min(first, g.height - self.input_rows(split)))


class DepthwiseFeed(SpikeFeed):
    """Feed of the depthwise unit: a unit holds one word or a few, each in all the banks that are read."""

    def __init__(self, place: TensorPlace, geometry: Geometry, config: MachineConfig) -> None:
        super().__init__(place, geometry, config)
        self.words = self.fold = 1

    def beats(self, split: Split, unit: Unit) -> int:
        return split.words * self.input_rows(split) * self.geometry.loaded * self._planes_within(split)

    def with_words(self, split: Split, room: int) -> Split:
        """As many words in a unit as `room` addresses hold."""
        words = max(1, min(self._tensor_words, room // self.size(replace(split, words=1))))
        return replace(split, words=ceil_div(self._tensor_words, ceil_div(self._tensor_words, words)))

    def load(self, emitter: Emitter, split: Split, unit: Unit, base: int) -> None:
        words = min(split.words, self._tensor_words - unit.word)
        emitter.load(self.transfer(split, unit, unit.word, words, 1), base, range(self.config.depthwise_rows))

    def walk(self, split: Split, unit: Unit, tile: Tile, base: int) -> dict[str, int]:
        extra = self.geometry.kernel - 1
        fields = super().walk(split, unit, tile, base)
        return fields | {"cols": tile.cols + extra, "skip": extra}

    def word_offset(self, split: Split, word: int) -> int:
        """Where word number `word` of a unit begins."""
        return word * self._slot_size(split)


class LocalFeed:
    """Feed from planes that a depthwise convolution left in the banks: word w, plane p of pixel x in bank
    (p + w) % banks, address w * pixels + x of part p // banks. 1 x 1 kernels only.

    `content(row, lane group)`: what the depthwise convolution calls the planes of its tile that begins at `row`.
    """

    signed, unary = True, False
    planes = PLANE_BITS
    geometry: Geometry

    def __init__(
        self, words: int, geometry: Geometry, tile_rows: int, name: Hashable, config: MachineConfig
    ) -> None:
        self.words, self.geometry, self.config, self.name = words, geometry, config, name
        self.fold = config.banks
        self._pixels = tile_rows * geometry.band

    def taps(self, row: int, rows: int) -> list[Tap]:
        return [(0, 0)]

    def splits(self) -> Iterator[Split]:
        yield Split(1, self.words, 1)

    def size(self, split: Split) -> int:
        return self.parts * self.part_size

    @property
    def parts(self) -> int:
        """Addresses that the planes of one item take in a bank."""
        return ceil_div(PLANE_BITS, self.config.banks)

    @property
    def part_size(self) -> int:
        return self.words * self._pixels

    def content(self, layer: int, split: Split, unit: Unit) -> Hashable:
        return self.planes_of(unit.row, unit.lane_group)

    def beats(self, split: Split, unit: Unit) -> int:
        return 0

    def planes_of(self, row: int, lane_group: int) -> Hashable:
        return self.name, row, lane_group

    def load(self, emitter: Emitter, split: Split, unit: Unit, base: int) -> None:
        raise AssertionError("local planes are made, not loaded")

    def needs(self, emitter: Emitter, split: Split, unit: Unit) -> tuple[Need, ...]:
        return ()

    def walk(self, split: Split, unit: Unit, tile: Tile, base: int) -> dict[str, int]:
        return {"address": base + tile.col - self.geometry.col, "col_step": 1, "row_step": self.geometry.band, "y": 0,
                "x": 0,
                "y_step": 0, "x_step": 0, "height": 1, "width": 1, "rows": tile.rows, "cols": tile.cols}

    def read(self, split: Split, unit: Unit, slot: int, tap: Tap, plane: int) -> BankRead:
        raise AssertionError("banks of local planes differ by word")

    def read_word(self, word: int, plane: int, pixels: int) -> BankRead:
        """Where plane `plane` of `word` is, in a tile of `pixels` pixels."""
        return BankRead(plane // self.config.banks * self.part_size + word * pixels)
