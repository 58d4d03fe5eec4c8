"""Reading of video files: sampling, cropping, and refusal of everything that is not a whole video."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spikeloom.quantize.video import VideoError, read_clip

av = pytest.importorskip("av")

NASA = Path(__file__).parents[3] / "shared" / "clips" / "nasa_13013.mp4"


def grey(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frame `index` of the test video: grey level 10 * index + 5, left third darker by 5."""
    frame = np.full((height, width, 3), 10 * index + 5, dtype=np.uint8)
    frame[:, : width // 3] = 10 * index
    return frame


@pytest.fixture
def video(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """20 frames of 48 x 64."""
    return write_video(tmp_path / "grey.mkv", [grey(i) for i in range(20)])


def levels(clip: np.ndarray) -> list[int]:
    """Frame numbers shown by a clip of the test video."""
    return [int(frame[-1, -1, 0]) // 10 for frame in clip]


def test_evenly_spread(video: Path) -> None:
    clip = read_clip(video, frames=4, height=48, width=64)
    assert clip.shape == (4, 48, 64, 3)
    assert clip.dtype == np.uint8
    assert levels(clip) == [2, 7, 12, 17]
    np.testing.assert_array_equal(clip[0], grey(2))


def test_start_and_stride(video: Path) -> None:
    assert levels(read_clip(video, frames=3, height=8, width=8, start=5, stride=6)) == [5, 11, 17]
    assert levels(read_clip(video, frames=2, height=8, width=8, start=10)) == [12, 17]


def test_fewer_frames_than_wanted_repeat(video: Path) -> None:
    assert levels(read_clip(video, frames=5, height=8, width=8, start=18)) == [18, 18, 19, 19, 19]


@pytest.mark.parametrize(("height", "width"), [(48, 24), (12, 64), (17, 5), (96, 96), (1, 1)])
def test_any_size(video: Path, height: int, width: int) -> None:
    assert read_clip(video, frames=2, height=height, width=width).shape == (2, height, width, 3)


def test_crop_is_from_the_middle(video: Path) -> None:
    clip = read_clip(video, frames=1, height=48, width=32)
    np.testing.assert_array_equal(clip[0], grey(10)[:, 16:48])


@pytest.mark.parametrize("name", ["frames", "height", "width", "start", "stride"])
def test_arguments(video: Path, name: str) -> None:
    values = {"frames": 2, "height": 8, "width": 8, name: -1}
    with pytest.raises(ValueError, match=f"`{name}` must be at least [01], not `-1`"):
        read_clip(video, **values)


def test_too_few_frames(video: Path) -> None:
    with pytest.raises(VideoError, match="frame 27 is needed, but the video ends after 20 frames"):
        read_clip(video, frames=4, height=8, width=8, stride=9)
    with pytest.raises(VideoError, match="`start` is 20, but the video has 20 frames"):
        read_clip(video, frames=4, height=8, width=8, start=20)


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        read_clip(tmp_path / "nothing.mp4", frames=1, height=8, width=8)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match="the file is empty"):
        read_clip(tmp_path / "empty.mp4", frames=1, height=8, width=8)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(1).bytes(5000))
    with pytest.raises(VideoError, match="not a readable video file"):
        read_clip(tmp_path / "noise.mp4", frames=1, height=8, width=8)


def test_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        tone = np.array([[int(9000 * math.sin(i / 5)) for i in range(8000)]], dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="has no video stream"):
        read_clip(path, frames=1, height=8, width=8)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated(tmp_path: Path, write_video: Callable[..., Path], part: float) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "whole.avi", noise, "mpeg4").read_bytes()
    path = tmp_path / "part.avi"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(VideoError, match=r"part.avi: (truncated|frame \d+)"):
        read_clip(path, frames=4, height=8, width=8)


def test_damaged(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    path = write_video(tmp_path / "whole.mkv", [grey(i) for i in range(20)])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = b"\xa5" * 200
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"frame \d+ (is damaged|cannot be decoded)|ends after|truncated"):
        read_clip(path, frames=20, height=8, width=8, stride=1)


@pytest.mark.skipif(not NASA.exists(), reason="the NASA clip is not at hand")
def test_real_video() -> None:
    clip = read_clip(NASA, frames=8, height=32, width=32)
    assert clip.shape == (8, 32, 32, 3)
    assert clip.std() > 10
    assert not np.array_equal(clip[0], clip[7])
    np.testing.assert_array_equal(clip, read_clip(NASA, frames=8, height=32, width=32))
