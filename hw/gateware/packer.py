"""Pixel packer: rows of RGB bytes in DDR -> bit-plane words of sliding windows in the spike banks.

    fetch: rows inside the picture, all frames --> line buffer (two rows) --filled--> walk
    walk: row, column, word; 8 slots per word, one lane each --> line buffer --window--> pad --> gather [lane][byte]
    emit: gathered windows --> 8 words, bit-plane 0 first --> write port of the spike banks

For input row y = row + r, output column ox and word j, channel i of lane t is the byte at position
n = start + ox * step + j * Wc + i of row y of frame t; where the picture has none (y outside 0..height-1 or n outside
0..row_bytes-1) it is pad[(j * Wc + i) % 3], and for t >= frames it is 0. Bit p of it is bit i * lanes + t of the word
that goes to all banks b with b % fold == j % fold, at
address + p * plane_stride + j // fold * word_stride + r * cols + ox.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import Opcode
from .axi import ADDRESS_BITS, ReadClient, ReadClientInterface
from .buffers import SPIKE_ADDRESS_BITS
from .instruction import BODY_BITS, body_layout
from .line_buffer import POSITION_BITS, LineBuffer
from .reader import TransferReader

PLANES = 8
"""Bit-planes of a byte; also the slots of a window: one lane is read per cycle while the window before is put out."""


class BankWrite(NamedTuple):
    """One word written to the banks of `mask`."""

    mask: int
    address: int
    data: int


class PixelPacker(wiring.Component):
    """Executes LOAD_PIXELS for the load engine.

    Ports:
        start: Pulse; `body` (416, as in the instruction) and `base` (absolute address of its offset) hold from then on.
        busy: From the next cycle on, until the cycle after the last write.
        reads: `ReadClient`.
        write_mask, write_address, write_data: Write port of `SpikeBanks`, valid where the mask is not 0.

    A row with `row_bytes` above `line_bytes` does not fit. Positions are 18 bits, signed. No multiplier.

    Throughput: one word written per cycle, one idle cycle per row: `cycles()`, while memory keeps up with `frames *
    row_bytes` bytes per row; the next row is fetched meanwhile.
    """

    start: Signal
    body: Signal
    base: Signal
    busy: Signal
    reads: ReadClientInterface
    write_mask: Signal
    write_address: Signal
    write_data: Signal

    latency = LineBuffer.latency + 2
    """From the last slot of a window to its first word, both included."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1), "body": In(BODY_BITS), "base": In(ADDRESS_BITS), "busy": Out(1),
            "reads": Out(ReadClient(config)), "write_mask": Out(config.banks),
            "write_address": Out(SPIKE_ADDRESS_BITS), "write_data": Out(config.beat_bits)})

    def cycles(self, rows: int, cols: int, words: int) -> int:
        """Cycles that `busy` is high, waiting for memory apart."""
        return rows * (PLANES * cols * words + 1) + self.latency - 1 + PLANES

    def model(self, memory: bytes, base: int, body: Mapping[str, int]) -> list[BankWrite]:
        """The writes of an instruction with fields `body`, in order; frame 0, row 0 is at `memory[base]`."""
        config, field = self.config, {entry: body[entry] for entry in body_fields() if entry in body}
        writes = []
        for r in range(field["rows"]):
            for ox in range(field["cols"]):
                for j in range(field["words"]):
                    values = [[self._value(memory, base, field, r, ox, j, i, t) for t in range(config.lanes)]
                              for i in range(config.word_channels)]
                    mask = sum(1 << b for b in range(config.banks) if (b - j) % field["fold"] == 0)
                    at = field["address"] + j // field["fold"] * field["word_stride"] + r * field["cols"] + ox
                    for p in range(PLANES):
                        word = sum((value >> p & 1) << (i * config.lanes + t)
                                   for i, lanes in enumerate(values) for t, value in enumerate(lanes))
                        address = (at + p * field["plane_stride"]) % (1 << SPIKE_ADDRESS_BITS)
                        writes.append(BankWrite(mask, address, word))
        return writes

    def _value(self, memory: bytes, base: int, field: Mapping[str, int], r: int, ox: int, j: int, i: int,
               t: int) -> int:
        """Channel i of word j, lane t."""
        if t >= field["frames"]:
            return 0
        y, channel = field["row"] + r, j * self.config.word_channels + i
        position = field["start"] + ox * field["step"] + channel
        if 0 <= y < field["height"] and 0 <= position < field["row_bytes"]:
            return memory[base + t * field["frame_stride"] + y * field["pitch"] + position]
        return field[f"pad{channel % 3}"]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        body = data.View(body_layout(Opcode.LOAD_PIXELS), self.body)
        m.submodules.line = line = LineBuffer(self.config)
        empty = (body.rows == 0) | (body.cols == 0) | (body.words == 0)
        fetching = self._fetch(m, body, line, empty)
        walk = _Walk(m, self.config, body, line, self.start & ~empty)
        gather, load = self._gather(m, body, line, walk)
        emitting = self._emit(m, body, walk, gather, load)
        m.d.comb += self.busy.eq(fetching | walk.active | walk.issued.any() | emitting)
        return m

    def _fetch(self, m: Module, body: data.View, line: LineBuffer, empty: Value) -> Value:
        """Request the rows inside the picture as one transfer; returns 'rows are still on the way'."""
        m.submodules.reader = reader = TransferReader(self.config)
        wiring.connect(m, reader.reads, wiring.flipped(self.reads))
        wiring.connect(m, reader.o, line.i)
        size = self.config.beat_bytes
        first, end, rows = Signal(17), Signal(signed(18)), Signal(16)
        m.d.comb += [
            first.eq(Mux(body.row < 0, 0, body.row)), end.eq(body.row + body.rows),
            line.row_beats.eq((body.row_bytes + size - 1) >> size.bit_length() - 1), line.frames.eq(body.frames),
            line.start.eq(self.start)]
        last = Mux(end < body.height, end, body.height)
        m.d.sync += rows.eq(Mux((last <= first.as_signed()) | empty, 0, last - first))
        address, locating = self._locate(m, body.pitch, first)
        m.d.comb += [
            reader.i.payload.address.eq(address), reader.i.payload.run.eq(line.row_beats),
            reader.i.payload.count1.eq(body.frames), reader.i.payload.stride1.eq(body.frame_stride),
            reader.i.payload.count2.eq(rows), reader.i.payload.stride2.eq(body.pitch)]
        requesting = Signal()
        m.d.sync += requesting.eq(locating)
        m.d.comb += reader.i.valid.eq(requesting & ~locating)
        return locating | requesting | reader.busy

    def _locate(self, m: Module, pitch: Value, first: Signal) -> tuple[Signal, Signal]:
        """`base + first * pitch` by shifting and adding, a bit per cycle; returns (address, busy)."""
        address, addend = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        bits, busy = Signal.like(first), Signal()
        with m.If(self.start):
            m.d.sync += [address.eq(self.base), addend.eq(pitch), bits.eq(first), busy.eq(1)]
        with m.Elif(busy):
            m.d.sync += [addend.eq(addend << 1), bits.eq(bits >> 1), busy.eq(bits.any())]
            with m.If(bits[0]):
                m.d.sync += address.eq(address + addend)
        return address, busy

    def _gather(self, m: Module, body: data.View, line: LineBuffer, walk: _Walk) -> tuple[list[Signal], Signal]:
        """Windows with padding, lane by lane; returns (bytes per lane, 'a window is complete')."""
        channels = self.config.word_channels
        pads = [Signal(8, name=f"pad{k}") for k in range(3)]
        with m.Switch(walk.phase_before_window):
            for phase in range(3):
                with m.Case(phase):
                    m.d.sync += [pads[k].eq(getattr(body, f"pad{(phase + k) % 3}")) for k in range(3)]
        value = Cat(Mux(walk.exists[i], line.window.word_select(i, 8), pads[i % 3]) for i in range(channels))
        gather = [Signal(8 * channels, name=f"gather{lane}") for lane in range(self.config.lanes)]
        for lane, register in enumerate(gather):
            with m.If(walk.window_slot == lane):
                m.d.sync += register.eq(Mux(lane < body.frames, value, 0))
        load = Signal()
        m.d.sync += load.eq(walk.issued[-1] & (walk.window_slot == PLANES - 1))
        return gather, load

    def _emit(self, m: Module, body: data.View, walk: _Walk, gather: list[Signal], load: Signal) -> Value:
        """Bit-planes of the gathered windows; returns 'there is something to put out'."""
        planes = [Signal.like(register, name=f"planes{lane}") for lane, register in enumerate(gather)]
        left, mask = Signal(range(PLANES + 1)), Signal(self.config.banks)
        channels = range(self.config.word_channels)
        m.d.comb += [
            self.write_mask.eq(Mux(left != 0, mask, 0)),
            self.write_data.eq(Cat(lane[8 * i] for i in channels for lane in planes))]
        with m.If(load):
            m.d.sync += [left.eq(PLANES), mask.eq(walk.mask), self.write_address.eq(walk.address)]
            m.d.sync += [lane.eq(register) for lane, register in zip(planes, gather, strict=True)]
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), self.write_address.eq(self.write_address + body.plane_stride)]
            m.d.sync += [lane.eq(lane >> 1) for lane in planes]
        return (left != 0) | load


class _Walk:
    """Walk over rows, columns, words and slots: running sums, and what travels with a window through the line buffer.

    Cycle 0 is the slot, in cycle `LineBuffer.latency` its window is there.

    Attributes:
        active: Slots are still to come.
        issued: Slots under way, one bit per stage; the highest belongs to the window that is there now.
        window_slot: Slot of that window.
        exists: Bit i: byte i of that window is inside the picture.
        phase_before_window: Colour of byte 0 of the window, one cycle before it is there.
        mask, address: Banks and plane 0 address of the window whose last slot was issued last.
    """

    def __init__(self, m: Module, config: MachineConfig, body: data.View, line: LineBuffer, start: Value) -> None:
        self.config, self.body, self.line = config, body, line
        self.active, self.issue = Signal(name="walking"), Signal(name="issue")
        self.slot = Signal(range(PLANES), name="slot")
        self.issued = Signal(LineBuffer.latency, name="issued")
        self.mask = Signal(config.banks, name="mask_of_window")
        self.address = Signal(SPIKE_ADDRESS_BITS, name="address_of_window")
        self.inside, self.phase = Signal(name="inside"), Signal(2, name="phase")
        self.position = Signal(signed(POSITION_BITS), name="position")
        self._follow(m)
        self._steps(m, start)

    def _follow(self, m: Module) -> None:
        """Pipeline beside the line buffer."""
        m.d.comb += [
            self.line.lane.eq(self.slot), self.line.position.eq(self.position)]
        m.d.sync += self.issued.eq(Cat(self.issue, self.issued))
        self.window_slot = _delayed(m, self.slot, LineBuffer.latency, "slot")
        self.phase_before_window = _delayed(m, self.phase, LineBuffer.latency - 1, "phase")
        channels = self.config.word_channels
        low, high = Signal(range(channels + 1)), Signal(range(channels + 1))
        before, after = -self.position, self.body.row_bytes - self.position
        with m.If(~self.inside):
            m.d.sync += [low.eq(channels), high.eq(0)]
        with m.Else():
            m.d.sync += [low.eq(_clamp(before, channels)), high.eq(_clamp(after, channels))]
        exists = Signal(channels)
        m.d.sync += exists.eq(Cat((low <= i) & (high > i) for i in range(channels)))
        self.exists = _delayed(m, exists, LineBuffer.latency - 2, "exists")

    def _steps(self, m: Module, start: Value) -> None:
        body, line = self.body, self.line
        y, rows_left, row_address = Signal(signed(18)), Signal(16), Signal(SPIKE_ADDRESS_BITS)
        cols_left, column_address = Signal(16), Signal(SPIKE_ADDRESS_BITS)
        column_position = Signal(signed(POSITION_BITS))
        word, word_address = Signal(4), Signal(SPIKE_ADDRESS_BITS)
        inside = Signal(name="row_inside")
        m.d.comb += inside.eq((y >= 0) & (y < body.height))

        def begin_column(position: Value, address: Value) -> None:
            m.d.sync += [
                column_position.eq(position), self.position.eq(position), column_address.eq(address),
                word_address.eq(address), word.eq(0), self.phase.eq(0)]

        def next_word() -> None:
            next_group = ((word + 1) & (body.fold - 1)) == 0
            m.d.sync += [
                word.eq(word + 1), self.position.eq(self.position + self.config.word_channels),
                self.phase.eq(_sum_mod_3(self.phase, self.config.word_channels % 3)),
                word_address.eq(word_address + Mux(next_group, body.word_stride, 0))]

        def note_window() -> None:
            m.d.sync += [
                self.address.eq(word_address),
                self.mask.eq(Cat(((word ^ bank) & (body.fold - 1)) == 0 for bank in range(self.config.banks)))]

        with m.FSM() as fsm:
            m.d.comb += self.active.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                with m.If(start):
                    m.d.sync += [y.eq(body.row), rows_left.eq(body.rows), row_address.eq(body.address)]
                    m.next = "ROW"
            with m.State("ROW"):
                begin_column(body.start, row_address)
                m.d.sync += [self.inside.eq(inside), cols_left.eq(body.cols)]
                with m.If(~inside | line.filled):
                    m.next = "WINDOWS"
            with m.State("WINDOWS"):
                m.d.comb += self.issue.eq(1)
                m.d.sync += self.slot.eq(self.slot + 1)
                with m.If(self.slot == PLANES - 1):
                    note_window()
                    with m.If(word + 1 != body.words):
                        next_word()
                    with m.Elif(cols_left != 1):
                        m.d.sync += cols_left.eq(cols_left - 1)
                        begin_column(column_position + body.step, column_address + 1)
                    with m.Else():
                        m.d.comb += line.release.eq(self.inside)
                        m.d.sync += [
                            y.eq(y + 1), rows_left.eq(rows_left - 1), row_address.eq(row_address + body.cols)]
                        m.next = "ROW"
                        with m.If(rows_left == 1):
                            m.next = "IDLE"


def body_fields() -> tuple[str, ...]:
    """Names of the fields of LOAD_PIXELS."""
    return tuple(name for name, _ in body_layout(Opcode.LOAD_PIXELS))


def _clamp(value: Value, limit: int) -> Value:
    """`value` clamped to 0..limit."""
    return Mux(value < 0, 0, Mux(value >= limit, limit, value))


def _sum_mod_3(phase: Value, addend: int) -> Value:
    return Mux(phase + addend >= 3, phase + addend - 3, phase + addend)


def _delayed(m: Module, signal: Signal, cycles: int, name: str) -> Signal:
    """`signal`, `cycles` cycles later."""
    for stage in range(cycles):
        register = Signal.like(signal, name=f"{name}_{stage + 1}")
        m.d.sync += register.eq(signal)
        signal = register
    return signal
