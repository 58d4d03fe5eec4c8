"""The ablation's section of the page: variants of the demo network, and whether they agree with the paper."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .measuring import metrics
from .rows import ABLATION, QUESTIONS, SEEDS, VARIANTS, Row
from .spread import Estimate, difference, mean
from .table import NOT_RUN, table

__all__ = ["Comparison", "ablation", "verdict"]

MEANINGS = {
    "joint": "Hamming, all tokens of the clip (released)",
    "dot": "dot product, all tokens of the clip",
    "spatial": "Hamming within a frame, neurons forget every frame",
    "neuron": "Hamming within a frame, membranes carry time",
    "hierarchical": "Hamming within a frame, then within a pixel",
    "factorised": "both of these from the same spikes, added",
    "scale2c": "joint, factor 1/2C, no batch norm behind it",
    "scale8": "joint, factor 1/8, no batch norm behind it",
}


@dataclass(frozen=True)
class Comparison:
    """What the paper prefers, to what, and what is known of its figures (arXiv 2505.10352)."""

    better: str
    worse: str
    paper: str


COMPARISONS = (
    Comparison("joint", "dot", "39.8 against 45.7 mm, 73.1 against 65.9 mIoU"),
    Comparison("joint", "spatial", "39.8 against 54.2 mm, 73.1 against 62.1 mIoU"),
    Comparison("joint", "neuron", "joint is its choice"),
    Comparison("joint", "hierarchical", "joint is its choice"),
    Comparison("joint", "factorised", "joint is its choice"),
    Comparison("scale2c", "scale8", "1/2C is its choice"),
)

INTRODUCTION = """\
## Ablation

The demo network on clips of {frames} frames of {height}x{width}, trained in float for {steps} steps of {batch} clips,
not quantised, for one question per run: which digit (chance 10 %), or which way it moves (25 %). Far from convergence
(the zoo's network: 1,500 steps of 32 clips, 8 frames of 32x32, both questions at once). Size, steps and initial scales
were chosen with `joint` alone, seed 1, on validation clips, so that it learns a part of either question in a minute,
after two settings were dropped because its test figures showed the direction at chance; whether they suit the other
variants is not known. Seeds {seeds} choose weights and training clips. Per cent of the test
clips: mean over the seeds ± half of its 95 % interval (Student's t), then each seed that was run.

C: channels. In the released network a batch norm follows the factor 1/2C and takes every constant factor out again, so
1/8 would make the same network there; the two scale variants go without that batch norm.
"""

COMPARED = """\
### Against the paper

Difference of the means in points, ± half of its 95 % interval (Welch's t). A difference whose interval holds zero
decides nothing; one that does not still errs in one case of twenty by chance. A digit can be told from one frame, a
direction only from several. The paper's figures are of human pose (error in mm) and semantic segmentation (mIoU), of
networks far larger, trained to the end; only the order can be compared. Where no figures stand, they were not at hand.
"""


def ablation(results: Mapping[str, dict[str, Any] | None]) -> Iterator[str]:
    """Lines of the section."""
    yield INTRODUCTION.format(**ABLATION["model"], **ABLATION["schedule"], seeds=", ".join(map(str, SEEDS)))
    found = {variant: {question: _runs(question, variant, results) for question in QUESTIONS} for variant in VARIANTS}
    yield from table(
        ["variant", "what it is", *(f"{question}, %" for question in QUESTIONS), "minutes", "keys"],
        ([variant, MEANINGS[variant], *(_shown(runs[question]) for question in QUESTIONS),
          _minutes(variant, results), f"`*-{variant}-*`"]
         for variant, runs in found.items()))
    yield ""
    yield COMPARED
    verdicts: dict[str, list[str]] = {}
    lines = []
    for comparison in COMPARISONS:
        cells = []
        for question in QUESTIONS:
            pair = [found[name][question] for name in (comparison.better, comparison.worse)]
            estimate = difference(*pair) if all(pair) else None
            said = verdict(estimate)
            cells += [NOT_RUN if estimate is None else _difference(estimate), said]
            verdicts.setdefault(said, []).append(f"{comparison.better} over {comparison.worse} ({question})")
        lines.append([f"{comparison.better} over {comparison.worse}", comparison.paper, *cells])
    heads = [head for question in QUESTIONS for head in (f"{question}, points", "here")]
    yield from table(["the paper prefers", "its figures", *heads], lines)
    yield ""
    for said in (AGREES, CONTRADICTS, UNDECIDED):
        yield from textwrap.wrap(f"* {said.capitalize()}: {', '.join(verdicts.get(said, ['none']))}.", 118,
                                 subsequent_indent="  ")


AGREES, CONTRADICTS, UNDECIDED = "agrees", "does not agree", "undecided"


def verdict(estimate: Estimate | None) -> str:
    """What a difference, preferred minus other, says of the paper's order; of more than one run each."""
    if estimate is None or math.isinf(estimate.half):
        return ""
    return {1: AGREES, -1: CONTRADICTS, 0: UNDECIDED}[estimate.sign]


def _made(question: str, variant: str, results: Mapping[str, dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Results of the seeds that were run."""
    keys = [Row(network=f"{question}-{variant}-{seed}").key for seed in SEEDS]
    return [found for key in keys if (found := results[key])]


def _runs(question: str, variant: str, results: Mapping[str, dict[str, Any] | None]) -> list[float]:
    """Per cent of every seed that was run."""
    return [metrics(found["test"])[question][0] for found in _made(question, variant, results)]


def _minutes(variant: str, results: Mapping[str, dict[str, Any] | None]) -> str:
    made = [found["minutes"] for question in QUESTIONS for found in _made(question, variant, results)]
    return f"{sum(made):.1f}" if made else ""


def _shown(values: list[float]) -> str:
    if not values:
        return NOT_RUN
    return f"{_difference(mean(values), '')} ({', '.join(f'{value:.1f}' for value in values)})"


def _difference(estimate: Estimate, sign: str = "+") -> str:
    value = format(estimate.value, f"{sign}.1f")
    return value if math.isinf(estimate.half) else f"{value} ± {estimate.half:.1f}"
