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

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spikeloom.registers import ENGINE_NAMES, ErrorCode

from ..isa import Engine
from .sequencer import INDEX_BITS

RESET_CYCLES = 4
ENGINES = len(ENGINE_NAMES)

LOW_BITS = 8
"""Lower bits of a counter."""

SAMPLED = ("start", "soft_reset", "ended", "sequencer_error", "sequencer_code", "sequencer_engine", "sequencer_index",
           "bus_error_read", "bus_error_write", "executing", "blocked", "indices", "progress", "instruction_finished")
"""Ports that pass a register; `ports_idle` as well, where it counts with `abort` only: with that it stays."""


class Supervisor(wiring.Component):
    """State of a run.

    Ports in: `start`, `soft_reset` (pulses), `ended` (level), `sequencer_error` (pulse) with `sequencer_code`,
    `sequencer_engine`, `sequencer_index`; `bus_error_read`, `bus_error_write` (one bit per engine, pulse); `executing`,
    `blocked` (per engine), `indices` (head instruction per engine); `progress` (pulse: an instruction finished or a
    beat moved), `instruction_finished`; `watchdog` (cycles, 0 is off); `ports_idle` (stays while `abort`). All but
    `watchdog` pass a register first; `indices` are looked at a cycle after what they belong to.
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
        failed, stopped, begin = Signal(), Signal(), Signal()
        self._seen: dict[str, Signal] = {}
        for name in SAMPLED:
            port = getattr(self, name)
            self._seen[name] = Signal(port.shape(), name=f"seen_{name}")
            m.d.sync += self._seen[name].eq(port)
        self._seen["idle"] = idle = Signal(name="seen_idle")
        m.d.sync += idle.eq(self.ports_idle & self.abort)
        self._errors(m, failed, stopped)
        self._states(m, failed, stopped, begin)
        self._counters(m, begin)
        return m

    def _states(self, m: Module, failed: Signal, stopped: Signal, begin: Signal) -> None:
        hold = Signal(range(RESET_CYCLES))
        resetting, starting = Signal(), Signal()
        with m.FSM() as fsm:
            m.d.comb += [self.run.eq(fsm.ongoing("RUN")), self.resetting.eq(resetting)]
            m.d.comb += self.busy.eq(~(fsm.ongoing("IDLE") | fsm.ongoing("HALTED")))
            with self._state(m, "IDLE"):
                m.d.sync += hold.eq(0)
                with m.If(self._seen["start"]):
                    m.d.comb += begin.eq(1)
                    m.d.sync += [self.done.eq(0), starting.eq(1), self.core_reset.eq(1), self.abort.eq(1)]
                    m.next = "CLEAR"
            with self._state(m, "CLEAR"):
                m.d.sync += [self.core_reset.eq(1), hold.eq(hold + 1)]
                with m.If(hold == RESET_CYCLES - 1):
                    m.d.sync += [self.core_reset.eq(0), self.abort.eq(0), resetting.eq(0), starting.eq(0)]
                    m.next = "IDLE"
                    with m.If(starting):
                        m.next = "RUN"
            with self._state(m, "RUN"):
                m.d.sync += self.abort.eq(failed | self._seen["ended"])
                with m.If(failed):
                    m.next = "STOP"
                with m.Elif(self._seen["ended"]):
                    m.next = "CLOSE"
            with self._state(m, "CLOSE"):
                with m.If(self._seen["idle"]):
                    m.d.comb += self.finished.eq(1)
                    m.d.sync += [self.done.eq(1), self.abort.eq(0)]
                    m.next = "IDLE"
            with self._state(m, "STOP"):
                m.d.comb += [stopped.eq(1), self.finished.eq(1)]
                m.d.sync += self.error.eq(1)
                m.next = "HALTED"
            with self._state(m, "HALTED"):
                pass
            with self._state(m, "DRAIN"):
                m.d.sync += hold.eq(0)
                with m.If(self._seen["idle"]):
                    m.d.sync += [self.error.eq(0), self.done.eq(0), self.error_code.eq(ErrorCode.NONE)]
                    m.next = "CLEAR"
        with m.If(self._seen["soft_reset"]):
            m.d.sync += [resetting.eq(1), starting.eq(0)]

    @contextmanager
    def _state(self, m: Module, name: str) -> Iterator[None]:
        """A state that obeys soft reset."""
        with m.State(name):
            yield
            with m.If(self._seen["soft_reset"]):
                m.d.sync += self.abort.eq(1)
                m.next = "DRAIN"

    def _errors(self, m: Module, failed: Signal, stopped: Signal) -> None:
        """Latch the first error of a run, its instruction a cycle later (`stopped`)."""
        seen = self._seen
        code, engine = Signal(8), Signal(4)
        expired = self._watch(m)
        with m.If(seen["sequencer_error"]):
            m.d.comb += [code.eq(seen["sequencer_code"]), engine.eq(seen["sequencer_engine"])]
        with m.Elif(seen["bus_error_read"].any()):
            m.d.comb += [code.eq(ErrorCode.BUS_READ), engine.eq(_lowest(seen["bus_error_read"]))]
        with m.Elif(seen["bus_error_write"].any()):
            m.d.comb += [code.eq(ErrorCode.BUS_WRITE), engine.eq(_lowest(seen["bus_error_write"]))]
        with m.Elif(expired):
            m.d.comb += [code.eq(ErrorCode.WATCHDOG), engine.eq(
                Mux(seen["executing"].any(), _lowest(seen["executing"]), _lowest(seen["blocked"])))]
        m.d.comb += failed.eq(self.run & (code != ErrorCode.NONE))
        own, index = Signal(name="own_index"), Signal(INDEX_BITS, name="own")
        m.d.sync += [own.eq(seen["sequencer_error"]), index.eq(seen["sequencer_index"])]
        with m.If(failed):
            m.d.sync += [self.error_code.eq(code), self.error_engine.eq(engine)]
        with m.If(stopped):
            for number in range(ENGINES):
                with m.If(self.error_engine == number):
                    m.d.sync += self.error_instruction.eq(seen["indices"].word_select(number, INDEX_BITS))
            with m.If(own):
                m.d.sync += self.error_instruction.eq(index)

    def _watch(self, m: Module) -> Signal:
        """As many cycles without progress as `watchdog` says; the halves are compared a cycle before."""
        idle_cycles = Signal(32)
        _count(m, idle_cycles, Const(1), self._seen["progress"] | ~self.run)
        above, same, low, enabled = (Signal(name=name) for name in ("above", "same", "low", "enabled"))
        m.d.sync += [
            above.eq(idle_cycles[16:] > self.watchdog[16:]), same.eq(idle_cycles[16:] == self.watchdog[16:]),
            low.eq(idle_cycles[:16] >= self.watchdog[:16]), enabled.eq(self.watchdog != 0)]
        expired = Signal()
        m.d.comb += expired.eq(enabled & (above | same & low))
        return expired

    def _counters(self, m: Module, begin: Signal) -> None:
        seen = self._seen
        _count(m, self.cycles, self.run, begin)
        _count(m, self.instructions, self.run & seen["instruction_finished"], begin)
        for engine in range(ENGINES - 1):
            for total, level in ((self.engine_busy, seen["executing"]), (self.engine_blocked, seen["blocked"])):
                counter = Signal(32, name=f"counter_{'busy' if total is self.engine_busy else 'blocked'}_{engine}")
                m.d.comb += total[32 * engine:32 * (engine + 1)].eq(counter)
                _count(m, counter, self.run & level[engine], self.core_reset)


def _lowest(mask: Signal) -> Value:
    """Number of the lowest bit that is set; the sequencer if there is none."""
    number: Value = Const(Engine.SEQUENCER, 4)
    for bit in reversed(range(ENGINES)):
        number = Mux(mask[bit], bit, number)
    return number


def _count(m: Module, counter: Signal, more: Value, clear: Value) -> None:
    """Count up by `more`, unless `clear`. No carry is longer than the upper bits: when the lower ones are about to wrap
    is known a cycle before, so that both change together."""
    low, high = counter[:LOW_BITS], counter[LOW_BITS:]
    full = Signal(name=f"{counter.name}_full")
    with m.If(clear):
        m.d.sync += [counter.eq(0), full.eq(0)]
    with m.Elif(more):
        m.d.sync += [low.eq(low + 1), full.eq(low == (1 << LOW_BITS) - 2)]
        with m.If(full):
            m.d.sync += high.eq(high + 1)
