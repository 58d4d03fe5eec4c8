"""Quantisation-aware training: the integer network's own numbers forward, straight-through gradients backward.

::

    parameters -> fold -> real weights --(the quantiser)--> integer weights, biases, thresholds
                               ^                                      |
                               '------- straight-through -------------'
    clips -> convolution of integers -> neuron stage of `reference` -> ... -> output

Forward there is nothing to imitate: at every step the quantiser itself makes the integer network of the present
parameters, and every neuron stage is `reference.neuron_stage` (shifts, saturation, guard bits, reset). So the
outputs, and every tensor on the way, equal those of `quantize(model, ..., formats=...)` bit for bit. Batch norm is
folded with its running statistics, which stay as they are; its weight and bias are trained.

Backward, with y the integer that stands for a real x:

    weights, biases, thresholds   dy/dx = scale; 0 for weights beyond the largest integer
    shift, rounding               2**-shift; 0 where it saturates
    neuron                        that of `neurons.LIF`, at the membrane in units of the threshold
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.arithmetic import PLANE_BITS, RESIDUAL_BITS
from spikeloom.network import Accumulating, Conv, Depthwise, KeyValue, Network, Neuron, Upsample

from .calibration import accumulate, calibrate, key_value
from .folding import PIXELS, FloatStage, fold
from .formats import Formats, choose_formats, weight_max
from .heads import enlarge_to
from .models import SpikeVideoFormer
from .neurons import NeuronConfig, integrate, lif_backward, reset, surrogate_derivative
from .quantizer import SMALLEST_SCALE, build_network
from .reference import neuron_stage, plain_algorithms
from .relatives import Relative

__all__ = ["QuantizationAware"]


class QuantizationAware(nn.Module):
    """The integer network of a model, differentiable with respect to the model's parameters.

    ``forward(clips: uint8[B, T, H, W, 3])`` returns what the model's ``forward`` does, in its units, as the integer
    network computes it. The model's batch norms are used in evaluation mode, whatever mode it is in.

    Args:
        model: Trained network; its parameters are this module's.
        formats: Number formats; `choose` takes new ones.
    """

    def __init__(self, model: SpikeVideoFormer | Relative, formats: Formats | None = None) -> None:
        super().__init__()
        self.model, self.formats = model, formats

    def choose(self, clips: np.ndarray | Tensor, *, weight_bits: int) -> Formats:
        """Choose the formats anew for the present parameters, by calibration clips uint8[N, T, H, W, 3]."""
        stages = _constants(fold(self.model))
        self.formats = choose_formats(stages, *calibrate(stages, clips), weight_bits=weight_bits)
        return self.formats

    def network(self, stages: list[FloatStage], size: torch.Size) -> Network:
        """The integer network of folded stages; `size` is that of the clips."""
        if self.formats is None:
            raise ValueError("`formats` must be chosen before the network runs")
        return build_network(_constants(stages), self.formats, size[1:4])

    def forward(self, clips: Tensor) -> Tensor:
        values, network = self.run(clips)
        output = values[network.output].float()
        if "logits" in network.metadata:
            return output * network.metadata["logits"]["scale"]
        output = output * network.metadata["output"]["scale"]
        return output.flatten(2) if output.shape[-2:] == (1, 1) else output

    def run(self, clips: Tensor) -> tuple[dict[str, Tensor], Network]:
        """Every tensor as floats that are integers, in the layout of `reference`, and the integer network."""
        stages = fold(self.model, differentiable=True)
        network = self.network(stages, clips.shape)
        values: dict[str, Tensor] = {PIXELS: clips.movedim(1, 0).movedim(-1, 2)}
        for stage, operator in zip(stages, network.operators, strict=True):
            if isinstance(operator, KeyValue):
                values[operator.output] = key_value(stage, values, torch.float32)
            elif isinstance(operator, Upsample):
                out = network.tensors[operator.output]
                values[operator.output] = enlarge_to(values[operator.input], out.height, out.width)
            else:
                values.update(self._operate(stage, operator, network, values))
        return values, network

    def _operate(
        self, stage: FloatStage, operator: Accumulating, network: Network, values: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        assert self.formats is not None
        assert stage.bias is not None
        neuron, device = operator.neuron, stage.bias.device
        names = [name for name in (neuron.bias, neuron.shift, neuron.negate, neuron.threshold) if name is not None]
        arrays = {name: torch.from_numpy(network.arrays[name]).to(device, torch.int64) for name in names}
        if not isinstance(operator, (Conv, Depthwise)):
            assert stage.scale is not None
            unit = 1 / stage.scale.abs().clamp_min(SMALLEST_SCALE)
            integer = replace(stage, scale=torch.ones_like(stage.scale))
        else:
            unit = torch.from_numpy(self.formats.scales[stage.name]).to(device)
            real = self.formats.weight_of(stage) * unit.view(-1, 1, 1, 1)
            weight = torch.from_numpy(network.arrays[operator.weight]).to(device)
            inside = real.detach().abs() <= weight_max(self.formats.weight_bits) + 0.5
            pad = None if stage.pad is None or isinstance(operator, Depthwise) else torch.tensor(operator.pad_codes)
            integer = replace(stage, weight=_Straight.apply(real, weight, inside), pad=pad)
        bias = _Straight.apply(stage.bias * unit, arrays[neuron.bias], None)
        threshold = None
        if neuron.threshold is not None:
            assert stage.neuron is not None
            integers = arrays[neuron.threshold]
            real = stage.neuron.threshold * unit if stage.scale is not None else integers.double()
            if stage.scale is not None and neuron.levels > 1:
                level = torch.arange(1, neuron.levels + 1, device=device)[:, None]
                real = (level - 0.5) * real
            threshold = _Straight.apply(real, integers, None)
        with plain_algorithms():
            accumulator = accumulate(integer, values, _exact_type(stage, values))
        shortcut = values[neuron.shortcut] if neuron.shortcut is not None else None
        made = _NeuronStage.apply(accumulator, bias, threshold, shortcut, neuron, stage.neuron, arrays)
        return dict(zip(neuron.outputs, made, strict=True))


class _Straight(torch.autograd.Function):
    """The integers `integer`; the gradient is that of `real`, where `inside` (everywhere without)."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, integer: Tensor, inside: Tensor | None) -> Tensor:
        ctx.inside = inside
        return integer.to(real.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return grads[0] if ctx.inside is None else grads[0] * ctx.inside, None, None


class _NeuronStage(torch.autograd.Function):
    """`reference.neuron_stage`, with the gradients of the module docstring; outputs in the order of `Neuron.outputs`.

    Arguments: accumulator [T, B, C, H, W], bias [C], threshold [C] or [levels, C], shortcut, all integers held in
    floats; the stage, its neuron in real numbers, and its arrays int64[C] by name.
    """

    @staticmethod
    def forward(
        ctx: Any, accumulator: Tensor, bias: Tensor, threshold: Tensor | None, shortcut: Tensor | None, neuron: Neuron,
        config: NeuronConfig | None, arrays: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        short = None if shortcut is None else shortcut.to(torch.int16)
        made = neuron_stage(neuron, arrays, accumulator.to(torch.int64), short)
        outputs = tuple(made[n].to(torch.float64 if n == neuron.logits else torch.float32) for n in neuron.outputs)
        spikes = made[neuron.spikes] if neuron.spikes is not None else None
        ctx.save_for_backward(accumulator, bias, threshold, shortcut, spikes)
        ctx.neuron, ctx.config, ctx.arrays = neuron, config, arrays
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        accumulator, bias, threshold, shortcut, spikes = ctx.saved_tensors
        neuron: Neuron = ctx.neuron
        given = dict(zip(neuron.outputs, grads, strict=True))
        shifted = neuron.shift is not None and neuron.mode != "direct"
        factor = torch.exp2(-_wide(ctx.arrays[neuron.shift])) if shifted else 1.0
        sign = 1.0 if neuron.negate is None else 1 - 2 * _wide(ctx.arrays[neuron.negate])
        x = (sign * accumulator + _wide(bias)) * factor
        x = x if shortcut is None else x + shortcut
        grad, grad_threshold = torch.zeros_like(x), None
        for name in (neuron.planes, neuron.residual):
            grad = grad if name is None else grad + given[name]
        if neuron.logits is not None:
            grad = grad + given[neuron.logits].float().view(1, *given[neuron.logits].shape, 1, 1)
        if neuron.spikes is not None:
            drive = x.sum((-2, -1), keepdim=True) if neuron.pool else x
            grad_drive, grad_threshold = _fire_backward(given[neuron.spikes], drive, spikes, threshold, ctx.config)
            grad = grad + grad_drive
        if neuron.mode != "direct":
            limit = 1 << ((PLANE_BITS if neuron.mode == "planes" else RESIDUAL_BITS) - 1)
            grad = grad * ((x >= -limit) & (x < limit))
        grad_current = grad * factor
        return (grad_current * sign, grad_current.double().sum((0, 1, 3, 4)), grad_threshold,
                None if shortcut is None else grad, None, None, None)


def _fire_backward(
    grad: Tensor, drive: Tensor, spikes: Tensor, threshold: Tensor, config: NeuronConfig
) -> tuple[Tensor, Tensor]:
    """Gradients of the input currents `drive` and of the thresholds, both integers, from that of the spikes."""
    if config.levels > 1:
        return _clamp_backward(grad, drive, threshold)
    unit = config.threshold / _wide(threshold)
    current, fired = drive * unit, spikes.to(drive.dtype)
    potential, v = torch.empty_like(current), torch.zeros_like(current[0])
    for t in range(len(current)):
        integrate(v, current[t], config.leak, out=potential[t])
        v = reset(potential[t], fired[t], config)
    direct = grad * surrogate_derivative(potential - config.threshold, config.surrogate) * unit
    return lif_backward(grad, potential, fired, config) * unit, -direct.double().sum((0, 1, 3, 4))


def _clamp_backward(grad: Tensor, drive: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Of clamp(drive / step, 0, levels), the last threshold [levels, C] being levels - 1/2 steps."""
    levels = len(threshold)
    step = _wide(threshold[-1]) / (levels - 0.5)
    grad_drive = grad * ((drive >= 0) & (drive <= levels * step)) / step
    grad_threshold = torch.zeros_like(threshold)
    grad_threshold[-1] = -(grad_drive * drive / step).double().sum((0, 1, 3, 4)) / (levels - 0.5)
    return grad_drive, grad_threshold


def _exact_type(stage: FloatStage, values: Mapping[str, Tensor]) -> torch.dtype:
    """Float type for integer sums: a legal convolution's are below 2**24, attention's as large as the clip."""
    if stage.kind != "attend":
        return torch.float32
    frames, _, channels, height, width = values[stage.inputs[0]].shape
    levels = 1 if stage.neuron is None else stage.neuron.levels  # of all neurons of the network
    largest = channels // stage.heads * frames * height * width * levels ** 3
    return torch.float32 if largest < 1 << 24 else torch.float64


def _constants(stages: list[FloatStage]) -> list[FloatStage]:
    """The stages without gradients, on the CPU."""
    names = ("weight", "bias", "scale", "pad")
    return [replace(stage, **{n: v.detach().cpu() for n in names if (v := getattr(stage, n)) is not None})
            for stage in stages]


def _wide(array: Tensor) -> Tensor:
    """[C] as float32 that broadcasts over [T, B, C, H, W]."""
    return array.float().view(-1, 1, 1)
