"""Order of the jobs of a network: list scheduling, the deepest operator first.

A job can run when what it needs has been emitted, and runs without waiting when that was long enough ago: drained,
stored and loaded again. Of the jobs that would not wait the one of the last operator is taken; so a strip of the map
passes through as many operators as it can before the next strip is begun, and little of it has to be kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .work import Job, Lowered, Need

LATENCY = 1500
"""Cycles from the end of a job's computing until its output can be used: drain, store, load."""

DEPTH = 16
"""Unfinished operators that are looked at."""


class StuckError(Exception):
    """A window is too small for its operators: nothing can run. `layer`: of the job that waits for room."""

    def __init__(self, layer: int) -> None:
        super().__init__(f"operator {layer} finds no room")
        self.layer = layer


@dataclass
class _Queue:
    """Jobs of one Lowered; `next` is the first that is not emitted yet."""

    jobs: list[Job]
    next: int = 0
    needs: dict[int, list[tuple[_Queue, int]]] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)


def in_order(
    lowered: Sequence[Lowered], room: Mapping[int, tuple[int, int, int]], barriers: Mapping[int, Sequence[int]]
) -> list[Job]:
    """All jobs in the order in which they are emitted.

    Args:
        lowered: Operators in the order of the network.
        room: For an operator that writes a window first: (operator that reads it last, rows of the window, rows of the
            map). The window's rows go on from band to band.
        barriers: Operators that must be complete before an operator begins.

    Raises:
        StuckError: see there.
    """
    queues = [_Queue(part.jobs) for part in lowered]
    makers: dict[int, list[tuple[_Queue, int]]] = {}
    for queue in queues:
        for index, job in enumerate(queue.jobs):
            makers.setdefault(job.layer, []).append((queue, index))

    def satisfying(need: Need) -> list[tuple[_Queue, int]]:
        """The last job, in each queue, of those that make what is needed."""
        last: dict[int, tuple[_Queue, int]] = {}
        for queue, index in makers[need.layer]:
            job = queue.jobs[index]
            if need.meets(job.rows, job.words, job.band):
                last[id(queue)] = queue, index
        return list(last.values())

    return _Scheduler(queues, satisfying, room, barriers).run()


class _Scheduler:
    def __init__(
        self, queues: list[_Queue], satisfying: Callable[[Need], list[tuple[_Queue, int]]],
        room: Mapping[int, tuple[int, int, int]], barriers: Mapping[int, Sequence[int]],
    ) -> None:
        self._queues, self._satisfying, self._room, self._barriers = queues, satisfying, room, barriers
        self._now = 0
        self._order: list[Job] = []

    def run(self) -> list[Job]:
        first = 0
        while first < len(self._queues):
            queue = self._queues[first]
            if queue.next == len(queue.jobs):
                first += 1
                continue
            self._emit(self._choose(self._queues[first:first + DEPTH]))
        return self._order

    def _choose(self, queues: list[_Queue]) -> _Queue:
        best: tuple[int, _Queue] | None = None
        for queue in reversed(queues):
            if queue.next == len(queue.jobs):
                continue
            ready = self._ready(queue)
            if ready is None:
                continue
            if ready <= self._now:
                return queue
            if best is None or ready < best[0]:
                best = ready, queue
        if best is None:
            raise StuckError(next(q.jobs[q.next].layer for q in queues if q.next < len(q.jobs)))
        self._now = best[0]
        return best[1]

    def _ready(self, queue: _Queue) -> int | None:
        """Time from which the next job, with those glued to it, would not wait; None if it cannot be emitted yet."""
        ready = 0
        for other, index in self._needs(queue):
            if other.next <= index:
                return None
            ready = max(ready, other.done[index] if other is not queue else 0)
        return ready

    def _needs(self, queue: _Queue) -> list[tuple[_Queue, int]]:
        found = queue.needs.get(queue.next)
        if found is None:
            end = queue.next
            needs: set[Need] = set()
            for job in itertools.islice(queue.jobs, queue.next, None):
                needs |= self._needs_of(job)
                end += 1
                if not job.glued:
                    break
            found = [entry for need in needs for entry in self._satisfying(need)
                     if not (entry[0] is queue and queue.next <= entry[1] < end)]
            queue.needs[queue.next] = found
        return found

    def _needs_of(self, job: Job) -> set[Need]:
        contents = (c for work in job.works for c in (*work.spikes, *filter(None, (work.weights,))))
        needs = {need for content in contents for need in content.needs} | set(job.needs)
        if job.layer in self._room:
            reader, rows, height = self._room[job.layer]
            if job.rows[1] > rows:
                needs.add(Need(reader, 0, job.rows[1] - rows, band=job.band))
            if job.band and height + job.rows[1] > rows:
                needs.add(Need(reader, 0, height + job.rows[1] - rows, band=job.band - 1))
            needs |= {Need(reader, band=band) for band in range(job.band - 1)}
        return needs | {Need(layer) for layer in self._barriers.get(job.layer, ())}

    def _emit(self, queue: _Queue) -> None:
        """The next job and those glued to it."""
        while True:
            job = queue.jobs[queue.next]
            self._order.append(job)
            self._now += job.cycles
            queue.done.append(self._now + LATENCY)
            queue.next += 1
            if not job.glued:
                return
