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
            window = self.homes.get(chain.tensors[0])
            low = self.staging.base if window is None else window.base
            uses.append((chain, low, low + (self.staging.size if window is None else window.size), window is None))
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
    """Whole maps on chip where they fit, in the order of the network, windows for `rolling`; the rest goes through
    DDR."""
    rows = {r.chain: r.window for r in rolling}
    every = chains(network)
    depth = config.residual_depth
    homes, spilled = _on_chip(every, places, rows, depth, config)
    if not spilled:
        return Residuals(homes, Staging(0, depth), observe)
    staging = min(depth // 2, STAGING)
    homes, _ = _on_chip(every, places, {}, depth - staging, config)
    busy = {name for r in rolling for name in r.chain.tensors}
    rolled, _ = _on_chip([r.chain for r in rolling], places, rows, depth, config)
    homes |= {name: window for name, window in rolled.items() if name in busy}
    return Residuals(homes, Staging(depth - staging, staging), observe)


def _on_chip(
    every: Sequence[Chain], places: Mapping[str, TensorPlace], rows: Mapping[Chain, int], limit: int,
    config: MachineConfig,
) -> tuple[dict[str, Window], bool]:
    """Windows of the chains that fit `limit` items beside those that live at the same time; whether some do not."""
    homes: dict[str, Window] = {}
    taken: list[tuple[Chain, Window]] = []
    spilled = False
    for chain in every:
        place = places[chain.tensors[0]]
        window = window_of(place, rows.get(chain, place.height), 0, config)
        busy = sorted((w.base, w.base + w.size) for c, w in taken if c.first <= chain.last and chain.first <= c.last)
        base = 0
        for low, high in busy:
            if base + window.size <= low:
                break
            base = max(base, high)
        if chain.out or base + window.size > limit:
            spilled = True
            continue
        window = replace(window, base=base)
        taken.append((chain, window))
        homes |= dict.fromkeys(chain.tensors, window)
    return homes, spilled
