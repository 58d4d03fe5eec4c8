"""Pixel packer: rows of RGB bytes in DDR -> bit-plane words of sliding windows in the spike banks.

    fetch: rows inside the picture, all frames --> line buffer (two rows) --filled--> walk
    walk: row, column, pair of words; 8 slots per pair, one lane each --> line buffer --window--> pad --> transpose
    transpose: 8 lanes of a pair in, its 8 bit-planes out, plane 0 first --> FIFO --> write port of the spike banks

For input row y = row + r, output column ox and word j, channel i of lane t is the byte at position
n = start + ox * step + j * Wc + i of row y of frame t; where the picture has none (y outside 0..height-1 or n outside
0..row_bytes-1) it is pad[(j * Wc + i) % 3], and for t >= frames it is 0. Bit p of it is bit i * lanes + t of the word
that goes to all banks b with b % fold == j % fold, at
address + p * plane_stride + j // fold * word_stride + r * cols + ox.

Words j and j + 1, j even, have the same address if fold >= 2: they are read and written together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import Opcode
from .axi import ADDRESS_BITS, ReadClient, ReadClientInterface
from .buffers import SPIKE_ADDRESS_BITS
from .instruction import BODY_BITS, body_layout
from .line_buffer import POSITION_BITS, WINDOW_WORDS, LineBuffer
from .pipeline import chosen, delayed, delayed_flag, register
from .reader import TransferReader

PLANES = 8
"""Bit-planes of a byte; also the slots of a window: one lane is read per cycle while the window before is put out."""

WINDOWS_HELD = 4
"""Windows between the first slot and the banks; three keep up when nothing stalls."""


class BankWrite(NamedTuple):
    """One cycle of the write port: bank b of `mask` gets word b of `data`, which is 0 for the other banks."""

    mask: int
    address: int
    data: int


class PixelPacker(wiring.Component):
    """Executes LOAD_PIXELS for the load engine.

    Ports:
        start: Pulse; `body` (416, as in the instruction) and `base` (address of its region) hold from then on.
        busy: From the next cycle on, up to the cycle after the last write. Stays low if rows, cols or words is 0.
        reads: `ReadClient`.
        write_valid: A write is made.
        write_mask, write_address, write_data: Write port of the spike banks; the mask is 0 where there is none, and not
            where there is one. `write_data` holds a word for every bank, bank 0 lowest.
        write_ready: Level (1 if left unconnected). While it is low the mask is 0: the write waits. Nothing else
            follows from it in the same cycle.

    A row with `row_bytes` above `line_bytes` does not fit. Positions are 18 bits, signed. No multiplier.

    Throughput: 8 cycles per column and pair of words (per word with fold 1), one idle cycle per row: `cycles()`, while
    memory keeps up with `frames * row_bytes` bytes per row; the next row is fetched meanwhile.
    """

    start: Signal
    body: Signal
    base: Signal
    busy: Signal
    reads: ReadClientInterface
    write_valid: Signal
    write_mask: Signal
    write_address: Signal
    write_data: Signal
    write_ready: Signal

    latency = LineBuffer.latency + 3
    """From the last slot of a window to its first write, if nothing waits."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1), "body": In(BODY_BITS), "base": In(ADDRESS_BITS), "busy": Out(1),
            "reads": Out(ReadClient(config)), "write_valid": Out(1), "write_mask": Out(config.banks),
            "write_address": Out(SPIKE_ADDRESS_BITS), "write_data": Out(config.banks * config.beat_bits),
            "write_ready": In(1, init=1)})  # type: ignore[call-arg]

    @staticmethod
    def windows(words: int, fold: int) -> int:
        """Windows read per column."""
        return words if fold == 1 else -(-words // WINDOW_WORDS)

    def cycles(self, rows: int, cols: int, words: int, fold: int) -> int:
        """Cycles that `busy` is high, waiting for memory or for the banks apart."""
        return 1 + rows * (PLANES * cols * self.windows(words, fold) + 1) + self.latency + PLANES

    def model(self, memory: bytes, base: int, body: Mapping[str, int]) -> list[BankWrite]:
        """The writes of an instruction with fields `body`, in order; frame 0, row 0 is at `memory[base]`."""
        step = 1 if body["fold"] == 1 else WINDOW_WORDS
        writes = []
        for r in range(body["rows"]):
            for ox in range(body["cols"]):
                for j in range(0, body["words"], step):
                    words = [self._planes(memory, base, body, r, ox, k) for k in range(j, min(j + step, body["words"]))]
                    at = body["address"] + j // body["fold"] * body["word_stride"] + r * body["cols"] + ox
                    writes += [self._write(body, at, p, j, [planes[p] for planes in words]) for p in range(PLANES)]
        return writes

    def _write(self, body: Mapping[str, int], at: int, plane: int, first: int, words: Sequence[int]) -> BankWrite:
        """Words `first`, `first` + 1.. to their banks; `at` is the address of plane 0."""
        banks = [(bank, word) for j, word in enumerate(words, first) for bank in range(self.config.banks)
                 if (bank - j) % body["fold"] == 0]
        return BankWrite(sum(1 << bank for bank, _ in banks),
                         (at + plane * body["plane_stride"]) % (1 << SPIKE_ADDRESS_BITS),
                         sum(word << bank * self.config.beat_bits for bank, word in banks))

    def _planes(self, memory: bytes, base: int, body: Mapping[str, int], r: int, ox: int, j: int) -> list[int]:
        """The 8 bit-planes of word j."""
        lanes = self.config.lanes
        values = [(i * lanes + t, self._value(memory, base, body, r, ox, j * self.config.word_channels + i, t))
                  for i in range(self.config.word_channels) for t in range(lanes)]
        return [sum((value >> p & 1) << bit for bit, value in values) for p in range(PLANES)]

    @staticmethod
    def _value(memory: bytes, base: int, body: Mapping[str, int], r: int, ox: int, channel: int, t: int) -> int:
        """Byte `channel` of the whole window, lane t."""
        if t >= body["frames"]:
            return 0
        y, position = body["row"] + r, body["start"] + ox * body["step"] + channel
        if 0 <= y < body["height"] and 0 <= position < body["row_bytes"]:
            return memory[base + t * body["frame_stride"] + y * body["pitch"] + position]
        return body[f"pad{channel % 3}"]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        body = data.View(body_layout(Opcode.LOAD_PIXELS), self.body)
        m.submodules.line = line = LineBuffer(self.config)
        begin, room, waiting = Signal(), Signal(), Signal()
        m.d.comb += begin.eq(self.start & (body.rows != 0) & (body.cols != 0) & (body.words != 0))
        fetching = self._fetch(m, body, line, begin)
        walk = _Walk(m, self.config, body, line, begin, room)
        planes, complete = self._transpose(m, walk, self._values(m, body, line, walk))
        written = self._emit(m, body, walk, planes, complete)
        self._reserve(m, walk.reserve, written, room, waiting)
        m.d.comb += self.busy.eq(fetching | walk.active | waiting)
        return m

    def _fetch(self, m: Module, body: data.View, line: LineBuffer, begin: Value) -> Value:
        """Request the rows inside the picture as one transfer; returns 'rows are still on the way'."""
        m.submodules.reader = reader = TransferReader(self.config)
        wiring.connect(m, reader.reads, wiring.flipped(self.reads))
        wiring.connect(m, reader.o, line.i)
        size = self.config.beat_bytes
        # Cycle 0: first, end. Cycle 1: last. Cycle 2: none, count. Cycle 3: rows. The request: cycle 4 or later.
        first = register(m, Mux(body.row < 0, 0, body.row)[:16], "first")
        end = register(m, body.row + body.rows, "end", signed(18))
        last = register(m, Mux(end < body.height, end, body.height), "last", signed(18))
        none = register(m, last <= first, "none")
        rows = register(m, Mux(none, 0, register(m, (last - first)[:16], "count")), "rows")
        row_beats = register(m, (body.row_bytes + size - 1) >> size.bit_length() - 1, "row_beats")
        begun = Signal()
        m.d.sync += begun.eq(begin)
        m.d.comb += [line.row_beats.eq(row_beats), line.frames.eq(body.frames), line.start.eq(begun)]
        address, locating = self._locate(m, body, first, begun)
        m.d.comb += [
            reader.i.payload.base.eq(address), reader.i.payload.run.eq(row_beats),
            reader.i.payload.count1.eq(body.frames), reader.i.payload.stride1.eq(body.frame_stride),
            reader.i.payload.count2.eq(rows), reader.i.payload.stride2.eq(body.pitch)]
        requesting = Signal()
        m.d.sync += requesting.eq(locating)
        m.d.comb += reader.i.valid.eq(requesting & ~locating)
        return begun | locating | requesting | reader.busy

    def _locate(self, m: Module, body: data.View, first: Signal, begun: Value) -> tuple[Value, Signal]:
        """`base + offset + first * pitch`; returns (address, busy).

        Shifts and adds, a bit of `first` per cycle; the upper half of the sum follows one cycle behind the lower one.
        """
        half = ADDRESS_BITS // 2
        low, high = Signal(half + 1), Signal(half)  # bit `half` of `low` is to be carried into `high`
        addend, high_addend, bits = Signal(ADDRESS_BITS), Signal(half), Signal.like(first)
        adding, busy = Signal(), Signal()
        m.d.sync += [
            low.eq(low[:half] + Mux(bits[0], addend[:half], 0)), high_addend.eq(Mux(bits[0], addend[half:], 0)),
            high.eq(high + high_addend + low[half]), addend.eq(addend << 1), bits.eq(bits >> 1),
            adding.eq(bits.any()), busy.eq(adding)]
        with m.If(begun):
            m.d.sync += [
                low.eq(self.base[:half] + body.offset[:half]), high.eq(self.base[half:]),
                high_addend.eq(body.offset[half:]), addend.eq(body.pitch), bits.eq(first), adding.eq(1), busy.eq(1)]
        return Cat(low[:half], high), busy

    def _values(self, m: Module, body: data.View, line: LineBuffer, walk: _Walk) -> Value:
        """The window with padding, as planes: bit p of byte i is bit p * window_bytes + i; 0 beyond the last frame."""
        count = line.window_bytes
        pads = [Signal(8, name=f"pad{k}") for k in range(3)]
        with m.Switch(walk.phase_before_window):
            for phase in range(3):
                with m.Case(phase):
                    m.d.sync += [pads[k].eq(getattr(body, f"pad{(phase + k) % 3}")) for k in range(3)]
        frame = register(m, walk.slot_before_window < body.frames, "frame_there")
        planes = []
        for plane in range(PLANES):
            bits = Cat(line.window[8 * i + plane] for i in range(count))
            pad = Cat(pads[i % 3][plane] for i in range(count))
            planes.append((walk.exists & bits | ~walk.exists & pad) & frame.replicate(count))
        return Cat(*planes)

    def _transpose(self, m: Module, walk: _Walk, values: Value) -> tuple[list[Value], Signal]:
        """8 lanes of a window in, one after the other; returns (plane put out, per lane; 'the last lane goes in').

        The lanes gather in a queue. With the last one all move on at once to where the planes are chosen, in the 8
        cycles in which the next window gathers.
        """
        count = len(values) // PLANES
        gathered = values
        for stage in range(1, PLANES):
            gathered = Cat(register(m, gathered[:len(values)], f"lanes_before{stage}"), gathered)
        complete, plane = Signal(), Signal(range(PLANES), name="plane_put_out")
        window = Signal(len(values) * self.config.lanes, name="whole_window", reset_less=True)
        m.d.comb += complete.eq(walk.issued[-1] & (walk.window_slot == PLANES - 1))
        m.d.sync += plane.eq(plane + 1)
        with m.If(complete):
            m.d.sync += [window.eq(gathered[:len(window)]), plane.eq(0)]
        lanes = [window.word_select(lane, len(values)) for lane in range(self.config.lanes)]
        planes = [chosen([lane.word_select(number, count) for number in range(PLANES)], plane) for lane in lanes]
        return planes, complete

    def _emit(self, m: Module, body: data.View, walk: _Walk, planes: list[Value], complete: Signal) -> Value:
        """Planes of a window to the FIFO in the 8 cycles after `complete`, FIFO to the banks; returns 'written'."""
        banks, bits, channels = self.config.banks, self.config.beat_bits, self.config.word_channels
        left, mask, address = Signal(range(PLANES + 1)), Signal(banks), Signal(SPIKE_ADDRESS_BITS)
        with m.If(complete):
            m.d.sync += [left.eq(PLANES), mask.eq(walk.mask), address.eq(walk.address)]
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), address.eq(address + body.plane_stride)]
        even, odd = (Cat(lane[i] for i in range(first, first + channels) for lane in planes)
                     for first in (0, channels))
        item = data.View(
            data.StructLayout({"even": bits, "odd": bits, "address": SPIKE_ADDRESS_BITS, "mask": banks}),
            Cat(even, Mux(walk.single, even, odd), address, mask))
        depth = WINDOWS_HELD * PLANES
        m.submodules.writes = writes = fifo.SyncFIFOBuffered(width=len(item.as_value()), depth=depth + 1)
        out, written = data.View(item.shape(), writes.r_data), Signal()
        m.d.comb += [
            writes.w_en.eq(left != 0), writes.w_data.eq(item), writes.r_en.eq(self.write_ready),
            written.eq(writes.r_rdy & self.write_ready), self.write_valid.eq(written),
            self.write_mask.eq(out.mask & written.replicate(banks)),
            self.write_address.eq(out.address), self.write_data.eq(Cat(out.even, out.odd).replicate(banks // 2))]
        return written

    def _reserve(self, m: Module, reserve: Value, written: Value, room: Signal, waiting: Signal) -> None:
        """Windows between their first slot (`reserve`) and their last write: `waiting` for any, `room` for another."""
        held, plane, leaving = Signal(range(WINDOWS_HELD + 1)), Signal(range(PLANES)), Signal()
        m.d.comb += [room.eq(held != WINDOWS_HELD), waiting.eq(held != 0)]
        m.d.sync += [
            plane.eq(plane + written), leaving.eq(written & (plane == PLANES - 1)),
            held.eq(held + reserve - leaving)]


class _Walk:
    """Walk over rows, columns, windows and slots: running sums, and what travels beside a window.

    Cycle 0 is the slot, in cycle `LineBuffer.latency` its window is there. A window is begun only if there is `room`;
    its slots follow each other without a pause. Whatever the next step needs is worked out meanwhile, in registers.

    Attributes:
        active: Slots are still to come.
        reserve: Pulse: a window is begun.
        issued: Slots under way, one bit per stage; the highest belongs to the window that is there now.
        window_slot, slot_before_window: Slot of that window, and the same one cycle earlier.
        exists: Bit i: byte i of that window is inside the picture.
        phase_before_window: Colour of byte 0 of the window, one cycle before it is there.
        single: A window is one word, which goes to all banks (fold 1).
        mask, address: Banks and plane 0 address of the window whose last slot was issued last.
    """

    def __init__(self, m: Module, config: MachineConfig, body: data.View, line: LineBuffer, begin: Value,
                 room: Value) -> None:
        self.config, self.body, self.line, self.room = config, body, line, room
        self.active, self.reserve = Signal(name="walking"), Signal(name="reserve")
        self.issue, self.slot = Signal(name="issue"), Signal(range(PLANES), name="slot")
        self.mask = Signal(config.banks, name="mask_of_window")
        self.address = Signal(SPIKE_ADDRESS_BITS, name="address_of_window")
        self.inside, self.phase = Signal(name="inside"), Signal(2, name="phase")
        self.position = Signal(signed(POSITION_BITS), name="position")
        self.word, self.word_address = Signal(4, name="word"), Signal(SPIKE_ADDRESS_BITS, name="word_address")
        self.single = register(m, body.fold == 1, "single")
        self.fold_mask = register(m, (body.fold - 1)[:4], "fold_mask")
        self._follow(m)
        self._steps(m, begin)

    def _follow(self, m: Module) -> None:
        """Pipeline beside the line buffer."""
        line, latency = self.line, LineBuffer.latency
        m.d.comb += [line.lane.eq(self.slot), line.position.eq(self.position)]
        self.issued = delayed_flag(m, self.issue, latency, "issued")[1:]
        self.slot_before_window = delayed(m, self.slot, latency - 1, "slot_before_window")
        self.window_slot = register(m, self.slot_before_window, "window_slot")
        self.phase_before_window = delayed(m, self.phase, latency - 1, "phase_before_window")
        self.exists = self._exists(m)

    def _exists(self, m: Module) -> Signal:
        """Cycle 0: distances to the ends of the row. Cycle 1: limited to a window. Last cycle: compared."""
        count = self.line.window_bytes
        bits = count.bit_length()
        inside = register(m, self.inside, "inside1")
        before = register(m, -self.position, "before")
        after = register(m, self.body.row_bytes - self.position, "after")
        low = register(m, Mux(inside, _clamp(before, count), count)[:bits], "low")
        high = register(m, Mux(inside, _clamp(after, count), 0)[:bits], "high")
        wait = LineBuffer.latency - 3
        low, high = delayed(m, low, wait, "late_low"), delayed(m, high, wait, "late_high")
        return register(m, Cat((low <= i) & (high > i) for i in range(count)), "exists")

    def _next_word(self, m: Module) -> tuple[Signal, list[Any]]:
        """Returns ('this window is the last of its column', steps to the next one)."""
        body, word, line = self.body, self.word, self.line
        channels = self.config.word_channels
        step = Mux(self.single, 1, WINDOW_WORDS)
        last = register(m, (word + 1 == body.words) | (word + step == body.words), "last_word")
        new_group = register(m, ((word + step) & self.fold_mask) == 0, "new_group")
        group_address = register(m, (self.word_address + body.word_stride)[:SPIKE_ADDRESS_BITS], "group_address")
        bytes_on = Mux(self.single, channels, line.window_bytes)
        position = register(m, self.position + bytes_on, "next_position", signed(POSITION_BITS))
        phase = register(m, Mux(self.single, _sum_mod_3(self.phase, channels % 3),
                                _sum_mod_3(self.phase, line.window_bytes % 3)), "next_phase", unsigned(2))
        return last, [
            word.eq(word + step), self.position.eq(position), self.phase.eq(phase),
            self.word_address.eq(Mux(new_group, group_address, self.word_address))]

    def _note_window(self, m: Module) -> list[Any]:
        """Steps that keep mask and address of the window for when its planes are there."""
        alone = register(m, (self.word + 1 == self.body.words) & ~self.single, "alone")
        mask = register(m, Cat(
            (((self.word | bank % 2) ^ bank) & self.fold_mask) == 0 for bank in range(self.config.banks)), "next_mask")
        present = Cat(~alone if bank % 2 else 1 for bank in range(self.config.banks))
        return [self.address.eq(self.word_address), self.mask.eq(mask & present)]

    def _steps(self, m: Module, begin: Value) -> None:
        body, line = self.body, self.line
        y, rows_left, row_address = Signal(signed(18)), Signal(16), Signal(SPIKE_ADDRESS_BITS)
        cols_left, column_address = Signal(16), Signal(SPIKE_ADDRESS_BITS)
        column_position = Signal(signed(POSITION_BITS))
        last_word, next_word = self._next_word(m)
        note_window = self._note_window(m)
        last_col = register(m, cols_left == 1, "last_col")
        last_row = register(m, rows_left == 1, "last_row")
        next_column = register(m, column_position + body.step, "next_column", signed(POSITION_BITS))
        inside = register(m, (y >= 0) & (y < body.height), "next_inside")

        def begin_column(position: Value, address: Value) -> None:
            m.d.sync += [
                column_position.eq(position), self.position.eq(position), column_address.eq(address),
                self.word_address.eq(address), self.word.eq(0), self.phase.eq(0)]

        with m.FSM() as fsm:
            m.d.comb += self.active.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.sync += [y.eq(body.row), rows_left.eq(body.rows), row_address.eq(body.address)]
                with m.If(begin):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.next = "ROW"
            with m.State("ROW"):
                begin_column(body.start, row_address)
                m.d.sync += [self.inside.eq(inside), cols_left.eq(body.cols)]
                with m.If(~inside | line.filled):
                    m.d.sync += [y.eq(y + 1), row_address.eq(row_address + body.cols)]
                    m.next = "WINDOWS"
            with m.State("WINDOWS"):
                m.d.comb += [
                    self.issue.eq((self.slot != 0) | self.room), self.reserve.eq((self.slot == 0) & self.room)]
                m.d.sync += self.slot.eq(self.slot + self.issue)
                with m.If(self.slot == PLANES - 1):
                    m.d.sync += note_window
                    with m.If(~last_word):
                        m.d.sync += next_word
                    with m.Elif(~last_col):
                        m.d.sync += cols_left.eq(cols_left - 1)
                        begin_column(next_column, column_address + 1)
                    with m.Else():
                        m.d.comb += line.release.eq(self.inside)
                        m.d.sync += rows_left.eq(rows_left - 1)
                        m.next = "ROW"
                        with m.If(last_row):
                            m.next = "IDLE"


def _clamp(value: Value, limit: int) -> Value:
    """`value` clamped to 0..limit."""
    return Mux(value < 0, 0, Mux(value >= limit, limit, value))


def _sum_mod_3(phase: Value, addend: int) -> Value:
    return Mux(phase + addend >= 3, phase + addend - 3, phase + addend)
