"""Compute engine: bench against the interpreter, parameters."""

from dataclasses import asdict, replace

import pytest

from spikeloom.config import preset
from spikeloom.hw.gateware.compute import ComputeEngine
from spikeloom.hw.gateware.emit import assert_no_multiplier
from spikeloom.hw.gateware.walker import Walker
from spikeloom.sim.cocotb_runner import run_bench

TINY = replace(preset("tiny"), accumulator_depth=256)
CONFIGS = {
    "two banks": TINY,
    "four banks": replace(TINY, banks=4, output_words=2, load_groups=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_bench(name, seed):
    config = CONFIGS[name]
    run_bench(ComputeEngine(config), "spikeloom.sim.benches.compute", name="compute", seed=seed,
              parameters={"config": asdict(config)})  # fmt: skip


def test_tables_are_not_overwritten_too_early(monkeypatch):
    monkeypatch.setattr(Walker, "near", 9)
    with pytest.raises(ValueError, match=r"`Walker\.near` must be at most \d, not `9`"):
        ComputeEngine(TINY)


def test_adders_only():
    assert_no_multiplier(ComputeEngine(preset("tiny")))
