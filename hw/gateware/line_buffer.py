"""Line buffer of the pixel packer: one pixel row of every lane, twice; windows at any byte position.

    beats --> fill: (half, lane, row of bytes) --> 2 * Wc byte-wide memories --> rotate --> rotate --> window
                                                    ^-- row or row + 1, memory by memory

Byte n of a line lies in memory n % (2 * Wc) at row n // (2 * Wc), so 2 * Wc bytes from any position on are one read of
all memories and a rotation. One half is filled while the other is read.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from spikeloom.config import MachineConfig

from .pipeline import delayed, register

POSITION_BITS = 18
"""Signed byte positions in a row."""

WINDOW_WORDS = 2
"""Words of `word_channels` bytes in a window."""


class LineBuffer(wiring.Component):
    """Two halves of `lanes` x `line_bytes` bytes.

    Ports:
        start: Pulse; empties both halves.
        row_beats (16, at least 1), frames (4): Beats of a row, lanes that have one; constant from `start` on.
        i: Stream of beats, row by row, in each lane by lane. Stalls while both halves are full; `ready` is a register.
        filled: Level: the half to be read is complete.
        release: Pulse: it is no longer needed; the reads of this cycle still count.
        lane, position (signed): Window to be read.
        window: Bytes `position .. position + window_bytes - 1` of that lane, lowest first, `latency` cycles later.
            Bytes that do not exist have any value.

    Latency: 5 cycles; a half is `filled` in the cycle after its last beat and can be read from then on. Throughput: one
    beat in and one window out per cycle.
    """

    start: Signal
    row_beats: Signal
    frames: Signal
    i: stream.Interface
    filled: Signal
    release: Signal
    lane: Signal
    position: Signal
    window: Signal

    latency = 5

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.window_bytes = WINDOW_WORDS * config.word_channels
        self.row_bits = max(1, ceil_log2(-(-config.line_bytes // self.window_bytes)))
        super().__init__({
            "start": In(1), "row_beats": In(16), "frames": In(4), "i": In(stream.Signature(config.beat_bits)),
            "filled": Out(1), "release": In(1), "lane": In(range(config.lanes)),
            "position": In(signed(POSITION_BITS)), "window": Out(8 * self.window_bytes)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = 2 * self.config.lanes << self.row_bits
        memories = []
        for index in range(self.window_bytes):
            m.submodules[f"bytes{index}"] = part = memory.Memory(shape=8, depth=depth, init=[])
            memories.append(part)
        full, write_half, read_half = Signal(2), Signal(), Signal()
        m.d.comb += self.filled.eq(full.bit_select(read_half, 1))
        self._fill(m, [part.write_port() for part in memories], full, write_half)
        self._read(m, [part.read_port() for part in memories], read_half)
        with m.If(self.release):
            m.d.sync += [full.bit_select(read_half, 1).eq(0), read_half.eq(~read_half)]
        with m.If(self.start):
            m.d.sync += [full.eq(0), write_half.eq(0), read_half.eq(0)]
        return m

    def _fill(self, m: Module, ports: list[memory.WritePort], full: Signal, half: Signal) -> None:
        """Beats to (half, lane, row), through a register."""
        beat, left, last = Signal(16), Signal(16), Signal()  # beats after this one; this one is the last of its row
        lane, taken, fills = Signal(range(self.config.lanes)), Signal(), Signal()  # `fills`: the half, with this beat
        m.d.comb += [taken.eq(self.i.valid & self.i.ready), fills.eq(taken & last & (lane + 1 == self.frames))]
        # If the half to be filled next is full, so is the other one, and it is this one that is read and released.
        m.d.sync += self.i.ready.eq(~full.bit_select(half ^ fills, 1) | self.release)
        self._store(m, ports, taken, beat, Cat(lane, half))
        with m.If(taken):
            m.d.sync += [beat.eq(beat + 1), left.eq(left - 1), last.eq(left == 1)]
            with m.If(last):
                m.d.sync += [beat.eq(0), lane.eq(lane + 1)]
                with m.If(fills):
                    m.d.sync += [lane.eq(0), full.bit_select(half, 1).eq(1), half.eq(~half)]
        with m.If(self.start):
            m.d.sync += [beat.eq(0), lane.eq(0), self.i.ready.eq(1)]
        with m.If(self.start | taken & last):
            m.d.sync += [left.eq(self.row_beats - 1), last.eq(self.row_beats == 1)]

    def _store(self, m: Module, ports: list[memory.WritePort], taken: Signal, beat: Signal, above: Value) -> None:
        """A beat covers the memories of one of `window_bytes / beat_bytes` groups."""
        size = self.config.beat_bytes
        group_bits = exact_log2(self.window_bytes // size)
        groups = Cat(taken & (beat[:group_bits] == group) for group in range(1 << group_bits))
        data = register(m, self.i.payload, "fill_data")
        address = register(m, Cat(beat[group_bits:group_bits + self.row_bits], above), "fill_address")
        enable = Signal(1 << group_bits, name="fill_enable")
        m.d.sync += enable.eq(groups)
        for index, port in enumerate(ports):
            m.d.comb += [
                port.addr.eq(address), port.data.eq(data.word_select(index % size, 8)),
                port.en.eq(enable[index // size])]

    def _read(self, m: Module, ports: list[memory.ReadPort], half: Signal) -> None:
        """Cycle 0: row and next row. Cycle 1: memories. Cycle 2: their output registers. Cycles 3, 4: rotation."""
        offset_bits = exact_log2(self.window_bytes)
        row, offset = self.position[offset_bits:offset_bits + self.row_bits], self.position[:offset_bits]
        low, high = register(m, row, "low"), register(m, (row + 1)[:self.row_bits], "high")
        above = register(m, Cat(self.lane, half), "above")
        last = len(ports) - 1  # no window begins beyond the last memory
        in_next = register(m, Cat(offset > index for index in range(last)), "in_next")
        for index, port in enumerate(ports):
            m.d.comb += port.addr.eq(Cat(low if index == last else Mux(in_next[index], high, low), above))
        read = register(m, Cat(port.data for port in ports), "read")
        half_bits = (offset_bits + 1) // 2
        turned = register(m, _rotated(read, delayed(m, offset, 3, "offset"), range(half_bits)), "turned")
        high_bits = range(half_bits, offset_bits)
        m.d.sync += self.window.eq(_rotated(turned, delayed(m, offset, 4, "late_offset"), high_bits))


def _rotated(value: Value, offset: Value, bits: range) -> Value:
    """`value` rotated to the right by the `bits` of `offset`, in bytes."""
    for bit in bits:
        value = Mux(offset[bit], value.rotate_right(8 << bit), value)
    return value
