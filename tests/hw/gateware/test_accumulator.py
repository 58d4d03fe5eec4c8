"""Accumulators: bench against their model, parameters."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.hw.gateware.accumulator import Accumulators, Update
from spikeloom.hw.gateware.emit import assert_no_multiplier, emit_verilog
from spikeloom.hw.isa import Accumulate
from spikeloom.sim.cocotb_runner import run_bench

CONFIGS = {
    "tiny": preset("tiny"),
    "small": preset("small"),
    "four words": replace(preset("tiny"), output_words=4, accumulator_depth=20),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_bench(name, seed):
    config = CONFIGS[name]
    run_bench(Accumulators(config), "spikeloom.sim.benches.accumulator", name="accumulator", seed=seed,
              parameters={"config": asdict(config)})  # fmt: skip


@pytest.mark.parametrize("sums_delay", [1, 4])
def test_sums_after_their_announcement(sums_delay):
    options = {"sums_delay": sums_delay, "sum_bits": 24}
    run_bench(Accumulators(preset("tiny"), **options), "spikeloom.sim.benches.accumulator", name="accumulator",
              parameters={"config": asdict(preset("tiny")), **options})  # fmt: skip


def test_the_model_refuses_updates_too_close():
    block = Accumulators(preset("tiny"))
    banks = np.zeros((2, 4, block.config.outputs, block.config.lanes), np.int64)

    def updates(distance):
        options = {"bank": 0, "address": 3, "mode": Accumulate.KEEP, "sums": banks[0, 0] + 1}
        return [Update(cycle=cycle, **options) for cycle in (0, distance)]

    block.model(banks, updates(block.spacing))
    assert (banks[0, 3] == 2).all()
    with pytest.raises(ValueError, match=f"must be {block.spacing} cycles apart"):
        block.model(banks, updates(block.spacing - 1))


def test_words_are_one_module():
    assert emit_verilog(Accumulators(CONFIGS["four words"]), name="accumulator").count("\nmodule ") == 2


def test_adders_only():
    assert_no_multiplier(Accumulators(preset("tiny")))


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="`sums_delay` must be 0 to 4, not `5`"):
        Accumulators(preset("tiny"), sums_delay=5)
    with pytest.raises(ValueError, match="`sum_bits` must be 1 to 24, not `25`"):
        Accumulators(preset("tiny"), sum_bits=25)
