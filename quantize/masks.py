"""Things that move over clutter: clips with the class of every pixel in every frame.

Each clip shows a handwritten digit (scans and their splits: :mod:`spikeloom.quantize.digits`), a rectangle and an
ellipse over a cluttered, noisy background. Each drifts on a line of its own, the latter two turn; which hides which is
drawn anew for each clip. A clip is a function of ``(split, seed, index)`` alone, on any machine with the same numpy.

A pixel belongs to the uppermost shape that covers at least half of it; a digit covers where its ink is above
:data:`INK`. Grey levels say nothing of the class: all shapes draw their colours alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .clips import SPLITS, GeneratedClips
from .digits import ink, scans
from .drawing import ellipse, finish, paint, rectangle, scenery

__all__ = ["CLASSES", "MaskClips"]

CLASSES = ("background", "digit", "rectangle", "ellipse")
INK = 0.35

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MaskClips(GeneratedClips):
    """Generator of clips.

    Attributes
    ----------
    scale : (float, float)
        Enlargement of the 8x8 scan, drawn for height and width apart.
    half : (float, float)
        Half width and half height of rectangles, semi-axes of ellipses, in pixels.
    speed : (float, float)
        Pixels per frame.
    spin : float
        Largest turn of rectangles and ellipses, radians per frame.
    """

    scale: tuple[float, float] = (1.9, 2.5)
    half: tuple[float, float] = (3.5, 6.0)
    speed: tuple[float, float] = (0.3, 1.5)
    spin: float = 0.15

    LEAST: ClassVar[dict[str, int]] = {"size": 24, "frames": 1}

    def batch(
        self, indices: list[int] | range, split: str = "test", seed: int = 0
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Clips ``uint8[B, T, H, W, 3]`` and classes ``uint8[B, T, H, W]``, indices into :data:`CLASSES`.

        A clip does not depend on the others of the batch.

        Raises
        ------
        ValueError
            For an unknown split, a negative index or a negative seed.
        """
        self.check(indices, split, seed)
        images, _ = scans(split)
        drawn = [self._draw(int(i), split, seed) for i in indices]
        stacked, frames = self.scenes(drawn)
        chosen = images[[int(i) % len(images) for i in indices]]
        cover = self._cover(chosen, stacked)
        classes = np.zeros(cover[0].shape, np.uint8)
        clips = np.arange(len(drawn))
        for kinds in stacked["order"].T:
            over = cover[kinds, clips]
            paint(frames, over, stacked["colours"][clips, kinds, None])
            limit = np.where(kinds == 0, INK, 0.5)[:, None, None, None]
            classes = np.where(over >= limit, (kinds + 1)[:, None, None, None], classes).astype(np.uint8)
        return finish(frames, stacked["noise"]), classes

    def _draw(self, index: int, split: str, seed: int) -> dict[str, Any]:
        """All random numbers of one clip; shapes in the order of `CLASSES` without the background."""
        rng = np.random.default_rng([SPLITS.index(split), seed, index, 2])
        dark = scenery(rng, self.size, self.clutter, level=(20, 110))
        time = np.arange(self.frames)[:, None] - (self.frames - 1) / 2
        middle = self.size * rng.uniform(0.2, 0.8, (3, 1, 2))
        way = rng.uniform(0, 2 * np.pi, (3, 1))
        step = rng.uniform(*self.speed, (3, 1, 1)) * np.stack([np.cos(way), np.sin(way)], -1)
        turn = rng.uniform(0, np.pi, (3, 1)) + rng.uniform(-self.spin, self.spin, (3, 1)) * time.T
        bright = dark["base"].mean() + rng.uniform(70, 120, (3, 1)) + rng.uniform(-40, 40, (3, 3))
        return {
            "scenery": dark, "order": rng.permutation(3), "centre": (middle + step * time).astype(np.float32),
            "angle": turn.astype(np.float32), "half": rng.uniform(*self.half, (3, 1, 2)).astype(np.float32),
            "scale": rng.uniform(*self.scale, 2).astype(np.float32),
            "colours": np.clip(bright, 0, 255).astype(np.float32),
            "noise": self.noise * rng.standard_normal((self.frames, 3, self.size, self.size), dtype=np.float32)}

    def _cover(self, images: Floats, drawn: dict[str, Any]) -> Floats:
        """Coverage ``float32[3, B, T, H, W]`` of the shapes; the digit's is its ink."""
        centre, half, angle = (drawn[name] for name in ("centre", "half", "angle"))
        digit = ink(images, drawn["scale"], centre[:, 0, :, ::-1], self.size)
        box = rectangle(self.size, centre[:, 1], half[:, 1], angle[:, 1])
        return np.stack([digit, box, ellipse(self.size, centre[:, 2], half[:, 2], angle[:, 2])])
