"""Supervisor: starts runs, stops them at END or an error, resets the core, counts.

    IDLE --start--> CLEAR --> RUN --ended--> CLOSE --ports idle--> IDLE (done)
                               '--error / watchdog--> STOP --ports idle--> HALTED --soft reset--> RESET --> IDLE
    soft reset is obeyed in every state.

The AXI ports live outside the core's reset: `abort` makes them drop what comes in and issue nothing new; when all are
idle the core can be reset without breaking a bus transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spikeloom.registers import ENGINE_NAMES, ErrorCode

from ..isa import Engine
from .sequencer import INDEX_BITS

RESET_CYCLES = 4
ENGINES = len(ENGINE_NAMES)


class Supervisor(wiring.Component):
    """State of a run.

    Ports in: `start`, `soft_reset` (pulses), `ended` (level), `sequencer_error` (pulse) with `sequencer_code`,
    `sequencer_engine`, `sequencer_index`; `bus_error_read`, `bus_error_write` (one bit per engine, pulse); `executing`,
    `blocked` (per engine), `indices` (head instruction per engine); `progress` (pulse: an instruction finished or a
    beat moved), `instruction_finished`; `watchdog` (cycles, 0 is off); `ports_idle`.
    Ports out: `run`, `core_reset`, `abort` (levels), `finished` (pulse at done or error); `busy`, `done`, `error`,
    `resetting`; `error_code`, `error_engine`, `error_instruction`; counters `cycles`, `instructions`, `engine_busy`,
    `engine_blocked` (32 bits per queued engine).
    """

    def __init__(self) -> None:
        counters = 32 * (ENGINES - 1)
        super().__init__({
            "start": In(1), "soft_reset": In(1), "ended": In(1), "sequencer_error": In(1), "sequencer_code": In(8),
            "sequencer_engine": In(4), "sequencer_index": In(INDEX_BITS), "bus_error_read": In(ENGINES),
            "bus_error_write": In(ENGINES), "executing": In(ENGINES), "blocked": In(ENGINES),
            "indices": In(INDEX_BITS * ENGINES), "progress": In(1), "instruction_finished": In(1), "watchdog": In(32),
            "ports_idle": In(1),
            "run": Out(1), "core_reset": Out(1, init=1),  # type: ignore[call-arg]
            "abort": Out(1), "finished": Out(1), "busy": Out(1),
            "done": Out(1), "error": Out(1), "resetting": Out(1), "error_code": Out(8), "error_engine": Out(4),
            "error_instruction": Out(INDEX_BITS), "cycles": Out(32), "instructions": Out(32),
            "engine_busy": Out(counters), "engine_blocked": Out(counters)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        failed = Signal()
        self._errors(m, failed)
        self._states(m, failed)
        self._counters(m)
        return m

    def _states(self, m: Module, failed: Signal) -> None:
        hold = Signal(range(RESET_CYCLES))
        resetting, starting = Signal(), Signal()
        with m.FSM() as fsm:
            m.d.comb += [self.run.eq(fsm.ongoing("RUN")), self.resetting.eq(resetting)]
            m.d.comb += self.busy.eq(~(fsm.ongoing("IDLE") | fsm.ongoing("HALTED")))
            with self._state(m, "IDLE"):
                m.d.sync += hold.eq(0)
                with m.If(self.start):
                    m.d.sync += [self.done.eq(0), self.cycles.eq(0), self.instructions.eq(0), starting.eq(1),
                                 self.core_reset.eq(1)]
                    m.next = "CLEAR"
            with self._state(m, "CLEAR"):
                m.d.comb += self.abort.eq(1)
                m.d.sync += [self.core_reset.eq(1), hold.eq(hold + 1)]
                with m.If(hold == RESET_CYCLES - 1):
                    m.d.sync += [self.core_reset.eq(0), resetting.eq(0), starting.eq(0)]
                    m.next = "IDLE"
                    with m.If(starting):
                        m.next = "RUN"
            with self._state(m, "RUN"):
                with m.If(failed):
                    m.next = "STOP"
                with m.Elif(self.ended):
                    m.next = "CLOSE"
            with self._state(m, "CLOSE"):
                m.d.comb += self.abort.eq(1)
                with m.If(self.ports_idle):
                    m.d.comb += self.finished.eq(1)
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
            with self._state(m, "STOP"):
                m.d.comb += [self.abort.eq(1), self.finished.eq(1)]
                m.d.sync += self.error.eq(1)
                m.next = "HALTED"
            with self._state(m, "HALTED"):
                m.d.comb += self.abort.eq(1)
            with self._state(m, "DRAIN"):
                m.d.comb += self.abort.eq(1)
                m.d.sync += hold.eq(0)
                with m.If(self.ports_idle):
                    m.d.sync += [self.error.eq(0), self.done.eq(0), self.error_code.eq(ErrorCode.NONE)]
                    m.next = "CLEAR"
        with m.If(self.soft_reset):
            m.d.sync += [resetting.eq(1), starting.eq(0)]

    @contextmanager
    def _state(self, m: Module, name: str) -> Iterator[None]:
        """A state that obeys soft reset."""
        with m.State(name):
            yield
            with m.If(self.soft_reset):
                m.next = "DRAIN"

    def _errors(self, m: Module, failed: Signal) -> None:
        """Latch the first error of a run."""
        idle_cycles = Signal(32)
        code, engine = Signal(8), Signal(4)
        index = Signal(INDEX_BITS)
        with m.If(self.progress | ~self.run):
            m.d.sync += idle_cycles.eq(0)
        with m.Else():
            m.d.sync += idle_cycles.eq(idle_cycles + 1)
        expired = (self.watchdog != 0) & (idle_cycles >= self.watchdog)
        with m.If(self.sequencer_error):
            m.d.comb += [code.eq(self.sequencer_code), engine.eq(self.sequencer_engine),
                         index.eq(self.sequencer_index)]
        with m.Elif(self.bus_error_read.any()):
            m.d.comb += code.eq(ErrorCode.BUS_READ)
            self._blame(m, self.bus_error_read, engine, index)
        with m.Elif(self.bus_error_write.any()):
            m.d.comb += code.eq(ErrorCode.BUS_WRITE)
            self._blame(m, self.bus_error_write, engine, index)
        with m.Elif(expired):
            m.d.comb += [code.eq(ErrorCode.WATCHDOG), engine.eq(Engine.SEQUENCER)]
            with m.If(self.executing.any()):
                self._blame(m, self.executing, engine, index)
            with m.Else():
                self._blame(m, self.blocked, engine, index)
        m.d.comb += failed.eq(self.run & (code != ErrorCode.NONE))
        with m.If(failed):
            m.d.sync += [self.error_code.eq(code), self.error_engine.eq(engine), self.error_instruction.eq(index)]

    def _blame(self, m: Module, mask: Signal, engine: Signal, index: Signal) -> None:
        """The lowest engine of `mask` and its instruction; the sequencer if there is none."""
        m.d.comb += [engine.eq(Engine.SEQUENCER), index.eq(self.indices[INDEX_BITS * Engine.SEQUENCER:])]
        for number in reversed(range(ENGINES)):
            with m.If(mask[number]):
                m.d.comb += [engine.eq(number), index.eq(self.indices[INDEX_BITS * number:INDEX_BITS * (number + 1)])]

    def _counters(self, m: Module) -> None:
        with m.If(self.run):
            m.d.sync += [self.cycles.eq(self.cycles + 1), self.instructions.eq(
                self.instructions + self.instruction_finished)]
        for engine in range(ENGINES - 1):
            for total, level in ((self.engine_busy, self.executing), (self.engine_blocked, self.blocked)):
                counter = Signal(32, name=f"counter_{'busy' if total is self.engine_busy else 'blocked'}_{engine}")
                m.d.comb += total[32 * engine:32 * (engine + 1)].eq(counter)
                with m.If(self.core_reset):
                    m.d.sync += counter.eq(0)
                with m.Elif(self.run & level[engine]):
                    m.d.sync += counter.eq(counter + 1)
