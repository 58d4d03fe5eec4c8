"""Power of a board, from the rails that PYNQ finds.

Sensors of the ZCU104 resolve 1/8 W on most rails: single readings mean little, averages over ten seconds and more do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Average", "Power", "Rails", "open_power"]

BOARD_RAIL = "12V"
"""The rail that feeds the whole board."""


class Rails:
    """Rails by name, each with a sensor of its power.

    Args:
        rails: As `pynq.get_rails()` gives them; those without power are left out.
    """

    def __init__(self, rails: Mapping[str, Any]) -> None:
        self._sensors = {name: rail.power for name, rail in rails.items() if getattr(rail, "power", None) is not None}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._sensors)

    def read(self) -> dict[str, float]:
        """Rail -> watts, now."""
        return {name: float(sensor.value) for name, sensor in self._sensors.items()}


@dataclass(frozen=True, kw_only=True)
class Average:
    """Mean power over an interval.

    Attributes:
        seconds: Length of the interval.
        samples: Readings.
        watts: Rail -> mean.
    """

    seconds: float
    samples: int
    watts: Mapping[str, float]


class Power:
    """Reads rails at an interval in a thread of its own.

    Args:
        rails: What to read.
        interval: Seconds between two readings.
    """

    def __init__(self, rails: Rails, interval: float = 0.1) -> None:
        if interval <= 0:
            raise ValueError(f"`interval` must be positive, not `{interval!r}`")
        self.rails, self.interval = rails, interval
        self.latest: Mapping[str, float] | None = None
        """The last reading; None before the first one."""
        self._sums: dict[str, float] = {}
        self._samples, self._began = 0, time.perf_counter()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def main(self) -> str:
        """The rail that says most: that of the whole board, else the first."""
        return BOARD_RAIL if BOARD_RAIL in self.rails.names else self.rails.names[0]

    def start(self) -> None:
        """Begin to read. Harmless when begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="power", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Read no more. Harmless when stopped."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def restart(self) -> None:
        """A new interval begins."""
        with self._lock:
            self._sums, self._samples, self._began = {}, 0, time.perf_counter()

    def average(self) -> Average:
        """Of the interval until now. RuntimeError without a reading."""
        with self._lock:
            if not self._samples:
                raise RuntimeError("no reading of the power rails in the interval")
            return Average(
                seconds=time.perf_counter() - self._began, samples=self._samples,
                watts={name: total / self._samples for name, total in self._sums.items()})

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            try:
                reading = self.rails.read()
            except OSError:  # sensors on I2C are busy at times
                continue
            with self._lock:
                self.latest = reading
                self._samples += 1
                for name, watts in reading.items():
                    self._sums[name] = self._sums.get(name, 0.0) + watts


def open_power() -> Power | None:
    """The rails of this board; None where PYNQ finds none with power."""
    from pynq import get_rails  # pyright: ignore[reportMissingImports]

    rails = Rails(get_rails() or {})
    return Power(rails) if rails.names else None
