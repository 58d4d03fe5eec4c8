"""Transfer generator: a three-level strided transfer -> AXI bursts.

    for n2 in range(count2):
        for n1 in range(count1):
            run beats from base + offset + n2 * stride2 + n1 * stride1

A run is cut at multiples of 16 beats (a divisor of 4 KiB), so no burst crosses 4 KiB and all but the ends of a run are
whole, aligned bursts.

    i --> run: low half of its start --> burst: low half, end --> length --> high half --> o

What a burst is follows from the low half of its address; so only that is worked out at once, and the high half, with
the carry, when the burst is on its way already: no sum is longer than half an address.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from .axi import ADDRESS_BITS, BURST, LENGTH_BITS, MAX_BEATS, size_code
from .engine import STEP_BITS, region_base

TRANSFER = data.StructLayout({
    "base": ADDRESS_BITS, "offset": 32, "run": 24, "count1": 16, "stride1": 32, "count2": 16, "stride2": 32})
"""`base`, `offset`: their sum is the address, beat aligned; `run`: beats; strides: bytes, beat aligned."""

HALF_BITS = ADDRESS_BITS // 2
"""Bits of an address that are added up in one cycle."""

_INDEX_BITS = (MAX_BEATS - 1).bit_length()


class _From(IntEnum):
    """What a burst's address is the sum of: how its high half comes about, but for the carry."""

    BLOCK = 0  # the address of the burst before
    RUN = 1  # the start of the run before, stride1
    REPEAT = 2  # the start of the repetition before, stride2
    BEGIN = 3  # base, offset


_PLACE = data.StructLayout({"low": HALF_BITS, "carry": 1, "origin": 2})
"""An address: low half; carry out of it, and a `_From`, for the high one."""


class Burst(NamedTuple):
    """One burst: byte address and number of beats."""

    address: int
    length: int


def assign_transfer(transfer: data.View, body: data.View, bases: Value) -> list[Any]:
    """Assignments that take `transfer` from the transfer fields of an instruction body."""
    names = ("offset", "run", "count1", "stride1", "count2", "stride2")
    return [transfer.base.eq(region_base(bases, body.region)),
            *(getattr(transfer, name).eq(getattr(body, name)) for name in names)]


class TransferGenerator(wiring.Component):
    """Puts out the bursts of one transfer after another.

    Ports: `i` (stream of `TRANSFER`), `o` (stream of `BURST`), `busy`: bursts of an accepted transfer are left, the one
    on offer included. `ended`: pulse, once per transfer: its last burst is on offer or was taken; `beats`, `bursts`:
    put out so far, by all transfers (modulo 2**`STEP_BITS`). A transfer with a zero `run` or count has no bursts.

    Latency: first burst 4 cycles after the transfer. Throughput: one burst per cycle, also from run to run; `GAP`
    cycles between transfers. Addresses wrap at 2**40.
    """

    i: stream.Interface
    o: stream.Interface
    busy: Signal
    ended: Signal
    beats: Signal
    bursts: Signal

    latency = 4
    GAP = 4
    """Cycles from the last burst of a transfer to the first one of the next, both not included."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            "i": In(stream.Signature(TRANSFER)), "o": Out(stream.Signature(BURST)), "busy": Out(1), "ended": Out(1),
            "beats": Out(STEP_BITS), "bursts": Out(STEP_BITS)})

    def model(self, base: int, offset: int, run: int, count1: int = 1, stride1: int = 0, count2: int = 1,
              stride2: int = 0) -> list[Burst]:
        """The bursts of a transfer, in order."""
        bursts = []
        beat, block = self.config.beat_bytes, self.config.beat_bytes * MAX_BEATS
        address = base + offset
        for start in (address + n2 * stride2 + n1 * stride1 for n2 in range(count2) for n1 in range(count1)):
            at, left = start % (1 << ADDRESS_BITS), run
            while left:
                length = min(left, (block - at % block) // beat)
                bursts.append(Burst(at, length))
                at, left = (at + length * beat) % (1 << ADDRESS_BITS), left - length
        return bursts

    def elaborate(self, platform: object) -> Module:
        m = Module()
        loops = Signal(TRANSFER)  # base: start of the repetition; run: beats but one; counts: runs, repetitions left
        run, burst, out = (Signal(_PLACE, name=name) for name in ("run", "burst", "out"))
        run_waits, burst_waits, out_waits = (Signal(name=f"{name}_waits") for name in ("run", "burst", "out"))
        running, step, given, start = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            running.eq(run_waits | burst_waits | out_waits), step.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(~given), start.eq(self.i.valid & self.i.ready),
            self.busy.eq(given | self.o.valid), self.ended.eq(given & ~running)]
        m.d.sync += given.eq(start | given & running)
        last, end, begin, some = Signal(), Signal(_INDEX_BITS), Signal(), Signal()
        m.d.comb += begin.eq(~burst_waits | last)
        # Everything moves by `step`. Cycle 1 after the transfer: the first run waits. 2: the burst. 3: its length.
        self._runs(m, loops, run, run_waits, start, step & begin, some)
        length = Signal(LENGTH_BITS)
        with m.If(step):
            self._bursts(m, loops, run, burst, begin, last, end)
            m.d.sync += [
                burst_waits.eq(run_waits & some | burst_waits & ~last), out.eq(burst), out_waits.eq(burst_waits),
                length.eq(Mux(last, end, MAX_BEATS - 1) - self._index(burst.low) + 1), self.o.valid.eq(out_waits)]
        self._put_out(m, loops, out, length, step & out_waits)
        return m

    def _runs(self, m: Module, loops: data.View, run: data.View, waits: Signal, start: Signal, step: Value,
              some: Signal) -> None:
        """The runs of a transfer, one at `step`: low halves of their starts. `some`: there are any."""
        given, count1, last1, counts = self.i.payload, Signal(16), Signal(), Signal(3)
        m.d.comb += [last1.eq(loops.count1 == 1), some.eq(counts.all())]
        with m.If(~some):
            m.d.sync += waits.eq(0)
        with m.Elif(waits & step):
            low = Mux(last1, loops.base, run.low)[:HALF_BITS] + Mux(last1, loops.stride2, loops.stride1)[:HALF_BITS]
            m.d.sync += [
                Cat(run.low, run.carry).eq(low), run.origin.eq(Mux(last1, _From.REPEAT, _From.RUN)),
                loops.count1.eq(Mux(last1, count1, loops.count1 - 1))]
            with m.If(last1):
                m.d.sync += [
                    loops.base[:HALF_BITS].eq(low), loops.count2.eq(loops.count2 - 1), waits.eq(loops.count2 != 1)]
        with m.If(start):
            low = given.base[:HALF_BITS] + given.offset[:HALF_BITS]
            m.d.sync += [
                loops.eq(given), loops.base[:HALF_BITS].eq(low), loops.run.eq(given.run - 1), count1.eq(given.count1),
                Cat(run.low, run.carry).eq(low), run.origin.eq(_From.BEGIN),
                counts.eq(Cat(given.run.any(), given.count1.any(), given.count2.any())), waits.eq(1)]

    def _bursts(self, m: Module, loops: data.View, run: data.View, burst: data.View, begin: Signal, last: Signal,
                end: Signal) -> None:
        """One burst further: low half of its address. `begin`: the first one of the run that waits, if one does.

        `last`: the present one is the last of its run; `end`: block and beat in it at which the run ends.
        """
        blocks, tail = loops.run[_INDEX_BITS:], loops.run[:_INDEX_BITS]
        left, another, reaches = Signal.like(blocks), Signal(), Signal(_INDEX_BITS + 1)
        m.d.comb += reaches.eq(self._index(run.low) + tail)
        block = burst.low[self._block_bits:]
        with m.If(begin):  # `left` + `another` bursts will follow
            m.d.sync += [
                burst.eq(run), end.eq(reaches), another.eq(reaches[-1]), left.eq(blocks),
                last.eq(~reaches[-1] & ~blocks.any())]
        with m.Else():
            m.d.sync += [
                Cat(burst.low, burst.carry).eq(Cat(Const(0, self._block_bits), block + 1)),
                burst.origin.eq(_From.BLOCK), another.eq(0), left.eq(Mux(another, left, left - 1)),
                last.eq(Mux(another, left == 0, left == 1))]

    def _put_out(self, m: Module, loops: data.View, out: data.View, length: Signal, step: Value) -> None:
        """High half of the address, to `o` at `step`."""
        address, run_high = self.o.payload.address, Signal(HALF_BITS)
        high, plain, added = (Signal(HALF_BITS, name=name) for name in ("high", "plain", "added"))
        with m.Switch(out.origin):
            for origin, start, stride in (
                    (_From.BLOCK, address, Const(0, ADDRESS_BITS)), (_From.RUN, Cat(address[:HALF_BITS], run_high),
                    loops.stride1), (_From.REPEAT, loops.base, loops.stride2), (_From.BEGIN, loops.base, loops.offset)):
                with m.Case(origin):
                    m.d.comb += [plain.eq(start[HALF_BITS:]), added.eq(stride[HALF_BITS:])]
        m.d.comb += high.eq(plain + added + out.carry)
        with m.If(step):
            m.d.sync += [
                address.eq(Cat(out.low, high)), self.o.payload.length.eq(length),
                self.beats.eq(self.beats + length), self.bursts.eq(self.bursts + 1)]
            with m.If(out.origin != _From.BLOCK):
                m.d.sync += run_high.eq(high)
            with m.If(out.origin[1]):
                m.d.sync += loops.base[HALF_BITS:].eq(high)

    def _index(self, low: Value) -> Value:
        """Number of a beat in its block."""
        return low[size_code(self.config):self._block_bits]

    @property
    def _block_bits(self) -> int:
        return size_code(self.config) + _INDEX_BITS
