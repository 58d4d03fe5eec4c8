"""Row load engine: DDR -> row buffers (LOAD_WEIGHTS: weights, chunk headers, parameters; LOAD_SHORTCUT: items).

    instruction --> TransferReader --> beats --> (row, slot) of the target buffer
"""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import Out

from spikeloom.config import MachineConfig

from ..isa import Opcode, Target
from .axi import ReadClient, ReadClientInterface
from .engine import EngineControl, engine_members, region_address
from .instruction import body_layout
from .reader import TransferReader
from .transfer import assign_transfer

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

    Ports: those of `engine_members`; `reads` (`ReadClient`); to `RowBuffer`s `write_en` (bit per target), `write_row`
    (16), `write_slot`, `write_data` (all registers). The first beat goes to slot 0 of the first row, the next to the
    next slot, after the last slot to the next row. Beats for an unknown target are read and dropped.

    Throughput: one beat per cycle.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    error: Signal
    bases: Signal
    reads: ReadClientInterface
    write_en: Signal
    write_row: Signal
    write_slot: Signal
    write_data: Signal

    def __init__(self, config: MachineConfig, opcode: Opcode) -> None:
        self.config, self.opcode = config, opcode
        self.row_beats = row_beats(config, opcode)
        super().__init__({
            **engine_members(), "reads": Out(ReadClient(config)), "write_en": Out(len(self.row_beats)),
            "write_row": Out(ROW_BITS), "write_slot": Out(range(max(self.row_beats.values()))),
            "write_data": Out(config.beat_bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.control = control = EngineControl()
        m.submodules.reader = reader = TransferReader(self.config)
        wiring.connect(m, wiring.flipped(self.i), control.i)
        wiring.connect(m, reader.reads, wiring.flipped(self.reads))
        m.d.comb += [
            self.done.eq(control.done), self.busy.eq(control.busy), self.error.eq(self.reads.error),
            reader.i.valid.eq(control.start), control.finished.eq(~reader.busy)]
        body = data.View(body_layout(self.opcode), control.body)
        self._request(m, reader.i.payload, body)
        self._write(m, reader.o, control.start, body)
        return m

    def _request(self, m: Module, transfer: data.View, body: data.View) -> None:
        if self.opcode is Opcode.LOAD_SHORTCUT:
            m.d.comb += assign_transfer(transfer, body, self.bases)
        else:
            m.d.comb += [
                transfer.address.eq(region_address(self.bases, body.region, body.offset)),
                transfer.run.eq(body.beats), transfer.count1.eq(1), transfer.count2.eq(1)]

    def _write(self, m: Module, beats: stream.Interface, start: Signal, body: data.View) -> None:
        """Beats to the row buffers through a register; counts slots and rows."""
        row, slot = Signal(ROW_BITS), Signal.like(self.write_slot)
        target, last_slot = Signal(range(max(self.row_beats) + 1)), Signal.like(slot)
        first_row = body.item if self.opcode is Opcode.LOAD_SHORTCUT else body.row
        if self.opcode is Opcode.LOAD_WEIGHTS:
            m.d.comb += target.eq(body.target)
        m.d.comb += beats.ready.eq(1)
        m.d.sync += [self.write_en.eq(0), self.write_row.eq(row), self.write_slot.eq(slot),
                     self.write_data.eq(beats.payload)]
        for number, count in self.row_beats.items():
            with m.If(target == number):
                m.d.comb += last_slot.eq(count - 1)
                m.d.sync += self.write_en[number].eq(beats.valid)
        with m.If(start):
            m.d.sync += [row.eq(first_row), slot.eq(0)]
        with m.Elif(beats.valid):
            m.d.sync += slot.eq(slot + 1)
            with m.If(slot == last_slot):
                m.d.sync += [slot.eq(0), row.eq(row + 1)]
