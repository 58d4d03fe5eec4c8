"""Benches of the data movers: transfer generator, AXI ports, load, pack and store engines, buffers."""

from dataclasses import asdict

import pytest

from spikeloom.config import preset
from spikeloom.hw.gateware.transfer import TransferGenerator
from spikeloom.sim.benches.dma import ReadEngines
from spikeloom.sim.cocotb_runner import run_bench

PRESETS = pytest.mark.parametrize("name", ["tiny", "small"])


def bench(component, module: str, name: str, top: str, seed: int = 1, **parameters):
    return run_bench(component, f"spikeloom.sim.benches.{module}", name=f"{top}_{name}", seed=seed,
                     parameters={"config": asdict(preset(name)), **parameters})


@PRESETS
def test_transfer(name):
    bench(TransferGenerator(preset(name)), "transfer", name, "transfer")


@PRESETS
@pytest.mark.parametrize("module", ["load", "row_load", "packer"])
def test_read_engines(name, module):
    bench(ReadEngines(preset(name)), module, name, "read_engines", seed=3)
