"""What tasks on files share: the order of samples; pictures, masks and points brought to the size of a clip.

A sample is one clip. Everything is scaled until it covers the clip's frame and its middle is cut out, as
`spikeloom.video.read_clip` does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spikeloom.video import cover, decode, fit

from ..digits import SPLITS

__all__ = ["DataError", "check_split", "choose", "read_mask", "read_picture", "to_frame"]

Sample = TypeVar("Sample")


class DataError(ValueError):
    """Files that are not laid out as they should be, or say what cannot be: the message names file and place."""


def check_split(split: str) -> None:
    """ValueError if there is no such split."""
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, not `{split!r}`")


def choose(samples: Sequence[Sample], indices: Sequence[int], split: str, seed: int) -> list[Sample]:
    """The samples of some indices.

    Of the training split, index ``i`` lies in epoch ``i // n``, and every epoch shows all ``n`` samples in an order of
    its own; of other splits they come as they are listed.
    """
    n = len(samples)
    if split != "train":
        if any(not 0 <= i < n for i in indices):
            raise ValueError(f"`indices` must lie in 0..{n - 1} for split {split}, not `{indices!r}`")
        return [samples[i] for i in indices]
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(n) for epoch in {i // n for i in indices}}
    return [samples[orders[i // n][i % n]] for i in indices]


def read_picture(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """A picture file as ``uint8[height, width, 3]``. VideoError names a file that cannot be read."""
    return fit(_frame(path), height, width)


def read_mask(path: Path, height: int, width: int, *, classes: int, ignored: int) -> NDArray[np.uint8]:
    """Classes ``uint8[height, width]`` from an 8-bit grey picture, by nearest neighbour.

    Raises:
        VideoError: The file cannot be read.
        DataError: It is no grey picture, or holds a value that is neither below `classes` nor `ignored`.
    """
    frame = _frame(path)
    if frame.format.name != "gray":
        raise DataError(f"{path}: a mask must be an 8-bit grey picture (labelTrainIds), not {frame.format.name}")
    values = frame.to_ndarray()
    wrong = values[(values >= classes) & (values != ignored)]
    if wrong.size:
        raise DataError(f"{path}: class {int(wrong[0])}; the network has {classes}, {ignored} is ignored")
    tall, wide, top, left = cover(values.shape, height, width)
    rows = (np.arange(top, top + height) + 0.5) * values.shape[0] / tall
    columns = (np.arange(left, left + width) + 0.5) * values.shape[1] / wide
    return np.ascontiguousarray(values[rows.astype(int)[:, None], columns.astype(int)])


def to_frame(points: NDArray[Any], size: tuple[int, int], height: int, width: int) -> NDArray[np.float32]:
    """Points ``[..., 2]``, ``(x, y)`` in pixels of a picture of (height, width) `size`, over the clip's frame."""
    tall, wide, top, left = cover(size, height, width)
    x = (points[..., 0] * wide / size[1] - left) / width
    y = (points[..., 1] * tall / size[0] - top) / height
    return np.stack([x, y], -1).astype(np.float32)


def _frame(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return next(decode(path, whole=True))
