"""On-chip buffers between the DMA engines, which write beats, and the units, which read rows or words.

All memories here have one write and one read port, no byte enables and no initial value: they map to UltraRAM as
well as to block RAM. Reading and writing one address in the same cycle gives the old value; programs never do.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spikeloom.config import MachineConfig

SPIKE_ADDRESS_BITS = 20
"""Bits of a spike bank address in an instruction; a bank uses as many of the low ones as it needs."""

ROW_BITS = 16
"""Bits of a row number in an instruction; a buffer uses as many of the low ones as it needs."""

SLOT_BITS = 8
"""Bits of the number of a beat in its row."""

ULTRA_DEPTH = 2048
"""Spike banks of at least that many words are UltraRAM (4096 words deep, 72 bits wide)."""


def row_write(beat_bits: int) -> data.StructLayout:
    """One beat for a row buffer: `row`, `slot`, `data`."""
    return data.StructLayout({"row": ROW_BITS, "slot": SLOT_BITS, "data": beat_bits})


class RowBuffer(wiring.Component):
    """`depth` rows of `row_beats` beats: written by beats, read by rows (weights, headers, parameters).

    Ports: `writer0`, `writer1` (streams of `row_write`); `read_en` (1 if left unconnected), `read_row`, `read_data`
    (`row_beats * beat_bits`, slot 0 lowest). Row numbers are taken modulo the next power of two; rows from `depth` on
    do not exist: writing them does nothing, reading them gives anything. Slots from `row_beats` on are dropped.

    Two writers: writer 0 never waits. Writer 1 waits while writer 0 has a beat; with `parallel`, only while that is
    for the same slot, so that two writers that fill row after row both run at one beat per cycle.

    Args:
        used: Bits of a row that are kept (bit i = 1), all by default; the others read as 0.

    Latency: a read takes 1 cycle and holds its value while `read_en` is low; a write is seen by reads begun in the
    next cycle.

    Raises:
        ValueError: A number out of range.
    """

    read_en: Signal
    read_row: Signal
    read_data: Signal

    latency = 1

    def __init__(self, depth: int, row_beats: int, beat_bits: int, *, writers: int = 1, parallel: bool = False,
                 style: str | None = None, used: int | None = None) -> None:
        for name, value in (("depth", depth), ("row_beats", row_beats), ("beat_bits", beat_bits)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, not `{value!r}`")
        if row_beats > 1 << SLOT_BITS:
            raise ValueError(f"`row_beats` must be at most {1 << SLOT_BITS}, not `{row_beats!r}`")
        if writers not in (1, 2):
            raise ValueError(f"`writers` must be 1 or 2, not `{writers!r}`")
        every = (1 << row_beats * beat_bits) - 1
        self.used = every if used is None else used
        if not 0 < self.used <= every:
            raise ValueError(f"`used` must have 1 to {row_beats * beat_bits} bits, not `{used:#x}`")
        self.depth, self.row_beats, self.beat_bits, self.style = depth, row_beats, beat_bits, style
        self.count, self.parallel = writers, parallel
        super().__init__({
            **{f"writer{i}": In(stream.Signature(row_write(beat_bits))) for i in range(writers)},
            "read_en": In(1, init=1), "read_row": In(ceil_log2(depth)),  # type: ignore[call-arg]
            "read_data": Out(row_beats * beat_bits)})

    @property
    def writers(self) -> list[stream.Interface]:
        """Ports `writer0`, ..."""
        return [getattr(self, f"writer{i}") for i in range(self.count)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, last = self.writers[0], self.writers[-1]
        m.d.comb += first.ready.eq(1)
        if self.count == 2:
            same_slot = first.payload.slot == last.payload.slot
            m.d.comb += last.ready.eq(~(first.valid & (same_slot | (not self.parallel))))
        parts = []
        for slot in range(self.row_beats):
            runs = _runs(self.used >> slot * self.beat_bits, self.beat_bits)
            column = _memory(m, f"slot{slot}", sum(len(run) for run in runs), self.depth, self.style)
            write, read = column.write_port(), column.read_port()
            en, beat = self._beat_for(slot)
            m.d.comb += [
                write.en.eq(en), write.addr.eq(beat.row), read.en.eq(self.read_en), read.addr.eq(self.read_row),
                write.data.eq(Cat(beat.data[run.start:run.stop] for run in runs))]
            word, place = Signal(self.beat_bits, name=f"word{slot}"), 0
            for run in runs:
                m.d.comb += word[run.start:run.stop].eq(read.data[place:place + len(run)])
                place += len(run)
            parts.append(word)
        m.d.comb += self.read_data.eq(Cat(*parts))
        return m

    def _beat_for(self, slot: int) -> tuple[Value, data.View]:
        """(There is a beat for this slot, the beat.)"""
        hits = [writer.valid & (writer.payload.slot == slot) for writer in self.writers]
        if self.count == 1:
            return hits[0], self.writers[0].payload
        choice = hits[0] if self.parallel else self.writers[0].valid
        chosen = Mux(choice, *(Value.cast(writer.payload) for writer in self.writers))
        return Mux(choice, *hits), data.View(self.writers[0].payload.shape(), chosen)


class SpikeBanks(wiring.Component):
    """`config.banks` banks of `config.spike_depth` words.

    Ports:
        plane_valid: The drain engine writes.
        plane_mask, plane_address, plane_data: Its write port: a bit per bank, 20, `beat_bits` per bank.
        write_mask, write_address, write_data, write_ready: Write port of the load engine, likewise. A write with a
            mask other than 0 is done when `write_ready`, which is low in the cycles in which the drain engine writes.
        read_en, read_address, read_data: A bit per bank (all 1 if left unconnected), 20 bits per bank, `beat_bits` per
            bank, bank 0 lowest.

    Addresses are taken modulo the next power of two of `spike_depth`.

    Latency: a read takes `latency` cycles and holds its value while its `read_en` is low; a write is seen by reads
    begun in the next cycle.
    """

    plane_valid: Signal
    plane_mask: Signal
    plane_address: Signal
    plane_data: Signal
    write_mask: Signal
    write_address: Signal
    write_data: Signal
    write_ready: Signal
    read_en: Signal
    read_address: Signal
    read_data: Signal

    latency = 2

    def __init__(self, config: MachineConfig, *, style: str | None = None) -> None:
        self.config = config
        self.style = style or ("ultra" if config.spike_depth >= ULTRA_DEPTH else None)
        banks, bits = config.banks, config.beat_bits
        members: dict[str, Any] = {"plane_valid": In(1), "write_ready": Out(1)}
        for writer in ("plane", "write"):
            members |= {f"{writer}_mask": In(banks), f"{writer}_address": In(SPIKE_ADDRESS_BITS),
                        f"{writer}_data": In(bits * banks)}
        super().__init__({
            **members, "read_en": In(banks, init=(1 << banks) - 1),  # type: ignore[call-arg]
            "read_address": In(SPIKE_ADDRESS_BITS * banks), "read_data": Out(bits * banks)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits, planes = self.config.beat_bits, self.plane_valid
        m.d.comb += self.write_ready.eq(~planes)
        for bank in range(self.config.banks):
            words = _memory(m, f"bank{bank}", bits, self.config.spike_depth, self.style)
            write, read = words.write_port(), words.read_port()
            at = slice(bits * bank, bits * (bank + 1))
            m.d.comb += [
                write.en.eq(Mux(planes, self.plane_mask[bank], self.write_mask[bank])),
                write.addr.eq(Mux(planes, self.plane_address, self.write_address)),
                write.data.eq(Mux(planes, self.plane_data[at], self.write_data[at])),
                read.en.eq(self.read_en[bank]), read.addr.eq(self.read_address.word_select(bank, SPIKE_ADDRESS_BITS))]
            word: Value = read.data
            for stage in range(self.latency - 1):
                before, word = word, Signal(bits, name=f"bank{bank}_output{stage}", reset_less=True)
                m.d.sync += word.eq(before)
            m.d.comb += self.read_data[at].eq(word)
        return m


def _memory(m: Module, name: str, width: int, depth: int, style: str | None) -> memory.Memory:
    """A memory as submodule `name`; `style` becomes its `ram_style` attribute."""
    attributes = {"ram_style": style} if style else {}
    m.submodules[name] = part = memory.Memory(shape=width, depth=depth, init=[], attrs=attributes)
    return part


def _runs(used: int, bits: int) -> list[range]:
    """The ones among the low `bits` of `used`; those that follow each other are one range."""
    padded = (used & (1 << bits) - 1) << 1
    edges = [bit for bit in range(bits + 1) if (padded >> 1 ^ padded) >> bit & 1]
    return [range(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
