"""Control registers: the AXI4-Lite slave, generated from `spikeloom.registers`.

    s_axi_ctrl_* <-> [ write: AW and W together | read ] <-> rw storage, ro values, actions, interrupt

A write is answered in the cycle after address and data are both there; a read likewise. Unmapped addresses read zero
and ignore writes: a stray access must not hang or fault the processor. `wstrb` selects bytes; address bits 1:0 do not
matter.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MACHINE_VERSION, MachineConfig
from spikeloom.registers import ADDRESS_BITS, REGION_NAMES, REGISTERS

PREFIX = "s_axi_ctrl_"

LITE_MEMBERS = {
    "awaddr": In(ADDRESS_BITS), "awprot": In(3), "awvalid": In(1), "awready": Out(1),
    "wdata": In(32), "wstrb": In(4), "wvalid": In(1), "wready": Out(1),
    "bresp": Out(2), "bvalid": Out(1), "bready": In(1),
    "araddr": In(ADDRESS_BITS), "arprot": In(3), "arvalid": In(1), "arready": Out(1),
    "rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1)}
"""Ports of an AXI4-Lite slave, conventional names without prefix."""

CONSTANT = ("id", "version", "config_hash")
LIVE = tuple(r.name for r in REGISTERS if r.access == "ro" and r.name not in CONSTANT)
"""Read-only registers whose values come in through a port `value_<name>`."""

SETTINGS = tuple(r.name for r in REGISTERS if r.access == "rw")
"""Read-write registers that go out through a port `setting_<name>`."""


class ControlRegisters(wiring.Component):
    """AXI4-Lite slave over the register table.

    Ports: `s_axi_ctrl_*`; `value_<name>` (32 in) for live read-only registers; `setting_<name>` (32 out) for
    read-write ones; `start`, `soft_reset` (one-cycle pulses out); `finished` (pulse in: sets interrupt_status);
    `interrupt` (level out); `bases` (4 x 40 bits out, in the order of REGION_NAMES).

    Latency: response one cycle after the request is complete.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            **{PREFIX + name: member for name, member in LITE_MEMBERS.items()},
            **{f"value_{name}": In(32) for name in LIVE},
            **{f"setting_{name}": Out(32) for name in SETTINGS},
            "start": Out(1), "soft_reset": Out(1), "finished": In(1), "interrupt": Out(1),
            "bases": Out(40 * len(REGION_NAMES))})

    def _port(self, name: str) -> Signal:
        return getattr(self, PREFIX + name)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pending = Signal()  # interrupt_status
        self._write(m, pending)
        self._read(m, pending)
        m.d.comb += self.interrupt.eq(pending & self.setting_interrupt_enable[0])
        for i, region in enumerate(REGION_NAMES):
            low, high = (getattr(self, f"setting_{region}_base_{half}") for half in ("low", "high"))
            m.d.comb += [self.bases[40 * i:40 * i + 32].eq(low), self.bases[40 * i + 32:40 * i + 40].eq(high)]
        return m

    def _write(self, m: Module, pending: Signal) -> None:
        port = self._port
        accept = Signal()
        m.d.comb += [
            accept.eq(port("awvalid") & port("wvalid") & (~port("bvalid") | port("bready"))),
            port("awready").eq(accept), port("wready").eq(accept)]
        with m.If(port("bready")):
            m.d.sync += port("bvalid").eq(0)
        with m.If(accept):
            m.d.sync += port("bvalid").eq(1)
        for entry in REGISTERS:
            hit = accept & (port("awaddr")[2:] == entry.offset // 4)
            if entry.access == "rw":
                self._store(m, entry.name, entry.reset, hit)
            elif entry.access == "w1s":
                for action in entry.fields:
                    m.d.comb += getattr(self, action.name).eq(hit & port("wstrb")[0] & port("wdata")[action.low])
            elif entry.access == "w1c":
                with m.If(hit & port("wstrb")[0] & port("wdata")[0]):
                    m.d.sync += pending.eq(0)
        with m.If(self.finished):
            m.d.sync += pending.eq(1)

    def _store(self, m: Module, name: str, reset: int, hit: Value) -> None:
        storage = Signal(32, init=reset, name=f"storage_{name}")
        m.d.comb += getattr(self, f"setting_{name}").eq(storage)
        with m.If(hit):
            for byte in range(4):
                part = slice(8 * byte, 8 * byte + 8)
                m.d.sync += storage[part].eq(Mux(self._port("wstrb")[byte], self._port("wdata")[part], storage[part]))

    def _read(self, m: Module, pending: Signal) -> None:
        port = self._port
        accept = Signal()
        constants = {"version": MACHINE_VERSION, "config_hash": self.config.hash}
        m.d.comb += [accept.eq(port("arvalid") & (~port("rvalid") | port("rready"))), port("arready").eq(accept)]
        with m.If(port("rready")):
            m.d.sync += port("rvalid").eq(0)
        with m.If(accept):
            m.d.sync += [port("rvalid").eq(1), port("rdata").eq(0)]
            with m.Switch(port("araddr")[2:]):
                for entry in REGISTERS:
                    if entry.access == "w1s":
                        continue
                    with m.Case(entry.offset // 4):
                        m.d.sync += port("rdata").eq(self._value(entry.name, entry.reset, constants, pending))

    def _value(self, name: str, reset: int, constants: dict[str, int], pending: Signal) -> ValueLike:
        if name in SETTINGS:
            return getattr(self, f"setting_{name}")
        if name in LIVE:
            return getattr(self, f"value_{name}")
        return pending if name == "interrupt_status" else constants.get(name, reset)
