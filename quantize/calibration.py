"""Running a folded float network, and what quantisation needs to know of its values.

Tensors are [T, B, C, H, W] as in `reference`, K^T V [B, heads, D, E], logits the sum over frames [B, classes].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .folding import PIXELS, FloatStage
from .heads import enlarge_to
from .neurons import LIF
from .reference import pad_colour, split_frames, split_heads, split_pixels

SAMPLES = 1 << 16
"""Values kept per tensor and batch to choose a format by."""


@dataclass(kw_only=True)
class Statistics:
    """Of the values of one stage (before firing), or of an input tensor.

    Attributes:
        largest: Largest magnitude.
        mean: float64[C] over frames, clips and pixels.
        samples: Some of the values, float32.
    """

    largest: float = 0.0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    samples: list[Tensor] = field(default_factory=list)
    _count: int = 0

    def add(self, value: Tensor) -> None:
        """Take in [T, B, C, H, W]."""
        self.largest = max(self.largest, float(value.abs().max()))
        self._count += 1
        self.mean = self.mean + (value.double().mean((0, 1, 3, 4)) - self.mean) / self._count
        flat = value.flatten()
        self.samples.append(flat[::max(1, len(flat) // SAMPLES)].float())


Observer = Callable[[FloatStage, Tensor], None]


def run_float(
    stages: Iterable[FloatStage], clips: Tensor, *, dtype: torch.dtype = torch.float32, observe: Observer | None = None
) -> dict[str, Tensor]:
    """All tensors of a folded network.

    Args:
        stages: From `folding.fold`.
        clips: uint8[B, T, H, W, 3].
        dtype: To compute in.
        observe: Called with every stage but K^T V and enlarged maps and its value before pooling and firing,
            [T, B, C, H, W].
    """
    values = {PIXELS: clips.movedim(1, 0).movedim(-1, 2)}
    with torch.no_grad():
        for stage in stages:
            if stage.kind == "keyvalue":
                values[stage.outputs["keyvalue"]] = key_value(stage, values, dtype)
                continue
            if stage.kind == "upsample":
                small = values[stage.inputs[0]]
                height, width = (values[stage.inputs[1]].shape[-2:] if len(stage.inputs) > 1
                                 else (2 * small.shape[-2], 2 * small.shape[-1]))
                values[stage.outputs["residual"]] = enlarge_to(small, height, width)
                continue
            assert stage.bias is not None
            value = accumulate(stage, values, dtype) + _per_channel(stage.bias, dtype)
            if stage.shortcut is not None:
                value = value + values[stage.shortcut]
            if observe is not None:
                observe(stage, value)
            values.update(_outputs(stage, value))
    return values


def key_value(stage: FloatStage, values: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """K^T V of a stage: [B, heads, D, E], of every frame [T, B, heads, D, E]."""
    split = split_frames if stage.per_frame else split_heads
    key, value = (split(values[n].to(dtype), stage.heads) for n in stage.inputs)
    return (2 * key - stage.levels if stage.bipolar else key).transpose(-2, -1) @ value


def accumulate(stage: FloatStage, values: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """`scale * accumulator` of a stage: [T, B, C, H, W]."""
    x = values[stage.inputs[0]]
    if stage.kind == "attend":
        assert stage.scale is not None
        q = (split_frames if stage.per_frame else split_heads)(x.to(dtype), stage.heads)
        y = (2 * q - stage.levels if stage.bipolar else q) @ values[stage.inputs[1]]
        t, b, _, h, w = x.shape
        y = y.transpose(-2, -1)
        y = y.reshape(t, b, -1, h, w) if stage.per_frame else y.reshape(b, -1, t, h, w).movedim(2, 0)
        return y * _per_channel(stage.scale, dtype)
    if stage.kind == "temporal":
        assert stage.scale is not None
        q, k, v = (split_pixels(values[n].to(dtype), stage.heads) for n in stage.inputs)
        q, k = (2 * x - stage.levels if stage.bipolar else x for x in (q, k))
        y = (q @ k.transpose(-2, -1) @ v).permute(3, 0, 1, 4, 2).reshape(x.shape)
        return y * _per_channel(stage.scale, dtype)
    assert stage.weight is not None
    steps, weight, padding = x.shape[:2], stage.weight.to(dtype), stage.padding
    x = x.flatten(0, 1).to(dtype)
    if stage.pad is not None and padding:
        x, padding = pad_colour(x, padding, stage.pad), 0
    groups = weight.shape[0] if stage.kind == "depthwise" else 1
    y = F.conv2d(x, weight, stride=stage.stride, padding=padding, groups=groups)
    if stage.window is not None:
        y = F.max_pool2d(y, *stage.window)
    return y.unflatten(0, steps)


def calibrate(
    stages: list[FloatStage], clips: NDArray[Any] | Tensor, *, batch: int = 8
) -> tuple[dict[str, Statistics], dict[str, Statistics]]:
    """Statistics of the stages by name (value before firing) and of the tensors they read by name.

    Args:
        stages: From `folding.fold`.
        clips: uint8[N, T, H, W, 3].
        batch: Clips side by side.
    """
    outputs = {stage.name: Statistics() for stage in stages if stage.kind not in ("keyvalue", "upsample")}
    read = {stage.inputs[0] for stage in stages if stage.weight is not None}
    inputs = {name: Statistics() for name in read}
    for part in batches(clips, batch):
        values = run_float(stages, part, observe=lambda stage, value: outputs[stage.name].add(value))
        for name, statistics in inputs.items():
            statistics.add(values[name].float())
    return outputs, inputs


def batches(clips: NDArray[Any] | Tensor, batch: int) -> Iterator[Tensor]:
    """`clips` in groups of at most `batch`."""
    tensor = torch.as_tensor(clips)
    for start in range(0, len(tensor), batch):
        yield tensor[start:start + batch]


def _outputs(stage: FloatStage, value: Tensor) -> dict[str, Tensor]:
    made = stage.outputs
    values = {made[kind]: value for kind in ("residual", "planes") if kind in made}
    if stage.mode == "logits":
        values[made["logits"]] = value.sum(0).flatten(1)
    if stage.neuron is not None:
        current = value
        if stage.pool:
            current = (torch.sum if stage.total else torch.mean)(value, (-2, -1), keepdim=True)
        spikes, levels = LIF(stage.neuron)(current), stage.neuron.levels
        values[made["spikes"]] = (spikes * levels).round().to(torch.uint8) if levels > 1 else spikes != 0
    return values


def _per_channel(array: Tensor, dtype: torch.dtype) -> Tensor:
    return array.to(dtype).view(1, 1, -1, 1, 1)
