"""Splits: how much of an operator's input is loaded at a time, and the tiles of its output."""

from __future__ import annotations

from dataclasses import replace

from spikeloom.config import MachineConfig

from .errors import MappingError
from .feeds import Feed, Geometry, SpikeFeed, Split, Tile
from .layout import ceil_div
from .pixel_feed import PixelFeed


def tile_rows(geometry: Geometry, config: MachineConfig) -> int:
    """Rows of a tile: the accumulators hold them, and the tiles of a map are of about one size."""
    most = max(1, config.accumulator_depth // geometry.out_width)
    return ceil_div(geometry.out_height, ceil_div(geometry.out_height, most))


RESIDENT = (3, 4)
"""Share of the banks that the input of a strip may take where lane groups take turns: what they replace of each other
is loaded again. If there is one, a strip may take all banks; what follows is loaded where words are done with."""

SHARED = (7, 8)
"""Share of the banks that the input of a strip may take in all lane groups together."""

PIECES = 4
"""Words of a depthwise convolution are loaded together up to the banks' depth over this."""

DY_BITS = 5
"""Width of the field `dy` of a chunk header, signed."""

LEAST_LOAD = 512
"""Beats that are worth a unit of their own."""


def choose_split(
    feed: Feed, rows: int, config: MachineConfig, *, groups: int = 1, one_tile: bool = False
) -> Split:
    """The split that loads least: the whole map if it fits, else strips of a multiple of `rows` rows.

    `groups`: lane groups. `one_tile`: strips of `rows` rows.

    Raises:
        MappingError: Not even one kernel row of one output row fits half of the banks.
    """
    most, half = feed.geometry.out_height, config.spike_depth // 2
    whole = next(feed.splits())
    slot = replace(whole, words=min(whole.words, feed.fold))
    share = RESIDENT if groups > 1 else (1, 1)
    fit = min(_rows_within(feed, whole, config.spike_depth * share[0] // share[1], most),
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


def choose_group_rows(feed: Feed, rows: int, passes: int, groups: int, config: MachineConfig) -> int | None:
    """Rows of strips of one tile each, if those are better where `groups` lane groups take turns at each of `passes`
    passes; None if not.

    What the lane groups read of a strip should lie in the banks at the same time, else all of it is loaded again for
    every pass. But tables are filled for every tile, and weights loaded for every strip.
    """
    g, whole = feed.geometry, next(feed.splits())
    default = choose_split(feed, rows, config, groups=groups)
    room = config.spike_depth * SHARED[0] // SHARED[1]
    if groups == 1 or passes == 1 or groups * feed.size(replace(default, words=feed.words)) <= room:
        return None
    chunks = ceil_div(feed.words * g.kernel ** 2, config.banks) * feed.planes

    def cost(step: int, strip: int, loads: int) -> float:
        """Cycles of loading and of computing, the longer of them first."""
        strips, tiles = ceil_div(g.out_height, strip), ceil_div(g.out_height, step)
        loaded = groups * loads * strips * feed.size(_with_rows(whole, strip)) * feed.fold
        computed = groups * passes * chunks * tiles * max(step * g.out_width, config.fill_cycles)
        weights = strips * passes * chunks * config.chunk_rows * config.weight_row_bytes // config.beat_bytes
        return max(loaded, computed, (loaded + weights) / 2) + (loaded + computed + weights) / 16

    costs = {step: cost(step, step, 1) for step in range(1, rows + 1)
             if groups * feed.size(_with_rows(whole, step)) <= room}
    best = min(costs, key=lambda step: costs[step], default=None)
    return best if best is not None and costs[best] < cost(rows, default.rows, passes) else None


def groups_together(feed: SpikeFeed, split: Split, groups: int, config: MachineConfig) -> int:
    """All `groups` lane groups if they are better made in one pass: a tile of one has fewer pixels than a table takes
    to fill, and they fit accumulators, banks and the rows that a header can name; else 1."""
    g, most = feed.geometry, (1 << DY_BITS - 1) - 1
    pixels = split.rows * g.band
    reach = max(g.padding, g.kernel - 1 - g.padding) * groups
    fits = (g.stride == 1 and feed.planes == 1 and split.taps == g.kernel and reach <= most
            and pixels * groups <= config.accumulator_depth and groups * feed.size(split) <= config.spike_depth // 2)
    return groups if fits and pixels < config.fill_cycles else 1


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
    widths = {ceil_div(g.band, n) for n in range(1, g.band + 1)} if g.cols else range(1, g.out_width + 1)
    for taps in range(g.kernel, 0, -1):
        for rows in range(1, min(g.out_height, rows_most or g.out_height) + 1):
            for cols in sorted(w for w in widths if w <= config.accumulator_depth // rows):
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
    width = geometry.band
    cols = min(cols or width, width)
    if cols > config.accumulator_depth:
        cols, step = config.accumulator_depth, 1
    return [Tile(first_row + r, min(step, rows - r), geometry.col + col, min(cols, width - col))
            for r in range(0, rows, step) for col in range(0, width, cols)]
