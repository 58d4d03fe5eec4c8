"""Trained networks of the tasks: better than guessing by far, as float and as integer networks."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("sklearn")

from spikeloom.quantize.convert import ZOO, calibration_clips, load_any
from spikeloom.quantize.inference import FromPixels, integer_predictor, predictor
from spikeloom.quantize.quantizer import quantize
from spikeloom.quantize.tasks import get_task

CLIPS = 16


def correct(report):
    return report["digit"]["accuracy"]


@pytest.mark.parametrize(("name", "metric", "worst", "apart"), [
    ("walkers", lambda report: -report["mpjpe"]["percent"], -4.5, 0.2),
    ("masks", lambda report: report["mean_iou"]["value"], 0.6, 0.02),
    *((f"v{generation}-digits", correct, 0.8, 0.1) for generation in (1, 2, 3))])
def test_trained_networks(name, metric, worst, apart):
    model = load_any(name)
    task = get_task(model.config)
    network, _ = quantize(model, calibration_clips(model.config, count=8))
    real, integer = (metric(task.evaluate(predict, n=CLIPS, split="test", batch=CLIPS))
                     for predict in (predictor(FromPixels(model).eval()), integer_predictor(network)))
    assert min(real, integer) > worst
    assert abs(real - integer) < apart
    told = json.loads((ZOO / f"{name}.json").read_text())
    assert abs(real - metric(told["test"])) < 5 * apart
    assert (ZOO / f"{name}.safetensors").stat().st_size < (0.5e6 if "digits" in name else 1.2e6)
