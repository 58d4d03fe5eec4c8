"""Compute engine: executes COMPUTE, chunk by chunk.

    i -> chunk fetch -> table fill --chunk--> walker -> bank reader -> table engine | depthwise unit -> accumulators
              |             |                   |            |  | temporal unit ^
         chunk headers  table loader       spike banks       '-> Hamming unit  |  -> matrix
                            '----------- tables -------------------------------'

Three stages, each a chunk ahead of the next: headers are read, tables filled, positions walked. Chunks follow each
other without regard to where one instruction ends and the next begins, so a chunk costs max(positions, cycles of its
table filling), and an instruction is taken long before the one before it is done.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import Accumulate, Core
from .accumulator import LANE_BITS, Accumulators
from .chunk_fetch import ChunkFetch, chunk_layout
from .depthwise import DepthwiseUnit
from .hamming import HammingUnit
from .pipeline import delayed_flag
from .table_engine import TableEngine
from .table_fill import TableFill
from .table_loader import TableLoader
from .temporal import TemporalUnit
from .walker import ADDRESS_BITS, BankReader, Walker

SUMS_DELAY = 3
"""Cycles from the announcement of an update to its sums: they pass one register on their way to the adders."""

_UPDATE = data.StructLayout({
    "valid": 1, "bank": 1, "mode": 2, "address": 16, "single": 1, "lane": LANE_BITS, "narrow": 1})

Summing = TableEngine | DepthwiseUnit | TemporalUnit
"""Units whose sums go to the accumulators."""


def delay(m: Module, value: Value, cycles: int, name: str) -> Signal:
    """`value` registered `cycles` times."""
    register = Signal(value.shape(), name=f"{name}_0")
    m.d.comb += register.eq(value)
    for stage in range(cycles):
        before, register = register, Signal(value.shape(), name=f"{name}_{stage + 1}")
        m.d.sync += register.eq(before)
    return register


class ComputeEngine(wiring.Component):
    """Executes COMPUTE instructions.

    Ports: `i` (stream of instruction bodies), `done` (pulse, once per instruction and in order); header buffer
    (`header_row` out, `header_data` in `RowBuffer.latency` cycles later); weight buffer (`weight_row`, `weight_data`,
    likewise); spike banks (`spike_address` per bank, `spike_data` `SpikeBanks.latency` cycles later); accumulator read
    port for the drain engine (`acc_bank`, `acc_address`, `acc_word` in, `acc_data` out after `acc_latency`); `matrix`
    (stream of beats of the Hamming unit).

    `done` comes when the last accumulator is written, or the Hamming unit has handed its last beat over. Meanwhile the
    next instructions may be under way: one is walked, one has its tables filled, one has its headers read.

    Cycles: a chunk of P positions after another one costs P cycles, or those of its table filling (16 per batch) if
    that takes longer; at least `Accumulators.spacing`. Before a COMPUTE of another unit, before each of the Hamming
    unit, and before one that does not begin with ZERO and walks other pixels than its predecessor, all positions
    come to their end first: `flush_cycles`.
    """

    i: stream.Interface
    done: Signal
    header_row: Signal
    header_data: Signal
    weight_row: Signal
    weight_data: Signal
    spike_address: Signal
    spike_data: Signal
    acc_bank: Signal
    acc_address: Signal
    acc_word: Signal
    acc_data: Signal
    matrix: stream.Interface

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.engine = TableEngine(config)
        self.depthwise = DepthwiseUnit(config)
        self.accumulators = Accumulators(config, sums_delay=SUMS_DELAY)
        self.hamming = HammingUnit(config)
        self.temporal = TemporalUnit(config) if config.temporal_unit else None
        if (most := TableLoader.latency - BankReader.latency + 1) < Walker.near:
            raise ValueError(f"`Walker.near` must be at most {most}, not `{Walker.near!r}`")
        bits, banks = config.beat_bits, config.banks
        super().__init__({
            "i": In(stream.Signature(416)), "done": Out(1),
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
        """Cycles from the last position until its accumulator is written and `done` comes."""
        latency = BankReader.latency + max(unit.latency for unit, _ in self._units)
        return latency - SUMS_DELAY + self.accumulators.spacing

    @property
    def _units(self) -> list[tuple[Summing, Core]]:
        """Those that make sums, the array first."""
        units: list[tuple[Summing, Core]] = [(self.engine, Core.ARRAY), (self.depthwise, Core.DEPTHWISE)]
        return units + ([(self.temporal, Core.TEMPORAL)] if self.temporal is not None else [])

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = self.engine
        m.submodules.depthwise = self.depthwise
        m.submodules.accumulators = self.accumulators
        m.submodules.hamming = self.hamming
        m.submodules.fetch = self.fetch = ChunkFetch(self.config)
        m.submodules.fill = self.fill = TableFill(self.config)
        m.submodules.loader = self.loader = TableLoader(self.config)
        m.submodules.walker = self.walker = Walker()
        m.submodules.reader = self.reader = BankReader(self.config)
        self.chunk = Signal(chunk_layout(self.config), name="walked")
        self.half, self.is_hamming = Signal(name="half"), Signal(name="is_hamming")
        self._prepare(m)
        words = self._positions(m)
        self._walk(m, words)
        self._accumulate(m, words)
        self._connect_hamming(m, words)
        if self.temporal is not None:
            m.submodules.temporal = self.temporal
            self._connect_temporal(m, self.temporal, words)
        return m

    def _prepare(self, m: Module) -> None:
        """Instructions -> chunks -> chunks with tables."""
        fetch, fill, loader = self.fetch, self.fill, self.loader
        wiring.connect(m, wiring.flipped(self.i), fetch.i)
        wiring.connect(m, fetch.o, fill.i)
        m.d.comb += [
            self.header_row.eq(fetch.header_row), fetch.header_data.eq(self.header_data),
            self.weight_row.eq(loader.read_row), loader.read_data.eq(self.weight_data),
            loader.start.eq(fill.start), loader.row.eq(fill.row), loader.batches.eq(fill.batches),
            loader.negate.eq(fill.negate), loader.bipolar.eq(fill.bipolar), loader.half.eq(fill.half),
            fill.ready.eq(loader.ready), fill.filled.eq(loader.filled), fill.ending.eq(self.walker.ending)]
        for unit, enable in ((self.engine, fill.core == Core.ARRAY), (self.depthwise, fill.core == Core.DEPTHWISE)):
            m.d.comb += [
                unit.write_en.eq(loader.write_en & enable), unit.write_batch.eq(loader.write_batch),
                unit.write_entry.eq(loader.write_entry), unit.write_table.eq(loader.write_table),
                unit.write_data.eq(loader.write_data)]

    def _walk(self, m: Module, words: data.View) -> None:
        """Start the walk of one chunk after the other; `done`."""
        walker, given = self.walker, self.fill.o.payload
        start, blocked = Signal(name="start"), Signal(name="blocked")
        m.d.comb += [
            start.eq(self.fill.o.valid & (walker.last | ~walker.busy) & ~blocked), self.fill.o.ready.eq(start),
            walker.start.eq(start), walker.body.eq(given.chunk.body)]
        with m.If(start):
            m.d.sync += [self.chunk.eq(given.chunk), self.half.eq(given.half),
                         self.is_hamming.eq(given.chunk.body.core == Core.HAMMING)]

        # Positions in flight, updates of one address too close, the Hamming unit putting out.
        flush, recent = Signal(range(self.flush_cycles + 2), name="flush"), Signal(self.accumulators.spacing - 2)
        matrix = Signal(name="matrix_to_come")
        with m.If(walker.valid):
            m.d.sync += flush.eq(self.flush_cycles + 1)
        with m.Elif(flush != 0):
            m.d.sync += flush.eq(flush - 1)
        m.d.sync += [
            recent.eq(Cat(start, recent)),
            blocked.eq(recent.any() | matrix | given.apart & (walker.valid | (flush != 0)))]
        put_out = self._put_out(m, words, matrix, start & (given.chunk.body.core == Core.HAMMING)
                                & given.chunk.common.finish)
        ended = walker.last & self.chunk.last & ~(self.is_hamming & self.chunk.common.finish)
        written = delayed_flag(m, ended, self.flush_cycles, "written")[self.flush_cycles]
        m.d.comb += self.done.eq(written | put_out & self.chunk.last)

    def _put_out(self, m: Module, words: data.View, matrix: Signal, start: Value) -> Value:
        """From the start of a chunk that the Hamming unit finishes until the last beat is handed over: `matrix`.

        Returns the pulse at its end.
        """
        begun, ended = Signal(name="matrix_begun"), Signal(name="matrix_ended")
        m.d.comb += [self.hamming.finish.eq(words.finish), ended.eq(begun & ~self.hamming.busy)]
        with m.If(words.finish):
            m.d.sync += begun.eq(1)
        with m.Elif(ended):
            m.d.sync += begun.eq(0)
        with m.If(start):
            m.d.sync += matrix.eq(1)
        with m.Elif(ended):
            m.d.sync += matrix.eq(0)
        return ended

    def _positions(self, m: Module) -> data.View:
        """Walker and bank reader; what belongs to a position, in the cycle of its words."""
        walker, reader, chunk = self.walker, self.reader, self.chunk
        m.d.comb += [
            reader.headers.eq(chunk.banks), reader.height.eq(chunk.body.height), reader.width.eq(chunk.body.width),
            reader.y.eq(walker.y), reader.x.eq(walker.x), reader.address.eq(walker.address),
            self.spike_address.eq(reader.read_address), reader.read_data.eq(self.spike_data)]
        layout = data.StructLayout({
            "valid": 1, "emit": 1, "first": 1, "finish": 1, "core": 2, "half": 1, "accumulate": 2, "bank": 1,
            "address": 16, "single": 1, "lane": LANE_BITS, **self._temporal_tag})
        tag = Signal(layout, name="tag")
        m.d.comb += [
            tag.valid.eq(walker.valid), tag.emit.eq(walker.emit), tag.first.eq(walker.first),
            tag.finish.eq(walker.last & self.is_hamming & chunk.common.finish), tag.core.eq(chunk.body.core),
            tag.half.eq(self.half), tag.accumulate.eq(chunk.common.accumulate), tag.bank.eq(chunk.body.acc_bank),
            tag.address.eq(walker.pixel), tag.single.eq(chunk.common.single), tag.lane.eq(chunk.common.lane)]
        if self.temporal is not None:
            m.d.comb += [tag.bipolar.eq(chunk.common.bipolar), tag.width.eq(chunk.common.operand)]
        return data.View(layout, delay(m, tag.as_value(), BankReader.latency, "tag"))

    def _accumulate(self, m: Module, words: data.View) -> None:
        """Words -> sums -> accumulators. Never are positions of two units in flight."""
        config, acc = self.config, self.accumulators
        for unit, core, banks in ((self.engine, Core.ARRAY, config.banks),
                                  (self.depthwise, Core.DEPTHWISE, config.depthwise_rows)):
            m.d.comb += [unit.words.eq(self.reader.words[:config.beat_bits * banks]), unit.half.eq(words.half),
                         unit.valid.eq(words.valid & (words.core == core))]
        updates = [(unit, self._update(m, words, unit, core)) for unit, core in self._units]
        chosen, below = updates[0][1].as_value(), config.beat_bits * self.engine.sum_bits
        own = Value.cast(self.engine.sums)
        sums = own[:below]
        for unit, update in updates[1:]:
            chosen = Mux(update.valid, update.as_value(), chosen)
            adding = delayed_flag(m, update.valid, SUMS_DELAY, f"{type(unit).__name__}_adds")[SUMS_DELAY]
            sums = Mux(adding, self._widen(unit), sums)
        last = Signal(_UPDATE, name="update")
        m.d.comb += [
            last.eq(chosen), acc.valid.eq(last.valid), acc.bank.eq(last.bank), acc.address.eq(last.address),
            acc.mode.eq(last.mode), acc.single.eq(last.single), acc.lane.eq(last.lane), acc.narrow.eq(last.narrow),
            acc.sums.eq(Cat(sums, own[below:])),
            acc.read_bank.eq(self.acc_bank), acc.read_address.eq(self.acc_address), acc.read_word.eq(self.acc_word),
            self.acc_data.eq(acc.read_data)]

    def _update(self, m: Module, words: data.View, unit: Summing, core: Core) -> data.View:
        """The update of the accumulators by a unit, `SUMS_DELAY` cycles ahead of its sums."""
        now = Signal(_UPDATE, name=f"{core.name.lower()}_update")
        m.d.comb += [now.valid.eq(words.emit & (words.core == core)), now.bank.eq(words.bank),
                     now.mode.eq(words.accumulate), now.address.eq(words.address), now.single.eq(words.single),
                     now.lane.eq(words.lane), now.narrow.eq(core != Core.ARRAY)]
        late = delay(m, now.as_value(), unit.latency - SUMS_DELAY, f"{core.name.lower()}_update")
        return data.View(_UPDATE, late)

    def _connect_hamming(self, m: Module, tag: data.View) -> None:
        bits, unit, common = self.config.beat_bits, self.hamming, self.chunk.common
        words = self.reader.words
        m.d.comb += [
            unit.key.eq(words[:bits]), unit.value.eq(words[bits:2 * bits]), unit.single.eq(tag.single),
            unit.lane.eq(tag.lane),
            unit.valid.eq(tag.emit & (tag.core == Core.HAMMING)),
            unit.clear.eq(tag.first & (tag.accumulate == Accumulate.ZERO)),
            unit.bipolar.eq(common.bipolar), unit.mask.eq(common.operand), unit.limbs.eq(common.limbs)]
        wiring.connect(m, unit.o, wiring.flipped(self.matrix))

    @property
    def _temporal_tag(self) -> dict[str, int]:
        """What the temporal unit needs with a position."""
        if self.temporal is None:
            return {}
        return {"bipolar": 1, "width": len(self.temporal.width)}

    def _connect_temporal(self, m: Module, unit: TemporalUnit, tag: data.View) -> None:
        m.d.comb += [
            unit.words.eq(self.reader.words[:2 * self.config.beat_bits]), unit.emit.eq(tag.emit),
            unit.valid.eq(tag.valid & (tag.core == Core.TEMPORAL)), unit.lane.eq(tag.lane),
            unit.bipolar.eq(tag.bipolar), unit.width.eq(tag.width)]

    def _widen(self, unit: Summing) -> ValueLike:
        """The sums of a unit with the width of the array's, for word 0."""
        config = self.config
        given = Value.cast(unit.sums)
        narrow = len(given) // config.beat_bits
        wide = len(self.engine.sums) // (config.outputs * config.lanes)
        values = [given[narrow * i:narrow * (i + 1)].as_signed() for i in range(config.beat_bits)]
        extended = [Cat(v, v[-1].replicate(wide - narrow)) if wide > narrow else v[:wide] for v in values]
        return Cat(*extended)
