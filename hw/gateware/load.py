"""Load engine: DDR -> spike banks, as words (LOAD) or as pixels through the packer (LOAD_PIXELS).

    beats --> SkidBuffer --> TransferReader: LOAD ----------------------------v
                    '------> PixelPacker: rows, windows, bit-planes --> register --> write port of the spike banks

While the drain engine writes bit-planes into the banks, the register waits, and so does what is before it. The requests
of a LOAD follow those of the one before at once; banks and address of its beats wait in a queue until they come.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import Opcode
from .axi import ReadClient, ReadClientInterface
from .buffers import SPIKE_ADDRESS_BITS
from .engine import EngineControl, engine_members, region_base
from .instruction import body_layout
from .packer import PixelPacker
from .reader import TransferReader
from .sequencer import IN_FLIGHT
from .skid import SkidBuffer
from .transfer import assign_transfer


class LoadEngine(wiring.Component):
    """Executes LOAD and LOAD_PIXELS; any other opcode counts as LOAD.

    Ports: those of `engine_members`; `reads` (`ReadClient`); `write_mask`, `write_address` (20), `write_data`
    (`beat_bits` per bank; registers), `write_ready`: write port of `SpikeBanks`. LOAD gives all banks the same word.
    Addresses wrap at 2**20.

    Throughput: LOAD one beat per cycle, also from one to the next; LOAD_PIXELS see `PixelPacker`, it works alone. Both
    wait while `write_ready` is low.
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
    write_ready: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            **engine_members(), "reads": Out(ReadClient(config)), "write_mask": Out(config.banks),
            "write_address": Out(SPIKE_ADDRESS_BITS), "write_data": Out(config.beat_bits * config.banks),
            "write_ready": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.control = control = EngineControl()
        m.submodules.reader = reader = TransferReader(self.config)
        m.submodules.packer = packer = PixelPacker(self.config)
        wiring.connect(m, wiring.flipped(self.i), control.i)
        pixels, packing, packed, free, written, packer_ends, some = (Signal() for _ in range(7))
        m.d.comb += [
            self.done.eq(control.done),
            self.busy.eq(control.busy), self.error.eq(self.reads.error),
            free.eq(~some | self.write_ready),
            packed.eq(packing & packer_ends & free), control.ended.eq(packed | written),
            reader.i.valid.eq(control.o.valid & ~pixels), control.o.ready.eq(Mux(pixels, packed, reader.i.ready))]
        m.d.sync += packer_ends.eq(packing & ~packer.busy)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += pixels.eq(self.i.payload.opcode == Opcode.LOAD_PIXELS)
        self._share(m, packing, reader.reads, packer.reads)
        self._start_packer(m, packer, control, pixels & ~packing & ~packer.start)
        with m.If(packer.start):
            m.d.sync += packing.eq(1)
        with m.Elif(packed):
            m.d.sync += packing.eq(0)
        body = data.View(body_layout(Opcode.LOAD), control.o.payload.body)
        m.d.comb += assign_transfer(reader.i.payload, body, self.bases)
        self._write(m, reader, packer, body, some, free, written)
        return m

    def _share(self, m: Module, packing: Signal, words: ReadClientInterface, packed: ReadClientInterface) -> None:
        """The read client belongs to the packer while that works, else to the reader."""
        m.submodules.skid = skid = SkidBuffer(self.config.beat_bits)
        wiring.connect(m, wiring.flipped(self.reads.data), skid.i)
        for chosen, client in ((~packing, words), (packing, packed)):
            m.d.comb += [client.data.payload.eq(skid.o.payload), client.error.eq(self.reads.error)]
            with m.If(chosen):
                m.d.comb += [
                    self.reads.request.payload.eq(client.request.payload),
                    self.reads.request.valid.eq(client.request.valid),
                    client.request.ready.eq(self.reads.request.ready),
                    client.data.valid.eq(skid.o.valid), skid.o.ready.eq(client.data.ready)]

    def _start_packer(self, m: Module, packer: PixelPacker, control: EngineControl, pixels: Value) -> None:
        """LOAD_PIXELS begins when all instructions before it are done, and is held until it ends."""
        body = data.View(body_layout(Opcode.LOAD_PIXELS), control.o.payload.body)
        m.d.sync += packer.start.eq(control.o.valid & pixels & control.alone)
        m.d.comb += [
            packer.body.eq(control.o.payload.body),
            packer.base.eq(region_base(self.bases, body.region))]

    def _write(self, m: Module, reader: TransferReader, packer: PixelPacker, body: data.View, some: Signal,
               free: Signal, written: Signal) -> None:
        """Beats to rising addresses, or what the packer writes, through a register: there is `some`, or it is `free`.

        `written`: pulse: the register held the end of a LOAD, and that is written.
        """
        beats, count, last = reader.o, Signal(SPIKE_ADDRESS_BITS), Signal()
        target = self._targets(m, reader, body)
        m.d.comb += [beats.ready.eq(free), packer.write_ready.eq(free), written.eq(free & last)]
        with m.If(free):
            m.d.sync += [
                some.eq(packer.write_valid | beats.valid), last.eq(reader.ended), self.write_mask.eq(packer.write_mask),
                self.write_address.eq(packer.write_address), self.write_data.eq(packer.write_data)]
        with m.If(free & beats.valid):
            m.d.sync += [self.write_mask.eq(target.mask), self.write_address.eq(target.address + count),
                         self.write_data.eq(beats.payload.replicate(self.config.banks)), count.eq(count + 1)]
        with m.If(reader.ended):
            m.d.sync += count.eq(0)

    def _targets(self, m: Module, reader: TransferReader, body: data.View) -> data.View:
        """Banks and first address of the LOAD whose beats come, kept since its transfer was given."""
        layout = data.StructLayout({"mask": self.config.banks, "address": SPIKE_ADDRESS_BITS})
        m.submodules.targets = targets = fifo.SyncFIFO(width=layout.size, depth=IN_FLIGHT)
        given = data.View(layout, targets.w_data)
        m.d.comb += [
            targets.w_en.eq(reader.i.valid & reader.i.ready), targets.r_en.eq(reader.ended),
            given.mask.eq(body.bank_mask), given.address.eq(body.address)]
        return data.View(layout, targets.r_data)
