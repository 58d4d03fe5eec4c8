"""Walker: positions of a COMPUTE in raster order, and where every bank reads for them.

    position (row, col): y = y0 + row*y_step, x = x0 + col*x_step, address = a0 + row*row_step + col*col_step
    bank b:              word[address + offset_b], zero unless enabled, 0 <= y + dy_b < height, 0 <= x + dx_b < width

Running sums and down-counters only: no multiplication, no comparison of two variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import CHUNK_BANK, Opcode
from .buffers import SpikeBanks
from .instruction import body_layout
from .pipeline import delayed

COORDINATE = signed(18)
ADDRESS_BITS = 20
BANK_HEADER = data.StructLayout({f.name: signed(f.width) if f.signed else f.width for f in CHUNK_BANK})
"""A bank's word of a chunk header."""


@dataclass(frozen=True)
class Read:
    """What one bank does at one position: the address, or None for a zero word."""

    address: int | None


class Walker(wiring.Component):
    """Emits one position per cycle.

    Ports: `start` (pulse; not while `busy`, but in the cycle of `last`), which takes `body` (COMPUTE instruction body;
    it stands since the cycle before); `busy`; `valid`, `y`, `x`, `address`, `emit` (col >= skip: an accumulator is
    touched), `pixel` (accumulator address: `acc_base` plus the count of positions emitted before), `first`, `last`
    (first and last position of the walk); `ending`: at most `near` positions are still to come after this one, or none
    is walked. It comes for the last positions of the last row only.

    Latency: the first position is out one cycle after `start`; then one per cycle, rows * cols in all.
    """

    body: Signal
    start: Signal
    busy: Signal
    valid: Signal
    y: Signal
    x: Signal
    address: Signal
    emit: Signal
    pixel: Signal
    first: Signal
    last: Signal
    ending: Signal

    near = 7

    def __init__(self) -> None:
        super().__init__({
            "body": In(416), "start": In(1), "busy": Out(1), "valid": Out(1), "y": Out(COORDINATE),
            "x": Out(COORDINATE), "address": Out(ADDRESS_BITS), "emit": Out(1), "pixel": Out(16), "first": Out(1),
            "last": Out(1), "ending": Out(1)})

    @staticmethod
    def cycles(rows: int, cols: int) -> int:
        """Cycles from `start` to `last`, both counted."""
        return rows * cols + 1

    @staticmethod
    def model(body: Mapping[str, int]) -> Iterator[tuple[int, int, int, bool, int]]:
        """Yield (y, x, address, emit, pixel) of every position."""
        pixel = body["acc_base"]
        for row in range(body["rows"]):
            for col in range(body["cols"]):
                emit = col >= body["skip"]
                address = body["address"] + row * body["row_step"] + col * body["col_step"]
                yield (body["y"] + row * body["y_step"], body["x"] + col * body["x_step"],
                       address % (1 << ADDRESS_BITS), emit, pixel % (1 << 16))
                pixel += emit

    def elaborate(self, platform: object) -> Module:
        m = Module()
        given, held = data.View(body_layout(Opcode.COMPUTE), self.body), Signal(body_layout(Opcode.COMPUTE))
        with m.If(self.start):
            m.d.sync += held.eq(given)
        row_end, last_row = self._count(m, given, held)
        m.d.comb += [self.valid.eq(self.busy), self.last.eq(row_end & last_row)]  # the last row is over when not busy
        row_address = Signal(ADDRESS_BITS)
        with m.If(self.busy):
            m.d.sync += [
                self.x.eq(Mux(row_end, held.x, self.x + held.x_step)), self.first.eq(0),
                self.address.eq(Mux(row_end, row_address, self.address) + Mux(row_end, held.row_step, held.col_step)),
                self.pixel.eq(self.pixel + self.emit)]
            with m.If(row_end):
                m.d.sync += [self.y.eq(self.y + held.y_step), row_address.eq(row_address + held.row_step)]
            with m.If(self.last):
                m.d.sync += self.busy.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1), self.first.eq(1), self.y.eq(given.y), self.x.eq(given.x),
                self.pixel.eq(given.acc_base), row_address.eq(given.address), self.address.eq(given.address)]
        return m

    def _count(self, m: Module, given: data.View, held: data.View) -> tuple[Value, Value]:
        """Count columns, skipped columns and rows down; returns the registers (last column, last row)."""
        row_end, last_row = Signal(name="row_end"), Signal(name="last_row")
        cols, skip, rows = Signal(16, name="cols_left"), Signal(8, name="skip_left"), Signal(16, name="rows_left")
        emitting = Signal(name="emitting")
        m.d.comb += [self.emit.eq(self.busy & emitting),
                     self.ending.eq(~self.busy | last_row & (cols <= self.near))]
        # What does not count is looked at ahead: whether the walk that comes, and that which goes on, is one wide.
        coming, held_one, held_all = (
            Signal(3, name="coming"), Signal(name="held_one_column"), Signal(name="held_without_skip"))
        m.d.sync += coming.eq(Cat(given.cols == 1, given.skip == 0, given.rows == 1))
        with m.If(self.start):
            m.d.sync += [Cat(held_one, held_all, last_row).eq(coming), rows.eq(given.rows - 1)]
        with m.Elif(self.busy & row_end):
            m.d.sync += [rows.eq(rows - 1), last_row.eq(rows == 1)]
        again = self.busy & row_end
        m.d.sync += cols.eq(Mux(self.start, given.cols, Mux(again, held.cols, cols)) - 1)
        with m.If(self.start):
            m.d.sync += [skip.eq(given.skip), Cat(row_end, emitting).eq(coming[:2])]
        with m.Elif(again):
            m.d.sync += [skip.eq(held.skip), row_end.eq(held_one), emitting.eq(held_all)]
        with m.Else():
            m.d.sync += [row_end.eq(cols == 1), skip.eq(skip - 1), emitting.eq(emitting | (skip == 1))]
        return row_end, last_row


class BankAddress(wiring.Component):
    """Address and border of one bank.

    Ports: `header` (BANK_HEADER), `y`, `x`, `address` of a position in, `height` and `width` a cycle later;
    `read_address` and, with the data of a memory that answers after `SpikeBanks.latency`, `in_range`.

    Latency: `read_address` 1, `in_range` 1 + `SpikeBanks.latency`.
    """

    header: Signal
    height: Signal
    width: Signal
    y: Signal
    x: Signal
    address: Signal
    read_address: Signal
    in_range: Signal

    latency = 1

    def __init__(self) -> None:
        super().__init__({
            "header": In(32), "height": In(16), "width": In(16), "y": In(COORDINATE), "x": In(COORDINATE),
            "address": In(ADDRESS_BITS), "read_address": Out(ADDRESS_BITS), "in_range": Out(1)})

    @staticmethod
    def model(header: Mapping[str, int], body: Mapping[str, int], y: int, x: int, address: int) -> Read:
        y, x = y + header["dy"], x + header["dx"]
        if not (header["enable"] and 0 <= y < body["height"] and 0 <= x < body["width"]):
            return Read(None)
        return Read((address + header["offset"]) % (1 << ADDRESS_BITS))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        header = data.View(BANK_HEADER, self.header)
        y, x = Signal(COORDINATE), Signal(COORDINATE)
        enable, inside = Signal(), Signal()
        m.d.sync += [
            y.eq(self.y + header.dy), x.eq(self.x + header.dx), enable.eq(header.enable),
            self.read_address.eq(self.address + header.offset),
            inside.eq(enable & (y >= 0) & (y < self.height) & (x >= 0) & (x < self.width))]
        m.d.comb += self.in_range.eq(delayed(m, inside, SpikeBanks.latency - 1, "inside_after"))
        return m


class BankReader(wiring.Component):
    """All banks: from a walker position to words.

    Ports: `headers` (32 bits per bank), `height`, `width`, `y`, `x`, `address` of a position in; `read_address` (per
    bank, 20 bits each) out to memories that answer after `SpikeBanks.latency`, `read_data` back; `words` out.

    Latency: `latency` cycles from position to `words`.
    """

    headers: Signal
    height: Signal
    width: Signal
    y: Signal
    x: Signal
    address: Signal
    read_address: Signal
    read_data: Signal
    words: Signal

    latency = BankAddress.latency + SpikeBanks.latency + 1

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        banks = config.banks
        super().__init__({
            "headers": In(32 * banks), "height": In(16), "width": In(16), "y": In(COORDINATE), "x": In(COORDINATE),
            "address": In(ADDRESS_BITS), "read_address": Out(ADDRESS_BITS * banks),
            "read_data": In(config.beat_bits * banks), "words": Out(config.beat_bits * banks)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.config.beat_bits
        height, width = Signal.like(self.height), Signal.like(self.width)
        m.d.sync += [height.eq(self.height), width.eq(self.width)]
        for bank in range(self.config.banks):
            m.submodules[f"bank{bank}"] = unit = BankAddress()
            word = self.words[bits * bank:bits * (bank + 1)]
            m.d.comb += [
                unit.header.eq(self.headers[32 * bank:32 * (bank + 1)]), unit.height.eq(height),
                unit.width.eq(width), unit.y.eq(self.y), unit.x.eq(self.x), unit.address.eq(self.address),
                self.read_address[ADDRESS_BITS * bank:ADDRESS_BITS * (bank + 1)].eq(unit.read_address)]
            m.d.sync += word.eq(self.read_data[bits * bank:bits * (bank + 1)] & unit.in_range.replicate(bits))
        return m
