"""Transfer reader: a three-level transfer -> its beats, in order.

    i (TRANSFER) --> TransferGenerator --> ReadClient.request ... ReadClient.data --> o (beats)
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from .axi import ReadClient, ReadClientInterface
from .transfer import TRANSFER, TransferGenerator

PENDING_BITS = 16
"""Holds the beats requested and not yet received; ports have less credit than that."""


class TransferReader(wiring.Component):
    """Reads transfers.

    Ports: `i` (stream of `TRANSFER`, taken when all bursts of the one before were put out), `o` (stream of beats),
    `reads` (`ReadClient`), `busy`: from the cycle after a transfer is taken until its last beat has been taken from
    `o`; low at once for a transfer of no beats.

    Throughput: one beat per cycle.
    """

    i: stream.Interface
    o: stream.Interface
    reads: ReadClientInterface
    busy: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            "i": In(stream.Signature(TRANSFER)), "o": Out(stream.Signature(config.beat_bits)),
            "reads": Out(ReadClient(config)), "busy": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.generator = generator = TransferGenerator(self.config)
        wiring.connect(m, wiring.flipped(self.i), generator.i)
        wiring.connect(m, generator.o, wiring.flipped(self.reads.request))
        wiring.connect(m, wiring.flipped(self.reads.data), wiring.flipped(self.o))
        pending = Signal(PENDING_BITS)
        request = self.reads.request
        requested = Mux(request.valid & request.ready, request.payload.length, 0)
        m.d.sync += pending.eq(pending + requested - (self.o.valid & self.o.ready))
        m.d.comb += self.busy.eq(generator.busy | pending.any())
        return m
