"""Splits: how much of an operator's input is loaded at a time, and the tiles of its output."""

from __future__ import annotations

from dataclasses import replace

from spikeloom.config import MachineConfig

from .errors import MappingError
from .feeds import Feed, Geometry, PixelFeed, Split, Tile
from .layout import ceil_div


def tile_rows(geometry: Geometry, config: MachineConfig) -> int:
    """Rows of a tile: the accumulators hold them, and the tiles of a map are of about one size."""
    most = max(1, config.accumulator_depth // geometry.out_width)
    return ceil_div(geometry.out_height, ceil_div(geometry.out_height, most))


RESIDENT = (3, 4)
"""Share of the banks that the input of a strip may take; the rest is for what is fetched ahead."""

PIECES = 4
"""Words of a depthwise convolution are loaded together up to the banks' depth over this."""

LEAST_LOAD = 512
"""Beats that are worth a unit of their own."""


def choose_split(feed: Feed, rows: int, config: MachineConfig, *, one_tile: bool = False) -> Split:
    """The split that loads least: the whole map if it fits, else strips of a multiple of `rows` rows.

    `one_tile`: strips of `rows` rows.

    Raises:
        MappingError: Not even one kernel row of one output row fits half of the banks.
    """
    most, half = feed.geometry.out_height, config.spike_depth // 2
    whole = next(feed.splits())
    slot = replace(whole, words=min(whole.words, feed.fold))
    fit = min(_rows_within(feed, whole, config.spike_depth * RESIDENT[0] // RESIDENT[1], most),
              _rows_within(feed, slot, half, most))
    if fit >= min(rows, most):
        strip = rows if one_tile else _even_strips(fit, rows, most)
        return _cut_words(feed, _with_rows(whole, strip))
    split = next((s for s in feed.splits() if feed.size(s) <= half), None)
    if split is None:
        smallest = list(feed.splits())[-1]
        raise MappingError(f"the input of a single output row takes {feed.size(smallest)} words of a spike bank, "
                           f"half a bank has {half}")
    return _with_rows(split, max(1, _rows_within(feed, split, half, min(most, rows))))


def choose_pixel_split(feed: PixelFeed, out_words: int, config: MachineConfig, rows_most: int | None = None) -> Split:
    """The rectangle of output pixels, of at most `rows_most` rows, with the least work per pixel: packing (every packed
    row is looked at by several rows of output, but those of other strips pack it again) and computing (tables are
    filled for every tile).

    Raises:
        MappingError: Not even one kernel row of one output pixel fits half of the banks.
    """
    g, half = feed.geometry, config.spike_depth // 2
    passes = ceil_div(out_words, config.output_words)

    def cost(split: Split) -> float:
        units = ceil_div(g.kernel, split.taps)
        pixels = split.rows * split.cols
        packed = units * ((split.rows - 1) * g.stride + split.taps) * (split.cols * 8 * ceil_div(feed.words, 2) + 4)
        chunks = units * ceil_div(split.taps * feed.words, config.banks) * feed.planes * passes
        return (packed + chunks * max(pixels, config.fill_cycles)) / pixels

    best = None
    for taps in range(g.kernel, 0, -1):
        for rows in range(1, min(g.out_height, rows_most or g.out_height) + 1):
            for cols in range(1, min(g.out_width, config.accumulator_depth // rows) + 1):
                split = Split(rows, feed.words, taps, cols=cols)
                if feed.size(split) <= half and (best is None or cost(split) < cost(best)):
                    best = split
        if best is not None:
            return best
    raise MappingError(f"the input of a single output pixel takes {feed.size(Split(1, feed.words, 1, cols=1))} words "
                       f"of a spike bank, half a bank has {half}")


def _even_strips(fit: int, rows: int, most: int) -> int:
    """Rows of a strip, at most `fit`: strips of about one size, of a multiple of `rows` rows."""
    if fit >= most:
        return most
    fit -= fit % rows
    return ceil_div(ceil_div(most, ceil_div(most, fit)), rows) * rows


def _cut_words(feed: Feed, split: Split) -> Split:
    """Cut a unit slot by slot: the first chunks can run while the last words are still being made and loaded."""
    slots = ceil_div(split.words, feed.fold)
    together = min(slots, ceil_div(LEAST_LOAD, feed.size(replace(split, words=feed.fold)) * feed.fold))
    return replace(split, words=min(split.words, together * feed.fold))


def _with_rows(split: Split, rows: int) -> Split:
    return replace(split, rows=rows)


def _rows_within(feed: Feed, split: Split, budget: int, most: int) -> int:
    """Most output rows whose unit fits `budget` words, 0 if none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if feed.size(_with_rows(split, middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def tiles(geometry: Geometry, first_row: int, rows: int, step: int, config: MachineConfig, cols: int = 0) -> list[Tile]:
    """Tiles of `step` rows (and `cols` columns) of output rows [first_row, first_row + rows), cut at the map's end."""
    rows = min(rows, geometry.out_height - first_row)
    width = geometry.out_width
    cols = min(cols or width, width)
    if cols > config.accumulator_depth:
        cols, step = config.accumulator_depth, 1
    return [Tile(first_row + r, min(step, rows - r), col, min(cols, width - col))
            for r in range(0, rows, step) for col in range(0, width, cols)]
