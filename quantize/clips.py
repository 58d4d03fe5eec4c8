"""What generated data sets have in common: sizes, splits, and the checks of what is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .drawing import backdrop

__all__ = ["SPLITS", "GeneratedClips"]

SPLITS = ("train", "val", "test")
"""To train on, to watch training and choose settings, to report."""


@dataclass(frozen=True, kw_only=True)
class GeneratedClips:
    """Settings of all generators of clips.

    Attributes
    ----------
    size, frames : int
        Height = width in pixels and length of a clip.
    clutter : int
        Static boxes of background colour variation per clip.
    noise : float
        Standard deviation of the noise, fresh in each frame, grey levels.
    """

    size: int = 32
    frames: int = 8
    clutter: int = 4
    noise: float = 5.0

    LEAST: ClassVar[dict[str, int]] = {"size": 16, "frames": 1}

    def __post_init__(self) -> None:
        for name, least in self.LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, not `{getattr(self, name)!r}`")

    @staticmethod
    def check(indices: Iterable[int], split: str, seed: int) -> None:
        """ValueError for an unknown split, a negative index or a negative seed."""
        if split not in SPLITS:
            raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, not `{split!r}`")
        if seed < 0 or any(i < 0 for i in indices):
            raise ValueError(f"`indices` and `seed` must not be negative, not `{indices!r}`, `{seed!r}`")

    def scenes(self, drawn: list[dict[str, Any]]) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """What was drawn for each clip, stacked, and the background of every frame ``float32[B, T, 3, H, W]``."""
        stacked = {key: np.stack([d[key] for d in drawn]) for key in drawn[0] if key != "scenery"}
        still = np.stack([backdrop(d["scenery"], self.size) for d in drawn])
        return stacked, still[:, None].repeat(self.frames, axis=1)
