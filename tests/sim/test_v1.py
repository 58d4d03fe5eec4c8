"""Spike-Driven Transformer V1 from torch to RTL: float network, integer network, programs, the machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spikeloom.bounds import prove_bounds
from spikeloom.config import preset
from spikeloom.hw.build import emit_machine
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.interpreter import Interpreter
from spikeloom.network import MaxConv, Network, NetworkError, Upsample
from spikeloom.quantize.calibration import run_float
from spikeloom.quantize.checkpoints.importing import import_checkpoint
from spikeloom.quantize.convert import quantize as convert
from spikeloom.quantize.folding import fold
from spikeloom.quantize.inference import to_input
from spikeloom.quantize.neurons import LIF, NeuronConfig
from spikeloom.quantize.quantizer import integer_outputs, quantize
from spikeloom.quantize.reference import Reference
from spikeloom.quantize.relatives import SpikeDrivenTransformerV1, V1Config
from spikeloom.quantize.report import QuantizationReport
from spikeloom.quantize.untrained import settle
from spikeloom.sim.accelerator_model import MemoryModel
from spikeloom.sim.compare import Comparison
from spikeloom.sim.machine import Machine

CONFIG = V1Config(dim=16, depth=1, heads=2, mlp_ratio=2, height=48, width=32, frames=6, classes=5)
"""Six frames: two lane groups of tiny. Maps of 48 x 32 down to 3 x 2."""


def network_of(config: V1Config) -> tuple[SpikeDrivenTransformerV1, NDArray[np.uint8]]:
    """Random weights, lively neurons, three clips."""
    torch.manual_seed(0)
    model = SpikeDrivenTransformerV1(config)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(norm.weight, 2.0)
            torch.nn.init.constant_(norm.bias, 0.5)
    size = (3, config.frames, config.height // 8, config.width // 8, 3)
    clips = np.random.default_rng(0).integers(0, 256, size, np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    settle(model, clips[0])
    return model, clips


@pytest.fixture(scope="module")
def v1() -> tuple[SpikeDrivenTransformerV1, NDArray[np.uint8]]:
    return network_of(CONFIG)


@pytest.fixture(scope="module")
def quantised(v1: tuple[SpikeDrivenTransformerV1, NDArray[np.uint8]]) -> tuple[Network, QuantizationReport]:
    return quantize(*v1)


@torch.no_grad()
def logits(model: SpikeDrivenTransformerV1, clips: NDArray[np.uint8]) -> torch.Tensor:
    return model.double()(to_input(model, clips).double())


@pytest.mark.parametrize("change", [
    {}, {"mlp_ratio": 1, "pooling": (False, True, False, True), "height": 16, "width": 16, "depth": 2},
    {"pooling": (True, True, True, False), "neuron": NeuronConfig(leak="half", reset="soft", strict=True)}])
def test_the_folded_network_is_the_same_function(change: dict) -> None:
    model, clips = network_of(replace(CONFIG, **change))
    stages = fold(model)
    found = run_float(stages, torch.from_numpy(clips), dtype=torch.float64)["head.logits"] / CONFIG.frames
    torch.testing.assert_close(found, logits(model, clips), rtol=0, atol=1e-9)
    fired = {stage.name: stage for stage in stages}
    assert [name for name in fired if "maxpool" in name] == [
        f"patch_embed.maxpool{suffix}" for suffix, pool in zip(("", "1", "2"), model.config.pooling, strict=False)
        if pool]
    assert (fired["patch_embed.proj_conv3"].window is not None) == model.config.pooling[3]


def test_the_integer_network_agrees(
    v1: tuple[SpikeDrivenTransformerV1, NDArray[np.uint8]], quantised: tuple[Network, QuantizationReport]
) -> None:
    """Given the float network's inputs, gates and ORs are exact and 99 % of all other spikes; logits end to end are
    within 15 % of their RMS value, for in random networks a spike that flips flips others."""
    model, clips = v1
    network, report = quantised
    exact = [layer for layer in report.layers if layer.local is not None and layer.operator.endswith(
        ("maxpool", "maxpool1", "maxpool2", ".kv", ".gate", ".gated"))]
    assert len(exact) == 6
    assert {layer.local for layer in exact} == {1.0}
    assert all(layer.rate is not None and 0.02 < layer.rate < 0.98 for layer in exact)
    assert all(layer.local > 0.99 for layer in report.layers if layer.local is not None)
    expected = logits(model, clips)
    error = (integer_outputs(network, clips) - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 0.15
    assert [type(o) for o in network.operators].count(MaxConv) == 1
    assert [o.factor for o in network.operators if isinstance(o, Upsample)] == [None]


def test_gates_by_hand(quantised: tuple[Network, QuantizationReport], v1: tuple) -> None:
    """q AND LIF(sum over pixels of k AND v) of the integer spikes, a max-pool of the integer stream."""
    network, _ = quantised
    values = Reference(network).run(v1[1][0])
    q, k, v = (values[f"block.0.attn.{part}_conv.spikes"] for part in "qkv")
    count = (k & v).sum((2, 3), keepdim=True).double()
    gate = LIF(replace(CONFIG.neuron, threshold=0.5))(count) != 0
    assert torch.equal(values["block.0.attn.gated.spikes"], q & gate)
    assert 0 < gate.double().mean() < 1


def test_every_machine_runs_it(quantised: tuple[Network, QuantizationReport], v1: tuple) -> None:
    network, _ = quantised
    expected = Reference(network).run(v1[1][0])
    for name, observe in (("tiny", False), ("small", True), ("zcu104", False)):
        program = compile_network(network, preset(name), observe=observe)
        machine = Interpreter(program, v1[1][0], np.random.default_rng(0)).run()
        for tensor, value in expected.items():
            if program.tensors[tensor].stored:
                assert np.array_equal(machine.tensor(tensor), value.numpy()), (name, tensor)


def test_rtl(quantised: tuple[Network, QuantizationReport], v1: tuple) -> None:
    """Every tensor that a machine of preset tiny makes, residuals too."""
    network, _ = quantised
    program = compile_network(network, preset("tiny"), observe=True)
    memory = MemoryModel(bandwidth=0.8, latency=30, jitter=20, stall_probability=0.1, seed=1)
    with Machine(preset("tiny"), program, memory=memory, verilog=emit_machine(preset("tiny"))) as machine:
        result = machine.run(v1[1][0], max_cycles=20_000_000)
        comparison = Comparison(network, on_chip=program.on_chip)
        expected = Reference(network).run(v1[1][0])
        comparison.add({n: t.numpy() for n, t in expected.items()}, {n: result.tensor(n) for n in comparison.tensors},
                       cycle=result.write_cycle)
    assert {"patch_embed.proj_conv3.residual", "block.0.attn.gated.spikes"} <= set(comparison.tensors)
    assert comparison.mismatches == 0, comparison.summary()


def test_from_a_checkpoint(v1: tuple, quantised: tuple[Network, QuantizationReport], tmp_path: Path) -> None:
    model, clips = v1
    torch.save({"model": model.float().state_dict()}, tmp_path / "v1.pth")
    imported = import_checkpoint(tmp_path / "v1.pth", tmp_path / "model", size=(48, 32), frames=6)
    assert not any("refuses" in notice for notice in imported.notices)
    assert json.loads((tmp_path / "model.json").read_text())["family"] == "spike-driven-transformer"
    report = convert(tmp_path / "model.safetensors", tmp_path / "network", clips=clips)
    network = Network.load(tmp_path / "network")
    assert report.network_hash == network.hash
    assert all(np.array_equal(array, quantised[0].arrays[name]) for name, array in network.arrays.items())


def test_values_under_a_maximum_keep_in_range(v1: tuple) -> None:
    """Weights so large that the stream's format must leave room for the least sum, and a channel without weights."""
    model, clips = network_of(replace(CONFIG, frames=1))
    norm, conv = (model.patch_embed.get_submodule(name) for name in ("proj_bn3", "proj_conv3"))
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert isinstance(conv, torch.nn.Conv2d)
    with torch.no_grad():
        norm.weight.mul_(40)
        conv.weight[3] = 0
    network, _ = quantize(model, clips)
    assert network.tensors["patch_embed.proj_conv3.residual"].fraction_bits < 8
    prove_bounds(network)


def test_integer_spikes_are_refused() -> None:
    model, clips = network_of(replace(CONFIG, neuron=NeuronConfig(levels=4)))
    with pytest.raises(NetworkError, match=r"operator block.0.attn: gates are AND of binary spikes, .* of 4 levels"):
        quantize(model, clips)
