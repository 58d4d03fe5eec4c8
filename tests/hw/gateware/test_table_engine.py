"""Table engine: bench against its model, latency, parameters."""

import re
from dataclasses import asdict, replace

import pytest
from amaranth.hdl import Module

from spikeloom.config import preset
from spikeloom.hw.gateware.emit import assert_no_multiplier, emit_verilog
from spikeloom.hw.gateware.simd_adder import MODULES
from spikeloom.hw.gateware.table_engine import TableEngine
from spikeloom.hw.gateware.tables import LookupTable, add_tree
from spikeloom.sim.cocotb_runner import run_bench

CONFIGS = {
    "tiny": preset("tiny"),
    "small": preset("small"),
    "two groups": replace(preset("tiny"), word_channels=16, output_words=2, load_groups=2),
    "dsp": replace(preset("tiny"), word_channels=16, output_words=2, load_groups=2, adder="dsp"),
    "four groups, dsp": replace(preset("tiny"), adder="dsp"),
    "32 groups, dsp": replace(preset("zcu104"), lanes=2, output_words=1),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_bench(name, seed):
    config = CONFIGS[name]
    run_bench(TableEngine(config), "spikeloom.sim.benches.table_engine", name="table_engine", seed=seed,
              parameters={"config": asdict(config)})  # fmt: skip


@pytest.mark.parametrize(("name", "latency"), [("tiny", 5), ("small", 7), ("zcu104", 10)])
def test_latency(name, latency):
    assert TableEngine(preset(name)).latency == latency


def test_lanes_are_one_module():
    assert emit_verilog(TableEngine(preset("tiny")), name="engine").count("\nmodule ") == 3


def test_dsp_slices_take_the_first_two_levels():
    config = CONFIGS["dsp"]
    text = emit_verilog(TableEngine(config), name="engine")
    slices = len(re.findall(rf"^  {MODULES[12]} \S+ \(", text, re.M))
    assert slices == config.groups // 4 * config.outputs // 4  # of a lane
    assert MODULES[12] not in emit_verilog(TableEngine(preset("tiny")), name="engine")


def test_of_32_groups_some_of_the_next_levels_too():
    config = CONFIGS["32 groups, dsp"]
    text = emit_verilog(TableEngine(config), name="engine")
    assert len(re.findall(rf"^  {MODULES[24]} \S+ \(", text, re.M)) == config.outputs // 2  # of a lane


@pytest.mark.parametrize("name", ["tiny", "dsp"])
def test_adders_only(name):
    assert_no_multiplier(TableEngine(CONFIGS[name]))


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="`width` must be positive, not `0`"):
        LookupTable(width=0)
    with pytest.raises(ValueError, match="`operands` must be a power of two of values, not `0`"):
        add_tree(Module(), [], "sum")
