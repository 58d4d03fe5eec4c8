"""One channel of the neuron unit, all lanes: rescale -> spatial sum -> input current -> LIF chain.

::

    cycle 0           3          5           7      8                          8 + 2 * lanes
    acc  -> Rescale (shortcut) -> SpatialSum -> X -> LifChain (start) -> spikes, membrane
                               '-> residual, plane
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.arithmetic import GUARD_BITS, MEMBRANE_BITS, PLANE_BITS, RESIDUAL_BITS
from spikeloom.config import ACCUMULATOR_BITS

from ..isa import Leak, Mode
from .lif import THRESHOLD_BITS, LifChain
from .pipeline import delayed, register
from .rescale import CURRENT_BITS, SHIFT_BITS, Rescale
from .shared import shared
from .spatial_sum import SUM_BITS, SpatialSum

__all__ = ["PARAMETER", "SETTINGS", "NeuronChannel"]

PARAMETER = data.StructLayout({
    "bias": signed(32), "threshold": THRESHOLD_BITS, "shift": 8, "negate": 1, "padding": 23})
"""Neuron parameters of one channel: 96 bits. `shift` is biased by 8."""

SETTINGS = data.StructLayout({
    "mode": 2, "shortcut": 1, "pool": 1, "pool_first": 1, "leak": 2, "soft": 1, "strict": 1, "lanes": 4,
    "carry_in": 1})
"""The fields of a DRAIN that say how its items are computed; they stand still while items are under way."""


@shared
class NeuronChannel(wiring.Component):
    """One channel of `NeuronUnit`, which see for equations.

    Ports (cycle relative to the accumulators):
        acc, parameter (0): `lanes` signed 24-bit numbers; a `PARAMETER`.
        shortcut (`Rescale.SHORTCUT_CYCLE`): `lanes` signed 16-bit numbers.
        ahead_word (`early_latency` - 1); valid, first, last (`early_latency`): see `SpatialSum`.
        start (`current_latency` - 1): V before lane 0, signed 32 bit; with `carry_in` only.
        settings, mask (static): mask is bit t = (t < settings.lanes).
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
    settings: data.View
    mask: Signal
    residual: Signal
    plane: Signal
    spikes: Signal
    membrane: Signal

    def __init__(self, lanes: int, words: int, pixel_bits: int) -> None:
        self.lanes = lanes
        self._rescale, self._lif = Rescale(lanes), LifChain(lanes)
        self._sum = SpatialSum(lanes, words, pixel_bits)
        super().__init__({
            "acc": In(lanes * ACCUMULATOR_BITS), "parameter": In(PARAMETER), "shortcut": In(lanes * RESIDUAL_BITS),
            "ahead_word": In(self._sum.ahead_word.shape()), "valid": In(1), "first": In(1), "last": In(1),
            "start": In(signed(MEMBRANE_BITS)), "settings": In(SETTINGS), "mask": In(lanes),
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
        self._connect_rescale(m)
        self._connect_sum(m)
        self._connect_lif(m)
        return m

    def _connect_rescale(self, m: Module) -> None:
        rescale, settings = self._rescale, self.settings
        m.d.comb += [
            rescale.acc.eq(self.acc), rescale.shortcut.eq(self.shortcut), rescale.mask.eq(self.mask),
            rescale.bias.eq(self.parameter.bias[:CURRENT_BITS]), rescale.negate.eq(self.parameter.negate),
            rescale.shift.eq(self.parameter.shift[:SHIFT_BITS]), rescale.add.eq(settings.shortcut),
            rescale.direct.eq(settings.mode != Mode.RESIDUAL),
            self.residual.eq(rescale.residual), self.plane.eq(rescale.plane)]

    def _connect_sum(self, m: Module) -> None:
        total, settings = self._sum, self.settings
        m.d.comb += [
            total.value.eq(self._rescale.value), total.ahead_word.eq(self.ahead_word), total.valid.eq(self.valid),
            total.first.eq(self.first), total.last.eq(self.last), total.pool.eq(settings.pool),
            total.fresh.eq(settings.pool_first)]

    def _connect_lif(self, m: Module) -> None:
        lif, settings = self._lif, self.settings
        temporal = settings.mode == Mode.SUM
        threshold = delayed(m, self.parameter.threshold, self.current_latency, "threshold")
        m.d.comb += [
            lif.start.eq(register(m, Mux(settings.carry_in, self.start, 0), "start", signed(MEMBRANE_BITS))),
            lif.threshold.eq(threshold), lif.leak.eq(Mux(temporal, Leak.NONE, settings.leak)),
            lif.soft_reset.eq(settings.soft), lif.strict.eq(settings.strict), lif.never.eq(temporal),
            lif.mask.eq(self.mask), self.spikes.eq(lif.spikes), self.membrane.eq(lif.membrane)]
        for lane in range(self.lanes):
            m.d.comb += lif.value.word_select(lane, MEMBRANE_BITS).eq(self._current(m, lane, temporal))

    def _current(self, m: Module, lane: int, temporal: Value) -> Signal:
        value = self._sum.sum.word_select(lane, SUM_BITS).as_signed()
        guarded = Cat(Const(0, GUARD_BITS), value).as_signed()
        return register(m, Mux(self.mask[lane], Mux(temporal, value, guarded), 0), f"current{lane}",
                        signed(MEMBRANE_BITS))
