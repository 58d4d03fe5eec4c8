"""The feature pyramid, against a computation that is written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from spikeloom.quantize.heads import Pyramid
from spikeloom.quantize.models import SpikeVideoFormer, named_config
from spikeloom.quantize.neurons import LIF, NeuronConfig


def test_pyramid_written_out() -> None:
    """Stages of 8, 8, 4 and 2 pixels: added as they are, enlarged, enlarged."""
    torch.manual_seed(0)
    neuron = NeuronConfig(threshold=0.1)
    head = Pyramid((3, 4, 5, 6), width=7, classes=2, neuron=neuron).eval()
    sizes = ((3, 8), (4, 8), (5, 4), (6, 2))
    stages = [2 * torch.randn(2, 1, c, n, n) for c, n in sizes]
    lif = LIF(neuron)

    def lateral(i: int) -> torch.Tensor:
        layer = head.laterals[i]
        return layer(lif(stages[i])[:, 0])

    def twice(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    level = lateral(0) + lateral(1) + twice(lateral(2) + twice(lateral(3)))
    smooth = head.smooth(lif(level))
    logits = head.classify(lif(smooth))
    assert torch.allclose(head(stages)[:, 0], logits, atol=1e-6)
    assert lif(smooth).any()


def test_levels_are_the_ends_of_the_stages() -> None:
    config = replace(named_config("masks"), depths=(2, 1))
    model = SpikeVideoFormer(config).eval()
    x = torch.randn(2, 1, 3, 32, 32)
    with torch.no_grad():
        levels, outputs, y = model.levels(x), {}, x
        for name, module in model.stages():
            outputs[name] = y = module(y)
    for level, name in zip(levels, ("ConvBlock1_2.0", "ConvBlock2_2.0", "block3.1", "block4.0"), strict=True):
        assert torch.equal(level, outputs[name])
    assert [level.shape[-1] for level in levels] == [16, 8, 4, 4]


@pytest.mark.parametrize("name", ["walkers", "masks"])
def test_every_parameter_of_the_heads_gets_a_gradient(name: str) -> None:
    model = SpikeVideoFormer(replace(named_config(name), neuron=NeuronConfig(threshold=0.1))).train()
    model(torch.randn(8, 1, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head.parameters())
