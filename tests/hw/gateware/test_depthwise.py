"""Depthwise unit: bench against its model and against a convolution."""

from dataclasses import asdict, replace

import pytest

from spikeloom.config import preset
from spikeloom.hw.gateware.depthwise import DepthwiseUnit
from spikeloom.hw.gateware.emit import emit_verilog
from spikeloom.sim.cocotb_runner import run_bench

CONFIGS = {
    "tiny": preset("tiny"),
    "small": preset("small"),
    "one row": replace(preset("tiny"), word_channels=16, output_words=2, load_groups=2, depthwise_rows=1),
    "four rows": replace(preset("tiny"), banks=4, depthwise_rows=4, adder="dsp"),
    "eight rows": replace(preset("zcu104"), lanes=2, output_words=1),
    "four rows, lut": replace(preset("tiny"), banks=4, depthwise_rows=4),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_bench(name, seed):
    config = CONFIGS[name]
    run_bench(DepthwiseUnit(config), "spikeloom.sim.benches.depthwise", name="depthwise", seed=seed,
              parameters={"config": asdict(config)})  # fmt: skip


@pytest.mark.parametrize(("name", "latency"), [("tiny", 4), ("small", 5), ("zcu104-half", 6), ("zcu104", 7)])
def test_latency(name, latency):
    assert DepthwiseUnit(preset(name)).latency == latency


def test_channels_are_one_module():
    assert emit_verilog(DepthwiseUnit(preset("tiny")), name="depthwise").count("\nmodule ") == 2
