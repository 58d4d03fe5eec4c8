"""Accumulators of one channel -> the values `a`, `r` and `p` of `spikeloom.arithmetic`, all lanes side by side.

::

    cycle   0     |      1          |      2            |    3               |     4              |    5
    acc, bias --> | a=bias+-acc --> | a << 3 >> 0..3    | << 6 >> 0,4,8,12;  | >> 0, 16 or limit  | saturate r, p
    negate, shift |                 |                   | does it fit?       | = y; y/2 + shortcut| gate a

`y` has one bit below the point, so that rounding half up is a carry into the addition of the shortcut. It is cut to
`_WINDOW` bits, which keeps every sum that does not saturate in the end. The choice of its last stage is in the LUTs of
the adder, whose other operand is the one on the carry chain. To keep that of `a` short, its highest bits are made in
cycle 2, from the carry.
"""

from collections.abc import Iterable

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from spikeloom.arithmetic import GUARD_BITS, PLANE_BITS, RESIDUAL_BITS, SHIFT_MIN, current, round_shift, saturate
from spikeloom.config import ACCUMULATOR_BITS

from .pipeline import chosen, held, low_sum, register, saturated

__all__ = ["CURRENT_BITS", "LOW_BITS", "SHIFT_BITS", "Rescale"]

CURRENT_BITS = 26
"""Width of `a`. The compiler proves that it fits, so bits of the bias from here up are not looked at."""

LOW_BITS = 18
"""Bits of an input current X, guard bits included, that go ahead; the others follow a cycle later, with their carry."""

SHIFT_BITS = 5
"""Width of a biased shift, `shift - SHIFT_MIN`."""

_LOW = LOW_BITS - GUARD_BITS  # of `a`, if it is shifted left by the guard bits
_SIGN = ACCUMULATOR_BITS - 1  # of an accumulator; the bits of `a` from here up are made a cycle later, off the chain
_FINE = 3  # most places that the first stage of the shifter moves
_STEP = _FINE + 1
_LEFT = 1 - SHIFT_MIN - _FINE  # bits that the second stage widens by, for shifts to the left and for rounding
_LAST = 16  # of the third stage
_WINDOW = RESIDUAL_BITS + 2  # of y: a value beyond it, halved and with any shortcut added, still saturates


class Rescale(wiring.Component):
    """Bias, round and shift, shortcut, saturation for one channel.

    Equation, per lane (all bit-exact, see `spikeloom.arithmetic`)::

        a        = (-acc if negate else acc) + bias
        residual = saturate(round_shift(a, shift + SHIFT_MIN) + shortcut, 16)
        plane    = saturate(residual, 8)
        current  = a if direct else 0
        raw      = a if temporal else 0
        addend   = 0 if direct or temporal else residual

    Overflow: `a` must fit 26 bits. Throughput: one pixel per cycle, no handshake.

    Args:
        lanes: Values side by side, 1 or more.

    Ports (cycle relative to the accumulators):
        acc (0): `lanes` signed 24-bit numbers, lane 0 lowest.
        bias, negate, shift (0): of the channel; `shift` is biased: 0..31 stand for -8..23.
        shortcut (`SHORTCUT_CYCLE` = 3): `lanes` signed 16-bit numbers, 0 where there is none.
        direct, temporal, mask (`latency` - 1): mask has one bit per lane.
        residual, plane (`latency` = 5): `lanes` signed numbers of 16 and 8 bits, 0 in lanes outside of `mask`.
        addend (`latency`): `lanes` signed 16-bit numbers.
        current, current_high (`latency`, one later): `lanes` signed 26-bit numbers: the bits that are among the
            lowest `LOW_BITS` of X = current << GUARD_BITS, then the others.
        raw, raw_high (`latency`, one later): likewise of X = raw.
    """

    acc: Signal
    bias: Signal
    negate: Signal
    shift: Signal
    shortcut: Signal
    direct: Signal
    temporal: Signal
    mask: Signal
    residual: Signal
    plane: Signal
    current: Signal
    current_high: Signal
    raw: Signal
    raw_high: Signal
    addend: Signal

    SHORTCUT_CYCLE = 3
    latency = 5

    def __init__(self, lanes: int) -> None:
        if lanes < 1:
            raise ValueError(f"`lanes` must be at least 1, not `{lanes!r}`")
        self.lanes = lanes
        super().__init__({
            "acc": In(lanes * ACCUMULATOR_BITS), "bias": In(signed(CURRENT_BITS)), "negate": In(1),
            "shift": In(SHIFT_BITS), "shortcut": In(lanes * RESIDUAL_BITS), "direct": In(1), "temporal": In(1),
            "mask": In(lanes), "residual": Out(lanes * RESIDUAL_BITS), "plane": Out(lanes * PLANE_BITS),
            "current": Out(lanes * _LOW), "current_high": Out(lanes * (CURRENT_BITS - _LOW)),
            "raw": Out(lanes * LOW_BITS), "raw_high": Out(lanes * (CURRENT_BITS - LOW_BITS)),
            "addend": Out(lanes * RESIDUAL_BITS)})

    @staticmethod
    def model(
        acc: NDArray[np.int64], bias: NDArray[np.int64], negate: NDArray[np.int64], shift: NDArray[np.int64],
        shortcut: NDArray[np.int64], *, direct: bool,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(residual, plane, X), elementwise; `shift` in [-8, 23]; `shortcut` 0 where there is none."""
        a = current(acc, bias, negate)
        residual = saturate(round_shift(a, shift) + shortcut, RESIDUAL_BITS)
        return residual, saturate(residual, PLANE_BITS), a if direct else residual

    def elaborate(self, platform) -> Module:
        m = Module()
        shift = register(m, self.shift, "shift_now")
        coarse = register(m, shift[2:], "coarse_now")
        direct, temporal = ~register(m, ~self.direct, "not_direct"), ~register(m, ~self.temporal, "not_temporal")
        fine_copies, coarse_copies = _copies(m, self.shift[:2], "fine"), _copies(m, shift[2:4], "coarse")
        top, negate = register(m, self.bias[_SIGN:], "bias_top"), register(m, self.negate, "negate_now")
        for lane in range(self.lanes):
            late = self._lane(m, lane, top, negate, fine_copies, coarse_copies, coarse)
            later = held(m, late[_LOW:], 1, f"a_later{lane}").as_signed()
            self._put(m, lane, (
                (self.current, late[:_LOW], self.direct), (self.current_high, later, direct),
                (self.raw, late[:LOW_BITS], self.temporal), (self.raw_high, later[LOW_BITS - _LOW:], temporal)))
        return m

    def _put(self, m: Module, lane: int, outputs: Iterable[tuple[Signal, Value, Value]]) -> None:
        """Outputs of a lane: (port, value, whether it is not 0)."""
        for port, value, keep in outputs:
            width = len(port) // self.lanes
            m.d.comb += port.word_select(lane, width).eq(
                register(m, Mux(keep, value, 0), f"{port.name}{lane}", unsigned(width)))

    def _lane(
        self, m: Module, lane: int, top: Signal, negate: Signal, fine_copies: Signal, coarse_copies: Signal,
        coarse: Signal,
    ) -> Value:
        """Puts out residual, plane and addend; returns `a` in cycle 4."""
        acc = self.acc.word_select(lane, ACCUMULATOR_BITS)
        shortcut = self.shortcut.word_select(lane, RESIDUAL_BITS)
        # Cycle 1
        flipped = acc ^ self.negate.replicate(ACCUMULATOR_BITS)
        carry = Mux(self.negate, self.bias[0] | ~acc[0], self.bias[0] & acc[0])
        low = register(m, Cat(self.bias[0] ^ acc[0], low_sum(self.bias[1:_SIGN], flipped[1:_SIGN], carry)), f"a{lane}")
        # Cycle 2
        sign = register(m, acc[_SIGN], f"sign{lane}") ^ negate
        a = Signal(signed(CURRENT_BITS), name=f"a_now{lane}")
        m.d.comb += a.eq(Cat(low[:_SIGN], _stepped(top, low[-1] & ~sign, sign & ~low[-1])))
        wide = Cat(Const(0, _FINE), a).as_signed()
        moved = register(m, _moved(wide, 1, fine_copies), f"moved{lane}", wide.shape())
        # Cycle 3
        wide = Cat(Const(0, _LEFT), moved).as_signed()
        shifted = register(m, _moved(wide, _STEP, coarse_copies)[:_WINDOW + _LAST], f"shifted{lane}")
        choice = register(m, _choice(wide, coarse), f"choice{lane}")
        # Cycle 4
        low, high = shifted[:_WINDOW], shifted[_LAST:]
        negative = choice[0]  # if it does not fit
        limit = Cat((~negative).replicate(_WINDOW - 1), negative)
        y = Mux(choice[1], limit, Mux(choice[0], high, low)).as_signed()
        added = register(m, (Cat(1, shortcut).as_signed() + y) >> 1, f"sum{lane}", signed(_WINDOW))
        # Cycle 5
        residual, plane = saturated(added, RESIDUAL_BITS), saturated(added, PLANE_BITS)
        self._put(m, lane, (
            (self.residual, residual, self.mask[lane]), (self.plane, plane, self.mask[lane]),
            (self.addend, residual, ~(self.direct | self.temporal))))
        return held(m, a, self.latency - 2, f"a_late{lane}")


def _stepped(value: Value, up: Value, down: Value) -> Value:
    """`value`, plus 1 if `up`, minus 1 if `down`: in LUTs, no carry chain."""
    return Cat(bit ^ (up & value[:index].all()) ^ (down & ~value[:index].any()) for index, bit in enumerate(value))


def _copies(m: Module, count: Value, name: str) -> Signal:
    """Two copies of both bits of `count`, registered; different initial values keep the tools from merging them."""
    copies = Signal(4, name=f"{name}_copies", init=0b1100, reset_less=True)
    m.d.sync += copies.eq(Cat(count, count))
    return copies


def _moved(value: Value, step: int, copies: Signal) -> Value:
    """A signed value, shifted right by a count (`_copies`) times `step` places; a LUT per bit.

    Of the two multiplexers of two that a LUT has first, each is also that of a neighbour: sharing it would take more
    LUTs, not fewer. So neighbours are moved by different copies of the count.
    """
    bits = []
    for index in range(len(value)):
        which = index // step
        count = Cat(copies[2 * (which >> 1 & 1)], copies[1 + 2 * (which & 1)])
        places = [value[min(index + step * place, len(value) - 1)] for place in range(4)]
        bits.append(chosen(places, count))
    return Cat(bits).as_signed()


def _choice(wide: Value, coarse: Value) -> Value:
    """What y is, two bits: of the shifted value 0 the bits from 0 up, 1 those from `_LAST` up; 2 the most, 3 the least
    number, because it does not fit."""
    sign = wide[-1]
    beyond = Const(0)
    for count in range(1 << len(coarse)):
        top = wide[_WINDOW - 1 + _STEP * count:][:_STEP]
        if len(top):
            beyond |= (coarse <= count) & (top != sign.replicate(len(top)))
    return Cat(Mux(beyond, sign, coarse[2]), beyond)
