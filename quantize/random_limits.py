"""What a random network may be: segments, sizes, costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

THEMES = ("pixels", "residual", "separable", "hamming", "dot", "planes", "head", "plain")
"""Segment that a network is sure to have, by `seed % len(THEMES)`."""

FURTHER_THEMES = ("temporal", "frames", "pyramid", "integers", "gate", "maximum", "wide", "timed")
"""Segments that only networks have that are asked for them; these have neurons without memory as well."""

FRAMES = (1, 3, 4, 8, 11, 16, 24)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a random network may be.

    Attributes:
        cycles: Estimated cycles on a machine of 512 synaptic operations per cycle (preset tiny), see `cost`.
        operators: Operators are added until there are this many (a segment is finished, so there may be more).
        channels: Most channels of a tensor.
        size: Most rows or columns.
        frames: Choices of T, at most 63.
        theme: One of THEMES or FURTHER_THEMES, in place of the one that follows from the seed.
    """

    cycles: int = 120_000
    operators: int = 6
    channels: int = 96
    size: int = 40
    frames: tuple[int, ...] = FRAMES
    theme: str = ""

    def __post_init__(self) -> None:
        if self.theme and self.theme not in THEMES + FURTHER_THEMES:
            raise ValueError(f"`theme` must be one of {', '.join(THEMES + FURTHER_THEMES)}, not `{self.theme!r}`")


PROFILES: Mapping[str, Limits] = MappingProxyType({
    "balanced": Limits(channels=24, size=12, frames=(3, 4, 8)),
    "wide": Limits(channels=96, size=5),
    "large": Limits(channels=10, size=40),
    "long": Limits(channels=16, size=9, frames=(11, 16, 24)),
})
"""What is large, in turns."""
