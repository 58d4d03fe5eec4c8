"""Accumulators of one channel -> the values `a`, `r` and `p` of `spikeloom.arithmetic`, all lanes side by side.

::

    cycle   0     |      1          |      2            |    3               |     4              |    5
    acc, bias --> | a=+-acc+bias -> | a << 9 >> 16,8,4  | cut to 22 bits,    | y/2 + y%2 (+ short-| saturate r, p
    negate, shift |                 |                   | >> 2,1 = y         | cut): sum          | value = a or r

`y` has one bit below the point, so that rounding half up is a carry into the next addition. Cutting to `_WINDOW` bits
keeps every value that does not saturate in the end, and turns the others into some number that does.
"""

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from spikeloom.arithmetic import PLANE_BITS, RESIDUAL_BITS, SHIFT_MIN, current, round_shift, saturate
from spikeloom.config import ACCUMULATOR_BITS

from .pipeline import delayed, register, same, saturated

__all__ = ["CURRENT_BITS", "SHIFT_BITS", "Rescale"]

CURRENT_BITS = 26
"""Width of `a`. The compiler proves that it fits, so bits of the bias from here up are not looked at."""

SHIFT_BITS = 5
"""Width of a biased shift, `shift - SHIFT_MIN`."""

_FRACTION = 1 - SHIFT_MIN  # bits that `a` is widened by: left shifts, and one for rounding
_WIDE = CURRENT_BITS + _FRACTION
_FINE = 3  # largest shift left for the second stage
_WINDOW = RESIDUAL_BITS + 3 + _FINE  # an overflow of the window still saturates after >> _FINE, >> 1 and the shortcut


class Rescale(wiring.Component):
    """Bias, round and shift, shortcut, saturation for one channel.

    Equation, per lane (all bit-exact, see `spikeloom.arithmetic`)::

        a        = (-acc if negate else acc) + bias
        residual = saturate(round_shift(a, shift + SHIFT_MIN) + (shortcut if add else 0), 16)
        plane    = saturate(round_shift(a, shift + SHIFT_MIN), 8)
        value    = a if direct else residual

    Overflow: `a` must fit 26 bits. Throughput: one pixel per cycle, no handshake.

    Args:
        lanes: Values side by side, 1 or more.

    Ports (cycle relative to the accumulators):
        acc (0): `lanes` signed 24-bit numbers, lane 0 lowest.
        bias, negate, shift (0): of the channel; `shift` is biased: 0..31 stand for -8..23.
        shortcut (`SHORTCUT_CYCLE` = 3): `lanes` signed 16-bit numbers.
        add (`SHORTCUT_CYCLE`); direct, mask (`latency` - 1): mask has one bit per lane.
        residual, plane (`latency` = 5): `lanes` signed numbers of 16 and 8 bits, 0 in lanes outside of `mask`.
        value (`latency`): `lanes` signed 26-bit numbers.
    """

    acc: Signal
    bias: Signal
    negate: Signal
    shift: Signal
    shortcut: Signal
    add: Signal
    direct: Signal
    mask: Signal
    residual: Signal
    plane: Signal
    value: Signal

    SHORTCUT_CYCLE = 3
    latency = 5

    def __init__(self, lanes: int) -> None:
        if lanes < 1:
            raise ValueError(f"`lanes` must be at least 1, not `{lanes!r}`")
        self.lanes = lanes
        super().__init__({
            "acc": In(lanes * ACCUMULATOR_BITS), "bias": In(signed(CURRENT_BITS)), "negate": In(1),
            "shift": In(SHIFT_BITS), "shortcut": In(lanes * RESIDUAL_BITS), "add": In(1), "direct": In(1),
            "mask": In(lanes), "residual": Out(lanes * RESIDUAL_BITS), "plane": Out(lanes * PLANE_BITS),
            "value": Out(lanes * CURRENT_BITS)})

    @staticmethod
    def model(
        acc: NDArray[np.int64], bias: NDArray[np.int64], negate: NDArray[np.int64], shift: NDArray[np.int64],
        shortcut: NDArray[np.int64], *, direct: bool,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(residual, plane, value), elementwise; `shift` in [-8, 23]; `shortcut` 0 where none is added."""
        a = current(acc, bias, negate)
        rounded = round_shift(a, shift)
        residual = saturate(rounded + shortcut, RESIDUAL_BITS)
        return residual, saturate(rounded, PLANE_BITS), a if direct else residual

    def elaborate(self, platform) -> Module:
        m = Module()
        coarse = Signal(SHIFT_BITS, reset_less=True)
        fine = Signal(2, reset_less=True)
        m.d.sync += [coarse.eq(self.shift), fine.eq(coarse)]
        for lane in range(self.lanes):
            self._lane(m, lane, coarse, fine)
        return m

    def _lane(self, m: Module, lane: int, coarse: Signal, fine: Signal) -> None:
        acc = self.acc.word_select(lane, ACCUMULATOR_BITS)
        shortcut = self.shortcut.word_select(lane, RESIDUAL_BITS)
        # Cycle 1: one carry chain; the two `negate` bits below make the carry.
        sign_flip = self.negate.replicate(ACCUMULATOR_BITS)
        total = Cat(self.negate, acc ^ sign_flip).as_signed() + Cat(self.negate, self.bias).as_signed()
        a = register(m, total >> 1, f"a{lane}", signed(CURRENT_BITS))
        # Cycle 2
        wide = Cat(Const(0, _FRACTION), a).as_signed()
        shifted = register(m, wide >> (coarse & 0b11100), f"shifted{lane}", signed(_WIDE))
        # Cycle 3
        y = register(m, _cut(shifted) >> fine, f"y{lane}", signed(_WINDOW))
        # Cycle 4
        addend = Cat(y[0], Mux(self.add, shortcut, 0)).as_signed()
        added = register(m, (y + addend) >> 1, f"sum{lane}", signed(_WINDOW))
        rounded = register(m, (saturated(y, PLANE_BITS + 1) + 1) >> 1, f"rounded{lane}", signed(PLANE_BITS + 1))
        # Cycle 5
        keep = self.mask[lane]
        late = delayed(m, a, self.latency - 2, f"a_late{lane}")
        residual = saturated(added, RESIDUAL_BITS)
        m.d.comb += [
            self.residual.word_select(lane, RESIDUAL_BITS).eq(
                register(m, Mux(keep, residual, 0), f"residual{lane}", signed(RESIDUAL_BITS))),
            self.plane.word_select(lane, PLANE_BITS).eq(
                register(m, Mux(keep, saturated(rounded, PLANE_BITS), 0), f"plane{lane}", signed(PLANE_BITS))),
            self.value.word_select(lane, CURRENT_BITS).eq(
                register(m, Mux(self.direct, late, residual), f"value{lane}", signed(CURRENT_BITS)))]


def _cut(value: Signal) -> Value:
    """The low `_WINDOW` bits of a signed value; if it does not fit, a number of its sign of at least 2**(_WINDOW-2)."""
    sign = value[-1]
    top = Mux(same(value[_WINDOW - 1:]), value[_WINDOW - 2:_WINDOW], Cat(~sign, sign))
    return Cat(value[:_WINDOW - 2], top).as_signed()
