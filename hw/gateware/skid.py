"""Cuts the path of a stream's `ready`: a second register takes what comes when the first one stops."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["SkidBuffer"]


class SkidBuffer(wiring.Component):
    """A stream through two registers; `i.ready` and `o` come from registers, and neither follows from the other side.

    While `o.valid` is low, `o.payload` is what `i.payload` was a cycle ago (0 in the first cycle).

    Throughput: one item per cycle. Latency: 1.

    Args:
        shape: Shape of the payload.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform) -> Module:
        m = Module()
        space, spare = Signal(init=1), Signal(len(Value.cast(self.i.payload)), reset_less=True)
        given, out = Signal.like(spare), Signal.like(spare)
        m.d.comb += [self.i.ready.eq(space), given.eq(self.i.payload), Value.cast(self.o.payload).eq(out)]
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid | ~space), out.eq(Mux(space, given, spare)), space.eq(1)]
        with m.Elif(space):
            m.d.sync += space.eq(~self.i.valid)
        with m.If(space):
            m.d.sync += spare.eq(given)
        return m
