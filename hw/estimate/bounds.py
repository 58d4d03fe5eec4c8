"""What bounds a program: its estimated cycles if some of its transfers had fewer beats or none.

    nothing loaded twice            what LOAD brings for an operator, it brings once: rows between two tiles as well
    spikes and pixels free          instructions of the engine LOAD
    weights and shortcuts free      of WEIGHT, SHORTCUT and STORE_RESIDUAL
    all of these free               a target below that is out of reach however the data of this program are moved
    everything but positions free   no order of a program with the same positions takes less
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spikeloom.hw.isa import Engine, Instruction, Opcode
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
    tasks, fixed, news = digest(program), times or times_of(program.config), _new_shares(program)

    def changed(change: Callable[[Task], Task]) -> int:
        run = Simulator([change(task) for task in tasks], program.config, len(program.operators), memory, fixed)
        return round(run.run().now)

    def cycles(free: Collection[Engine]) -> int:
        return changed(lambda task: _scaled(task, 0) if task.engine in free else task)

    once = changed(lambda task: _scaled(task, news[task.layer]) if task.engine is Engine.LOAD else task)
    positions = sum(t.work.walked for t in tasks if isinstance(t.work, Compute))
    return [Bound("everything as it is", cycles(())), Bound("nothing loaded twice", once),
            Bound("spikes and pixels free", cycles(LOADING)), Bound("weights and shortcuts free", cycles(BRINGING)),
            Bound("all of these free", cycles(LOADING + BRINGING)),
            Bound("everything but positions free", positions)]


def table(found: Sequence[Bound]) -> str:
    """Text: a bound per line, and its share of the first."""
    width, most = max(len(bound.what) for bound in found), found[0].cycles
    return "\n".join(f"{b.what:{width}}  {b.cycles:>14,}  {100 * b.cycles / most:5.1f} %" for b in found)


def _scaled(task: Task, share: float) -> Task:
    """The task with a share of its beats."""
    work = task.work
    if not isinstance(work, Move):
        return task
    beats, bursts, least = (round(share * count) for count in (work.beats, work.bursts, work.least))
    return replace(task, work=replace(work, beats=beats, bursts=bursts, least=least))


def _new_shares(program: Program) -> dict[int, float]:
    """Operator -> share of what LOAD brings for it that it has not brought for it before."""
    brought: dict[int, list[NDArray[np.int64]]] = {}
    for instruction in program.instructions():
        if instruction.engine is Engine.LOAD:
            brought.setdefault(instruction.layer, []).append(_brought(instruction, program.config.beat_bytes))
    every = {layer: np.concatenate(parts) for layer, parts in brought.items()}
    return {layer: np.unique(parts).size / max(1, parts.size) for layer, parts in every.items()}


def _brought(load: Instruction, beat_bytes: int) -> NDArray[np.int64]:
    """A number for every beat of a LOAD: its address; for every window of a LOAD_PIXELS: its row, its position."""
    body = load.body
    if load.opcode is Opcode.LOAD_PIXELS:
        rows = (body["row"] + np.arange(body["rows"], dtype=np.int64)) << 40
        windows = body["offset"] + body["start"] + body["step"] * np.arange(body["cols"], dtype=np.int64)
        return (rows[:, None] + windows).reshape(-1)
    address = (body["region"] << 40) + np.int64(body["offset"])
    for count, stride in ((body["count2"], body["stride2"]), (body["count1"], body["stride1"]),
                          (body["run"], beat_bytes)):
        address = (np.reshape(address, (-1, 1)) + stride * np.arange(count, dtype=np.int64)).reshape(-1)
    return address
