"""What the driver needs of a board: registers, memory that both sides reach, an interrupt, a clock.

Implemented over PYNQ (`driver.PynqBoard`) and by the simulation (`spikeloom.sim.board.SimulatedBoard`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ADDRESS_LIMIT", "PAGE", "Board", "Buffer"]

PAGE = 4096
"""Base addresses of regions are multiples of this."""

ADDRESS_LIMIT = 1 << 40
"""The machine's addresses are below this."""


class Buffer(Protocol):
    """Physically contiguous memory, cached by the CPU and not coherent with the machine.

    Attributes:
        address: Physical address, as the machine sees it.
        array: `uint8[size]`, as the CPU sees it.
    """

    @property
    def address(self) -> int: ...

    @property
    def array(self) -> NDArray[np.uint8]: ...

    def flush(self) -> None:
        """Write the CPU's cache back to memory: after writing `array`, before the machine reads."""
        ...

    def invalidate(self) -> None:
        """Drop the CPU's cache: after the machine wrote, before `array` is read."""
        ...

    def free(self) -> None:
        """Give the memory back. `array` must not be used any more."""
        ...


class Board(Protocol):
    """A board with one machine."""

    @property
    def has_interrupt(self) -> bool:
        """Whether `wait_interrupt` can ever return True."""
        ...

    def read_register(self, offset: int) -> int: ...

    def write_register(self, offset: int, value: int) -> None: ...

    def allocate(self, size: int) -> Buffer:
        """At least `size` zero bytes at a multiple of `PAGE`. MemoryError if there are none."""
        ...

    def wait_interrupt(self, seconds: float) -> bool:
        """Wait for the machine's interrupt, at most so long. True if it came; may be True without a cause."""
        ...

    def clock(self) -> float:
        """Seconds since some moment, of the time that the machine runs in."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...
