"""V1 and V3 in torch: published sizes, names of the released tensors, attention written out."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeloom.quantize.relatives import ESpikeFormer, SpikeDrivenTransformerV1, V1Config, V3Config
from spikeloom.quantize.relatives.v1 import SDSA, PatchEmbed
from spikeloom.quantize.relatives.v3 import IntegerSpike, LinearAttention

SMALL_V1 = V1Config(dim=16, depth=1, heads=2, height=32, width=32, classes=5)
SMALL_V3 = V3Config(widths=(8, 8, 16, 16), depths=(1, 1), heads=2, height=32, width=32, classes=5)


@pytest.mark.parametrize(("config", "millions"), [
    (V3Config(widths=(32, 64, 128, 192)), 5.1), (V3Config(widths=(48, 96, 192, 240)), 10.0), (V3Config(), 19.0),
    (V1Config(dim=384), 16.8), (V1Config(), 29.7), (V1Config(dim=768), 66.3)])
def test_published_sizes(config: V1Config | V3Config, millions: float) -> None:
    with torch.device("meta"):
        model = ESpikeFormer(config) if isinstance(config, V3Config) else SpikeDrivenTransformerV1(config)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def names(*parts: str, **shapes: list[int]) -> dict[str, list[int]]:
    return {".".join([*parts, name.replace("__", ".")]): shape for name, shape in shapes.items()}


def test_names_of_v1() -> None:
    state = {name: list(value.shape) for name, value in SpikeDrivenTransformerV1(SMALL_V1).state_dict().items()}
    expected = names(
        "patch_embed", proj_conv__weight=[2, 3, 3, 3], proj_conv1__weight=[4, 2, 3, 3], proj_conv2__weight=[8, 4, 3, 3],
        proj_conv3__weight=[16, 8, 3, 3], rpe_conv__weight=[16, 16, 3, 3], rpe_bn__weight=[16], proj_bn2__bias=[8])
    expected |= names(
        "block.0", attn__q_conv__weight=[16, 16, 1, 1], attn__v_bn__running_mean=[16], attn__proj_conv__bias=[16],
        attn__talking_heads__weight=[2, 2, 1], mlp__fc1_conv__weight=[64, 16, 1, 1], mlp__fc2_bn__bias=[16])
    assert expected.items() <= state.items()
    assert len(state) == 72  # 5 x (1 + 5), 3 x (1 + 5) + 1 + (2 + 5), 2 x (2 + 5), 2
    assert "block.0.attn.q_conv.bias" not in state


def test_names_of_v3() -> None:
    state = {name: list(value.shape) for name, value in ESpikeFormer(SMALL_V3).state_dict().items()}
    expected = names(
        "ConvBlock1_1.0", Conv__pwconv1__0__weight=[8, 4, 1, 1], Conv__dwconv__0__weight=[8, 1, 7, 7],
        Conv__pwconv2__1__weight=[4], conv1__weight=[16, 4, 3, 3], bn2__bias=[4])
    expected |= names(
        "block4.0", conv__dwconv__0__weight=[32, 1, 3, 3], attn__q_conv__0__weight=[16, 16, 1, 1],
        attn__v_conv__0__weight=[64, 16, 1, 1], attn__v_conv__1__running_var=[64],
        attn__proj_conv__0__weight=[16, 64, 1, 1], mlp__fc1_conv__weight=[64, 16, 1], mlp__fc2_conv__bias=[16])
    assert expected.items() <= state.items()


def lively(module: torch.nn.Module) -> Any:
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 2.0, 4.0)
            torch.nn.init.normal_(layer.bias, 1.0, 0.5)
    return module.eval()


def test_gate_of_v1_written_out() -> None:
    """A channel's gate integrates, over time, how many pixels have key and value; it opens all queries of a frame."""
    torch.manual_seed(0)
    attention = lively(SDSA(SMALL_V1))
    x = 3 * torch.randn(4, 2, 16, 3, 3)
    s = attention.shortcut_lif(x)
    q, k, v = (attention.spikes(name, s).detach() for name in ("q", "k", "v"))
    gated = torch.zeros_like(q)
    opened = 0
    for b in range(2):
        for c in range(16):
            membrane = 0.0
            for t in range(4):
                count = sum(float(k[t, b, c, y, i] * v[t, b, c, y, i]) for y in range(3) for i in range(3))
                membrane += (count - membrane) / 2
                if membrane >= 0.5:
                    gated[t, b, c] = q[t, b, c]
                    membrane, opened = 0.0, opened + 1
    assert 10 < opened < 128
    expected = torch.stack([attention.proj_bn(attention.proj_conv(frame)) for frame in gated])
    assert torch.equal(attention(x), expected)


def test_max_pools_of_v1_are_ors_of_spikes_but_the_last() -> None:
    torch.manual_seed(0)
    embed = lively(PatchEmbed(SMALL_V1))
    seen: list[Tensor] = []
    embed.maxpool.register_forward_hook(lambda _, given, made: seen.append(given[0]))
    made = embed(torch.randn(2, 1, 3, 32, 32))
    assert made.shape == (2, 1, 16, 2, 2)
    assert [tuple(x.shape[2:]) for x in seen] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    for x in seen[:3]:
        ones = torch.ones(1, 1, 3, 3)
        counts = torch.nn.functional.conv2d(x.flatten(0, 1)[:, None], ones, stride=2, padding=1)
        assert torch.equal((counts[:, 0] >= 1).float(), embed.maxpool(x).flatten(0, 1))
    assert seen[3].min() < 0  # real values


def test_attention_of_v3_written_out() -> None:
    torch.manual_seed(0)
    attention = lively(LinearAttention(16, SMALL_V3))
    x = torch.randn(2, 16, 3, 3) * 2
    spike = IntegerSpike(4)
    q, k, v = (spike(conv(spike(x))).flatten(2) for conv in (attention.q_conv, attention.k_conv, attention.v_conv))
    y = torch.zeros(2, 64, 9)
    for head in range(2):
        keys, values = slice(8 * head, 8 * head + 8), slice(32 * head, 32 * head + 32)
        scores = torch.einsum("bcn,bcm->bnm", q[:, keys], k[:, keys])
        y[:, values] = torch.einsum("bnm,bcm->bcn", scores, v[:, values]) * 2 / 8 ** 0.5
    assert (y > 0.5).any()
    torch.testing.assert_close(attention(x), attention.proj_conv(spike(y.unflatten(2, (3, 3)))))


def test_integer_spikes() -> None:
    x = torch.tensor([-3.0, 0.4, 0.5, 1.5, 3.6, 9.0])
    assert IntegerSpike(4)(x).tolist() == [0, 0, 0, 0.5, 1, 1]
    assert IntegerSpike(4, norm=1)(x).tolist() == [0, 0, 0, 2, 4, 4]  # halves to even


@pytest.mark.parametrize("config", [SMALL_V1, SMALL_V3])
def test_configuration_survives_json(config: Any) -> None:
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match=r"`values` must be fields of V\dConfig, not `\['x'\]`"):
        type(config).from_dict({"x": 1})


@pytest.mark.parametrize(("make", "message"), [
    (lambda: V1Config(dim=12), "`dim` must be divisible by 8 and by 8 heads"),
    (lambda: V1Config(depth=0), "`depth` must be a positive integer, not `0`"),
    (lambda: V1Config(pooling=(True,) * 3), "`pooling` must be four flags"),  # type: ignore[arg-type]
    (lambda: V3Config(widths=(9, 8, 16, 16)), "`widths` must be four, the first even"),
    (lambda: V3Config(heads=7), "the last two divisible by 7 heads")])
def test_refused_configurations(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
