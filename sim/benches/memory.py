"""DDR as the benches of ports and DMA engines see it: regions, memories behind the bus, checks of the bus."""

import itertools
import logging
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiRamRead, AxiRamWrite, AxiReadBus, AxiWriteBus

from spikeloom.hw.gateware.axi import BOUNDARY_BYTES, MAX_BEATS

from . import support

REGION_BYTES = 1 << 17
LATENCY = 100
"""Cycles of memory that checks of speed assume; read ports have credit for that."""

BASES = (0x12_3456_7000, 0xFE_0000_0000, 0x00_8000_0000, 0x00_FFFF_F000)
"""Base addresses of the regions; the last one lies across a 32-bit boundary."""


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


class LatentReads:
    """Read side of a fast memory: one beat per cycle, `latency` cycles after the address at the earliest."""

    def __init__(self, dut: Any, ddr: Ddr, latency: int) -> None:
        self.dut, self.ddr, self.latency = dut, ddr, latency
        cocotb.start_soon(self._run())
        cocotb.start_soon(check_addresses(dut, "ar"))

    async def _run(self) -> None:
        dut, size = self.dut, support.config().beat_bytes
        beats: deque[tuple[int, int, int, bool]] = deque()
        dut.bus__arready.value = 1
        while True:
            valid = bool(beats) and beats[0][0] <= support.cycle()
            dut.bus__rvalid.value = int(valid)
            if valid:
                _, number, address, last = beats.popleft()
                dut.bus__rid.value, dut.bus__rlast.value, dut.bus__rresp.value = number, int(last), 0
                dut.bus__rdata.value = int.from_bytes(self.ddr.read(address, size), "little")
            await RisingEdge(dut.clk)
            if int(dut.bus__arvalid.value):
                address, count = int(dut.bus__araddr.value), int(dut.bus__arlen.value) + 1
                beats.extend((support.cycle() + self.latency, int(dut.bus__arid.value), address + k * size,
                              k == count - 1) for k in range(count))


class LatentWrites:
    """Write side of a fast memory: a burst is written and answered `latency` cycles after its last beat.

    `frozen`: no answers; those that wait come one per cycle afterwards.
    """

    def __init__(self, dut: Any, ddr: Ddr, latency: int) -> None:
        self.dut, self.ddr, self.latency, self.frozen = dut, ddr, latency, False
        cocotb.start_soon(self._run())
        cocotb.start_soon(check_addresses(dut, "aw"))
        cocotb.start_soon(check_write_data(dut))

    async def _run(self) -> None:
        dut, size = self.dut, support.config().beat_bytes
        bursts: deque[tuple[int, int]] = deque()
        data = bytearray()
        answers: deque[tuple[int, int, int, bytes]] = deque()
        dut.bus__awready.value = dut.bus__wready.value = 1
        while True:
            valid = bool(answers) and answers[0][0] <= support.cycle() and not self.frozen
            dut.bus__bvalid.value = int(valid)
            if valid:
                _, number, address, content = answers.popleft()
                dut.bus__bid.value, dut.bus__bresp.value = number, self._store(address, content)
            await RisingEdge(dut.clk)
            if int(dut.bus__awvalid.value):
                bursts.append((int(dut.bus__awid.value), int(dut.bus__awaddr.value)))
            if int(dut.bus__wvalid.value):
                data += int(dut.bus__wdata.value).to_bytes(size, "little")
                if int(dut.bus__wlast.value):
                    answers.append((support.cycle() + self.latency, *bursts.popleft(), bytes(data)))
                    data.clear()

    def _store(self, address: int, content: bytes) -> int:
        """Write; returns the response."""
        try:
            self.ddr.write(address, content)
        except IndexError:
            return 2  # SLVERR
        return 0


def _prepare(ram: Any, channels: tuple[Any, ...], stall: float) -> None:
    ram.log.setLevel(logging.CRITICAL)
    rng = random.Random(f"{support.seed()} {len(channels)}")
    for channel in channels:
        channel.log.setLevel(logging.CRITICAL)
        if stall:
            channel.set_pause_generator(itertools.cycle([rng.random() < stall for _ in range(997)]))


async def check_addresses(dut: Any, channel: str) -> None:
    """Every cycle: what is offered on AR or AW is a legal burst and stays until it is taken."""
    beat_bytes = support.config().beat_bytes
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
