"""Which handwritten digit, and which way it moves: the task of :mod:`spikeloom.quantize.digits`.

A network is asked both, or one of them, as the names of its groups of logits say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..digits import DigitClips, scans
from . import Predict
from .metrics import wilson

if TYPE_CHECKING:
    from ..models import SpikeVideoFormer, SpikeVideoFormerConfig
    from ..relatives import Relative, RelativeConfig

__all__ = ["Digits"]

QUESTIONS = {"digit": 10, "direction": 4}
"""Question -> its answers."""


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Targets ``digit int64[B]`` and ``direction int64[B]``, outputs ``float[B, classes]``.

    Attributes
    ----------
    clips : DigitClips
        The generator.
    smoothing : float
        Label smoothing.
    direction : float
        Weight of the direction's loss; the digit's is 1.
    places : dict
        Question of those that the network is asked -> its logits.
    """

    clips: DigitClips
    smoothing: float = 0.05
    direction: float = 0.5
    name: str = "digits"
    places: dict[str, slice] = field(default_factory=lambda: {"digit": slice(0, 10), "direction": slice(10, 14)})

    @classmethod
    def of(cls, config: SpikeVideoFormerConfig | RelativeConfig) -> Digits:
        """The task at the network's size; ValueError if its logits are not those of the data set."""
        places = config.task_slices
        sizes = {name: part.stop - part.start for name, part in places.items()}
        if not sizes.items() <= QUESTIONS.items() or config.height != config.width:
            raise ValueError(f"`config` must have square frames and the tasks of moving digits, not `{sizes!r}`")
        return cls(clips=DigitClips(size=config.height, frames=config.frames), places=places)

    def batch(self, indices: range | list[int], split: str, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See :class:`Task`."""
        frames, digits, directions = self.clips.batch(indices, split, seed)
        targets = {"digit": digits, "direction": directions}
        return frames, {question: targets[question] for question in self.places}

    def loss(self, model: SpikeVideoFormer | Relative, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the cross entropies of ``float[B, classes]`` logits."""
        parts = model.split(outputs.float())
        weights = {"digit": 1.0, "direction": self.direction}
        losses = [weights[name] * F.cross_entropy(parts[name], targets[name], label_smoothing=self.smoothing)
                  for name in self.places]
        return torch.stack(losses).sum()

    def evaluate(
        self, predict: Predict, *, n: int = 2000, split: str = "test", seed: int = 0, batch: int = 100
    ) -> dict[str, Any]:
        """``{"split", "seed", "n", "scans", question: {"hits", "accuracy", "interval"}}``.

        Clips are drawn independently, but ``n`` clips show only ``scans`` different handwritten digits, which the
        Wilson interval does not know.
        """
        hits = dict.fromkeys(self.places, 0)
        for start in range(0, n, batch):
            frames, targets = self.batch(range(start, min(n, start + batch)), split, seed)
            logits = predict(frames)
            for question, place in self.places.items():
                hits[question] += int((logits[:, place].argmax(-1) == targets[question]).sum())
        report: dict[str, Any] = {"split": split, "seed": seed, "n": n, "scans": min(n, len(scans(split)[1]))}
        for question, count in hits.items():
            report[question] = {"hits": count, "accuracy": count / n, "interval": list(wilson(count, n))}
        return report
