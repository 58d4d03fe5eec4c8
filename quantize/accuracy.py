"""Accuracy of float and integer networks, row by row: `make accuracy` (`python -m spikeloom.quantize.accuracy`).

A row is a trained network at a precision. Its result is kept as JSON under `build/accuracy/rows`, so the table can be
made in pieces: what is there and still of the same weights is not run again, what was not run says so on the page.

    float       the model in float32
    int8, int4  the integer network, formats chosen on 32 clips of the training split
    ... QAT     the integer network after quantisation-aware fine-tuning (quantize/training/configs/*-qat*.toml)

Trained networks come from the zoo; those of the ablation over attention designs are trained here, float,
with three seeds each. Runs that are interrupted go on from their checkpoint.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .convert import ZOO, calibration_clips
from .inference import FromPixels, integer_predictor, predictor
from .layers import DESIGNS
from .model_files import load, load_formats, versions
from .models import named_config
from .quantizer import quantize
from .tasks import get_task
from .training import MODEL, RunConfig, load_config, train
from .training.checkpoint import FILE_NAME as CHECKPOINT
from .training.config import parse

__all__ = ["PRECISIONS", "ROWS", "Row", "main", "measure", "page"]

PRECISIONS = ("float", "int8", "int4", "int8 QAT", "int4 QAT")
NETWORKS = ("digits", "walkers", "masks")
SEEDS = (1, 2, 3)
ABLATION_STEPS = 600
CLIPS = 1000

INTRODUCTION = """\
# Accuracy

<!-- written by `make accuracy`; do not edit -->

On {clips:,} held-out clips of the test split, which no training and no choice of settings has seen. In square brackets
95 % intervals: Wilson for accuracies, bootstrap over clips for the others. They know of the clips that were drawn, not
of the spread between training runs, nor that clips show some scans of digits more than once. mpjpe and pa_mpjpe are
errors, in per cent of the frame's size: less is better.

int8, int4: integer networks, bit for bit what the machine computes; int4 weights lie in [-7, 7] and run as int8. QAT:
after 150 steps of quantisation-aware fine-tuning ([training.md](training.md)), which the float network has not had.
`make accuracy ROWS='KEY'` makes the row of that key, `make accuracy` all that are missing.
"""

ABLATION = """\
## Attention designs

The demo network with each design of its attention, {steps} steps of float training (the zoo's network: 1,500), int8
without fine-tuning; per cent of the clips, one figure per seed.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network at a precision. `network` is a name in the zoo, or `design-seed` of the ablation."""

    network: str
    precision: str = "float"

    @property
    def key(self) -> str:
        """Name of the row and of its file."""
        return f"{self.network}-{self.precision.replace(' ', '-').lower()}"

    @property
    def bits(self) -> int | None:
        """Bits of a weight, None for float."""
        return None if self.precision == "float" else int(self.precision.removesuffix(" QAT")[3:])

    @property
    def tuned(self) -> bool:
        """Whether the network was fine-tuned quantisation-aware."""
        return self.precision.endswith("QAT")

    def run(self) -> RunConfig | None:
        """The training run that the row's weights come from; None for those of the zoo."""
        if self.tuned:
            name = f"{self.network}-qat{self.bits}"
            config = load_config(f"digits-qat{self.bits}")
            return replace(config, name=name, model=named_config(self.network), start=self.network)
        if self.network in NETWORKS:
            return None
        _, design, seed = self.network.split("-")
        config = parse({"model": {"config": "digits", "design": design}, "schedule": {
            "steps": ABLATION_STEPS, "seed": int(seed)}, "evaluation": {"watch": 0, "clips": CLIPS}}, name=self.network)
        return replace(config, name=self.network)

    def weights(self, directory: Path) -> Path:
        """Where they are, or will be; without suffix."""
        if not self.tuned and self.network in NETWORKS:
            return ZOO / self.network
        name = f"{self.network}-qat{self.bits}" if self.tuned else self.network
        return directory / "models" / name / MODEL


ROWS = (
    *(Row(network=network, precision=precision) for network in NETWORKS for precision in PRECISIONS),
    *(Row(network=f"digits-{design}-{seed}", precision=precision)
      for design in DESIGNS for seed in SEEDS for precision in ("float", "int8")))


def measure(row: Row, directory: Path, *, clips: int = CLIPS) -> dict[str, Any]:
    """Train what is not trained yet, measure, and keep the result.

    Raises:
        ValueError: The network is not in the zoo, or no such design.
    """
    began, path = time.perf_counter(), row.weights(directory)
    config = row.run()
    if config is not None and not path.with_suffix(".safetensors").is_file():
        resume = (path.parent / CHECKPOINT).exists()
        train(config, path.parent, resume=resume, command=f"make accuracy ROWS='{row.key}'")
    if not path.with_suffix(".safetensors").is_file():
        raise ValueError(f"the zoo has no trained network `{row.network}`")
    model = load(path)
    task = get_task(model.config)
    result: dict[str, Any] = {"row": row.key, "clips": clips, "weights": digest(path), "versions": versions()}
    if row.bits is None:
        predict = predictor(FromPixels(model))
    else:
        formats = load_formats(path) if row.tuned else None
        network, report = quantize(model, calibration_clips(model.config), weight_bits=row.bits, formats=formats)
        predict, result["network"] = integer_predictor(network), report.network_hash
    result["test"] = task.evaluate(predict, n=clips, split="test", batch=50)
    result["minutes"] = round((time.perf_counter() - began) / 60, 2)
    file = result_file(row, directory)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    return result


def result_file(row: Row, directory: Path) -> Path:
    """Where a row's result is kept."""
    return directory / "rows" / f"{row.key}.json"


def stored(row: Row, directory: Path, *, clips: int = CLIPS) -> dict[str, Any] | None:
    """A row's result, if it is there and of these weights and so many clips."""
    file, weights = result_file(row, directory), row.weights(directory).with_suffix(".safetensors")
    if not file.is_file() or not weights.is_file():
        return None
    result = json.loads(file.read_text())
    return result if result["clips"] == clips and result["weights"] == digest(weights) else None


def digest(path: Path) -> str:
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


def page(directory: Path, *, clips: int = CLIPS) -> str:
    """The page, of the results that are there."""
    results = {row.key: stored(row, directory, clips=clips) for row in ROWS}
    lines = [INTRODUCTION.format(clips=clips)]
    for network in NETWORKS:
        lines += [f"## {network}", "", *_network_table(network, results), ""]
    lines += [ABLATION.format(steps=ABLATION_STEPS), *_design_table(results), ""]
    return "\n".join(lines)


def _network_table(network: str, results: Mapping[str, dict[str, Any] | None]) -> Iterator[str]:
    rows = [row for row in ROWS if row.network == network]
    names = next((list(metrics(found["test"])) for row in rows if (found := results[row.key])), ["result"])
    yield f"| precision | {' | '.join(f'{name}, %' for name in names)} | key |"
    yield f"| --- |{' --- |' * (len(names) + 1)}"
    for row in rows:
        found = results[row.key]
        cells = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in metrics(found["test"]).values()] \
            if found else ["*not run*"] * len(names)
        yield f"| {row.precision} | {' | '.join(cells)} | `{row.key}` |"


def _design_table(results: Mapping[str, dict[str, Any] | None]) -> Iterator[str]:
    yield "| design | float digit | float direction | int8 digit | int8 direction | keys |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for design in DESIGNS:
        cells = []
        for precision in ("float", "int8"):
            rows = [Row(network=f"digits-{design}-{seed}", precision=precision) for seed in SEEDS]
            found = [metrics(result["test"]) for row in rows if (result := results[row.key])]
            for name in ("digit", "direction"):
                cells.append(", ".join(f"{values[name][0]:.1f}" for values in found) or "*not run*")
        yield f"| {design} | {' | '.join(cells)} | `digits-{design}-*` |"


def main(argv: list[str] | None = None) -> int:
    """Measure the rows that are missing, then write the page."""
    parser = argparse.ArgumentParser(prog="spikeloom.quantize.accuracy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", default="*", metavar="PATTERN", help="keys of rows, as `digits-int4*`; '' runs none")
    parser.add_argument("--directory", type=Path, default=Path("build/accuracy"), metavar="DIR", help="of the results")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (%(default)s)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    wanted = [row for row in ROWS if fnmatch.fnmatchcase(row.key, arguments.rows)]
    if arguments.rows and not wanted:
        parser.error(f"no row `{arguments.rows}`: one is {ROWS[0].key}")
    missing = [row for row in wanted if stored(row, arguments.directory) is None]
    failed = 0
    for row in tqdm(missing, desc="rows", disable=None):
        try:
            found = metrics(measure(row, arguments.directory)["test"])
            tqdm.write(f"{row.key}: " + ", ".join(f"{name} {value[0]:.1f} %" for name, value in found.items()))
        except ValueError as error:
            failed += 1
            tqdm.write(f"{row.key}: not run: {error}", file=sys.stderr)
    if arguments.out is not None:
        arguments.out.write_text(page(arguments.directory))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
