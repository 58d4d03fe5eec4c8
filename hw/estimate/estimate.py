"""Estimate of a program: cycles, and where they go.

    estimate(program).cycles            within a few per cent of the RTL; seconds of run time

The program decides: operators overlap as its tokens allow. `operators[i].cycles` are those in which the machine works
for, or waits for, a COMPUTE of operator i; they add up to the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spikeloom.config import MachineConfig
from spikeloom.hw.isa import INSTRUCTION_BYTES, Engine
from spikeloom.hw.program.program import Program
from spikeloom.registers import ENGINE_NAMES

from .simulator import CAUSES, QUEUED, Simulator
from .times import DDR, Ddr, Times, times_of
from .work import Compute, Move, Task, digest

__all__ = ["EngineEstimate", "Estimate", "OperatorEstimate", "estimate"]

WRITING = (Engine.STORE, Engine.STORE_RESIDUAL)


@dataclass(frozen=True, kw_only=True)
class EngineEstimate:
    """Cycles in which an engine executes an instruction, and in which it has one that waits for tokens."""

    busy: int
    blocked: int


@dataclass(frozen=True, kw_only=True)
class OperatorEstimate:
    """One operator.

    Attributes:
        name, kind: As in the network.
        first, last: Cycles of its first begin and its last end of an instruction.
        cycles: Cycles of the run that are its own; see the module docstring.
        causes: Those, by what they are spent on (`simulator.CAUSES`).
        bound: The cause of most of them.
        positions: Positions that the array, the depthwise or the Hamming unit walks.
        read_bytes, written_bytes: DDR traffic, instructions excluded.
        synaptic_operations: Additions per clip.
    """

    name: str
    kind: str
    first: int
    last: int
    cycles: int
    causes: Mapping[str, int]
    bound: str
    positions: int
    read_bytes: int
    written_bytes: int
    synaptic_operations: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A run of a program.

    Attributes:
        config: The machine.
        memory: The DDR that was assumed.
        frames: T.
        cycles: From start to end.
        instructions: END included.
        engines: By name, as the registers have them.
        operators: In network order.
    """

    config: MachineConfig
    memory: Ddr
    frames: int
    cycles: int
    instructions: int
    engines: Mapping[str, EngineEstimate]
    operators: Sequence[OperatorEstimate]

    @property
    def seconds(self) -> float:
        """At the clock of the configuration."""
        return self.cycles / (self.config.clock_mhz * 1e6)

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds

    @property
    def read_bytes(self) -> int:
        """All reads of DDR, instructions included."""
        return sum(o.read_bytes for o in self.operators) + self.instructions * INSTRUCTION_BYTES

    @property
    def written_bytes(self) -> int:
        return sum(o.written_bytes for o in self.operators)

    @property
    def causes(self) -> dict[str, int]:
        """Cycles by cause, all operators."""
        return {cause: sum(o.causes[cause] for o in self.operators) for cause in CAUSES}


def estimate(program: Program, *, memory: Ddr = DDR, times: Times | None = None) -> Estimate:
    """Estimate a run of `program`. `times`: fixed cycles of the machine; None: those of the gateware.

    Raises:
        ProgramError: An instruction is malformed.
        StuckError: The program deadlocks.
    """
    tasks = digest(program)
    run = Simulator(tasks, program.config, len(program.operators), memory, times or times_of(program.config)).run()
    engines = {ENGINE_NAMES[e]: EngineEstimate(busy=round(run.units[e].busy), blocked=round(run.units[e].blocked))
               for e in QUEUED}
    return Estimate(
        config=program.config, memory=memory, frames=program.frames, cycles=round(run.now), instructions=len(tasks),
        engines=engines, operators=_operators(program, tasks, run))


def _operators(program: Program, tasks: Sequence[Task], run: Simulator) -> list[OperatorEstimate]:
    size = program.config.beat_bytes
    positions, read, written = ([0] * len(program.operators) for _ in range(3))
    for task in tasks:
        if isinstance(task.work, Compute):
            positions[task.layer] += task.work.walked
        elif isinstance(task.work, Move):
            (written if task.engine in WRITING else read)[task.layer] += task.work.beats * size
    result = []
    for index, info in enumerate(program.operators):
        causes = {cause: round(cycles) for cause, cycles in run.causes[index].items()}
        first, last = run.spans[index]
        result.append(OperatorEstimate(
            name=info.name, kind=info.kind, first=round(min(first, last)), last=round(last),
            cycles=sum(causes.values()), causes=causes, bound=max(CAUSES, key=causes.__getitem__),
            positions=positions[index], read_bytes=read[index], written_bytes=written[index],
            synaptic_operations=info.synaptic_operations))
    return result
