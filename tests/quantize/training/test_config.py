"""A configuration says what is wrong with it, by file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from spikeloom.quantize.models import named_config
from spikeloom.quantize.training.config import CONFIGS, ConfigError, Qat, load_config, parse


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_named_configurations_are_read(path: Path) -> None:
    assert load_config(path.stem).name == path.stem


def test_keys_replace_defaults() -> None:
    config = parse({
        "model": {"config": "micro", "frames": 6, "neuron": {"leak": "half"}}, "task": {"smoothing": 0.2},
        "schedule": {"steps": 3, "rate": 1}, "qat": {"weight_bits": 4}})
    assert (config.model.frames, config.model.neuron.leak, config.model.neuron.surrogate) == (6, "half", "atan")
    assert config.model.widths == named_config("micro").widths
    assert (config.schedule.steps, config.schedule.rate, config.schedule.batch) == (3, 1.0, 32)
    assert config.qat == Qat(weight_bits=4)
    assert config.make_task().smoothing == 0.2


def test_clips_from_files(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,label\na.mp4,walk\nb.mp4,run\n")
    config = parse({
        "model": {"config": "micro", "classes": 2, "tasks": []}, "task": {"data": str(tmp_path), "smoothing": 0.3}})
    task = config.make_task()
    assert (task.name, task.names, task.smoothing) == ("videos", ("run", "walk"), 0.3)


@pytest.mark.parametrize(("text", "message"), [
    ("[schedule]\nstepz = 3", "unknown key `schedule.stepz`; known: steps, batch"),
    ("[schedul]\nsteps = 3", "unknown table `schedul`; known: model, task"),
    ("schedule = 3", "`schedule` must be a table, not `3`"),
    ("[schedule]\nsteps = 1.5", "`schedule.steps` must be of type int, not `1.5`"),
    ("[schedule]\nsteps = 0", "`steps` must be at least 1, not `0`"),
    ("[schedule]\nsteps = true", "`schedule.steps` must be of type int, not `True`"),
    ("[model]\nwidth = 3\ndepht = 4", "unknown key `model.depht`; known: config, start, widths"),
    ("[model]\nconfig = 'tiny'", "`name` must be one of 15M"),
    ("[model]\nconfig = '15M'", "`config` must have square frames and the tasks"),
    ("[model]\nconfig = 'v1-8-384'", "`config` must have square frames and the tasks of moving digits, not `{'class"),
    ("[model]\nconfig = 'v3-digits'\nneuron.leak = 'half'", "unknown key `model.neuron`; known: config, start, in_ch"),
    ("[model]\nconfig = 'v1-digits'\ndim = 12", "`dim` must be divisible by 8 and by 4 heads, not `12`"),
    ("[model]\nconfig = 'v3-digits'\nclasses = 11", "`tasks` must have 11 logits in all, not `(('digit', 10),)`"),
    ("[model.neuron]\ntau = 2.0", "unknown key `model.neuron.tau`; known: leak"),
    ("[task]\nsmooth = 0.1", "unknown key `task.smooth`; known: data, smoothing, direction"),
    ("[task]\ndata = 'nowhere'", "nowhere: neither train.csv nor files train/<class>/<video>"),
    ("[task]\nname = 'poses'", "`task.name` must be `digits` with this network, not `poses`"),
    ("[qat]\nweight_bits = 9", "`weight_bits` must be from 2 to 8, not `9`"),
    ("[evaluation]\nclips = 0", "`clips` must be at least 1, not `0`"),
    ("[model", "Expected ']'"),
])
def test_errors_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_missing_configurations() -> None:
    with pytest.raises(ConfigError, match=r"no configuration `none`: name a \.toml file or one of digits, digits-qat4"):
        load_config("none")
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        load_config("none.toml")


def test_formats_are_renewed_until_they_freeze() -> None:
    renewed = [step for step in range(100) if Qat(refresh=20, freeze=0.5).renews(step, 100)]
    assert renewed == [0, 20, 40]
    assert [step for step in range(100) if Qat(refresh=0).renews(step, 100)] == [0]
