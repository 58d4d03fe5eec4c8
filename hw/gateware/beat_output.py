"""Cuts items into beats, lowest first, without a bubble between items."""

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .skid import SkidBuffer

__all__ = ["BeatOutput"]


class BeatOutput(wiring.Component):
    """One of several item streams, cut into beats.

    Throughput: one beat per cycle. Latency: 1 (output register). The ready of the items does not depend on that of
    `o` in the same cycle (`SkidBuffer`).

    Args:
        beat_bits: Width of a beat.
        beats: For each input stream, the most beats of its items (their width is `beats * beat_bits`).

    Ports:
        i0, i1, ..: Items.
        select: Stream that is listened to; changes only while none has an item to offer.
        last: Beats of an item of the selected stream, less one; changes likewise, and a cycle ahead of an item.
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
        ends, taken = Signal(), Signal()  # `ends`: a register, the present beat is the last of its item
        m.submodules.skid = skid = SkidBuffer(self.beat_bits)
        connect(m, skid.o, flipped(self.o))
        valid = Array([item.valid for item in self.inputs])[self.select]
        beat = Array([self._beat(item.payload, index) for item in self.inputs])[self.select]
        m.d.comb += [skid.i.valid.eq(valid), skid.i.payload.eq(beat), taken.eq(skid.i.ready & valid)]
        m.d.comb += [item.ready.eq(skid.i.ready & ends & (self.select == number))
                     for number, item in enumerate(self.inputs)]
        with m.If(taken):
            m.d.sync += [
                index.eq(Mux(ends, 0, index + 1)), ends.eq(Mux(ends, self.last == 0, index + 1 == self.last))]
        with m.Else():
            m.d.sync += ends.eq(index == self.last)
        return m

    def _beat(self, item: Value, index: Signal) -> Value:
        beats = [item[low:low + self.beat_bits] for low in range(0, len(item), self.beat_bits)]
        return Array(beats)[index]  # `word_select` would multiply
