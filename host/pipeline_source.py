"""Where clips come from: a video file, a camera, held-out clips of the demo network.

    decode -> every `stride`-th frame -> fit to the network's input -> T frames -> Clip
              (spikeloom.video, the very functions that `quantize` and `simulate` read videos with)

Clip k of a file is `read_clip(path, frames=T, start=k * hop, stride=stride, ...)`, bit for bit; the file is decoded
once. `Prefetch` runs a source in a thread of its own, so that decoding goes on while the machine computes and results
are shown. A file waits for the machine; a camera does not: clips that nobody took in time are dropped and counted.

Videos and cameras need PyAV (`pip install 'spikeloom[video]'`), digits need scikit-learn; both are imported when used.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spikeloom.video import VideoError, check_video, decode, fit, read_clip, reason

__all__ = [
    "CameraError", "CameraSource", "Clip", "ClipShape", "DigitSource", "Prefetch", "Source", "VideoSource", "cut",
    "open_source"]

PREVIEW = 320
"""Longest side of the pictures for people, in pixels."""

CAMERA_PATIENCE = 5.0
"""Seconds without a frame after which a camera counts as lost."""

LOOK_INTERVAL = 0.2
"""Seconds between two looks at a source that gives nothing."""

HELD_OUT = 400
"""Clips of digits in one round: every scan of the test split once."""

_DIGIT_TASKS = {"digit": 10, "direction": 4}
"""Questions that a network for moving digits is asked, one or both, and their answers."""

_CAMERA = re.compile(r"\d+|/dev/video\d+")


class CameraError(OSError):
    """No such camera, or one that was lost: the message names it."""


@dataclass(frozen=True, kw_only=True)
class ClipShape:
    """What the network takes: T frames of H x W."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip.

    Attributes:
        pixels: `uint8[T, H, W, 3]`, RGB.
        first, last: Numbers of its first and last frame in the source.
        label: Task -> name of the right class; empty where nobody knows.
        preview: `uint8[T, h, w, 3]` for people; `pixels` itself if there is nothing better.
        ready: When its last frame was there (`time.perf_counter`).
    """

    pixels: NDArray[np.uint8]
    first: int
    last: int
    label: Mapping[str, str] = field(default_factory=dict)
    preview: NDArray[np.uint8]
    ready: float = field(default_factory=time.perf_counter)


class Source(Protocol):
    """Attributes: `name` for messages; `live`: frames come whether or not somebody takes them; `heard`: when the last
    one came (`time.perf_counter`), of a live source."""

    name: str
    live: bool
    heard: float

    def clips(self) -> Iterator[Clip]:
        """The clips, in order. Raises VideoError or CameraError."""
        ...


def open_source(
    name: str, shape: ClipShape, tasks: Mapping[str, int], *, stride: int = 1, hop: int | None = None,
    whole: bool = False, loop: bool = False, preview: bool = False,
) -> Source:
    """The source of a command line: `digits`, a camera (`0`, `/dev/video0`), otherwise a video file.

    Args:
        name: See above. A file of such a name is meant with `./` before it.
        shape: Of the clips.
        tasks: Task -> number of classes, of the network.
        stride: Take every `stride`-th frame.
        hop: Frames from the start of a clip to the start of the next one; None: as many as a clip spans.
        whole: One clip, spread evenly over the whole file.
        loop: Start again at the end.
        preview: Make larger pictures for people as well.

    Raises:
        VideoError, CameraError: There is no such file or camera.
        ValueError: An argument is out of range, or the network does not fit the source.
    """
    span = stride * shape.frames if hop is None else hop
    for what, value in (("stride", stride), ("hop", span)):
        if value < 1:
            raise ValueError(f"`{what}` must be at least 1, not `{value!r}`")
    if whole and (name == "digits" or _CAMERA.fullmatch(name)):
        raise ValueError(f"`whole` must be used with a video file, not with `{name}`")
    if name == "digits":
        return DigitSource(shape, tasks, loop=loop)
    if _CAMERA.fullmatch(name):
        return CameraSource(name, shape, stride=stride, hop=span, preview=preview)
    return VideoSource(name, shape, stride=stride, hop=span, whole=whole, loop=loop, preview=preview)


class VideoSource:
    """Clips of a video file.

    A rest of the file that is shorter than a clip is left out (`left_over` frames).

    Raises:
        VideoError: There is no such file, or it is no video. What is wrong inside shows when it is decoded.
    """

    live, heard = False, 0.0

    def __init__(
        self, path: str | Path, shape: ClipShape, *, stride: int = 1, hop: int, whole: bool = False,
        loop: bool = False, preview: bool = False,
    ) -> None:
        self.path, self.name, self.shape = Path(path), str(path), shape
        self.left_over = 0
        self._stride, self._hop, self._whole, self._loop, self._preview = stride, hop, whole, loop, preview
        check_video(self.path)

    def clips(self) -> Iterator[Clip]:
        """The clips of the file. VideoError names the frame at which it is damaged, after the clips before it."""
        while True:
            yield from self._spread() if self._whole else self._cut()
            if not self._loop:
                return

    def _spread(self) -> Iterator[Clip]:
        shape = self.shape
        pixels = read_clip(self.path, frames=shape.frames, height=shape.height, width=shape.width)
        yield Clip(pixels=pixels, first=0, last=shape.frames - 1, preview=pixels)

    def _cut(self) -> Iterator[Clip]:
        number, after = 0, 0

        def frames() -> Iterator[Any]:
            nonlocal number
            for frame in decode(self.path, whole=True):
                number += 1
                yield frame

        for clip in cut(frames(), self.shape, stride=self._stride, hop=self._hop, preview=self._preview):
            after = clip.last + 1
            yield clip
        if after == 0:
            needed = self._stride * (self.shape.frames - 1) + 1
            raise VideoError(f"{self.path}: a clip takes {needed} frames, but the video ends after {number}")
        self.left_over = number - after


def cut(
    frames: Iterator[Any], shape: ClipShape, *, stride: int, hop: int, preview: bool = False
) -> Iterator[Clip]:
    """Clips out of a stream of `av.VideoFrame`; no frame is converted twice, and none that no clip holds."""
    kept: deque[tuple[int, NDArray[np.uint8], NDArray[np.uint8] | None]] = deque()
    first, span = 0, stride * (shape.frames - 1)
    for number, frame in enumerate(frames):
        if _is_wanted(number, stride, hop, shape.frames):
            picture = fit(frame, shape.height, shape.width)
            kept.append((number, picture, _for_people(frame) if preview else None))
        if number < first + span:
            continue
        taken = [entry for entry in kept if (entry[0] - first) % stride == 0 and first <= entry[0] <= number]
        pixels = np.stack([pixels for _, pixels, _ in taken])
        yield Clip(pixels=pixels, first=first, last=number, preview=_previews(taken, pixels))
        first += hop
        while kept and kept[0][0] < first:
            kept.popleft()


def _is_wanted(number: int, stride: int, hop: int, frames: int) -> bool:
    """Whether any clip k holds frame `k * hop + i * stride` = `number`, i < `frames`."""
    return any((number - i * stride) % hop == 0 for i in range(frames) if number >= i * stride)


def _previews(taken: list[Any], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pictures = [preview for _, _, preview in taken]
    if any(p is None or p.shape != pictures[0].shape for p in pictures):
        return pixels
    return np.stack(pictures)


def _for_people(frame: Any) -> NDArray[np.uint8]:
    """The frame, upright, its longest side at most `PREVIEW`."""
    turns = frame.rotation // 90 % 4
    tall, wide = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
    scale = min(1.0, PREVIEW / max(tall, wide))
    return fit(frame, max(1, round(tall * scale)), max(1, round(wide * scale)))


class CameraSource:
    """Clips of a camera, through Video4Linux. Ends with an error only, or when nobody wants more.

    Args:
        name: Number N of /dev/videoN, or that path.

    Raises:
        CameraError: There is no such device.
    """

    live = True

    def __init__(self, name: str, shape: ClipShape, *, stride: int = 1, hop: int, preview: bool = False) -> None:
        self.path = Path(f"/dev/video{name}" if name.isdigit() else name)
        self.name = f"camera {self.path}"
        self.shape, self._stride, self._hop, self._preview = shape, stride, hop, preview
        self.heard = time.perf_counter()
        if not self.path.exists():
            others = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
            raise CameraError(f"{self.name}: no such device; {f'there are {others}' if others else 'none is there'}")

    def clips(self) -> Iterator[Clip]:
        """The clips. CameraError when the camera cannot be opened, or is lost."""
        yield from cut(self._frames(), self.shape, stride=self._stride, hop=self._hop, preview=self._preview)

    def _frames(self) -> Iterator[Any]:
        from av.error import FFmpegError

        number = 0
        try:
            with self._open() as container:
                for frame in container.decode(video=0):
                    self.heard = time.perf_counter()
                    yield frame
                    number += 1
        except (FFmpegError, OSError, IndexError) as error:
            what = f"lost after {number} frames" if number else "gives no picture"
            raise CameraError(f"{self.name}: {what}: {reason(error)}") from error
        raise CameraError(f"{self.name}: lost after {number} frames: it sends no more")

    def _open(self) -> Any:
        import av

        return av.open(str(self.path), format="v4l2", timeout=CAMERA_PATIENCE)


class DigitSource:
    """Held-out clips of moving digits, which the demo network was not trained on, with their labels.

    Raises:
        ValueError: The network is not one for moving digits.
    """

    live, heard = False, 0.0

    def __init__(self, shape: ClipShape, tasks: Mapping[str, int], *, loop: bool = False) -> None:
        if not tasks or not tasks.items() <= _DIGIT_TASKS.items() or shape.height != shape.width:
            found = ", ".join(f"{name} ({count})" for name, count in tasks.items()) or "none"
            raise ValueError(
                f"`digits` must be run on a network with square frames and the tasks digit (10), direction (4) or "
                f"both, not `{shape.height} x {shape.width}`, `{found}`")
        self.name, self.shape, self._loop = "digits", shape, loop
        self._questions = tuple(tasks)

    def clips(self) -> Iterator[Clip]:
        from spikeloom.quantize.digits import DIRECTIONS, DigitClips

        generator, index = DigitClips(size=self.shape.height, frames=self.shape.frames), 0
        while self._loop or index < HELD_OUT:
            pixels, digit, direction = generator.clip(index, "test")
            first = index * self.shape.frames
            answers = {"digit": str(digit), "direction": DIRECTIONS[direction]}
            yield Clip(
                pixels=pixels, first=first, last=first + self.shape.frames - 1, preview=pixels,
                label={question: answers[question] for question in self._questions})
            index += 1


class Prefetch:
    """A source running in a thread of its own; a context manager and an iterator of its clips, in order.

    Args:
        source: Whose clips.
        depth: Clips to hold ready. A source that is not live waits when they are there; of a live one only the newest
            is held.

    Attributes:
        dropped: Clips of a live source that nobody took in time.
    """

    def __init__(self, source: Source, depth: int = 2) -> None:
        self.source, self.dropped = source, 0
        self._depth = 1 if source.live else depth
        self._ready: deque[Clip] = deque()
        self._changed = threading.Condition()
        self._closed = self._ended = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"source {source.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread; a camera that hangs is left behind."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join(timeout=1.0)

    def __iter__(self) -> Iterator[Clip]:
        return self

    def __next__(self) -> Clip:
        """The next clip. What the source raised is raised here, after its last clip."""
        with self._changed:
            while not self._changed.wait_for(self._is_settled, LOOK_INTERVAL):
                if self.source.live and time.perf_counter() - self.source.heard > CAMERA_PATIENCE:
                    raise CameraError(f"{self.source.name}: no picture for {CAMERA_PATIENCE:g} s")
            if self._ready:
                clip = self._ready.popleft()
                self._changed.notify_all()
                return clip
            if self._failure is not None:
                raise self._failure
            raise StopIteration

    def _is_settled(self) -> bool:
        return bool(self._ready) or self._ended or self._closed

    def _run(self) -> None:
        try:
            with closing(_generator(self.source.clips)) as clips:
                for clip in clips:
                    if not self._put(clip):
                        return
        except Exception as error:  # handed to whoever asks for the next clip
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, clip: Clip) -> bool:
        """Whether more are wanted."""
        with self._changed:
            if self.source.live and len(self._ready) == self._depth:
                self._ready.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
            if not self._closed:
                self._ready.append(clip)
                self._changed.notify_all()
            return not self._closed


def _generator(clips: Callable[[], Iterator[Clip]]) -> Any:
    """The clips as a generator, which can be closed."""
    yield from clips()
