"""Moving handwritten digits: the demo network's data set, generated from numbers and 1,797 bundled scans.

A clip shows one handwritten digit (scikit-learn's ``load_digits``: 8x8 scans, UCI Optical Recognition of
Handwritten Digits) drifting right, left, down or up over a coloured, cluttered, noisy background. Two
questions per clip: which digit, and which way.

The scans are split once and for all by :data:`SPLIT_SEED` into ``"train"``, ``"val"`` (to watch training
and to choose settings) and ``"test"`` (to report); no scan is in two of them. Clip ``index`` of a split and
seed is a function of ``(split, seed, index)`` alone, on any machine with the same numpy. Scans are taken in
turn, so any ``len(scans)`` consecutive clips show every scan once.

How a clip is drawn, all positions continuous, bilinear::

    scan 8x8 -> scaled 1.9..2.4x -> placed at centre + offset + direction * speed * (t - (T-1)/2)
    frame = background + clutter + ink * (colour - background) + noise, rounded, clipped to 0..255
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .clips import SPLITS, GeneratedClips

__all__ = ["DIRECTIONS", "SPLITS", "SPLIT_SEED", "SPLIT_SIZES", "DigitClips", "ink", "scans"]

DIRECTIONS = ("right", "left", "down", "up")
SPLIT_SEED = 20250
SPLIT_SIZES = (1300, 97, 400)
_STEPS = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]], dtype=np.float32)  # (dy, dx) of DIRECTIONS

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@lru_cache(maxsize=len(SPLITS))
def scans(split: str) -> tuple[Floats, Ints]:
    """Scans of a split: ink ``float32[n, 8, 8]`` in 0..1 and digits ``int64[n]``.

    The sizes are :data:`SPLIT_SIZES`, 1,797 scans in all, shuffled, drawn without regard to class.

    Raises
    ------
    ValueError
        For a split not in :data:`SPLITS`.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, not `{split!r}`")
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images = (np.asarray(pixels).reshape(-1, 8, 8) / 16).astype(np.float32)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    parts = np.split(order, np.cumsum(SPLIT_SIZES)[:-1])
    chosen = parts[SPLITS.index(split)]
    return images[chosen], np.asarray(digits, dtype=np.int64)[chosen]


def ink(images: Floats, scale: Floats, centre: Floats, size: int) -> Floats:
    """Ink ``float32[B, T, size, size]`` of scans ``[B, 8, 8]`` at centres ``[B, T, 2]``, ``(y, x)``; scale ``[B, 2]``.

    Bilinear interpolation is separable: ``rows [B,T,H,8] @ scan @ columns^T``; 0 outside the scan.
    """
    weights = []
    for axis in (0, 1):
        place = np.arange(size, dtype=np.float32) - centre[:, :, None, axis]
        place = place / scale[:, None, None, axis] + 3.5
        distance = np.abs(place[..., None] - np.arange(8, dtype=np.float32))
        weights.append(np.maximum(0, 1 - distance))
    return weights[0] @ images[:, None] @ weights[1].swapaxes(-1, -2)


@dataclass(frozen=True, kw_only=True)
class DigitClips(GeneratedClips):
    """Generator of clips; every setting in pixels, frames or grey levels (0..255).

    Attributes
    ----------
    scale : (float, float)
        Enlargement of the 8x8 scan, drawn for height and width apart.
    speed : (float, float)
        Pixels per frame.
    offset : float
        Largest distance of the middle of the path from the middle of the frame, per axis.
    """

    scale: tuple[float, float] = (1.9, 2.4)
    speed: tuple[float, float] = (0.8, 2.0)
    offset: float = 4.0
    clutter: int = 3

    LEAST: ClassVar[dict[str, int]] = {"size": 16, "frames": 2}

    def clip(self, index: int, split: str = "test", seed: int = 0) -> tuple[NDArray[np.uint8], int, int]:
        """One clip: frames ``uint8[T, H, W, 3]``, digit 0..9, direction (index into :data:`DIRECTIONS`)."""
        clips, digits, directions = self.batch([index], split, seed)
        return clips[0], int(digits[0]), int(directions[0])

    def batch(
        self, indices: list[int] | Ints | range, split: str = "test", seed: int = 0
    ) -> tuple[NDArray[np.uint8], Ints, Ints]:
        """Clips ``uint8[B, T, H, W, 3]``, digits ``int64[B]``, directions ``int64[B]``.

        A clip does not depend on the others of the batch.

        Raises
        ------
        ValueError
            For an unknown split, a negative index or a negative seed.
        """
        self.check(indices, split, seed)
        images, digits = scans(split)
        drawn = [self._draw(int(i), split, seed) for i in indices]
        chosen = np.array([int(i) % len(digits) for i in indices], dtype=np.int64)
        directions = np.array([d["direction"] for d in drawn], dtype=np.int64)
        scale, centre = (np.stack([d[k] for d in drawn]) for k in ("scale", "centre"))
        cover = ink(images[chosen], scale, centre, self.size)[..., None]
        back = np.stack([self._background(d) for d in drawn])[:, None]
        colour = np.stack([d["colour"] for d in drawn])[:, None, None, None]
        frames = back + cover * (colour - back) + np.stack([d["noise"] for d in drawn])
        return np.clip(np.rint(frames), 0, 255).astype(np.uint8), digits[chosen], directions

    def _draw(self, index: int, split: str, seed: int) -> dict:
        """All random numbers of one clip."""
        rng = np.random.default_rng([SPLITS.index(split), seed, index])
        direction = int(rng.integers(len(DIRECTIONS)))
        time = np.arange(self.frames, dtype=np.float32)[:, None] - (self.frames - 1) / 2
        start = (self.size - 1) / 2 + rng.uniform(-self.offset, self.offset, 2)
        dark = rng.uniform(15, 60) + rng.uniform(-15, 15, 3)
        shape = (self.frames, self.size, self.size, 3)
        return {
            "direction": direction,
            "scale": rng.uniform(*self.scale, 2).astype(np.float32),
            "centre": (start + time * rng.uniform(*self.speed) * _STEPS[direction]).astype(np.float32),
            "back": dark.astype(np.float32),
            "colour": np.clip(dark + rng.uniform(110, 190) + rng.uniform(-30, 30, 3), 0, 255).astype(np.float32),
            "slope": rng.uniform(-8, 8, (2, 3)).astype(np.float32),
            "boxes": rng.integers(0, self.size - 3, (self.clutter, 2)),
            "box_sizes": rng.integers(2, 6, (self.clutter, 2)),
            "box_levels": rng.uniform(-25, 25, (self.clutter, 3)).astype(np.float32),
            "noise": self.noise * rng.standard_normal(shape, dtype=np.float32),
        }

    def _background(self, drawn: dict) -> Floats:
        """Background ``float32[H, W, 3]``: a colour, a gradient, clutter."""
        ramp = np.linspace(-1, 1, self.size, dtype=np.float32)[:, None]
        slope = drawn["slope"]
        back = drawn["back"] + (ramp * slope[0])[:, None] + (ramp * slope[1])[None]
        for i in range(self.clutter):
            (y, x), (height, width) = drawn["boxes"][i], drawn["box_sizes"][i]
            back[y : y + height, x : x + width] += drawn["box_levels"][i]
        return back
