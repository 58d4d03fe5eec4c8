"""On-chip buffers as the compiler manages them: equal regions that hold named contents.

The order of use is known beforehand, so the region given up is the one whose content is needed latest, and what is
needed next is fetched as soon as a region is free for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

AHEAD = 16
"""Changes of content that prefetching looks ahead."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Regions:
    """Regions of `size` rows of a buffer of `depth` rows, from its start, or from its end if `reverse`.

    Operators take turns, so that an operator's first loads do not meet what the one before uses last.
    """

    depth: int
    size: int
    reverse: bool = False

    @property
    def count(self) -> int:
        return max(1, self.depth // self.size)

    def row(self, index: int) -> int:
        """First row of a region."""
        return self.depth - (index + 1) * self.size if self.reverse else index * self.size


class PlannedBuffer(Generic[Key]):
    """A buffer in regions; step i of `uses` needs content `uses[i]`. `fill(key, row)` emits what brings it in."""

    def __init__(self, regions: Regions, uses: Sequence[Key], fill: Callable[[Key, int], None]) -> None:
        self._regions, self._count = regions, regions.count
        self._contents: list[Key | None] = [None] * self._count
        self._fill = fill
        self._changes = [i for i, key in enumerate(uses) if i == 0 or uses[i - 1] != key]
        self._uses = uses
        self._steps: dict[Key, list[int]] = {}
        for index in self._changes:
            self._steps.setdefault(uses[index], []).append(index)

    def place(self, step: int) -> int:
        """First row of the content that `step` needs; brings it in if it is absent."""
        key = self._uses[step]
        if key not in self._contents:
            self._bring(key, self._victim(step))
        return self._regions.row(self._contents.index(key))

    def prefetch(self, step: int) -> None:
        """Bring in the next absent content if a region is not needed before it."""
        first = bisect_right(self._changes, step)
        for index in self._changes[first:first + AHEAD]:
            if self._uses[index] in self._contents:
                continue
            victim = self._victim(step)
            if self._next_use(self._contents[victim], step) > index:
                self._bring(self._uses[index], victim)
            return

    def _bring(self, key: Key, victim: int) -> None:
        self._contents[victim] = key
        self._fill(key, self._regions.row(victim))

    def _victim(self, step: int) -> int:
        return max(range(self._count), key=lambda r: (self._next_use(self._contents[r], step), -r))

    def _next_use(self, key: Key | None, step: int) -> int:
        """First step >= `step` that uses `key`; beyond all steps if there is none."""
        if key is not None:
            if self._uses[step] == key:
                return step
            steps = self._steps[key]
            index = bisect_right(steps, step)
            if index < len(steps):
                return steps[index]
        return len(self._uses) + (key is None)


class LeastRecentBuffer(Generic[Key]):
    """Like PlannedBuffer where the uses are not known beforehand: gives up what was used longest ago."""

    def __init__(self, regions: Regions) -> None:
        self._rows: dict[Key, int] = {}
        self._free = [regions.row(index) for index in range(regions.count)]

    def place(self, key: Key, fill: Callable[[int], None]) -> int:
        """First row of content `key`; `fill(row)` brings it in if it is absent."""
        row = self._rows.pop(key, None)
        if row is None:
            row = self._free.pop(0) if self._free else self._rows.pop(next(iter(self._rows)))
            fill(row)
        self._rows[key] = row
        return row
