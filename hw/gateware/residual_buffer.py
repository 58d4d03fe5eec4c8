"""Residual buffer: items of 16 beats (one pixel of one word, int16) between drain engine and DDR.

    drain: r -------------.                                           .--> drain: shortcut
    LOAD_SHORTCUT: rows --+--> memory --> register --> register ------+--> STORE_RESIDUAL: rows
                       (one write,         one read port)

The drain engine never waits, so its pipeline keeps its fixed latency; the DMA engines get the cycles that it leaves.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spikeloom.config import MachineConfig

from .pipeline import delayed_flag, register

ULTRA_DEPTH = 1024
"""Buffers of at least that many items are UltraRAM."""


class ResidualBuffer(wiring.Component):
    """`config.residual_depth` items of `16 * beat_bits` bits.

    Ports:
        write_en, write_row, write_data: Writes of the drain engine; done at once.
        load_valid, load_row, load_data, load_ready: Writes of LOAD_SHORTCUT; `load_ready` is low while `write_en`.
        read_en, read_row: Reads of the drain engine; accepted at once.
        store_valid, store_row, store_ready: Reads of STORE_RESIDUAL; `store_ready` is low while `read_en`.
        read_data: The item, `latency` cycles after its read was accepted, for one cycle.
        shortcut_data: The same for reads of the drain engine, else 0.
        store_data_valid: `read_data` is an item for STORE_RESIDUAL.

    Row numbers are taken modulo the next power of two; rows from `residual_depth` on do not exist: writing them does
    nothing, reading them gives anything.

    Latency: 3 (memory, two registers). A write is seen by reads accepted in the next cycle; a read of the row that is
    written in the same cycle gives the old item. Throughput: a write and a read per cycle.
    """

    write_en: Signal
    write_row: Signal
    write_data: Signal
    load_valid: Signal
    load_row: Signal
    load_data: Signal
    load_ready: Signal
    read_en: Signal
    read_row: Signal
    store_valid: Signal
    store_row: Signal
    store_ready: Signal
    store_data_valid: Signal
    read_data: Signal
    shortcut_data: Signal

    latency = 3

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        row, item = ceil_log2(config.residual_depth), config.residual_beats * config.beat_bits
        super().__init__({
            "write_en": In(1), "write_row": In(row), "write_data": In(item),
            "load_valid": In(1), "load_row": In(row), "load_data": In(item), "load_ready": Out(1),
            "read_en": In(1), "read_row": In(row), "store_valid": In(1), "store_row": In(row), "store_ready": Out(1),
            "store_data_valid": Out(1), "read_data": Out(item), "shortcut_data": Out(item)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self.config.residual_depth
        m.submodules.items = items = memory.Memory(
            shape=len(self.read_data), depth=depth, init=[],
            attrs={"ram_style": "ultra" if depth >= ULTRA_DEPTH else "block"})
        write, read = items.write_port(), items.read_port()
        m.d.comb += [
            self.load_ready.eq(~self.write_en), write.en.eq(self.write_en | self.load_valid),
            write.addr.eq(Mux(self.write_en, self.write_row, self.load_row)),
            write.data.eq(Mux(self.write_en, self.write_data, self.load_data)),
            self.store_ready.eq(~self.read_en), read.en.eq(self.read_en | self.store_valid),
            read.addr.eq(Mux(self.read_en, self.read_row, self.store_row))]
        item = read.data
        for stage in range(self.latency - 2):
            item = register(m, item, f"output{stage}")
        accepted = self.store_valid & self.store_ready
        is_shortcut = delayed_flag(m, self.read_en, self.latency - 1, "is_shortcut")[-1]
        m.d.comb += [
            self.read_data.eq(register(m, item, "output")),
            self.shortcut_data.eq(register(m, Mux(is_shortcut, item, 0), "shortcut")),
            self.store_data_valid.eq(delayed_flag(m, accepted, self.latency, "for_store")[-1])]
        return m
