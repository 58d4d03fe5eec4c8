"""What a run says of itself: `log.csv` (step, name, value) and, where tensorboardX is installed, TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Log", "numbers"]

FILE_NAME = "log.csv"


class Log:
    """Opened for the steps after `step`: what an interrupted run has logged behind its checkpoint is taken out."""

    def __init__(self, directory: Path, *, step: int = 0) -> None:
        path = directory / FILE_NAME
        kept = [row for row in _rows(path) if int(row[0]) <= step] if step else []
        self._file = path.open("w", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._csv.writerow(("step", "name", "value"))
        self._csv.writerows(kept)
        self._board = _board(directory / "tensorboard", step)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log named values after a step."""
        for name, value in values.items():
            self._csv.writerow((step, name, repr(value)))
            if self._board is not None:
                self._board.add_scalar(name.replace(".", "/"), value, step)
        self._file.flush()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The plain numbers of a report of `Task.evaluate`: `prefix.digit.accuracy` and so on."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}.{name}")
        elif isinstance(value, float):
            found[f"{prefix}.{name}"] = value
    return found


def _rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if len(row) == 3 and row[0].isdigit()]


def _board(directory: Path, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        return None
    return SummaryWriter(str(directory), purge_step=step + 1 if step else None)
