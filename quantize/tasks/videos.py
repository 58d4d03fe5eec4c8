"""Classification of video files, laid out as Kinetics-400 is distributed or in one folder per class::

    ROOT/train.csv (or ROOT/annotations/train.csv)      ROOT/train/<class>/<any name>.<any container>
    ROOT/train/<file>.mp4                                ROOT/val/<class>/...
    ROOT/val.csv, ...

A CSV file has a header with ``label`` and either ``path`` (relative to ROOT) or ``youtube_id,time_start,time_end`` as
Kinetics has it: the file is then ``ROOT/<split>/[<label>/]<youtube_id>_<time_start>_<time_end>.mp4``, times in seconds
of six digits. Classes are the labels of the training split in alphabetical order.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from spikeloom.video import read_clip

from . import Predict
from .files import DataError, check_split, choose
from .metrics import topk_hits, wilson

if TYPE_CHECKING:
    from ..models import SpikeVideoFormer, SpikeVideoFormerConfig
    from ..relatives import Relative, RelativeConfig

__all__ = ["Videos", "listing"]

TOP = (1, 5)

_KINETICS = ("youtube_id", "time_start", "time_end")


@dataclass(frozen=True, kw_only=True)
class Videos:
    """Target ``label int64[B]``, outputs ``float[B, classes]``. A clip is spread evenly over its file.

    Attributes
    ----------
    root : Path
        See the module docstring.
    frames, height, width : int
        Of a clip.
    names : tuple of str
        Of the classes.
    smoothing : float
        Label smoothing.
    mirror : bool
        Every other training clip is mirrored, at random.
    """

    root: Path
    frames: int
    height: int
    width: int
    names: tuple[str, ...]
    smoothing: float = 0.1
    mirror: bool = True
    name: str = "videos"

    @classmethod
    def of(cls, config: SpikeVideoFormerConfig | RelativeConfig, root: Path) -> Videos:
        """The task at the network's size; DataError if the files or the number of classes do not fit."""
        names = tuple(sorted({label for _, label in listing(root, "train")}))
        if config.head != "class" or config.classes != len(names):
            raise DataError(
                f"{root}: {len(names)} classes; the network has head `{config.head}` with {config.classes} outputs")
        return cls(root=root, frames=config.frames, height=config.height, width=config.width, names=names)

    def batch(self, indices: range | list[int], split: str, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See :class:`Task` and :func:`files.choose`. VideoError names a file that cannot be read."""
        chosen = choose(listing(self.root, split), indices, split, seed)
        clips = np.stack([
            read_clip(path, frames=self.frames, height=self.height, width=self.width) for path, _ in chosen])
        if self.mirror and split == "train":
            for row, index in enumerate(indices):
                if np.random.default_rng([seed, index]).random() < 0.5:
                    clips[row] = clips[row, :, :, ::-1]
        return clips, {"label": np.array([self._label(*sample) for sample in chosen], dtype=np.int64)}

    def _label(self, path: Path, label: str) -> int:
        if label not in self.names:
            raise DataError(f"{path}: its class `{label}` does not occur in the training split")
        return self.names.index(label)

    def loss(self, model: SpikeVideoFormer | Relative, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Cross entropy of ``float[B, classes]`` logits."""
        return F.cross_entropy(outputs.float(), targets["label"], label_smoothing=self.smoothing)

    def evaluate(
        self, predict: Predict, *, n: int = 1 << 30, split: str = "test", seed: int = 0, batch: int = 16
    ) -> dict[str, Any]:
        """``{"split", "seed", "n", "top1", "top5"}``, each ``{"hits", "accuracy", "interval"}``; at most all files."""
        n = min(n, len(listing(self.root, split)))
        hits = dict.fromkeys(TOP, 0)
        for start in range(0, n, batch):
            clips, targets = self.batch(range(start, min(n, start + batch)), split, seed)
            logits = predict(clips)
            for k in TOP:
                hits[k] += topk_hits(logits, targets["label"], k)
        return {"split": split, "seed": seed, "n": n} | {
            f"top{k}": {"hits": count, "accuracy": count / n, "interval": list(wilson(count, n))}
            for k, count in hits.items()}


@lru_cache
def listing(root: Path, split: str) -> tuple[tuple[Path, str], ...]:
    """Files and labels of a split, sorted by class and name or in the order of the CSV file.

    Raises:
        DataError: There are none, or the CSV file is malformed; the message names it and the line.
    """
    check_split(split)
    for table in (root / f"{split}.csv", root / "annotations" / f"{split}.csv"):
        if table.is_file():
            found = tuple(_rows(root, split, table))
            if not found:
                raise DataError(f"{table}: no videos")
            return found
    found = tuple((path, path.parent.name) for path in sorted((root / split).glob("*/*")) if path.is_file())
    if not found:
        raise DataError(f"{root}: neither {split}.csv nor files {split}/<class>/<video>")
    return found


def _rows(root: Path, split: str, table: Path) -> Iterator[tuple[Path, str]]:
    with table.open(newline="") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        kinetics = "path" not in columns
        missing = [name for name in ("label", *(_KINETICS if kinetics else ())) if name not in columns]
        if missing:
            raise DataError(f"{table}: line 1: no column `{missing[0]}`, only {', '.join(columns)}")
        for row in rows:
            if None in row.values() or not row["label"]:
                raise DataError(f"{table}: line {rows.line_num}: too few values")
            yield (_kinetics_file(root / split, row, f"{table}: line {rows.line_num}") if kinetics
                   else root / row["path"]), row["label"]


def _kinetics_file(folder: Path, row: dict[str, str], where: str) -> Path:
    try:
        start, end = (int(row[name]) for name in _KINETICS[1:])
    except ValueError as error:
        raise DataError(f"{where}: times must be whole seconds: {error}") from error
    name = f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4"
    deeper = folder / row["label"] / name
    return deeper if deeper.is_file() else folder / name
