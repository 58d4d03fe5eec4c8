"""The whole machine, RTL against the integer reference: random networks under random bus stalls, and faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spikeloom.config import preset
from spikeloom.hw.isa import Opcode, Target
from spikeloom.hw.program.compiler import compile_network
from spikeloom.network import Conv, KeyValue
from spikeloom.quantize.models import named_config
from spikeloom.quantize.quantizer import quantize
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference
from spikeloom.quantize.relatives import V3Config
from spikeloom.quantize.untrained import untrained
from spikeloom.registers import ErrorCode
from spikeloom.sim.accelerator_model import MemoryModel, SimulationTimeout
from spikeloom.sim.compare import Comparison
from spikeloom.sim.machine import Machine, MachineError

STALLING = MemoryModel(bandwidth=0.8, latency=30, jitter=20, stall_probability=0.1)


def run(machine: Machine, network, seed: int = 0, reference: Reference | None = None) -> Comparison:
    """One random clip through RTL and reference; the comparison of every tensor that goes to DDR."""
    clip = random_clip(network, seed)
    expected = (reference or Reference(network)).run(clip)
    result = machine.run(clip, max_cycles=20_000_000)
    comparison = Comparison(network, on_chip=machine.program.on_chip)
    comparison.add({n: t.numpy() for n, t in expected.items()}, {n: result.tensor(n) for n in comparison.tensors},
                   cycle=result.write_cycle)
    return comparison


def machine_for(network, name: str, verilog, memory: MemoryModel, *, observe: bool = False, **options) -> Machine:
    config = preset(name)
    program = compile_network(network, config, observe=observe)
    return Machine(config, program, memory=memory, verilog=verilog(name), **options)


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed, observe, verilog):
    network = random_network(seed)
    memory = replace(STALLING, seed=seed)
    with machine_for(network, "tiny" if seed % 3 else "small", verilog, memory, observe=observe) as machine:
        comparison = run(machine, network, seed)
    assert comparison.mismatches == 0, comparison.summary()
    assert comparison.compared > 0


@pytest.mark.parametrize(("seed", "theme", "name"), [
    (24, "pyramid", "small"), (16, "pyramid", "tiny"), (2, "temporal", "small"), (44, "temporal", "tiny"),
    (46, "temporal", "small"), (22, "timed", "tiny"), (3, "integers", "tiny"), (1, "integers", "small"),
    (5, "integers", "tiny"), (94, "integers", "tiny"), (99, "integers", "small"),
    (4, "frames", "small"), (24, "frames", "tiny"), (0, "maximum", "tiny"), (2, "maximum", "small")])
def test_further_themes(seed, theme, name, verilog):
    network = random_network(seed, cycles=30_000, theme=theme)
    with machine_for(network, name, verilog, replace(STALLING, seed=seed)) as machine:
        comparison = run(machine, network, seed)
    assert comparison.mismatches == 0, comparison.summary()


def test_fused_and_unfused_repconvs(verilog):
    """Some RepConvs one 3x3 convolution, some three with planes between; one of each kind in each block."""
    unfused = ("block3.0.attn.q_conv", "block3.0.attn.proj_conv", "block4.0.attn.v_conv")
    config = replace(named_config("micro"), height=12, width=12)
    clips = np.random.default_rng(0).integers(0, 256, (2, config.frames, 12, 12, 3), np.uint8)
    network, _ = quantize(untrained(config, clips[0]), clips, unfused=unfused)
    planes = {name for name, tensor in network.tensors.items() if tensor.kind == "planes" and ".attn." in name}
    assert planes == {f"{name}.{part}.planes" for name in unfused for part in ("first", "depthwise")}
    with machine_for(network, "tiny", verilog, replace(STALLING, seed=1), observe=True) as machine:
        comparison = run(machine, network)
    assert planes <= set(comparison.tensors)
    assert comparison.mismatches == 0, comparison.summary()
    with machine_for(network, "tiny", verilog, replace(STALLING, seed=2)) as machine:  # planes stay on chip
        assert run(machine, network, reference=Reference(network)).mismatches == 0


@pytest.mark.parametrize("name", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_quantised_v3(name, verilog):
    """An E-SpikeFormer of 4 levels, V four times as wide as K, heads of 4 and 6 channels: every layer."""
    config = V3Config(widths=(8, 8, 16, 24), depths=(1, 1), heads=4, mlp_ratio=2, conv_ratio=2, height=16, width=16,
                      strides=(2, 2, 1, 2, 1), frames=2, classes=5)
    clips = np.random.default_rng(0).integers(0, 256, (2, config.frames, config.height, config.width, 3), np.uint8)
    network, _ = quantize(untrained(config, clips[0]), clips)
    with machine_for(network, name, verilog, replace(STALLING, seed=1), observe=True) as machine:
        comparison = run(machine, network)
    assert comparison.mismatches == 0, comparison.summary()
    assert set(comparison.tensors) > {t.name for t in network.tensors.values() if t.kind in ("integers", "residual")}


def test_integer_spikes_of_a_large_spatial_sum(verilog):
    """81 pixels are two tiles of tiny: the sum is put out for every threshold after the second."""
    config = V3Config(widths=(8, 8, 8, 16), depths=(1, 1), heads=2, mlp_ratio=1, conv_ratio=1, sep_ratio=1,
                      value_ratio=1, height=9, width=9, strides=(1, 1, 1, 1, 1), frames=6, classes=3, stem_kernel=3,
                      sep_kernel=3)
    clips = np.random.default_rng(0).integers(0, 256, (2, config.frames, config.height, config.width, 3), np.uint8)
    model = untrained(config, clips[0])
    torch.nn.init.uniform_(model.get_parameter("block4.0.mlp.fc2_bn.bias"), 0.0, 4.0)
    network, _ = quantize(model, clips)
    with machine_for(network, "tiny", verilog, replace(STALLING, seed=1)) as machine:
        comparison = run(machine, network)
    assert comparison.mismatches == 0, comparison.summary()
    summed = next(o.neuron.spikes for o in network.operators if isinstance(o, Conv) and o.neuron.pool)
    assert summed in comparison.tensors
    assert len(Reference(network).run(random_clip(network, 0))[summed].unique()) > 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 232))
def test_more_random_networks(seed, verilog):
    network = random_network(seed)
    memory = replace(STALLING, seed=seed, stall_probability=(seed % 4) / 10, latency=10 + seed % 90)
    for observe in (False, True):
        with machine_for(network, "small" if seed % 3 else "tiny", verilog, memory, observe=observe) as machine:
            comparison = run(machine, network, seed)
        assert comparison.mismatches == 0, comparison.summary()


@pytest.fixture(scope="module")
def network():
    """The network that faults are put into."""
    return random_network(3)


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


def constants_of(program, operator: str, target: Target) -> range:
    """Bytes of the program image that the first LOAD_WEIGHTS of an operator brings into `target`."""
    layer = [info.name for info in program.operators].index(operator)
    for instruction in program.instructions():
        if (instruction.layer, instruction.opcode) == (layer, Opcode.LOAD_WEIGHTS):
            body = instruction.body
            if body["target"] == target:
                return range(body["offset"], body["offset"] + body["beats"] * program.config.beat_bytes)
    raise AssertionError(f"{operator} loads no {target.name}")


@pytest.mark.parametrize("target", [Target.WEIGHTS, Target.PARAMETERS])
@pytest.mark.parametrize("position", [0, 1, -1])
def test_one_flipped_bit_names_the_layer(target, position, network, verilog):
    """One bit of an operator's weights, or of its neuron parameters, flipped in DDR: that operator is named first.

    A bit may have no effect (a weight of an input that never fires); then the next one is tried.
    """
    operator = [o for o in network.operators if isinstance(o, Conv)][position]
    with machine_for(network, "tiny", verilog, MemoryModel()) as machine:
        reference, comparison = Reference(network), Comparison(network)
        where = constants_of(machine.program, operator.name, target)
        for byte in where[1::7]:
            address = machine.bases["program"] + byte
            machine.model.memory[address] ^= 0x20
            comparison = run(machine, network, reference=reference)
            machine.model.memory[address] ^= 0x20
            if comparison.mismatches:
                break
        assert run(machine, network, reference=reference).mismatches == 0
    divergence = comparison.first_divergence
    assert divergence is not None, "no bit had an effect"
    assert divergence["layer"] == operator.name
    assert divergence["cycle"] > 0


def test_changed_rounding_names_the_layer(network, verilog):
    """A reference that rounds down instead of half up differs first in the first operator that rounds."""
    first = next(o for o in network.operators if not isinstance(o, KeyValue) and o.neuron.mode != "direct")
    wrong = Reference(network, rounding=lambda value, shift: (value << 8) >> (shift + 8))
    with machine_for(network, "tiny", verilog, MemoryModel()) as machine:
        comparison = run(machine, network, reference=wrong)
    assert comparison.first_divergence is not None
    assert comparison.first_divergence["layer"] == first.name
