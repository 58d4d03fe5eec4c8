"""Chunk fetch: cuts COMPUTE instructions into chunks, each with its header.

    i: instruction bodies -> header buffer -> o: chunks, in order
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import CHUNK_COMMON, Core, Opcode
from .buffers import RowBuffer
from .instruction import BODY_BITS, body_layout

__all__ = ["COMMON_HEADER", "ChunkFetch", "chunk_layout"]

COMMON_HEADER = data.StructLayout({f.name: f.width for f in CHUNK_COMMON})
"""First word of a chunk header."""


def chunk_layout(config: MachineConfig) -> data.StructLayout:
    """A chunk: body of its instruction, header; `loads`: it has tables of its own; first, last of its instruction."""
    return data.StructLayout({
        "body": body_layout(Opcode.COMPUTE), "common": COMMON_HEADER, "banks": 32 * config.banks, "loads": 1,
        "first": 1, "last": 1})  # fmt: skip


class ChunkFetch(wiring.Component):
    """Reads the headers of one instruction after the other.

    Ports: `i` (stream of COMPUTE bodies; the next one is taken when the last chunk of the one before is handed over),
    `header_row` out, `header_data` in `RowBuffer.latency` cycles later; `o` (stream of `chunk_layout`).

    Latency: a chunk is offered `latency` cycles after its instruction was taken or the chunk before was handed over.
    """

    i: stream.Interface
    header_row: Signal
    header_data: Signal
    o: stream.Interface

    latency = RowBuffer.latency + 2

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            "i": In(stream.Signature(BODY_BITS)), "header_row": Out(16),
            "header_data": In(config.beat_bits * config.chunk_header_beats),
            "o": Out(stream.Signature(chunk_layout(config)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chunk = Signal(chunk_layout(self.config), name="chunk")
        given = data.View(body_layout(Opcode.COMPUTE), self.i.payload)
        left = Signal(16, name="left")
        wait = Signal(range(RowBuffer.latency), name="wait")
        has_tables = (chunk.body.core == Core.ARRAY) | (chunk.body.core == Core.DEPTHWISE)
        m.d.comb += self.o.payload.eq(chunk)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [chunk.body.eq(given), chunk.first.eq(1), self.header_row.eq(given.chunk),
                             left.eq(given.chunks), wait.eq(RowBuffer.latency - 1)]
                with m.If(self.i.valid):
                    m.next = "READ"
            with m.State("READ"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.d.sync += [self.header_row.eq(self.header_row + 1), left.eq(left - 1), chunk.last.eq(left == 1)]
                    m.next = "TAKE"
            with m.State("TAKE"):
                common = data.View(COMMON_HEADER, self.header_data[:32])
                m.d.sync += [chunk.common.eq(common), chunk.loads.eq(common.load & has_tables),
                             chunk.banks.eq(self.header_data[32:32 * (1 + self.config.banks)]),
                             wait.eq(RowBuffer.latency - 1)]
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += chunk.first.eq(0)
                    m.next = "READ"
                    with m.If(chunk.last):
                        m.next = "IDLE"
        return m
