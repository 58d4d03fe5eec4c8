"""What the benches of ports and DMA engines share: the component under test, DDR, instructions, monitors."""

import itertools
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiRamRead, AxiRamWrite, AxiReadBus, AxiWriteBus

from spikeloom.config import MachineConfig
from spikeloom.hw.gateware.axi import BOUNDARY_BYTES, MAX_BEATS, ReadBus, WriteBus
from spikeloom.hw.gateware.load import LoadEngine
from spikeloom.hw.gateware.read_port import ReadPort
from spikeloom.hw.gateware.row_load import RowLoadEngine
from spikeloom.hw.gateware.shared import ResetInserter
from spikeloom.hw.gateware.store import StoreEngine
from spikeloom.hw.gateware.write_port import WritePort
from spikeloom.hw.isa import FIELDS, Opcode, pack_fields

from . import support

REGION_BYTES = 1 << 17
BASES = (0x12_3456_7000, 0xFE_0000_0000, 0x00_8000_0000, 0x00_FFFF_F000)
"""Base addresses of the regions; the last one lies across a 32-bit boundary."""


class ReadEngines(wiring.Component):
    """LOAD, LOAD_WEIGHTS and LOAD_SHORTCUT engine on one read port; `core_reset` resets the engines only.

    Ports of engine e are called `<e>_<port>`, e = load, weight, shortcut.
    """

    side, signature_of_bus, port_class = "reads", ReadBus, ReadPort

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.engines = self.make_engines(config)
        members: dict[str, Any] = {
            "bus": Out(self.signature_of_bus(config)), "abort": In(1), "idle": Out(1), "core_reset": In(1)}
        for name, engine in self.engines.items():
            members |= {f"{name}_{port}": member for port, member in engine.signature.members.items()
                        if port != self.side}
        super().__init__(members)

    @staticmethod
    def make_engines(config: MachineConfig) -> dict[str, Any]:
        return {"load": LoadEngine(config), "weight": RowLoadEngine(config, Opcode.LOAD_WEIGHTS),
                "shortcut": RowLoadEngine(config, Opcode.LOAD_SHORTCUT)}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.port = port = self.port_class(self.config, len(self.engines))
        wiring.connect(m, port.bus, wiring.flipped(self.bus))
        m.d.comb += [port.abort.eq(self.abort), self.idle.eq(port.idle)]
        for number, (name, engine) in enumerate(self.engines.items()):
            m.submodules[name] = ResetInserter(self.core_reset)(engine)
            wiring.connect(m, getattr(engine, self.side), port.clients[number])
            for inner, member in engine.signature.members.items():
                if inner == self.side:
                    continue
                ours, theirs = getattr(self, f"{name}_{inner}"), getattr(engine, inner)
                if member.is_signature:
                    wiring.connect(m, wiring.flipped(ours), theirs)
                else:
                    m.d.comb += theirs.eq(ours) if member.flow is In else ours.eq(theirs)
        return m


class WriteEngines(ReadEngines):
    """STORE (two sources) and STORE_RESIDUAL engine, `store` and `residual`, on one write port."""

    side, signature_of_bus, port_class = "writes", WriteBus, WritePort

    @staticmethod
    def make_engines(config: MachineConfig) -> dict[str, Any]:
        return {"store": StoreEngine(config, 2), "residual": StoreEngine(config, 1)}


@dataclass
class Ddr:
    """The four regions of DDR; `broken` addresses answer with SLVERR, others outside the regions too."""

    regions: list[bytearray] = field(default_factory=lambda: [bytearray(REGION_BYTES) for _ in BASES])
    broken: range = range(0)

    @classmethod
    def filled(cls, rng: random.Random) -> "Ddr":
        return cls([bytearray(rng.randbytes(REGION_BYTES)) for _ in BASES])

    def _locate(self, address: int, length: int) -> tuple[bytearray, int]:
        for base, region in zip(BASES, self.regions, strict=True):
            if base <= address and address + length <= base + REGION_BYTES:
                if any(at in self.broken for at in range(address, address + length)):
                    break
                return region, address - base
        raise IndexError(f"no memory at {address:#x}")

    def read(self, address: int, length: int) -> bytes:
        region, at = self._locate(address, length)
        return bytes(region[at:at + length])

    def write(self, address: int, data: bytes) -> None:
        region, at = self._locate(address, len(data))
        region[at:at + len(data)] = data


class ReadRam(AxiRamRead):
    """`AxiRamRead` over a `Ddr`; pauses with probability `stall` on all channels."""

    def __init__(self, dut: Any, ddr: Ddr, stall: float = 0.3) -> None:
        super().__init__(AxiReadBus.from_prefix(dut, "bus_"), dut.clk, size=16)
        self.ddr = ddr
        _prepare(self, (self.ar_channel, self.r_channel), stall)
        cocotb.start_soon(check_addresses(dut, "ar"))

    async def _read(self, address: int, length: int) -> bytes:
        return self.ddr.read(address, length)


class WriteRam(AxiRamWrite):
    """`AxiRamWrite` over a `Ddr`; pauses with probability `stall` on all channels."""

    def __init__(self, dut: Any, ddr: Ddr, stall: float = 0.3) -> None:
        super().__init__(AxiWriteBus.from_prefix(dut, "bus_"), dut.clk, size=16)
        self.ddr = ddr
        _prepare(self, (self.aw_channel, self.w_channel, self.b_channel), stall)
        cocotb.start_soon(check_addresses(dut, "aw"))
        cocotb.start_soon(check_write_data(dut))

    async def _write(self, address: int, data: bytes) -> None:
        self.ddr.write(address, data)


def _prepare(ram: Any, channels: tuple[Any, ...], stall: float) -> None:
    ram.log.setLevel(logging.CRITICAL)
    rng = random.Random(f"{support.seed()} {len(channels)}")
    for channel in channels:
        channel.log.setLevel(logging.CRITICAL)
        if stall:
            channel.set_pause_generator(itertools.cycle([rng.random() < stall for _ in range(997)]))


async def check_addresses(dut: Any, channel: str) -> None:
    """Every cycle: what is offered on AR or AW is a legal burst and stays until it is taken."""
    beat_bytes = config().beat_bytes
    names = ("id", "addr", "len", "size", "burst", "cache", "prot")
    waiting = None
    while True:
        await RisingEdge(dut.clk)
        if not int(getattr(dut, f"bus__{channel}valid").value):
            if waiting is not None:
                raise AssertionError(f"cycle {support.cycle()}: {channel}valid was withdrawn: {waiting}")
            continue
        offer = {name: int(getattr(dut, f"bus__{channel}{name}").value) for name in names}
        if waiting not in (None, offer):
            raise AssertionError(f"cycle {support.cycle()}: {channel} changed: {waiting} -> {offer}")
        last = offer["addr"] + (offer["len"] + 1) * beat_bytes - 1
        legal = (
            offer["burst"] == 1 and 1 << offer["size"] == beat_bytes and offer["len"] < MAX_BEATS
            and offer["addr"] % beat_bytes == 0 and offer["addr"] // BOUNDARY_BYTES == last // BOUNDARY_BYTES)
        if not legal:
            raise AssertionError(f"cycle {support.cycle()}: illegal burst on {channel}: {offer}")
        waiting = None if int(getattr(dut, f"bus__{channel}ready").value) else offer


async def check_write_data(dut: Any) -> None:
    """Every cycle: all byte strobes are set, W stays until taken and is not paused inside a burst, B is taken."""
    waiting, inside = None, False
    while True:
        await RisingEdge(dut.clk)
        if not int(dut.bus__bready.value):
            raise AssertionError(f"cycle {support.cycle()}: bready is low")
        valid = int(dut.bus__wvalid.value)
        if inside and not valid:
            raise AssertionError(f"cycle {support.cycle()}: wvalid pauses inside a burst")
        if not valid:
            continue
        offer = (int(dut.bus__wdata.value), int(dut.bus__wlast.value))
        if waiting not in (None, offer):
            raise AssertionError(f"cycle {support.cycle()}: W changed: {waiting} -> {offer}")
        if int(dut.bus__wstrb.value) != (1 << len(dut.bus__wstrb)) - 1:
            raise AssertionError(f"cycle {support.cycle()}: strobes {dut.bus__wstrb.value}")
        taken = bool(int(dut.bus__wready.value))
        waiting, inside = (None, not offer[1]) if taken else (offer, inside)


@dataclass
class Writes:
    """Records what an engine writes into its buffers: (enable, row or address, slot, data) per cycle."""

    dut: Any
    engine: str
    enable: str
    ports: tuple[str, ...]
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        enable = getattr(self.dut, f"{self.engine}_{self.enable}")
        ports = [getattr(self.dut, f"{self.engine}_{port}") for port in self.ports]
        while True:
            await RisingEdge(self.dut.clk)
            if int(enable.value):
                self.seen.append((int(enable.value), *(int(port.value) for port in ports)))


def bank_writes(dut: Any) -> Writes:
    """Monitor of the load engine's writes."""
    return Writes(dut, "load", "write_mask", ("write_address", "write_data"))


def row_writes(dut: Any, engine: str) -> Writes:
    """Monitor of a row load engine's writes."""
    return Writes(dut, engine, "write_en", ("write_row", "write_slot", "write_data"))


def config() -> MachineConfig:
    """Configuration from the bench parameters."""
    return MachineConfig(**support.parameters()["config"])


async def start(dut: Any) -> None:
    """Clock, reset, region bases."""
    await support.start(dut)
    bases = sum(base << 40 * number for number, base in enumerate(BASES))
    for name in ("load", "weight", "shortcut", "store", "residual"):
        if hasattr(dut, f"{name}_bases"):
            getattr(dut, f"{name}_bases").value = bases
    await support.ticks(dut, 1)


@dataclass
class Outcome:
    """Of one instruction: cycles from the hand-over to `done`, error pulses meanwhile."""

    cycles: int
    errors: int


async def execute(dut: Any, engine: str, opcode: Opcode, body: Mapping[str, int], limit: int = 40_000) -> Outcome:
    """Give one instruction to `engine` and wait for its end."""
    port = {name: getattr(dut, f"{engine}_{name}") for name in ("i__payload", "i__valid", "i__ready", "done", "error")}
    port["i__payload"].value = opcode | pack_fields(FIELDS[opcode], body, opcode.name) << 8
    port["i__valid"].value = 1
    while True:
        await RisingEdge(dut.clk)
        if int(port["i__ready"].value):
            break
    port["i__valid"].value = 0
    port["i__payload"].value = random.Random(support.seed()).getrandbits(424)
    errors = 0
    for cycles in range(1, limit):
        await RisingEdge(dut.clk)
        errors += int(port["error"].value)
        if int(port["done"].value):
            return Outcome(cycles, errors)
    raise AssertionError(f"{engine}, {opcode.name} {dict(body)}: no end after {limit} cycles")


async def abort_and_reset(dut: Any, limit: int = 2000) -> None:
    """What the supervisor does: abort until the port is idle, reset the core, go on."""
    dut.abort.value = 1
    await support.ticks(dut, 2)
    for _ in range(limit):
        await RisingEdge(dut.clk)
        if int(dut.idle.value):
            break
    else:
        raise AssertionError(f"the port is not idle {limit} cycles after abort")
    dut.core_reset.value = 1
    await support.ticks(dut, 2)
    dut.core_reset.value = 0
    dut.abort.value = 0
    await support.ticks(dut, 1)


def random_transfer(rng: random.Random, config: MachineConfig, least: int = 1, most: int = 400) -> dict[str, int]:
    """Transfer fields inside a region, of `least` to `most` beats; runs and strides often cross 4 KiB."""
    beat = config.beat_bytes
    while True:
        run, count1, count2 = (rng.choice((1, 2, 3, rng.randint(1, 40), rng.randint(1, high))) for high in (200, 9, 5))
        stride1, stride2 = (rng.randrange(0, 5000 // beat) * beat for _ in range(2))
        room = REGION_BYTES - (run * beat + (count1 - 1) * stride1 + (count2 - 1) * stride2)
        if least <= run * count1 * count2 <= most and room > 0:
            offset = rng.randrange(0, room // beat + 1) * beat
            return {"region": rng.randrange(4), "offset": offset, "run": run, "count1": count1, "stride1": stride1,
                    "count2": count2, "stride2": stride2}


def beat_offsets(config: MachineConfig, body: Mapping[str, int]) -> list[int]:
    """Offset in the region of every beat of a transfer, in order."""
    beat = config.beat_bytes
    return [body["offset"] + n2 * body.get("stride2", 0) + n1 * body.get("stride1", 0) + k * beat
            for n2 in range(body["count2"]) for n1 in range(body["count1"]) for k in range(body["run"])]


def beat_at(config: MachineConfig, region: bytes, offset: int) -> int:
    """The beat at byte `offset` as an integer."""
    return int.from_bytes(region[offset:offset + config.beat_bytes], "little")
