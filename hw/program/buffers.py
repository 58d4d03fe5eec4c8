"""On-chip buffers as the compiler manages them: equal regions that hold named contents.

The order of use is known beforehand, so the region given up is the one whose content is needed latest, and what is
needed next is fetched as soon as a region is free for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence

AHEAD = 16
"""Changes of content that prefetching looks ahead."""

Key = Hashable
Fill = Callable[[Key, int], None]


class PlannedBuffer:
    """A buffer of `depth` rows in regions of `size` rows; step i of `uses` needs content `uses[i]`.

    `fill(key, row)` emits the instructions that bring a content in. The regions are numbered from `start`.
    """

    def __init__(self, depth: int, size: int, uses: Sequence[Key], fill: Fill) -> None:
        self._size = size
        self._count = max(1, depth // size)
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
        return self._contents.index(key) * self._size

    def resident(self, step: int) -> bool:
        """Whether the content of `step` is there."""
        return step < len(self._uses) and self._uses[step] in self._contents

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
        self._fill(key, victim * self._size)

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


class LeastRecentBuffer:
    """Like PlannedBuffer where the uses are not known beforehand: gives up what was used longest ago."""

    def __init__(self, depth: int, size: int) -> None:
        self._size = size
        self._regions: dict[Key, int] = {}
        self._free = list(range(max(1, depth // size)))

    def place(self, key: Key, fill: Callable[[int], None]) -> int:
        """First row of content `key`; `fill(row)` brings it in if it is absent."""
        region = self._regions.pop(key, None)
        if region is None:
            region = self._free.pop(0) if self._free else self._regions.pop(next(iter(self._regions)))
            fill(region * self._size)
        self._regions[key] = region
        return region * self._size
