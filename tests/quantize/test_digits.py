"""Moving digits: repeatable, honestly split, showing what they say; and the network trained on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from spikeloom.quantize.digits import DIRECTIONS, SPLIT_SIZES, SPLITS, DigitClips, scans
from spikeloom.quantize.inference import FromPixels, predictor
from spikeloom.quantize.model_files import load
from spikeloom.quantize.tasks import get_task

DIGITS = [5, 9, 1, 2, 5, 8]
MOVES = [3, 1, 3, 0, 1, 3]
MEAN = 52.7974


def test_no_scan_is_in_two_splits() -> None:
    seen = [{image.tobytes() for image in scans(split)[0]} for split in SPLITS]
    assert tuple(len(scans(split)[1]) for split in SPLITS) == SPLIT_SIZES
    assert sum(len(s) for s in seen) == len(set.union(*seen)) == sum(SPLIT_SIZES)
    assert set(scans("test")[1]) == set(range(10))


def test_a_clip_is_a_function_of_split_seed_and_index() -> None:
    clips = DigitClips()
    batch, digits, directions = clips.batch([5, 900, 2], "test", 3)
    one, digit, direction = clips.clip(900, "test", 3)
    assert np.array_equal(batch[1], one)
    assert (digits[1], directions[1]) == (digit, direction)
    for other in (clips.clip(901, "test", 3), clips.clip(900, "train", 3), clips.clip(900, "test", 4)):
        assert not np.array_equal(other[0], one)


def test_clips_do_not_change_unnoticed() -> None:
    """Accuracy figures hold for these very clips; last bits of float32 may round apart on other machines."""
    frames, digits, directions = DigitClips().batch(range(6), "test", 0)
    assert frames.shape == (6, 8, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert digits.tolist() == DIGITS
    assert directions.tolist() == MOVES
    assert frames.mean() == pytest.approx(MEAN, abs=1e-3)



def test_the_digit_moves_the_way_it_says() -> None:
    clips = DigitClips(noise=0.0, clutter=0, offset=0.0)
    frames, _, directions = clips.batch(range(40))
    light = frames.astype(float).mean(-1)
    light = np.maximum(light - np.median(light, axis=(2, 3), keepdims=True) - 40, 0)
    axis = np.arange(32)
    for clip, direction in zip(light, directions, strict=True):
        y = (clip.sum(2) @ axis) / clip.sum((1, 2))
        x = (clip.sum(1) @ axis) / clip.sum((1, 2))
        step = {"right": x[-1] - x[0], "left": x[0] - x[-1], "down": y[-1] - y[0], "up": y[0] - y[-1]}
        assert max(step, key=lambda name: step[name]) == DIRECTIONS[direction]


def test_directions_and_digits_are_balanced() -> None:
    _, digits, directions = DigitClips(size=16, frames=2).batch(range(800), "test")
    assert np.bincount(directions).min() > 160
    assert np.bincount(digits).min() > 40


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scans("dev"), "`split` must be one of train, val, test, not `'dev'`"),
        (lambda: DigitClips(size=8), "`size` must be at least 16, not `8`"),
        (lambda: DigitClips(frames=1), "`frames` must be at least 2, not `1`"),
        (lambda: DigitClips().clip(-1), "`indices` and `seed` must not be negative"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_committed_network_is_as_good_as_its_report() -> None:
    """The report's figure is over 2,000 clips; a hundred of them must be in keeping with it."""
    path = Path(__file__).parents[2] / "quantize" / "zoo" / "digits"
    report = json.loads(path.with_suffix(".json").read_text())
    assert report["test"]["digit"]["accuracy"] >= 0.93
    assert report["test"]["direction"]["accuracy"] >= 0.99
    model = load(path)
    found = get_task(model.config).evaluate(predictor(FromPixels(model)), n=100)
    assert found["digit"]["hits"] >= 90
    assert found["direction"]["hits"] >= 97
