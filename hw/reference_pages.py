"""Reference pages generated from the tables that the hardware is generated from.

    python -m spikeloom.hw.reference_pages docs      writes docs/registers.md and docs/instructions.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from spikeloom.registers import ENGINE_NAMES, REGION_NAMES, REGISTERS, ErrorCode

from .isa import CHUNK_BANK, CHUNK_COMMON, ENGINE_OF, FIELDS, Accumulate, BitField, Core, Leak, Mode, Source, Target

__all__ = ["instructions_page", "pages", "registers_page"]

_NOTICE = "<!-- written by `python -m spikeloom.hw.reference_pages docs`; do not edit -->"
_ENUMS = (Target, Core, Mode, Leak, Source, Accumulate)


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows), ""]


def registers_page() -> str:
    """The register map, regions, engines and error codes as Markdown."""
    rows = []
    for entry in REGISTERS:
        reset = f"{entry.reset:#x}" if entry.reset else "0"
        rows.append((f"`{entry.offset:#05x}`", f"`{entry.name}`", entry.access, reset, entry.description))
        rows += [("", f"bit {f.low}: `{f.name}`", "", "", f.description) for f in entry.fields]
    lines = ["# Registers", "", _NOTICE, "", "AXI4-Lite slave `s_axi_ctrl`, 32-bit registers. Access: ro read-only, rw",
             "read-write, w1s write one to start, w1c write one to clear.", ""]
    lines += _table(("offset", "register", "access", "reset", "meaning"), rows)
    lines += ["## Numbers", ""]
    lines += _table(("number", "engine"), enumerate(ENGINE_NAMES))
    lines += _table(("number", "DDR region"), enumerate(REGION_NAMES))
    lines += _table(("number", "error code"), ((int(code), code.name) for code in ErrorCode))
    return "\n".join(lines).rstrip() + "\n"


def _fields(fields: tuple[BitField, ...], low: int) -> list[str]:
    rows = []
    for entry in fields:
        bits = f"{low + entry.width - 1}:{low}" if entry.width > 1 else str(low)
        rows.append((bits, f"`{entry.name}`", "signed" if entry.signed else "", entry.description))
        low += entry.width
    return _table(("bits", "field", "", "meaning"), rows)


def instructions_page() -> str:
    """Instruction bodies and chunk headers as Markdown; the frame is described in `hw/isa.py`."""
    lines = ["# Instructions", "", _NOTICE, "",
             "512 bits each; frame (opcode, tokens, layer, CRC) and execution order: `hw/isa.py`. Bits below count",
             "from the start of the body, bit 64 of the instruction.", ""]
    for opcode, fields in FIELDS.items():
        lines += [f"## {opcode.name} (opcode {int(opcode)}, engine {ENGINE_OF[opcode].name.lower()})", ""]
        lines += _fields(fields, 0) if fields else ["No body.", ""]
    lines += ["## Chunk header", "", "The common word, then one word per bank.", ""]
    lines += _fields(CHUNK_COMMON, 0) + _fields(CHUNK_BANK, 0)
    lines += ["## Values", ""]
    for kind in _ENUMS:
        lines += [f"* {kind.__name__}: " + ", ".join(f"{int(value)} {value.name}" for value in kind)]
    return "\n".join(lines).rstrip() + "\n"


def pages() -> dict[str, str]:
    """File name -> text."""
    return {"registers.md": registers_page(), "instructions.md": instructions_page()}


def main(arguments: list[str]) -> int:
    """Write the pages into the folder given."""
    if len(arguments) != 1:
        print("usage: python -m spikeloom.hw.reference_pages FOLDER", file=sys.stderr)
        return 2
    for name, text in pages().items():
        (Path(arguments[0]) / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
