"""`Board` over PYNQ: registers by MMIO, buffers from the contiguous memory allocator, the interrupt through asyncio."""

from __future__ import annotations

import asyncio
import time
import warnings
from typing import Any

import numpy as np
import pynq  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray

from spikeloom.board import INTERRUPT_PIN

from .board import PAGE

__all__ = ["PynqBoard", "PynqMemory"]

LEAST_BYTES = 2 * PAGE
"""XRT puts buffers of less than a page beyond the addresses that the programmable logic reaches."""

LEAST_WAIT = 0.001
"""Seconds. With none at all asyncio does not look at the device."""


class PynqMemory:
    """A `PynqBuffer` of zero bytes; see `Buffer`."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self.address = int(buffer.device_address)
        self.array: NDArray[np.uint8] = buffer.view(np.ndarray)
        self.array[:] = 0

    def flush(self) -> None:
        self._buffer.flush()

    def invalidate(self) -> None:
        self._buffer.invalidate()

    def free(self) -> None:
        self.array = np.zeros(0, np.uint8)  # what was behind it is unmapped
        self._buffer.freebuffer()
        del self._buffer


class PynqBoard:
    """The board around an IP. Made in the thread that uses it.

    Inside a running event loop (Jupyter) a blocking call cannot wait for asyncio: there is no interrupt then.

    Args:
        ip: The accelerator, a `pynq.DefaultIP`.
    """

    def __init__(self, ip: Any) -> None:
        self._ip, self._interrupt = ip, getattr(ip, INTERRUPT_PIN, None)
        self._loop = _event_loop()

    @property
    def has_interrupt(self) -> bool:
        return self._interrupt is not None and self._loop is not None and not self._loop.is_running()

    def read_register(self, offset: int) -> int:
        return int(self._ip.read(offset))

    def write_register(self, offset: int, value: int) -> None:
        self._ip.write(offset, int(value))  # PYNQ takes nothing but int

    def allocate(self, size: int) -> PynqMemory:
        """At least `size` zero bytes. MemoryError if the allocator has none."""
        whole = -(-max(size, LEAST_BYTES) // PAGE) * PAGE
        try:
            return PynqMemory(pynq.allocate((whole,), dtype=np.uint8, target=self._ip.device))
        except RuntimeError as error:
            raise MemoryError(f"no {size} bytes of contiguous memory: {error}") from error

    def wait_interrupt(self, seconds: float) -> bool:
        """Wait for the interrupt. A wait that ran out stays registered: the next may end at once, without a cause."""
        if self._interrupt is None or self._loop is None or self._loop.is_running():
            time.sleep(min(seconds, LEAST_WAIT))
            return True
        waiting = asyncio.wait_for(self._interrupt.wait(), max(seconds, LEAST_WAIT))
        try:
            self._loop.run_until_complete(waiting)
        except asyncio.TimeoutError:
            return False
        return True

    def clock(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _event_loop() -> asyncio.AbstractEventLoop | None:
    """The loop with which PYNQ has registered the interrupt's device; None in a thread without one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: there is no loop yet; PYNQ asks likewise
        try:
            return asyncio.get_event_loop()
        except RuntimeError:
            return None
