"""Trained models as files: ``<path>.safetensors`` (the ``state_dict``), ``<path>.json`` (configuration and how it was
made), and after quantisation-aware training ``<path>.formats.json`` (the number formats it was trained with)."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from .checkpoints.architectures import family_with
from .checkpoints.importing import load_imported
from .formats import Formats
from .models import SpikeVideoFormer
from .relatives import Relative

__all__ = ["load", "load_formats", "save", "versions"]


def save(
    model: SpikeVideoFormer | Relative, path: Path, report: dict[str, Any], *, formats: Formats | None = None
) -> None:
    """Write the files of a model; `path` is without suffix, `report` is added to the configuration."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    save_file(state, str(path.with_suffix(".safetensors")))
    text = json.dumps({"config": model.config.to_dict(), "family": family_with(model.config).name, **report}, indent=2)
    path.with_suffix(".json").write_text(text + "\n")
    if formats is not None:
        formats.save(_formats_path(path))
    else:
        _formats_path(path).unlink(missing_ok=True)


def load(path: Path) -> SpikeVideoFormer | Relative:
    """Network saved by :func:`save`, in evaluation mode; `path` with or without suffix."""
    model = load_imported(path)
    assert isinstance(model, (SpikeVideoFormer, Relative))
    return model


def load_formats(path: Path) -> Formats | None:
    """Number formats that a saved network was trained with; None if it was not."""
    file = _formats_path(path)
    return Formats.load(file) if file.is_file() else None


def versions() -> dict[str, str]:
    """Versions that a repetition should use; same version and machine give the same clips."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def _formats_path(path: Path) -> Path:
    return path.with_suffix(".formats.json")
