"""Cuts items into beats, lowest first, without a bubble between items."""

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BeatOutput"]


class BeatOutput(wiring.Component):
    """One of several item streams, cut into beats.

    Throughput: one beat per cycle. Latency: 1 (output register). The ready of the items does not depend on that of
    `o` in the same cycle: a second register takes the beat that comes when `o` stops.

    Args:
        beat_bits: Width of a beat.
        beats: For each input stream, the most beats of its items (their width is `beats * beat_bits`).

    Ports:
        i0, i1, ..: Items.
        select: Stream that is listened to; changes only while none has an item to offer.
        last: Beats of an item of the selected stream, less one; changes likewise.
        o: Beats.
    """

    select: Signal
    last: Signal
    o: stream.Interface

    def __init__(self, beat_bits: int, beats: tuple[int, ...]) -> None:
        if not beats or min(beats) < 1:
            raise ValueError(f"`beats` must be one or more positive numbers, not `{beats!r}`")
        self.beat_bits, self.beats = beat_bits, beats
        super().__init__({
            **{f"i{index}": In(stream.Signature(count * beat_bits)) for index, count in enumerate(beats)},
            "select": In(range(max(2, len(beats)))), "last": In(range(max(2, *beats))),
            "o": Out(stream.Signature(beat_bits))})

    @property
    def inputs(self) -> list[stream.Interface]:
        """The item streams."""
        return [getattr(self, f"i{index}") for index in range(len(self.beats))]

    def elaborate(self, platform) -> Module:
        m = Module()
        index = Signal.like(self.last)
        ends = Signal()
        valid = Array([item.valid for item in self.inputs])[self.select]
        beat = Array([self._beat(item.payload, index) for item in self.inputs])[self.select]
        space = self._output(m, valid, beat)
        m.d.comb += ends.eq(index == self.last)
        m.d.comb += [item.ready.eq(space & ends & (self.select == number)) for number, item in enumerate(self.inputs)]
        with m.If(space & valid):
            m.d.sync += index.eq(Mux(ends, 0, index + 1))
        return m

    def _output(self, m: Module, valid: Value, beat: Value) -> Signal:
        """Beats to `o`, by way of the spare register while `o` waits. Returns a register: a beat is taken."""
        space, spare = Signal(init=1), Signal(self.beat_bits)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.valid.eq(valid | ~space), self.o.payload.eq(Mux(space, beat, spare)), space.eq(1)]
        with m.Elif(space):
            m.d.sync += space.eq(~valid)
        with m.If(space):
            m.d.sync += spare.eq(beat)
        return space

    def _beat(self, item: Value, index: Signal) -> Value:
        beats = [item[low:low + self.beat_bits] for low in range(0, len(item), self.beat_bits)]
        return Array(beats)[index]  # `word_select` would multiply
