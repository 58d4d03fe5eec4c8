"""Which handwritten digit, and which way it moves: the task of :mod:`spikeloom.quantize.digits`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..digits import DigitClips, scans
from . import Predict
from .metrics import wilson

if TYPE_CHECKING:
    from ..models import SpikeVideoFormer, SpikeVideoFormerConfig

__all__ = ["Digits"]

PLACES = {"digit": slice(0, 10), "direction": slice(10, 14)}
"""Question -> its logits."""


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Targets ``digit int64[B]`` and ``direction int64[B]``, outputs ``float[B, classes]`` with both as tasks.

    Attributes
    ----------
    clips : DigitClips
        The generator.
    smoothing : float
        Label smoothing.
    direction : float
        Weight of the direction's loss; the digit's is 1.
    """

    clips: DigitClips
    smoothing: float = 0.05
    direction: float = 0.5
    name: str = "digits"

    @classmethod
    def of(cls, config: SpikeVideoFormerConfig) -> Digits:
        """The task at the network's size; ValueError if its logits are not those of the data set."""
        if config.task_slices != PLACES or config.height != config.width:
            sizes = {name: part.stop - part.start for name, part in config.task_slices.items()}
            raise ValueError(f"`config` must have square frames and the tasks of moving digits, not `{sizes!r}`")
        return cls(clips=DigitClips(size=config.height, frames=config.frames))

    def batch(self, indices: range | list[int], split: str, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See :class:`Task`."""
        frames, digits, directions = self.clips.batch(indices, split, seed)
        return frames, {"digit": digits, "direction": directions}

    def loss(self, model: SpikeVideoFormer, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the cross entropies of ``float[B, classes]`` logits."""
        parts = model.split(outputs.float())
        digit, direction = (
            F.cross_entropy(parts[name], targets[name], label_smoothing=self.smoothing)
            for name in PLACES)
        return digit + self.direction * direction

    def evaluate(
        self, predict: Predict, *, n: int = 2000, split: str = "test", seed: int = 0, batch: int = 100
    ) -> dict[str, Any]:
        """``{"split", "seed", "n", "scans", question: {"hits", "accuracy", "interval"}}``.

        Clips are drawn independently, but ``n`` clips show only ``scans`` different handwritten digits, which the
        Wilson interval does not know.
        """
        hits = dict.fromkeys(PLACES, 0)
        for start in range(0, n, batch):
            frames, targets = self.batch(range(start, min(n, start + batch)), split, seed)
            logits = predict(frames)
            for question, place in PLACES.items():
                hits[question] += int((logits[:, place].argmax(-1) == targets[question]).sum())
        report: dict[str, Any] = {"split": split, "seed": seed, "n": n, "scans": min(n, len(scans(split)[1]))}
        for question, count in hits.items():
            report[question] = {"hits": count, "accuracy": count / n, "interval": list(wilson(count, n))}
        return report
