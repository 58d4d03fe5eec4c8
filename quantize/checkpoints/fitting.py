"""Tensors of a checkpoint -> the `state_dict` of one of our models: names, shapes, types and values are checked.

Every name that is wrong is said, not the first one only: a checkpoint of a neighbouring architecture is recognised by
what it has and lacks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .reading import CheckpointError, listed

__all__ = ["DISTILLED", "fit", "merge_heads"]

DISTILLED = ("average", "head", "head_kd")
"""What becomes of the two heads of a distilled network: their mean, as the released code has it, or one of them."""
MOST = 20


def merge_heads(path: Path, tensors: Mapping[str, Tensor], use: str = "average") -> tuple[dict[str, Tensor], list[str]]:
    """Tensors with one `head`, and what was done.

    The mean of two linear layers of the same input is the linear layer with the mean of their weights.

    Raises:
        CheckpointError: The two heads have other shapes, or there is no `head_kd` where it was asked for.
    """
    merged = {name: tensor for name, tensor in tensors.items() if not name.startswith("head_kd.")}
    twins = {name: name.replace("head_kd.", "head.", 1) for name in tensors if name.startswith("head_kd.")}
    if not twins:
        if use == "head_kd":
            raise CheckpointError(f"{path}: has no second head `head_kd`: leave --distilled out")
        return merged, []
    if use == "head":
        return merged, ["took `head`, left out `head_kd`"]
    for twin, name in twins.items():
        if use == "head_kd":
            merged[name] = tensors[twin]
        elif name not in tensors or tensors[name].shape != tensors[twin].shape:
            raise CheckpointError(f"{path}: `{name}` and `{twin}` differ in shape: take one with --distilled")
        else:
            mean = (tensors[name].double() + tensors[twin].double()) / 2
            merged[name] = mean.float()
    average = "two heads, `head` and `head_kd`: averaged"
    return merged, ["took `head_kd`, left out `head`" if use == "head_kd" else average]


def fit(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The `state_dict` for a model of the architecture `name`, and notices of what was converted.

    Args:
        path: Of the checkpoint, for messages.
        tensors: As read.
        expected: The model's `state_dict`; only shapes and types are used, so it may be on the device `meta`.
        name: Of the architecture, for messages.

    Raises:
        CheckpointError: Tensors are missing, left over, of another shape, not numbers, not finite, or a variance is
            negative.
    """
    counters = [key for key in expected if key.endswith(".num_batches_tracked")]
    filled = {key: tensors.get(key, torch.zeros((), dtype=torch.int64)) for key in counters} | dict(tensors)
    _check_names(path, filled, expected, name)
    converted: Counter[str] = Counter()
    state = {key: _convert(filled[key], tensor.dtype, converted) for key, tensor in expected.items()}
    _check_values(path, state)
    types = ", ".join(f"{count} of {kind}" for kind, count in converted.items())
    return state, [f"converted to float32: {types}"] if types else []


def _check_names(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    shapes = [
        f"{key} is {list(tensors[key].shape)}, must be {list(tensor.shape)}"
        for key, tensor in expected.items() if key in tensors and tensors[key].shape != tensor.shape]
    strange = [
        f"{key} is {tensors[key].dtype}".replace("torch.", "") for key in expected
        if key in tensors and not _is_number(tensors[key])]
    problems = [
        f"{len(names)} {what}: {listed(names, MOST)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes),
                            ("of a type that is no number", strange)) if names]
    if any(key.endswith("lif.w") for key in unexpected):
        problems.append("`lif.w` is the learnt leak of a parametric LIF neuron, which no supported network has")
    if problems:
        raise CheckpointError(f"{path}: does not fit {name}: {'; '.join(problems)}")


def _is_number(tensor: Tensor) -> bool:
    return not (tensor.is_complex() or tensor.is_quantized or tensor.is_sparse or tensor.dtype == torch.bool)


def _convert(tensor: Tensor, dtype: torch.dtype, converted: Counter[str]) -> Tensor:
    if tensor.dtype != dtype and dtype.is_floating_point:
        converted[str(tensor.dtype).removeprefix("torch.")] += 1
    return tensor.to(dtype).contiguous()


def _check_values(path: Path, state: Mapping[str, Tensor]) -> None:
    infinite = [
        f"{key} ({math.prod(tensor.shape) - int(tensor.isfinite().sum()):,} of {tensor.numel():,})"
        for key, tensor in state.items() if not bool(tensor.isfinite().all())]
    if infinite:
        raise CheckpointError(f"{path}: NaN or infinite values in {len(infinite)} tensors: {listed(infinite, MOST)}")
    negative = [key for key, tensor in state.items() if key.endswith("running_var") and bool((tensor < 0).any())]
    if negative:
        raise CheckpointError(f"{path}: negative variances in {listed(negative, MOST)}")
