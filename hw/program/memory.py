"""Memories of the interpreter: arrays that know which of their rows were ever written."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class InterpreterError(RuntimeError):
    """The program did something that the machine must never do: message names instruction, memory and address."""


class Memory:
    """`depth` rows of `shape` and `dtype`. Reading a row that was never written or does not exist is an error."""

    def __init__(self, name: str, depth: int, shape: tuple[int, ...] = (), dtype: Any = np.uint8) -> None:
        self.name, self.depth = name, depth
        self.data = np.zeros((depth, *shape), dtype=dtype)
        self.written = np.zeros(depth, dtype=np.bool_)

    def fill(self, content: NDArray[Any]) -> None:
        """Set rows from 0 on, as the host does."""
        self.write(np.arange(len(content)), content)

    def read(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Rows of any index shape. Raises InterpreterError."""
        self._check(rows)
        if not self.written[rows].all():
            bad = rows.reshape(-1)[~self.written[rows].reshape(-1)][0]
            raise InterpreterError(f"{self.name}: row {bad} is read but was never written")
        return self.data[rows]

    def write(self, rows: NDArray[np.intp], content: NDArray[Any]) -> None:
        """Raises InterpreterError for rows that do not exist."""
        self._check(rows)
        self.data[rows] = content
        self.written[rows] = True

    def _check(self, rows: NDArray[np.intp]) -> None:
        if rows.size and (rows.min() < 0 or rows.max() >= self.depth):
            raise InterpreterError(f"{self.name}: row {rows.min()} or {rows.max()} outside 0..{self.depth - 1}")


class Fifo:
    """Beats between two engines; holds `depth`, or any number if None."""

    def __init__(self, name: str, depth: int | None) -> None:
        self.name, self._depth = name, depth
        self._beats: list[NDArray[np.uint8]] = []

    def __len__(self) -> int:
        return len(self._beats)

    def room(self, beats: int) -> bool:
        return self._depth is None or len(self._beats) + beats <= self._depth

    def push(self, beats: NDArray[np.uint8]) -> None:
        """`beats` [n, beat bytes]."""
        self._beats.extend(beats)

    def pull(self, most: int) -> list[NDArray[np.uint8]]:
        """Up to `most` beats."""
        taken, self._beats = self._beats[:most], self._beats[most:]
        return taken
