"""What the engines that move data have in common: how they take an instruction and report its end.

    sequencer --i--> EngineControl --start, body--> data path --finished--> EngineControl --done--> sequencer
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Member, Out

from spikeloom.registers import REGION_NAMES

from .axi import ADDRESS_BITS
from .instruction import BODY_BITS

COMMAND = data.StructLayout({"opcode": 8, "body": BODY_BITS})
"""An instruction as an engine gets it; body fields: `instruction.body_layout(opcode)`."""

BASES_BITS = ADDRESS_BITS * len(REGION_NAMES)


def engine_members() -> dict[str, Member]:
    """Ports of an engine that moves data to or from DDR.

    * `i`: stream of `COMMAND`s, taken when idle.
    * `done`: pulse, once per instruction; its effects are visible to whatever begins in this cycle or later.
    * `busy`: from the cycle after the instruction is taken until the cycle before `done`.
    * `error`: pulse: a transfer of this engine got an error response. The instruction still comes to its end.
    * `bases`: base addresses of the regions, REGION_NAMES[0] in the lowest bits; constant while busy.
    """
    return {"i": In(stream.Signature(COMMAND)), "done": Out(1), "busy": Out(1), "error": Out(1),
            "bases": In(BASES_BITS)}


def region_address(bases: Value, region: Value, offset: Value) -> Value:
    """Absolute address of byte `offset` of region number `region`; wraps at 2**40."""
    # Not `word_select`: that multiplies the index by 40.
    parts = [bases[low:low + ADDRESS_BITS] for low in range(0, BASES_BITS, ADDRESS_BITS)]
    base = Mux(region[1], Mux(region[0], parts[3], parts[2]), Mux(region[0], parts[1], parts[0]))
    return (base + offset)[:ADDRESS_BITS]


class EngineControl(wiring.Component):
    """Takes an instruction, holds it while the data path works, reports the end.

    Ports: `i`, `done`, `busy` as in `engine_members`; `opcode`, `body`: the instruction, held; `start`: pulse, the
    cycle after it was taken; `finished`: level, looked at from the cycle after `start` on.

    Latency: `start` 1 cycle after the hand-over, `done` 1 cycle after `finished`.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    opcode: Signal
    body: Signal
    start: Signal
    finished: Signal

    def __init__(self) -> None:
        super().__init__({
            "i": In(stream.Signature(COMMAND)), "done": Out(1), "busy": Out(1), "opcode": Out(8),
            "body": Out(BODY_BITS), "start": Out(1), "finished": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ended = Signal()
        m.d.comb += [self.i.ready.eq(~self.busy), ended.eq(self.busy & ~self.start & self.finished)]
        m.d.sync += [self.start.eq(self.i.valid & self.i.ready), self.done.eq(ended)]
        with m.If(ended):
            m.d.sync += self.busy.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.busy.eq(1), self.opcode.eq(self.i.payload.opcode), self.body.eq(self.i.payload.body)]
        return m
