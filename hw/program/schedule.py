"""Ordering of the engines by tokens.

Every instruction declares which ranges of which memories it reads and writes. In program order that gives the usual
hazards (read after write, write after read, write after write). Hazards within an engine need nothing: its queue is
in order. A hazard between two engines becomes a token, unless what the later engine already knows about the earlier one
covers it: knowledge is a vector clock, so facts learnt through a third engine count. Where tokens would pile up in a
semaphore, the wait is for all instructions of the producer so far, which makes the following tokens unnecessary.

Token `n` from engine P to engine E is put by P's n-th signalling instruction and taken by E's n-th wait for P, because
a new token is asked for only when the wanted instruction of P is later than all that E has waited for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from spikeloom.hw.isa import Engine, Instruction

QUEUE_DEPTH = 32
"""Instructions that the queue of an engine holds."""

STREAM_DEPTH = 64
"""Beats that each output FIFO holds."""

TOKENS_MAX = 255
"""Largest count of a semaphore."""

OPEN_MAX = 100
"""Open tokens of a semaphore from which on an engine rather waits for all that the other one was given so far."""


@dataclass(frozen=True)
class Access:
    """Range [low, high) of memory `space`, in units of that memory."""

    space: str
    low: int
    high: int
    write: bool = False


@dataclass
class Step:
    """An instruction in program order and what it touches.

    `constant`: its DDR offset counts from the constants.
    """

    instruction: Instruction
    accesses: tuple[Access, ...] = ()
    constant: bool = False


@dataclass
class _Cell:
    """State of a range: last writer and, per engine, last reader since, as queue positions."""

    writer: tuple[Engine, int] | None = None
    readers: dict[Engine, int] = field(default_factory=dict)


class _Space:
    """Cells of one memory; `_starts[i]` is where cell i begins."""

    def __init__(self) -> None:
        self._starts = [0]
        self._cells = [_Cell()]

    def access(self, access: Access, engine: Engine, position: int) -> Iterable[tuple[Engine, int]]:
        """Record an access and return the instructions it must come after."""
        first, last = self._split(access.low), self._split(access.high)
        before: list[tuple[Engine, int]] = []
        for cell in self._cells[first:last]:
            if cell.writer is not None:
                before.append(cell.writer)
            if access.write:
                before.extend(cell.readers.items())
            else:
                cell.readers[engine] = position
        if access.write:
            self._starts[first:last] = [access.low]
            self._cells[first:last] = [_Cell((engine, position))]
        return before

    def _split(self, at: int) -> int:
        """Index of the cell that starts at `at`, made if necessary."""
        index = bisect_left(self._starts, at)
        if index == len(self._starts) or self._starts[index] != at:
            cell = self._cells[index - 1]
            self._starts.insert(index, at)
            self._cells.insert(index, _Cell(cell.writer, dict(cell.readers)))
        return index


def insert_tokens(steps: Sequence[Step]) -> None:
    """Set `wait` and `signal` of every instruction; the last must be END, which waits for all the others.

    Raises:
        ValueError: A semaphore could overflow.
    """
    spaces: dict[str, _Space] = {}
    queues: dict[Engine, list[int]] = {engine: [] for engine in Engine}
    known = {engine: [-1] * len(Engine) for engine in Engine}
    clocks: list[list[int]] = []
    tokens: dict[tuple[Engine, Engine], list[tuple[int, int]]] = {}
    for index, step in enumerate(steps):
        engine = step.instruction.engine
        position = len(queues[engine])
        needed = _needed(step, engine, position, spaces, queues)
        clock = known[engine]
        # the engine that knows most first: its knowledge may cover the others
        for producer in sorted(needed, key=lambda p: -queues[p][needed[p]]):
            wanted = needed[producer]
            if wanted <= clock[producer]:
                continue
            spans = tokens.setdefault((producer, engine), [])
            if _open(spans, queues[producer][wanted]) >= OPEN_MAX:
                wanted = len(queues[producer]) - 1
            signaller = queues[producer][wanted]
            steps[signaller].instruction.signal |= {engine}
            step.instruction.wait |= {producer}
            spans.append((signaller, index))
            clock[:] = map(max, clock, clocks[signaller])
        clock[engine] = position
        queues[engine].append(index)
        clocks.append(list(clock))
    for pair, spans in tokens.items():
        _check_tokens(pair, spans)


def _needed(
    step: Step, engine: Engine, position: int, spaces: dict[str, _Space], queues: dict[Engine, list[int]]
) -> dict[Engine, int]:
    """Per engine, the last instruction that must be complete before this one starts."""
    if engine is Engine.SEQUENCER:
        return {e: len(q) - 1 for e, q in queues.items() if q}
    needed: dict[Engine, int] = {}
    for access in step.accesses:
        space = spaces.setdefault(access.space, _Space())
        for producer, wanted in space.access(access, engine, position):
            if producer is not engine:
                needed[producer] = max(wanted, needed.get(producer, -1))
    return needed


def _open(spans: list[tuple[int, int]], signaller: int) -> int:
    """Tokens put before instruction `signaller` and taken after it."""
    return len(spans) - bisect_right(spans, signaller, key=lambda span: span[1])


def _check_tokens(pair: tuple[Engine, Engine], spans: list[tuple[int, int]]) -> None:
    """Worst case of a semaphore: what is open at a point of the program, and a full queue of the consumer behind it."""
    events = sorted([(signaller, 1) for signaller, _ in spans] + [(waiter, -1) for _, waiter in spans])
    count = most = 0
    for _, change in events:
        count += change
        most = max(most, count)
    if most + QUEUE_DEPTH + 1 > TOKENS_MAX:
        raise ValueError(f"semaphore {pair[0].name} -> {pair[1].name} could reach {most + QUEUE_DEPTH + 1} tokens")
