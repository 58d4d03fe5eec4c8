"""Quantisation-aware training computes the integer network itself, and its gradients are those of the float network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spikeloom.network import Lif, Neuron
from spikeloom.quantize.checkpoints.architectures import ARCHITECTURES, build_model
from spikeloom.quantize.models import SpikeVideoFormerConfig, named_config
from spikeloom.quantize.neurons import LIF, NeuronConfig
from spikeloom.quantize.qat import QuantizationAware, _NeuronStage, _Straight
from spikeloom.quantize.quantizer import integer_outputs, quantize
from spikeloom.quantize.reference import Reference
from spikeloom.quantize.relatives import RelativeConfig

MICRO = named_config("micro")
V1: Any = replace(ARCHITECTURES["v1-digits"].config, dim=16, depth=1, height=16, width=16, frames=3)
V3: Any = replace(ARCHITECTURES["v3-digits"].config, widths=(8, 8, 8, 16), height=16, width=16, frames=2)


def clips_for(config: SpikeVideoFormerConfig | RelativeConfig, seed: int = 0) -> Tensor:
    shape = (2, config.frames, config.height, config.width, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def trained(config: SpikeVideoFormerConfig | RelativeConfig, weight_bits: int) -> QuantizationAware:
    """After norm statistics of real activity and two quantisation-aware steps that move every parameter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config)
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = None  # plain average: statistics of real activity
                nn.init.uniform_(module.weight, 0.5, 1.8)
                nn.init.uniform_(module.bias, -0.2, 0.9)
        for parameter in model.get_submodule("head").parameters():
            nn.init.normal_(parameter, std=0.3)
    for name, parameter in model.named_parameters():
        if name.endswith("attn_bn.weight"):  # scales of both signs
            parameter.data[::3] *= -1
    with torch.no_grad():
        for _ in range(3):
            model(model.normalise(clips_for(config)).movedim(1, 0))
    module = QuantizationAware(model)
    module.choose(clips_for(config), weight_bits=weight_bits)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    for seed in (1, 2):
        optimiser.zero_grad()
        outputs = module(clips_for(config, seed))
        (outputs - torch.rand(outputs.shape, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return module


@pytest.mark.parametrize(("base", "change", "weight_bits"), [
    (MICRO, {}, 8), (MICRO, {"pixel_mean": (0.485, 0.456, 0.406)}, 4), (MICRO, {"attention": "dot"}, 4),
    (MICRO, {"neuron": NeuronConfig(leak="half", reset="soft", strict=True)}, 8),
    (MICRO, {"attention": "dot", "neuron": NeuronConfig(levels=4)}, 8),
    (MICRO, {"attention": "hamming", "neuron": NeuronConfig(levels=3)}, 8),
    (MICRO, {"design": "hierarchical", "neuron": NeuronConfig(levels=3)}, 8),
    (MICRO, {"design": "hierarchical"}, 8), (MICRO, {"design": "factorised", "attention": "dot"}, 4),
    (MICRO, {"head": "pose", "classes": 6, "tasks": ()}, 8),
    (MICRO, {"head": "segment", "classes": 3, "tasks": (), "head_width": 8, "strides": (2, 2, 1, 2, 1)}, 4),
    (V1, {}, 8), (V1, {"mlp_ratio": 1}, 4), (V3, {}, 8), (V3, {"levels": 3}, 4)])
def test_every_tensor_equals_the_integer_network(base, change, weight_bits) -> None:
    config = replace(base, **change)
    module, clips = trained(config, weight_bits), clips_for(config, 5)
    assert module.formats is not None
    module.model.eval()
    network, _ = quantize(module.model, clips_for(config, 6), formats=module.formats, weight_bits=weight_bits)
    found, _ = module.run(clips)
    expected = Reference(network).values(clips)
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name].double(), value.double())] == []
    outputs = integer_outputs(network, clips)
    torch.testing.assert_close(module(clips).double(), outputs, rtol=1e-6, atol=0)
    assert outputs.shape == module.model(module.model.normalise(clips).transpose(0, 1)).shape
    spikes = [values for name, values in expected.items() if name.endswith(".spikes")]
    assert float(spikes[len(spikes) // 2].double().mean()) > 0.02
    assert float(outputs.std()) > 0


@pytest.mark.parametrize("config", [MICRO, V1, V3])
def test_every_parameter_has_a_gradient(config) -> None:
    module = trained(config, 8)
    module.model.zero_grad()
    module(clips_for(config, 3)).square().sum().backward()
    without = [name for name, parameter in module.model.named_parameters()
               if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all())]
    assert without == []
    still = {name for name, parameter in module.model.named_parameters()
             if parameter.requires_grad and not torch.any(torch.as_tensor(parameter.grad))}
    assert len(still) < 10, still


@pytest.mark.parametrize("config", [
    NeuronConfig(surrogate="atan"), NeuronConfig(leak="none", reset="soft", threshold=0.5),
    NeuronConfig(leak="half", strict=True, surrogate="triangle"), NeuronConfig(levels=4, threshold=0.5)])
@pytest.mark.parametrize("mode", ["direct", "residual"])
def test_gradients_where_nothing_is_rounded(mode: str, config: NeuronConfig) -> None:
    """Values on the grid of the integers: spikes and gradients are those of the float neuron."""
    torch.manual_seed(3)
    unit, shift = 256.0, 2
    shape = (4, 2, 3, 5, 5)
    accumulator = torch.randint(-300, 500, shape).float() * (1 if mode == "direct" else 4)
    bias = torch.tensor([16.0, -32.0, 64.0])
    shortcut = torch.randint(-100, 100, shape).float() if mode == "residual" else None
    threshold = torch.full((3,), config.threshold * unit)
    if config.levels > 1:
        threshold = (torch.arange(1, config.levels + 1)[:, None] - 0.5) * threshold
    weight = torch.randn(shape)
    leaves = [t.clone().requires_grad_() for t in (accumulator, bias) + ((shortcut,) if shortcut is not None else ())]
    lif = Lif(leak=config.leak if config.levels == 1 else "memoryless", reset=config.reset, strict=config.strict)
    neuron = Neuron(mode=mode, bias="bias", threshold="threshold", lif=lif, spikes="spikes",
                    shift="shift" if mode == "residual" else None)
    arrays = {"bias": bias.long(), "threshold": threshold.long(), "shift": torch.full((3,), shift)}
    spikes, = _NeuronStage.apply(leaves[0], leaves[1], threshold, leaves[2] if shortcut is not None else None, neuron,
                                 config, arrays)
    (spikes * weight).sum().backward()
    reals = [t.clone().requires_grad_() for t in (accumulator, bias) + ((shortcut,) if shortcut is not None else ())]
    value = reals[0] + reals[1].view(-1, 1, 1)
    if shortcut is not None:
        value = value / 2 ** shift + reals[2]
    expected = LIF(config)(value / unit) * config.levels  # integers here
    (expected * weight).sum().backward()
    assert torch.equal(spikes, expected)
    assert 0.05 < float(spikes.detach().mean()) / config.levels < 0.95
    for ours, theirs in zip(leaves, reals, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_no_gradient_where_numbers_saturate() -> None:
    """At the ends of weights, planes and the residual stream; a shift by 2 is a quarter of the gradient."""
    real = torch.tensor([-9.0, -7.4, 0.3, 8.0], requires_grad=True)
    integers = _Straight.apply(real, torch.tensor([-7, -7, 0, 7]), real.detach().abs() <= 7.5)
    integers.sum().backward()
    assert integers.tolist() == [-7, -7, 0, 7]
    assert torch.as_tensor(real.grad).tolist() == [0, 1, 1, 0]
    for mode, largest in (("planes", 127), ("residual", 32767)):
        made = {kind: "out" if kind == mode else None for kind in ("planes", "residual")}
        neuron = Neuron(mode=mode, bias="bias", shift="shift", planes=made["planes"], residual=made["residual"])
        arrays = {"bias": torch.zeros(1).long(), "shift": torch.full((1,), 2)}
        value = torch.tensor([0.0, 4.0 * largest, 4.0 * largest + 8, -4.0 * largest - 12]).view(4, 1, 1, 1, 1)
        value.requires_grad_()
        out, = _NeuronStage.apply(value, torch.zeros(1), None, None, neuron, None, arrays)
        out.sum().backward()
        assert out.flatten().tolist() == [0, largest, largest, -largest - 1]
        assert torch.as_tensor(value.grad).flatten().tolist() == [0.25, 0.25, 0, 0]


def test_formats_must_be_chosen() -> None:
    with pytest.raises(ValueError, match="`formats` must be chosen before the network runs"):
        QuantizationAware(build_model(MICRO))(clips_for(MICRO))
