"""Number formats of an integer network: scales of weights, fraction bits of residual streams and planes.

`choose_formats` takes them from calibration statistics; a format once chosen makes the integer network a function of
the folded network alone, which is what quantisation-aware training and `quantize(..., formats=...)` rest on.

Weights of b bits lie in [-(2**(b-1) - 1), 2**(b-1) - 1]: [-127, 127] of 8 bits, [-7, 7] of 4. The machine stores and
computes with them as int8 whatever b is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikeloom.arithmetic import PLANE_BITS, RESIDUAL_BITS, SHIFT_MAX, SHIFT_MIN, saturate
from spikeloom.bounds import CURRENT_BITS, weight_bounds
from spikeloom.config import ACCUMULATOR_BITS

from .calibration import Statistics
from .folding import PIXELS, FloatStage

WEIGHT_BITS = (2, 8)
"""Range of the bits of a weight."""

SMALLEST = 2.0 ** -24
"""Smallest step: a threshold of 1.0 stays below 2**27."""

_SCALES_POWER = np.array([1.0, 2.0, 4.0])
_SCALES_FREE = np.linspace(1, 2, 17)
"""Scales tried, times the one that takes the largest weight to the largest integer."""

RESIDUAL_FRACTION = (4, 12)
"""Range of a residual stream's fraction bits: fewer would leave no resolution below the threshold."""

RESIDUAL_HEADROOM = 2.0
"""A residual format holds that many times the largest calibrated value."""


LEAST_RESIDUAL = 32000.0
"""What a max-pool is taken of reaches down to that magnitude at most, a little less than a residual's range."""


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
        return exponents(self.scale)


@dataclass(frozen=True, kw_only=True)
class Formats:
    """What quantisation takes from calibration.

    Attributes:
        weight_bits: Bits of a weight.
        scales: float64[Co] by operator, steps per 1.0 of its accumulators.
        fractions: Fraction bits, of planes by tensor, of residual streams by operator.
        means: float64[Ci] by input tensor, in its own units, for the correction of biases; empty without one.
    """

    weight_bits: int = 8
    scales: Mapping[str, NDArray[np.float64]]
    fractions: Mapping[str, int]
    means: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def step(self, stage: FloatStage) -> Step:
        """Integer weights of a convolution."""
        if stage.name not in self.scales or len(self.scales[stage.name]) != stage.channels:
            raise ValueError(f"`formats` must have {stage.channels} scales for operator {stage.name}; are they of "
                             "another network?")
        return take_step(self.weight_of(stage), self.scales[stage.name], self.weight_bits)

    def exponents(self, operator: str) -> NDArray[np.int64]:
        """floor(log2(scale)) of an operator's channels."""
        return exponents(self.scales[operator])

    def weight_of(self, stage: FloatStage) -> Tensor:
        """float64[Co, Ci, k, k] of a convolution, per unit of its input's integers."""
        assert stage.weight is not None
        return stage.weight * 2.0 ** -self.fractions.get(stage.inputs[0], 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, exact."""
        arrays = {part: {name: array.tolist() for name, array in getattr(self, part).items()}
                  for part in ("scales", "means")}
        return {"weight_bits": self.weight_bits, "fractions": dict(self.fractions), **arrays}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Formats:
        """Formats from `to_dict`'s values."""
        arrays = {part: {name: np.array(array, dtype=np.float64) for name, array in values[part].items()}
                  for part in ("scales", "means")}
        fractions = {name: int(bits) for name, bits in values["fractions"].items()}
        return cls(weight_bits=int(values["weight_bits"]), fractions=fractions, **arrays)

    def save(self, path: Path) -> None:
        """Write JSON."""
        path.write_text(json.dumps(self.to_dict()) + "\n")

    @classmethod
    def load(cls, path: Path) -> Formats:
        """Formats written by `save`.

        Raises:
            ValueError: The file is not one of formats; the message names it.
        """
        try:
            return cls.from_dict(json.loads(path.read_text()))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}: not a file of number formats: {error!r}") from error


def exponents(scale: NDArray[np.float64]) -> NDArray[np.int64]:
    """floor(log2(scale)), exact for powers of two."""
    return np.frexp(scale)[1].astype(np.int64) - 1


def weight_max(bits: int) -> int:
    """Largest weight of so many bits.

    Raises:
        ValueError: `bits` is out of range.
    """
    if not WEIGHT_BITS[0] <= bits <= WEIGHT_BITS[1]:
        raise ValueError(f"`weight_bits` must be from {WEIGHT_BITS[0]} to {WEIGHT_BITS[1]}, not `{bits!r}`")
    return (1 << (bits - 1)) - 1


def choose_formats(
    stages: list[FloatStage], outputs: Mapping[str, Statistics], inputs: Mapping[str, Statistics], *,
    weight_bits: int = 8, bias_correction: bool = True,
) -> Formats:
    """Formats of a folded network, from the statistics of `calibration.calibrate`."""
    weight_max(weight_bits)
    levels = {stage.outputs["spikes"]: stage.neuron.levels for stage in stages if stage.neuron is not None}
    chooser = _Chooser(outputs, weight_bits, levels)
    for stage in stages:
        if stage.weight is not None:
            chooser.choose(stage)
    chooser.choose_streams(stages)
    means = {name: statistics.mean.numpy() for name, statistics in inputs.items()} if bias_correction else {}
    scales = {name: step.scale for name, step in chooser.steps.items()}
    return Formats(weight_bits=weight_bits, scales=scales, fractions=chooser.fractions, means=means)


class _Chooser:
    """Formats of planes and steps in execution order, then of streams."""

    def __init__(self, outputs: Mapping[str, Statistics], weight_bits: int, levels: Mapping[str, int]) -> None:
        self.outputs, self.weight_bits, self.levels = outputs, weight_bits, levels
        self.steps: dict[str, Step] = {}
        self.fractions: dict[str, int] = {}
        self.limits: dict[str, int] = {}

    def choose(self, stage: FloatStage) -> None:
        assert stage.weight is not None
        assert stage.bias is not None
        source = stage.inputs[0]
        kind = "pixels" if source == PIXELS else "planes" if source in self.fractions else "integers"
        weight, bias = stage.weight * 2.0 ** -self.fractions.get(source, 0), stage.bias
        if stage.pad is not None:
            bias = bias + weight.sum((2, 3)) @ stage.pad  # what is left once the mean colour is taken off
        if stage.window is not None:  # room for what the machine adds to make a maximum
            bias = bias.abs() + 2.0 ** (RESIDUAL_BITS - 1 - RESIDUAL_FRACTION[0])
        threshold = stage.neuron.threshold if stage.mode == "direct" and stage.neuron is not None else None
        least = 2.0 ** (SHIFT_MIN + RESIDUAL_FRACTION[0]) if stage.mode in ("residual", "planes") else 1.0
        self.steps[stage.name] = step = choose_step(
            weight, bias, kind=kind, levels=self.levels.get(source, 1), least=least, threshold=threshold,
            shared=stage.mode == "logits", weight_bits=self.weight_bits)
        if stage.window is not None:
            least = weight_bounds(step.weight, kind, self.levels.get(source, 1))[0] / step.scale + stage.bias.numpy()
            self.limits[stage.name] = int(np.floor(np.log2(LEAST_RESIDUAL / max(-least.min(), 1.0))))
        if stage.mode == "planes":
            fraction = choose_fraction(torch.cat(self.outputs[stage.name].samples), PLANE_BITS)
            self.fractions[stage.outputs["planes"]] = _within_shifts(fraction, step)

    def choose_streams(self, stages: list[FloatStage]) -> None:
        """One format for all stages that shortcuts and enlarging connect."""
        first: dict[str, str] = {}
        for stage in stages:
            if stage.mode == "residual":
                before = stage.inputs[0] if stage.kind == "upsample" else stage.shortcut
                first[stage.name] = first[before.removesuffix(".residual")] if before else stage.name
        for root in set(first.values()):
            connected = [name for name, other in first.items() if other == root]
            members = [name for name in connected if name in self.steps]
            largest = max(max(self.outputs[name].largest for name in members), SMALLEST)
            fraction = int(np.floor(np.log2(32767 / (RESIDUAL_HEADROOM * largest))))
            fraction = min(max(fraction, RESIDUAL_FRACTION[0]), RESIDUAL_FRACTION[1])
            fraction = min([fraction, *(self.limits[name] for name in members if name in self.limits)])
            for name in members:
                fraction = _within_shifts(fraction, self.steps[name])
            self.fractions.update(dict.fromkeys(connected, fraction))


def _within_shifts(fraction: int, step: Step) -> int:
    """The nearest fraction bits for which every shift `k - fraction` is legal."""
    return min(max(fraction, int(step.k.max()) - SHIFT_MAX), int(step.k.min()) - SHIFT_MIN)


def choose_step(
    weight: Tensor, bias: Tensor, *, kind: str, levels: int = 1, least: float = 1.0, threshold: float | None = None,
    shared: bool = False, weight_bits: int = 8,
) -> Step:
    """Scales and integer weights of a convolution.

    Args:
        weight: float64[Co, Ci, k, k], real weight per unit of the input's integers.
        bias: float64[Co]; the scale is small enough for it to fit.
        kind, levels: Of the input tensor, for the accumulator's bound; binary spikes are integers of one level.
        least: Smallest scale.
        threshold: Scales are those that make it an integer; without it they are powers of two.
        shared: One scale for all channels.
        weight_bits: Bits of a weight.
    """
    most = weight_max(weight_bits)
    real = weight.numpy().astype(np.float64)
    flat = real.reshape(1, -1) if shared else real.reshape(len(real), -1)
    offset = np.abs(bias.numpy()).max(keepdims=True) if shared else np.abs(bias.numpy())
    grid = _SCALES_POWER if threshold is None else _SCALES_FREE
    candidates = most / np.maximum(np.abs(flat).max(axis=1), SMALLEST) * grid[:, None]
    room = (1 << (CURRENT_BITS - 3)) / np.maximum(offset, SMALLEST)
    candidates = _legal(np.minimum(np.minimum(candidates, room), 1 / SMALLEST), threshold, least)
    errors = np.stack([_rounding_error(flat, scale, most) for scale in candidates])
    scale = np.take_along_axis(candidates, errors.argmin(axis=0)[None], axis=0)[0]
    scale = np.repeat(scale, len(real)) if shared else scale
    while True:
        low, high = weight_bounds(_round_weights(real, scale, most), kind, levels)
        over = np.maximum(high, -low) >= 1 << (ACCUMULATOR_BITS - 1)
        if not over.any() or (scale[over] <= least).any():
            break
        scale = np.where(over.any() if shared else over, _legal(scale / 2, threshold, least), scale)
    return take_step(weight, scale, weight_bits)


def take_step(weight: Tensor, scale: NDArray[np.float64], weight_bits: int) -> Step:
    """Integer weights of `weight` float64[Co, Ci, k, k] at a given scale float64[Co]."""
    real = weight.numpy().astype(np.float64)
    rounded = _round_weights(real, scale, weight_max(weight_bits))
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


def _round_weights(real: NDArray[np.float64], scale: NDArray[np.float64], most: int) -> NDArray[np.int8]:
    return np.round(real * _broadcast(scale, real.ndim)).clip(-most, most).astype(np.int8)


def _rounding_error(flat: NDArray[np.float64], scale: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    return ((_round_weights(flat, scale, most) / _broadcast(scale, 2) - flat) ** 2).sum(axis=1)
