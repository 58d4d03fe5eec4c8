"""Anti-aliased shapes and cluttered backgrounds for generated clips; positions are continuous, in pixels, ``(x, y)``.

Pixel ``(i, j)`` of a frame has its middle at ``x = j``, ``y = i``. The coverage of a pixel is taken from its distance
``d`` to the shape's border: ``clip(0.5 - d, 0, 1)``, negative ``d`` inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["backdrop", "capsule", "ellipse", "finish", "paint", "rectangle", "scenery"]

Floats = NDArray[np.floating[Any]]


def _pixels(size: int) -> tuple[Floats, Floats]:
    axis = np.arange(size, dtype=np.float32)
    return axis[None, :], axis[:, None]


def capsule(size: int, a: Floats, b: Floats, radius: Floats) -> Floats:
    """Coverage ``float32[..., size, size]`` of thick lines from ``a[..., 2]`` to ``b[..., 2]``, ``radius[...]``."""
    x, y = _pixels(size)
    ax, ay = (a[..., i, None, None] for i in (0, 1))
    dx, dy = ((b - a)[..., i, None, None] for i in (0, 1))
    length = np.maximum(dx * dx + dy * dy, 1e-6)
    along = np.clip(((x - ax) * dx + (y - ay) * dy) / length, 0, 1)
    distance = np.sqrt((x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2)
    return np.clip(radius[..., None, None] + 0.5 - distance, 0, 1)


def _turned(size: int, centre: Floats, angle: Floats) -> tuple[Floats, Floats]:
    """Pixels in the axes of a shape at ``centre[..., 2]``, turned by ``angle[...]``."""
    x, y = _pixels(size)
    x, y = x - centre[..., 0, None, None], y - centre[..., 1, None, None]
    cos, sin = np.cos(angle)[..., None, None], np.sin(angle)[..., None, None]
    return cos * x + sin * y, cos * y - sin * x


def rectangle(size: int, centre: Floats, half: Floats, angle: Floats) -> Floats:
    """Coverage ``float32[..., size, size]``; ``half[..., 2]`` are half width and half height."""
    u, v = _turned(size, centre, angle)
    distance = np.maximum(np.abs(u) - half[..., 0, None, None], np.abs(v) - half[..., 1, None, None])
    return np.clip(0.5 - distance, 0, 1)


def ellipse(size: int, centre: Floats, half: Floats, angle: Floats) -> Floats:
    """Coverage ``float32[..., size, size]``; ``half[..., 2]`` are the semi-axes, the distance is to first order."""
    u, v = _turned(size, centre, angle)
    u, v = u / half[..., 0, None, None], v / half[..., 1, None, None]
    norm = np.sqrt(u * u + v * v)
    slope = np.sqrt((u / half[..., 0, None, None]) ** 2 + (v / half[..., 1, None, None]) ** 2)
    distance = (norm - 1) * norm / np.maximum(slope, 1e-6)
    return np.clip(0.5 - distance, 0, 1)


def paint(frames: Floats, coverage: Floats, colour: Floats) -> None:
    """Blend ``colour[..., 3]`` into ``frames[..., 3, H, W]``, in place."""
    frames += coverage[..., None, :, :] * (colour[..., None, None] - frames)


def scenery(rng: np.random.Generator, size: int, clutter: int, *, level: tuple[float, float]) -> dict[str, Any]:
    """Random numbers of a background: grey level within `level`, two slopes, `clutter` boxes."""
    base = rng.uniform(*level) + rng.uniform(-20, 20, 3)
    return {
        "base": base.astype(np.float32),
        "slope": rng.uniform(-15, 15, (2, 3)).astype(np.float32),
        "boxes": rng.integers(0, size - 3, (clutter, 2)),
        "box_sizes": rng.integers(2, max(3, size // 3), (clutter, 2)),
        "box_levels": rng.uniform(-40, 40, (clutter, 3)).astype(np.float32)}


def backdrop(drawn: dict[str, Any], size: int) -> Floats:
    """Background ``float32[3, size, size]`` from :func:`scenery`: a colour, a gradient, clutter."""
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    base, down, along = (part[:, None, None] for part in (drawn["base"], *drawn["slope"]))
    back = base + down * ramp[:, None] + along * ramp
    for (y, x), (height, width), level in zip(drawn["boxes"], drawn["box_sizes"], drawn["box_levels"], strict=True):
        back[:, y:y + height, x:x + width] += level[:, None, None]
    return back


def finish(frames: Floats, noise: Floats) -> NDArray[np.uint8]:
    """``frames[..., 3, H, W] + noise``, rounded and clipped to codes: ``uint8[..., H, W, 3]``."""
    codes = np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(codes, -3, -1))
