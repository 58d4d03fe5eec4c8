"""Transfer generator: a three-level strided transfer -> AXI bursts.

    for n2 in range(count2):
        for n1 in range(count1):
            run beats from address + n2 * stride2 + n1 * stride1

A run is cut at multiples of 16 beats (a divisor of 4 KiB), so no burst crosses 4 KiB and all but the ends of a run are
whole, aligned bursts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from .axi import ADDRESS_BITS, BURST, LENGTH_BITS, MAX_BEATS, size_code
from .engine import STEP_BITS, region_address

TRANSFER = data.StructLayout({
    "address": ADDRESS_BITS, "run": 24, "count1": 16, "stride1": 32, "count2": 16, "stride2": 32})
"""`address`: absolute, beat aligned; `run`: beats; strides: bytes, beat aligned."""


class Burst(NamedTuple):
    """One burst: byte address and number of beats."""

    address: int
    length: int


def assign_transfer(transfer: data.View, body: data.View, bases: Value) -> list[Any]:
    """Assignments that take `transfer` from the transfer fields of an instruction body."""
    names = ("run", "count1", "stride1", "count2", "stride2")
    return [transfer.address.eq(region_address(bases, body.region, body.offset)),
            *(getattr(transfer, name).eq(getattr(body, name)) for name in names)]


class TransferGenerator(wiring.Component):
    """Puts out the bursts of one transfer after another.

    Ports: `i` (stream of `TRANSFER`), `o` (stream of `BURST`), `busy`: bursts of an accepted transfer are left, the one
    on offer included. `ended`: pulse, once per transfer: its last burst is on offer or was taken; `beats`, `bursts`:
    put out so far, by all transfers (modulo 2**`STEP_BITS`). A transfer with a zero `run` or count has no bursts.

    Latency: first burst 2 cycles after the transfer. Throughput: one burst per cycle, also from run to run; one cycle
    between transfers. Addresses wrap at 2**40.
    """

    i: stream.Interface
    o: stream.Interface
    busy: Signal
    ended: Signal
    beats: Signal
    bursts: Signal

    latency = 2

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            "i": In(stream.Signature(TRANSFER)), "o": Out(stream.Signature(BURST)), "busy": Out(1), "ended": Out(1),
            "beats": Out(STEP_BITS), "bursts": Out(STEP_BITS)})

    def model(self, address: int, run: int, count1: int = 1, stride1: int = 0, count2: int = 1,
              stride2: int = 0) -> list[Burst]:
        """The bursts of a transfer, in order."""
        bursts = []
        beat, block = self.config.beat_bytes, self.config.beat_bytes * MAX_BEATS
        for start in (address + n2 * stride2 + n1 * stride1 for n2 in range(count2) for n1 in range(count1)):
            at, left = start % (1 << ADDRESS_BITS), run
            while left:
                length = min(left, (block - at % block) // beat)
                bursts.append(Burst(at, length))
                at, left = (at + length * beat) % (1 << ADDRESS_BITS), left - length
        return bursts

    def elaborate(self, platform: object) -> Module:
        m = Module()
        active, step, given = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~active), self.busy.eq(active | self.o.valid), self.ended.eq(given & ~active),
            step.eq(active & (~self.o.valid | self.o.ready))]
        m.d.sync += given.eq(self.i.valid & self.i.ready | given & active)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(step):
            m.d.sync += self.o.valid.eq(1)
        self._walk(m, active, step)
        return m

    def _walk(self, m: Module, active: Signal, step: Signal) -> None:
        """Registers of the three loops; one burst at `step`."""
        loop = Signal(TRANSFER)  # address: start of the repetition; counts: runs and repetitions left
        count1 = Signal(16)
        run_start, at, left = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(24)
        length = self._length(m, at, left)
        low = self._block_bits
        with m.If(step):
            m.d.sync += [
                self.o.payload.address.eq(at), self.o.payload.length.eq(length),
                at.eq(Cat(Const(0, low), at[low:] + 1)), left.eq(left - length),
                self.beats.eq(self.beats + length), self.bursts.eq(self.bursts + 1)]
            with m.If(left == length):
                next_start = Signal(ADDRESS_BITS)
                last1 = loop.count1 == 1
                m.d.comb += next_start.eq(Mux(last1, loop.address + loop.stride2, run_start + loop.stride1))
                m.d.sync += [at.eq(next_start), run_start.eq(next_start), left.eq(loop.run)]
                m.d.sync += loop.count1.eq(Mux(last1, count1, loop.count1 - 1))
                with m.If(last1):
                    m.d.sync += [loop.address.eq(next_start), loop.count2.eq(loop.count2 - 1)]
                    m.d.sync += active.eq(loop.count2 != 1)
        with m.If(self.i.valid & self.i.ready):
            given = self.i.payload
            m.d.sync += [
                loop.eq(given), count1.eq(given.count1), run_start.eq(given.address), at.eq(given.address),
                left.eq(given.run), active.eq((given.run != 0) & (given.count1 != 0) & (given.count2 != 0))]

    def _length(self, m: Module, at: Signal, left: Signal) -> Signal:
        """Beats from `at` to the end of its block or of the run, whichever comes first."""
        length, room = Signal(LENGTH_BITS), Signal(LENGTH_BITS)
        m.d.comb += [
            room.eq(MAX_BEATS - at[size_code(self.config):self._block_bits]),
            length.eq(Mux(left < room, left, room))]
        return length

    @property
    def _block_bits(self) -> int:
        return (self.config.beat_bytes * MAX_BEATS).bit_length() - 1
