"""Feed from input pixels; see `feeds`."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from spikeloom.arithmetic import PLANE_BITS
from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Opcode

from .constants import BankRead
from .emitter import Emitter
from .errors import MappingError
from .feeds import Geometry, Split, Tap, Tile, Unit
from .layout import TensorPlace, ceil_div, pixel_pitch, power_of_two_above
from .schedule import Access
from .work import Need


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

    def beats(self, split: Split, unit: Unit) -> int:
        return self.size(split) * min(self.fold, split.words, self.words - unit.word)

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
