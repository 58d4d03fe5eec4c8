"""SpikeVideoFormer or a relative + calibration clips -> integer network.

::

    model -> fold -> float network -> calibrate -> formats and steps -> Network -> run both -> report

Every output channel c of an operator counts steps of 1 / scale[c], the scale of least squared error of the weights in
[-127, 127] (8 bits; [-7, 7] of 4 bits) among a few, see `formats`. Where the result goes to a residual stream or to
planes, scales are powers of two 2**k[c] and the shift k[c] - fraction_bits takes the accumulator there. Where it only
meets a threshold, any scale does that makes the threshold an integer. Either way no multiplier is left. All residual
tensors that shortcuts connect share one format (`fraction_bits`, twice the calibrated range fits int16); planes take
the format of least squared error on calibration values. The bias also takes up what rounding the weights does to the
mean (`bias_correction`).

Attention needs no step: the accumulator Y counts matches, and `scale * Y + bias >= threshold` is divided by |scale|;
a negative scale negates Y.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikeloom.bounds import CURRENT_BITS, prove_bounds
from spikeloom.network import (
    Attend,
    Conv,
    Depthwise,
    KeyValue,
    Lif,
    MaxConv,
    Network,
    Neuron,
    Operator,
    TemporalAttend,
    Upsample,
)
from spikeloom.network import Tensor as Declaration

from .calibration import batches, calibrate
from .folding import PIXELS, FloatStage, fold
from .formats import Formats, Step, choose_formats
from .models import SpikeVideoFormer
from .neurons import NeuronConfig
from .reference import Reference
from .relatives import Relative
from .report import QuantizationReport, compare

SMALLEST_SCALE = 2.0 ** -(CURRENT_BITS - 4)
"""Smallest magnitude of attention's scale: a threshold of 1.0 stays an input current."""

ROUNDING = 2.0 ** -10
"""Half a level is a tie if it is an integer but for that much."""


def quantize(
    model: SpikeVideoFormer | Relative,
    clips: NDArray[np.uint8] | Tensor,
    *,
    unfused: Collection[str] = (),
    bias_correction: bool = True,
    weight_bits: int = 8,
    formats: Formats | None = None,
    class_names: Sequence[str] | None = None,
    batch: int = 8,
) -> tuple[Network, QuantizationReport]:
    """Quantise `model`, which is used in evaluation mode and not changed.

    Args:
        model: Trained network of a class that `folding.fold` knows.
        clips: Calibration clips uint8[N, T, H, W, 3]; T, H and W become those of the integer network.
        unfused: Names (`folding.repconvs`) of the RepConvs that stay three convolutions; all others are fused into one.
        bias_correction: Correct biases for the mean effect of rounding weights.
        weight_bits: Bits of a weight, 2 to 8; whatever they are, weights are stored and computed with as int8.
        formats: Number formats to take instead of choosing them by `clips`, e.g. those a network was trained with.
        class_names: Names of the logits, for the metadata.
        batch: Clips side by side.

    Returns:
        The network, checked and its bounds proven, and the comparison of both networks on `clips`.

    Raises:
        ValueError: The clips do not have that shape and type, or `weight_bits`, `formats` or `unfused` do not fit.
        NetworkError: The network cannot be represented.
    """
    clips = torch.as_tensor(clips)
    if clips.dtype != torch.uint8 or clips.dim() != 5 or clips.shape[-1] != 3 or not len(clips):
        raise ValueError(f"`clips` must be uint8[N, T, H, W, 3], not `{clips.dtype}{list(clips.shape)}`")
    stages = fold(model, unfused=unfused) if unfused else fold(model)  # relatives have no RepConvs to choose from
    if formats is None:
        formats = choose_formats(
            stages, *calibrate(stages, clips, batch=batch), weight_bits=weight_bits, bias_correction=bias_correction)
    elif formats.weight_bits != weight_bits:
        raise ValueError(f"`weight_bits` must be those of `formats`, {formats.weight_bits}, not `{weight_bits!r}`")
    network = build_network(stages, formats, clips.shape[1:4])
    network.metadata |= _metadata(model, network, class_names, len(clips))
    network.check()
    prove_bounds(network)
    steps = {name: (int(k.min()), int(k.max())) for name in formats.scales for k in (formats.exponents(name),)}
    report = compare(stages, network, clips, steps=steps, batch=batch)
    return network, replace(report, unfused=tuple(unfused))


def build_network(stages: list[FloatStage], formats: Formats, size: Sequence[int]) -> Network:
    """The integer network of a folded one, not checked; `size` is (frames, height, width) of a clip.

    Its metadata are those that running it needs: bits of a weight; `logits` (scale of their sum over frames) or
    `output` (scale of the values of every frame).
    """
    frames, height, width = size
    network = _Quantizer(stages, formats, frames=frames, height=height, width=width).run()
    network.metadata = {"weight_bits": formats.weight_bits}
    if stages[-1].mode == "logits":
        bits = int(formats.exponents(stages[-1].name)[0])
        network.metadata["logits"] = {"fraction_bits": bits, "scale": 2.0 ** -bits / frames}
    else:
        bits = network.tensors[network.output].fraction_bits
        network.metadata["output"] = {"fraction_bits": bits, "scale": 2.0 ** -bits}
    return network


def integer_outputs(network: Network, clips: NDArray[np.uint8] | Tensor, *, batch: int = 8) -> Tensor:
    """What the float model's `forward` returns, of an integer network, in its layout and units.

    `float64[N, classes]` (logits, mean over frames), `[T, N, classes]` (poses), `[T, N, classes, h, w]` (segmentation).
    """
    reference = Reference(network)
    return as_outputs(network, torch.cat([reference.infer_batch(part) for part in batches(clips, batch)]))


def as_outputs(network: Network, values: Tensor) -> Tensor:
    """Output tensors of an integer network stacked in front in the layout and the units of the float model."""
    if "logits" in network.metadata:
        return values.double() * network.metadata["logits"]["scale"]
    values = values.double().transpose(0, 1) * network.metadata["output"]["scale"]
    return values.flatten(2) if values.shape[-2:] == (1, 1) else values


def _metadata(
    model: SpikeVideoFormer | Relative, network: Network, class_names: Sequence[str] | None, clips: int
) -> dict[str, Any]:
    source, config = network.tensors[network.input], model.config
    slices = config.task_slices if config.head == "class" else {}
    tasks = [[name, part.start, part.stop] for name, part in slices.items()]
    return {
        "origin": "spikeloom.quantize.quantizer",
        "model": config.to_dict(),
        "preprocessing": {
            "layout": "uint8[frames, height, width, 3], RGB", "frames": network.frames, "height": source.height,
            "width": source.width, "mean": list(config.pixel_mean), "std": list(config.pixel_std)},
        "tasks": tasks,
        "class_names": list(class_names) if class_names is not None else None,
        "calibration_clips": clips,
    }


class _Quantizer:
    """Builds the network of given formats."""

    def __init__(
        self, stages: list[FloatStage], formats: Formats, *, frames: int, height: int, width: int
    ) -> None:
        self.stages, self.formats = stages, formats
        self.network = Network(frames=frames, tensors={}, operators=[], arrays={}, input=PIXELS, output="")
        self.declare(PIXELS, "pixels", 3, height, width)
        self.steps = {stage.name: formats.step(stage) for stage in stages if stage.weight is not None}

    def run(self) -> Network:
        for stage in self.stages:
            make = {"keyvalue": self.keyvalue, "upsample": self.upsample}.get(stage.kind, self.operator)
            self.network.operators.append(make(stage))
        self.network.output = next(iter(self.stages[-1].outputs.values()))
        return self.network

    # operators

    def keyvalue(self, stage: FloatStage) -> KeyValue:
        key, value = stage.inputs
        name = stage.outputs["keyvalue"]
        self.declare(name, "keyvalue", self.network.tensors[value].channels, 1, 1)
        return KeyValue(
            name=stage.name, key=key, value=value, heads=stage.heads, bipolar=stage.bipolar, output=name,
            per_frame=stage.per_frame)

    def upsample(self, stage: FloatStage) -> Upsample:
        source, name = self.network.tensors[stage.inputs[0]], stage.outputs["residual"]
        factor, size = 2, (2 * source.height, 2 * source.width)
        if len(stage.inputs) > 1:
            like = self.network.tensors[stage.inputs[1]]
            factor, size = None, (like.height, like.width)
        self.declare(name, "residual", source.channels, *size, source.fraction_bits)
        return Upsample(name=stage.name, input=source.name, output=name, factor=factor)

    def operator(self, stage: FloatStage) -> Operator:
        source = self.network.tensors[stage.inputs[0]]
        if stage.kind in ("attend", "temporal"):
            neuron = self.attend_neuron(stage, (source.height, source.width))
            if stage.kind == "temporal":
                query, key, value = stage.inputs
                return TemporalAttend(
                    name=stage.name, query=query, key=key, value=value, heads=stage.heads, bipolar=stage.bipolar,
                    neuron=neuron)
            return Attend(
                name=stage.name, query=stage.inputs[0], keyvalue=stage.inputs[1], bipolar=stage.bipolar, neuron=neuron)
        step, name = self.steps[stage.name], f"{stage.name}.weight"
        self.network.arrays[name] = step.weight
        kernel = step.weight.shape[2]
        rows, columns = ((n + 2 * stage.padding - kernel) // stage.stride + 1 for n in (source.height, source.width))
        if stage.window is not None:
            size, stride, padding = stage.window
            rows, columns = ((n + 2 * padding - size) // stride + 1 for n in (rows, columns))
        neuron = self.conv_neuron(stage, step, (rows, columns))
        if stage.kind == "depthwise":
            return Depthwise(name=stage.name, input=source.name, weight=name, padding=stage.padding, neuron=neuron)
        codes = (0, 0, 0)
        if stage.pad is not None:
            red, green, blue = (int(code) for code in stage.pad.round().clip(0, 255))
            codes = (red, green, blue)
        conv = Conv(
            name=stage.name, input=source.name, weight=name, stride=stage.stride, padding=stage.padding,
            pad_codes=codes, neuron=neuron)
        return conv if stage.window is None else MaxConv.of(conv, *stage.window)

    def conv_neuron(self, stage: FloatStage, step: Step, size: tuple[int, int]) -> Neuron:
        assert stage.bias is not None
        arrays: dict[str, NDArray[Any]] = {"bias": self.bias(stage, step)}
        unit: NDArray[Any] = step.scale  # the value 1.0 in the neuron's input current
        fraction = 0
        if stage.mode in ("residual", "planes"):
            fraction = self.formats.fractions[stage.outputs["planes"] if stage.mode == "planes" else stage.name]
            arrays["shift"] = step.k - fraction
            unit = np.full(stage.channels, 2.0 ** fraction)
        if stage.pool and not stage.total:
            unit = unit * (size[0] * size[1])
        return self.neuron(stage, arrays, unit, size, fraction)

    def bias(self, stage: FloatStage, step: Step) -> NDArray[np.float64]:
        """In steps; rounding the weights leaves the mean as it was (the mean colour without bias correction)."""
        assert stage.bias is not None
        source = stage.inputs[0]
        mean = np.zeros(step.residue.shape[1]) if stage.pad is None else stage.pad.numpy()
        if source in self.formats.means:
            mean = self.formats.means[source] * 2.0 ** self.formats.fractions.get(source, 0)
        moved = step.residue * mean.reshape(-1, 1) if stage.kind == "depthwise" else step.residue @ mean
        return stage.bias.numpy() * step.scale - moved.reshape(-1)

    def attend_neuron(self, stage: FloatStage, size: tuple[int, int]) -> Neuron:
        assert stage.scale is not None
        assert stage.bias is not None
        scale = stage.scale.numpy()
        unit = 1 / np.maximum(np.abs(scale), SMALLEST_SCALE)
        query = self.network.tensors[stage.inputs[0]]
        levels = query.levels  # and of key and value
        tokens = self.network.frames * (1 if stage.kind == "temporal" else size[0] * size[1])
        rounding = 0 if stage.kind == "temporal" else 1 << 14  # of limbs
        most = (1 << (CURRENT_BITS - 1)) - 1 - query.channels // stage.heads * levels * (
            tokens * levels ** 2 + rounding)
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
        lif, levels = None, 1
        if stage.neuron is not None:
            lif, levels = _lif(stage.neuron), stage.neuron.levels
            step = np.maximum(stage.neuron.threshold * unit, 1)
            arrays["threshold"] = rising(step, stage.neuron) if levels > 1 else step
        if levels > 1:
            tensor = self.network.tensors[made["spikes"]]
            self.network.tensors[tensor.name] = replace(tensor, kind="integers", levels=levels)
        names = {kind: f"{stage.name}.{kind}" for kind in arrays}
        for kind, array in arrays.items():
            self.network.arrays[names[kind]] = np.round(array).astype(np.int32)
        return Neuron(
            mode="direct" if stage.mode == "logits" else stage.mode, lif=lif, levels=levels,
            shortcut=stage.shortcut, pool=stage.pool, **names, **made)

    def declare(self, name: str, kind: str, channels: int, height: int, width: int, fraction: int = 0) -> None:
        self.network.tensors[name] = Declaration(
            name=name, kind=kind, channels=channels, height=height, width=width, fraction_bits=fraction)


def rising(step: NDArray[np.float64], neuron: NeuronConfig) -> NDArray[np.float64]:
    """Thresholds [levels, C] of integer spikes: the first integers that are (i - 1/2) steps or more.

    With halves to even, for odd i the first that are more: a tie between i - 1 and i goes to i - 1.
    """
    level = np.arange(1, neuron.levels + 1)[:, None]
    exact = (level - 0.5) * step
    first = np.ceil(exact - ROUNDING)  # what a product of floats is too large by does not count
    return np.where((neuron.ties == "even") & (level % 2 == 1), np.floor(exact + ROUNDING) + 1, first)


def _lif(neuron: NeuronConfig) -> Lif:
    if neuron.levels > 1:
        return Lif(leak="memoryless", reset="hard")
    return Lif(leak=neuron.leak, reset=neuron.reset, strict=neuron.strict)
