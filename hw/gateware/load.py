"""Load engine: DDR -> spike banks, as words (LOAD) or as pixels through the packer (LOAD_PIXELS).

    LOAD        --> TransferReader --> beats -----------------v
    LOAD_PIXELS --> PixelPacker: rows, windows, bit-planes --> register --> write port of the spike banks
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import Out

from spikeloom.config import MachineConfig

from ..isa import Opcode
from .axi import ReadClient, ReadClientInterface
from .buffers import SPIKE_ADDRESS_BITS
from .engine import EngineControl, engine_members, region_address
from .instruction import body_layout
from .packer import PixelPacker
from .reader import TransferReader
from .transfer import assign_transfer


class LoadEngine(wiring.Component):
    """Executes LOAD and LOAD_PIXELS; any other opcode counts as LOAD.

    Ports: those of `engine_members`; `reads` (`ReadClient`); `write_mask`, `write_address` (20), `write_data` to
    `SpikeBanks` (registers). Addresses wrap at 2**20.

    Throughput: LOAD one beat per cycle; LOAD_PIXELS see `PixelPacker`.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    error: Signal
    bases: Signal
    reads: ReadClientInterface
    write_mask: Signal
    write_address: Signal
    write_data: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            **engine_members(), "reads": Out(ReadClient(config)), "write_mask": Out(config.banks),
            "write_address": Out(SPIKE_ADDRESS_BITS), "write_data": Out(config.beat_bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.control = control = EngineControl()
        m.submodules.reader = reader = TransferReader(self.config)
        m.submodules.packer = packer = PixelPacker(self.config)
        wiring.connect(m, wiring.flipped(self.i), control.i)
        pixels = Signal()
        m.d.comb += [
            pixels.eq(control.opcode == Opcode.LOAD_PIXELS), self.done.eq(control.done), self.busy.eq(control.busy),
            self.error.eq(self.reads.error), control.finished.eq(~reader.busy & ~packer.busy)]
        self._share(m, pixels, reader.reads, packer.reads)
        self._start_packer(m, packer, control, pixels)
        body = data.View(body_layout(Opcode.LOAD), control.body)
        m.d.comb += [
            reader.i.valid.eq(control.start & ~pixels), *assign_transfer(reader.i.payload, body, self.bases)]
        self._write(m, reader.o, packer, control.start, body)
        return m

    def _share(self, m: Module, pixels: Signal, words: ReadClientInterface, packed: ReadClientInterface) -> None:
        """The read client belongs to the reader or to the packer, by opcode."""
        for chosen, client in ((~pixels, words), (pixels, packed)):
            m.d.comb += [client.data.payload.eq(self.reads.data.payload), client.error.eq(self.reads.error)]
            with m.If(chosen):
                m.d.comb += [
                    self.reads.request.payload.eq(client.request.payload),
                    self.reads.request.valid.eq(client.request.valid),
                    client.request.ready.eq(self.reads.request.ready),
                    client.data.valid.eq(self.reads.data.valid), self.reads.data.ready.eq(client.data.ready)]

    def _start_packer(self, m: Module, packer: PixelPacker, control: EngineControl, pixels: Signal) -> None:
        body = data.View(body_layout(Opcode.LOAD_PIXELS), control.body)
        m.d.comb += [
            packer.start.eq(control.start & pixels), packer.body.eq(control.body),
            packer.base.eq(region_address(self.bases, body.region, body.offset))]

    def _write(self, m: Module, beats: stream.Interface, packer: PixelPacker, start: Signal, body: data.View) -> None:
        """Beats to rising addresses, or what the packer writes."""
        address = Signal(SPIKE_ADDRESS_BITS)
        m.d.comb += beats.ready.eq(1)
        m.d.sync += [self.write_mask.eq(packer.write_mask), self.write_address.eq(packer.write_address),
                     self.write_data.eq(packer.write_data)]
        with m.If(start):
            m.d.sync += address.eq(body.address)
        with m.If(beats.valid):
            m.d.sync += [self.write_mask.eq(body.bank_mask), self.write_address.eq(address),
                         self.write_data.eq(beats.payload), address.eq(address + 1)]
