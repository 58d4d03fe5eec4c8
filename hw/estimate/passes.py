"""The compute engine: when each chunk is walked, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass, field

from spikeloom.hw.isa import Core

from .times import Times
from .work import Compute

__all__ = ["Passes"]


@dataclass
class Passes:
    """Chunks in the compute engine.

    Attributes:
        times: Fixed cycles of the machine.
        start, end: Of the last pass.
        half: Of the tables, that the last pass uses.
        used: End of the last pass that uses each half.
        held: When the last chunk came to the table loader.
        written: When the last filling wrote its first entry, `filling`: cycles it takes from then on.
        before: The last COMPUTE.
        core: Of the last pass.
    """

    times: Times
    start: float = 0.0
    end: float = 0.0
    half: int = 0
    used: list[float] = field(default_factory=lambda: [0.0, 0.0])
    held: float = 0.0
    written: float = 0.0
    filling: float = 0.0
    before: Compute | None = None
    core: Core | None = None

    def apart(self, compute: Compute) -> bool:
        """Whether all passes before must have come to their end when `compute` begins."""
        if self.before is None:
            return False
        other = compute.core is not self.before.core or compute.core is Core.HAMMING
        return other or (not compute.zero and compute.order != self.before.order)

    def walk(self, compute: Compute, chunk: int, offered: float, apart: bool) -> None:
        """One more pass, whose header is there at `offered`."""
        times = self.times
        self.held = max(offered, self.start)
        if compute.batches[chunk] or compute.swaps[chunk]:
            self.half ^= 1
        start = max(self.held + 1, self.end, self.start + times.spacing)
        if apart:
            start = max(start, self.end + times.flush + times.apart)
        if compute.batches[chunk]:
            filling = 16 * compute.batches[chunk]
            free = max(offered, self.used[self.half] - times.near)
            if compute.core is not self.core:
                free = self.held + 1  # the tables of another unit are not filled ahead
            self.written = max(free + times.table, self.written + self.filling)
            self.filling = filling
            start = max(start, self.written + filling - 1)
        self.core = compute.core
        self.start = start
        self.end = self.used[self.half] = start + compute.positions
