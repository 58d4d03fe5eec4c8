"""Metrics against cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spikeloom.quantize.tasks.metrics import (
    bootstrap,
    class_iou,
    confusion,
    joint_errors,
    mean_iou,
    procrustes,
    topk_hits,
)

RNG = np.random.default_rng(3)
POINTS = RNG.normal(size=(2, 3, 13, 2))


def test_procrustes_undoes_turn_scale_and_shift() -> None:
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    moved = 2.5 * POINTS @ turn.T + np.array([4.0, -1.0])
    assert np.allclose(procrustes(POINTS, moved), moved)


def test_procrustes_leaves_out_what_is_not_seen() -> None:
    seen = RNG.random(POINTS.shape[:-1]) < 0.7
    spoilt = np.where(seen[..., None], 2 * POINTS + 1, 100.0)
    assert np.allclose(procrustes(POINTS, spoilt, seen)[seen], spoilt[seen])


def test_procrustes_does_not_mirror() -> None:
    mirrored = POINTS * np.array([-1, 1])
    assert joint_errors(procrustes(POINTS, mirrored), mirrored).min() > 0.3


def test_procrustes_is_best() -> None:
    """No other turn and scale comes closer: numerical gradient at the optimum."""
    other = POINTS + 0.3 * RNG.normal(size=POINTS.shape)
    placed = procrustes(POINTS, other)
    least = ((placed - other) ** 2).sum()
    about = other.mean(-2, keepdims=True)
    for angle, scale in ((0.02, 1.0), (-0.02, 1.0), (0.0, 1.02), (0.0, 0.98)):
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        assert (((placed - about) @ turn.T + about - other) ** 2).sum() > least


def test_joint_errors_count_seen_joints_only() -> None:
    true = np.zeros((2, 1, 2, 2))
    found = np.array([[[[3.0, 4.0], [0.0, 1.0]]], [[[6.0, 8.0], [0.0, 0.0]]]])
    assert joint_errors(found, true).tolist() == [3.0, 5.0]
    seen = np.array([[[True, False]], [[False, False]]])
    errors = joint_errors(found, true, seen)
    assert errors[0] == 5.0
    assert np.isnan(errors[1])


def test_iou_by_hand() -> None:
    true = np.array([[[0, 0, 1], [1, 1, 255]]])
    found = np.array([[[0, 1, 1], [1, 0, 2]]])
    matrix = confusion(found, true, 3)
    assert matrix[0].tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert class_iou(matrix[0])[:2].tolist() == [1 / 3, 0.5]
    assert np.isnan(class_iou(matrix[0])[2])
    assert mean_iou(matrix[0]) == pytest.approx((1 / 3 + 0.5) / 2)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    """Of 200 samples from a known distribution; 95 % nominal, a little less for a percentile interval."""
    inside = 0
    for _ in range(200):
        low, high = bootstrap(RNG.exponential(size=60), lambda means: means)
        inside += low < 1 < high
    assert 170 <= inside <= 198
    assert bootstrap(np.ones(5), lambda means: means) == (1.0, 1.0)


def test_topk() -> None:
    logits = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [1, 1, 0, 0]])
    labels = np.array([1, 0, 1])
    assert [topk_hits(logits, labels, k) for k in (1, 2, 4)] == [0, 2, 3]
