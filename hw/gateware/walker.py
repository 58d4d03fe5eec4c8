"""Walker: positions of a COMPUTE in raster order, and where every bank reads for them.

    position (row, col): y = y0 + row*y_step, x = x0 + col*x_step, address = a0 + row*row_step + col*col_step
    bank b:              word[address + offset_b], zero unless enabled, 0 <= y + dy_b < height, 0 <= x + dx_b < width

Running sums only: no multiplication.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import CHUNK_BANK, Opcode
from .instruction import body_layout

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

    Ports: `body` (COMPUTE instruction body, stable while walking), `start` (pulse; not while `busy`), `busy`;
    `valid`, `y`, `x`, `address`, `emit` (col >= skip: an accumulator is touched), `pixel` (count of emitted
    positions), `first`, `last` (first and last position of the walk).

    Latency: the first position is out one cycle after `start`; then one per cycle, rows * cols in all. `start` may be
    given in the cycle of `last`.
    """

    def __init__(self) -> None:
        super().__init__({
            "body": In(416), "start": In(1), "busy": Out(1), "valid": Out(1), "y": Out(COORDINATE),
            "x": Out(COORDINATE), "address": Out(ADDRESS_BITS), "emit": Out(1), "pixel": Out(16), "first": Out(1),
            "last": Out(1)})

    @staticmethod
    def cycles(rows: int, cols: int) -> int:
        """Cycles from `start` to `last`, both counted."""
        return rows * cols + 1

    @staticmethod
    def model(body: Mapping[str, int]) -> Iterator[tuple[int, int, int, bool, int]]:
        """Yield (y, x, address, emit, pixel) of every position."""
        pixel = 0
        for row in range(body["rows"]):
            for col in range(body["cols"]):
                emit = col >= body["skip"]
                address = body["address"] + row * body["row_step"] + col * body["col_step"]
                yield (body["y"] + row * body["y_step"], body["x"] + col * body["x_step"],
                       address % (1 << ADDRESS_BITS), emit, pixel)
                pixel += emit

    def elaborate(self, platform: object) -> Module:
        m = Module()
        body = data.View(body_layout(Opcode.COMPUTE), self.body)
        row, col = Signal(16), Signal(16)
        row_address = Signal(ADDRESS_BITS)
        row_end = Signal()
        m.d.comb += [
            self.valid.eq(self.busy), row_end.eq(col == body.cols - 1),
            self.last.eq(self.busy & row_end & (row == body.rows - 1)), self.emit.eq(self.busy & (col >= body.skip)),
            self.first.eq(self.busy & (row == 0) & (col == 0))]
        with m.If(self.busy):
            m.d.sync += [col.eq(col + 1), self.x.eq(self.x + body.x_step), self.pixel.eq(self.pixel + self.emit),
                         self.address.eq(self.address + body.col_step)]
            with m.If(row_end):
                m.d.sync += [
                    row.eq(row + 1), col.eq(0), self.x.eq(body.x), self.y.eq(self.y + body.y_step),
                    row_address.eq(row_address + body.row_step), self.address.eq(row_address + body.row_step)]
            with m.If(self.last):
                m.d.sync += self.busy.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1), row.eq(0), col.eq(0), self.y.eq(body.y), self.x.eq(body.x), self.pixel.eq(0),
                row_address.eq(body.address), self.address.eq(body.address)]
        return m


class BankAddress(wiring.Component):
    """Address and border of one bank.

    Ports: `header` (BANK_HEADER), `height`, `width`, `y`, `x`, `address` in; `read_address` and, one cycle later,
    `in_range` (together with the data of a memory that answers in the next cycle).

    Latency: `read_address` 1, `in_range` 2.
    """

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
        enable = Signal()
        m.d.sync += [
            y.eq(self.y + header.dy), x.eq(self.x + header.dx), enable.eq(header.enable),
            self.read_address.eq(self.address + header.offset),
            self.in_range.eq(enable & (y >= 0) & (y < self.height) & (x >= 0) & (x < self.width))]
        return m


class BankReader(wiring.Component):
    """All banks: from a walker position to words.

    Ports: `headers` (32 bits per bank), `height`, `width`, `valid`, `y`, `x`, `address` in; `read_address` (per bank,
    20 bits each) out to memories that answer in the next cycle, `read_data` back; `words` out.

    Latency: `latency` cycles from position to `words`.
    """

    latency = 3

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
        for bank in range(self.config.banks):
            m.submodules[f"bank{bank}"] = unit = BankAddress()
            word = self.words[bits * bank:bits * (bank + 1)]
            m.d.comb += [
                unit.header.eq(self.headers[32 * bank:32 * (bank + 1)]), unit.height.eq(self.height),
                unit.width.eq(self.width), unit.y.eq(self.y), unit.x.eq(self.x), unit.address.eq(self.address),
                self.read_address[ADDRESS_BITS * bank:ADDRESS_BITS * (bank + 1)].eq(unit.read_address)]
            m.d.sync += word.eq(self.read_data[bits * bank:bits * (bank + 1)] & unit.in_range.replicate(bits))
        return m
