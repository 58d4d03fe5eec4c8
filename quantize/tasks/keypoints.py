"""Poses in video files with COCO-style annotations: one JSON file per split, ``ROOT/<split>.json``::

    {"categories": [{"id": 1, "keypoints": ["nose", ...]}],
     "videos":     [{"id": 1, "file_name": "clips/walk.mp4"}],                      relative to ROOT
     "images":     [{"id": 10, "video_id": 1, "frame_id": 0}, ...],                 frames that are annotated, from 0
     "annotations":[{"image_id": 10, "keypoints": [x, y, v, x, y, v, ...]}, ...]}   pixels of the video; v = 0: not seen

As COCO has it, plus ``videos`` and ``frame_id`` to say which frame of which file an image is. One person per frame. A
sample is T consecutive frames; a video is cut into as many as there are from its first annotated frame to its last one.
Joints of frames that are not annotated are not seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spikeloom.video import decode, read_clip

from . import Predict
from .files import DataError, check_split, choose, to_frame
from .walkers import as_joints, pose_loss, pose_report

if TYPE_CHECKING:
    from ..models import SpikeVideoFormer, SpikeVideoFormerConfig

__all__ = ["Annotations", "Keypoints", "read_split"]


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """A split: names of the joints, and by video file the annotated frames, ``float32[J, 3]`` (x, y, v) each."""

    names: tuple[str, ...]
    videos: dict[Path, dict[int, NDArray[np.float32]]]

    def samples(self, frames: int) -> list[tuple[Path, int]]:
        """(video, first frame) of clips of so many frames; a video with fewer annotated frames gives one clip."""
        return [(path, first) for path, known in self.videos.items()
                for first in range(min(known), max(min(known), max(known) - frames + 1) + 1, frames)]


@dataclass(frozen=True, kw_only=True)
class Keypoints:
    """Targets ``joints float32[B, T, J, 2]`` over the frame's size and ``seen bool[B, T, J]``; outputs ``[T, B, 2 J]``.

    Attributes
    ----------
    root : Path
        See the module docstring.
    frames, height, width : int
        Of a clip.
    """

    root: Path
    frames: int
    height: int
    width: int
    name: str = "keypoints"

    @classmethod
    def of(cls, config: SpikeVideoFormerConfig, root: Path) -> Keypoints:
        """The task at the network's size; DataError if files or joints do not fit."""
        joints = len(read_split(root, "train").names)
        if config.head != "pose" or config.classes != 2 * joints:
            raise DataError(
                f"{root}: {joints} joints; the network has head `{config.head}` with {config.classes} outputs")
        return cls(root=root, frames=config.frames, height=config.height, width=config.width)

    def batch(self, indices: range | list[int], split: str, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See :class:`Task` and :func:`files.choose`. VideoError names a file that cannot be read."""
        found = read_split(self.root, split)
        clips, joints, seen = [], [], []
        for path, first in choose(found.samples(self.frames), indices, split, seed):
            clips.append(read_clip(
                path, frames=self.frames, height=self.height, width=self.width, start=first, stride=1))
            nothing = np.zeros((len(found.names), 3), np.float32)
            points = np.stack([found.videos[path].get(first + t, nothing) for t in range(self.frames)])
            joints.append(to_frame(points, _size(path), self.height, self.width))
            seen.append(points[..., 2] > 0)
        return np.stack(clips), {"joints": np.stack(joints), "seen": np.stack(seen)}

    def loss(self, model: SpikeVideoFormer, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """See :func:`walkers.pose_loss`."""
        return pose_loss(outputs, targets["joints"], targets["seen"])

    def evaluate(
        self, predict: Predict, *, n: int = 1 << 30, split: str = "test", seed: int = 0, batch: int = 16
    ) -> dict[str, Any]:
        """``{"split", "seed", "n", "mpjpe", "pa_mpjpe"}``, see :func:`walkers.pose_report`; at most all clips."""
        n = min(n, len(read_split(self.root, split).samples(self.frames)))
        parts = []
        for start in range(0, n, batch):
            clips, targets = self.batch(range(start, min(n, start + batch)), split, seed)
            parts.append((as_joints(predict(clips)), targets["joints"], targets["seen"]))
        found, true, seen = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return {"split": split, "seed": seed, "n": n} | pose_report(found, true, seen)


@lru_cache(maxsize=1024)
def _size(path: Path) -> tuple[int, int]:
    """(height, width) of a video's upright frames."""
    frame = next(decode(path, whole=True))
    tall, wide = frame.height, frame.width
    return (wide, tall) if frame.rotation // 90 % 2 else (tall, wide)


@lru_cache
def read_split(root: Path, split: str) -> Annotations:
    """Read ``ROOT/<split>.json``.

    Raises:
        DataError: The file is missing or malformed; the message names it and the entry.
    """
    check_split(split)
    path = root / f"{split}.json"
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        data: Any = json.loads(path.read_text())
        names = tuple(data["categories"][0]["keypoints"])
        files = {video["id"]: root / video["file_name"] for video in data["videos"]}
        images = {image["id"]: (image["video_id"], int(image["frame_id"])) for image in data["images"]}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: not COCO-style keypoints of videos: {error!r}") from error
    videos: dict[Path, dict[int, NDArray[np.float32]]] = {}
    for number, entry in enumerate(data.get("annotations", ())):
        video, frame = images.get(entry.get("image_id"), (None, -1))
        if video not in files or frame < 0:
            raise DataError(f"{path}: annotation {number}: no image {entry.get('image_id')!r} of a video")
        points = entry.get("keypoints", ())
        if len(points) != 3 * len(names):
            raise DataError(f"{path}: annotation {number}: {len(points)} numbers for {len(names)} joints of 3")
        known = videos.setdefault(files[video], {})
        if frame in known:
            raise DataError(f"{path}: annotation {number}: a second person in frame {frame} of {files[video].name}")
        known[frame] = np.array(points, dtype=np.float32).reshape(-1, 3)
    if not videos:
        raise DataError(f"{path}: no annotations")
    return Annotations(names=names, videos=videos)
