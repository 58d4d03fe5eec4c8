"""Runs on `micro`: repeated, interrupted and resumed, in two processes; and what they write."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from spikeloom.network import Network
from spikeloom.quantize.checkpoints.architectures import ARCHITECTURES, build_model, family_with
from spikeloom.quantize.convert import load_any, quantize
from spikeloom.quantize.inference import FromPixels, integer_predictor, predictor
from spikeloom.quantize.model_files import load, load_formats
from spikeloom.quantize.models import named_config
from spikeloom.quantize.qat import QuantizationAware
from spikeloom.quantize.training import ConfigError, Evaluation, Qat, RunConfig, Schedule, load_config, train
from spikeloom.quantize.training.optimiser import rate_factor

MICRO = RunConfig(
    model=named_config("micro"), schedule=Schedule(steps=5, batch=4),
    evaluation=Evaluation(clips=8, watch=2, watch_clips=4))
QAT = replace(MICRO, qat=Qat(weight_bits=4, clips=2, refresh=2, freeze=1.0))
SMALL: dict[str, Any] = {"height": 16, "width": 16, "frames": 4}
V1 = replace(MICRO, model=replace(ARCHITECTURES["v1-digits"].config, dim=16, depth=1, **SMALL))
V3 = replace(MICRO, model=replace(ARCHITECTURES["v3-digits"].config, widths=(8, 8, 8, 16), **SMALL))


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def log_of(directory: Path) -> list[list[str]]:
    with (directory / "log.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_rate_warms_up_and_ends_at_zero() -> None:
    schedule = Schedule(steps=100, warmup=0.1)
    factors = [rate_factor(step, schedule) for step in range(101)]
    assert factors[9] == factors[10] == 1
    assert factors[0] == 0.1
    assert factors[-1] == pytest.approx(0)
    assert factors[10:] == sorted(factors[10:], reverse=True)


@pytest.mark.parametrize("config", [MICRO, QAT, V1, V3], ids=["float", "qat", "v1", "v3"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, config: RunConfig) -> None:
    """Stopped after step 3, between two choices of formats, by Ctrl-C; random numbers drawn meanwhile do not count."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, whole)

    def interrupt(step: int) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, parts, after_step=interrupt)
    assert not (parts / "model.safetensors").exists()
    torch.rand(5)
    report = train(config, parts, resume=True)
    assert weights(parts) == weights(whole)
    assert log_of(parts) == log_of(whole)
    assert report["test"] == json.loads((whole / "model.json").read_text())["test"]


def test_what_a_run_writes(tmp_path: Path) -> None:
    report = train(MICRO, tmp_path, command="spikeloom train micro.toml --out x")
    model, stored = load(tmp_path / "model"), json.loads((tmp_path / "model.json").read_text())
    assert model.config == named_config("micro")
    assert not model.training
    assert load_formats(tmp_path / "model") is None
    assert stored == {"config": json.loads(json.dumps(model.config.to_dict())), "family": "spikevideoformer", **report}
    assert stored["test"] == MICRO.make_task().evaluate(predictor(FromPixels(model)), n=8)
    names = {row[1] for row in log_of(tmp_path)[1:]}
    assert names == {"train.loss", "train.gradient", "train.rate", "val.digit.accuracy", "val.direction.accuracy"}
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: there is a run already; resume it or take another"):
        train(MICRO, tmp_path)
    with pytest.raises(ConfigError, match=r"the run was started with another `schedule\.seed`"):
        train(replace(MICRO, schedule=replace(MICRO.schedule, seed=3)), tmp_path, resume=True)


@pytest.mark.parametrize("config", [V1, V3], ids=["v1", "v3"])
def test_relatives_are_trained_and_read_back(tmp_path: Path, config: RunConfig) -> None:
    """All weights move, by their gradient alone, but those that the forward pass does not use."""
    torch.manual_seed(config.schedule.seed)
    before = build_model(config.model).state_dict()
    report = train(replace(config, schedule=replace(config.schedule, decay=0.0)), tmp_path)
    model = load_any(tmp_path / "model.safetensors")
    assert (type(model), model.config) == (family_with(config.model).model, config.model)
    assert report["test"].keys() == {"split", "seed", "n", "scans", *config.model.task_slices}
    still = {name for name, parameter in model.named_parameters()
             if name.endswith("weight") and parameter.dim() > 1 and torch.equal(parameter, before[name])}
    assert still == {name for name in before if "talking_heads" in name}


@pytest.mark.parametrize("name", ["walkers", "masks"])
def test_other_tasks_are_trained_by_the_same_script(tmp_path: Path, name: str) -> None:
    config = load_config(name)
    schedule = replace(config.schedule, steps=1, batch=2)
    report = train(replace(config, schedule=schedule, evaluation=Evaluation(clips=2)), tmp_path)
    assert report["training"]["model"]["head"] == config.model.head != "class"
    assert report["test"]["n"] == 2


def test_the_integer_network_of_a_run_is_what_was_trained(tmp_path: Path) -> None:
    """From the files of a quantisation-aware run to the same outputs, bit for bit."""
    report = train(QAT, tmp_path)
    with pytest.raises(ValueError, match="`weight_bits` must be those of `formats`, 4, not `8`"):
        quantize(tmp_path / "model.safetensors", tmp_path / "network", weight_bits=8)
    assert quantize(tmp_path / "model.safetensors", tmp_path / "network", count=2).weight_bits == 4
    predict, task = integer_predictor(Network.load(tmp_path / "network")), QAT.make_task()
    assert task.evaluate(predict, n=8) == report["test"]
    clips, _ = task.batch(range(4), "test", 1)
    trained = predictor(QuantizationAware(load(tmp_path / "model"), load_formats(tmp_path / "model")))(clips)
    assert np.array_equal(trained, predict(clips).astype(np.float32))


def test_tensorboard_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    train(replace(MICRO, schedule=Schedule(steps=1, batch=2)), tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: no such file, so there is nothing to resume"):
        train(MICRO, tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK damaged")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: cannot read the checkpoint"):
        train(MICRO, tmp_path, resume=True)


def test_weights_to_begin_with_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`model\.start`: the weights of digits do not fit the network: size"):
        train(replace(MICRO, start="digits"), tmp_path)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    """Same loss, gradients and norm statistics, to rounding; Adam's first moment is a tenth of the gradient."""
    path = tmp_path / "micro.toml"
    path.write_text('model.config = "micro"\nschedule = {steps = 1, batch = 4, float32 = 1.0}\nevaluation.clips = 1\n')
    train(path, tmp_path / "one", device="cpu")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "spikeloom.quantize.training", str(path), "--out", str(tmp_path / "two"), "--device", "cpu"]
    result = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two"))
    assert one["model"].keys() == two["model"].keys()
    for name, value in one["model"].items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(two["model"][name], value, rtol=1e-4, atol=1e-5)
    moments = [state["optimiser"]["state"].values() for state in (one, two)]
    largest = max(float(entry["exp_avg"].abs().max()) for entry in moments[0])
    assert largest > 1e-3
    for expected, found in zip(*moments, strict=True):
        torch.testing.assert_close(found["exp_avg"], expected["exp_avg"], rtol=1e-3, atol=1e-4 * largest)


def test_a_batch_must_divide_among_processes() -> None:
    from spikeloom.quantize.training.distributed import World

    here = World(device=torch.device("cpu"), rank=1, size=2)
    assert here.part(6) == slice(3, 6)
    with pytest.raises(ValueError, match=r"`schedule\.batch` must be a multiple of the 2 processes, not `5`"):
        here.part(5)
