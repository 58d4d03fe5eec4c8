"""One picture of a demo: the clips and what was said about them, spikes per layer and frame, logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.network import SPIKING, Network

__all__ = ["PictureClip", "draw", "spike_rates"]

STRIPS = 3
"""Clips whose frames are shown."""


@dataclass(frozen=True, kw_only=True)
class PictureClip:
    """What the picture shows of a clip: frames uint8[T, H, W, 3], a caption, and whether it is good news."""

    frames: NDArray[np.uint8]
    caption: str
    good: bool


def spike_rates(network: Network, tensors: Mapping[str, Any]) -> tuple[list[str], NDArray[np.float64]]:
    """Share of neurons that fire, by spike tensor in network order and frame: names[n], float64[n, T].

    Integer spikes: their mean over their levels.
    """
    names = [name for name, tensor in network.tensors.items() if tensor.kind in SPIKING and name in tensors]
    rates = [np.asarray(tensors[name]).reshape(network.frames, -1).mean(axis=1) / network.tensors[name].levels
             for name in names]
    return names, np.array(rates, dtype=np.float64).reshape(len(names), network.frames)


def draw(
    path: Path, *, clips: Sequence[PictureClip], rates: tuple[list[str], NDArray[np.float64]],
    logits: Mapping[str, tuple[Sequence[str], NDArray[Any]]], title: str,
) -> None:
    """Draw to `path` (PNG).

    Args:
        path: File to write.
        clips: At least one; the first `STRIPS` are shown.
        rates: Of the first clip, from `spike_rates`.
        logits: Of the first clip: task -> (class names, values).
        title: Above all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = clips[:STRIPS]
    names, values = rates
    strip, body = 1.35 * len(shown), max(3.0, 0.17 * len(names))
    figure: Any = Figure(figsize=(11, 0.5 + strip + body), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    top, bottom = figure.subfigures(2, 1, height_ratios=(strip, body))
    _strips(top, shown)
    left, right = bottom.subfigures(1, 2, width_ratios=(3, 2))
    _heat_map(left, names, values)
    _bars(right, logits)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _strips(figure: Any, clips: Sequence[PictureClip]) -> None:
    """A row of frames per clip, its caption above the first."""
    frames = max(len(clip.frames) for clip in clips)
    axes = figure.subplots(len(clips), frames, squeeze=False)
    for row, clip in zip(axes, clips, strict=True):
        for axis in row:
            axis.axis("off")
        for axis, frame in zip(row, clip.frames, strict=False):
            axis.imshow(frame, interpolation="nearest")
        row[0].set_title(clip.caption, loc="left", fontsize=9, color="tab:green" if clip.good else "tab:red")


def _heat_map(figure: Any, names: list[str], values: NDArray[np.float64]) -> None:
    axis = figure.subplots()
    image = axis.imshow(100 * values, aspect="auto", interpolation="nearest", cmap="magma", vmin=0)
    axis.set_yticks(range(len(names)), names, fontsize=6)
    axis.set_xticks(range(values.shape[1]))
    axis.set_xlabel("frame", fontsize=8)
    axis.set_title("neurons that fire, % (first clip)", fontsize=9)
    figure.colorbar(image, ax=axis)


def _bars(figure: Any, logits: Mapping[str, tuple[Sequence[str], NDArray[Any]]]) -> None:
    """Logits per task, the largest one marked."""
    axes = figure.subplots(len(logits), 1, squeeze=False, height_ratios=[len(names) for names, _ in logits.values()])
    for axis, (task, (names, values)) in zip(axes[:, 0], logits.items(), strict=True):
        colours = ["tab:orange" if i == int(np.argmax(values)) else "tab:blue" for i in range(len(values))]
        axis.barh(range(len(values)), values, color=colours)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.invert_yaxis()
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(f"{task}: logits of the RTL (first clip)", fontsize=9)
