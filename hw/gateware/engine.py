"""What the engines that move data have in common: how they take an instruction and report its end.

    sequencer --i--> EngineControl --o--> data path --ended--> EngineControl --done--> sequencer
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Member, Out

from spikeloom.registers import REGION_NAMES

from .axi import ADDRESS_BITS
from .instruction import BODY_BITS
from .sequencer import IN_FLIGHT

COMMAND = data.StructLayout({"opcode": 8, "body": BODY_BITS})
"""An instruction as an engine gets it; body fields: `instruction.body_layout(opcode)`."""

STEP_BITS = 8
"""Holds the beats or bursts under way of one engine: those on offer and what ports have credit for, 128 beats."""

BASES_BITS = ADDRESS_BITS * len(REGION_NAMES)


def engine_members() -> dict[str, Member]:
    """Ports of an engine that moves data to or from DDR.

    * `i`: stream of `COMMAND`s; the next one may be taken before the one before is done.
    * `done`: pulse, once per instruction and in order; its effects are visible to whatever begins in this cycle or
      later.
    * `busy`: from the cycle after an instruction is taken until the cycle before its `done`.
    * `error`: pulse: a transfer of this engine got an error response, before the `done` of its instruction. That still
      comes to its end. A store reports it while that instruction is the oldest, a load as soon as the beat comes in:
      instructions before it may still be writing theirs.
    * `bases`: base addresses of the regions, REGION_NAMES[0] in the lowest bits; constant while busy.
    """
    return {"i": In(stream.Signature(COMMAND)), "done": Out(1), "busy": Out(1), "error": Out(1),
            "bases": In(BASES_BITS)}


def region_base(bases: Value, region: Value) -> Value:
    """Address of region number `region`."""
    # Not `word_select`: that multiplies the index by 40.
    parts = [bases[low:low + ADDRESS_BITS] for low in range(0, BASES_BITS, ADDRESS_BITS)]
    return Mux(region[1], Mux(region[0], parts[3], parts[2]), Mux(region[0], parts[1], parts[0]))


class EngineControl(wiring.Component):
    """Takes instructions, one ahead of the data path, and reports their ends.

    Ports: `i`, `done`, `busy` as in `engine_members`; `o`: the instructions for the data path, each held until it is
    taken; `ended`: pulse, the oldest instruction has come to its end; `alone`: one instruction is under way.

    At most `IN_FLIGHT` instructions are under way. Latency: from `i` to `o` 1 cycle, from `ended` to `done` 1 cycle.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    o: stream.Interface
    ended: Signal
    alone: Signal

    def __init__(self) -> None:
        super().__init__({
            "i": In(stream.Signature(COMMAND)), "done": Out(1), "busy": Out(1), "o": Out(stream.Signature(COMMAND)),
            "ended": In(1), "alone": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count, taken = Signal(range(IN_FLIGHT + 1)), Signal()
        m.d.comb += [
            self.i.ready.eq(~self.o.valid & (count != IN_FLIGHT)), taken.eq(self.i.valid & self.i.ready),
            self.busy.eq(count != 0), self.alone.eq(count == 1)]
        m.d.sync += [count.eq(count + taken - self.ended), self.done.eq(self.ended)]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(taken):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(self.i.payload)]
        return m


class _Chosen(wiring.Component):
    """Register of input `2 * taken + step` of four. A module of its own: tools that do not know that `step` and `taken`
    come late would otherwise spread the choice over the levels that lead to the inputs."""

    inputs: Signal
    step: Signal
    taken: Signal
    o: Signal

    def __init__(self) -> None:
        super().__init__({"inputs": In(4), "step": In(1), "taken": In(1), "o": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rests, goes_on = (Mux(self.step, self.inputs[low + 1], self.inputs[low]) for low in (0, 2))
        m.d.sync += self.o.eq(Mux(self.taken, goes_on, rests))
        return m


class EndQueue(wiring.Component):
    """Tells when transfers that are under way end: they do so in order, each after so many steps (beats, bursts).

    Ports: `given`: pulse, all steps of a transfer are asked for, `total` (modulo 2**`STEP_BITS`) with those of all
    transfers before; it comes before a step of the next transfer. `step`: pulse, a step is done. `last`: the next step
    ends the oldest transfer; `over`: all its steps are done. `taken`: pulse, it has ended: with its last step, or
    while `over`. `under_way`: steps asked for are not done.

    Latency: `given` to `last` and `over` 2 cycles, both from registers; `under_way` 1 cycle. At most `IN_FLIGHT`
    transfers are held.
    """

    given: Signal
    total: Signal
    step: Signal
    last: Signal
    over: Signal
    taken: Signal
    under_way: Signal

    def __init__(self) -> None:
        super().__init__({
            "given": In(1), "total": In(STEP_BITS), "step": In(1), "last": Out(1), "over": Out(1), "taken": In(1),
            "under_way": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.ends = ends = fifo.SyncFIFO(width=STEP_BITS, depth=IN_FLIGHT)
        done, second, oldest = Signal(STEP_BITS), Signal(STEP_BITS, init=2), Signal(STEP_BITS)
        following, held = Signal(STEP_BITS, init=1), Signal()
        with m.If(self.step):
            m.d.sync += [done.eq(following), following.eq(second), second.eq(second + 1)]
        m.d.comb += [ends.w_data.eq(self.total), ends.w_en.eq(self.given), ends.r_en.eq(~held | self.taken)]
        m.d.sync += self.under_way.eq(done != self.total)
        with m.If(ends.r_en):
            m.d.sync += [held.eq(ends.r_rdy), oldest.eq(ends.r_data)]
        # How the next transfer stands, with and without a step in this cycle, and how the oldest one will: `step` and
        # `taken`, which come late, only choose.
        m.submodules.over, m.submodules.last = over, last = _Chosen(), _Chosen()
        for flag, out, present, counts in (
                (over, self.over, (over.o, last.o), (done, following)),
                (last, self.last, (last.o, oldest == second), (following, second))):
            to_come = [ends.r_rdy & (ends.r_data == count) for count in counts]
            stays = [Mux(held, now, new) for now, new in zip(present, to_come, strict=True)]
            m.d.comb += [
                flag.inputs.eq(Cat(*stays, *to_come)), flag.step.eq(self.step), flag.taken.eq(self.taken),
                out.eq(flag.o)]
        return m
