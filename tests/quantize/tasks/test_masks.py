"""Moving shapes with masks: repeatable, masks where the shapes are; loss and metrics of the segmentation task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from spikeloom.quantize.masks import CLASSES, MaskClips
from spikeloom.quantize.models import SpikeVideoFormer, named_config
from spikeloom.quantize.tasks import get_task
from spikeloom.quantize.tasks.masks import IGNORED, classes_of, segment_loss

FRAMES_MEAN = 93.353
PIXELS = [36864, 5076, 3598, 3614]


def test_a_clip_is_a_function_of_split_seed_and_index() -> None:
    clips = MaskClips()
    batch, classes = clips.batch([5, 900, 2], "test", 3)
    one, alone = clips.batch([900], "test", 3)
    assert np.array_equal(batch[1], one[0])
    assert np.array_equal(classes[1], alone[0])
    for other in (("test", 3, 901), ("train", 3, 900), ("test", 4, 900)):
        assert not np.array_equal(clips.batch([other[2]], other[0], other[1])[0], one)


def test_clips_do_not_change_unnoticed() -> None:
    """IoUs reported hold for these very clips; last bits of float32 may round apart on other machines."""
    frames, classes = MaskClips().batch(range(6))
    assert frames.shape == (6, 8, 32, 32, 3)
    assert classes.shape == (6, 8, 32, 32)
    assert frames.mean() == pytest.approx(FRAMES_MEAN, abs=0.01)
    assert np.bincount(classes.ravel()).tolist() == pytest.approx(PIXELS, abs=3)


def test_masks_are_where_the_shapes_are() -> None:
    """Without noise and clutter, all shapes are lighter than the background, and each class has its own colour."""
    frames, classes = MaskClips(noise=0.0, clutter=0).batch(range(30))
    for clip, mask in zip(frames.astype(float), classes, strict=True):
        ground = clip[mask == 0].mean()
        for kind in (2, 3):
            inside = clip[mask == kind].mean(-1)
            assert not len(inside) or np.median(inside) > ground + 30
            assert len(inside) < 20 or np.percentile(inside, 75) - np.percentile(inside, 25) < 25
        assert np.median(clip[mask == 1].mean(-1)) > ground + 10
    assert (np.bincount(classes.ravel(), minlength=4) > 0.03 * classes.size).all()


def test_shapes_move_and_hide_each_other_in_any_order() -> None:
    _, classes = MaskClips().batch(range(40))
    assert all((first != last).any() for first, last in zip(classes[:, 0], classes[:, -1], strict=True))
    visible = np.stack([(classes == kind).sum((1, 2, 3)) for kind in range(1, 4)])
    assert (visible.min(1) < 0.6 * np.median(visible, axis=1)).all()


def test_metrics_are_those_of_the_predictor() -> None:
    """True masks at the head's resolution: what enlarging costs; and a predictor that sees background everywhere."""
    task = get_task(named_config("masks"))
    clips, targets = task.batch(range(20), "test", 0)
    known = {clip.tobytes(): mask for clip, mask in zip(clips, targets["classes"], strict=True)}

    def predict(clips: np.ndarray) -> np.ndarray:
        masks = np.stack([known[clip.tobytes()] for clip in clips])[:, :, ::2, ::2]
        return np.moveaxis(np.eye(4)[masks], (0, 4), (1, 2))

    report = task.evaluate(predict, n=20, batch=7)
    low, high = report["mean_iou"]["interval"]
    assert 0.7 < low < report["mean_iou"]["value"] < high < 0.95
    nothing = task.evaluate(lambda clips: np.eye(4)[0][None, None, :, None, None] * np.ones((8, len(clips), 1, 16, 16)),
                            n=20)
    assert [round(nothing["iou"][name], 6) for name in CLASSES[1:]] == [0, 0, 0]
    assert nothing["pixels"]["value"] == pytest.approx(nothing["iou"]["background"])


def test_loss_and_shape_of_the_model() -> None:
    config = named_config("masks")
    task, model = get_task(config), SpikeVideoFormer(config).eval()
    clips, arrays = task.batch(range(2), "train", 0)
    targets = {name: torch.from_numpy(values) for name, values in arrays.items()}
    with torch.no_grad():
        outputs = model(model.normalise(torch.from_numpy(clips)).transpose(0, 1))
    assert outputs.shape == (8, 2, 4, 16, 16)
    assert task.loss(model, outputs, targets).isfinite()


def test_loss_ignores_pixels_without_class() -> None:
    logits = torch.zeros(1, 1, 4, 2, 2)
    logits[0, 0, 1, 0, 0] = 50.0
    classes = torch.full((1, 1, 4, 4), IGNORED, dtype=torch.uint8)
    classes[0, 0, :2, :2] = 1
    assert segment_loss(logits, classes) < 1e-6
    classes[0, 0, 3, 3] = 1
    assert segment_loss(logits, classes) > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MaskClips(size=16), "`size` must be at least 24, not `16`"),
        (lambda: MaskClips(frames=0), "`frames` must be at least 1, not `0`"),
        (lambda: MaskClips().batch([0], "dev"), "`split` must be one of train, val, test, not `'dev'`"),
        (lambda: MaskClips().batch([0], "test", -1), "`indices` and `seed` must not be negative"),
        (lambda: classes_of(np.zeros((1, 1, 4, 16, 16)), (40, 40)), "`size` must be a multiple of the logits'"),
        (lambda: get_task(replace(named_config("masks"), classes=3)), "head `segment` with 4 classes, not head"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
