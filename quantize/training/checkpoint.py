"""A run that can go on where it stopped: parameters, optimiser, random numbers, step, number formats.

The position in the data is the step, for a clip is a function of its index; so is the learning rate. Read with
`weights_only`, so a file cannot run code.
"""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..formats import Formats
from .config import ConfigError, RunConfig

__all__ = ["FILE_NAME", "Progress", "restore", "store"]

FILE_NAME = "checkpoint.pt"


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    seconds: float = 0.0
    formats: Formats | None = None


def store(directory: Path, config: RunConfig, progress: Progress, model: nn.Module, optimiser: Any) -> None:
    """Write the checkpoint; the one before stays whole until this one is."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    values = {
        "config": json.dumps(config.to_dict()), "step": progress.step, "seconds": progress.seconds,
        "formats": json.dumps(progress.formats.to_dict()) if progress.formats is not None else None,
        "model": model.state_dict(), "optimiser": optimiser.state_dict(),
        "random": torch.get_rng_state(), "random_cuda": cuda}
    path = directory / FILE_NAME
    torch.save(values, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def restore(directory: Path, config: RunConfig, model: nn.Module, optimiser: Any) -> Progress:
    """Load the checkpoint into `model` and `optimiser`.

    Raises:
        ConfigError: There is none, it is damaged, or it is of another configuration.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise ConfigError(f"{path}: no such file, so there is nothing to resume")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(values["config"])
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path}: cannot read the checkpoint: {error!r:.200}") from error
    changed = differences(before, json.loads(json.dumps(config.to_dict())))
    if changed:
        raise ConfigError(f"{path}: the run was started with another `{changed[0]}`; give it a directory of its own")
    model.load_state_dict(values["model"])
    optimiser.load_state_dict(values["optimiser"])
    torch.set_rng_state(values["random"])
    if torch.cuda.is_available() and len(values["random_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(values["random_cuda"])
    formats = Formats.from_dict(json.loads(values["formats"])) if values["formats"] is not None else None
    return Progress(step=values["step"], seconds=values["seconds"], formats=formats)


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Dotted names of what is not the same in both."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return [] if first == second else [where.lstrip(".")]
    return [name for key in sorted({*first, *second})
            for name in differences(first.get(key), second.get(key), f"{where}.{key}")]
