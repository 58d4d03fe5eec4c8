"""One channel of the neuron unit, all lanes: rescale -> spatial sum -> input current -> LIF chain.

::

    cycle 0           3          5           6      7                          7 + 3 * lanes
    acc  -> Rescale (shortcut) -> SpatialSum -> X -> LifChain (start) -> spikes, membrane
                               '-> residual, plane
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.arithmetic import MEMBRANE_BITS, PLANE_BITS, RESIDUAL_BITS
from spikeloom.config import ACCUMULATOR_BITS

from .lif import THRESHOLD_BITS, LifChain
from .pipeline import held, register
from .rescale import CURRENT_BITS, SHIFT_BITS, Rescale
from .shared import shared
from .spatial_sum import SpatialSum

__all__ = ["PARAMETER", "SETTINGS", "USED_PARAMETER", "NeuronChannel", "control_layout"]

PARAMETER = data.StructLayout({
    "bias": signed(32), "threshold": THRESHOLD_BITS, "shift": 8, "negate": 1, "padding": 23})
"""Neuron parameters of one channel: 96 bits. `shift` is biased by 8."""

USED_PARAMETER = sum(
    (1 << bits) - 1 << PARAMETER[name].offset
    for name, bits in {"bias": CURRENT_BITS, "threshold": THRESHOLD_BITS, "shift": SHIFT_BITS, "negate": 1}.items())
"""The bits of a `PARAMETER` that a channel looks at."""

SETTINGS = data.StructLayout({
    "mode": 2, "shortcut": 1, "pool": 1, "pool_first": 1, "leak": 3, "soft": 1, "strict": 1, "lanes": 4,
    "carry_in": 1})
"""The fields of a DRAIN that say how its items are computed; they travel with the items."""


def control_layout(lanes: int) -> data.StructLayout:
    """`SETTINGS`, decoded for the channels. `direct`: X is a, not r; `temporal`: mode SUM."""
    return data.StructLayout({
        "direct": 1, "temporal": 1, "pool": 1, "fresh": 1, "leak": 3, "soft": 1, "strict": 1, "carry_in": 1,
        "mask": lanes})


@shared
class NeuronChannel(wiring.Component):
    """One channel of `NeuronUnit`, which see for equations.

    Ports (cycle relative to the accumulators):
        acc, parameter, control (0): `lanes` signed 24-bit numbers; a `PARAMETER`; a `control_layout(lanes)` whose mask
            has bit t set if lane t counts.
        shortcut (`Rescale.SHORTCUT_CYCLE`): `lanes` signed 16-bit numbers, 0 where there is none.
        ahead_word (`early_latency` - 1); valid, first, last (`early_latency`): see `SpatialSum`.
        start (`current_latency` - 1): V before lane 0, signed 32 bit; with `carry_in` only.
        residual, plane (`early_latency`); spikes, membrane (`latency`).
    """

    acc: Signal
    parameter: data.View
    shortcut: Signal
    ahead_word: Signal
    valid: Signal
    first: Signal
    last: Signal
    start: Signal
    control: data.View
    residual: Signal
    plane: Signal
    spikes: Signal
    membrane: Signal

    def __init__(self, lanes: int, words: int) -> None:
        self.lanes = lanes
        self._rescale, self._lif = Rescale(lanes), LifChain(lanes)
        self._sum = SpatialSum(lanes, words)
        super().__init__({
            "acc": In(lanes * ACCUMULATOR_BITS), "parameter": In(PARAMETER), "shortcut": In(lanes * RESIDUAL_BITS),
            "ahead_word": In(self._sum.ahead_word.shape()), "valid": In(1), "first": In(1), "last": In(1),
            "start": In(signed(MEMBRANE_BITS)), "control": In(control_layout(lanes)),
            "residual": Out(lanes * RESIDUAL_BITS), "plane": Out(lanes * PLANE_BITS), "spikes": Out(lanes),
            "membrane": Out(signed(MEMBRANE_BITS))})

    @property
    def early_latency(self) -> int:
        """Cycles to `residual` and `plane`."""
        return self._rescale.latency

    @property
    def current_latency(self) -> int:
        """Cycles to the input current X of the chain."""
        return self.early_latency + self._sum.latency + 1

    @property
    def latency(self) -> int:
        """Cycles to `spikes` and `membrane`."""
        return self.current_latency + self._lif.latency

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.rescale, m.submodules.sum, m.submodules.lif = self._rescale, self._sum, self._lif
        control = self._controls(m)
        self._connect_rescale(m, control)
        self._connect_sum(m, control[self.early_latency - 1])
        self._connect_lif(m, control)
        return m

    def _controls(self, m: Module) -> list[data.View]:
        """The control of the items that came 0, 1, .. cycles ago."""
        layout = control_layout(self.lanes)
        line = [self.control]
        for cycle in range(1, self.current_latency + 1):
            line.append(data.View(layout, held(m, line[-1].as_value(), 1, f"control{cycle}")))
        return line

    def _connect_rescale(self, m: Module, control: list[data.View]) -> None:
        rescale, late = self._rescale, control[self.early_latency - 1]
        m.d.comb += [
            rescale.acc.eq(self.acc), rescale.shortcut.eq(self.shortcut), rescale.mask.eq(late.mask),
            rescale.bias.eq(self.parameter.bias[:CURRENT_BITS]), rescale.negate.eq(self.parameter.negate),
            rescale.shift.eq(self.parameter.shift[:SHIFT_BITS]), rescale.direct.eq(late.direct),
            rescale.temporal.eq(late.temporal),
            self.residual.eq(rescale.residual), self.plane.eq(rescale.plane)]

    def _connect_sum(self, m: Module, ahead: data.View) -> None:
        total = self._sum
        m.d.comb += [
            *(getattr(total, name).eq(getattr(self._rescale, name))
              for name in ("current", "current_high", "raw", "raw_high", "addend")),
            total.ahead_word.eq(self.ahead_word), total.valid.eq(self.valid),
            total.first.eq(self.first), total.last.eq(self.last), total.pool.eq(ahead.pool),
            total.fresh.eq(ahead.fresh)]

    def _connect_lif(self, m: Module, control: list[data.View]) -> None:
        lif, ahead, now = self._lif, control[self.current_latency - 1], control[self.current_latency]
        threshold = held(m, self.parameter.threshold, self.current_latency, "threshold")
        m.d.comb += [
            lif.start.eq(register(m, Mux(ahead.carry_in, self.start, 0), "start", signed(MEMBRANE_BITS))),
            lif.threshold.eq(threshold), lif.leak.eq(now.leak), lif.soft_reset.eq(now.soft),
            lif.strict.eq(now.strict), lif.never.eq(now.temporal), lif.mask.eq(now.mask),
            self.spikes.eq(lif.spikes), self.membrane.eq(lif.membrane)]
        off = register(m, ~control[self.current_latency - 2].mask, "off")
        m.d.comb += [
            lif.value.eq(self._kept(m, "value", self._sum.o, off)),
            lif.value_high.eq(self._kept(m, "value_high", self._sum.o_high, register(m, off, "off_high")))]

    def _kept(self, m: Module, name: str, value: Signal, off: Value) -> Value:
        """`value`, a cycle later, 0 in the lanes of `off`."""
        width = len(value) // self.lanes
        return Cat(register(m, Mux(off[lane], 0, value.word_select(lane, width)), f"{name}{lane}")
                   for lane in range(self.lanes))
