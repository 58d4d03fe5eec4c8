"""Instruction bodies as Amaranth layouts, generated from `isa.FIELDS`.

An engine takes the raw body (`BODY_BITS` bits, as it stands in the instruction) and looks at it through
``body_layout(opcode)``; so one queue serves all opcodes and no field position is written down twice.
"""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from ..isa import BODY_HIGH, BODY_LOW, FIELDS, BitField, Opcode

__all__ = ["BODY_BITS", "body_layout", "fields_layout"]

BODY_BITS = BODY_HIGH - BODY_LOW
"""Width of an instruction body: 416 bits."""


def fields_layout(fields: tuple[BitField, ...], width: int) -> data.StructLayout:
    """Layout of `fields` from bit 0 up, signed where they are, filled up to `width` bits by a member `padding`.

    Raises:
        ValueError: The fields do not fit.
    """
    used = sum(entry.width for entry in fields)
    if used > width:
        raise ValueError(f"`width` must be at least {used}, not `{width!r}`")
    members = {entry.name: (signed if entry.signed else unsigned)(entry.width) for entry in fields}
    if used < width:
        members["padding"] = unsigned(width - used)
    return data.StructLayout(members)


def body_layout(opcode: Opcode) -> data.StructLayout:
    """Layout of the body of `opcode`: `data.View(body_layout(Opcode.DRAIN), bits).pixels`."""
    return fields_layout(FIELDS[opcode], BODY_BITS)
