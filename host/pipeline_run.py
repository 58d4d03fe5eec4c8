"""`spikeloom run`: a source through a device, results told one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .pipeline import Build, Result, Run, open_run
from .pipeline_frames import describe_frames
from .pipeline_source import Source, open_source

__all__ = ["describe", "run", "show_summary"]

LOOK = 0.25
"""Seconds between two looks at the spikes of all layers, when a page shows them."""

_LINE_CLASSES = 5


def run(
    directory: str | Path, *, source: str, device: str = "sim", clips: int | None = None, stride: int = 1,
    hop: int | None = None, whole: bool = False, loop: bool = False, labels: str | Path | None = None,
    timeout: float = 10.0, serve: int | None = None, bind: str = "127.0.0.1",
    each: Callable[[Result], None] | None = None, progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Classify the clips of a source.

    A run without an end of its own (a camera, `loop`, `serve`) is ended with Ctrl-C (KeyboardInterrupt in the caller's
    thread), and returns as if it had come to its end.

    Args:
        directory: Output of `build`.
        source: `digits` (held-out clips of the demo network), a camera (`0`, `/dev/video0`), or a video file.
        device: `sim` (RTL in a simulated board), `board`, or `reference` (the integer reference, no machine).
        clips: Stop after so many.
        stride: Take every `stride`-th frame.
        hop: Frames from the start of a clip to the start of the next; None: as many as a clip spans.
        whole: One clip spread over the whole file, as `simulate --video` takes it.
        loop: Start again at the end of the source.
        labels: File with the names of the classes: one per line, or JSON `{"task": ["name", ...]}`.
        timeout: Seconds that the machine may take for a clip, in the board's time.
        serve: Port of a web page that shows the run; 0 takes a free one. None: no page.
        bind: Address of that page.
        each: Hears every result.
        progress: Hears one line per step.

    Returns:
        Summary: clips, frames per second, latency, accuracy; see `pipeline.Summary.to_dict`.

    Raises:
        VideoError, CameraError: The source cannot be read; results before that were told.
        DriverError: The machine failed, hangs, is not there, or another process has it.
        ValueError: An argument is out of range, or the network does not fit.
    """
    if clips is not None and clips < 1:
        raise ValueError(f"`clips` must be at least 1, not `{clips!r}`")
    tell, hear = progress or (lambda line: None), each or (lambda result: None)
    look = None if serve is None else 0.0 if device == "sim" else LOOK
    build = Build.load(directory, labels)
    shape = build.shape
    feed = open_source(
        source, shape, build.tasks.sizes, stride=stride, hop=hop, whole=whole, loop=loop, preview=serve is not None)
    with open_run(build, device=device, look=look, timeout=timeout) as running:
        tell(f"{running.device.name}: network {build.program.network_hash[:12]}, {shape.frames} frames of "
             f"{shape.height} x {shape.width}")
        results = running.results(feed, clips=clips)
        endless = loop or feed.live or serve is not None
        with _ended_by_ctrl_c(endless):
            if serve is None:
                for result in results:
                    hear(result)
            else:
                _serve(running, feed, results, serve, bind, hear, tell)
        return {"device": device, "source": source, **running.summary.to_dict()}


@contextmanager
def _ended_by_ctrl_c(expected: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if not expected:
            raise


def _serve(
    running: Run, feed: Source, results: Iterator[Result], port: int, bind: str, hear: Callable[[Result], None],
    tell: Callable[[str], None],
) -> None:
    """Show the results on a page, which stays until Ctrl-C; an error is shown as well, and ends it."""
    from .serve import Server

    with Server(running, feed.name, port=port, bind=bind) as server:
        tell(f"page at {server.url} (Ctrl-C ends)")
        try:
            for result in results:
                server.publish(result)
                hear(result)
        except Exception as error:
            server.finish(str(error) or type(error).__name__)
            raise
        server.finish()
        tell("the source has ended; the page stays until Ctrl-C")
        server.wait()


def describe(result: Result, kind: str) -> str:
    """A result as a line for people.

    Args:
        result: What to tell.
        kind: Of the device: the times of a simulation are not those of a board.
    """
    clip, parts = result.clip, []
    for task, guesses in result.top.items():
        said = " ".join(
            guess.name + (f" {guess.logit}" if guess.probability is None else f" {100 * guess.probability:.0f}%")
            for guess in guesses[:_LINE_CLASSES])
        right = result.correct.get(task)
        mark = "" if right is None else "  right" if right else f"  WRONG, is {clip.label[task]}"
        parts.append(f"{task}: {said}{mark}")
    parts += [said] if (said := describe_frames(result.frames)) else []
    times = [] if result.run.cycles is None else [f"{result.run.cycles:,} cycles"]
    times.append(f"machine {1e3 * result.run.seconds:.3g} ms")
    if kind != "sim":
        times.append(f"latency {1e3 * result.latency:.3g} ms")
    return f"clip {result.number} frames {clip.first}..{clip.last}  {'; '.join(parts)}  [{', '.join(times)}]"


def show_summary(summary: Mapping[str, Any]) -> list[str]:
    """A summary as lines for people."""
    if not summary["clips"]:
        return ["no clip"]
    latency, kind = summary["latency_seconds"], summary["device"]
    lines = [f"{summary['clips']} clips, {summary['frames']} frames in {summary['seconds']:.3g} s: "
             f"{summary['frames_per_second']:.4g} frames/s"
             + (" (simulation, wall time)" if kind == "sim" else " end to end")]
    if kind != "reference":
        lines.append(f"machine: {summary['machine_frames_per_second']:,.0f} frames/s"
                     + (" at its clock, counted by simulation" if kind == "sim" else ", start to end of each clip"))
    if kind != "sim":
        lines.append(", ".join(f"{name} latency {1e3 * seconds:.3g} ms" for name, seconds in latency.items()))
    lines += [f"{task}: {found['hits']} of {found['n']} right ({100 * found['hits'] / found['n']:.1f} %)"
              for task, found in (summary["accuracy"] or {}).items()]
    if summary["dropped_clips"]:
        lines.append(f"{summary['dropped_clips']} clips came while the machine was busy and were left out")
    if summary["left_over_frames"]:
        lines.append(f"{summary['left_over_frames']} frames at the end of the file are no whole clip and were left out")
    return lines
