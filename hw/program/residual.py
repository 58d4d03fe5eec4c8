"""Where residual tensors lie: in the residual buffer, or in DDR with a few items on chip while they are worked on, or
some of their words here and the others there.

A chain of residual tensors, each the shortcut of the next, lies in one place: an item is read, added to and written
back. A place holds a window of rows of the map; row y lies in row y % rows of the window, so that a map may pass
through a window that is smaller than itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from spikeloom.config import MachineConfig
from spikeloom.network import Accumulating, Conv, Depthwise, Network, outputs_of

from .bands import BORDER, MOST, bands_of, can_be_banded, widest
from .enlarge import enlarged
from .feeds import Columns
from .layout import TensorPlace, ceil_div, lane_groups

STAGING = 1136
"""Items of the residual buffer kept for tensors in DDR, at most half of it."""


LEAST_ROWS = 2
"""Tiles of fewer rows are not worth whole rows of the map."""

WINDOW_TILES = 5
"""Tiles that a window holds at least: 7 x 7 and two 3 x 3 kernels each look one tile ahead, and one is to spare."""


@dataclass(frozen=True)
class Chain:
    """Residual tensors that lie in one place, in the order in which they are made.

    `first`, `last`: operators (indices) between which the place is taken. `out`: goes to DDR in any case.
    """

    tensors: tuple[str, ...]
    first: int
    last: int
    out: bool = False


@dataclass(frozen=True)
class Window:
    """Items [base, base + groups * words * rows * width): [lane group][word][row % rows][column].

    `every`: words of the tensor if they are not all here; `words` of them are, as evenly spread as can be, so that
    transfers of the others are, too. `col`: column of the map that is the window's first; `shift`: rows that passed
    through before the map's first.
    """

    base: int
    groups: int
    words: int
    rows: int
    width: int
    every: int = 0
    col: int = 0
    shift: int = 0

    @property
    def word_stride(self) -> int:
        return self.rows * self.width

    @property
    def size(self) -> int:
        return self.groups * self.words * self.word_stride

    def holds(self, word: int) -> bool:
        return not self.every or self._before(word) < self._before(word + 1)

    def item(self, group: int, word: int, row: int, col: int) -> int:
        """Item of a pixel of a word that is here."""
        place = group * self.words + self._before(word)
        return self.base + (place * self.rows + (self.shift + row) % self.rows) * self.width + col - self.col

    def rows_left(self, row: int) -> int:
        """Rows from `row` on that lie behind each other."""
        return self.rows - (self.shift + row) % self.rows

    def _before(self, word: int) -> int:
        """Words here that come before `word`."""
        return word * self.words // self.every if self.every else word


class Staging:
    """A ring of residual items for tensors that lie in DDR."""

    def __init__(self, base: int, size: int) -> None:
        self.base, self.size = base, size
        self._next = 0

    def take(self, items: int) -> int:
        """First of `items` consecutive items."""
        if self._next + items > self.size:
            self._next = 0
        row, self._next = self.base + self._next, self._next + items
        return row


@dataclass(frozen=True)
class Residuals:
    """Where residual tensors lie: windows of those on chip, staging for the others.

    `observe`: those on chip are stored to DDR as well, to be looked at.
    """

    homes: Mapping[str, Window]
    staging: Staging
    observe: bool = False

    def barriers(self, network: Network) -> dict[int, list[int]]:
        """Operators that must be complete before an operator may begin, for both use the same items.

        Pieces of tensors in DDR share the staging without that.
        """
        uses = []
        for chain in chains(network):
            window, staging = self.homes.get(chain.tensors[0]), self.staging
            if window is not None:
                uses.append((chain, window.base, window.base + window.size, False))
            if window is None or window.every:
                uses.append((chain, staging.base, staging.base + staging.size, True))
        result: dict[int, list[int]] = {}
        for later, low, high, staged in uses:
            for earlier, other_low, other_high, other_staged in uses:
                if earlier.first < later.first and low < other_high and other_low < high and not (
                        staged and other_staged):
                    result.setdefault(later.first, []).append(earlier.last)
        return result


def chains(network: Network) -> list[Chain]:
    """All chains. A tensor with several readers ends its chain; the output of the network goes to DDR, and so does what
    is read enlarged."""
    wide = enlarged(network)
    outside = {network.output, *(e.source for e in wide.values())}
    readers: dict[str, list[int]] = {}
    made: dict[str, int] = {}
    for index, operator in enumerate(network.operators):
        if not isinstance(operator, Accumulating):
            continue
        name = operator.neuron.shortcut
        if name is not None:
            readers.setdefault(wide[name].source if name in wide else name, []).append(index)
        if operator.neuron.residual is not None:
            made[operator.neuron.residual] = index
    result = [Chain((name,), index, max([index, *readers.get(name, [])]), out=True)
              for name, index in made.items() if name in outside]
    seen = {chain.tensors[0] for chain in result}
    for name, index in made.items():
        if name in seen:
            continue
        tensors, last = [name], index
        while len(readers.get(tensors[-1], [])) == 1:
            last = readers[tensors[-1]][0]
            after = network.operators[last]
            assert isinstance(after, Accumulating)
            if after.neuron.residual is None or after.neuron.residual in outside:
                break
            tensors.append(after.neuron.residual)
        seen.update(tensors)
        last = max([last, *readers.get(tensors[-1], [])])
        result.append(Chain(tuple(tensors), index, last))
    return result


def window_of(place: TensorPlace, rows: int, base: int, config: MachineConfig) -> Window:
    """A window of `rows` rows for the tensor at `place`."""
    return Window(base, lane_groups(place.frames, config), place.channel_map(config).words, rows, place.width)


@dataclass(frozen=True)
class Rolling:
    """A chain whose maps pass through a window of `window` rows, in tiles of `rows` rows, one band of columns after the
    other: `bands[b][operator]` are the columns that are made. No bands: whole rows.
    """

    chain: Chain
    window: int
    rows: int
    bands: tuple[dict[int, Columns], ...] = ()

    @property
    def layers(self) -> range:
        return range(self.chain.first, self.chain.last + 1)

    @property
    def strip(self) -> int:
        """Rows that one of the operators may wait for at a time: more than a tile if the window has rows to spare."""
        return self.window - (WINDOW_TILES - 1) * self.rows

    def in_band(self, residuals: Residuals, band: int, height: int) -> Residuals:
        """The window as it lies on a band of a map of `height` rows."""
        col = min(first for first, _ in self.bands[band].values())
        mine = {name: replace(residuals.homes[name], col=col, shift=band * height) for name in self.chain.tensors}
        return replace(residuals, homes={**residuals.homes, **mine})


def rolling_chains(
    network: Network, places: Mapping[str, TensorPlace], config: MachineConfig, refused: Collection[Chain],
    whole: Collection[Chain],
) -> list[Rolling]:
    """Chains that are too large for the residual buffer but can pass through it row by row; those of `whole` are not
    cut into bands.

    All operators between the first and the last one must be convolutions with maps of the chain's size.
    """
    result: list[Rolling] = []
    for chain in chains(network):
        place = places[chain.tensors[0]]
        row = window_of(place, 1, 0, config).size
        parts = network.operators[chain.first:chain.last + 1]
        if row * place.height <= config.residual_depth or chain in refused or chain.out:
            continue
        if not all(isinstance(o, Conv | Depthwise) and not o.neuron.pool and all(
                (network.tensors[n].height, network.tensors[n].width) == (place.height, place.width)
                for n in outputs_of(o)) for o in parts):
            continue
        found = _rolling(chain, place, config, ())
        if found.rows < LEAST_ROWS and chain not in whole and can_be_banded(network, places, chain.first, chain.last):
            found = _banded(network, chain, place, config) or found
        if found.rows and not (found.bands and any(set(found.layers) & set(r.layers) for r in result)):
            result.append(found)
    return result


def _rolling(chain: Chain, place: TensorPlace, config: MachineConfig, bands: tuple[dict[int, Columns], ...]) -> Rolling:
    """As many rows as the buffer holds; tiles of no rows if it does not hold enough."""
    width = widest(bands) if bands else place.width
    window = config.residual_depth // replace(window_of(place, 1, 0, config), width=width).size
    rows = min(config.accumulator_depth // width, window // WINDOW_TILES)
    if rows:
        rows = ceil_div(place.height, ceil_div(place.height, rows))
    return Rolling(chain, window, rows, bands)


def _banded(network: Network, chain: Chain, place: TensorPlace, config: MachineConfig) -> Rolling | None:
    """The fewest bands with tiles of enough rows, None if too much of them would be made anew."""
    for count in range(2, MOST + 1):
        bands = bands_of(network, chain.first, chain.last, place.width, count)
        if widest(bands) * count * BORDER[1] > place.width * BORDER[0]:
            return None
        found = _rolling(chain, place, config, bands)
        if found.rows >= LEAST_ROWS:
            return found
    return None


def place_residuals(
    network: Network, places: Mapping[str, TensorPlace], config: MachineConfig, rolling: Sequence[Rolling],
    observe: bool = False,
) -> Residuals:
    """Whole maps on chip where they fit, in the order of the network, windows for `rolling`; of the rest as many words
    as there is room for, the others go through DDR."""
    every, depth = chains(network), config.residual_depth
    passing = _Room(places, config)
    bands = {r.chain: widest(r.bands) if r.bands else 0 for r in rolling}
    through = {r.chain for r in rolling if passing.take(r.chain, depth, r.window, bands[r.chain])}
    room, whole = _Room(places, config), [chain for chain in every if chain not in through]
    staging = min(depth // 2, STAGING)
    staged: list[Chain] = []
    while True:
        # what lives beside a staged chain leaves room for the staging
        limits = [depth - staging if any(_together(chain, other) for other in staged) else depth for chain in whole]
        room.clear()
        found = [chain for chain, limit in zip(whole, limits, strict=True)
                 if chain.out or not room.take(chain, limit)]
        if set(found) <= set(staged):
            break
        staged += [chain for chain in found if chain not in staged]
    for chain in found:
        if not chain.out:
            room.take_part(chain, depth - staging)
    ring = Staging(depth - staging, staging) if staged else Staging(0, depth)
    return Residuals(room.homes | passing.homes, ring, observe)


def _together(one: Chain, other: Chain) -> bool:
    """They live at the same time."""
    return one.first <= other.last and other.first <= one.last


class _Room:
    """The residual buffer, taken by chains in turn."""

    def __init__(self, places: Mapping[str, TensorPlace], config: MachineConfig) -> None:
        self._places, self._config = places, config
        self._taken: list[tuple[Chain, Window]] = []

    def clear(self) -> None:
        self._taken = []

    @property
    def homes(self) -> dict[str, Window]:
        return {name: window for chain, window in self._taken for name in chain.tensors}

    def take(self, chain: Chain, limit: int, rows: int = 0, width: int = 0) -> bool:
        """A window of `rows` rows and `width` columns (0: all) within `limit` items beside those that live at the same
        time, if there is one."""
        place = self._places[chain.tensors[0]]
        window = window_of(place, rows or place.height, 0, self._config)
        window = replace(window, width=width or window.width)
        for low, high in self._gaps(chain, limit):
            if low + window.size <= high:
                self._taken.append((chain, replace(window, base=low)))
                return True
        return False

    def take_part(self, chain: Chain, limit: int) -> None:
        """A window of as many words as there is room for."""
        place = self._places[chain.tensors[0]]
        window = window_of(place, place.height, 0, self._config)
        low, high = max(self._gaps(chain, limit), key=lambda gap: gap[1] - gap[0], default=(0, 0))
        words = min((high - low) // (window.size // window.words), window.words)
        if words:
            every = window.words if words < window.words else 0
            self._taken.append((chain, replace(window, base=low, words=words, every=every)))

    def _gaps(self, chain: Chain, limit: int) -> list[tuple[int, int]]:
        """Ranges of items below `limit` that no chain takes that lives at the same time."""
        gaps, base = [], 0
        for low, high in sorted((w.base, w.base + w.size) for c, w in self._taken if _together(c, chain)):
            if base < min(low, limit):
                gaps.append((base, min(low, limit)))
            base = max(base, high)
        return [*gaps, (base, limit)] if base < limit else gaps
