"""The accuracy table: what is stored is not run again, what was not run says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

from spikeloom.quantize import accuracy
from spikeloom.quantize.accuracy import PRECISIONS, ROWS, Row, main, measure, metrics, page, result_file, stored
from spikeloom.quantize.convert import ZOO

INT4 = Row(network="digits", precision="int4")


def test_keys_are_unique_and_rows_know_where_their_weights_are(tmp_path: Path) -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)
    assert INT4.weights(tmp_path) == ZOO / "digits"
    tuned = Row(network="digits", precision="int4 QAT")
    assert (tuned.key, tuned.bits, tuned.weights(tmp_path).parent.name) == ("digits-int4-qat", 4, "digits-qat4")
    run = tuned.run()
    assert run is not None
    assert run.qat is not None
    assert (run.name, run.start, run.qat.weight_bits) == ("digits-qat4", "digits", 4)
    ablation = Row(network="digits-factorised-3").run()
    assert ablation is not None
    assert (ablation.model.design, ablation.schedule.seed, ablation.qat) == ("factorised", 3, None)


def test_a_row_is_measured_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "CLIPS", 10)
    assert stored(INT4, tmp_path, clips=10) is None
    result = measure(INT4, tmp_path, clips=10)
    assert stored(INT4, tmp_path, clips=10) == result == json.loads(result_file(INT4, tmp_path).read_text())
    assert stored(INT4, tmp_path, clips=20) is None
    value, low, high = metrics(result["test"])["digit"]
    assert low <= value <= high
    text = page(tmp_path, clips=10)
    assert f"| int4 | {value:.1f} [{low:.1f}, {high:.1f}] | " in text
    assert "| float | *not run* | *not run* | `digits-float` |" in text
    result_file(INT4, tmp_path).write_text(json.dumps({**result, "weights": "of another network"}))
    assert stored(INT4, tmp_path, clips=10) is None


def test_page_without_results(tmp_path: Path) -> None:
    out = tmp_path / "accuracy.md"
    assert main(["--rows", "", "--directory", str(tmp_path), "--out", str(out)]) == 0
    assert out.read_text().count("| *not run* |") >= 3 * len(PRECISIONS)


def test_unknown_rows_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "digit-int4", "--directory", str(tmp_path)])
    assert "no row `digit-int4`: one is digits-float" in capsys.readouterr().err
