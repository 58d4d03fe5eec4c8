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
from spikeloom.hw.isa import Opcode

from .constants import BankRead
from .emitter import Emitter, Transfer
from .errors import MappingError
from .layout import TensorPlace, ceil_div, pixel_pitch, power_of_two_above
from .schedule import Access
from .work import Need

Tap = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution."""

    height: int
    width: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0

    @property
    def out_height(self) -> int:
        return (self.height + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def out_width(self) -> int:
        return (self.width + 2 * self.padding - self.kernel) // self.stride + 1


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
    """

    def __init__(self, place: TensorPlace, geometry: Geometry, config: MachineConfig) -> None:
        self.place, self.geometry, self.config = place, geometry, config
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

    def content(self, layer: int, split: Split, unit: Unit) -> Hashable:
        words = min(split.words, self._tensor_words - unit.word)
        return (type(self).__name__, self.place.name, unit.lane_group, self._first_row(split, unit),
                self.input_rows(split), unit.word, words, unit.plane, split.apart)

    def load(self, emitter: Emitter, split: Split, unit: Unit, base: int) -> None:
        last = min(self.words, unit.word + split.words)
        for word in range(unit.word, min(last, unit.word + self.fold)):
            banks = [b for b in range(self.config.banks) if b % self.fold == word % self.fold]
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

    def walk(self, split: Split, unit: Unit, tile: Tile, base: int) -> dict[str, int]:
        g, step = self.geometry, self._pixel_step(split)
        y, x = tile.row * g.stride + self._shift(unit), tile.col * g.stride
        return {
            "address": base + ((y - self._first_row(split, unit)) * g.width + x) * step,
            "col_step": g.stride * step, "row_step": g.stride * g.width * step, "y": y, "x": x,
            "y_step": g.stride, "x_step": g.stride, "height": g.height, "width": g.width,
            "rows": tile.rows, "cols": tile.cols}

    def read(self, split: Split, unit: Unit, slot: int, tap: Tap, plane: int) -> BankRead:
        g, step = self.geometry, self._pixel_step(split)
        dy, dx = tap[0] - g.padding - self._shift(unit), tap[1] - g.padding
        within = plane if step > 1 else 0
        if self.unary and not split.apart:
            within = plane * (self._slot_size(split) // self.planes)
        return BankRead(slot * self._slot_size(split) + (dy * g.width + dx) * step + within, dy, dx)

    def input_rows(self, split: Split) -> int:
        """Rows of a unit; the same for all units of an operator, so that they share their chunk headers."""
        return min(self.geometry.height, (split.rows - 1) * self.geometry.stride + split.taps)

    def _pixel_step(self, split: Split) -> int:
        return 1 if split.apart or self.unary else self.planes

    def _slot_size(self, split: Split) -> int:
        return self.input_rows(split) * self.geometry.width * (1 if split.apart else self.planes)

    def _shift(self, unit: Unit) -> int:
        """Rows that the position is below `row * stride`, so that it never lies above the unit."""
        return max(0, unit.tap - self.geometry.padding)

    def _first_row(self, split: Split, unit: Unit) -> int:
        g = self.geometry
        first = unit.row * g.stride - g.padding + unit.tap
        return max(0, min(first, g.height - self.input_rows(split)))


class DepthwiseFeed(SpikeFeed):
    """Feed of the depthwise unit: a unit holds one word or a few, each in all the banks that the unit reads."""

    def __init__(self, place: TensorPlace, geometry: Geometry, config: MachineConfig) -> None:
        super().__init__(place, geometry, config)
        self.words = self.fold = 1

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


class PixelFeed:
    """Feed from input pixels: the packer makes words of the 3 * kernel bytes under a kernel row, as 8 bit-planes.

    What is left of the kernel is kernel x 1 on packed rows; rows outside the picture are packed too.
    """

    def __init__(
        self, place: TensorPlace, geometry: Geometry, pad_codes: tuple[int, int, int], config: MachineConfig
    ) -> None:
        self.place, self.geometry, self.pad_codes, self.config = place, geometry, pad_codes, config
        self.planes, self.signed, self.unary = PLANE_BITS, False, False
        self.words = ceil_div(3 * geometry.kernel, config.word_channels)
        self.fold = min(config.banks, power_of_two_above(self.words))
        if pixel_pitch(geometry.width, config) > config.line_bytes:
            raise MappingError(f"a row of {3 * geometry.width} bytes is wider than the line buffer "
                               f"({config.line_bytes} bytes)")

    def taps(self, row: int, rows: int) -> list[Tap]:
        return [(y, 0) for y in range(row, row + rows)]

    def splits(self) -> Iterator[Split]:
        for taps in range(self.geometry.kernel, 0, -1):
            yield Split(1, self.words, taps)

    def size(self, split: Split) -> int:
        return self.planes * self._plane_size(split)

    def content(self, layer: int, split: Split, unit: Unit) -> Hashable:
        return layer, unit

    def load(self, emitter: Emitter, split: Split, unit: Unit, base: int) -> None:
        g, config, place = self.geometry, self.config, self.place
        pitch = pixel_pitch(g.width, config)
        frame, frame_stride = unit.lane_group * config.lanes, g.height * pitch
        frames = min(config.lanes, place.frames - frame)
        rows = self._rows(split, min(split.rows, g.out_height - unit.row))
        first, cols = self._first_col(split, unit), self._cols(split)
        left, right = self._bytes(first, cols)
        start = place.offset + frame * frame_stride
        accesses = [Access(f"bank {b}", base, base + self.size(split), write=True) for b in range(config.banks)]
        accesses.append(Access(f"ddr {place.name}", start, start + frames * frame_stride))
        emitter.emit(Opcode.LOAD_PIXELS, {
            "region": place.region, "offset": start + left, "pitch": pitch, "frame_stride": frame_stride,
            "frames": frames, "row": unit.row * g.stride - g.padding + unit.tap, "rows": rows, "height": g.height,
            "row_bytes": right - left, "start": 3 * (first * g.stride - g.padding) - left, "step": 3 * g.stride,
            "cols": cols, "words": self.words, "fold": self.fold,
            **{f"pad{i}": code for i, code in enumerate(self.pad_codes)},
            "address": base, "plane_stride": self._plane_size(split), "word_stride": self._slot_size(split)}, accesses)

    def needs(self, emitter: Emitter, split: Split, unit: Unit) -> tuple[Need, ...]:
        return ()

    def _bytes(self, col: int, cols: int) -> tuple[int, int]:
        """Bytes [left, right) of a picture row that output columns [col, col + cols) look at; `left` is on a beat."""
        g, beat = self.geometry, self.config.beat_bytes
        left = max(0, 3 * (col * g.stride - g.padding)) // beat * beat
        right = 3 * ((col + cols - 1) * g.stride - g.padding + g.kernel)
        return min(left, 3 * g.width // beat * beat), max(1, min(right, 3 * g.width))

    def walk(self, split: Split, unit: Unit, tile: Tile, base: int) -> dict[str, int]:
        g, cols = self.geometry, self._cols(split)
        y = (tile.row - unit.row) * g.stride
        return {"address": base + y * cols + tile.col - self._first_col(split, unit), "col_step": 1,
                "row_step": g.stride * cols, "y": y, "x": tile.col, "y_step": g.stride, "x_step": 1,
                "height": self._rows(split, split.rows), "width": g.out_width, "rows": tile.rows, "cols": tile.cols}

    def read(self, split: Split, unit: Unit, slot: int, tap: Tap, plane: int) -> BankRead:
        dy = tap[0] - unit.tap
        offset = plane * self._plane_size(split) + slot * self._slot_size(split) + dy * self._cols(split)
        return BankRead(offset, dy)

    def _cols(self, split: Split) -> int:
        return split.cols or self.geometry.out_width

    def _first_col(self, split: Split, unit: Unit) -> int:
        """The last unit is moved left to end with the map."""
        return min(unit.col, self.geometry.out_width - self._cols(split))

    def _rows(self, split: Split, rows: int) -> int:
        return (rows - 1) * self.geometry.stride + split.taps

    def _slot_size(self, split: Split) -> int:
        return self._rows(split, split.rows) * self._cols(split)

    def _plane_size(self, split: Split) -> int:
        return ceil_div(self.words, self.fold) * self._slot_size(split)


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
        self._pixels = tile_rows * geometry.width

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

    def planes_of(self, row: int, lane_group: int) -> Hashable:
        return self.name, row, lane_group

    def load(self, emitter: Emitter, split: Split, unit: Unit, base: int) -> None:
        raise AssertionError("local planes are made, not loaded")

    def needs(self, emitter: Emitter, split: Split, unit: Unit) -> tuple[Need, ...]:
        return ()

    def walk(self, split: Split, unit: Unit, tile: Tile, base: int) -> dict[str, int]:
        return {"address": base + tile.col, "col_step": 1, "row_step": self.geometry.width, "y": 0, "x": 0,
                "y_step": 0, "x_step": 0, "height": 1, "width": 1, "rows": tile.rows, "cols": tile.cols}

    def read(self, split: Split, unit: Unit, slot: int, tap: Tap, plane: int) -> BankRead:
        raise AssertionError("banks of local planes differ by word")

    def read_word(self, word: int, plane: int, pixels: int) -> BankRead:
        """Where plane `plane` of `word` is, in a tile of `pixels` pixels."""
        return BankRead(plane // self.config.banks * self.part_size + word * pixels)
