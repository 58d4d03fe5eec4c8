"""docs/accuracy.md, of the results that are there."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .ablation import ablation
from .activity import activity
from .measuring import metrics, stored
from .rows import CLIPS, NETWORKS, PRECISIONS, ROWS, Row
from .table import NOT_RUN, table

__all__ = ["page"]

Results = Mapping[str, dict[str, Any] | None]

ERRORS = ("mpjpe", "pa_mpjpe")
"""Metrics of which less is better."""

TARGETS = {"int8 QAT": 0.5, "int4 QAT": 2.0}
"""Largest loss against float, in points."""

INTRODUCTION = """\
# Accuracy

<!-- written by `make accuracy`; do not edit -->

On {clips:,} held-out clips of the test split, which no training has seen, nor any choice of settings but that of the
ablation. In square brackets 95 % intervals: Wilson for accuracies, bootstrap over clips for the others. They know of
the clips that were drawn, not of the spread between training runs, nor that clips show some scans of digits more than
once. mpjpe and pa_mpjpe are errors, in per cent of the frame's size: less is better.

int8, int4: integer networks, bit for bit what the machine computes; int4 weights lie in [-7, 7] and run as int8. QAT:
after 150 steps of quantisation-aware fine-tuning ([training.md](training.md)), which the float network has not had.
Minutes: wall clock of one thread, fine-tuning included, with other work on the machine: no figure of merit.
`make accuracy ROWS='KEY'` makes the row of that key, `make accuracy` all that are missing.
"""

TARGETS_TEXT = """\
## Loss after quantisation-aware training

Points lost against float, in the task's metric that loses most; below zero nothing is lost. Single runs: differences
within the intervals above are noise.
"""


def page(directory: Path, *, clips: int = CLIPS) -> str:
    """The page, of the results that are there."""
    results = {row.key: stored(row, directory, clips=clips) for row in ROWS}
    lines = [INTRODUCTION.format(clips=clips)]
    for network in NETWORKS:
        lines += [f"## {network}", "", *_network_table(network, results), ""]
    for section in (_targets, ablation, activity, _effort):
        lines += [*section(results), ""]
    return "\n".join(lines)


def _network_table(network: str, results: Results) -> Iterator[str]:
    rows = [Row(network=network, precision=precision) for precision in PRECISIONS]
    names = next((list(metrics(found["test"])) for row in rows if (found := results[row.key])), ["result"])
    lines = []
    for row in rows:
        found = results[row.key]
        values = metrics(found["test"]).values() if found else ()
        cells = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in values] or [NOT_RUN] * len(names)
        lines.append([row.precision, *cells, f"{found['minutes']:.1f}" if found else "", f"`{row.key}`"])
    yield from table(["precision", *(f"{name}, %" for name in names), "minutes", "key"], lines)


def _targets(results: Results) -> Iterator[str]:
    yield TARGETS_TEXT
    lines = []
    for network in NETWORKS:
        cells = []
        for precision, limit in TARGETS.items():
            pair = [results[Row(network=network, precision=p).key] for p in ("float", precision)]
            if pair[0] is None or pair[1] is None:
                cells += [NOT_RUN, ""]
                continue
            loss, name = worst_loss(metrics(pair[0]["test"]), metrics(pair[1]["test"]))
            cells += [f"{loss:+.2f} ({name})", "yes" if loss <= limit else f"**no**, {loss - limit:.2f} beyond"]
        lines.append([network, *cells])
    heads = [head for precision, limit in TARGETS.items() for head in (precision, f"within {limit:g}")]
    yield from table(["task", *heads], lines)


def worst_loss(
    before: Mapping[str, tuple[float, float, float]], after: Mapping[str, tuple[float, float, float]]
) -> tuple[float, str]:
    """(points lost, name) of the metric of `metrics` that loses most."""
    return max(((after[name][0] - before[name][0]) * (1 if name in ERRORS else -1), name) for name in before)


def _effort(results: Results) -> Iterator[str]:
    minutes = [found["minutes"] for found in results.values() if found]
    yield "## What it took"
    yield ""
    text = (f"{len(minutes)} of {len(results)} rows have been run, one after the other in one thread, in "
            f"{sum(minutes):.0f} minutes in all; the zoo's networks came trained.")
    if len(minutes) < len(results):
        text += f" Not run: {', '.join(f'`{key}`' for key, found in results.items() if not found)}."
    yield from textwrap.wrap(text, 118, break_on_hyphens=False)
