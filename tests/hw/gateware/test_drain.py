"""Benches of the neuron unit and of the DRAIN engine, block by block."""

import random
from dataclasses import asdict, replace

import pytest

from spikeloom.config import preset
from spikeloom.hw.gateware.beat_output import BeatOutput
from spikeloom.hw.gateware.credit_fifo import CreditFifo
from spikeloom.hw.gateware.drain import DrainEngine
from spikeloom.hw.gateware.emit import assert_no_multiplier, emit_verilog
from spikeloom.hw.gateware.instruction import BODY_BITS, body_layout, fields_layout
from spikeloom.hw.gateware.lif import LifChain
from spikeloom.hw.gateware.neuron import NeuronUnit
from spikeloom.hw.gateware.rescale import Rescale
from spikeloom.hw.gateware.spatial_sum import SpatialSum
from spikeloom.hw.isa import FIELDS, Opcode, pack_fields
from spikeloom.sim.cocotb_runner import run_bench

_TINY = replace(preset("tiny"), output_words=2)
CONFIGS = {"tiny": _TINY, "four banks": replace(_TINY, banks=4), "eight banks": replace(_TINY, banks=8),
           "small": preset("small")}


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_rescale(lanes):
    run_bench(Rescale(lanes), "spikeloom.sim.benches.rescale", name="rescale", parameters={"lanes": lanes}, seed=lanes)


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_lif(lanes):
    run_bench(LifChain(lanes), "spikeloom.sim.benches.lif", name="lif", parameters={"lanes": lanes}, seed=lanes)


@pytest.mark.parametrize("name", ["tiny", "small"])
@pytest.mark.parametrize("seed", [1, 2])
def test_neuron(name, seed):
    config = CONFIGS[name]
    run_bench(NeuronUnit(config), "spikeloom.sim.benches.neuron", name="neuron",
              parameters={"config": asdict(config)}, seed=seed)


@pytest.mark.parametrize(("name", "acc_latency", "residual_latency"), [
    ("tiny", 2, 3), ("tiny", 3, 1), ("tiny", 1, 4), ("four banks", 2, 3), ("eight banks", 2, 3), ("small", 2, 3)])
def test_drain(name, acc_latency, residual_latency):
    config = CONFIGS[name]
    engine = DrainEngine(config, acc_latency=acc_latency, residual_latency=residual_latency)
    run_bench(engine, "spikeloom.sim.benches.drain", name="drain", seed=acc_latency,
              parameters={"config": asdict(config), "acc_latency": acc_latency, "residual_latency": residual_latency})


def test_no_multiplier():
    assert_no_multiplier(emit_verilog(DrainEngine(CONFIGS["tiny"]), name="drain"))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Rescale(0), "`lanes` must be at least 1, not `0`"),
    (lambda: LifChain(0), "`lanes` must be at least 1, not `0`"),
    (lambda: SpatialSum(4, 0), "`words` must be at least 1, not `0`"),
    (lambda: CreditFifo(8, 1), "`depth` must be at least 2, not `1`"),
    (lambda: BeatOutput(8, ()), r"`beats` must be one or more positive numbers, not `\(\)`"),
    (lambda: DrainEngine(preset("tiny"), acc_latency=0), "`acc_latency` must be at least 1, not `0`"),
    (lambda: DrainEngine(preset("tiny"), residual_latency=6), "`residual_latency` must be from 1 to 5, not `6`"),
    (lambda: fields_layout(FIELDS[Opcode.DRAIN], 8), "`width` must be at least [0-9]+, not `8`"),
])
def test_bad_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("opcode", Opcode)
def test_body_layout_is_that_of_the_isa(opcode):
    rng = random.Random(int(opcode))
    values = {f.name: rng.randrange(1 << f.width) - (1 << (f.width - 1) if f.signed else 0) for f in FIELDS[opcode]}
    constant = body_layout(opcode).from_bits(pack_fields(FIELDS[opcode], values, opcode.name))
    assert {name: constant[name] for name in values} == values
    assert body_layout(opcode).size == BODY_BITS
