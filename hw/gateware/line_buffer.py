"""Line buffer of the pixel packer: one pixel row of every lane, twice; windows at any byte position.

    beats --> fill: (half, lane, word) --> Wc byte-wide memories --> rotate --> window
                                             ^-- word or word + 1, memory by memory

Byte n of a row lies in memory n % Wc at word n // Wc, so Wc bytes from any position on are one read of all memories
and a rotation. One half is filled while the other is read.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from spikeloom.config import MachineConfig

POSITION_BITS = 18
"""Signed byte positions in a row."""


class LineBuffer(wiring.Component):
    """Two halves of `lanes` x `line_bytes` bytes.

    Ports:
        start: Pulse; empties both halves.
        row_beats (16), frames (4): Beats of a row, lanes that have one; constant while in use.
        i: Stream of beats, row by row, in each lane by lane. Stalls while both halves are full.
        filled: Level: the half to be read is complete.
        release: Pulse: it is no longer needed; the reads of this cycle still count.
        lane, position (signed): Window to be read.
        window: Bytes `position .. position + word_channels - 1` of that lane, lowest first, `latency` cycles later.
            Bytes that do not exist have any value.

    Latency: 3 cycles. Throughput: one beat in and one window out per cycle.
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

    latency = 3

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.word_bits = max(1, ceil_log2(-(-config.line_bytes // config.word_channels)))
        super().__init__({
            "start": In(1), "row_beats": In(16), "frames": In(4), "i": In(stream.Signature(config.beat_bits)),
            "filled": Out(1), "release": In(1), "lane": In(range(config.lanes)),
            "position": In(signed(POSITION_BITS)), "window": Out(8 * config.word_channels)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = 2 * self.config.lanes << self.word_bits
        memories = []
        for index in range(self.config.word_channels):
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
        """Beats to (half, lane, word); a beat covers the memories of one of `8 / lanes` groups."""
        size = self.config.beat_bytes
        group_bits = exact_log2(self.config.word_channels // size)
        lane, beat, taken = Signal(range(self.config.lanes)), Signal(16), Signal()
        m.d.comb += [self.i.ready.eq(~full.bit_select(half, 1)), taken.eq(self.i.valid & self.i.ready)]
        for index, port in enumerate(ports):
            m.d.comb += [
                port.addr.eq(Cat(beat[group_bits:group_bits + self.word_bits], lane, half)),
                port.data.eq(self.i.payload.word_select(index % size, 8)),
                port.en.eq(taken & (beat[:group_bits] == index // size))]
        with m.If(taken):
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat + 1 == self.row_beats):
                m.d.sync += [beat.eq(0), lane.eq(lane + 1)]
                with m.If(lane + 1 == self.frames):
                    m.d.sync += [lane.eq(0), full.bit_select(half, 1).eq(1), half.eq(~half)]
        with m.If(self.start):
            m.d.sync += [lane.eq(0), beat.eq(0)]

    def _read(self, m: Module, ports: list[memory.ReadPort], half: Signal) -> None:
        """Cycle 0: word and next word. Cycle 1: memories. Cycle 2: rotation."""
        offset_bits = exact_log2(self.config.word_channels)
        low, high = Signal(self.word_bits), Signal(self.word_bits)
        offset, offset2 = Signal(offset_bits), Signal(offset_bits)
        above = Signal(len(self.lane) + 1)
        word = self.position[offset_bits:offset_bits + self.word_bits]
        m.d.sync += [
            low.eq(word), high.eq(word + 1), offset.eq(self.position[:offset_bits]), above.eq(Cat(self.lane, half)),
            offset2.eq(offset)]
        for index, port in enumerate(ports):
            last = index == len(ports) - 1  # no offset is beyond the last memory
            m.d.comb += port.addr.eq(Cat(low if last else Mux(index < offset, high, low), above))
        rotated: Value = Cat(port.data for port in ports)
        for stage in range(offset_bits):
            rotated = Mux(offset2[stage], rotated.rotate_right(8 << stage), rotated)
        m.d.sync += self.window.eq(rotated)
