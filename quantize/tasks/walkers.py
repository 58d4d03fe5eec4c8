"""Where the joints are: pose of walking figures, :mod:`spikeloom.quantize.walkers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..walkers import JOINTS, WalkerClips
from . import Predict
from .metrics import bootstrap, joint_errors, procrustes

if TYPE_CHECKING:
    from ..models import SpikeVideoFormer, SpikeVideoFormerConfig

__all__ = ["Walkers", "pose_loss", "pose_report"]

LINEAR = 0.02
"""Distance, over the frame's size, from which on the loss grows linearly."""


@dataclass(frozen=True, kw_only=True)
class Walkers:
    """Target ``joints float32[B, T, 13, 2]``, ``(x, y)`` over the frame's size; outputs ``float[T, B, 26]``."""

    clips: WalkerClips
    name: str = "walkers"

    @classmethod
    def of(cls, config: SpikeVideoFormerConfig) -> Walkers:
        """The task at the network's size; ValueError if its outputs are not those of the data set."""
        if config.head != "pose" or config.classes != 2 * len(JOINTS) or config.height != config.width:
            raise ValueError(
                f"`config` must have square frames and head `pose` with {2 * len(JOINTS)} outputs, not head "
                f"`{config.head}` with {config.classes}")
        return cls(clips=WalkerClips(size=config.height, frames=config.frames))

    def batch(self, indices: range | list[int], split: str, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See :class:`Task`."""
        frames, joints = self.clips.batch(indices, split, seed)
        return frames, {"joints": joints}

    def loss(self, model: SpikeVideoFormer, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """See :func:`pose_loss`."""
        return pose_loss(outputs, targets["joints"])

    def evaluate(
        self, predict: Predict, *, n: int = 2000, split: str = "test", seed: int = 0, batch: int = 100
    ) -> dict[str, Any]:
        """``{"split", "seed", "n", "mpjpe", "pa_mpjpe"}``, see :func:`pose_report`."""
        parts = []
        for start in range(0, n, batch):
            frames, targets = self.batch(range(start, min(n, start + batch)), split, seed)
            parts.append((as_joints(predict(frames)), targets["joints"]))
        found, true = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return {"split": split, "seed": seed, "n": n} | pose_report(found, true)


def as_joints(outputs: np.ndarray) -> np.ndarray:
    """``[T, B, joints * 2] -> [B, T, joints, 2]``."""
    return outputs.swapaxes(0, 1).reshape(outputs.shape[1], outputs.shape[0], -1, 2)


def pose_loss(outputs: Tensor, joints: Tensor, seen: Tensor | None = None) -> Tensor:
    """Smooth L1 of ``float[T, B, joints * 2]`` against ``[B, T, joints, 2]``, in units of :data:`LINEAR`.

    Joints that are not `seen` (bool[B, T, joints]) do not count.
    """
    target = joints.transpose(0, 1).flatten(2)
    error = F.smooth_l1_loss(outputs.float() / LINEAR, target.float() / LINEAR, reduction="none")
    if seen is None:
        return error.mean()
    weight = seen.transpose(0, 1).repeat_interleave(2, -1).float()
    return (error * weight).sum() / weight.sum().clamp(min=1)


def pose_report(found: np.ndarray, true: np.ndarray, seen: np.ndarray | None = None) -> dict[str, Any]:
    """Mean per-joint position errors of ``[B, T, joints, 2]`` in per cent of the frame's size, intervals over clips.

    ``mpjpe``: as found; ``pa_mpjpe``: after the best turn, scale and shift of each frame's joints
    (:func:`metrics.procrustes`). Joints that are not `seen` (bool[B, T, joints]) take part in neither.
    """
    report: dict[str, Any] = {}
    for name, placed in (("mpjpe", found), ("pa_mpjpe", procrustes(found, true, seen))):
        errors = 100 * joint_errors(placed, true, seen)
        errors = errors[~np.isnan(errors)]
        report[name] = {"percent": float(errors.mean()), "interval": list(bootstrap(errors, lambda means: means))}
    return report
