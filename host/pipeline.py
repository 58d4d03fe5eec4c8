"""From a source to results: decode, transfer and compute at the same time.

    source --Prefetch--> Accelerator.stream --> Result: best classes, latency, cycles, spikes per layer
    (decodes in a          (packs clip n+1 while
     thread)                the machine has clip n)

    build = Build.load("build/machine")
    source = open_source("holiday.mp4", build.shape, build.tasks.sizes)
    with open_run(build, device="sim") as run:
        for result in run.results(source):
            print(result.best)

Results of a camera are not held back until the next clip is there: its clips go through one by one.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.hw.program.errors import ProgramError
from spikeloom.hw.program.program import Program

from .accelerator import Accelerator
from .pipeline_device import Device, open_device
from .pipeline_frames import FrameOutput
from .pipeline_meter import MeteredBoard, RunRecord, SpikeCounter
from .pipeline_source import Clip, ClipShape, Prefetch, Source

__all__ = ["Build", "Guess", "Result", "Run", "Summary", "Tasks", "open_run"]

TOP = 5
"""Classes told of each task."""

_DIRECTIONS = ("right", "left", "down", "up")
_KNOWN = {("digit", 10): tuple("0123456789"), ("direction", 4): _DIRECTIONS}


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A class: name, index within its task, logit, and softmax over its task (None without a scale)."""

    name: str
    index: int
    logit: int
    probability: float | None


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """What the logits mean.

    Attributes:
        names: Task -> names of its classes; the logits are those of the tasks, one after the other.
        scale: Real value of a step of the logits; None if unknown.
    """

    names: Mapping[str, Sequence[str]]
    scale: float | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Task -> number of classes."""
        return {task: len(names) for task, names in self.names.items()}

    def top(self, logits: NDArray[Any], count: int = TOP) -> dict[str, tuple[Guess, ...]]:
        """The `count` best classes of each task, best first; of equals the first."""
        result, start = {}, 0
        for task, names in self.names.items():
            part = np.asarray(logits[start:start + len(names)], np.int64)
            start += len(names)
            chances = None if self.scale is None else _softmax(part * self.scale)
            result[task] = tuple(
                Guess(name=names[int(i)], index=int(i), logit=int(part[i]),
                      probability=None if chances is None else float(chances[i]))
                for i in np.argsort(-part, kind="stable")[:count])
        return result

    @classmethod
    def read(cls, directory: Path, classes: int, labels: Path | None = None) -> Tasks:
        """Tasks of a build directory: what `network/network.json` says, names from `labels` or `labels.json`.

        Args:
            directory: Build directory; neither file has to be there.
            classes: Number of logits.
            labels: One name per line, or JSON `{"task": ["name", ...], ...}`.

        Raises:
            ValueError: The names do not fit the network.
        """
        metadata = _metadata(directory / "network" / "network.json")
        parts = metadata.get("tasks") or [["class", 0, classes]]
        scale = (metadata.get("logits") or {}).get("scale")
        flat = metadata.get("class_names")
        names: dict[str, Sequence[str]] = {}
        for task, first, last in parts:
            numbers = tuple(str(i) for i in range(last - first))
            names[task] = flat[first:last] if flat else _KNOWN.get((task, last - first), numbers)
        path = labels or (directory / "labels.json" if (directory / "labels.json").exists() else None)
        if path is not None:
            names = _read_labels(path, {task: len(those) for task, those in names.items()})
        return cls(names=names, scale=scale)


def _softmax(values: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def _metadata(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text()).get("metadata") or {}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a network: {error}") from error


def _read_labels(path: Path, sizes: Mapping[str, int]) -> dict[str, Sequence[str]]:
    text = path.read_text()
    try:
        read: Any = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    named: dict[str, Any] = read if isinstance(read, dict) else dict.fromkeys(sizes, read) if len(sizes) == 1 else {}
    found = {task: len(names) for task, names in named.items() if isinstance(names, list)}
    if found != dict(sizes):
        raise ValueError(f"{path}: must name classes of {_counts(sizes)}, not of {_counts(found) or 'none'}")
    return {task: [str(name).strip() for name in named[task]] for task in sizes}


def _counts(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{task} ({count})" for task, count in sizes.items())


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one clip.

    Attributes:
        number: Of the clip, from 0.
        clip: The clip.
        logits: What the network puts out: `int32[classes]`, or residual `int16[T, C, H, W]`.
        top: Task -> best classes; empty if the network does not classify clips.
        frames: What it says of every frame or pixel, see `FrameOutput.read`; empty if it classifies clips.
        run: What the machine did.
        latency: Wall seconds until the logits were there: from its last frame (camera), or from the moment that the
            driver took it (other sources, which have its frames whenever they are wanted).
    """

    number: int
    clip: Clip
    logits: NDArray[Any]
    top: Mapping[str, Sequence[Guess]]
    run: RunRecord
    latency: float
    frames: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, str]:
        """Task -> name of its best class."""
        return {task: guesses[0].name for task, guesses in self.top.items()}

    @property
    def correct(self) -> dict[str, bool]:
        """Task -> whether its best class is the right one, of tasks with a label."""
        return {task: self.best[task] == name for task, name in self.clip.label.items() if task in self.top}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "clip": self.number, "first_frame": self.clip.first, "last_frame": self.clip.last,
            "top": {task: [vars(guess) for guess in guesses] for task, guesses in self.top.items()},
            **self.frames, "label": dict(self.clip.label) or None, "correct": self.correct or None,
            "cycles": self.run.cycles, "machine_seconds": self.run.seconds, "latency_seconds": self.latency}


@dataclass(kw_only=True)
class Summary:
    """Sums over the clips so far.

    Attributes:
        frames: Of a clip.
        clips: Results.
        seconds: Wall time from the first clip taken to the last result.
        machine_seconds: Sum over the runs, in the board's time.
        latencies: Of every clip, wall seconds.
        hits, labelled: Task -> right answers, clips with a label.
        dropped: Clips of a camera that came while the machine was busy.
        left_over: Frames at the end of a file that are no whole clip.
    """

    frames: int
    clips: int = 0
    seconds: float = 0.0
    machine_seconds: float = 0.0
    cycles: int | None = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    hits: dict[str, int] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    left_over: int = 0

    def add(self, result: Result) -> None:
        """Count one more."""
        self.clips += 1
        self.machine_seconds += result.run.seconds
        cycles = result.run.cycles
        self.cycles = None if self.cycles is None or cycles is None else self.cycles + cycles
        self.latencies.append(result.latency)
        for task, right in result.correct.items():
            self.hits[task] = self.hits.get(task, 0) + right
            self.labelled[task] = self.labelled.get(task, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; rates are None before the first clip."""
        latency = {name: float(np.quantile(list(self.latencies), part)) if self.latencies else None
                   for name, part in (("median", 0.5), ("p99", 0.99), ("max", 1.0))}
        return {
            "clips": self.clips, "frames": self.clips * self.frames, "seconds": self.seconds,
            "frames_per_second": self.clips * self.frames / self.seconds if self.seconds else None,
            "machine_seconds": self.machine_seconds, "cycles": self.cycles,
            "machine_frames_per_second":
                self.clips * self.frames / self.machine_seconds if self.machine_seconds else None,
            "latency_seconds": latency, "dropped_clips": self.dropped, "left_over_frames": self.left_over,
            "accuracy": {task: {"hits": self.hits[task], "n": n} for task, n in self.labelled.items()} or None}


@dataclass(frozen=True, kw_only=True)
class Build:
    """What is in a build directory.

    Attributes:
        directory: Where it is.
        program: The compiled network.
        tasks: What its logits mean.
        frames: What its output of every frame or pixel means, if it has one.
    """

    directory: Path
    program: Program
    tasks: Tasks
    frames: FrameOutput = field(default_factory=FrameOutput)

    @property
    def shape(self) -> ClipShape:
        """What the network takes."""
        source = self.program.tensors[self.program.input]
        return ClipShape(frames=self.program.frames, height=source.height, width=source.width)

    @classmethod
    def load(cls, directory: str | Path, labels: str | Path | None = None) -> Build:
        """Read a build directory.

        Args:
            directory: Output of `spikeloom build`.
            labels: File with the names of the classes; see `Tasks.read`.

        Raises:
            ProgramError: There is no program, or a malformed one.
            ValueError: The network does not make logits or residual of pixels, or the labels do not fit.
        """
        directory = Path(directory)
        if not (directory / "program").is_dir():
            raise ProgramError(
                f"{directory}: holds no program; write one with `spikeloom build NETWORK_DIR --out {directory}`")
        program = Program.load(directory / "program")
        source, output = program.tensors[program.input], program.tensors[program.output]
        if source.kind != "pixels" or output.kind not in ("logits", "residual"):
            raise ValueError(f"{directory}: the network makes {output.kind} of {source.kind}, not logits of pixels")
        if output.kind == "residual":
            frames = FrameOutput.of(_metadata(directory / "network" / "network.json"))
            return cls(directory=directory, program=program, tasks=Tasks(names={}), frames=frames)
        tasks = Tasks.read(directory, output.channels, Path(labels) if labels is not None else None)
        return cls(directory=directory, program=program, tasks=tasks)


class Run:
    """A program on a device, ready for clips; a context manager. Made by `open_run`.

    Attributes:
        build, device: What runs, and where.
        counter: What is known of spikes.
        summary: Of the stream that was last begun.
    """

    def __init__(self, build: Build, device: Device, *, look: float | None, options: Mapping[str, Any]) -> None:
        self.build, self.device, self.counter = build, device, SpikeCounter(build.program)
        self.board = MeteredBoard(device.board, None if look is None else self.counter, look or 0.0)
        self.accelerator = Accelerator(self.board, build.program, **options)
        self.summary = Summary(frames=build.program.frames)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the machine, give the board back."""
        try:
            self.accelerator.close()
        finally:
            self.device.close()

    def results(self, source: Source, *, clips: int | None = None) -> Iterator[Result]:
        """Results of a source's clips, in order; `summary` is of them.

        Args:
            source: Made for the build's shape.
            clips: Stop after so many.

        Raises:
            VideoError, CameraError: As the source; results of clips before that are delivered first.
            DriverError: As `Accelerator.stream`.
        """
        self.summary = Summary(frames=self.build.program.frames)
        self.board.records.clear()
        with Prefetch(source) as ready:
            taken: deque[tuple[Clip, float]] = deque()
            began = 0.0
            for logits in self._logits(_noting(islice(ready, clips), taken), live=source.live):
                clip, when = taken.popleft()
                began = began or when
                result = self._result(clip, logits, clip.ready if source.live else when)
                self.summary.add(result)
                self.summary.seconds = time.perf_counter() - began
                self.summary.dropped = ready.dropped
                yield result
        self.summary.left_over = getattr(source, "left_over", 0)

    def _logits(self, clips: Iterator[NDArray[Any]], *, live: bool) -> Iterator[NDArray[Any]]:
        if not live:
            yield from self.accelerator.stream(clips)
            return
        for pixels in clips:
            yield self.accelerator.infer(pixels)

    def _result(self, clip: Clip, logits: NDArray[Any], since: float) -> Result:
        return Result(
            number=self.summary.clips, clip=clip, logits=logits, top=self.build.tasks.top(logits),
            run=self.board.records.popleft(), latency=time.perf_counter() - since,
            frames=self.build.frames.read(logits))


def _noting(clips: Iterator[Clip], taken: deque[tuple[Clip, float]]) -> Iterator[NDArray[Any]]:
    """Their pixels, for the driver; `taken` gets the clips themselves and when the driver took them."""
    for clip in clips:
        taken.append((clip, time.perf_counter()))
        yield clip.pixels


def open_run(build: Build, *, device: str = "sim", look: float | None = None, **options: Any) -> Run:
    """Put a build on a device.

    Args:
        build: What to run (for the board: with `bitfile/`).
        device: `sim`, `board` or `reference`; see `pipeline_device`.
        look: Seconds from one look at the spikes of all layers to the next; None: never.
        options: `timeout`, `watchdog`, `interrupt` of `Accelerator`.

    Raises:
        ProgramError: The program is for another machine.
        ValueError: A file that the device needs is missing.
        DriverError: The machine does not answer, or another process has it.
    """
    with ExitStack() as stack:
        opened = open_device(device, build.directory, build.program)
        stack.callback(opened.close)
        run = Run(build, opened, look=look, options=options)
        stack.pop_all()
    return run
