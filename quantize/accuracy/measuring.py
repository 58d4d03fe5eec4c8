"""Train what is not trained, measure a row, keep and find its result."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..convert import calibration_clips
from ..energy import energy_model
from ..inference import FromPixels, integer_predictor, predictor
from ..model_files import load, load_formats, versions
from ..quantizer import quantize
from ..tasks import get_task
from ..training import train
from ..training.checkpoint import FILE_NAME as CHECKPOINT
from .rows import CLIPS, SPIKES, Row

__all__ = ["COUNTED_CLIPS", "measure", "metrics", "result_file", "stored", "summary"]

COUNTED_CLIPS = 100
"""Clips, the first of the test split, on which spikes and operations are counted."""


def measure(row: Row, directory: Path, *, clips: int = CLIPS) -> dict[str, Any]:
    """Train what is not trained yet, measure, and keep the result.

    Raises:
        ValueError: The network is not in the zoo, or no such variant.
    """
    path, config = row.weights(directory), row.run()
    if config is not None and not path.with_suffix(".safetensors").is_file():
        resume = (path.parent / CHECKPOINT).exists()
        train(config, path.parent, resume=resume, command=f"make accuracy ROWS='{row.key}'")
    if not path.with_suffix(".safetensors").is_file():
        raise ValueError(f"the zoo has no trained network `{row.network}`")
    began = time.perf_counter()
    result = {"row": row.key, "clips": clips, "weights": _digest(path), "versions": versions()}
    result |= _measured(row, path, clips)
    trained = 0.0 if config is None else json.loads(path.with_suffix(".json").read_text())["minutes"]
    result["minutes"] = round(trained + (time.perf_counter() - began) / 60, 2)
    file = result_file(row, directory)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _measured(row: Row, path: Path, clips: int) -> dict[str, Any]:
    """What the task says of the network, or what its spikes cost."""
    model = load(path)
    task = get_task(model.config)
    if row.bits is None:
        return {"test": task.evaluate(predictor(FromPixels(model)), n=clips, split="test", batch=50)}
    formats = load_formats(path) if row.tuned else None
    network, report = quantize(model, calibration_clips(model.config), weight_bits=row.bits, formats=formats)
    if row.precision == SPIKES:
        counted, _ = task.batch(range(min(clips, COUNTED_CLIPS)), "test", 0)
        return {"network": report.network_hash, "energy": energy_model(network, counted)}
    test = task.evaluate(integer_predictor(network), n=clips, split="test", batch=50)
    return {"network": report.network_hash, "test": test}


def result_file(row: Row, directory: Path) -> Path:
    """Where a row's result is kept."""
    return directory / "rows" / f"{row.key}.json"


def stored(row: Row, directory: Path, *, clips: int = CLIPS) -> dict[str, Any] | None:
    """A row's result, if it is there and of these weights and so many clips."""
    file, weights = result_file(row, directory), row.weights(directory).with_suffix(".safetensors")
    if not file.is_file() or not weights.is_file():
        return None
    result = json.loads(file.read_text())
    return result if result["clips"] == clips and result["weights"] == _digest(weights) else None


def _digest(path: Path) -> str:
    """SHA-256 of a model's weights."""
    return hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest()


def metrics(report: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Name -> (per cent, interval's ends) of what `Task.evaluate` gives an interval for."""
    found = {}
    for name, entry in report.items():
        if isinstance(entry, Mapping) and "interval" in entry:
            value = next(entry[key] for key in ("accuracy", "percent", "value") if key in entry)
            factor = 1 if "percent" in entry else 100
            found[name] = (factor * value, factor * entry["interval"][0], factor * entry["interval"][1])
    return found


def summary(result: Mapping[str, Any]) -> str:
    """A row's result in one line."""
    if "energy" in result:
        return f"{1e3 * result['energy']['per_clip']['energy_mj']:.1f} uJ by the model"
    return ", ".join(f"{name} {value[0]:.1f} %" for name, value in metrics(result["test"]).items())
