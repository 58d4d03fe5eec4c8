"""Figures of merit and their intervals."""

from __future__ import annotations

import math

__all__ = ["wilson"]


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of ``hits / n``; 95 % for the default ``z``. Assumes independent trials."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"`hits` must be within 0..n, not `{hits!r}` of `{n!r}`")
    p, z2 = hits / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)
