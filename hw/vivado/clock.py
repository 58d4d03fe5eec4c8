"""The clock of the programmable logic: what the I/O PLL of the processing system divides down to.

    pl_clk0 = 33.333 MHz * 45 / (divisor 0 * divisor 1), 1500 MHz nominal
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["PlClock", "pl_clock"]

REFERENCE_HZ = 33_333_000
MULTIPLIER = 45
PLL_MHZ = 1500.0
MAX_DIVISOR = 63
MIN_MHZ, MAX_MHZ = 1.0, 500.0


@dataclass(frozen=True, kw_only=True)
class PlClock:
    """Divisors of pl_clk0 and what they give."""

    divisor0: int
    divisor1: int

    @property
    def mhz(self) -> float:
        """Nominal frequency."""
        return PLL_MHZ / (self.divisor0 * self.divisor1)

    @property
    def hertz(self) -> int:
        """Frequency with the board's crystal as Vivado takes it."""
        return round(REFERENCE_HZ * MULTIPLIER / (self.divisor0 * self.divisor1))


def pl_clock(mhz: float) -> PlClock:
    """The fastest clock that is no faster than `mhz`.

    Raises:
        ValueError: Out of the range of the divisors.
    """
    if not MIN_MHZ <= mhz <= MAX_MHZ:
        raise ValueError(f"`clock_mhz` must be {MIN_MHZ:g} to {MAX_MHZ:g} on this board, not `{mhz!r}`")
    ratio = math.ceil(PLL_MHZ / mhz - 1e-9)
    candidates = [
        (d0 * d1, d1) for d1 in range(1, MAX_DIVISOR + 1) for d0 in range(1, MAX_DIVISOR + 1) if d0 * d1 >= ratio]
    product, divisor1 = min(candidates)
    return PlClock(divisor0=product // divisor1, divisor1=divisor1)
