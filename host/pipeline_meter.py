"""What a run costs and which neurons fired, seen from outside the driver.

    driver --- MeteredBoard --- board
                  |  START ........ clock
                  '  end of a run . clock, register `cycles`, spikes in the workspace -> RunRecord

The driver talks to the board through this, unchanged. Spikes are counted in the memory that the machine wrote, on any
board; tensors that never leave the chip, or whose place another tensor takes later, cannot be seen and are left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spikeloom.hw.program.layout import NETWORK_DTYPES, Region, TensorPlace
from spikeloom.hw.program.program import Program
from spikeloom.network import SPIKING
from spikeloom.registers import ENGINE_NAMES, register

from .board import Board, Buffer

__all__ = ["MeteredBoard", "RunRecord", "SpikeCounter"]

_START = 1
_CONTROL, _ACKNOWLEDGE, _CYCLES = (register(name).offset for name in ("control", "interrupt_status", "cycles"))
_BASE_LOW, _BASE_HIGH = (register(f"workspace_base_{half}").offset for half in ("low", "high"))
_BUSY = {name: register(f"{name}_busy").offset for name in ENGINE_NAMES[:-1]}
_BITS = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)
"""Bits set in a byte."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of the machine.

    Attributes:
        seconds: From start to end as the driver sees it, in the board's time.
        cycles: The machine's own count; None if it has none.
        rates: Tensor -> share of its neurons that fired, over frames, channels and pixels; None if not looked at.
        engines: Engine -> share of the cycles in which it was busy; None likewise.
    """

    seconds: float
    cycles: int | None
    rates: Mapping[str, float] | None = None
    engines: Mapping[str, float] | None = None


class SpikeCounter:
    """Counts the spikes of a clip in the workspace.

    Args:
        program: Whose tensors.

    Attributes:
        names: Tensors that can be seen, in network order.
        hidden: Number of spike tensors that cannot.
    """

    def __init__(self, program: Program) -> None:
        spikes = [p for p in program.tensors.values() if p.kind in SPIKING and p.name != program.input]
        seen = [p for p in spikes if p.region == Region.WORKSPACE and not _is_shared(p, program)]
        self.names = tuple(place.name for place in seen)
        self.hidden = len(spikes) - len(seen)
        self._places = [(place, _mask(place, program)) for place in seen]

    def rates(self, workspace: NDArray[np.uint8]) -> dict[str, float]:
        """Share of the neurons that fired, by tensor; of integer spikes their mean over levels."""
        return {place.name: _rate(place, mask, workspace) for place, mask in self._places}


def _is_shared(place: TensorPlace, program: Program) -> bool:
    end = place.offset + place.size
    return any(
        other is not place and other.region == place.region and other.offset < end
        and place.offset < other.offset + other.size for other in program.tensors.values())


def _mask(place: TensorPlace, program: Program) -> NDArray[np.uint8]:
    """Bits of a pixel that are neurons: uint8[lane groups x words x levels, beat bytes]; the others mean nothing."""
    pixel = replace(place, height=1, width=1)
    ones = np.full((place.frames, place.channels, 1, 1), place.levels, NETWORK_DTYPES[place.kind])
    return np.frombuffer(pixel.pack(ones, program.config), np.uint8).reshape(-1, program.config.beat_bytes)


def _rate(place: TensorPlace, mask: NDArray[np.uint8], workspace: NDArray[np.uint8]) -> float:
    data = workspace[place.offset:place.offset + place.size].reshape(len(mask), -1, mask.shape[1])
    fired = int(_BITS[data & mask[:, None, :]].sum(dtype=np.int64))
    return fired / (place.frames * place.channels * place.height * place.width * place.levels)


class MeteredBoard:
    """A board that takes notes; see the module. `records` holds one entry per run that ended, oldest first.

    Args:
        board: The board.
        counter: Counts spikes, if given.
        interval: Seconds, in the board's time, from one look at spikes and engines to the next: the machine stands
            still meanwhile.
    """

    def __init__(self, board: Board, counter: SpikeCounter | None = None, interval: float = 0.0) -> None:
        self.board, self.records = board, deque[RunRecord]()
        self._counter, self._interval = counter, interval
        self._buffers: list[Buffer] = []
        self._low = self._high = 0
        self._started: float | None = None
        self._next_look = -np.inf

    @property
    def has_interrupt(self) -> bool:
        return self.board.has_interrupt

    def read_register(self, offset: int) -> int:
        return self.board.read_register(offset)

    def write_register(self, offset: int, value: int) -> None:
        if offset == _ACKNOWLEDGE and self._started is not None:
            self.records.append(self._record(self.board.clock() - self._started))
            self._started = None
        elif offset == _BASE_LOW:
            self._low = value
        elif offset == _BASE_HIGH:
            self._high = value
        elif offset == _CONTROL:
            self._started = self.board.clock() if value & _START else None
        self.board.write_register(offset, value)

    def allocate(self, size: int) -> Buffer:
        buffer = self.board.allocate(size)
        self._buffers.append(buffer)
        return buffer

    def wait_interrupt(self, seconds: float) -> bool:
        return self.board.wait_interrupt(seconds)

    def clock(self) -> float:
        return self.board.clock()

    def sleep(self, seconds: float) -> None:
        self.board.sleep(seconds)

    def _record(self, seconds: float) -> RunRecord:
        cycles = self.board.read_register(_CYCLES)
        if self._counter is None or self.board.clock() < self._next_look:
            return RunRecord(seconds=seconds, cycles=cycles or None)
        engines = None
        if cycles:
            engines = {name: self.board.read_register(offset) / cycles for name, offset in _BUSY.items()}
        record = RunRecord(seconds=seconds, cycles=cycles or None, rates=self._rates(), engines=engines)
        self._next_look = self.board.clock() + self._interval
        return record

    def _rates(self) -> dict[str, float] | None:
        address = self._high << 32 | self._low
        workspace = next((buffer for buffer in self._buffers if buffer.address == address), None)
        if workspace is None or self._counter is None:
            return None
        workspace.invalidate()
        return self._counter.rates(workspace.array)
