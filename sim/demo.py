"""The demo: from a clip to its class through float model, integer reference and RTL.

    zoo network -> quantise -> build -> per clip: float model | integer reference | Verilated RTL -> OUT/

    OUT/network/, rtl/, program/    what was made          OUT/demo.png           the picture
    OUT/report/bit_exact.json, rtlsim_performance.json, accuracy.json, quantize_report.json, build.json
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from spikeloom.hw.build import build, write_report
from spikeloom.operations import additions_by_engine
from spikeloom.quantize.convert import load_any, quantize
from spikeloom.quantize.digits import DIRECTIONS
from spikeloom.quantize.inference import to_input
from spikeloom.quantize.models import SpikeVideoFormer
from spikeloom.quantize.reference import Reference
from spikeloom.quantize.relatives import Relative
from spikeloom.quantize.tasks.digits import Digits
from spikeloom.quantize.tasks.metrics import wilson
from spikeloom.quantize.video import read_clip

from .picture import PictureClip, draw, spike_rates
from .simulate import Rig, Simulation
from .task_demo import draw_frames, held_out_clips, measure_frames, run_frames

__all__ = ["HELD_OUT", "DemoResult", "demo"]

MODEL = "digits"
HELD_OUT = 400
"""Clips that accuracy is measured on: every handwritten digit of the test split once."""

_BATCH = 40
AnyModel = SpikeVideoFormer | Relative
_CLASS_NAMES = {"digit": [str(digit) for digit in range(10)], "direction": list(DIRECTIONS)}


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Outcome of a demo.

    Attributes:
        simulation: Both reports of the RTL simulation.
        accuracy: Content of `accuracy.json`; None for a video, which has no label.
        picture, report: Files written.
    """

    simulation: Simulation
    accuracy: Mapping[str, Any] | None
    picture: Path
    report: Path

    @property
    def mismatches(self) -> int:
        """Values in which RTL and reference differ."""
        return self.simulation.mismatches


def demo(
    *, video: str | Path | None = None, clips: int = 2, preset: str = "small", out: str | Path = "build/demo",
    held_out: int = HELD_OUT, model: str | Path = MODEL, repconv: str | Path | Collection[str] = "fused",
    progress: Callable[[str], None] | None = None, show: Callable[[str], None] | None = None,
) -> DemoResult:
    """Run a trained network on held-out clips of its task, or on a video.

    Args:
        video: Video file to take the one clip from. None: the task's own clips.
        clips: Held-out clips to simulate.
        preset: Machine to build.
        out: Directory to write to.
        held_out: Clips that the accuracy of float model and integer network is measured on.
        model: Trained network for a task of the project's, as for `quantize`.
        repconv: RepConvs that stay unfused, as for `quantize`.
        progress: Hears one line per step.
        show: Hears the lines of the result.

    Raises:
        ValueError: `clips` or `held_out` is not positive, no such preset.
        VideoError: The video cannot be read.
        BuildError: The simulation cannot be built.
    """
    for name, value in (("clips", clips), ("held_out", held_out)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, not `{value!r}`")
    tell, say = progress or (lambda message: None), show or (lambda line: None)
    out = Path(out)
    network = load_any(model)
    classes = network.config.head == "class"
    read: Any = _inputs if classes else _frame_inputs
    inputs, targets = read(network, video, clips)
    quantised = quantize(network, out / "network", repconv=repconv, progress=tell)
    quantised.save(out / "report")
    built = build(out / "network", preset=preset, out=out, progress=tell)
    rig = Rig(out, progress=tell)
    _show_machine(say, network, rig, built)
    show_task: Any = _show_classes if classes else _show_frames
    accuracy, simulation = show_task(
        network, rig, inputs, targets, held_out if video is None else 0, out / "demo.png", say)
    if accuracy is not None:
        write_report(out / "report" / "accuracy.json", accuracy)
    say(simulation.summary)
    say(f"picture {out / 'demo.png'}")
    say(f"report  {out / 'report' / 'bit_exact.json'}")
    return DemoResult(simulation=simulation, accuracy=accuracy, picture=out / "demo.png",
                      report=out / "report" / "bit_exact.json")


def _show_classes(
    network: AnyModel, rig: Rig, inputs: NDArray[np.uint8], labels: Sequence[dict[str, int] | None],
    held_out: int, picture: Path, say: Callable[[str], None],
) -> tuple[dict[str, Any] | None, Simulation]:
    """Accuracy (None without `held_out` clips) and simulation of a classifier."""
    accuracy = None
    if held_out:
        accuracy = _accuracy(network, rig.reference, held_out)
        _show_accuracy(say, accuracy)
    shown = _run_clips(network, rig, inputs, labels, say)
    simulation = rig.finish()
    _draw(picture, network, rig, shown, inputs, simulation)
    return accuracy, simulation


def _show_frames(
    network: SpikeVideoFormer, rig: Rig, inputs: NDArray[np.uint8], targets: Mapping[str, NDArray[Any]] | None,
    held_out: int, picture: Path, say: Callable[[str], None],
) -> tuple[dict[str, Any] | None, Simulation]:
    """The same of a network that says something of every frame."""
    accuracy = measure_frames(network, rig, held_out, say) if held_out else None
    shown = run_frames(network, rig, inputs, targets, say)
    simulation = rig.finish()
    draw_frames(picture, network, shown, _title(network, rig, simulation, len(shown)))
    return accuracy, simulation


def _frame_inputs(
    model: SpikeVideoFormer, video: str | Path | None, clips: int
) -> tuple[NDArray[np.uint8], Mapping[str, NDArray[Any]] | None]:
    """Clips and the task's targets, None for a video."""
    return held_out_clips(model, clips) if video is None else (_video_clip(model, video), None)


def _video_clip(model: AnyModel, video: str | Path) -> NDArray[np.uint8]:
    """uint8[1, T, H, W, 3]."""
    config = model.config
    return read_clip(video, frames=config.frames, height=config.height, width=config.width)[None]


def _inputs(
    model: AnyModel, video: str | Path | None, clips: int
) -> tuple[NDArray[np.uint8], list[dict[str, int] | None]]:
    """Clips uint8[B, T, H, W, 3] and their labels by task, None for a video."""
    if video is not None:
        return _video_clip(model, video), [None]
    frames, targets = Digits.of(model.config).batch(range(clips), "test", 0)
    return frames, [{question: int(answers[i]) for question, answers in targets.items()} for i in range(clips)]


def _classes(model: AnyModel, logits: Any) -> dict[str, int]:
    """Task -> class with the largest logit."""
    values = np.asarray(logits).ravel()
    return {task: int(np.argmax(values[part])) for task, part in model.config.task_slices.items()}


def _words(classes: Mapping[str, int] | None) -> str:
    """Classes by name, such as `7 right`."""
    if classes is None:
        return "-"
    return " ".join(_CLASS_NAMES[task][index] for task, index in classes.items())


@torch.no_grad()
def _accuracy(model: AnyModel, reference: Reference, count: int) -> dict[str, Any]:
    """Hits of float model and integer network on the same `count` held-out clips."""
    task = Digits.of(model.config)
    hits = {which: dict.fromkeys(model.config.task_slices, 0) for which in ("float", "integer")}
    agree = 0
    for start in tqdm(range(0, count, _BATCH), desc="held-out accuracy", unit="batch", disable=None, leave=False):
        frames, targets = task.batch(range(start, min(count, start + _BATCH)), "test", 0)
        logits = {"float": model(to_input(model, frames)), "integer": reference.infer_batch(frames)}
        for i in range(len(frames)):
            said = {which: _classes(model, values[i]) for which, values in logits.items()}
            agree += said["float"] == said["integer"]
            for which, classes in said.items():
                for question, answers in targets.items():
                    hits[which][question] += classes[question] == answers[i]
    return {"split": "test", "n": count, "agreement": agree / count} | {
        which: {task: {"hits": int(n), "accuracy": int(n) / count, "interval": list(wilson(int(n), count))}
                for task, n in tasks.items()}
        for which, tasks in hits.items()}


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What was said about one clip."""

    label: dict[str, int] | None
    rtl: dict[str, int]
    exact: bool
    logits: NDArray[Any]
    rates: tuple[list[str], NDArray[np.float64]]


def _run_clips(
    model: AnyModel, rig: Rig, inputs: NDArray[np.uint8], labels: Sequence[dict[str, int] | None],
    say: Callable[[str], None],
) -> list[_Shown]:
    """Simulate each clip and show its line."""
    ops, shown = additions_by_engine(rig.network)["array"], []
    say(f"{'clip':>4}  {'label':9} {'float':9} {'integer':9} {'RTL':9} {'RTL = integer':>14} {'cycles':>10} "
        f"{'synaptic ops':>13} {'per cycle':>9}")
    bar = tqdm(zip(inputs, labels, strict=True), total=len(inputs), desc="simulate", unit="clip", disable=None,
               leave=False)
    for number, (clip, label) in enumerate(bar):
        run = rig.run(clip)
        with torch.no_grad():
            said = _classes(model, model(to_input(model, clip[None])))
        integer = _classes(model, run.expected[rig.network.output])
        rtl = _classes(model, run.logits)
        exact = "bit-exact" if run.mismatches == 0 else f"{run.mismatches} differ"
        say(f"{number:4}  {_words(label):9} {_words(said):9} {_words(integer):9} {_words(rtl):9} {exact:>14} "
            f"{run.cycles:10,} {ops:13,} {ops / run.cycles:9.0f}")
        shown.append(_Shown(label=label, rtl=rtl, exact=run.mismatches == 0, logits=run.logits,
                            rates=spike_rates(rig.network, run.expected)))
    return shown


def _show_machine(say: Callable[[str], None], model: AnyModel, rig: Rig, built: Mapping[str, Any]) -> None:
    config, parameters = model.config, sum(p.numel() for p in model.parameters())
    say(f"network: {parameters:,} parameters, {config.frames} frames of {config.height} x {config.width}, "
        f"hash {rig.network.hash[:12]}")
    say(f"machine: preset {built['preset']}: {rig.config.peak_ops_per_cycle:,} synaptic operations per cycle at most, "
        f"configuration {built['config_hash']}")


def _show_accuracy(say: Callable[[str], None], accuracy: Mapping[str, Any]) -> None:
    for which in ("float", "integer"):
        parts = []
        for task, found in accuracy[which].items():
            low, high = (100 * bound for bound in found["interval"])
            parts.append(f"{task} {100 * found['accuracy']:.2f} % (95 %: {low:.1f}..{high:.1f})")
        say(f"{which:7} model on {accuracy['n']} held-out clips: {', '.join(parts)}")


def _draw(
    path: Path, model: AnyModel, rig: Rig, shown: Sequence[_Shown], inputs: NDArray[np.uint8],
    simulation: Simulation,
) -> None:
    first = shown[0]
    logits = {task: (_CLASS_NAMES[task], np.asarray(first.logits).ravel()[part])
              for task, part in model.config.task_slices.items()}
    clips = [
        PictureClip(frames=clip, good=item.exact and item.label in (None, item.rtl),
                    caption=f"label: {_words(item.label)}    RTL: {_words(item.rtl)}    "
                            + ("bit-exact" if item.exact else "NOT bit-exact"))
        for clip, item in zip(inputs, shown, strict=True)]
    draw(path, clips=clips, rates=first.rates, logits=logits, title=_title(model, rig, simulation, len(shown)))


def _title(model: AnyModel, rig: Rig, simulation: Simulation, clips: int) -> str:
    return (f"Spikeloom: {type(model).__name__} on simulated RTL, {simulation.performance['cycles'] // clips:,} cycles "
            f"per clip of {rig.network.frames} frames, {simulation.bit_exact['compared']:,} values compared, "
            f"{simulation.mismatches} differ")
