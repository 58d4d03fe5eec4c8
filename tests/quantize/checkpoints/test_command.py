"""`spikeloom import` as a command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spikeloom import cli
from spikeloom.quantize.models import build


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save({"model": build("micro").state_dict(), "epoch": 1}, tmp_path / "file.pth")
    return tmp_path / "file.pth"


def test_writes_a_model_and_says_what_was_assumed(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = checkpoint.with_name("mine")
    assert cli.main(["import", str(checkpoint), "--frames", "2", "--size", "16x32", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("micro (spikevideoformer), ")
    assert shown.out.endswith(f"{out}.safetensors\n{out}.json\n")
    assert "notice: assumed 2 attention heads" in shown.err
    assert '"width": 32' in out.with_name("mine.json").read_text()


def test_writes_nothing_without_a_place(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import", str(checkpoint), "--arch", "micro"]) == 0
    assert "nothing written: --out" in capsys.readouterr().out
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_refuses_in_one_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import", str(checkpoint), "--arch", "15M", "--out", str(checkpoint.with_name("mine"))]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"spikeloom import: error: {checkpoint}: is not `15M`: it has widths 8-8-16-16, not 64-")
    assert cli.main(["import", str(checkpoint.with_name("none.pth"))]) == 1
    assert capsys.readouterr().err.endswith("none.pth: No such file or directory\n")


@pytest.mark.parametrize("words", [
    ("--size", "big"), ("--mean", "a,b"), ("--distilled", "both"), ("--heads", "x"), ("--heads", "2,y"),
    ("--neuron", "soft")])
def test_usage_errors(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["import", "file.pth", *words])
    assert "usage: spikeloom import" in capsys.readouterr().err


def test_check_that_fails_is_the_exit_status(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import", str(checkpoint), "--check", str(checkpoint.parent)]) == 1
    assert "name the file of the network with --module" in capsys.readouterr().err
