"""What every pixel belongs to: segmentation of moving shapes, :mod:`spikeloom.quantize.masks`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..heads import enlarge
from ..masks import CLASSES, MaskClips
from . import Predict
from .metrics import bootstrap, class_iou, confusion, mean_iou

if TYPE_CHECKING:
    from ..models import SpikeVideoFormer, SpikeVideoFormerConfig

__all__ = ["IGNORED", "Masks", "classes_of", "segment_loss", "segment_report"]

IGNORED = 255
"""Class of pixels that count neither in the loss nor in the metrics."""


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Target ``classes uint8[B, T, H, W]``; outputs ``float[T, B, 4, h, w]``, enlarged to the frame where h < H."""

    clips: MaskClips
    name: str = "masks"

    @classmethod
    def of(cls, config: SpikeVideoFormerConfig) -> Masks:
        """The task at the network's size; ValueError if its outputs are not those of the data set."""
        if config.head != "segment" or config.classes != len(CLASSES) or config.height != config.width:
            raise ValueError(
                f"`config` must have square frames and head `segment` with {len(CLASSES)} classes, not head "
                f"`{config.head}` with {config.classes}")
        return cls(clips=MaskClips(size=config.height, frames=config.frames))

    def batch(self, indices: range | list[int], split: str, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See :class:`Task`."""
        frames, classes = self.clips.batch(indices, split, seed)
        return frames, {"classes": classes}

    def loss(self, model: SpikeVideoFormer, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """See :func:`segment_loss`."""
        return segment_loss(outputs, targets["classes"])

    def evaluate(
        self, predict: Predict, *, n: int = 500, split: str = "test", seed: int = 0, batch: int = 50
    ) -> dict[str, Any]:
        """``{"split", "seed", "n", "mean_iou", "iou", "pixels"}``, see :func:`segment_report`."""
        parts = []
        for start in range(0, n, batch):
            frames, targets = self.batch(range(start, min(n, start + batch)), split, seed)
            true = targets["classes"]
            parts.append(confusion(classes_of(predict(frames), true.shape[-2:]), true, len(CLASSES)))
        return {"split": split, "seed": seed, "n": n} | segment_report(np.concatenate(parts), CLASSES)


def classes_of(outputs: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Class of every pixel, ``uint8[B, T, *size]``, from logits ``[T, B, classes, h, w]`` by nearest neighbour."""
    best = outputs.argmax(2).swapaxes(0, 1).astype(np.uint8)
    factor = size[0] // best.shape[-2]
    if (best.shape[-2] * factor, best.shape[-1] * factor) != tuple(size):
        raise ValueError(f"`size` must be a multiple of the logits' {best.shape[-2:]!r}, not `{tuple(size)!r}`")
    return best.repeat(factor, -2).repeat(factor, -1)


def segment_loss(outputs: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy of logits ``float[T, B, classes, h, w]`` against the pixels' classes ``uint8[B, T, H, W]``.

    Logits are enlarged by nearest neighbour to H = n h; pixels of class :data:`IGNORED` do not count.
    """
    factor = classes.shape[-1] // outputs.shape[-1]
    logits = enlarge(outputs.float(), factor).flatten(0, 1)
    return F.cross_entropy(logits, classes.transpose(0, 1).flatten(0, 1).long(), ignore_index=IGNORED)


def segment_report(matrices: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """From confusion matrices of clips ``int[B, classes, classes]``: IoU over all pixels, intervals over clips.

    ``mean_iou``: over the classes; ``iou``: by class, None where it is neither there nor found; ``pixels``: part of the
    pixels in the right class.
    """
    total = matrices.sum(0)

    def right(means: np.ndarray) -> np.ndarray:
        return np.trace(means, axis1=-2, axis2=-1) / means.sum((-2, -1))

    iou = {name: None if np.isnan(value) else float(value) for name, value in zip(names, class_iou(total), strict=True)}
    return {
        "mean_iou": {"value": float(mean_iou(total)), "interval": list(bootstrap(matrices, mean_iou))},
        "iou": iou,
        "pixels": {"value": float(right(total)), "interval": list(bootstrap(matrices, right))}}
