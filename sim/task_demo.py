"""The demo of networks that say something of every frame: poses and segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spikeloom.quantize.inference import FromPixels, integer_predictor, predictor
from spikeloom.quantize.models import SpikeVideoFormer
from spikeloom.quantize.quantizer import as_outputs
from spikeloom.quantize.tasks import Task, get_task
from spikeloom.quantize.tasks.masks import classes_of
from spikeloom.quantize.tasks.metrics import joint_errors
from spikeloom.quantize.tasks.walkers import as_joints
from spikeloom.quantize.walkers import BONES, JOINTS

from .simulate import Rig
from .task_picture import TaskClip, draw_masks, draw_poses

__all__ = ["draw_frames", "held_out_clips", "measure_frames", "run_frames"]


def measure_frames(model: SpikeVideoFormer, rig: Rig, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Metrics of float model and integer network on the same held-out clips, as `accuracy.json` holds them."""
    task, found = get_task(model.config), {}
    predictors = {"float": predictor(FromPixels(model).eval()), "integer": integer_predictor(rig.network)}
    for which, predict in predictors.items():
        found[which] = task.evaluate(predict, n=count, split="test", batch=25)
        say(f"{which:7} model on {count} held-out clips: {_words(found[which])}")
    return {"split": "test", "n": count} | found


def run_frames(
    model: SpikeVideoFormer, rig: Rig, inputs: NDArray[np.uint8], targets: Mapping[str, NDArray[Any]] | None,
    say: Callable[[str], None],
) -> list[TaskClip]:
    """Simulate each clip and show its line. `targets` are those of the task, for all clips."""
    shown = []
    for number, clip in enumerate(inputs):
        run = rig.run(clip)
        outputs = as_outputs(rig.network, torch.from_numpy(np.ascontiguousarray(run.logits))[None]).numpy()
        found = _readable(model, outputs, clip.shape[1:3])
        true = None if targets is None else next(iter(targets.values()))[number]
        exact = "bit-exact" if run.mismatches == 0 else f"{run.mismatches} differ"
        error = "" if true is None else f", {_error(model, found, true)}"
        say(f"clip {number}: RTL = integer: {exact}, {run.cycles:,} cycles{error}")
        shown.append(TaskClip(
            frames=clip, found=found, true=true, good=run.mismatches == 0,
            caption=f"RTL {exact if run.mismatches == 0 else 'NOT bit-exact'}{error}"))
    return shown


def draw_frames(path: Path, model: SpikeVideoFormer, shown: list[TaskClip], title: str) -> None:
    """Skeletons or masks over the frames."""
    if model.config.head == "pose":
        bones = BONES if model.config.classes == 2 * len(JOINTS) else ()
        draw_poses(path, shown, bones=bones, title=title)
    else:
        draw_masks(path, shown, title=title)


def held_out_clips(model: SpikeVideoFormer, count: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """The first clips of the test split and their targets."""
    task: Task = get_task(model.config)
    return task.batch(range(count), "test", 0)


def _readable(model: SpikeVideoFormer, outputs: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """Joints [T, J, 2] or classes [T, H, W] of one clip's outputs."""
    return as_joints(outputs)[0] if model.config.head == "pose" else classes_of(outputs, size)[0]


def _error(model: SpikeVideoFormer, found: NDArray[Any], true: NDArray[Any]) -> str:
    if model.config.head == "pose":
        return f"joints off by {100 * joint_errors(found[None], true[None])[0]:.1f} % of the frame"
    return f"{100 * (found == true).mean():.1f} % of the pixels right"


def _words(report: Mapping[str, Any]) -> str:
    parts = []
    for name, label, scale in (("mpjpe", "MPJPE", 1), ("pa_mpjpe", "PA-MPJPE", 1), ("mean_iou", "mean IoU", 100),
                               ("pixels", "pixels", 100)):
        if name in report:
            value = report[name].get("percent", report[name].get("value"))
            low, high = report[name]["interval"]
            parts.append(f"{label} {scale * value:.2f} % (95 %: {scale * low:.2f}..{scale * high:.2f})")
    return ", ".join(parts)
