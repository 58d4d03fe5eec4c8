"""The task of moving digits: the generator's clips, the loss, the metrics of any predictor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from spikeloom.quantize.models import SpikeVideoFormer, named_config
from spikeloom.quantize.tasks import get_task


def test_metrics_are_those_of_the_predictor() -> None:
    """A predictor that knows all digits, and always says `right`."""
    task = get_task(named_config("micro"))
    clips, targets = task.batch(range(50), "test", 3)
    assert clips.shape == (50, 4, 16, 16, 3)
    known = {clip.tobytes(): digit for clip, digit in zip(clips, targets["digit"], strict=True)}

    def predict(clips: np.ndarray) -> np.ndarray:
        logits = np.zeros((len(clips), 14))
        for row, clip in zip(logits, clips, strict=True):
            row[known[clip.tobytes()]] = row[10] = 1
        return logits

    report = task.evaluate(predict, n=50, seed=3, batch=7)
    assert (report["split"], report["seed"], report["n"]) == ("test", 3, 50)
    assert report["digit"]["hits"] == 50
    assert report["direction"]["hits"] == (targets["direction"] == 0).sum()
    low, high = report["direction"]["interval"]
    assert low < report["direction"]["accuracy"] < high


def test_loss_falls_with_the_right_answer() -> None:
    config = named_config("micro")
    task, model = get_task(config), SpikeVideoFormer(config)
    targets = {name: torch.from_numpy(values) for name, values in task.batch(range(5), "train", 0)[1].items()}
    right = torch.zeros(5, 14)
    for column, name in ((0, "digit"), (10, "direction")):
        right[torch.arange(5), column + targets[name]] = 5.0
    assert task.loss(model, right, targets) < task.loss(model, torch.zeros(5, 14), targets)


def test_digits_alone() -> None:
    """A network that is asked one question: targets, loss and metrics are those of that one."""
    config: Any = replace(named_config("micro"), classes=10, tasks=(("digit", 10),))
    task, model = get_task(config), SpikeVideoFormer(config)
    clips, targets = task.batch(range(6), "test", 0)
    assert targets.keys() == {"digit"}
    outputs, answers = torch.randn(6, 10), torch.from_numpy(targets["digit"])
    loss = task.loss(model, outputs, {"digit": answers})
    assert torch.equal(loss, torch.nn.functional.cross_entropy(outputs, answers, label_smoothing=0.05))
    report = task.evaluate(lambda clips: np.eye(10)[targets["digit"]], n=len(clips))
    assert (report["digit"]["hits"], report.keys()) == (6, {"split", "seed", "n", "scans", "digit"})


def test_other_networks_have_no_such_task() -> None:
    with pytest.raises(ValueError, match="`config` must have square frames and the tasks of moving digits"):
        get_task(named_config("15M"))
