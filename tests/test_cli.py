"""The command line: help, usage errors, one clear line for every failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from spikeloom import api, cli

COMMANDS = ("demo", "train", "import", "quantize", "build", "simulate", "run", "measure", "estimate", "synth", "vivado",
            "bitstream", "deploy")


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a command."""
    try:
        status = cli.main(words)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fails(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failing command says, after its steps."""
    status, _, error = run(*words, capsys=capsys)
    lines = [line for line in error.splitlines() if not line.startswith("  ")]
    assert status == 1
    assert len(lines) == 1, error
    assert lines[0].startswith(f"spikeloom {words[0]}: error: ")
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = run(command, "--help", capsys=capsys)
    assert status == 0
    assert "examples:" in text
    assert f"  spikeloom {command}" in text


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = run("--help", capsys=capsys)
    assert status == 0
    assert all(f"\n    {command}" in text for command in COMMANDS)


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys\nfrom spikeloom import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("words", [
    (), ("nonsense",), ("build", "x"), ("build", "x", "--out", "y", "--preset", "huge"), ("simulate", "x"),
    ("simulate", "x", "--random", "1", "--video", "y"), ("simulate", "x", "--random", "-1"),
    ("simulate", "x", "--random", "one"), ("demo", "--clips", "0"), ("quantize", "--out", "x")])
def test_usage_errors(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(*words, capsys=capsys)
    assert status == 2
    assert error.startswith("usage: spikeloom")


def test_no_such_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails("quantize", "nothing", "--out", str(tmp_path / "out"), capsys=capsys)
    assert "no trained model `nothing`: name one of" in line
    line = fails("quantize", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "out"), capsys=capsys)
    assert f"{tmp_path / 'm.safetensors'}: no such file" in line
    assert not (tmp_path / "out").exists()


def test_damaged_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\x05")
    (tmp_path / "m.json").write_text("{}")
    assert "m.safetensors: cannot load the model" in fails(
        "quantize", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "out"), capsys=capsys)


def test_build_needs_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails("build", str(tmp_path / "nothing"), "--out", str(tmp_path / "out"), capsys=capsys)
    assert "network.json: no such file" in line
    (tmp_path / "network.json").write_text(json.dumps({"format": "other"}))
    assert "error:" in fails("build", str(tmp_path), "--out", str(tmp_path / "out"), capsys=capsys)


def test_simulate_needs_a_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails("simulate", str(tmp_path), "--random", "1", capsys=capsys)
    assert f"{tmp_path}: holds no program; write one with `spikeloom build" in line
    (tmp_path / "program").mkdir()
    assert "program.json: cannot be read" in fails("simulate", str(tmp_path), "--random", "1", capsys=capsys)


def test_demo_refuses_a_bad_video_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    out = tmp_path / "out"
    assert "bad.mp4: not a readable video file" in fails(
        "demo", "--video", str(tmp_path / "bad.mp4"), "--out", str(out), capsys=capsys)
    assert "none.mp4: no such file" in fails(
        "demo", "--video", str(tmp_path / "none.mp4"), "--out", str(out), capsys=capsys)
    assert not out.exists()


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def raising(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(api, "quantize", raising, raising=False)
    assert fails("quantize", "digits", "--out", "x", capsys=capsys).endswith(
        "torch is not installed: pip install 'spikeloom[train]'")


def test_broken_bus_rule_is_a_bug_of_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What the simulated memory finds is said, without a traceback, and where to find a trace."""
    accelerator_model = pytest.importorskip("spikeloom.sim.accelerator_model")

    def simulate(*_: object, **__: object) -> None:
        model = SimpleNamespace(
            name="spikeloom", violations=["cycle 7: wlast is 0"], _handle=0,
            _api=SimpleNamespace(spk_violations=lambda handle: 3))
        accelerator_model.AcceleratorModel.check(model)

    monkeypatch.setattr(api, "simulate", simulate, raising=False)
    status, _, error = run("simulate", "x", "--random", "1", capsys=capsys)
    assert status == 1
    assert "Traceback" not in error
    assert "error: spikeloom broke 3 bus rules:\ncycle 7: wlast is 0\nThis is a bug of Spikeloom" in error
    assert "--wave FILE" in error


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no program"):
        cli.main(["simulate", str(tmp_path), "--random", "1", "--debug"])


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def raising(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "quantize", raising, raising=False)
    assert run("quantize", "digits", "--out", "x", capsys=capsys)[::2] == (130, "spikeloom: interrupted\n")


def test_api_has_the_commands() -> None:
    names = {"import": "import_checkpoint"}  # a word of the language
    functions = [*(names.get(command, command) for command in COMMANDS), "choose_repconv"]  # --repconv auto
    assert sorted(api.__all__) == sorted(functions)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = api.nothing
