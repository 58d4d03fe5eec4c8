"""Data sets on disk: tiny ones are written, read through the project's decoder, and broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.quantize.models import named_config
from spikeloom.quantize.tasks import get_task
from spikeloom.quantize.tasks.files import DataError, choose, read_mask, to_frame
from spikeloom.quantize.tasks.keypoints import read_split
from spikeloom.quantize.tasks.videos import listing
from spikeloom.video import VideoError

av = pytest.importorskip("av")

MICRO = named_config("micro")


def write_png(path: Path, picture: np.ndarray) -> Path:
    """uint8[H, W] (grey) or uint8[H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "gray" if picture.ndim == 2 else "rgb24"
    codec = av.codec.CodecContext.create("png", "w")
    codec.height, codec.width, codec.pix_fmt, codec.time_base = *picture.shape[:2], kind, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=kind)
    path.write_bytes(b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)]))
    return path


def plain(level: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A picture of one grey level, its left half darker by 10."""
    picture = np.full((height, width, 3), level, np.uint8)
    picture[:, : width // 2] -= 10
    return picture


def flag(clips: np.ndarray) -> np.ndarray:
    """Grey level at the right border of the first frames."""
    return clips[:, 0, 0, -1, 0]


# classification

CLASSES = replace(MICRO, classes=3, tasks=())


@pytest.fixture
def folders(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """Class `b` has grey levels 50, 60, class `a` 90, class `c` 120, of 6 frames each."""
    for label, name, level in (("b", "x", 50), ("b", "y", 60), ("a", "z", 90), ("c", "w", 120)):
        write_video(tmp_path / "train" / label / f"{name}.mkv", [plain(level)] * 6)
    write_video(tmp_path / "val" / "c" / "v.mkv", [plain(150)] * 6)
    return tmp_path


def test_folder_of_classes(folders: Path) -> None:
    given: Any = get_task(CLASSES, folders)
    task = replace(given, mirror=False)
    assert task.names == ("a", "b", "c")
    clips, targets = task.batch(range(8), "train", 0)
    assert clips.shape == (8, 4, 16, 16, 3)
    assert [{90: 0, 50: 1, 60: 1, 120: 2}[level] for level in flag(clips)] == targets["label"].tolist()
    assert sorted(flag(clips)[:4]) == sorted(flag(clips)[4:]) == [50, 60, 90, 120]
    mirrored, _ = replace(task, mirror=True).batch(range(8), "train", 0)
    assert set(flag(clips).astype(int) - flag(mirrored)) == {0, 10}
    report = task.evaluate(lambda clips: np.array([[0.1, 0.0, 0.05]] * len(clips)), split="val")
    assert (report["n"], report["top1"]["hits"], report["top5"]["hits"]) == (1, 0, 1)


def test_kinetics_csv(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    head = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.csv").write_text(
        head + '"playing a, b",-abc_1,3,13,train\nrunning,xyz,10,20,train\n')
    first = write_video(tmp_path / "train" / "-abc_1_000003_000013.mp4", [plain(40)] * 4)
    second = write_video(tmp_path / "train" / "running" / "xyz_000010_000020.mp4", [plain(80)] * 4)
    assert listing(tmp_path, "train") == ((first, "playing a, b"), (second, "running"))
    clips, targets = get_task(replace(CLASSES, classes=2), tmp_path).batch([0, 1], "train", 1)
    assert sorted(zip(flag(np.maximum(clips, clips[:, :, :, ::-1])).tolist(), targets["label"].tolist(), strict=True)) \
        == [(40, 0), (80, 1)]


def test_csv_of_paths(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text("path,label\nany/where.mkv,jump\n")
    assert listing(tmp_path, "val") == ((tmp_path / "any/where.mkv", "jump"),)


@pytest.mark.parametrize(("text", "message"), [
    ("name,label\nx,y\n", r"train\.csv: line 1: no column `youtube_id`, only name, label"),
    ("path,kind\nx,y\n", r"train\.csv: line 1: no column `label`"),
    ("path,label\nx,y\nz\n", r"train\.csv: line 3: too few values"),
    ("path,label\n", r"train\.csv: no videos"),
    ("label,youtube_id,time_start,time_end\na,b,1,soon\n", r"train\.csv: line 2: times must be whole seconds")])
def test_refused_csv(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        listing(tmp_path, "train")


def test_refused_videos(folders: Path, write_video: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="3 classes; the network has head `class` with 5 outputs"):
        get_task(replace(CLASSES, classes=5), folders)
    with pytest.raises(DataError, match=r"neither test\.csv nor files test/<class>/<video>"):
        listing(folders, "test")
    task = get_task(CLASSES, folders)
    with pytest.raises(ValueError, match=r"`indices` must lie in 0\.\.0 for split val"):
        task.batch([1], "val", 0)
    broken = folders / "val" / "c" / "v.mkv"
    broken.write_bytes(broken.read_bytes()[:600])
    with pytest.raises(VideoError, match=r"v\.mkv: "):
        task.batch([0], "val", 0)
    broken.unlink()
    with pytest.raises(VideoError, match=r"v\.mkv: no such file"):
        task.batch([0], "val", 0)
    write_video(folders / "test" / "d" / "u.mkv", [plain(99)])
    with pytest.raises(DataError, match=r"u\.mkv: its class `d` does not occur in the training split"):
        task.batch([0], "test", 0)


def test_every_epoch_shows_every_sample_in_an_order_of_its_own() -> None:
    shown = choose(range(50), range(150), "train", 3)
    epochs = [shown[start:start + 50] for start in (0, 50, 100)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert choose(range(50), [60, 7], "train", 3) == [shown[60], shown[7]]


# segmentation

SEGMENT = replace(MICRO, head="segment", tasks=(), classes=3, head_width=8, strides=(2, 1, 2, 2, 1))


@pytest.fixture
def city(tmp_path: Path) -> Path:
    """A sequence of frames 10..19, masks of frames 17 and 19; the mask's classes are its columns' thirds."""
    for number in range(10, 20):
        write_png(tmp_path / f"leftImg8bit_sequence/train/ulm/ulm_000001_{number:06d}_leftImg8bit.png",
                  plain(10 * number))
    mask = np.repeat(np.array([[0, 1, 2, 255]], np.uint8), 24, axis=0).repeat(8, axis=1)
    for number in (17, 19):
        write_png(tmp_path / f"gtFine/train/ulm/ulm_000001_{number:06d}_gtFine_labelTrainIds.png", mask)
    return tmp_path


def test_cityscapes(city: Path) -> None:
    task = get_task(SEGMENT, city)
    clips, targets = task.batch([0], "train", 0)
    last = clips[0, -1, 0, -1, 0]
    assert clips[0, :, 0, -1, 0].tolist() == [last - 30, last - 20, last - 10, last]
    classes = targets["classes"]
    assert classes.shape == (1, 4, 16, 16)
    assert {int(last)} <= {170, 190}
    both, known = task.batch([0, 1], "train", 0)[1]["classes"], [170, 190].index(int(last))
    assert (both[known, :3] == 255).all() == (known == 0)
    # 24 x 32 is scaled to 16 x 21 and cut to 16 columns: from column 2 of 21
    assert classes[0, -1, 5].tolist() == [0] * 3 + [1] * 5 + [2] * 6 + [255] * 2
    report = task.evaluate(lambda clips: np.ones((4, len(clips), 3, 8, 8)), split="train")
    assert report["iou"] == {"0": pytest.approx(3 / 14), "1": 0, "2": 0}


def test_masks_and_pictures_are_aligned(tmp_path: Path) -> None:
    """A bright square: the picture is bright where the mask says so, up to the border."""
    picture, mask = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), np.uint8)
    picture[3:22, 12:40], mask[3:22, 12:40] = 200, 1
    write_png(tmp_path / "leftImg8bit/train/x/x_000000_000000_leftImg8bit.png", picture)
    write_png(tmp_path / "gtFine/train/x/x_000000_000000_gtFine_labelTrainIds.png", mask)
    clips, targets = get_task(replace(SEGMENT, frames=1), tmp_path).batch([0], "train", 0)
    bright, inside = clips[0, 0, :, :, 0] > 100, targets["classes"][0, 0] == 1
    assert (bright != inside).mean() < 0.05
    assert inside.sum() > 50


@pytest.mark.parametrize(("name", "picture", "message"), [
    ("ulm_000001_000019", np.full((24, 32), 7, np.uint8), "class 7; the network has 3, 255 is ignored"),
    ("ulm_000001_000019", np.zeros((24, 32, 3), np.uint8), "a mask must be an 8-bit grey picture"),
    ("ulm_000001_000012", np.zeros((24, 32), np.uint8), r"ulm_000001_000009_leftImg8bit\.png: no such file"),
    ("ulm_last", np.zeros((24, 32), np.uint8), "the name must be <city>_<sequence>_<frame>")])
def test_refused_masks(city: Path, name: str, picture: np.ndarray, message: str) -> None:
    write_png(city / "gtFine" / "train" / "ulm" / f"{name}_gtFine_labelTrainIds.png", picture)
    with pytest.raises(DataError, match=message):
        get_task(SEGMENT, city).batch(range(3), "train", 0)


def test_refused_pictures(city: Path) -> None:
    with pytest.raises(DataError, match="no masks gtFine/val/<city>"):
        get_task(SEGMENT, city).evaluate(lambda clips: clips, split="val")
    broken = city / "gtFine" / "train" / "ulm" / "ulm_000001_000019_gtFine_labelTrainIds.png"
    whole = broken.read_bytes()
    for data in (whole[: len(whole) // 2], b"no picture"):
        broken.write_bytes(data)
        with pytest.raises(VideoError, match=r"ulm_000001_000019_gtFine_labelTrainIds\.png: "):
            read_mask(broken, 16, 16, classes=3, ignored=255)


# poses

POSE = replace(MICRO, head="pose", tasks=(), classes=4)


def pose_data(change: dict | None = None) -> dict:
    """Two joints in frames 1..6 of a video: one goes right by 2 pixels per frame, one is not seen in frame 3."""
    numbers = range(1, 7)
    return {
        "categories": [{"id": 1, "keypoints": ["nose", "hand"]}],
        "videos": [{"id": 5, "file_name": "clips/walk.mkv"}],
        "images": [{"id": 100 + n, "video_id": 5, "frame_id": n} for n in numbers],
        "annotations": [
            {"image_id": 100 + n, "keypoints": [4 + 2 * n, 12, 2, 16, 6, 0 if n == 3 else 1]} for n in numbers],
        **(change or {})}


@pytest.fixture
def pose(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    write_video(tmp_path / "clips" / "walk.mkv", [plain(10 * n + 20) for n in range(8)])
    (tmp_path / "train.json").write_text(json.dumps(pose_data()))
    return tmp_path


def test_keypoints(pose: Path) -> None:
    task = get_task(POSE, pose)
    assert read_split(pose, "train").samples(4) == [(pose / "clips" / "walk.mkv", 1)]
    clips, targets = task.batch([0], "train", 0)
    assert clips[0, :, 0, -1, 0].tolist() == [30, 40, 50, 60]
    # 24 x 32 becomes 16 x 21, of which columns 2..17 are kept
    expected = (np.array([6, 8, 10, 12]) * 21 / 32 - 2) / 16
    assert np.allclose(targets["joints"][0, :, 0, 0], expected)
    assert np.allclose(targets["joints"][0, :, 0, 1], 0.5)
    assert targets["seen"][0].tolist() == [[True, True], [True, True], [True, False], [True, True]]
    perfect = targets["joints"].reshape(1, 4, 4).swapaxes(0, 1)
    report = task.evaluate(lambda clips: perfect + np.array([0.1, 0, 0.1, 0]), split="train")
    assert report["mpjpe"]["percent"] == pytest.approx(10, abs=1e-4)


def test_points_where_the_picture_has_them() -> None:
    """The corners of what is cut out are the corners of the frame."""
    corners = np.array([[10.0, 0.0], [50.0, 40.0]])
    assert to_frame(corners, (40, 60), 20, 20).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(("change", "message"), [
    ({"categories": []}, "not COCO-style keypoints"),
    ({"images": [{"id": 101}]}, "not COCO-style keypoints"),
    ({"annotations": [{"image_id": 7, "keypoints": [1] * 6}]}, "annotation 0: no image 7 of a video"),
    ({"annotations": [{"image_id": 101, "keypoints": [1] * 5}]}, "annotation 0: 5 numbers for 2 joints of 3"),
    ({"annotations": [{"image_id": 101, "keypoints": [1] * 6}] * 2}, "annotation 1: a second person in frame 1"),
    ({"annotations": []}, "no annotations")])
def test_refused_annotations(pose: Path, change: dict, message: str) -> None:
    (pose / "val.json").write_text(json.dumps(pose_data(change)))
    with pytest.raises(DataError, match=rf"val\.json: {message}"):
        read_split(pose, "val")


def test_refused_poses(pose: Path) -> None:
    with pytest.raises(DataError, match=r"test\.json: no such file"):
        read_split(pose, "test")
    (pose / "test.json").write_text("{")
    with pytest.raises(DataError, match=r"test\.json: not COCO-style keypoints"):
        read_split(pose, "test")
    with pytest.raises(DataError, match="2 joints; the network has head `pose` with 6 outputs"):
        get_task(replace(POSE, classes=6), pose)
    with pytest.raises(VideoError, match="frame 8 is needed, but the video ends after 8 frames"):
        get_task(replace(POSE, frames=8), pose).batch([0], "train", 0)
