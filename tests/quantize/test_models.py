"""Structure, names, sizes and numbers of the torch SpikeVideoFormer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from spikeloom.quantize.layers import MSAttention, RepConv, dot_attention, hamming_attention
from spikeloom.quantize.models import (
    CONFIGS,
    SpikeVideoFormer,
    SpikeVideoFormerConfig,
    build,
    named_config,
)
from spikeloom.quantize.neurons import LIF, NeuronConfig


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch norm statistics and weights of its own, negative scales among them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            layer.running_var.copy_(0.5 + torch.rand(layer.running_var.shape, generator=generator))
    return module.eval()


def spikes(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize(("name", "millions"), [("15M", 15.1), ("31M", 31.3), ("55M", 55.4)])
def test_published_sizes(name: str, millions: float) -> None:
    """Published counts are for ImageNet's 1,000 classes (the pre-trained networks)."""
    with torch.device("meta"):
        model = SpikeVideoFormer(replace(named_config(name), classes=1000))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_demo_network_is_small() -> None:
    assert sum(p.numel() for p in build("digits").parameters()) < 300_000
    assert sum(p.numel() for p in build("micro").parameters()) < 30_000


BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def released_keys() -> set[str]:
    """Names in a released Hamming-attention checkpoint of depths 6 and 2."""
    keys = {"head.weight", "head.bias"}
    for stage in ("1_1", "1_2", "2", "3", "4"):
        keys |= {f"downsample{stage}.encode_conv.weight", f"downsample{stage}.encode_conv.bias"}
        keys |= {f"downsample{stage}.encode_bn.{k}" for k in BN}
    for stage in ("1_1", "1_2", "2_1", "2_2"):
        block = f"ConvBlock{stage}.0"
        keys |= {f"{block}.Conv.{c}.weight" for c in ("pwconv1", "dwconv", "pwconv2")}
        keys |= {f"{block}.{c}.weight" for c in ("conv1", "conv2")}
        keys |= {f"{block}.{n}.{k}" for n in ("Conv.bn1", "Conv.bn2", "bn1", "bn2") for k in BN}
    for block in [f"block3.{i}" for i in range(6)] + [f"block4.{i}" for i in range(2)]:
        for name in ("q", "k", "v", "proj"):
            conv = f"{block}.attn.{name}_conv"
            keys |= {f"{conv}.0.body.{p}.weight" for p in ("0", "2.0", "2.1")}
            keys |= {f"{conv}.{n}.{k}" for n in ("0.body.1.bn", "0.body.2.2", "1") for k in BN}
        keys |= {f"{block}.attn.attn_bn.{k}" for k in BN}
        keys |= {f"{block}.mlp.fc{i}_conv.{k}" for i in (1, 2) for k in ("weight", "bias")}
        keys |= {f"{block}.mlp.fc{i}_bn.{k}" for i in (1, 2) for k in BN}
    return keys


def test_state_dict_names_and_shapes_are_the_released_ones() -> None:
    with torch.device("meta"):
        state = build("15M").state_dict()
    assert set(state) == released_keys()
    assert tuple(state["downsample1_1.encode_conv.weight"].shape) == (32, 3, 7, 7)
    assert tuple(state["ConvBlock1_1.0.Conv.dwconv.weight"].shape) == (64, 1, 7, 7)
    assert tuple(state["ConvBlock2_2.0.conv1.weight"].shape) == (512, 128, 3, 3)
    assert tuple(state["block4.1.attn.q_conv.0.body.2.0.weight"].shape) == (360, 1, 3, 3)
    assert tuple(state["block3.5.mlp.fc1_conv.weight"].shape) == (1024, 256, 1)


def test_dot_attention_has_no_batch_norm_and_half_the_threshold() -> None:
    attention = MSAttention(16, heads=2, attention="dot", neuron=NeuronConfig())
    assert not any("attn_bn" in key for key in attention.state_dict())
    assert isinstance(attention.attn_lif, LIF)
    assert attention.attn_lif.config.threshold == 0.5


def test_sizes_of_the_published_network() -> None:
    sizes = named_config("15M").sizes
    assert sizes == ((112, 112), (56, 56), (28, 28), (14, 14), (14, 14))


@pytest.mark.parametrize("name", ["micro", "digits"])
def test_stages_have_the_sizes_of_the_configuration(name: str) -> None:
    model = randomise(build(name))
    assert isinstance(model, SpikeVideoFormer)
    config, sizes = model.config, []
    x = torch.zeros(config.frames, 1, 3, config.height, config.width)
    for stage, module in model.stages():
        x = module(x)
        if stage.startswith("downsample"):
            sizes.append(tuple(x.shape[-2:]))
    assert tuple(sizes) == config.sizes
    assert tuple(x.shape[:3]) == (config.frames, 1, config.widths[3])


def test_logits_gradient_and_split() -> None:
    torch.manual_seed(0)
    model = build("micro").train()
    x = torch.randn(4, 3, 3, 16, 16)
    logits = model(x)
    assert logits.shape == (3, 14)
    parts = model.split(logits)
    assert torch.equal(torch.cat([parts["digit"], parts["direction"]], -1), logits)
    torch.testing.assert_close(model.eval()(x), model.frame_logits(x).mean(0))
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_clips_of_a_batch_are_independent_at_inference() -> None:
    model = randomise(build("micro"))
    x = torch.randn(4, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x)[1:2], model(x[:, 1:2]))


def test_frame_order_matters() -> None:
    model = randomise(build("micro"))
    assert isinstance(model, SpikeVideoFormer)
    x = 2 * torch.randn(4, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(model.features(x).flip(0), model.features(x.flip(0)))


def test_repconv_is_one_zero_padded_3x3_convolution() -> None:
    torch.manual_seed(0)
    module = randomise(RepConv(8)).double()
    bias = module(torch.zeros(1, 8, 5, 5, dtype=torch.double))
    torch.testing.assert_close(bias, bias[..., 2:3, 2:3].expand_as(bias))  # no trace of the border
    kernel = torch.zeros(8, 8, 3, 3, dtype=torch.double)
    for c in range(8):
        impulse = torch.zeros(1, 8, 5, 5, dtype=torch.double)
        impulse[0, c, 2, 2] = 1
        kernel[:, c] = (module(impulse) - bias)[0, :, 1:4, 1:4].flip(1, 2)
    x = spikes(2, 8, 6, 6).double()
    torch.testing.assert_close(module(x), nn.functional.conv2d(x, kernel, bias[0, :, 2, 2], padding=1))


def test_hamming_attention_counts_bits() -> None:
    q, k, v = (spikes(2, 3, 40, 5, seed=s) for s in range(3))
    k_and_v = k.transpose(-2, -1) @ v
    m = 2 * k_and_v - v.sum(-2, keepdim=True)
    y = 2 * (q @ m) - m.sum(-2, keepdim=True)
    assert torch.equal(hamming_attention(q, k, v, divisor=32) * 32, y)
    assert torch.equal(dot_attention(q, k, v) * 8, q @ k_and_v)


def test_attention_spans_space_and_time_and_inverts_its_layout() -> None:
    attention = MSAttention(6, heads=2, attention="hamming", neuron=NeuronConfig())
    x = torch.arange(3 * 2 * 6 * 2 * 2).float().reshape(3, 2, 6, 2, 2)
    tokens = attention.tokens(x)
    assert tokens.shape == (2, 2, 12, 3)
    assert torch.equal(tokens[1, 1, 4 * 2 + 3], x[2, 1, 3:, 1, 1])
    assert torch.equal(attention.frames(tokens, x.shape), x)


def test_normalise() -> None:
    model = build("digits")
    pixels = torch.tensor([0, 64, 128], dtype=torch.uint8).expand(8, 1, 32, 32, 3)
    x = model.normalise(pixels)
    assert x.shape == (8, 1, 3, 32, 32)
    torch.testing.assert_close(x[0, 0, :, 0, 0], torch.tensor([-1.0, 0.0, 1.0]))


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_survives_json(name: str) -> None:
    config = named_config(name)
    assert SpikeVideoFormerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (8, 8, 8)}, r"`widths` must be 4 positive integers"),
        ({"widths": (7, 8, 16, 16)}, r"`widths\[0\]` must be even, not `7`"),
        ({"strides": (2, 2, 2, 0, 1)}, r"`strides` must be 5 positive integers"),
        ({"heads": 0}, r"`heads` must be at least 1, not `0`"),
        ({"heads": (2, 0)}, r"`heads` must be at least 1, not `\(2, 0\)`"),
        ({"heads": (2, 3)}, r"`heads` must divide the widths `\(16, 16\)`, not `\(2, 3\)`"),
        ({"heads": (2, 2, 2)}, r"`heads` must divide the widths"),
        ({"heads": 3}, r"`heads` must divide the widths `\(16, 16\)`, not `3`"),
        ({"sep_kernel": 4}, r"`sep_kernel` must be odd and positive, not `4`"),
        ({"attention": "soft"}, r"`attention` must be one of hamming, dot, hamming/2C, hamming/8, not `'soft'`"),
        ({"height": 0}, r"`height` must be at least 1, not `0`"),
        ({"pixel_mean": (0.5,)}, r"`pixel_mean` must have 3 values, not `\(0.5,\)`"),
        ({"pixel_std": (0.5, 0.5, 0.0)}, r"`pixel_std` must be positive"),
        ({"tasks": (("digit", 10),)}, r"`tasks` must have 14 logits in all"),
        ({"head": "depth"}, r"`head` must be one of class, pose, segment, not `'depth'`"),
        ({"head": "pose"}, r"`tasks` must be empty for head `pose`"),
        ({"head": "pose", "tasks": (), "classes": 7}, r"`classes` must be even for head `pose`, not `7`"),
        ({"head": "segment", "tasks": (), "strides": (2, 1, 3, 1, 1)}, r"`strides` must make stages that are equal or"),
        ({"head": "segment", "tasks": (), "width": 17}, r"`height` and `width` must be a multiple of .*\(4, 5\)"),
        ({"head": "segment", "tasks": (), "head_width": 0}, r"`head_width` must be at least 1, not `0`"),
    ],
)
def test_configuration_errors(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(named_config("micro"), **change)


def test_other_errors() -> None:
    with pytest.raises(ValueError, match=r"`name` must be one of 15M, .*, micro, not `'7M'`"):
        build("7M")
    with pytest.raises(ValueError, match=r"`values` must be fields of .*, not `\['colour'\]`"):
        SpikeVideoFormerConfig.from_dict({"colour": 3})
    with pytest.raises(ValueError, match=r"`x` must have shape \[T, B, 3, H, W\], not `\(1, 3, 16, 16\)`"):
        build("micro")(torch.zeros(1, 3, 16, 16))
