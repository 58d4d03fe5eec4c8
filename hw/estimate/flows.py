"""What moves and what waits: flows of beats, the FIFO between producer and STORE, engines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Flow", "Stream", "Unit"]


@dataclass(eq=False)
class Flow:
    """Beats on the way; `then` is called when none is left. `banks`: they go to the spike banks."""

    left: float
    cap: float
    then: Callable[[], None]
    port: int = 0
    banks: bool = False
    stream: Stream | None = None
    rate: float = 0.0


@dataclass(eq=False)
class Stream:
    """FIFO between a producer and STORE; `capacity` without what the store holds."""

    level: float = 0.0
    capacity: float = 0.0
    item: int = 0
    producer: Flow | None = None
    consumer: Flow | None = None
    awaiting: Callable[[], None] | None = None


@dataclass(eq=False)
class Unit:
    """An engine.

    Attributes:
        queue: Instructions that wait.
        running: How many are taken and not done.
        ready: Whether it can take another.
        offered: Whether the head of the queue has its tokens; `standing`: and stands at the engine.
        flows: Beats of the instructions taken; those of the first one move.
        alone: What begins when a single instruction is left.
        ended: When the last `done` comes, of those that are known.
        busy, blocked: Cycles.
    """

    queue: deque[int] = field(default_factory=deque)
    running: int = 0
    ready: bool = True
    offered: bool = False
    standing: bool = False
    flows: deque[Flow] = field(default_factory=deque)
    alone: Callable[[], None] | None = None
    ended: float = 0.0
    busy: float = 0.0
    blocked: float = 0.0
