"""Amaranth's RTLIL back end without its slow spots: the same text, faster.

`amaranth.back.rtlil` 0.5.10 makes an object of every bit of a memory's initial contents: minutes and gigabytes for
the 20 Mbit of the flagship. Memories of zeros, which are all but a few, get no initial contents here at all: Yosys
takes a minute and a half to read, move and write 30 MB of zeros. `emit` clears them in the Verilog.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue]  (not in amaranth-stubs)

__all__ = ["convert"]


class _ModuleEmitter(rtlil.ModuleEmitter):
    """As Amaranth's, but initial contents are written row by row, and only if they are not all zero."""

    def emit_memory(self, cell_idx: int, cell: Any) -> None:
        if not any(cell.init):
            return
        mask = (1 << cell.width) - 1
        data = "".join(format(row & mask, f"0{cell.width}b") for row in reversed(cell.init)) if cell.width else ""
        self.builder.cell("$meminit_v2", ports={
            "ADDR": self.sigspec(), "DATA": f"{len(data)}'{data}" if data else self.sigspec(),
            "EN": f"{cell.width}'{'1' * cell.width}" if cell.width else self.sigspec(),
        }, parameters={
            "MEMID": self.memories[cell_idx].memid, "ABITS": 0, "WIDTH": cell.width, "WORDS": cell.depth,
            "PRIORITY": 0,
        }, src_loc=cell.src_loc)  # fmt: skip


def convert(component: Any, *, name: str, ports: Any = None) -> str:
    """`amaranth.back.rtlil.convert` without source locations and without zeros as initial contents of memories."""
    with _replaced(rtlil, "ModuleEmitter", _ModuleEmitter), _uncollected():
        return rtlil.convert(component, name=name, ports=ports, emit_src=False)


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: a netlist is millions of live objects, none of them garbage."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
