"""Figures of merit and their 95 % intervals. Everything here is deterministic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap", "class_iou", "confusion", "joint_errors", "mean_iou", "procrustes", "topk_hits", "wilson"]

RESAMPLES = 2000
SEED = 1

Floats = NDArray[np.float64]


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of ``hits / n``; 95 % for the default ``z``. Assumes independent trials."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"`hits` must be within 0..n, not `{hits!r}` of `{n!r}`")
    p, z2 = hits / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(clips: NDArray[Any], statistic: Callable[[Floats], Floats]) -> tuple[float, float]:
    """95 % percentile interval of a statistic of the mean over clips.

    Args:
        clips: float[n, ...], one entry per clip.
        statistic: Means over clips float[RESAMPLES, ...] -> float[RESAMPLES].

    Returns:
        2.5th and 97.5th percentile over resamples of ``n`` clips with replacement.
    """
    n = len(clips)
    flat = np.asarray(clips, dtype=np.float64).reshape(n, -1)
    drawn = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    means = (drawn @ flat / n).reshape(RESAMPLES, *clips.shape[1:])
    low, high = np.percentile(statistic(means), [2.5, 97.5])
    return float(low), float(high)


def topk_hits(logits: NDArray[Any], labels: NDArray[Any], k: int) -> int:
    """Rows of ``logits[B, classes]`` whose ``labels[B]`` is among the ``k`` largest; of equal logits the first wins."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return int((best == labels[:, None]).any(axis=1).sum())


def procrustes(found: NDArray[Any], true: NDArray[Any], seen: NDArray[Any] | None = None) -> Floats:
    """``found[..., J, 2]`` turned, scaled and moved (not mirrored) onto ``true`` with the least squared error.

    With points as complex numbers about their means, that is one factor ``a = <found, true> / <found, found>``. Joints
    that are not `seen` (bool[..., J]) take no part in choosing it, but are moved with the others.
    """
    p, q = (np.asarray(x[..., 0], np.float64) + 1j * x[..., 1] for x in (found, true))
    weight = np.ones(p.shape) if seen is None else np.asarray(seen, np.float64)

    def total(values: NDArray[Any]) -> NDArray[Any]:
        return (weight * values).sum(-1, keepdims=True)

    count = np.maximum(total(np.ones_like(weight)), 1)
    about = total(q) / count
    p = p - total(p) / count
    factor = total(p.conj() * (q - about)) / np.maximum(total(np.abs(p) ** 2), 1e-12)
    moved = factor * p + about
    return np.stack([moved.real, moved.imag], -1)


def joint_errors(found: NDArray[Any], true: NDArray[Any], seen: NDArray[Any] | None = None) -> Floats:
    """Mean distance over frames and joints of ``[B, T, J, 2]`` positions, ``float[B]``; NaN if none is `seen`."""
    distance = np.linalg.norm(np.asarray(found, np.float64) - true, axis=-1)
    if seen is None:
        return distance.mean((1, 2))
    count = seen.sum((1, 2))
    total = np.where(seen, distance, 0).sum((1, 2))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def confusion(found: NDArray[Any], true: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Pixels ``int64[B, classes, classes]`` by true and found class, from ``[B, ...]``; beyond `classes`: ignored."""
    n = len(true)
    found, true = found.reshape(n, -1).astype(np.int64), true.reshape(n, -1).astype(np.int64)
    known = true < classes
    place = (np.arange(n)[:, None] * classes + true) * classes + found
    return np.bincount(place[known], minlength=n * classes * classes).reshape(n, classes, classes)


def class_iou(matrix: NDArray[Any]) -> Floats:
    """Intersection over union ``[..., classes]`` from confusion matrices; NaN for classes neither true nor found."""
    both = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - both
    with np.errstate(invalid="ignore"):
        return np.where(union > 0, both / np.where(union > 0, union, 1), np.nan)


def mean_iou(matrix: NDArray[Any]) -> Floats:
    """Mean of :func:`class_iou` over the classes that occur, ``[...]``."""
    return np.nanmean(class_iou(matrix), axis=-1)
