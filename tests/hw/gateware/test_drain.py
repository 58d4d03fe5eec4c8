"""Benches of the neuron unit and of the DRAIN engine, block by block."""

from dataclasses import asdict, replace

import pytest

from spikeloom.config import preset
from spikeloom.hw.gateware.drain import DrainEngine
from spikeloom.hw.gateware.lif import LifChain
from spikeloom.hw.gateware.neuron import NeuronUnit
from spikeloom.hw.gateware.rescale import Rescale
from spikeloom.sim.cocotb_runner import run_bench

CONFIGS = {"tiny": replace(preset("tiny"), output_words=2), "small": preset("small")}


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_rescale(lanes):
    run_bench(Rescale(lanes), "spikeloom.sim.benches.rescale", name="rescale", parameters={"lanes": lanes}, seed=lanes)


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_lif(lanes):
    run_bench(LifChain(lanes), "spikeloom.sim.benches.lif", name="lif", parameters={"lanes": lanes}, seed=lanes)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_neuron(name, seed):
    config = CONFIGS[name]
    run_bench(NeuronUnit(config), "spikeloom.sim.benches.neuron", name="neuron",
              parameters={"config": asdict(config)}, seed=seed)


@pytest.mark.parametrize(("name", "acc_latency"), [("tiny", 2), ("tiny", 3), ("small", 2)])
def test_drain(name, acc_latency):
    config = CONFIGS[name]
    engine = DrainEngine(config, acc_latency=acc_latency)
    run_bench(engine, "spikeloom.sim.benches.drain", name="drain", seed=acc_latency,
              parameters={"config": asdict(config), "acc_latency": acc_latency})
