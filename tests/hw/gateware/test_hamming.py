"""Hamming unit: bench against its model, order of the rows."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.hw.gateware.emit import assert_no_multiplier, emit_verilog
from spikeloom.hw.gateware.hamming import HammingUnit, output_order
from spikeloom.sim.cocotb_runner import run_bench

CONFIGS = {
    "tiny": preset("tiny"),
    "small": preset("small"),
    "two groups": replace(preset("tiny"), word_channels=16, lanes=2, load_groups=2),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_bench(name, seed):
    config = CONFIGS[name]
    run_bench(HammingUnit(config), "spikeloom.sim.benches.hamming", name="hamming", seed=seed,
              parameters={"config": asdict(config)})  # fmt: skip


def test_rows_of_one_slot_follow_each_other():
    config = preset("zcu104-half")
    order = output_order(config)
    assert order == [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]
    for place, i in enumerate(order):  # docs/machine.md: group g = i // 4 is in row (g // LG) * 4 + i % 4, slot g % LG
        slot, row = divmod(place, config.word_channels // config.load_groups)
        group = i // 4
        assert (slot, row) == (group % config.load_groups, group // config.load_groups * 4 + i % 4)


def test_model():
    block = HammingUnit(preset("tiny"))
    everything = (1 << 32) - 1
    matrix = block.matrix([(everything, everything)] * 3 + [(0, everything)], bipolar=True, mask=0b1111_1110)
    assert (matrix == np.where(np.arange(8)[:, None] == 0, 0, 2 * 12 - 16)).all()


def test_rows_are_one_module():
    assert emit_verilog(HammingUnit(preset("tiny")), name="hamming").count("\nmodule ") == 3  # unit, row, skid buffer


def test_adders_only():
    assert_no_multiplier(HammingUnit(preset("tiny")))
