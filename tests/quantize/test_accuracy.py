"""The accuracy table: what is stored is not run again, what was not run says so, verdicts follow from the figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")

from spikeloom.quantize.accuracy import PRECISIONS, ROWS, VARIANTS, Row, measure, metrics, page, result_file, stored
from spikeloom.quantize.accuracy.__main__ import main
from spikeloom.quantize.accuracy.ablation import AGREES, CONTRADICTS, UNDECIDED, ablation, verdict
from spikeloom.quantize.accuracy.page import _targets
from spikeloom.quantize.accuracy.rows import SEEDS
from spikeloom.quantize.accuracy.spread import Estimate, difference, mean
from spikeloom.quantize.convert import ZOO

INT4 = Row(network="digits", precision="int4")


def made(**values: float) -> dict[str, Any]:
    """A result with these accuracies."""
    return {"test": {name: {"accuracy": value, "interval": [value, value]} for name, value in values.items()},
            "minutes": 1.0}


def test_keys_are_unique_and_rows_know_where_their_weights_are(tmp_path: Path) -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)
    assert INT4.weights(tmp_path) == ZOO / "digits"
    tuned = Row(network="digits", precision="int4 QAT")
    assert (tuned.key, tuned.bits, tuned.weights(tmp_path).parent.name) == ("digits-int4-qat", 4, "digits-qat4")
    run = tuned.run()
    assert run is not None
    assert run.qat is not None
    assert (run.name, run.start, run.qat.weight_bits) == ("digits-qat4", "digits", 4)
    variant = Row(network="digit-factorised-3").run()
    assert variant is not None
    assert (variant.model.design, variant.schedule.seed, variant.qat) == ("factorised", 3, None)
    assert variant.task == {"direction": 0.0}


def test_variants_of_the_ablation_are_different_networks() -> None:
    runs = [Row(network=f"digit-{variant}-1").run() for variant in VARIANTS]
    assert len({json.dumps(run.model.to_dict()) for run in runs if run is not None}) == len(VARIANTS)


def test_a_row_is_measured_kept_and_shown(tmp_path: Path) -> None:
    assert stored(INT4, tmp_path, clips=10) is None
    result = measure(INT4, tmp_path, clips=10)
    assert stored(INT4, tmp_path, clips=10) == result == json.loads(result_file(INT4, tmp_path).read_text())
    assert stored(INT4, tmp_path, clips=20) is None
    value, low, high = metrics(result["test"])["digit"]
    assert low <= value <= high
    text = page(tmp_path, clips=10)
    assert f"| int4 | {value:.1f} [{low:.1f}, {high:.1f}] | " in text
    assert "| float | *not run* | *not run* |  | `digits-float` |" in text
    result_file(INT4, tmp_path).write_text(json.dumps({**result, "weights": "of another network"}))
    assert stored(INT4, tmp_path, clips=10) is None


def test_spikes_are_counted(tmp_path: Path) -> None:
    row = Row(network="digits", precision="spikes")
    energy = measure(row, tmp_path, clips=2)["energy"]
    assert energy["clips"] == 2
    text = page(tmp_path, clips=2)
    assert f"| {energy['per_clip']['accumulates'] / 1e6:.2f} |" in text
    rate = energy["firing_rates"]["block3.0.attn.attend.spikes"]
    assert 0 < rate < 1
    assert f"| block3.0.attn.attend | {100 * rate:.1f} |  |  |" in text


def test_page_without_results(tmp_path: Path) -> None:
    out = tmp_path / "accuracy.md"
    assert main(["--rows", "", "--directory", str(tmp_path), "--out", str(out)]) == 0
    text = out.read_text()
    assert text.count("| *not run* |") >= 3 * len(PRECISIONS)
    assert f"0 of {len(ROWS)} rows have been run" in text
    assert f"`{ROWS[-1].key}`." in text
    assert "* Agrees: none." in text


def test_unknown_rows_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "digit-int4", "--directory", str(tmp_path)])
    assert "no row `digit-int4`: one is digits-float" in capsys.readouterr().err


def test_intervals_are_those_of_student_and_welch() -> None:
    """Expected: scipy.stats.t.interval and ttest_ind(equal_var=False) with the degrees of freedom rounded down."""
    assert mean([1.0, 2.0, 3.0]).half == pytest.approx(4.303 / math.sqrt(3))
    assert math.isinf(mean([1.0]).half)
    same = difference([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])
    assert (same.value, same.half) == (-4.0, pytest.approx(2.776 * math.sqrt(2 / 3)))
    assert difference([1.0, 2.0, 3.0], [6.0, 6.0, 6.0]).half == pytest.approx(4.303 * math.sqrt(1 / 3))
    assert math.isinf(difference([1.0, 2.0], [5.0]).half)
    assert difference([1.0, 1.0], [2.0, 2.0]) == Estimate(-1.0, 0.0)


@pytest.mark.parametrize(("estimate", "expected"), [
    (Estimate(2.0, 1.0), AGREES), (Estimate(-2.0, 1.0), CONTRADICTS), (Estimate(0.9, 1.0), UNDECIDED),
    (Estimate(0.0, 0.0), UNDECIDED), (Estimate(5.0, math.inf), ""), (None, "")])
def test_verdicts(estimate: Estimate | None, expected: str) -> None:
    assert verdict(estimate) == expected


def test_ablation_compares_with_the_paper() -> None:
    digit = {"joint": 0.9, "dot": 0.5, "spatial": 0.95, "neuron": 0.9}
    results: dict[str, Any] = {row.key: None for row in ROWS}
    for variant, value in digit.items():
        for seed in SEEDS:
            results[f"digit-{variant}-{seed}-float"] = made(digit=value + seed / 1000, direction=0.1)
            results[f"direction-{variant}-{seed}-float"] = made(digit=0.1, direction=0.8)
    text = "\n".join(ablation(results))
    assert "| joint | Hamming, all tokens of the clip (released) | 90.2 ± 0.2 (90.1, 90.2, 90.3) | 80.0 ± 0.0" in text
    assert "| +40.0 ± 0.2 | agrees | +0.0 ± 0.0 | undecided |" in text
    assert "| -5.0 ± 0.2 | does not agree |" in text
    assert "* Does not agree: joint over spatial (digit)." in text
    assert "| joint over factorised | joint is its choice | *not run* |  | *not run* |  |" in text


def test_targets_are_judged_by_the_metric_that_loses_most() -> None:
    results: dict[str, Any] = {row.key: None for row in ROWS}
    results["digits-float"] = made(digit=0.98, direction=0.99)
    results["digits-int8-qat"] = made(digit=0.99, direction=0.98)
    results["digits-int4-qat"] = made(digit=0.97, direction=0.995)
    results["walkers-float"] = {"test": {"mpjpe": {"percent": 3.6, "interval": [3.5, 3.7]}}}
    results["walkers-int8-qat"] = {"test": {"mpjpe": {"percent": 3.2, "interval": [3.1, 3.3]}}}
    lines = list(_targets(results))[1:]
    assert lines[2] == "| digits | +1.00 (direction) | **no**, 0.50 beyond | +1.00 (digit) | yes |"
    assert lines[3] == "| walkers | -0.40 (mpjpe) | yes | *not run* |  |"
    assert lines[4] == "| masks | *not run* |  | *not run* |  |"
