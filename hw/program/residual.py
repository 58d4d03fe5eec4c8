"""Where residual tensors lie: in the residual buffer, or in DDR with a few items on chip while they are worked on.

A chain of residual tensors, each the shortcut of the next, lies in one place: an item is read, added to and written
back. A place holds a window of rows of the map; row y lies in row y % rows of the window, so that a map may pass
through a window that is smaller than itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from spikeloom.config import MachineConfig
from spikeloom.network import Accumulating, Conv, Depthwise, Network, outputs_of

from .enlarge import enlarged
from .layout import TensorPlace, ceil_div, lane_groups

STAGING = 1920
"""Items of the residual buffer kept for tensors in DDR, at most half of it."""


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
    """Items [base, base + groups * words * rows * width): [lane group][word][row % rows][column]."""

    base: int
    groups: int
    words: int
    rows: int
    width: int

    @property
    def word_stride(self) -> int:
        return self.rows * self.width

    @property
    def size(self) -> int:
        return self.groups * self.words * self.word_stride

    def item(self, group: int, word: int, row: int, col: int) -> int:
        return self.base + ((group * self.words + word) * self.rows + row % self.rows) * self.width + col


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

    The window of a tensor may hold its first words only; the others are staged.

    `words`: of every tensor. `observe`: those on chip are stored to DDR as well, to be looked at.
    """

    homes: Mapping[str, Window]
    words: Mapping[str, int]
    staging: Staging
    observe: bool = False

    def home(self, name: str | None, word: int) -> Window | None:
        """The window in which a word of a tensor lies; None: it is staged."""
        window = self.homes.get(name or "")
        return window if window is not None and word < window.words else None

    def barriers(self, network: Network) -> dict[int, list[int]]:
        """Operators that must be complete before an operator may begin, for both use the same items.

        Pieces of tensors in DDR share the staging without that.
        """
        uses = []
        for chain in chains(network):
            window = self.homes.get(chain.tensors[0])
            if window is not None:
                uses.append((chain, window.base, window.base + window.size, False))
            if window is None or window.words < self.words[chain.tensors[0]]:
                uses.append((chain, self.staging.base, self.staging.base + self.staging.size, True))
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
    """A chain whose maps pass through a window of `window` rows, in tiles of `rows` rows."""

    chain: Chain
    window: int
    rows: int


def rolling_chains(
    network: Network, places: Mapping[str, TensorPlace], config: MachineConfig, refused: Collection[Chain]
) -> list[Rolling]:
    """Chains that are too large for the residual buffer but can pass through it row by row.

    All operators between the first and the last one must be convolutions with maps of the chain's size.
    """
    result = []
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
        window = config.residual_depth // row
        rows = min(config.accumulator_depth // place.width, window // WINDOW_TILES)
        if rows:
            rows = ceil_div(place.height, ceil_div(place.height, rows))
            result.append(Rolling(chain, window, rows))
    return result


def place_residuals(
    network: Network, places: Mapping[str, TensorPlace], config: MachineConfig, rolling: Sequence[Rolling],
    observe: bool = False,
) -> Residuals:
    """Whole maps on chip where they fit, in the order of the network, windows for `rolling`; of the rest as many words
    as there is room for, the others go through DDR."""
    every, depth = chains(network), config.residual_depth
    words = {name: places[name].channel_map(config).words for chain in every for name in chain.tensors}
    room = _Room(places, config)
    rolled = {r.chain for r in rolling}
    whole = [chain for chain in every if chain not in rolled]
    staging = min(depth // 2, STAGING)
    staged: list[Chain] = []
    while True:
        # what lives beside a staged chain leaves room for the staging
        limits = [depth - staging if any(_together(chain, other) for other in staged) else depth for chain in whole]
        room.clear()
        found = [chain for chain, limit in zip(whole, limits, strict=True)
                 if chain.out or not room.take(chain, places[chain.tensors[0]].height, limit)]
        if set(found) <= set(staged):
            break
        staged += [chain for chain in found if chain not in staged]
    for chain in found:
        if not chain.out:
            room.take_part(chain, depth - staging)
    homes = room.homes
    for part in rolling:
        window = window_of(places[part.chain.tensors[0]], part.window, 0, config)
        homes |= dict.fromkeys(part.chain.tensors, window)
    return Residuals(homes, words, Staging(depth - staging, staging) if staged else Staging(0, depth), observe)


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

    def take(self, chain: Chain, rows: int, limit: int) -> bool:
        """A window of `rows` rows within `limit` items beside those that live at the same time, if there is one."""
        window = window_of(self._places[chain.tensors[0]], rows, 0, self._config)
        for low, high in self._gaps(chain, limit):
            if low + window.size <= high:
                self._taken.append((chain, replace(window, base=low)))
                return True
        return False

    def take_part(self, chain: Chain, limit: int) -> None:
        """A window of as many words as there is room for; each pass finds its words in it or finds none."""
        place, step = self._places[chain.tensors[0]], self._config.output_words
        window = window_of(place, place.height, 0, self._config)
        one = window.size // window.words * step
        low, high = max(self._gaps(chain, limit), key=lambda gap: gap[1] - gap[0], default=(0, 0))
        words = (high - low) // one * step
        if words > 0:
            self._taken.append((chain, replace(window, base=low, words=min(words, window.words))))

    def _gaps(self, chain: Chain, limit: int) -> list[tuple[int, int]]:
        """Ranges of items below `limit` that no chain takes that lives at the same time."""
        gaps, base = [], 0
        for low, high in sorted((w.base, w.base + w.size) for c, w in self._taken if _together(c, chain)):
            if base < min(low, limit):
                gaps.append((base, min(low, limit)))
            base = max(base, high)
        return [*gaps, (base, limit)] if base < limit else gaps
