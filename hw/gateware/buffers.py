"""On-chip buffers between the DMA engines, which write beats, and the units, which read rows or words.

All memories here have one write and one read port, no byte enables and no initial value: they map to UltraRAM as
well as to block RAM. Reading and writing one address in the same cycle gives the old value; programs never do.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spikeloom.config import MachineConfig

SPIKE_ADDRESS_BITS = 20
"""Bits of a spike bank address in an instruction; a bank uses as many of the low ones as it needs."""


class RowBuffer(wiring.Component):
    """`depth` rows of `row_beats` beats: written by beats, read by rows (weights, headers, parameters, items).

    Ports: `write_en`, `write_row`, `write_slot`, `write_data` (one beat); `read_en` (1 if left unconnected),
    `read_row`, `read_data` (`row_beats * beat_bits`, slot 0 lowest). Row numbers are taken modulo the next power of
    two; rows from `depth` on do not exist: writing them does nothing, reading them gives anything.

    Latency: a read takes 1 cycle and holds its value while `read_en` is low; a write is seen by reads begun in the
    next cycle.
    """

    write_en: Signal
    write_row: Signal
    write_slot: Signal
    write_data: Signal
    read_en: Signal
    read_row: Signal
    read_data: Signal

    latency = 1

    def __init__(self, depth: int, row_beats: int, beat_bits: int, *, style: str | None = None) -> None:
        for name, value in (("depth", depth), ("row_beats", row_beats), ("beat_bits", beat_bits)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, not `{value!r}`")
        self.depth, self.row_beats, self.beat_bits, self.style = depth, row_beats, beat_bits, style
        super().__init__({
            "write_en": In(1), "write_row": In(ceil_log2(depth)), "write_slot": In(range(row_beats)),
            "write_data": In(beat_bits), "read_en": In(1, init=1), "read_row": In(ceil_log2(depth)),  # type: ignore[call-arg]
            "read_data": Out(row_beats * beat_bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parts = []
        for slot in range(self.row_beats):
            column = _memory(m, f"slot{slot}", self.beat_bits, self.depth, self.style)
            write, read = column.write_port(), column.read_port()
            m.d.comb += [
                write.en.eq(self.write_en & (self.write_slot == slot)), write.addr.eq(self.write_row),
                write.data.eq(self.write_data), read.en.eq(self.read_en), read.addr.eq(self.read_row)]
            parts.append(read.data)
        m.d.comb += self.read_data.eq(Cat(*parts))
        return m


class SpikeBanks(wiring.Component):
    """`config.banks` banks of `config.spike_depth` words.

    Ports: `write_mask` (one bit per bank, all get the same word), `write_address` (20), `write_data`; `read_en` (a bit
    per bank, all 1 if left unconnected), `read_address` (20 bits per bank), `read_data` (`beat_bits` per bank), bank 0
    lowest. Addresses are taken modulo the next power of two of `spike_depth`.

    Latency: a read takes 1 cycle and holds its value while its `read_en` is low; a write is seen by reads begun in
    the next cycle.
    """

    write_mask: Signal
    write_address: Signal
    write_data: Signal
    read_en: Signal
    read_address: Signal
    read_data: Signal

    latency = 1

    def __init__(self, config: MachineConfig, *, style: str | None = None) -> None:
        self.config, self.style = config, style
        super().__init__({
            "write_mask": In(config.banks), "write_address": In(SPIKE_ADDRESS_BITS),
            "write_data": In(config.beat_bits), "read_en": In(config.banks, init=(1 << config.banks) - 1),  # type: ignore[call-arg]
            "read_address": In(SPIKE_ADDRESS_BITS * config.banks), "read_data": Out(config.beat_bits * config.banks)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.config.beat_bits
        for bank in range(self.config.banks):
            words = _memory(m, f"bank{bank}", bits, self.config.spike_depth, self.style)
            write, read = words.write_port(), words.read_port()
            m.d.comb += [
                write.en.eq(self.write_mask[bank]), write.addr.eq(self.write_address), write.data.eq(self.write_data),
                read.en.eq(self.read_en[bank]), read.addr.eq(self.read_address.word_select(bank, SPIKE_ADDRESS_BITS)),
                self.read_data.word_select(bank, bits).eq(read.data)]
        return m


def _memory(m: Module, name: str, width: int, depth: int, style: str | None) -> memory.Memory:
    """A memory as submodule `name`; `style` becomes its `ram_style` attribute."""
    attributes = {"ram_style": style} if style else {}
    m.submodules[name] = part = memory.Memory(shape=width, depth=depth, init=[], attrs=attributes)
    return part
