"""On-chip buffers as the compiler manages them: who lies where, and when it is brought in.

The whole sequence of uses is known, so the plan is made before anything is emitted. When room is wanted, what is given
up is what is needed latest (Belady); what is needed next is brought in as soon as there is room that nobody needs
before.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from .errors import MappingError

Key = Hashable
NEVER = 1 << 60

BACKLOG = 600
"""Cycles that the engine which brings contents in may have to do when it is given more than must be."""


@dataclass(frozen=True)
class Block:
    """Content `key` in rows [row, row + size)."""

    row: int
    size: int
    key: Key

    @property
    def end(self) -> int:
        return self.row + self.size


@dataclass
class Plan:
    """`rows[step][key]`: first row of a content that `step` uses. `fills[step]`: (key, row) that it needs and that is
    brought in before it; `ahead[step]`: what is brought in beside it for later steps."""

    rows: list[dict[Key, int]] = field(default_factory=list)
    fills: list[list[tuple[Key, int]]] = field(default_factory=list)
    ahead: list[list[tuple[Key, int]]] = field(default_factory=list)


class Planner:
    """Plans a buffer of `depth` rows for `uses[step]` = ((key, size), ...).

    Args:
        what: Name of the buffer in messages.
        ahead: Contents that may be brought in before they are needed.
        horizon: Steps looked ahead for them.
        made: Contents that a step makes itself (never brought in again): they are not fetched ahead and not moved.
        available: First step before which a content can be brought in; 0 if not named.
        beats: Cycles of the engine that brings a content in; `durations`: those of each step beside which it does. More
            than `ahead` contents are brought in while that engine has less than `BACKLOG` cycles to do.
    """

    def __init__(
        self, what: str, depth: int, uses: Sequence[Sequence[tuple[Key, int]]], *, ahead: int = 3, horizon: int = 64,
        made: frozenset[Key] = frozenset(), available: Mapping[Key, int] = MappingProxyType({}),
        beats: Mapping[Key, int] = MappingProxyType({}), durations: Sequence[int] = (),
    ) -> None:
        self._what, self._depth, self._uses = what, depth, uses
        self._ahead, self._horizon, self._made, self._available = ahead, horizon, made, available
        self._beats, self._durations, self._backlog = beats, durations, 0
        self._sizes: dict[Key, int] = {}
        self._steps: dict[Key, list[int]] = {}
        for step, use in enumerate(uses):
            for key, size in use:
                self._sizes[key] = size
                self._steps.setdefault(key, []).append(step)
        self._changes = [i for i, use in enumerate(uses) if i == 0 or use != uses[i - 1]]
        self._blocks: list[Block] = []
        self._waiting: set[Key] = set()

    def run(self) -> Plan:
        """Raises MappingError if the contents of one step do not fit together."""
        plan = Plan()
        for step, use in enumerate(self._uses):
            fills: list[tuple[Key, int]] = []
            if step == 0 or use != self._uses[step - 1]:
                self._need(step, [key for key, _ in use], fills)
            ahead: list[tuple[Key, int]] = []
            self._fetch_ahead(step, ahead)
            plan.fills.append(fills)
            plan.ahead.append(ahead)
            plan.rows.append({key: self._row(key) for key, _ in use})
            if self._durations:
                self._backlog = max(0, self._backlog - self._durations[step])
        return plan

    def _row(self, key: Key) -> int:
        return next(b.row for b in self._blocks if b.key == key)

    def _resident(self, key: Key) -> bool:
        return any(b.key == key for b in self._blocks)

    def _need(self, step: int, keys: list[Key], fills: list[tuple[Key, int]]) -> None:
        self._waiting.difference_update(keys)
        missing = [key for key in keys if not self._resident(key)]
        for key in sorted(missing, key=lambda k: -self._sizes[k]):
            row = self._place(key, step, set(keys))
            if row is None:
                self._start_again(step, keys, fills)
                return
            self._bring(key, row, fills)

    def _place(self, key: Key, step: int, pinned: set[Key]) -> int | None:
        """Row for what a step needs: for what it makes, which cannot be moved, at an end of the buffer if possible."""
        size, ends = self._sizes[key], {0, self._depth - self._sizes[key]}
        row = self._room(size, step, pinned, step - 1, ends) if key in self._made else None
        return self._room(size, step, pinned, step - 1) if row is None else row

    def _start_again(self, step: int, keys: list[Key], fills: list[tuple[Key, int]]) -> None:
        """What is there is in the way of what is missing: all contents of the step are brought in anew."""
        if any(key in self._made and self._resident(key) for key in keys):
            keys = [key for key in keys if not (key in self._made and self._resident(key))]
        kept = [b for b in self._blocks if b.key in self._made and self._next_use(b.key, step) < NEVER]
        self._blocks = kept
        del fills[:]
        for key in sorted(keys, key=lambda k: -self._sizes[k]):
            row = self._room(self._sizes[key], step, {*keys, *(b.key for b in kept)}, step - 1)
            if row is None:
                total = sum(self._sizes[k] for k in keys)
                raise MappingError(f"the {self._what} has {self._depth} rows, {total} are needed at a time")
            self._bring(key, row, fills)

    def _fetch_ahead(self, step: int, fills: list[tuple[Key, int]]) -> None:
        pinned = {key for key, _ in self._uses[step]}
        first = bisect_right(self._changes, step)
        for later in self._changes[first:first + self._horizon]:
            for key, size in self._uses[later]:
                if self._resident(key):
                    continue
                if key in self._made:
                    continue
                if self._enough() or self._available.get(key, 0) > step:
                    return
                row = self._room(size, step, pinned, later)
                if row is None:
                    return
                self._bring(key, row, fills)
                self._waiting.add(key)

    def _enough(self) -> bool:
        """Nothing more is to be brought in ahead for the present."""
        idle = bool(self._durations) and self._backlog < BACKLOG
        return len(self._waiting) >= self._ahead and not idle

    def _bring(self, key: Key, row: int, fills: list[tuple[Key, int]]) -> None:
        end = row + self._sizes[key]
        for block in [b for b in self._blocks if b.row < end and row < b.end]:
            self._blocks.remove(block)
            self._waiting.discard(block.key)
        insort(self._blocks, Block(row, self._sizes[key], key), key=lambda b: b.row)
        fills.append((key, row))
        self._backlog += self._beats.get(key, 0)

    def _room(self, size: int, step: int, pinned: set[Key], after: int, starts: set[int] | None = None) -> int | None:
        """Row of `size` rows whose contents are all needed later than step `after`, those needed latest.

        `starts`: the only rows that come into question.
        """
        best: tuple[int, int, int] | None = None
        if starts is None:
            starts = {0, self._depth - size, *(row for b in self._blocks for row in (b.end, b.row - size))}
        uses = [self._use_of(b.key, step, pinned) for b in self._blocks]
        ends = [b.end for b in self._blocks]
        for row in starts:
            if row < 0 or row + size > self._depth:
                continue
            use, index = NEVER + 1, bisect_right(ends, row)
            while index < len(self._blocks) and self._blocks[index].row < row + size:
                use = min(use, uses[index])
                index += 1
            if use > max(after, -1):
                # a window that touches its neighbours leaves the rest in one piece
                margin = min(row, self._depth - row - size)
                best = max(best or (-1, 0, 0), (use, -margin, -row))
        return None if best is None else -best[2]

    def _use_of(self, key: Key, step: int, pinned: set[Key]) -> int:
        """Next use; -1 for what must stay."""
        use = self._next_use(key, step)
        return -1 if key in pinned or (key in self._made and use < NEVER) else use

    def _next_use(self, key: Key, step: int) -> int:
        """First step >= `step` that uses `key`."""
        steps = self._steps[key]
        index = bisect_left(steps, step)
        return steps[index] if index < len(steps) else NEVER
