"""The emitted machine as a whole: no multiplier, the same text on every run, lint."""

import hashlib
import os
import subprocess
import sys

import pytest

from spikeloom.config import PRESETS, preset
from spikeloom.hw.build import TOP, emit_machine
from spikeloom.hw.gateware.accelerator import Accelerator
from spikeloom.hw.gateware.emit import multiplier_cells
from spikeloom.sim.verilator import lint

ALL = [pytest.param(name, marks=() if name == "tiny" else pytest.mark.slow) for name in PRESETS]


@pytest.mark.parametrize("name", ALL)
def test_no_multiplier(name):
    assert multiplier_cells(Accelerator(preset(name))) == []


@pytest.mark.parametrize("name", ALL)
def test_lint(name):
    lint(emit_machine(preset(name)), top=TOP)


@pytest.mark.parametrize("name", ALL)
def test_same_text_on_every_run(name, tmp_path):
    """Two processes with empty caches and different hash seeds, and the text of this one."""
    code = (f"from spikeloom.config import preset; from spikeloom.hw.build import emit_machine; import hashlib;"
            f"print(hashlib.sha256(emit_machine(preset({name!r})).encode()).hexdigest())")
    texts = {hashlib.sha256(emit_machine(preset(name)).encode()).hexdigest()}
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "SPIKELOOM_CACHE": str(tmp_path / seed)}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        texts.add(result.stdout.strip())
    assert len(texts) == 1
