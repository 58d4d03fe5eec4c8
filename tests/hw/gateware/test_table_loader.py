"""Table loader: bench against its model, parameters."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from spikeloom.config import PRESETS, preset
from spikeloom.hw.gateware.emit import assert_no_multiplier
from spikeloom.hw.gateware.table_loader import TableLoader
from spikeloom.sim.cocotb_runner import run_bench

CONFIGS = {
    "tiny": preset("tiny"),
    "small": preset("small"),
    "two groups": replace(preset("tiny"), word_channels=16, output_words=2, load_groups=2),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_bench(name, seed):
    config = CONFIGS[name]
    run_bench(TableLoader(config), "spikeloom.sim.benches.table_loader", name="table_loader", seed=seed,
              parameters={"config": asdict(config)})  # fmt: skip


def test_bipolar_entries_are_odd():
    block = TableLoader(preset("tiny"))
    rows = np.random.default_rng(1).integers(-127, 128, (8, block.values))
    tables = block.model(rows, bipolar=True)
    assert (tables == -tables[:, ::-1]).all()
    assert (block.model(rows, bipolar=True, negate=True) == -tables).all()


@pytest.mark.parametrize("rows", [np.zeros((3, 8)), np.zeros((4, 7)), np.full((4, 8), -128)])
def test_the_model_refuses_rows_that_are_none(rows):
    with pytest.raises(ValueError, match="`rows` must be"):
        TableLoader(preset("tiny")).model(rows)


@pytest.mark.parametrize("name", PRESETS)
def test_adders_only(name):
    assert_no_multiplier(TableLoader(preset(name)))
