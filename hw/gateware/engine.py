"""What all engines have in common: how they take an instruction and report its end.

    sequencer --i--> engine --done--> sequencer
    control --bases--> engine
"""

from __future__ import annotations

from amaranth.hdl import Signal, Value
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Member, Out

from spikeloom.registers import REGION_NAMES

from ..isa import BODY_HIGH, BODY_LOW
from .axi import ADDRESS_BITS

BODY_BITS = BODY_HIGH - BODY_LOW

COMMAND = data.StructLayout({"opcode": 8, "body": BODY_BITS})
"""An instruction as an engine gets it; body fields: `instruction.body_layout(opcode)`."""

BASES_BITS = ADDRESS_BITS * len(REGION_NAMES)


def engine_members() -> dict[str, Member]:
    """Ports of an engine that moves data to or from DDR.

    * `i`: stream of `COMMAND`s, taken when idle.
    * `done`: pulse, once per instruction: its effects are visible from the next cycle on.
    * `busy`: from the cycle after the instruction is taken up to and including the cycle of `done`.
    * `error`: pulse: a transfer of this engine got an error response. The instruction still comes to its end.
    * `bases`: base addresses of the regions, REGION_NAMES[0] in the lowest bits; constant while busy.
    """
    return {"i": In(stream.Signature(COMMAND)), "done": Out(1), "busy": Out(1), "error": Out(1),
            "bases": In(BASES_BITS)}


def region_address(bases: Signal, region: Value, offset: Value) -> Value:
    """Absolute address of byte `offset` of region number `region`; wraps at 2**40."""
    return (bases.word_select(region, ADDRESS_BITS) + offset)[:ADDRESS_BITS]
