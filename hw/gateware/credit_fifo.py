"""A FIFO at the end of a pipeline that cannot stall: places are reserved when an item enters the pipeline.

::

    reserve --> room - 1                                        room + 1 <-- taken from o
    (item enters the pipeline)  ..latency..  push, item --> [ depth places ] --> o
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["CreditFifo"]


class CreditFifo(wiring.Component):
    """FIFO with credits.

    Handshake: `reserve` only while `room`; each reservation is followed by one `push`, at any later time; a push then
    always finds a place. First word falls through: an item is at `o` from the cycle after its push. `room` and
    `o.valid` come from registers, the former at the price of one place. To sustain one item per cycle, `depth` must be
    at least the cycles from reserve to push, and four.

    Args:
        width: Bits of an item.
        depth: Places, one more than the items held, at least 2.

    Ports:
        reserve, room: Take a place; there is one.
        push, item: The item of the oldest reservation.
        o: Items in order.
        empty: No item is held (reservations do not count).
    """

    reserve: Signal
    room: Signal
    push: Signal
    item: Signal
    o: stream.Interface
    empty: Signal

    def __init__(self, width: int, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"`depth` must be at least 2, not `{depth!r}`")
        self.width, self.depth = width, depth
        super().__init__({"reserve": In(1), "room": Out(1), "push": In(1), "item": In(width),
                          "o": Out(stream.Signature(width)), "empty": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.items = items = fifo.SyncFIFO(width=self.width, depth=self.depth)
        places = Signal(range(self.depth + 1), init=self.depth)
        taken = Signal()
        m.d.sync += [
            self.room.eq(places[1:].any()),  # one at least is left if this cycle takes one
            self.o.valid.eq(self.push | items.level[1:].any() | items.level[0] & ~taken)]
        m.d.comb += [
            taken.eq(self.o.valid & self.o.ready), self.empty.eq(~items.r_rdy),
            items.w_en.eq(self.push), items.w_data.eq(self.item), items.r_en.eq(taken),
            self.o.payload.eq(items.r_data)]
        with m.If(self.reserve & ~taken):
            m.d.sync += places.eq(places - 1)
        with m.Elif(taken & ~self.reserve):
            m.d.sync += places.eq(places + 1)
        return m
