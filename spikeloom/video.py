"""Any video file -> one clip of uint8 frames, decoded by FFmpeg's decoders (PyAV)::

    file -> decode -> pick frames -> scale until the clip's frame is covered -> crop the middle -> uint8[T, H, W, 3]

Reading is strict: a file that is damaged anywhere before the last frame picked is refused, not patched up.
`decode` and `fit` are the same two steps for a stream of frames; `spikeloom.host.pipeline_source` makes clips of it.
Needs NumPy, and PyAV when a video is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["VideoError", "check_video", "cover", "decode", "fit", "read_clip", "reason"]


class VideoError(ValueError):
    """A video that cannot be read: the message names the file, what is wrong, and where."""


def read_clip(
    path: str | Path, *, frames: int, height: int, width: int, start: int = 0, stride: int | None = None
) -> NDArray[np.uint8]:
    """Read one clip.

    Args:
        path: Video file, in any container and codec that FFmpeg reads.
        frames: T, length of the clip.
        height, width: Size of its frames. The picture is scaled, aspect ratio kept, until it covers them, and
            its middle is cut out.
        start: First frame of the file to be used.
        stride: Take every `stride`-th frame from `start` on. None: spread the clip evenly over the rest of the file
            (a video of fewer frames then repeats some).

    Returns:
        uint8[T, H, W, 3], RGB.

    Raises:
        VideoError: The file is missing, empty, damaged, truncated, has no video stream or too few frames.
        ValueError: An argument is out of range.
    """
    for name, value, least in (("frames", frames, 1), ("height", height, 1), ("width", width, 1),
                               ("start", start, 0), ("stride", 1 if stride is None else stride, 1)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, not `{value!r}`")
    path = Path(path)
    _check_file(path)
    if stride is None:
        picks = _spread(frames, start, _count(path), path)
    else:
        picks = [start + i * stride for i in range(frames)]
    wanted, last = set(picks), picks[-1]
    pictures: dict[int, NDArray[np.uint8]] = {}
    number = -1
    for number, frame in enumerate(decode(path)):
        if number in wanted:
            pictures[number] = fit(frame, height, width)
        if number == last:
            break
    else:
        raise VideoError(f"{path}: frame {last} is needed, but the video ends after {number + 1} frames")
    return np.stack([pictures[pick] for pick in picks])


def _check_file(path: Path) -> None:
    """VideoError if there is no such file, or nothing in it."""
    if not path.is_file():
        raise VideoError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty")


def check_video(path: Path) -> None:
    """VideoError if the file is missing or empty, or nothing that FFmpeg knows as a video. Decodes nothing."""
    _check_file(path)
    _open(path).close()


def _spread(frames: int, start: int, total: int, path: Path) -> list[int]:
    """Middles of `frames` equal parts of the frames start..total-1."""
    if start >= total:
        raise VideoError(f"{path}: `start` is {start}, but the video has {total} frames")
    return [start + (2 * i + 1) * (total - start) // (2 * frames) for i in range(frames)]


def _count(path: Path) -> int:
    """Frames in the file, by decoding them: headers lie, and a truncated file must not pass."""
    count = 0
    for _ in decode(path, whole=True):
        count += 1
    return count


def _open(path: Path) -> Any:
    """Container with at least one video stream."""
    import av
    from av.error import FFmpegError

    try:
        container = av.open(str(path))
    except (FFmpegError, ValueError) as error:
        raise VideoError(f"{path}: not a readable video file: {reason(error)}") from error
    if not container.streams.video:
        container.close()
        raise VideoError(f"{path}: has no video stream")
    return container


def decode(path: Path, *, whole: bool = False) -> Iterator[Any]:
    """Frames of the first video stream in display order, as `av.VideoFrame`.

    Args:
        path: Video file.
        whole: Refuse, at its end, a video that has no frames, or fewer than its header promises.

    Raises:
        VideoError: The file is no video, or damaged.
    """
    from av.error import FFmpegError

    with _open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        number = 0
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise VideoError(f"{path}: frame {number} is damaged")
                yield frame
                number += 1
        except FFmpegError as error:
            raise VideoError(f"{path}: frame {number} cannot be decoded: {reason(error)}") from error
        if whole and number < stream.frames:
            raise VideoError(
                f"{path}: truncated: {number} frames can be decoded, its header promises {stream.frames}")
        if whole and number == 0:
            raise VideoError(f"{path}: the video has no frames")


def reason(error: Exception) -> str:
    """What FFmpeg says about an error."""
    return getattr(error, "strerror", None) or str(error)


def cover(size: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """How a picture of (height, width) `size` covers a frame: its size when scaled; first row and column kept."""
    tall, wide = size
    scale = max(height / tall, width / wide)
    tall, wide = max(height, round(tall * scale)), max(width, round(wide * scale))
    return tall, wide, (tall - height) // 2, (wide - width) // 2


def fit(frame: Any, height: int, width: int) -> NDArray[np.uint8]:
    """An `av.VideoFrame` turned upright, scaled to cover height x width, its middle cut out: uint8[H, W, 3]."""
    turns = frame.rotation // 90 % 4
    tall, wide = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
    tall, wide, top, left = cover((tall, wide), height, width)
    scaled = frame.reformat(
        height=wide if turns % 2 else tall, width=tall if turns % 2 else wide, format="rgb24", interpolation="AREA")
    picture = np.rot90(scaled.to_ndarray(), turns)
    return np.ascontiguousarray(picture[top : top + height, left : left + width])
