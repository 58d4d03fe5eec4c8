"""Leaky integrate-and-fire over the lanes of one channel: lane t is frame t, so the lanes form a chain in time.

::

    cycle      0     1     2     3     4     5     6
    lane 0   X0 -> T0 -> H0 -> V0
    lane 1   X1 ------------>  X1 -> T1 -> H1 -> V1 = membrane      (X1 waits for V0 in registers)
             S  <--------------------------- S0, S1 wait for the last one

Every lane takes three cycles: leak and integrate, low bits; high bits, saturate; compare and reset. To keep carry
chains short, high bits of X come a cycle after the low ones, and the comparison begins with the lowest bits of H while
its high ones are being added up. The settings travel with the values. Choices are made in the LUTs of the adders.
"""

import numpy as np
from amaranth.hdl import Array, Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from spikeloom.arithmetic import GUARD_BITS, LEAKS, MEMBRANE_BITS, RESETS, lif_step

from ..isa import Leak
from .pipeline import chain_sum, chosen, held, low_sum, register
from .rescale import LOW_BITS

__all__ = ["THRESHOLD_BITS", "LifChain"]

THRESHOLD_BITS = 32
"""Width of a threshold in the parameters, unsigned, without guard bits. From 2**27 up it is out of reach."""

_REACH = MEMBRANE_BITS - GUARD_BITS - 1  # bits of a threshold that a potential can reach
_EARLY = 6  # lowest bits of a threshold, compared a cycle before the others
_LEAK_BITS = Shape.cast(range(len(LEAKS))).width
_HISTORY = {"none": 0, "decayed": 0, "half": 1, "quarter": 2, "memoryless": 3}  # what X is added to: V, V/2, V/4, 0
_SETTINGS = data.StructLayout({"history": 2, "decayed": 1, "soft": 1, "strict": 1, "never": 1})

_POTENTIAL = data.StructLayout({
    "value": signed(MEMBRANE_BITS), "lacking": _EARLY, "taken": _EARLY, "reached": 1})
"""H. Of H without guard bits, less the threshold, both to `_EARLY` bits: all bits of the difference inverted, in
`lacking` or, if H was cut to the most there is, in `taken`, the other being 0; whether the difference is not negative.
(Each is reset by its register, which takes no LUT.)"""


class LifChain(wiring.Component):
    """One channel of neurons, `lanes` time steps.

    Equation, for lane t = 0, 1, .. (`arithmetic.lif_step`, `threshold << GUARD_BITS`)::

        H     = saturate(leak(V, X[t]), 32)
        fire  = H > th if strict else H >= th
        V     = (H - th if soft_reset else 0) if fire else H

    `never`: no lane fires. A lane t outside of `mask` keeps V and puts out no spike.

    Throughput: one pixel per cycle, no handshake. Latency: 3 cycles per lane. Overflow: H saturates.

    Args:
        lanes: Time steps side by side, 1 or more.

    Ports (cycle relative to the values):
        value, value_high (0, 1): X, `lanes` signed 32-bit numbers, 0 in lanes outside of `mask`: their lowest
            `LOW_BITS` bits and, a cycle later, the others.
        start (0): V before lane 0, signed 32 bit.
        threshold (0): 32 bit unsigned, without guard bits.
        leak, soft_reset, strict, never, mask (0).
        spikes (`latency`): bit t is lane t.
        membrane (`latency`): V after the last lane, signed 32 bit.
    """

    value: Signal
    value_high: Signal
    start: Signal
    threshold: Signal
    leak: Signal
    soft_reset: Signal
    strict: Signal
    never: Signal
    mask: Signal
    spikes: Signal
    membrane: Signal

    LANE_CYCLES = 3

    def __init__(self, lanes: int) -> None:
        if lanes < 1:
            raise ValueError(f"`lanes` must be at least 1, not `{lanes!r}`")
        self.lanes = lanes
        super().__init__({
            "value": In(lanes * LOW_BITS), "value_high": In(lanes * (MEMBRANE_BITS - LOW_BITS)),
            "start": In(signed(MEMBRANE_BITS)), "threshold": In(THRESHOLD_BITS), "leak": In(_LEAK_BITS),
            "soft_reset": In(1), "strict": In(1), "never": In(1), "mask": In(lanes), "spikes": Out(lanes),
            "membrane": Out(signed(MEMBRANE_BITS))})

    @property
    def latency(self) -> int:
        return self.LANE_CYCLES * self.lanes

    @staticmethod
    def model(
        value: NDArray[np.int64], start: NDArray[np.int64], threshold: NDArray[np.int64], *, leak: int, soft: bool,
        strict: bool, never: bool, valid: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(spikes[..., lanes], membrane[...]) of value[..., lanes], start[...], threshold[...]; `valid` lanes count."""
        spikes, membrane = np.zeros_like(value), start
        level = threshold << GUARD_BITS if not never else np.full_like(threshold, 1 << MEMBRANE_BITS)
        for lane in range(valid):
            spikes[..., lane], membrane = lif_step(
                membrane, value[..., lane], level, leak=LEAKS[leak], reset=RESETS[int(soft)], strict=strict)
        return spikes, membrane

    def elaborate(self, platform) -> Module:
        m = Module()
        beyond = self.threshold[_REACH:].any()
        threshold = held(m, Cat(self.threshold[:_REACH], beyond), 1, "threshold0")
        membrane, settings = self.start, self._settings(m)
        for lane in range(self.lanes):
            wait = self.LANE_CYCLES * lane
            keeps = held(m, ~self.mask[lane], wait, f"keeps{lane}")
            unable = held(m, keeps | settings[wait].never, 2, f"unable{lane}")
            potential = self._integrate(m, lane, membrane, keeps, settings[wait], threshold[:_EARLY])
            threshold = held(m, threshold, 1, f"threshold{lane}_late")
            spike, membrane = self._fire(m, lane, potential, threshold, unable, settings[wait + 2])
            threshold = held(m, threshold, self.LANE_CYCLES - 1, f"threshold{lane + 1}")
            late = held(m, spike, self.latency - wait - self.LANE_CYCLES, f"spike{lane}")
            m.d.comb += self.spikes[lane].eq(late)
        m.d.comb += self.membrane.eq(membrane)
        return m

    def _settings(self, m: Module) -> list[data.View]:
        """What was asked for 0, 1, .. cycles ago."""
        history = Array(Const(_HISTORY[name], 2) for name in LEAKS)[self.leak]
        now = data.View(_SETTINGS, Cat(history, self.leak == Leak.DECAYED, self.soft_reset, self.strict, self.never))
        line = [now]
        for cycle in range(1, self.latency):
            line.append(data.View(_SETTINGS, held(m, line[-1].as_value(), 1, f"settings{cycle}")))
        return line

    def _integrate(
        self, m: Module, lane: int, membrane: Value, keeps: Value, settings: data.View, reach: Value,
    ) -> data.View:
        """H and what is known of its comparison, two cycles after V; `reach`, of the threshold, comes one after V.

        Without a leak and with value 0, as in a lane that does not count, H is V.
        """
        wait, wide = self.LANE_CYCLES * lane, MEMBRANE_BITS - LOW_BITS
        value = held(m, self.value.word_select(lane, LOW_BITS), wait, f"value{lane}")
        above = held(m, self.value_high.word_select(lane, wide), wait, f"value_high{lane}").as_signed()
        select = settings.history & ~keeps.replicate(2)
        low = register(m, low_sum(value, _history(membrane, select)[:LOW_BITS]), f"low{lane}")
        # Cycle 2
        before = register(m, membrane[LOW_BITS:].as_signed(), f"before{lane}")
        high = chain_sum(above, _history(before, register(m, select, f"select{lane}")), low[-1])
        total = Signal(signed(MEMBRANE_BITS + 1), name=f"total{lane}")
        m.d.comb += total.eq(Cat(low[:LOW_BITS], high))
        decayed = register(m, settings.decayed & ~keeps, f"decayed{lane}")
        negative, beyond = total[-1], total[-1] ^ total[-2]
        limit = Cat((~negative).replicate(MEMBRANE_BITS - 1), negative)
        most = beyond & ~negative & ~decayed
        lacking = low_sum(reach, ~Mux(decayed, low[1:], low)[GUARD_BITS:][:_EARLY])
        found = Signal(_POTENTIAL, name=f"potential{lane}", reset_less=True)
        m.d.sync += [
            found.value.eq(Mux(decayed, total[1:], Mux(beyond, limit, total[:MEMBRANE_BITS]))),
            found.lacking.eq(Mux(most, 0, lacking)), found.taken.eq(Mux(most, reach, 0)),
            found.reached.eq(~lacking[-1] | most)]
        return found

    def _fire(
        self, m: Module, lane: int, potential: data.View, threshold: Value, unable: Value, settings: data.View,
    ) -> tuple[Signal, Signal]:
        """(spike, V). The threshold has no guard bits, so one difference without them serves comparison and reset."""
        value = potential.value
        guard, high = value[:GUARD_BITS], value[GUARD_BITS + _EARLY:].as_signed()
        reach, beyond = threshold[_EARLY:_REACH], threshold[_REACH]
        difference = chain_sum(high, ~Cat(reach, 0).as_signed(), potential.reached)
        level = settings.strict & ~guard.any() & potential.lacking.all() & (high == reach)  # H is th: not enough
        fire = Signal(name=f"fire{lane}")
        m.d.comb += fire.eq(~(difference[-1] | (level | beyond | unable)))
        rest = Cat(guard, ~(potential.lacking | potential.taken), difference[:len(high)]).as_signed()
        after = Mux(fire & ~settings.soft, 0, Mux(fire, rest, value))
        return (register(m, fire, f"fired{lane}"),
                register(m, after, f"membrane{lane}", signed(MEMBRANE_BITS)))


def _history(membrane: Value, select: Value) -> Value:
    """What X is added to, by `_HISTORY`, of V or of its high bits."""
    return chosen([membrane, membrane >> 1, membrane >> 2, Const(0, membrane.shape())], select)
