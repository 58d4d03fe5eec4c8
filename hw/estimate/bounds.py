"""What bounds a program: its estimated cycles if some of its transfers had no beats.

    spikes and pixels free          instructions of the engine LOAD
    weights and shortcuts free      of WEIGHT, SHORTCUT and STORE_RESIDUAL
    all of these free               a target below that is out of reach however the data of this program are moved
    everything but positions free   no order of a program with the same positions takes less
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from spikeloom.hw.isa import Engine
from spikeloom.hw.program.program import Program

from .simulator import Simulator
from .times import DDR, Ddr, Times, times_of
from .work import Compute, Move, Task, digest

__all__ = ["Bound", "bounds", "table"]

LOADING = (Engine.LOAD,)
BRINGING = (Engine.WEIGHT, Engine.SHORTCUT, Engine.STORE_RESIDUAL)


@dataclass(frozen=True)
class Bound:
    """`cycles` that an estimate of the program has if `what` costs nothing."""

    what: str
    cycles: int


def bounds(program: Program, *, memory: Ddr = DDR, times: Times | None = None) -> list[Bound]:
    """Bounds of a program, the program itself first.

    Free transfers have no beats; instructions, tokens and latencies stay. Raises as `estimate` does.
    """
    tasks, fixed = digest(program), times or times_of(program.config)

    def cycles(free: Collection[Engine]) -> int:
        run = Simulator([_freed(task, free) for task in tasks], program.config, len(program.operators), memory, fixed)
        return round(run.run().now)

    positions = sum(t.work.walked for t in tasks if isinstance(t.work, Compute))
    return [Bound("everything as it is", cycles(())), Bound("spikes and pixels free", cycles(LOADING)),
            Bound("weights and shortcuts free", cycles(BRINGING)),
            Bound("all of these free", cycles(LOADING + BRINGING)),
            Bound("everything but positions free", positions)]


def table(found: Sequence[Bound]) -> str:
    """Text: a bound per line, and its share of the first."""
    width, most = max(len(bound.what) for bound in found), found[0].cycles
    return "\n".join(f"{b.what:{width}}  {b.cycles:>14,}  {100 * b.cycles / most:5.1f} %" for b in found)


def _freed(task: Task, free: Collection[Engine]) -> Task:
    if task.engine in free and isinstance(task.work, Move):
        return replace(task, work=replace(task.work, beats=0, bursts=0, least=0))
    return task
