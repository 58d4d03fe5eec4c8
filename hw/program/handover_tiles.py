"""Tiles in which a depthwise convolution hands its planes over to the 1 x 1 behind it: those that cost least."""

from __future__ import annotations

from dataclasses import dataclass

from spikeloom.arithmetic import PLANE_BITS
from spikeloom.config import GROUP_INPUTS, MachineConfig
from spikeloom.network import Conv, Depthwise, Network

from .dealt import DealtFeed
from .depthwise import depthwise_geometry
from .feeds import EVERY_COLUMN, Columns, DepthwiseFeed, Split, Unit
from .layout import TensorPlace, ceil_div, lane_groups
from .residual import Rolling
from .splits import tile_rows

LATENCY = 110
"""Cycles of a load beside its beats, where nothing can be loaded ahead."""

FETCH = 22
"""Cycles in which an instruction is fetched and checked, at least."""

OTHERS = 4
"""Instructions for a word of a tile beside COMPUTE and LOAD, about."""

LOAD_SHARE = 1
"""Cycles that a beat costs which is loaded beside other work: another operator waits for it."""


@dataclass(frozen=True)
class HandoverTiles:
    """Tiles of `rows` rows of output.

    `strip`: rows of output, a multiple of `rows`, whose input is in the banks at a time: of one word if they are one
    tile, else of all words. `dealt`: the input's rows are dealt to the banks (`DealtFeed`).
    """

    rows: int
    strip: int
    dealt: bool


def handover_tiles(
    network: Network, places: dict[str, TensorPlace], index: int, config: MachineConfig,
    rolling: Rolling | None = None, columns: Columns = EVERY_COLUMN,
) -> HandoverTiles | None:
    """Tiles that cost least; their planes and what they are made of fit the banks. None if those of one row do not.

    `rolling`: the window through which the map passes; tiles and strips are no larger than it allows.
    """
    operator, conv = network.operators[index:index + 2]
    assert isinstance(operator, Depthwise)
    assert isinstance(conv, Conv)
    geometry, place = depthwise_geometry(network, operator, columns), places[operator.input]
    words, out_words = (places[name].channel_map(config).words for name in (conv.input, conv.neuron.outputs[0]))
    width, height = geometry.band, geometry.out_height
    tile, highest = (rolling.rows, rolling.strip) if rolling else (None, 2 * height)
    most = min(tile or tile_rows(geometry, config), config.accumulator_depth // width)
    groups = lane_groups(network.frames, config)
    if groups > 1:
        most = min(most, config.accumulator_depth * config.output_words // out_words // width)
    feeds = [DepthwiseFeed(place, geometry, config)]
    if DealtFeed.suits(place, geometry, config):
        feeds.append(DealtFeed(place, geometry, config))
    passes = ceil_div(out_words, config.output_words)
    costs: dict[HandoverTiles, float] = {}
    for feed in feeds:
        cost = _Cost(feed, words, groups, passes, config)
        for rows in {_even(rows, height, tile): None for rows in range(most, 0, -1)}:
            for strip in range(rows, max(rows, highest) + 1, rows):
                if cost.fits(rows, min(strip, height)):
                    costs[HandoverTiles(rows, strip, isinstance(feed, DealtFeed))] = cost(rows, min(strip, height))
    return min(costs, key=costs.__getitem__, default=None)


@dataclass(frozen=True)
class _Cost:
    """Cycles of a depthwise convolution of `words` words and of the 1 x 1 behind it, which takes `passes` passes, for
    one of `groups` lane groups."""

    feed: DepthwiseFeed
    words: int
    groups: int
    passes: int
    config: MachineConfig

    def __call__(self, rows: int, strip: int) -> float:
        """Of all tiles: of the 1 x 1 convolution, of the walks of the depthwise one, and of loads beside which nothing
        goes on. Loads in all count a little: others wait for them."""
        config, tiles = self.config, ceil_div(strip, rows)
        array = self.passes * PLANE_BITS * ceil_div(self.words, config.banks) * max(
            rows * self.feed.geometry.band, config.fill_cycles)
        walk, beats = self._walk(rows, tiles), self.feed.beats(self._split(strip), Unit(0, 0, 0, 0, 0))
        spare = self._spare(rows, strip) // self.feed.size(self._split(strip))
        if tiles > 1:  # loads go beside the last tile of the strip before
            waits = max(0, self.words * (beats - walk) - array)
        elif not spare:  # each load behind a walk
            waits = self.words * (beats + LATENCY)
        else:  # some loads go beside the array, the others beside walks
            waits = max(0, (self.words - spare) * beats - self.words * walk)
        height, loads = self.feed.geometry.out_height, waits + self.words * beats * LOAD_SHARE
        return ceil_div(height, rows) * (array + self.words * walk) + ceil_div(height, strip) * loads

    def fits(self, rows: int, strip: int) -> bool:
        return self._spare(rows, strip) >= 0

    def _split(self, strip: int) -> Split:
        return Split(strip, 1, self.feed.geometry.kernel)

    def _spare(self, rows: int, strip: int) -> int:
        """Addresses beside the planes of a tile and the input that must be there."""
        planes = self.words * rows * self.feed.geometry.band * ceil_div(PLANE_BITS, self.config.banks)
        words = self.words * self.groups if strip > rows else 1  # lane groups take turns at each tile
        return self.config.spike_depth - planes - self.feed.size(self._split(strip)) * words

    def _walk(self, rows: int, tiles: int) -> int:
        """Cycles of a word of a tile, `tiles` of which share their input: filling of tables and walking, or the fetch
        of the instructions."""
        config, kernel = self.config, self.feed.geometry.kernel
        fill = (1 << GROUP_INPUTS) * config.depthwise_groups // config.load_groups
        cols = self.feed.geometry.band + kernel - 1
        if isinstance(self.feed, DealtFeed):
            return max(rows * max(cols, fill), FETCH * (rows + kernel // tiles + OTHERS))
        return max(rows * cols, fill) * ceil_div(kernel, config.depthwise_rows)


def _even(rows: int, height: int, tile: int | None) -> int:
    """Rows of tiles of about one size, or of `tile` rows."""
    return rows if rows == tile else ceil_div(height, ceil_div(height, rows))
