"""Row load engine: DDR -> row buffers (weights, chunk headers, parameters) and residual buffer.

    instruction --> TransferReader --> beats --> SkidBuffer --> row buffer of the target
                                                      '-------> ItemAssembler --> residual buffer     (LOAD_SHORTCUT)

The requests of an instruction follow those of the one before at once; target and first row wait in a queue for its
beats.
"""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Member, Out
from amaranth.utils import ceil_log2

from spikeloom.config import MachineConfig

from ..isa import Opcode, Target
from .axi import ReadClient, ReadClientInterface
from .buffers import ROW_BITS, SLOT_BITS, row_write
from .engine import EngineControl, engine_members, region_base
from .instruction import body_layout
from .reader import TransferReader
from .sequencer import IN_FLIGHT
from .skid import SkidBuffer
from .transfer import assign_transfer

WEIGHT_OPCODES = (Opcode.LOAD_WEIGHTS, Opcode.LOAD_WEIGHTS_B)
ITEMS = len(Target)
"""Number of the residual buffer, after those of `Target`."""


def row_beats(config: MachineConfig, opcode: Opcode) -> Mapping[int, int]:
    """Target buffer number -> beats per row, for LOAD_WEIGHTS, LOAD_WEIGHTS_B and LOAD_SHORTCUT.

    Raises:
        ValueError: Another opcode.
    """
    if opcode in WEIGHT_OPCODES:
        return {Target.WEIGHTS: config.weight_row_bytes // config.beat_bytes,
                Target.CHUNKS: config.chunk_header_beats, Target.PARAMETERS: config.parameter_beats}
    if opcode is Opcode.LOAD_SHORTCUT:
        return {ITEMS: config.residual_beats}
    raise ValueError(f"`opcode` must be LOAD_WEIGHTS, LOAD_WEIGHTS_B or LOAD_SHORTCUT, not `{opcode!r}`")


def load_members(config: MachineConfig) -> dict[str, Member]:
    """Load port of the `ResidualBuffer`, seen from the engine."""
    return {"load_valid": Out(1), "load_row": Out(ceil_log2(config.residual_depth)),
            "load_data": Out(config.residual_beats * config.beat_bits), "load_ready": In(1)}


class ItemAssembler(wiring.Component):
    """Collects the beats of an item for the residual buffer, which is written by whole items.

    Ports: `i` (stream of `row_write`; slots rise from 0), `load_valid`, `load_row`, `load_data`, `load_ready`: see
    `ResidualBuffer`. The beat of the last slot completes an item.

    Throughput: one beat per cycle, unless an item waits.
    """

    i: stream.Interface
    load_valid: Signal
    load_row: Signal
    load_data: Signal
    load_ready: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            "i": In(stream.Signature(row_write(config.beat_bits))), **load_members(config)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat = self.i.payload
        m.d.comb += self.i.ready.eq(~self.load_valid | self.load_ready)
        with m.If(self.i.ready):
            m.d.sync += self.load_valid.eq(self.i.valid & (beat.slot == self.config.residual_beats - 1))
        slots = []
        for number in range(self.config.residual_beats):
            slots.append(slot := Signal(self.config.beat_bits, name=f"slot{number}", reset_less=True))
            with m.If(self.i.valid & self.i.ready & (beat.slot == number)):
                m.d.sync += slot.eq(beat.data)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += self.load_row.eq(beat.row)
        m.d.comb += self.load_data.eq(Cat(*slots))
        return m


class RowLoadEngine(wiring.Component):
    """Executes LOAD_WEIGHTS (`opcodes` is that), or LOAD_SHORTCUT and LOAD_WEIGHTS_B (`opcodes` are those two).

    Ports: those of `engine_members`; `reads` (`ReadClient`); `target0`, ...: for each `Target` a stream of `row_write`,
    to a writer of a `RowBuffer`; with LOAD_SHORTCUT also the load port of the `ResidualBuffer`. The first beat goes to
    slot 0 of the first row, the next to the next slot, after the last slot to the next row. Beats for an unknown
    target are read and dropped, and so are those of a last item that is not whole.

    Throughput: one beat per cycle, also from one instruction to the next, unless a buffer makes it wait.

    Raises:
        ValueError: Other opcodes.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    error: Signal
    bases: Signal
    reads: ReadClientInterface
    load_valid: Signal
    load_ready: Signal

    def __init__(self, config: MachineConfig, *opcodes: Opcode) -> None:
        if opcodes not in ((Opcode.LOAD_WEIGHTS,), (Opcode.LOAD_SHORTCUT, Opcode.LOAD_WEIGHTS_B)):
            raise ValueError(f"`opcodes` must be LOAD_WEIGHTS or LOAD_SHORTCUT, LOAD_WEIGHTS_B, not `{opcodes!r}`")
        self.config = config
        self.takes_items = Opcode.LOAD_SHORTCUT in opcodes
        self.row_beats = {**row_beats(config, Opcode.LOAD_WEIGHTS),
                          **(row_beats(config, Opcode.LOAD_SHORTCUT) if self.takes_items else {})}
        beats = stream.Signature(row_write(config.beat_bits))
        super().__init__({
            **engine_members(), "reads": Out(ReadClient(config)),
            **{f"target{target}": Out(beats) for target in Target},
            **(load_members(config) if self.takes_items else {})})

    @property
    def targets(self) -> list[stream.Interface]:
        """Ports `target0`, ..."""
        return [getattr(self, f"target{target}") for target in Target]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.control = control = EngineControl()
        m.submodules.reader = reader = TransferReader(self.config)
        wiring.connect(m, wiring.flipped(self.i), control.i)
        wiring.connect(m, reader.reads, wiring.flipped(self.reads))
        items = Signal()
        if self.takes_items:
            with m.If(self.i.valid & self.i.ready):
                m.d.sync += items.eq(self.i.payload.opcode == Opcode.LOAD_SHORTCUT)
        outputs = [*self.targets, *([self._assembler(m)] if self.takes_items else [])]
        m.d.comb += [
            self.done.eq(control.done), self.busy.eq(control.busy), self.error.eq(self.reads.error),
            reader.i.valid.eq(control.o.valid), control.o.ready.eq(reader.i.ready)]
        self._request(m, reader.i.payload, control.o.payload.body, items)
        target = self._targets(m, reader, control.o.payload.body, items)
        written = self._write(m, reader, outputs, target)
        m.d.comb += control.ended.eq(self._in_order(m, written) if self.takes_items else written)
        return m

    def _assembler(self, m: Module) -> stream.Interface:
        """Add the assembler of the items; returns its input."""
        m.submodules.assembler = assembler = ItemAssembler(self.config)
        for name, member in load_members(self.config).items():
            inner, outer = getattr(assembler, name), getattr(self, name)
            m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
        return assembler.i

    def _in_order(self, m: Module, written: Value) -> Signal:
        """`written`, held back while an item waits for the residual buffer: it may be the last one before."""
        held, ended = Signal(range(IN_FLIGHT + 1)), Signal()
        m.d.comb += ended.eq((held != 0) & ~(self.load_valid & ~self.load_ready))
        m.d.sync += held.eq(held + written - ended)
        return ended

    def _request(self, m: Module, transfer: data.View, body: Signal, items: Signal) -> None:
        weights = data.View(body_layout(Opcode.LOAD_WEIGHTS), body)
        with m.If(items):
            m.d.comb += assign_transfer(transfer, data.View(body_layout(Opcode.LOAD_SHORTCUT), body), self.bases)
        with m.Else():
            m.d.comb += [
                transfer.base.eq(region_base(self.bases, weights.region)), transfer.offset.eq(weights.offset),
                transfer.run.eq(weights.beats), transfer.count1.eq(1), transfer.count2.eq(1)]

    def _targets(self, m: Module, reader: TransferReader, body: Signal, items: Signal) -> data.View:
        """Buffer and first row of the instruction whose beats come, kept since its transfer was given."""
        weights, shortcut = (data.View(body_layout(op), body) for op in (Opcode.LOAD_WEIGHTS, Opcode.LOAD_SHORTCUT))
        layout = data.StructLayout({"items": 1, "target": len(weights.target), "row": ROW_BITS})
        m.submodules.targets_given = targets = fifo.SyncFIFO(width=layout.size, depth=IN_FLIGHT)
        given = data.View(layout, targets.w_data)
        m.d.comb += [
            targets.w_en.eq(reader.i.valid & reader.i.ready), targets.r_en.eq(reader.ended), given.items.eq(items),
            given.target.eq(weights.target), given.row.eq(Mux(items, shortcut.item, weights.row))]
        return data.View(layout, targets.r_data)

    def _write(self, m: Module, reader: TransferReader, outputs: list[stream.Interface], target: data.View) -> Value:
        """Beats to the buffers; counts slots and rows.

        An end of an instruction goes the way of the beats, with the last one or alone if there is none. Returns a
        pulse: it has come out and was taken.
        """
        beats, beat = reader.o, row_write(self.config.beat_bits)
        layout = data.StructLayout({"beat": beat, "output": len(outputs), "end": 1})
        m.submodules.skid = skid = SkidBuffer(layout)
        given, out = skid.i.payload, skid.o.payload
        rows, slot, last_slot = Signal(ROW_BITS), Signal(SLOT_BITS), Signal(SLOT_BITS)
        m.d.comb += [
            beats.ready.eq(skid.i.ready), skid.i.valid.eq(reader.offers),
            given.beat.row.eq(target.row + rows), given.beat.slot.eq(slot), given.beat.data.eq(beats.payload),
            given.end.eq(reader.ended)]
        for number, output in enumerate(outputs):
            chosen = target.items if number == ITEMS else ~target.items & (target.target == number)
            m.d.comb += [
                given.output[number].eq(beats.valid & chosen), output.payload.eq(out.beat),
                output.valid.eq(out.output[number])]
            with m.If(chosen):
                m.d.comb += last_slot.eq(self.row_beats[number] - 1)
        with m.If(reader.ended):
            m.d.sync += [rows.eq(0), slot.eq(0)]
        with m.Elif(beats.valid & beats.ready):
            m.d.sync += slot.eq(slot + 1)
            with m.If(slot == last_slot):
                m.d.sync += [slot.eq(0), rows.eq(rows + 1)]
        # No output is set without a beat: nor is one in what the empty buffer shows, what was there without `i.valid`.
        m.d.comb += skid.o.ready.eq(~Cat(output.valid & ~output.ready for output in outputs).any())
        return skid.o.valid & skid.o.ready & out.end
