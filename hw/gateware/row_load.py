"""Row load engine: DDR -> row buffers (LOAD_WEIGHTS: weights, chunk headers, parameters; LOAD_SHORTCUT: items).

    instruction --> transfer generator --> ReadClient --> beats --> (row, slot) of the target buffer
"""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Out

from spikeloom.config import MachineConfig

from ..isa import Opcode, Target
from .axi import ReadClient, ReadClientInterface
from .engine import engine_members

ROW_BITS = 16


def row_beats(config: MachineConfig, opcode: Opcode) -> Mapping[int, int]:
    """Target buffer number -> beats per row, for LOAD_WEIGHTS and LOAD_SHORTCUT.

    Raises:
        ValueError: Another opcode.
    """
    if opcode is Opcode.LOAD_WEIGHTS:
        return {Target.WEIGHTS: config.weight_row_bytes // config.beat_bytes,
                Target.CHUNKS: config.chunk_header_beats, Target.PARAMETERS: config.parameter_beats}
    if opcode is Opcode.LOAD_SHORTCUT:
        return {0: config.residual_beats}
    raise ValueError(f"`opcode` must be LOAD_WEIGHTS or LOAD_SHORTCUT, not `{opcode!r}`")


class RowLoadEngine(wiring.Component):
    """Executes LOAD_WEIGHTS or LOAD_SHORTCUT, whichever `opcode` says.

    Ports: those of `engine_members`; `read` (`ReadClient`); to `RowBuffer`s `write_enable` (bit per target),
    `write_row` (16), `write_slot`, `write_data` (registers). The first beat goes to slot 0 of the first row, the next
    to the next slot, after the last slot to the next row. An unknown target is read and dropped.

    Throughput: one beat per cycle.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    error: Signal
    bases: Signal
    read: ReadClientInterface
    write_enable: Signal
    write_row: Signal
    write_slot: Signal
    write_data: Signal

    def __init__(self, config: MachineConfig, opcode: Opcode) -> None:
        self.config, self.opcode = config, opcode
        self.row_beats = row_beats(config, opcode)
        super().__init__({
            **engine_members(), "read": Out(ReadClient(config)), "write_enable": Out(len(self.row_beats)),
            "write_row": Out(ROW_BITS), "write_slot": Out(range(max(self.row_beats.values()))),
            "write_data": Out(config.beat_bits)})

    def elaborate(self, platform: object) -> Module:
        raise NotImplementedError("being written")
