"""The whole machine, RTL against the integer reference: random networks under random bus stalls, and faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.hw.build import emit_machine
from spikeloom.hw.program.compiler import compile_network
from spikeloom.network import outputs_of
from spikeloom.quantize.random_networks import random_clip, random_network
from spikeloom.quantize.reference import Reference
from spikeloom.registers import ErrorCode
from spikeloom.sim.accelerator_model import MemoryModel, SimulationTimeout
from spikeloom.sim.compare import Comparison
from spikeloom.sim.machine import Machine, MachineError

STALLING = MemoryModel(bandwidth=0.8, latency=30, jitter=20, stall_probability=0.1)


def run(machine: Machine, network, seed: int = 0, reference: Reference | None = None) -> Comparison:
    """One random clip through RTL and reference; the comparison of every tensor."""
    clip = random_clip(network, seed)
    expected = (reference or Reference(network)).run(clip)
    result = machine.run(clip, max_cycles=20_000_000)
    comparison = Comparison(network)
    comparison.add({n: t.numpy() for n, t in expected.items()}, {n: result.tensor(n) for n in comparison.tensors},
                   cycle=result.write_cycle)
    return comparison


@pytest.fixture(scope="module")
def verilog():
    """Emitted Verilog by preset, each emitted once."""
    texts: dict[str, str] = {}

    def get(name: str) -> str:
        return texts.setdefault(name, emit_machine(preset(name)))

    return get


def machine_for(network, name: str, verilog, memory: MemoryModel, **options) -> Machine:
    config = preset(name)
    return Machine(config, compile_network(network, config), memory=memory, verilog=verilog(name), **options)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed, verilog):
    network = random_network(seed)
    memory = replace(STALLING, seed=seed)
    with machine_for(network, "tiny" if seed % 3 else "small", verilog, memory) as machine:
        comparison = run(machine, network, seed)
    assert comparison.mismatches == 0, comparison.summary()
    assert comparison.compared > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 232))
def test_more_random_networks(seed, verilog):
    network = random_network(seed)
    memory = replace(STALLING, seed=seed, stall_probability=(seed % 4) / 10, latency=10 + seed % 90)
    with machine_for(network, "small" if seed % 3 else "tiny", verilog, memory) as machine:
        comparison = run(machine, network, seed)
    assert comparison.mismatches == 0, comparison.summary()


@pytest.fixture(scope="module")
def network():
    """The network that faults are put into."""
    return random_network(5)


def test_clips_follow_each_other(network, verilog):
    with machine_for(network, "tiny", verilog, MemoryModel()) as machine:
        for seed in range(3):
            assert run(machine, network, seed).mismatches == 0


@pytest.mark.parametrize("port_fault", ["SLVERR", "DECERR"])
@pytest.mark.parametrize("direction", ["read", "write"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_bus_error_stops_and_soft_reset_recovers(direction, port_fault, share, network, verilog):
    with machine_for(network, "tiny", verilog, STALLING) as machine:
        assert run(machine, network).mismatches == 0
        counters = machine.model.counters(0)
        beats = counters.read_beats if direction == "read" else counters.write_beats
        machine.model.inject_error(0, direction, port_fault, beat=beats + int(share * (beats - 1)))
        with pytest.raises(MachineError) as stopped:
            machine.run(random_clip(network, 0), max_cycles=3_000_000)
        assert stopped.value.code == (ErrorCode.BUS_READ if direction == "read" else ErrorCode.BUS_WRITE)
        machine.soft_reset()
        assert run(machine, network, 1).mismatches == 0


def test_stalled_bus_trips_the_watchdog(network, verilog):
    with machine_for(network, "tiny", verilog, MemoryModel(), watchdog=5_000) as machine:
        first = machine.model.cycle
        machine.model.stall_port(0, from_cycle=first + 3_000)
        with pytest.raises(MachineError, match="WATCHDOG"):
            machine.run(random_clip(network, 0), max_cycles=100_000)
        assert machine.model.cycle - first < 20_000
        with pytest.raises(SimulationTimeout):
            machine.soft_reset()  # cannot end while the bus owes answers
        machine.model.release_port(0)
        machine.soft_reset()
        assert run(machine, network, 1).mismatches == 0


@pytest.mark.parametrize(("fault", "code"), [
    ("flip", ErrorCode.BAD_CHECKSUM), ("truncate", ErrorCode.BAD_CHECKSUM), ("opcode", ErrorCode.BAD_OPCODE)])
def test_broken_program_is_refused(fault, code, network, verilog):
    import zlib

    with machine_for(network, "tiny", verilog, STALLING) as machine:
        base = machine.bases["program"]
        at = base + 64 * 7
        memory = machine.model.memory
        good = memory[base:base + len(machine.program.image)].copy()
        if fault == "flip":
            memory[at + 20] ^= 1
        elif fault == "truncate":
            memory[at:base + len(good)] = 0
        else:
            memory[at] = 99
            memory[at + 60:at + 64] = np.frombuffer(
                zlib.crc32(memory[at:at + 60].tobytes()).to_bytes(4, "little"), np.uint8)
        with pytest.raises(MachineError) as stopped:
            machine.run(random_clip(network, 0), max_cycles=3_000_000)
        assert (stopped.value.code, stopped.value.instruction) == (code, 7)
        memory[base:base + len(good)] = good
        machine.soft_reset()
        assert run(machine, network, 1).mismatches == 0


def first_wrong_layer(comparison: Comparison) -> str | None:
    return comparison.first_divergence["layer"] if comparison.first_divergence else None


@pytest.mark.parametrize("position", [0, -1])
def test_flipped_weight_names_the_layer(position, network, verilog):
    """A weight of one operator is changed for the machine only: the report names that operator first."""
    config = preset("tiny")
    operators = [o for o in network.operators if getattr(o, "weight", None)]
    operator = operators[position]
    changed = replace_array(network, operator.weight, lambda a: flip_visible(a))
    with Machine(config, compile_network(changed, config), verilog=verilog("tiny")) as machine:
        comparison = run(machine, network)
    assert first_wrong_layer(comparison) == operator.name
    divergence = comparison.first_divergence
    assert divergence is not None and divergence["cycle"] > 0


def replace_array(network, name, change):
    arrays = {n: a.copy() for n, a in network.arrays.items()}
    arrays[name] = change(arrays[name])
    return replace(network, arrays=arrays)


def flip_visible(weight):
    """Negate every weight's top bit-pattern that matters: all weights of output 0 change by 64."""
    weight = weight.copy()
    weight[0] = np.clip(weight[0].astype(np.int16) ^ 64, -127, 127).astype(np.int8)
    return weight


assert outputs_of is not None
