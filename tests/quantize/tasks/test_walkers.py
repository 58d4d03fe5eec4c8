"""Walking figures: repeatable, drawn where their joints are; loss and metrics of the pose task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spikeloom.quantize.models import SpikeVideoFormer, named_config
from spikeloom.quantize.tasks import get_task
from spikeloom.quantize.walkers import JOINTS, WalkerClips

FRAMES_MEAN = 59.4946
JOINTS_MEAN = 0.52810
PLAIN = WalkerClips(size=64, noise=0.0, clutter=0)
LEFT = [JOINTS.index(f"left_{name}") for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")]
RIGHT = [JOINTS.index(f"right_{name}") for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")]


def test_a_clip_is_a_function_of_split_seed_and_index() -> None:
    clips = WalkerClips()
    batch, joints = clips.batch([5, 900, 2], "test", 3)
    one, alone = clips.batch([900], "test", 3)
    assert np.array_equal(batch[1], one[0])
    assert np.allclose(joints[1], alone[0], atol=1e-6)
    for other in (("test", 3, 901), ("train", 3, 900), ("test", 4, 900)):
        assert not np.array_equal(clips.batch([other[2]], other[0], other[1])[0], one)


def test_clips_do_not_change_unnoticed() -> None:
    """Errors reported hold for these very clips; last bits of float32 may round apart on other machines."""
    frames, joints = WalkerClips().batch(range(6))
    assert frames.shape == (6, 8, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert joints.shape == (6, 8, 13, 2)
    assert frames.mean() == pytest.approx(FRAMES_MEAN, abs=0.01)
    assert joints.mean() == pytest.approx(JOINTS_MEAN, abs=1e-4)


def at(frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Grey level [B, T, n] of frames at places [B, T, n, 2] over the frame's size."""
    pixels = np.clip((places * frames.shape[2]).astype(int), 0, frames.shape[2] - 1)
    b, t = np.ogrid[: len(frames), : frames.shape[1]]
    return frames[b[..., None], t[..., None], pixels[..., 1], pixels[..., 0]].mean(-1)


def test_joints_are_where_the_figure_is() -> None:
    """Figures are lighter than their background, but for the far side."""
    frames, joints = PLAIN.batch(range(30))
    ground = np.median(frames.mean(-1), axis=(2, 3))[..., None]
    head = at(frames, joints[:, :, :1])
    assert (head > ground + 25).mean() > 0.97
    assert (at(frames, 1 - joints[:, :, :1]) > ground + 25).mean() < 0.2


def test_the_far_side_is_darker_and_follows_the_heading() -> None:
    """Middle of the shins where they are apart: right is near for figures that go right, left for the others."""
    frames, joints = PLAIN.batch(range(60))
    goes_right = joints[:, -1, 0, 0] > joints[:, 0, 0, 0]
    shins = [(joints[:, :, side[4]] + joints[:, :, side[5]]) / 2 for side in (LEFT, RIGHT)]
    apart = np.abs(shins[0] - shins[1]).max(-1) > 0.12
    left, right = (at(frames, shin[:, :, None])[..., 0] for shin in shins)
    lighter = np.where(goes_right[:, None], right > left, left > right)
    assert apart.sum() > 100
    assert lighter[apart].mean() > 0.97
    assert 15 < goes_right.sum() < 45


def test_limbs_keep_their_length_and_the_feet_swing() -> None:
    clips = replace(PLAIN, turn=0.0)
    _, joints = clips.batch(range(20))
    for hip, knee in ((LEFT[3], LEFT[4]), (RIGHT[3], RIGHT[4]), (LEFT[4], LEFT[5])):
        length = np.linalg.norm(joints[:, :, hip] - joints[:, :, knee], axis=-1)
        assert np.allclose(length, length[:, :1], atol=1e-5)
    stride = joints[:, :, LEFT[5], 0] - joints[:, :, RIGHT[5], 0]
    assert (np.ptp(stride, axis=1) > 0.05).all()


def test_metrics_are_those_of_the_predictor() -> None:
    """A predictor that is off by 3 % of the frame in x: PA-MPJPE does not see it."""
    task = get_task(named_config("walkers"))
    clips, targets = task.batch(range(20), "test", 0)
    known = {clip.tobytes(): joints for clip, joints in zip(clips, targets["joints"], strict=True)}

    def predict(clips: np.ndarray) -> np.ndarray:
        joints = np.stack([known[clip.tobytes()] for clip in clips]) + np.array([0.03, 0.0])
        return joints.reshape(len(clips), 8, 26).swapaxes(0, 1)

    report = task.evaluate(predict, n=20, batch=7)
    assert report["mpjpe"]["percent"] == pytest.approx(3)
    assert report["pa_mpjpe"]["percent"] == pytest.approx(0, abs=1e-4)


def test_loss_and_shape_of_the_model() -> None:
    config = named_config("walkers")
    task, model = get_task(config), SpikeVideoFormer(config).eval()
    clips, arrays = task.batch(range(2), "train", 0)
    targets = {name: torch.from_numpy(values) for name, values in arrays.items()}
    with torch.no_grad():
        outputs = model(model.normalise(torch.from_numpy(clips)).transpose(0, 1))
    assert outputs.shape == (8, 2, 26)
    perfect = targets["joints"].transpose(0, 1).flatten(2)
    assert task.loss(model, perfect, targets) == 0
    assert task.loss(model, outputs, targets) > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WalkerClips(size=8), "`size` must be at least 16, not `8`"),
        (lambda: WalkerClips(frames=0), "`frames` must be at least 1, not `0`"),
        (lambda: WalkerClips().batch([0], "dev"), "`split` must be one of train, val, test, not `'dev'`"),
        (lambda: WalkerClips().batch([-1]), "`indices` and `seed` must not be negative"),
        (lambda: get_task(replace(named_config("walkers"), classes=34)), "head `pose` with 26 outputs, not head"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
