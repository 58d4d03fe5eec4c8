"""Compute engine: executes COMPUTE, chunk by chunk.

    chunk headers -> prepare: fill the tables of the next chunk (other half) ----.
                                                                                 v
    spike banks -> walker -> bank reader -> table engine | depthwise unit -> accumulators
                                        '-> Hamming unit -> stream

Two processes: *prepare* reads the header of the next chunk and fills its tables while *stream* runs all positions of
the present one. A pass costs max(positions, table filling) cycles plus a few.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import CHUNK_COMMON, Accumulate, Core, Opcode
from .accumulator import Accumulators
from .depthwise import DepthwiseUnit
from .hamming import HammingUnit
from .instruction import body_layout
from .table_engine import TableEngine
from .table_loader import TableLoader
from .walker import ADDRESS_BITS, BankReader, Walker

COMMON_HEADER = data.StructLayout({f.name: f.width for f in CHUNK_COMMON})
TABLE_MARGIN = 16
"""Cycles after the start of a pass before its predecessor's tables may be overwritten; at least the latency from walker
to sums."""


def delay(m: Module, value: Value, cycles: int, name: str) -> Signal:
    """`value` registered `cycles` times."""
    register = Signal(value.shape(), name=f"{name}_0")
    m.d.comb += register.eq(value)
    for stage in range(cycles):
        before, register = register, Signal(value.shape(), name=f"{name}_{stage + 1}")
        m.d.sync += register.eq(before)
    return register


class ComputeEngine(wiring.Component):
    """Executes COMPUTE instructions, one at a time.

    Ports: `i` (stream of instruction bodies), `done` (pulse), `busy`; header buffer (`header_row` out, `header_data`
    in one cycle later); weight buffer (`weight_row`, `weight_data`); spike banks (`spike_address` per bank,
    `spike_data`); accumulator read port for the drain engine (`acc_bank`, `acc_address`, `acc_word` in, `acc_data`
    out after `acc_latency`); `matrix` (stream of beats of the Hamming unit).

    `done` comes when the last accumulator is written, or the Hamming unit has handed its last beat over.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.engine = TableEngine(config)
        self.depthwise = DepthwiseUnit(config)
        self.accumulators = Accumulators(config)
        self.hamming = HammingUnit(config)
        in_flight = BankReader.latency + max(self.engine.latency, self.depthwise.latency)
        if in_flight > TABLE_MARGIN:
            raise ValueError(f"`TABLE_MARGIN` must be at least {in_flight}, not `{TABLE_MARGIN!r}`")
        bits, banks = config.beat_bits, config.banks
        super().__init__({
            "i": In(stream.Signature(416)), "done": Out(1), "busy": Out(1),
            "header_row": Out(16), "header_data": In(bits * config.chunk_header_beats),
            "weight_row": Out(16), "weight_data": In(8 * config.weight_row_bytes),
            "spike_address": Out(ADDRESS_BITS * banks), "spike_data": In(bits * banks),
            "acc_bank": In(1), "acc_address": In(16), "acc_word": In(8),
            "acc_data": Out(24 * bits), "matrix": Out(stream.Signature(bits))})

    @property
    def acc_latency(self) -> int:
        """Cycles from `acc_address` to `acc_data`."""
        return self.accumulators.read_latency

    @property
    def flush_cycles(self) -> int:
        """Cycles from the last position until its accumulator is written."""
        return BankReader.latency + max(self.engine.latency, self.depthwise.latency) + self.accumulators.spacing + 2

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = self.engine
        m.submodules.depthwise = self.depthwise
        m.submodules.accumulators = self.accumulators
        m.submodules.hamming = self.hamming
        m.submodules.walker = self.walker = Walker()
        m.submodules.reader = self.reader = BankReader(self.config)
        m.submodules.loader = self.loader = TableLoader(self.config)
        self.body_bits = Signal(416, name="body")
        self.body = data.View(body_layout(Opcode.COMPUTE), self.body_bits)
        self.header = Signal(32 * (1 + self.config.banks), name="header")
        self.common = data.View(COMMON_HEADER, self.header[:32])
        self.next_header = Signal.like(self.header, name="next_header")
        self.next_common = data.View(COMMON_HEADER, self.next_header[:32])
        self.next_ready, self.take_next = Signal(name="next_ready"), Signal(name="take_next")
        self.half = Signal(name="half")
        self.accept = Signal(name="accept")
        self.chunks_left = Signal(16, name="chunks_left")
        self._prepare(m)
        self._stream(m)
        self._datapath(m)
        return m

    def _prepare(self, m: Module) -> None:
        """Read headers and fill tables, one chunk ahead of the stream process."""
        loader, body = self.loader, self.body
        row, left = Signal(16, name="prepare_row"), Signal(16, name="prepare_left")
        margin = Signal(range(TABLE_MARGIN + 1))
        config = self.config
        array_batches, depthwise_batches = (n // config.load_groups for n in (config.groups, config.depthwise_groups))
        m.d.comb += [
            self.header_row.eq(row), self.weight_row.eq(loader.read_row), loader.read_data.eq(self.weight_data),
            loader.row.eq(self.next_common.operand), loader.negate.eq(self.next_common.negate),
            loader.bipolar.eq(self.next_common.bipolar), loader.half.eq(~self.half),
            loader.batches.eq(Mux(body.core == Core.DEPTHWISE, depthwise_batches, array_batches))]
        with m.If(self.take_next):
            m.d.sync += margin.eq(TABLE_MARGIN)
        with m.Elif(margin != 0):
            m.d.sync += margin.eq(margin - 1)
        with m.FSM(name="prepare"):
            with m.State("IDLE"):
                m.d.sync += [row.eq(data.View(body_layout(Opcode.COMPUTE), self.i.payload).chunk),
                             left.eq(data.View(body_layout(Opcode.COMPUTE), self.i.payload).chunks)]
                with m.If(self.accept):
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.sync += row.eq(row + 1)
                m.next = "READ"
            with m.State("READ"):
                m.d.sync += [self.next_header.eq(self.header_data), left.eq(left - 1)]
                m.next = "CHECK"
            with m.State("CHECK"):
                with m.If((body.core == Core.HAMMING) | ~self.next_common.load):
                    m.next = "READY"
                with m.Elif(margin == 0):
                    m.d.comb += loader.start.eq(1)
                    m.next = "FILL"
            with m.State("FILL"):
                with m.If(~loader.busy):
                    m.next = "READY"
            with m.State("READY"):
                m.d.comb += self.next_ready.eq(1)
                with m.If(self.take_next):
                    m.next = "IDLE"
                    with m.If(left != 0):
                        m.next = "ADDRESS"

    def _stream(self, m: Module) -> None:
        """Walk all positions for chunk after chunk."""
        walker, body = self.walker, self.body
        spacing = Signal(range(self.accumulators.spacing + 1))
        flush = Signal(range(self.flush_cycles + 1))
        finish_wait = Signal(range(BankReader.latency + 3))
        m.d.comb += [walker.body.eq(self.body_bits), walker.start.eq(self.take_next)]
        with m.If(self.take_next):
            m.d.sync += [
                self.header.eq(self.next_header), self.chunks_left.eq(self.chunks_left - 1),
                spacing.eq(self.accumulators.spacing)]
            with m.If(self.next_common.load & (body.core != Core.HAMMING)):
                m.d.sync += self.half.eq(~self.half)
        with m.Elif(spacing != 0):
            m.d.sync += spacing.eq(spacing - 1)
        with m.FSM(name="stream") as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.comb += [self.i.ready.eq(1), self.accept.eq(self.i.valid)]
                m.d.sync += [
                    self.body_bits.eq(self.i.payload),
                    self.chunks_left.eq(data.View(body_layout(Opcode.COMPUTE), self.i.payload).chunks)]
                with m.If(self.i.valid):
                    m.next = "NEXT"
            with m.State("NEXT"):
                with m.If(self.next_ready & (spacing == 0)):
                    m.d.comb += self.take_next.eq(1)
                    m.next = "WALK"
            with m.State("WALK"):
                m.d.sync += [flush.eq(self.flush_cycles), finish_wait.eq(BankReader.latency + 2)]
                with m.If(walker.last):
                    with m.If((body.core == Core.HAMMING) & self.common.finish):
                        m.next = "FINISH"
                    with m.Elif(self.chunks_left == 0):
                        m.next = "FLUSH"
                    with m.Elif(self.next_ready & (spacing == 0)):
                        m.d.comb += self.take_next.eq(1)
                    with m.Else():
                        m.next = "NEXT"
            with m.State("FINISH"):
                m.d.sync += finish_wait.eq(finish_wait - 1)
                with m.If(finish_wait == 0):
                    m.d.comb += self.hamming.finish.eq(1)
                    m.next = "MATRIX"
            with m.State("MATRIX"):
                with m.If(~self.hamming.busy):
                    m.next = "NEXT"
                    with m.If(self.chunks_left == 0):
                        m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.sync += flush.eq(flush - 1)
                with m.If(flush == 0):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"

    def _datapath(self, m: Module) -> None:
        walker, reader, body = self.walker, self.reader, self.body
        # Border and offsets belong to the chunk that is walked; they settle in the cycle in which it starts.
        m.d.comb += [
            reader.headers.eq(self.header[32:]), reader.height.eq(body.height), reader.width.eq(body.width),
            reader.y.eq(walker.y), reader.x.eq(walker.x), reader.address.eq(walker.address),
            self.spike_address.eq(reader.read_address), reader.read_data.eq(self.spike_data)]
        tag = data.StructLayout({
            "valid": 1, "emit": 1, "first": 1, "core": 2, "half": 1, "accumulate": 2, "bank": 1, "address": 16,
            "bipolar": 1})
        at_walker = Signal(tag, name="tag")
        m.d.comb += [
            at_walker.valid.eq(walker.valid), at_walker.emit.eq(walker.emit), at_walker.first.eq(walker.first),
            at_walker.core.eq(body.core), at_walker.half.eq(self.half),
            at_walker.accumulate.eq(self.common.accumulate), at_walker.bank.eq(body.acc_bank),
            at_walker.address.eq(body.acc_base + walker.pixel)]
        at_words = data.View(tag, delay(m, at_walker.as_value(), BankReader.latency, "tag"))
        self._connect_units(m, at_words)
        self._connect_hamming(m, at_words)
        array = data.View(tag, delay(m, at_words.as_value(), self.engine.latency, "array_tag"))
        depthwise = data.View(tag, delay(m, at_words.as_value(), self.depthwise.latency, "depthwise_tag"))
        chosen = Signal(tag, name="chosen")
        is_depthwise = depthwise.valid & (depthwise.core == Core.DEPTHWISE)
        acc = self.accumulators
        m.d.comb += [
            chosen.eq(Mux(is_depthwise, depthwise.as_value(), array.as_value())),
            acc.valid.eq(chosen.emit & (is_depthwise | array.valid & (array.core == Core.ARRAY))),
            acc.bank.eq(chosen.bank), acc.address.eq(chosen.address), acc.mode.eq(chosen.accumulate),
            acc.sums.eq(Mux(is_depthwise, self._widen_depthwise(), self.engine.sums)),
            acc.read_bank.eq(self.acc_bank), acc.read_address.eq(self.acc_address), acc.read_word.eq(self.acc_word),
            self.acc_data.eq(acc.read_data)]

    def _connect_units(self, m: Module, tag: data.View) -> None:
        config, loader, words = self.config, self.loader, self.reader.words
        is_depthwise = self.body.core == Core.DEPTHWISE
        for unit, enable in ((self.engine, ~is_depthwise), (self.depthwise, is_depthwise)):
            m.d.comb += [
                unit.write_en.eq(loader.write_en & enable), unit.write_batch.eq(loader.write_batch),
                unit.write_entry.eq(loader.write_entry), unit.write_table.eq(loader.write_table),
                unit.write_data.eq(loader.write_data), unit.half.eq(tag.half)]
        m.d.comb += [
            self.engine.words.eq(words), self.engine.valid.eq(tag.valid & (tag.core == Core.ARRAY)),
            self.depthwise.words.eq(words[:config.beat_bits * config.depthwise_rows]),
            self.depthwise.valid.eq(tag.valid & (tag.core == Core.DEPTHWISE))]

    def _connect_hamming(self, m: Module, tag: data.View) -> None:
        bits, unit = self.config.beat_bits, self.hamming
        words = self.reader.words
        m.d.comb += [
            unit.key.eq(words[:bits]), unit.value.eq(words[bits:2 * bits]),
            unit.valid.eq(tag.emit & (tag.core == Core.HAMMING)),
            unit.clear.eq(tag.first & (tag.accumulate == Accumulate.ZERO)),
            unit.bipolar.eq(self.common.bipolar), unit.mask.eq(self.common.operand), unit.limbs.eq(self.common.limbs)]
        wiring.connect(m, unit.o, wiring.flipped(self.matrix))

    def _widen_depthwise(self) -> ValueLike:
        """The depthwise sums on word 0 of the array's outputs, zero on the others."""
        config = self.config
        narrow = len(self.depthwise.sums) // config.beat_bits
        wide = len(self.engine.sums) // (config.outputs * config.lanes)
        values = [self.depthwise.sums[narrow * i:narrow * (i + 1)].as_signed() for i in range(config.beat_bits)]
        extended = [Cat(v, v[-1].replicate(wide - narrow)) if wide > narrow else v[:wide] for v in values]
        return Cat(*extended)
