"""A board whose machine computes nothing: a run takes a set time of the wall clock. What is measured is the host.

    driver --- registers, buffers ---> TimedBoard: busy for `seconds`, then the first word of the input is the output's

Memory is copied where a board would flush and invalidate its cache. A run copies the first four bytes of the input
region to the output region, which tells clips apart. Needs NumPy only.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import MACHINE_VERSION
from spikeloom.host.board import PAGE
from spikeloom.host.status import BUSY, DONE
from spikeloom.registers import IDENTIFIER, register

__all__ = ["TimedBoard", "TimedBuffer"]

_START, _RESET = 1, 2
_WORD = 4
_SLICE = 0.001
"""Seconds that `idle` sleeps at most."""


class TimedBuffer:
    """A buffer with a CPU's copy and a copy in DDR; see `spikeloom.host.board.Buffer`."""

    def __init__(self, board: TimedBoard, address: int, size: int) -> None:
        self.address, self._board = address, board
        self.array: NDArray[np.uint8] = np.zeros(size, np.uint8)
        self.memory: NDArray[np.uint8] = np.zeros(size, np.uint8)

    def flush(self) -> None:
        self.memory[:] = self.array

    def invalidate(self) -> None:
        self.array[:] = self.memory

    def free(self) -> None:
        self._board.release(self)


class TimedBoard:
    """See the module.

    Args:
        config_hash: Of the machine that it stands for.
        seconds: Duration of a run.

    Attributes:
        interrupts: Whether interrupts reach the CPU.
        runs: Ended runs.
        late: Seconds from the end of each of those runs to the moment that the driver saw it.
        buffers: Allocated and not given back.
    """

    has_interrupt = True

    def __init__(self, config_hash: int, seconds: float) -> None:
        if seconds <= 0:
            raise ValueError(f"`seconds` must be positive, not `{seconds!r}`")
        self.seconds, self.interrupts = seconds, True
        self.runs, self.late = 0, 0.0
        self.buffers: list[TimedBuffer] = []
        self._fixed = {"id": IDENTIFIER, "version": MACHINE_VERSION, "config_hash": config_hash}
        self.reset()

    def reset(self) -> None:
        """All registers as after loading the bitstream."""
        self._registers = {register(name).offset: value for name, value in self._fixed.items()}
        self._end: float | None = None
        self._done = self._raised = False

    @property
    def interrupt(self) -> bool:
        """Level of the machine's interrupt."""
        self._settle()
        return self.interrupts and self._raised and bool(self._read("interrupt_enable"))

    def read_register(self, offset: int) -> int:
        self._settle()
        if offset == register("status").offset:
            return BUSY if self._end is not None else DONE * self._done
        if offset == register("interrupt_status").offset:
            return int(self._raised)
        return self._registers.get(offset, 0)

    def write_register(self, offset: int, value: int) -> None:
        if offset == register("control").offset:
            if value & _RESET:
                self._end, self._done, self._raised = None, False, False
            elif value & _START and self._end is None:
                self._end, self._done = time.perf_counter() + self.seconds, False
        elif offset == register("interrupt_status").offset:
            self._raised = self._raised and not value & 1
        else:
            self._registers[offset] = value

    def allocate(self, size: int) -> TimedBuffer:
        """The pages behind all others; zeros."""
        address = max((buffer.address + -(-len(buffer.array) // PAGE) * PAGE for buffer in self.buffers),
                      default=16 * PAGE)
        buffer = TimedBuffer(self, address, size)
        self.buffers.append(buffer)
        return buffer

    def release(self, buffer: TimedBuffer) -> None:
        """Take a buffer's memory back."""
        self.buffers.remove(buffer)

    def wait_interrupt(self, seconds: float) -> bool:
        """Sleep until the run ends, at most so long."""
        until = time.perf_counter() + seconds
        while not self.interrupt:
            now = time.perf_counter()
            if now >= until:
                return False
            time.sleep(min(until, self._end or until) - now if (self._end or until) > now else 0)
        return True

    def clock(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    # For `pynq_device`

    def run(self, cycles: int) -> None:
        """Nothing: a register access takes the time that it takes."""
        del cycles

    def idle(self, cycles: int) -> None:
        """Sleep until the run ends, at most a millisecond."""
        del cycles
        left = _SLICE if self._end is None else self._end - time.perf_counter()
        if left > 0:
            time.sleep(min(left, _SLICE))

    def _settle(self) -> None:
        if self._end is None or (late := time.perf_counter() - self._end) < 0:
            return
        self._end, self._done, self._raised = None, True, True
        self.runs += 1
        self.late += late
        source, target = self._memory("input"), self._memory("output")
        target[:_WORD] = source[:_WORD]

    def _memory(self, region: str) -> NDArray[np.uint8]:
        address = self._read(f"{region}_base_high") << 32 | self._read(f"{region}_base_low")
        return next(buffer.memory for buffer in self.buffers if buffer.address == address)

    def _read(self, name: str) -> int:
        return self._registers.get(register(name).offset, 0)
