"""Whole networks of every design on the RTL, every layer against the integer reference, under random bus stalls.

Operators have tests of their own (`test_machine.py`); here they stand in networks as they come from torch: random
weights whose neurons fire, checkpoints of Meta-SpikeFormer, and trained networks on clips they were not trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spikeloom.config import preset
from spikeloom.hw.program.compiler import compile_network
from spikeloom.network import Accumulating, Network
from spikeloom.quantize.checkpoints import ARCHITECTURES, import_checkpoint
from spikeloom.quantize.convert import calibration_clips, load_any, load_model
from spikeloom.quantize.layers import DESIGNS
from spikeloom.quantize.models import SpikeVideoFormer, SpikeVideoFormerConfig, named_config
from spikeloom.quantize.neurons import NeuronConfig
from spikeloom.quantize.quantizer import quantize
from spikeloom.quantize.reference import Reference
from spikeloom.quantize.tasks import get_task
from spikeloom.quantize.untrained import untrained
from spikeloom.sim.accelerator_model import MemoryModel
from spikeloom.sim.compare import Comparison
from spikeloom.sim.machine import Machine

STALLING = MemoryModel(bandwidth=0.8, latency=30, jitter=20, stall_probability=0.1)
SMALL: dict[str, Any] = {"tasks": (), "height": 8, "width": 8}
HEADS: dict[str, dict[str, Any]] = {
    "class": SMALL | {"classes": 14, "frames": 5},
    "pose": SMALL | {"head": "pose", "classes": 6, "frames": 5},
    "segment": {"tasks": (), "head": "segment", "classes": 3, "head_width": 8, "strides": (2, 1, 2, 2, 1), "frames": 3}}
"""Fields by head. Five frames are two lane groups of the preset tiny."""

ATTENTIONS = ("hamming", "dot")
COVERING = [(*pair, head) for pair, head in zip(product(DESIGNS, ATTENTIONS), cycle([*HEADS, *reversed(HEADS)]))]
"""Every design with either attention, either attention with every head."""


def config_of(design: str, attention: str, head: str) -> SpikeVideoFormerConfig:
    return replace(named_config("micro"), design=design, attention=attention, **HEADS[head])


def clips_of(config: SpikeVideoFormerConfig, seed: int = 0) -> np.ndarray:
    shape = (2, config.frames, config.height, config.width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def lively(config: SpikeVideoFormerConfig, clip: np.ndarray) -> SpikeVideoFormer:
    """An untrained network whose norms have biases, and scales of either sign, so that all neurons have work."""
    model = untrained(config, clip)
    assert isinstance(model, SpikeVideoFormer)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, module in model.named_modules():
            if name.endswith(("q_conv.1", "k_conv.1", "v_conv.1")):
                nn.init.uniform_(module.get_parameter("bias"), 0.5, 3.0)
            if name.endswith("fc2_bn"):
                nn.init.uniform_(module.get_parameter("bias"), -0.5, 2.0)
            if name.endswith("attn_bn"):
                nn.init.uniform_(module.get_parameter("weight"), -2.0, 2.0)
                nn.init.uniform_(module.get_parameter("bias"), 0.0, 1.5)
    return model


def check(
    network: Network, clip: np.ndarray, name: str, verilog: Callable[[str], str], *, seed: int = 0, lively: bool = True,
    observe: bool = False,
) -> Comparison:
    """Run a clip on the RTL of a preset: every tensor that reaches DDR (with `observe`, all) equals the reference.

    `lively`: all neurons have something to say, or the comparison says little.
    """
    expected = {tensor: values.numpy() for tensor, values in Reference(network).run(clip).items()}
    for tensor in network.tensors.values():
        if lively and tensor.kind in ("spikes", "integers"):
            assert 0.01 < expected[tensor.name].mean() / max(tensor.levels, 1) < 0.99, tensor.name
    config = preset(name)
    program = compile_network(network, config, observe=observe)
    with Machine(config, program, memory=replace(STALLING, seed=seed), verilog=verilog(name)) as machine:
        result = machine.run(clip, max_cycles=20_000_000)
        comparison = Comparison(network, on_chip=program.on_chip)
        comparison.add(expected, {n: result.tensor(n) for n in comparison.tensors}, cycle=result.write_cycle)
    assert comparison.mismatches == 0, comparison.summary()
    assert network.output in comparison.tensors
    return comparison


@pytest.mark.parametrize(("design", "attention", "head"), COVERING)
def test_designs(design, attention, head, verilog):
    config = config_of(design, attention, head)
    clips = clips_of(config)
    network, _ = quantize(lively(config, clips[0]), clips)
    check(network, clips[1], "tiny", verilog, seed=len(head))


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_with_every_head(design, attention, head, verilog):
    """On another machine; nine frames are two of its lane groups."""
    config = replace(config_of(design, attention, head), frames=3 if head == "segment" else 9)
    clips = clips_of(config, 1)
    network, _ = quantize(lively(config, clips[0]), clips)
    check(network, clips[1], "small", verilog, seed=len(design))


@pytest.mark.parametrize(("design", "attention"), [
    ("joint", "hamming"), ("joint", "dot"), ("factorised", "hamming"), ("hierarchical", "dot"),
    *(pytest.param(design, attention, marks=pytest.mark.slow) for design, attention in (
        ("factorised", "dot"), ("hierarchical", "hamming")))])
def test_integer_spikes(design, attention, verilog):
    """I-LIF of four levels: stem, convolutional blocks, attention, MLPs, head."""
    config = replace(config_of(design, attention, "class"), neuron=NeuronConfig(levels=4), frames=3)
    clips = clips_of(config)
    network, _ = quantize(lively(config, clips[0]), clips)
    assert {tensor.levels for tensor in network.tensors.values() if tensor.name.endswith("spikes")} == {4}
    check(network, clips[1], "tiny", verilog, seed=1)


def test_imported_meta_spikeformer(verilog, tmp_path, monkeypatch):
    """A checkpoint of V2: its own strides, attention and neurons, narrow; one image for four time steps."""
    named = ARCHITECTURES["v2-15M"]
    config = replace(named.config, widths=(8, 8, 16, 16), depths=(1, 1), heads=2, classes=5, height=32, width=32)
    monkeypatch.setitem(ARCHITECTURES, "v2-test", replace(named, config=config))
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 32, 32, 3), np.uint8)
    torch.save({"model": lively(config, image[0]).state_dict()}, tmp_path / "v2.pth")
    imported = import_checkpoint(tmp_path / "v2.pth", tmp_path / "v2", arch="v2-test", frames=4)
    assert (imported.config.attention, imported.config.design) == ("dot", "neuron")
    clip = image.repeat(4, axis=1)
    network, _ = quantize(load_model(str(tmp_path / "v2.safetensors")), clip)
    check(network, clip[0], "tiny", verilog, seed=2)


@pytest.mark.parametrize("name", ["v1-digits", "v2-digits", "v3-digits"])
def test_trained_relatives(name, verilog):
    """A held-out clip through trained networks of V1, V2 and V3, every layer; the answers are right."""
    pytest.importorskip("sklearn")
    model = load_any(name)
    task = get_task(model.config)
    network, _ = quantize(model, calibration_clips(model.config, count=8))
    clips, targets = task.batch(range(1), "test", 0)
    comparison = check(network, clips[0], "tiny", verilog, lively=False, observe=True)
    made = {tensor for operator in network.operators if isinstance(operator, Accumulating)
            for tensor in operator.neuron.outputs}
    assert made <= set(comparison.tensors)
    logits = model.split(torch.as_tensor(Reference(network).run(clips[0])[network.output]))
    assert {question: int(part.argmax()) for question, part in logits.items()} == {
        question: int(answers[0]) for question, answers in targets.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "walkers", "masks"])
def test_trained_networks(name, verilog):
    """A held-out clip through the trained networks."""
    pytest.importorskip("sklearn")
    model = load_model(name)
    network, _ = quantize(model, calibration_clips(model.config, count=8))
    clips, _ = get_task(model.config).batch(range(1), "test", 0)
    check(network, clips[0], "tiny", verilog, lively=False)
