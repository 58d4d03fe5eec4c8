"""Sharing of the memory among the transfers under way: every one gets as much as any other that wants more.

    sum over all <= total_bandwidth          sum over the transfers of a port and direction <= bandwidth
"""

from __future__ import annotations

from collections.abc import Sequence

from .times import Ddr, Times
from .work import Move

__all__ = ["fair", "read_cap", "write_cap"]


def fair(demands: Sequence[float], total: float) -> list[float]:
    """Max-min fair shares of `total`: nobody gets more than it demands; what one leaves is for those who want more."""
    shares = [0.0] * len(demands)
    left, count = total, len(demands)
    for index in sorted(range(len(demands)), key=demands.__getitem__):
        shares[index] = min(demands[index], left / count)
        left -= shares[index]
        count -= 1
    return shares


def read_cap(move: Move, ddr: Ddr, times: Times) -> float:
    """Beats per cycle of a load that has the memory for itself: credits and bursts on the way cover the latency."""
    trip = ddr.delay + times.fetch_start
    cap = min(ddr.bandwidth, ddr.outstanding * _mean(move) / trip, times.credits / trip)
    return min(cap, move.beats / move.least) if move.least else cap


def write_cap(move: Move, ddr: Ddr, times: Times) -> float:
    """Likewise of a store; a burst takes one cycle more than it has beats."""
    mean = _mean(move)
    bursts = min(times.write_bursts, ddr.outstanding)
    return min(ddr.bandwidth, mean / (mean + 1), bursts * mean / (ddr.delay + mean + 4))


def _mean(move: Move) -> float:
    return max(1, move.beats) / max(1, move.bursts)
