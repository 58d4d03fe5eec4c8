"""Temporal unit: bench against its model, and the model against attention."""

from dataclasses import asdict, replace

import pytest

from spikeloom.config import preset
from spikeloom.hw.gateware.emit import assert_no_multiplier
from spikeloom.hw.gateware.temporal import TemporalUnit
from spikeloom.sim.cocotb_runner import run_bench

CONFIGS = {"tiny": preset("tiny"), "one lane": replace(preset("tiny"), lanes=1, word_channels=32)}


@pytest.mark.parametrize("name", CONFIGS)
def test_bench(name):
    config = CONFIGS[name]
    run_bench(TemporalUnit(config), "spikeloom.sim.benches.temporal", name="temporal", seed=1,
              parameters={"config": asdict(config)})  # fmt: skip


def test_adders_only():
    assert_no_multiplier(TemporalUnit(preset("tiny")))
