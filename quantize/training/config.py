"""Configuration of a training run: a TOML file with the tables `model`, `task`, `schedule`, `qat`, `evaluation`.

::

    [model]
    config = "digits"        # a named architecture; further keys replace its fields: design = "spatial"
    start = "digits"         # weights to begin with: name in the zoo, or a .safetensors file

    [task]                   # fields of the network's task: smoothing = 0.1
    data = "/data/k400"      # a data set on disk (docs/tasks.md); without, the project's own
    [schedule]               # see Schedule
    [qat]                    # quantisation-aware training, see Qat; without the table, float training
    [evaluation]             # see Evaluation

Every key may be left out. A key that nobody knows is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tomllib

from ..checkpoints.architectures import named_architecture
from ..formats import weight_max
from ..models import SpikeVideoFormerConfig, named_config
from ..relatives import RelativeConfig
from ..tasks import Task, get_task

__all__ = ["CONFIGS", "ConfigError", "Evaluation", "Qat", "RunConfig", "Schedule", "load_config"]

CONFIGS = Path(__file__).parent / "configs"
"""Where configurations that have a name lie."""


class ConfigError(ValueError):
    """A configuration that cannot be run: the message names file and key."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps and their size.

    Attributes:
        steps, batch: Optimiser steps, and clips per step (of all processes together).
        rate, decay: Peak learning rate; weight decay of convolutions and linear layers (not of biases and batch norm).
        warmup, float32: Fractions of the steps: warm-up at the start; at the end all in float32 instead of bfloat16.
        clip: Largest norm of the gradient.
        drive, branch: Initial scales of batch norms, see `initialise`. Not used with `model.start`.
        seed: Of the weights and of the training clips.
    """

    steps: int = 1500
    batch: int = 32
    rate: float = 6e-3
    decay: float = 0.02
    warmup: float = 0.05
    float32: float = 0.1
    clip: float = 5.0
    drive: float = 1.4
    branch: float = 0.4
    seed: int = 1

    def __post_init__(self) -> None:
        _at_least(self, 1, "steps", "batch")
        _at_least(self, 0, "rate", "decay", "warmup", "float32", "seed")


@dataclass(frozen=True, kw_only=True)
class Qat:
    """Quantisation-aware training.

    Attributes:
        weight_bits: Bits of a weight, 2 to 8.
        clips: Clips of the training split to choose number formats by.
        refresh: Steps after which the formats are chosen anew; 0: never.
        freeze: Fraction of the steps after which they stay as they are.
    """

    weight_bits: int = 8
    clips: int = 32
    refresh: int = 50
    freeze: float = 0.5

    def __post_init__(self) -> None:
        weight_max(self.weight_bits)
        _at_least(self, 1, "clips")
        _at_least(self, 0, "refresh", "freeze")

    def renews(self, step: int, steps: int) -> bool:
        """Whether formats are chosen in front of step 0, 1, ...; those of step 0 are the first."""
        return step == 0 or (bool(self.refresh) and step % self.refresh == 0 and step < self.freeze * steps)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out clips.

    Attributes:
        clips: Of the test split, to report on at the end.
        watch: Steps between two looks at the validation split; 0: none.
        watch_clips: Clips of it.
        seed: Of the clips.
    """

    clips: int = 2000
    watch: int = 300
    watch_clips: int = 485
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(self, 1, "clips", "watch_clips")
        _at_least(self, 0, "watch", "seed")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run; `name` is that of its file, `task` holds fields of the network's task that are replaced."""

    name: str = "run"
    model: SpikeVideoFormerConfig | RelativeConfig = field(default_factory=lambda: named_config("digits"))
    start: str | None = None
    task: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    qat: Qat | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        self.make_task()

    def make_task(self) -> Task:
        """The task of the network; ValueError if it has none, its files do not fit, or a field is not its own."""
        values = {key: value for key, value in self.task.items() if key != "data"}
        task: Any = get_task(self.model, self.task.get("data"))
        known = [f.name for f in fields(task) if isinstance(getattr(task, f.name), (bool, int, float, str))]
        if self.task.get("name", task.name) != task.name:
            raise ValueError(f"`task.name` must be `{task.name}` with this network, not `{self.task['name']}`")
        for key in values:
            if key not in known:
                raise ValueError(f"unknown key `task.{key}`; known: data, {', '.join(known)}")
        return replace(task, **values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "model": self.model.to_dict(), "task": dict(self.task)}


def load_config(source: str | Path) -> RunConfig:
    """Configuration of a file, or of that name in `CONFIGS`.

    Raises:
        ConfigError: There is no such file, it is not TOML, or a key or value is wrong.
    """
    path = Path(source)
    if path.suffix != ".toml":
        path = CONFIGS / f"{source}.toml"
        if not path.is_file():
            known = ", ".join(sorted(found.stem for found in CONFIGS.glob("*.toml")))
            raise ConfigError(f"no configuration `{source}`: name a .toml file or one of {known}")
    try:
        return parse(tomllib.loads(path.read_text()), name=path.stem)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(values: Mapping[str, Any], *, name: str = "run") -> RunConfig:
    """Configuration of what a TOML file says. ValueError names the key that is wrong."""
    tables = {"model": None, "task": None, "schedule": Schedule, "qat": Qat, "evaluation": Evaluation}
    for key, value in values.items():
        if key not in tables:
            raise ValueError(f"unknown table `{key}`; known: {', '.join(tables)}")
        if not isinstance(value, Mapping):
            raise ValueError(f"`{key}` must be a table, not `{value!r}`")
    made = {key: section(cls, key, values[key]) for key, cls in tables.items() if cls is not None and key in values}
    model, start = model_section(values.get("model", {}))
    return RunConfig(name=name, model=model, start=start, task=values.get("task", {}), **made)


def section(cls: Any, table: str, values: Mapping[str, Any]) -> Any:
    """One of the dataclasses above from its table; whole numbers stand for floats."""
    known = {f.name: type(f.default) for f in fields(cls)}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"unknown key `{table}.{key}`; known: {', '.join(known)}")
        allowed = (int, float) if known[key] is float else (known[key],)
        if type(value) not in allowed:
            raise ValueError(f"`{table}.{key}` must be of type {known[key].__name__}, not `{value!r}`")
    return cls(**{key: known[key](value) for key, value in values.items()})


def model_section(values: Mapping[str, Any]) -> tuple[SpikeVideoFormerConfig | RelativeConfig, str | None]:
    """Network configuration and where its weights come from."""
    values = dict(values)
    named, start = values.pop("config", "digits"), values.pop("start", None)
    architecture = named_architecture(named)
    known = [f.name for f in fields(architecture.config)]
    for key in values:
        if key not in known:
            raise ValueError(f"unknown key `model.{key}`; known: config, start, {', '.join(known)}")
    plain = architecture.config.to_dict()
    if "neuron" in values:
        neuron = values["neuron"]
        unknown = sorted(set(neuron) - set(plain["neuron"]))
        if unknown:
            raise ValueError(f"unknown key `model.neuron.{unknown[0]}`; known: {', '.join(plain['neuron'])}")
        values["neuron"] = {**plain["neuron"], **neuron}
    return architecture.family.config.from_dict({**plain, **values}), start


def _at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(f"`{name}` must be at least {least}, not `{getattr(config, name)!r}`")
