"""Pictures of what was said of every frame: skeletons and masks over the frames of clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASS_COLOURS", "TaskClip", "draw_masks", "draw_poses", "overlay"]

CLASS_COLOURS = np.array([
    [0, 0, 0], [230, 80, 60], [70, 190, 90], [80, 120, 240], [230, 190, 60], [170, 90, 200], [80, 200, 210],
    [240, 140, 180]], dtype=np.float32)
"""Of classes 0 (not drawn), 1, 2, ...; they repeat."""

FOUND, TRUE = "#ff8c1a", "#7fe0ff"


@dataclass(frozen=True, kw_only=True)
class TaskClip:
    """A clip and what is known of it.

    Attributes:
        frames: uint8[T, H, W, 3].
        found: What was said: joints float[T, J, 2] over the frame's size, or classes int[T, H, W].
        true: What is right, if that is known.
        caption, good: Line above the clip, and whether it is good news.
    """

    frames: NDArray[np.uint8]
    found: NDArray[Any]
    true: NDArray[Any] | None
    caption: str
    good: bool


def draw_poses(path: Path, clips: Sequence[TaskClip], *, bones: Sequence[tuple[int, int]], title: str) -> None:
    """A row of frames per clip, with the joints that were found and, thinner, the true ones, to `path` (PNG).

    Args:
        path: File to write.
        clips: At least one; `found` and `true` are joints.
        bones: Pairs of joints to connect.
        title: Above all.
    """
    def show(axis: Any, clip: TaskClip, t: int) -> None:
        axis.imshow(clip.frames[t], interpolation="nearest")
        if clip.true is not None:
            _skeleton(axis, clip.true[t], clip.frames.shape[1:3], bones, TRUE, 0.8)
        _skeleton(axis, clip.found[t], clip.frames.shape[1:3], bones, FOUND, 1.6)

    _grid(path, clips, [("orange: found, light blue: true", show)], title)


def draw_masks(path: Path, clips: Sequence[TaskClip], *, title: str) -> None:
    """Rows of frames per clip: as they are, with the classes found, with the true ones; to `path` (PNG)."""
    def plain(axis: Any, clip: TaskClip, t: int) -> None:
        axis.imshow(clip.frames[t], interpolation="nearest")

    def found(axis: Any, clip: TaskClip, t: int) -> None:
        axis.imshow(overlay(clip.frames[t], clip.found[t]), interpolation="nearest")

    def true(axis: Any, clip: TaskClip, t: int) -> None:
        assert clip.true is not None
        axis.imshow(overlay(clip.frames[t], clip.true[t]), interpolation="nearest")

    rows = [("", plain), ("found", found)] + ([("true", true)] if clips[0].true is not None else [])
    _grid(path, clips, rows, title)


def overlay(frame: NDArray[np.uint8], classes: NDArray[Any]) -> NDArray[np.uint8]:
    """`frame` uint8[H, W, 3] in grey under the colours of `classes` int[H, W]; class 0 stays, 255 is ignored."""
    grey = frame.mean(-1, keepdims=True).repeat(3, -1)
    count = len(CLASS_COLOURS) - 1
    colours = CLASS_COLOURS[np.where(classes == 255, 0, 1 + (classes.astype(int) - 1) % count)]
    inside = ((classes > 0) & (classes != 255))[..., None]
    return np.where(inside, 0.35 * grey + 0.65 * colours, 0.8 * grey).astype(np.uint8)


def _skeleton(
    axis: Any, joints: NDArray[Any], size: tuple[int, ...], bones: Sequence[tuple[int, int]], colour: str, width: float
) -> None:
    x, y = joints[:, 0] * size[1] - 0.5, joints[:, 1] * size[0] - 0.5
    for a, b in bones:
        axis.plot(x[[a, b]], y[[a, b]], color=colour, linewidth=width)
    axis.plot(x, y, ".", color=colour, markersize=2 * width)


def _grid(
    path: Path, clips: Sequence[TaskClip], rows: Sequence[tuple[str, Callable[[Any, TaskClip, int], None]]], title: str
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frames, lines = len(clips[0].frames), len(clips) * len(rows)
    figure: Any = Figure(figsize=(11, 0.6 + 1.45 * lines), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(lines, frames, squeeze=False)
    for number, clip in enumerate(clips):
        for line, (label, show) in enumerate(rows):
            part = axes[number * len(rows) + line]
            for t, axis in enumerate(part):
                axis.set_xticks([])
                axis.set_yticks([])
                show(axis, clip, t)
                axis.set_xlim(-0.5, clip.frames.shape[2] - 0.5)
                axis.set_ylim(clip.frames.shape[1] - 0.5, -0.5)
            part[0].set_ylabel(label, fontsize=7)
            if line == 0:
                part[0].set_title(clip.caption, loc="left", fontsize=9, color="tab:green" if clip.good else "tab:red")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
