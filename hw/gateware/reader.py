"""Transfer reader: a three-level transfer -> its beats, in order.

    i (TRANSFER) --> TransferGenerator --> SkidBuffer --> ReadClient.request ... ReadClient.data --> o (beats)
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from .axi import BURST, ReadClient, ReadClientInterface
from .engine import EndQueue
from .skid import SkidBuffer
from .transfer import TRANSFER, TransferGenerator


class TransferReader(wiring.Component):
    """Reads transfers.

    Ports: `i` (stream of `TRANSFER`, taken when all bursts of the one before were put out), `o` (stream of beats),
    `reads` (`ReadClient`), `busy`: from the cycle after a transfer is taken until its last beat has been taken from
    `o`; low at once for a transfer of no beats. `ended`: pulse, once per transfer and in order: its last beat is taken
    from `o`; of a transfer of no beats, between those of its neighbours, while `o.ready`. `offers`: a beat is on offer,
    or the end of a transfer of none. A beat comes 3 cycles after its request at the earliest.

    Throughput: one beat per cycle, also from transfer to transfer.
    """

    i: stream.Interface
    o: stream.Interface
    reads: ReadClientInterface
    busy: Signal
    ended: Signal
    offers: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            "i": In(stream.Signature(TRANSFER)), "o": Out(stream.Signature(config.beat_bits)),
            "reads": Out(ReadClient(config)), "busy": Out(1), "ended": Out(1),
            "offers": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.generator = generator = TransferGenerator(self.config)
        wiring.connect(m, wiring.flipped(self.i), generator.i)
        m.submodules.requests = requests = SkidBuffer(BURST)
        wiring.connect(m, generator.o, requests.i)
        wiring.connect(m, requests.o, wiring.flipped(self.reads.request))
        m.submodules.ends = ends = EndQueue()
        beats = self.reads.data
        m.d.comb += [
            self.o.payload.eq(beats.payload), self.o.valid.eq(beats.valid & ~ends.over),
            beats.ready.eq(self.o.ready & ~ends.over), ends.step.eq(self.o.valid & self.o.ready),
            ends.given.eq(generator.ended), ends.total.eq(generator.beats),
            self.ended.eq(self.o.ready & (ends.over | beats.valid & ends.last)), ends.taken.eq(self.ended),
            self.offers.eq(beats.valid | ends.over), self.busy.eq(generator.busy | ends.under_way)]
        return m
