"""Segmentation of picture sequences, laid out as Cityscapes and its sequences are::

    ROOT/leftImg8bit_sequence/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png       pictures, six digits
    ROOT/gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelTrainIds.png             masks of some of them

``leftImg8bit`` (single pictures) is taken where there is no ``leftImg8bit_sequence``, which is enough for clips of one
frame. A sample is a mask and the pictures up to its own: T consecutive frames of which the last one has the mask.
Masks of earlier frames are used where they exist; pixels of frames without one are ignored. Masks hold train ids, 255
is ignored; `createTrainIdLabelImgs.py` of the Cityscapes scripts makes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from . import Predict
from .files import DataError, check_split, choose, read_mask, read_picture
from .masks import IGNORED, classes_of, segment_loss, segment_report
from .metrics import confusion

if TYPE_CHECKING:
    from ..models import SpikeVideoFormer, SpikeVideoFormerConfig

__all__ = ["TRAIN_IDS", "Cityscapes", "annotated"]

TRAIN_IDS = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")

_MASK = "_gtFine_labelTrainIds.png"


@dataclass(frozen=True, kw_only=True)
class Cityscapes:
    """Target ``classes uint8[B, T, H, W]``, 255 where it is not known; outputs ``float[T, B, classes, h, w]``.

    Attributes
    ----------
    root : Path
        See the module docstring.
    frames, height, width : int
        Of a clip.
    classes : int
        Train ids are below.
    """

    root: Path
    frames: int
    height: int
    width: int
    classes: int
    name: str = "cityscapes"

    @classmethod
    def of(cls, config: SpikeVideoFormerConfig, root: Path) -> Cityscapes:
        """The task at the network's size; DataError if there are no files, ValueError if it has another head."""
        if config.head != "segment":
            raise ValueError(f"`config` must have head `segment`, not `{config.head!r}`")
        annotated(root, "train")
        return cls(root=root, frames=config.frames, height=config.height, width=config.width, classes=config.classes)

    def batch(self, indices: range | list[int], split: str, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See :class:`Task` and :func:`files.choose`. DataError or VideoError name a file that is missing or broken."""
        chosen = choose(annotated(self.root, split), indices, split, seed)
        pairs = [[self._frame(mask, back) for back in reversed(range(self.frames))] for mask in chosen]
        clips = np.stack([[picture for picture, _ in clip] for clip in pairs])
        return clips, {"classes": np.stack([[mask for _, mask in clip] for clip in pairs])}

    def _frame(self, mask: Path, back: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture and mask of the frame `back` frames before that of a mask."""
        stem, _, number = mask.name.removesuffix(_MASK).rpartition("_")
        stem = f"{stem}_{int(number) - back:06d}"
        place = Path(mask.parts[-3], mask.parts[-2])
        folder = self.root / "leftImg8bit_sequence"
        folder = folder if folder.is_dir() else self.root / "leftImg8bit"
        picture = read_picture(folder / place / f"{stem}_leftImg8bit.png", self.height, self.width)
        known = mask.with_name(f"{stem}{_MASK}")
        if not known.is_file():
            return picture, np.full((self.height, self.width), IGNORED, np.uint8)
        return picture, read_mask(known, self.height, self.width, classes=self.classes, ignored=IGNORED)

    def loss(self, model: SpikeVideoFormer, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """See :func:`masks.segment_loss`."""
        return segment_loss(outputs, targets["classes"])

    def evaluate(
        self, predict: Predict, *, n: int = 1 << 30, split: str = "val", seed: int = 0, batch: int = 4
    ) -> dict[str, Any]:
        """``{"split", "seed", "n", "mean_iou", "iou", "pixels"}``, see :func:`masks.segment_report`; at most all."""
        n = min(n, len(annotated(self.root, split)))
        parts = []
        for start in range(0, n, batch):
            clips, targets = self.batch(range(start, min(n, start + batch)), split, seed)
            true = targets["classes"]
            parts.append(confusion(classes_of(predict(clips), true.shape[-2:]), true, self.classes))
        names = TRAIN_IDS if self.classes == len(TRAIN_IDS) else tuple(map(str, range(self.classes)))
        return {"split": split, "seed": seed, "n": n} | segment_report(np.concatenate(parts), names)


@lru_cache
def annotated(root: Path, split: str) -> tuple[Path, ...]:
    """Masks of a split, sorted. DataError if there are none, or one has a name that says no frame."""
    check_split(split)
    found = tuple(sorted((root / "gtFine" / split).glob(f"*/*{_MASK}")))
    if not found:
        raise DataError(f"{root}: no masks gtFine/{split}/<city>/<city>_<sequence>_<frame>{_MASK}")
    for path in found:
        if not re.fullmatch(r".+_\d{6}", path.name.removesuffix(_MASK)):
            raise DataError(f"{path}: the name must be <city>_<sequence>_<frame>{_MASK}, frames with six digits")
    return found
