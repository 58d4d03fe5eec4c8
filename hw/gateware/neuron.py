"""Neuron unit: accumulators of one pixel of one output word in, spikes, residual, bit-planes and membranes out.

::

    cycle 0               3             5                   6        7             7 + 3 * lanes
    item, parameters      shortcut      residual, planes    carry    X             spikes, membranes
    |--------- rescale -----------------|-- spatial sum ----|--------|-- LIF ------|      x word_channels
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from numpy.typing import NDArray

from spikeloom.arithmetic import GUARD_BITS, MEMBRANE_BITS, PLANE_BITS, RESIDUAL_BITS, SHIFT_MIN
from spikeloom.config import ACCUMULATOR_BITS, MachineConfig

from ..isa import Leak, Mode
from .lif import LifChain
from .neuron_channel import PARAMETER, SETTINGS, NeuronChannel, control_layout
from .pipeline import delayed, delayed_flag
from .rescale import Rescale
from .spatial_sum import SpatialSum

__all__ = ["NeuronResult", "NeuronUnit"]

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NeuronResult:
    """What the items of one instruction come to; pixel axis of `spikes`, `membranes` has length 1 with `pool`.

    Attributes:
        residual: int64[words, pixels, word_channels, lanes], planes alike (values, not bits), spikes alike.
        membranes: int64[words, pixels, word_channels].
        sums: int64[words, word_channels, lanes], the spatial sums to be kept (with `pool`).
    """

    residual: Integers
    planes: Integers
    spikes: Integers
    membranes: Integers
    sums: Integers


class NeuronUnit(wiring.Component):
    """`word_channels` x `lanes` neurons, one item per cycle, fixed latency, no handshake.

    Equations per channel and lane, units and widths as in `spikeloom.arithmetic`::

        a        = (-acc if negate else acc) + bias                       26 bit: the compiler proves that it fits
        residual = saturate(round_shift(a, shift) + shortcut, 16)
        plane    = saturate(residual, 8)
        X        = a << GUARD_BITS                                        modes DIRECT and PLANES
                   residual << GUARD_BITS                                 mode RESIDUAL
                   sum over the pixels (28 bit) << GUARD_BITS             mode RESIDUAL with pool
                   a                                                      mode SUM
        spikes, V = LIF over the lanes; mode SUM: V = saturate(V + X, 32), no spikes

    Lanes `>= settings.lanes`: spikes, planes and residual are 0, V is kept. `pool` goes with mode
    RESIDUAL.

    Args:
        config: The machine.

    Ports (cycle relative to the item):
        valid, first, last, word (0): an item; first and last pixel of its word; the word.
        settings (0): `SETTINGS` of the item. With `pool` the pixels of a word come without others in between, and
            those of the next instruction for that word not before 4 cycles later.
        acc (0): 24-bit numbers at `(channel * lanes + lane) * 24`.
        parameters (0): `PARAMETER` of each channel, 96 bits each.
        shortcut (`SHORTCUT_CYCLE`): 16-bit numbers at `(channel * lanes + lane) * 16`, 0 where there is none.
        carry (`carry_cycle`): V before lane 0, 32 bits per channel; looked at with `carry_in`.
        residual, planes (`early_latency`): planes: bit p of (channel, lane) at
            `(p * word_channels + channel) * lanes + lane`.
        spikes, membranes (`latency`): bit `channel * lanes + lane`; V after the last lane, 32 bits each.
    """

    valid: Signal
    first: Signal
    last: Signal
    word: Signal
    acc: Signal
    parameters: Signal
    shortcut: Signal
    carry: Signal
    settings: data.View
    residual: Signal
    planes: Signal
    spikes: Signal
    membranes: Signal

    SHORTCUT_CYCLE = Rescale.SHORTCUT_CYCLE

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        neurons, channels = config.beat_bits, config.word_channels
        self._channels = [NeuronChannel(config.lanes, config.output_words) for _ in range(channels)]
        super().__init__({
            "valid": In(1), "first": In(1), "last": In(1),
            "word": In(max(1, ceil_log2(config.output_words))), "acc": In(neurons * ACCUMULATOR_BITS),
            "parameters": In(channels * PARAMETER.size), "shortcut": In(neurons * RESIDUAL_BITS),
            "carry": In(channels * MEMBRANE_BITS), "settings": In(SETTINGS),
            "residual": Out(neurons * RESIDUAL_BITS), "planes": Out(neurons * PLANE_BITS),
            "spikes": Out(neurons), "membranes": Out(channels * MEMBRANE_BITS)})

    @property
    def early_latency(self) -> int:
        """Cycles to residual and planes: 5."""
        return self._channels[0].early_latency

    @property
    def carry_cycle(self) -> int:
        """Cycle in which `carry` is taken: 6."""
        return self._channels[0].current_latency - 1

    @property
    def latency(self) -> int:
        """Cycles to spikes and membranes: 7 + 3 * lanes."""
        return self._channels[0].latency

    def model(
        self, settings: Mapping[str, int], acc: Integers, parameters: Integers, shortcut: Integers, carry: Integers,
        sums: Integers,
    ) -> NeuronResult:
        """All items of one instruction.

        Args:
            settings: Fields of `SETTINGS` (further keys are ignored).
            acc: int64[words, pixels, word_channels, lanes]; shortcut alike.
            parameters: int64[words, word_channels, 3]: bias, threshold, misc.
            carry: int64[words, items per word, word_channels], V before.
            sums: int64[words, word_channels, lanes], spatial sums kept so far.
        """
        bias, threshold, misc = (parameters[:, None, :, i] for i in range(3))
        residual, planes, value = Rescale.model(
            acc, bias[..., None], (misc >> 8 & 1)[..., None], ((misc & 31) + SHIFT_MIN)[..., None],
            shortcut if settings["shortcut"] else 0 * shortcut, direct=settings["mode"] != Mode.RESIDUAL)
        if settings["pool"]:
            sums = SpatialSum.model(value.swapaxes(0, 1), sums, fresh=bool(settings["pool_first"]))
            value = sums[:, None]
        temporal = settings["mode"] == Mode.SUM
        spikes, membranes = LifChain.model(
            value if temporal else value << GUARD_BITS, carry if settings["carry_in"] else 0 * carry,
            threshold + 0 * carry, leak=Leak.NONE if temporal else settings["leak"], soft=bool(settings["soft"]),
            strict=bool(settings["strict"]), never=temporal, valid=settings["lanes"])
        mask = np.arange(self.config.lanes) < settings["lanes"]
        return NeuronResult(residual=residual * mask, planes=planes * mask, spikes=spikes, membranes=membranes,
                            sums=sums)

    def elaborate(self, platform) -> Module:
        m = Module()
        flags, control = self._flags(m), self._control(m)
        for index, channel in enumerate(self._channels):
            m.submodules[f"channel{index}"] = channel
            self._connect(m, index, channel)
            m.d.comb += channel.control.eq(control)
            m.d.comb += [getattr(channel, name).eq(flag) for name, flag in flags.items()]
        planes = [Cat(channel.plane.word_select(lane, PLANE_BITS)[plane] for channel in self._channels
                      for lane in range(self.config.lanes)) for plane in range(PLANE_BITS)]
        m.d.comb += [
            self.planes.eq(Cat(planes)), self.residual.eq(Cat(channel.residual for channel in self._channels)),
            self.spikes.eq(Cat(channel.spikes for channel in self._channels)),
            self.membranes.eq(Cat(channel.membrane for channel in self._channels))]
        return m

    def _control(self, m: Module) -> data.View:
        """The settings, decoded."""
        settings = self.settings
        control = Signal(control_layout(self.config.lanes))
        temporal = settings.mode == Mode.SUM
        m.d.comb += [
            control.direct.eq((settings.mode == Mode.DIRECT) | (settings.mode == Mode.PLANES)),
            control.temporal.eq(temporal), control.fresh.eq(settings.pool_first),
            control.leak.eq(Mux(temporal, Leak.NONE, settings.leak)),
            control.mask.eq(Cat(settings.lanes > lane for lane in range(self.config.lanes)))]
        m.d.comb += [control[name].eq(settings[name]) for name in ("pool", "soft", "strict", "carry_in")]
        return control

    def _flags(self, m: Module) -> dict[str, Value]:
        """What travels beside the data, at the cycles at which the channels want it."""
        early = self.early_latency
        lines = {name: delayed_flag(m, getattr(self, name), early, name)[-1] for name in ("valid", "first", "last")}
        return {**lines, "ahead_word": delayed(m, self.word, early - 1, "word")}

    def _connect(self, m: Module, index: int, channel: NeuronChannel) -> None:
        m.d.comb += [
            getattr(channel, name).eq(source.word_select(index, len(getattr(channel, name))))
            for name, source in (("acc", self.acc), ("shortcut", self.shortcut), ("start", self.carry))]
        m.d.comb += channel.parameter.as_value().eq(self.parameters.word_select(index, PARAMETER.size))
