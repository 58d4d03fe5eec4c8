"""Means over training runs and their intervals, by Student's t: two or three runs are not enough for the normal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Estimate", "difference", "mean"]

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447)
"""Quantile 0.975 of Student's t with 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Estimate:
    """A value and half the width of its 95 % interval, infinite where the runs do not tell."""

    value: float
    half: float

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is positive or negative, else 0."""
        return 0 if abs(self.value) <= self.half else int(math.copysign(1, self.value))


def mean(values: Sequence[float]) -> Estimate:
    """Mean of independent runs, one at least."""
    return Estimate(statistics.fmean(values), _half(_squared_error(values), len(values) - 1))


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of `first` minus mean of `second`; Welch's interval, its degrees of freedom rounded down."""
    errors = [_squared_error(values) for values in (first, second)]
    total = sum(errors)
    if min(len(first), len(second)) < 2:
        freedom = 0
    elif total == 0:
        freedom = len(first) + len(second) - 2
    else:
        freedom = int(total ** 2 / sum(e ** 2 / (len(v) - 1) for e, v in zip(errors, (first, second), strict=True)))
    return Estimate(statistics.fmean(first) - statistics.fmean(second), _half(total, freedom))


def _squared_error(values: Sequence[float]) -> float:
    """Squared standard error of the mean."""
    return statistics.variance(values) / len(values) if len(values) > 1 else math.inf


def _half(squared_error: float, freedom: int) -> float:
    return math.inf if freedom < 1 else T_975[min(freedom, len(T_975)) - 1] * math.sqrt(squared_error)
