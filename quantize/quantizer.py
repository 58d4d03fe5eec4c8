"""SpikeVideoFormer + calibration clips -> integer network.

::

    model -> fold -> float network -> calibrate -> formats and steps -> Network -> run both -> report

Every output channel c of an operator counts steps of 1 / scale[c], the scale of least squared error of the weights in
[-127, 127] among a few. Where the result goes to a residual stream or to planes, scales are powers of two 2**k[c] and
the shift k[c] - fraction_bits takes the accumulator there. Where it only meets a threshold, any scale does that makes
the threshold an integer. Either way no multiplier is left. All residual tensors that shortcuts connect share one
format (`fraction_bits`, twice the calibrated range fits int16); planes take the format of least squared error on
calibration values. The bias also takes up what rounding the weights does to the mean (`bias_correction`).

Attention needs no step: the accumulator Y counts matches, and `scale * Y + bias >= threshold` is divided by |scale|;
a negative scale negates Y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikeloom.arithmetic import PLANE_BITS, SHIFT_MAX, SHIFT_MIN, WEIGHT_MAX, saturate
from spikeloom.bounds import CURRENT_BITS, prove_bounds, weight_bounds
from spikeloom.config import ACCUMULATOR_BITS
from spikeloom.network import Attend, Conv, Depthwise, KeyValue, Lif, Network, Neuron, Operator
from spikeloom.network import Tensor as Declaration

from .calibration import Statistics, batches, calibrate
from .folding import PIXELS, FloatStage, fold
from .models import SpikeVideoFormer
from .neurons import NeuronConfig
from .reference import Reference
from .report import QuantizationReport, compare

SMALLEST = 2.0 ** -24
"""Smallest step: a threshold of 1.0 stays below 2**27."""

_SCALES_POWER = np.array([1.0, 2.0, 4.0])
_SCALES_FREE = np.linspace(1, 2, 17)
"""Scales tried, times the one that takes the largest weight to 127."""

RESIDUAL_FRACTION = (4, 12)
"""Range of a residual stream's fraction bits: fewer would leave no resolution below the threshold."""

RESIDUAL_HEADROOM = 2.0
"""A residual format holds that many times the largest calibrated value."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Integer weights and the scale of their accumulators.

    Attributes:
        weight: int8[Co, Ci, k, k].
        scale: float64[Co], steps per 1.0.
        residue: float64[Co, Ci], what rounding added per input channel, in steps, summed over the taps.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float64]
    residue: NDArray[np.float64]

    @property
    def k(self) -> NDArray[np.int64]:
        """floor(log2(scale)), exact for powers of two."""
        return np.frexp(self.scale)[1].astype(np.int64) - 1


def quantize(
    model: SpikeVideoFormer,
    clips: NDArray[np.uint8] | Tensor,
    *,
    fuse_repconv: bool = True,
    bias_correction: bool = True,
    class_names: Sequence[str] | None = None,
    batch: int = 8,
) -> tuple[Network, QuantizationReport]:
    """Quantise `model`, which is used in evaluation mode and not changed.

    Args:
        model: Trained network.
        clips: Calibration clips uint8[N, T, H, W, 3]; T, H and W become those of the integer network.
        fuse_repconv: Fuse every RepConv into one dense 3x3 convolution, else keep three convolutions.
        bias_correction: Correct biases for the mean effect of rounding weights.
        class_names: Names of the logits, for the metadata.
        batch: Clips side by side.

    Returns:
        The network, checked and its bounds proven, and the comparison of both networks on `clips`.

    Raises:
        ValueError: The clips do not have that shape and type.
        NetworkError: The network cannot be represented.
    """
    clips = torch.as_tensor(clips)
    if clips.dtype != torch.uint8 or clips.dim() != 5 or clips.shape[-1] != 3 or not len(clips):
        raise ValueError(f"`clips` must be uint8[N, T, H, W, 3], not `{clips.dtype}{list(clips.shape)}`")
    stages = fold(model, fuse_repconv=fuse_repconv)
    outputs, inputs = calibrate(stages, clips, batch=batch)
    quantizer = _Quantizer(stages, outputs, inputs, clips, bias_correction)
    network = quantizer.run()
    network.metadata = _metadata(model, network, quantizer.logit_bits, class_names, len(clips))
    network.check()
    prove_bounds(network)
    return network, compare(stages, network, clips, steps=quantizer.step_ranges(), batch=batch)


def integer_logits(network: Network, clips: NDArray[np.uint8] | Tensor, *, batch: int = 8) -> Tensor:
    """Logits float64[N, classes] of an integer network, in the units of the float model (mean over frames)."""
    reference, scale = Reference(network), network.metadata["logits"]["scale"]
    return torch.cat([reference.infer_batch(part) for part in batches(clips, batch)]).double() * scale


def _metadata(
    model: SpikeVideoFormer, network: Network, logit_bits: int, class_names: Sequence[str] | None, clips: int
) -> dict[str, Any]:
    source, config = network.tensors[network.input], model.config
    return {
        "origin": "spikeloom.quantize.quantizer",
        "model": config.to_dict(),
        "preprocessing": {
            "layout": "uint8[frames, height, width, 3], RGB", "frames": network.frames, "height": source.height,
            "width": source.width, "mean": list(config.pixel_mean), "std": list(config.pixel_std)},
        "logits": {"fraction_bits": logit_bits, "scale": 2.0 ** -logit_bits / network.frames},
        "tasks": [[name, part.start, part.stop] for name, part in config.task_slices.items()],
        "class_names": list(class_names) if class_names is not None else None,
        "calibration_clips": clips,
    }


def choose_step(
    weight: Tensor, bias: Tensor, *, kind: str, least: float = 1.0, threshold: float | None = None, shared: bool = False
) -> Step:
    """Scales and integer weights of a convolution.

    Args:
        weight: float64[Co, Ci, k, k], real weight per unit of the input's integers.
        bias: float64[Co]; the scale is small enough for it to fit.
        kind: Of the input tensor, for the accumulator's bound.
        least: Smallest scale.
        threshold: Scales are those that make it an integer; without it they are powers of two.
        shared: One scale for all channels.
    """
    real = weight.numpy().astype(np.float64)
    flat = real.reshape(1, -1) if shared else real.reshape(len(real), -1)
    offset = np.abs(bias.numpy()).max(keepdims=True) if shared else np.abs(bias.numpy())
    grid = _SCALES_POWER if threshold is None else _SCALES_FREE
    candidates = WEIGHT_MAX / np.maximum(np.abs(flat).max(axis=1), SMALLEST) * grid[:, None]
    room = (1 << (CURRENT_BITS - 3)) / np.maximum(offset, SMALLEST)
    candidates = _legal(np.minimum(np.minimum(candidates, room), 1 / SMALLEST), threshold, least)
    errors = np.stack([_rounding_error(flat, scale) for scale in candidates])
    scale = np.take_along_axis(candidates, errors.argmin(axis=0)[None], axis=0)[0]
    scale = np.repeat(scale, len(real)) if shared else scale
    while True:
        rounded = _round_weights(real, scale)
        low, high = weight_bounds(rounded, kind)
        over = np.maximum(high, -low) >= 1 << (ACCUMULATOR_BITS - 1)
        if not over.any() or (scale[over] <= least).any():
            break
        scale = np.where(over.any() if shared else over, _legal(scale / 2, threshold, least), scale)
    residue = rounded - real * _broadcast(scale, real.ndim)
    return Step(weight=rounded, scale=scale, residue=residue.sum(axis=(2, 3)))


def _legal(scale: NDArray[np.float64], threshold: float | None, least: float) -> NDArray[np.float64]:
    """The next scale below that is a power of two, or that makes the threshold an integer; at least `least`."""
    if threshold is None:
        return np.maximum(np.exp2(np.floor(np.log2(scale))), least)
    return np.maximum(np.floor(np.maximum(scale, least) * threshold), 1) / threshold


def choose_fraction(samples: Tensor, bits: int) -> int:
    """Fraction bits of the signed `bits`-bit format with the least squared error on `samples`."""
    largest = max(float(samples.abs().max()), SMALLEST)
    first = int(np.floor(np.log2((1 << (bits - 1)) / largest)))

    def error(fraction: int) -> float:
        scaled = samples.double() * 2.0 ** fraction
        return float((saturate(scaled.round(), bits) - scaled).square().mean()) * 4.0 ** -fraction

    return min(range(first - 1, first + 6), key=error)


def _broadcast(scale: NDArray[np.float64], dims: int) -> NDArray[np.float64]:
    return scale.reshape(-1, *(1,) * (dims - 1))


def _round_weights(real: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.int8]:
    return np.round(real * _broadcast(scale, real.ndim)).clip(-WEIGHT_MAX, WEIGHT_MAX).astype(np.int8)


def _rounding_error(flat: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((_round_weights(flat, scale) / _broadcast(scale, 2) - flat) ** 2).sum(axis=1)


class _Quantizer:
    """Builds the network: formats of planes and steps in execution order, then streams, then operators."""

    def __init__(
        self, stages: list[FloatStage], outputs: dict[str, Statistics], inputs: dict[str, Statistics], clips: Tensor,
        bias_correction: bool,
    ) -> None:
        self.stages, self.outputs, self.inputs, self.bias_correction = stages, outputs, inputs, bias_correction
        _, frames, height, width, _ = clips.shape
        self.network = Network(frames=frames, tensors={}, operators=[], arrays={}, input=PIXELS, output="")
        self.declare(PIXELS, "pixels", 3, height, width)
        self.steps: dict[str, Step] = {}
        self.fractions: dict[str, int] = {}  # of planes by tensor, of residual streams by stage
        self.logit_bits = 0

    def run(self) -> Network:
        for stage in self.stages:
            if stage.weight is not None:
                self.choose(stage)
        self.choose_streams()
        for stage in self.stages:
            operator = self.keyvalue(stage) if stage.kind == "keyvalue" else self.operator(stage)
            self.network.operators.append(operator)
        self.network.output = next(iter(self.stages[-1].outputs.values()))
        return self.network

    def step_ranges(self) -> dict[str, tuple[int, int]]:
        """Smallest and largest k by operator."""
        return {name: (int(step.k.min()), int(step.k.max())) for name, step in self.steps.items()}

    # formats

    def choose(self, stage: FloatStage) -> None:
        assert stage.weight is not None
        assert stage.bias is not None
        source = stage.inputs[0]
        kind = "pixels" if source == PIXELS else "planes" if source in self.fractions else "spikes"
        weight = stage.weight * 2.0 ** -self.fractions.get(source, 0)
        bias = stage.bias
        if stage.pad is not None:
            bias = bias + weight.sum((2, 3)) @ stage.pad  # what is left once the mean colour is taken off
        threshold = stage.neuron.threshold if stage.mode == "direct" and stage.neuron is not None else None
        least = 2.0 ** (SHIFT_MIN + RESIDUAL_FRACTION[0]) if stage.mode in ("residual", "planes") else 1.0
        self.steps[stage.name] = step = choose_step(
            weight, bias, kind=kind, least=least, threshold=threshold, shared=stage.mode == "logits")
        if stage.mode == "planes":
            fraction = choose_fraction(torch.cat(self.outputs[stage.name].samples), PLANE_BITS)
            self.fractions[stage.outputs["planes"]] = _within_shifts(fraction, step)
        if stage.mode == "logits":
            self.logit_bits = int(step.k[0])

    def choose_streams(self) -> None:
        """One format for all stages that shortcuts connect."""
        first: dict[str, str] = {}
        for stage in self.stages:
            if stage.mode == "residual":
                first[stage.name] = first[stage.shortcut.removesuffix(".residual")] if stage.shortcut else stage.name
        for root in set(first.values()):
            members = [name for name, other in first.items() if other == root]
            largest = max(max(self.outputs[name].largest for name in members), SMALLEST)
            fraction = int(np.floor(np.log2(32767 / (RESIDUAL_HEADROOM * largest))))
            fraction = min(max(fraction, RESIDUAL_FRACTION[0]), RESIDUAL_FRACTION[1])
            for name in members:
                fraction = _within_shifts(fraction, self.steps[name])
            self.fractions.update(dict.fromkeys(members, fraction))

    # operators

    def keyvalue(self, stage: FloatStage) -> KeyValue:
        key, value = stage.inputs
        name = stage.outputs["keyvalue"]
        self.declare(name, "keyvalue", self.network.tensors[key].channels, 1, 1)
        return KeyValue(name=stage.name, key=key, value=value, heads=stage.heads, bipolar=stage.bipolar, output=name)

    def operator(self, stage: FloatStage) -> Operator:
        source = self.network.tensors[stage.inputs[0]]
        if stage.kind == "attend":
            neuron = self.attend_neuron(stage, (source.height, source.width))
            return Attend(
                name=stage.name, query=stage.inputs[0], keyvalue=stage.inputs[1], bipolar=stage.bipolar, neuron=neuron)
        step, name = self.steps[stage.name], f"{stage.name}.weight"
        self.network.arrays[name] = step.weight
        kernel = step.weight.shape[2]
        height, width = ((n + 2 * stage.padding - kernel) // stage.stride + 1 for n in (source.height, source.width))
        neuron = self.conv_neuron(stage, step, (height, width))
        if stage.kind == "depthwise":
            return Depthwise(name=stage.name, input=source.name, weight=name, padding=stage.padding, neuron=neuron)
        codes = (0, 0, 0)
        if stage.pad is not None:
            red, green, blue = (int(code) for code in stage.pad.round().clip(0, 255))
            codes = (red, green, blue)
        return Conv(
            name=stage.name, input=source.name, weight=name, stride=stage.stride, padding=stage.padding,
            pad_codes=codes, neuron=neuron)

    def conv_neuron(self, stage: FloatStage, step: Step, size: tuple[int, int]) -> Neuron:
        assert stage.bias is not None
        arrays: dict[str, NDArray[Any]] = {"bias": self.bias(stage, step)}
        unit: NDArray[Any] = step.scale  # the value 1.0 in the neuron's input current
        fraction = 0
        if stage.mode in ("residual", "planes"):
            fraction = self.fractions[stage.outputs["planes"] if stage.mode == "planes" else stage.name]
            arrays["shift"] = step.k - fraction
            unit = np.full(stage.channels, 2.0 ** fraction)
        if stage.pool:
            unit = unit * (size[0] * size[1])
        return self.neuron(stage, arrays, unit, size, fraction)

    def bias(self, stage: FloatStage, step: Step) -> NDArray[np.float64]:
        """In steps; rounding the weights leaves the mean as it was (the mean colour without bias correction)."""
        assert stage.bias is not None
        source = stage.inputs[0]
        mean = torch.zeros(step.residue.shape[1]) if stage.pad is None else stage.pad
        if self.bias_correction:
            mean = self.inputs[source].mean * 2.0 ** self.fractions.get(source, 0)
        moved = step.residue * mean.numpy().reshape(-1, 1) if stage.kind == "depthwise" else step.residue @ mean.numpy()
        return stage.bias.numpy() * step.scale - moved.reshape(-1)

    def attend_neuron(self, stage: FloatStage, size: tuple[int, int]) -> Neuron:
        assert stage.scale is not None
        assert stage.bias is not None
        scale = stage.scale.numpy()
        unit = 1 / np.maximum(np.abs(scale), 2.0 ** -(CURRENT_BITS - 4))
        tokens = self.network.frames * size[0] * size[1]
        most = (1 << (CURRENT_BITS - 1)) - 1 - stage.channels // stage.heads * (tokens + (1 << 14))
        arrays: dict[str, NDArray[Any]] = {"bias": (stage.bias.numpy() * unit).clip(-most, most)}
        if (scale < 0).any():
            arrays["negate"] = (scale < 0).astype(np.float64)
        return self.neuron(stage, arrays, unit, size, 0)

    def neuron(
        self, stage: FloatStage, arrays: dict[str, NDArray[Any]], unit: NDArray[Any], size: tuple[int, int],
        fraction: int,
    ) -> Neuron:
        """Declare the tensors of a stage and store its arrays; `unit` is the value 1.0 in the input current."""
        made = stage.outputs
        for kind, name in made.items():
            height, width = (1, 1) if stage.pool else size
            bits = fraction if kind in ("residual", "planes") else 0
            self.declare(name, kind, stage.channels, height, width, bits)
        lif = None
        if stage.neuron is not None:
            lif = _lif(stage.neuron)
            arrays["threshold"] = np.maximum(stage.neuron.threshold * unit, 1)
        names = {kind: f"{stage.name}.{kind}" for kind in arrays}
        for kind, array in arrays.items():
            self.network.arrays[names[kind]] = np.round(array).astype(np.int32)
        return Neuron(
            mode="direct" if stage.mode == "logits" else stage.mode, lif=lif, shortcut=stage.shortcut, pool=stage.pool,
            **names, **made)

    def declare(self, name: str, kind: str, channels: int, height: int, width: int, fraction: int = 0) -> None:
        self.network.tensors[name] = Declaration(
            name=name, kind=kind, channels=channels, height=height, width=width, fraction_bits=fraction)


def _within_shifts(fraction: int, step: Step) -> int:
    """The nearest fraction bits for which every shift `k - fraction` is legal."""
    return min(max(fraction, int(step.k.max()) - SHIFT_MAX), int(step.k.min()) - SHIFT_MIN)


def _lif(neuron: NeuronConfig) -> Lif:
    return Lif(leak=neuron.leak, reset=neuron.reset, strict=neuron.strict)
