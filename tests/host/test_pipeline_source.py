"""Sources of clips: video files, cameras and digits, with every fault and its clear error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.host import pipeline_source
from spikeloom.host.pipeline_source import (
    CameraError,
    CameraSource,
    Clip,
    ClipShape,
    DigitSource,
    Prefetch,
    VideoSource,
    cut,
    open_source,
)
from spikeloom.quantize.digits import DigitClips
from spikeloom.video import VideoError, read_clip

av = pytest.importorskip("av")

SHAPE = ClipShape(frames=4, height=24, width=20)
TASKS = {"digit": 10, "direction": 4}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


# Files


@pytest.mark.parametrize(("stride", "hop"), [(1, None), (1, 1), (2, 3), (3, 5), (2, 11), (1, 4)])
@pytest.mark.parametrize("codec", ["ffv1", "mpeg4"])
def test_clips_of_a_file_are_those_of_read_clip(
    stride: int, hop: int | None, codec: str, tmp_path: Path, noise_video: Callable[..., Path]
) -> None:
    """Bit for bit, though the file is decoded once."""
    path = noise_video(tmp_path / "video.avi", 30, codec=codec)
    source = open_source(str(path), SHAPE, TASKS, stride=stride, hop=hop)
    clips, step = list(source.clips()), hop or stride * SHAPE.frames
    assert len(clips) == (30 - stride * (SHAPE.frames - 1) - 1) // step + 1
    for number, clip in enumerate(clips):
        assert (clip.first, clip.last) == (number * step, number * step + stride * (SHAPE.frames - 1))
        np.testing.assert_array_equal(clip.pixels, read_clip(
            path, frames=SHAPE.frames, height=SHAPE.height, width=SHAPE.width, start=clip.first, stride=stride))
        assert clip.preview is clip.pixels


def test_whole_file_as_one_clip(video: Path) -> None:
    (clip,) = open_source(str(video), SHAPE, TASKS, whole=True).clips()
    np.testing.assert_array_equal(
        clip.pixels, read_clip(video, frames=SHAPE.frames, height=SHAPE.height, width=SHAPE.width))


def test_rest_of_a_file_is_counted(video: Path) -> None:
    source = VideoSource(video, SHAPE, hop=4)
    assert len(list(source.clips())) == 7
    assert source.left_over == 2


def test_loop_begins_again(video: Path) -> None:
    clips = open_source(str(video), SHAPE, TASKS, loop=True).clips()
    assert [next(clips).first for _ in range(9)] == [0, 4, 8, 12, 16, 20, 24, 0, 4]


def test_no_frame_is_converted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(pipeline_source, "fit", lambda frame, h, w: seen.append(frame) or np.zeros((h, w, 3), np.uint8))
    assert len(list(cut(iter(range(40)), SHAPE, stride=2, hop=12))) == 3
    assert seen == [0, 2, 4, 6, 12, 14, 16, 18, 24, 26, 28, 30, 36, 38]


def test_preview_is_larger(video: Path) -> None:
    clip = next(open_source(str(video), SHAPE, TASKS, preview=True).clips())
    assert clip.preview.shape == (4, 40, 64, 3)


def test_digits_are_the_held_out_clips() -> None:
    source = DigitSource(ClipShape(frames=8, height=32, width=32), TASKS)
    clip = next(source.clips())
    pixels, digit, direction = DigitClips(size=32, frames=8).clip(0, "test")
    assert not source.live
    np.testing.assert_array_equal(clip.pixels, pixels)
    assert clip.label == {"digit": str(digit), "direction": ("right", "left", "down", "up")[direction]}
    with pytest.raises(ValueError, match=r"digit \(10\), direction \(4\) or both, not `32 x 32`, `class \(400\)`"):
        DigitSource(ClipShape(frames=8, height=32, width=32), {"class": 400})
    alone = next(DigitSource(ClipShape(frames=8, height=32, width=32), {"digit": 10}).clips())
    assert alone.label == {"digit": str(digit)}


def test_files_that_are_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all")
    for name, message in (("none.mp4", "no such file"), ("empty.mp4", "the file is empty"),
                          ("text.mp4", "not a readable video file")):
        with pytest.raises(VideoError, match=rf"{name}: {message}"):
            open_source(str(tmp_path / name), SHAPE, TASKS)


def test_zero_length_and_short_videos(
    tmp_path: Path, noise_video: Callable[..., Path], write_video: Callable[..., Path]
) -> None:
    short = noise_video(tmp_path / "short.mkv", 3)
    with pytest.raises(VideoError, match=r"short.mkv: a clip takes 4 frames, but the video ends after 3"):
        list(open_source(str(short), SHAPE, TASKS).clips())
    nothing = write_video(tmp_path / "nothing.avi", [], "mpeg4")
    with pytest.raises(VideoError, match=r"nothing.avi: "):
        list(open_source(str(nothing), SHAPE, TASKS).clips())


def test_truncated_video_gives_the_clips_before(truncated: Path) -> None:
    clips: list[Clip] = []
    with pytest.raises(VideoError, match=r"part.avi: (truncated: \d+ frames|frame \d+)"):
        clips.extend(open_source(str(truncated), SHAPE, TASKS).clips())
    assert [clip.first for clip in clips] == [4 * i for i in range(len(clips))]
    assert len(clips) >= 3


@pytest.mark.parametrize("options", [{"stride": 0}, {"hop": 0}])
def test_arguments_of_a_source(options: dict[str, Any], video: Path) -> None:
    with pytest.raises(ValueError, match="must be at least 1, not `0`"):
        open_source(str(video), SHAPE, TASKS, **options)
    with pytest.raises(ValueError, match="`whole` must be used with a video file, not with `0`"):
        open_source("0", SHAPE, TASKS, whole=True)


# Cameras


def unplug() -> None:
    raise av.error.OSError(19, "No such device", "/dev/video7")


def test_no_such_camera() -> None:
    with pytest.raises(CameraError, match=r"camera /dev/video97: no such device; (there are|none is there)"):
        open_source("97", SHAPE, TASKS)


def test_device_that_is_no_camera() -> None:
    with pytest.raises(CameraError, match="gives no picture: "):
        next(CameraSource("/dev/null", SHAPE, hop=4).clips())


def test_unplugged_camera(video: Path, camera: Callable[..., CameraSource]) -> None:
    clips: list[Clip] = []
    with pytest.raises(CameraError, match=r"camera /dev/video7: lost after 10 frames: No such device"):
        clips.extend(camera(video, SHAPE, 10, unplug).clips())
    assert [clip.first for clip in clips] == [0, 4]


def test_camera_that_hangs(
    video: Path, camera: Callable[..., CameraSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It blocks for ever in the kernel: the reader is left behind, the consumer hears of it."""
    monkeypatch.setattr(pipeline_source, "CAMERA_PATIENCE", 0.3)
    never = threading.Event()
    with (pytest.raises(CameraError, match=r"no picture for 0.3 s"),
          Prefetch(camera(video, SHAPE, 10, lambda: never.wait(20), pause=0.01)) as clips):
        list(clips)
    never.set()


def test_camera_does_not_wait(video: Path, camera: Callable[..., CameraSource]) -> None:
    """Of clips that nobody took, the newest is left; they are counted."""
    with Prefetch(camera(video, SHAPE, 29, unplug)) as clips:
        wait_for(lambda: clips._ended)
        assert next(clips).first == 24
        assert clips.dropped == 6
        with pytest.raises(CameraError, match="lost after 29 frames"):
            next(clips)


def test_file_waits(video: Path) -> None:
    """A file is decoded a few clips ahead, and no further."""
    source = VideoSource(video, SHAPE, hop=4)
    with Prefetch(source, depth=2) as clips:
        wait_for(lambda: len(clips._ready) == 2)
        time.sleep(0.1)
        assert len(clips._ready) == 2
        assert [clip.first for clip in clips] == [0, 4, 8, 12, 16, 20, 24]
        assert clips.dropped == 0
    assert not clips._thread.is_alive()


def test_prefetch_can_be_left(video: Path) -> None:
    with Prefetch(VideoSource(video, SHAPE, hop=4, loop=True)) as clips:
        next(clips)
    assert not clips._thread.is_alive()
