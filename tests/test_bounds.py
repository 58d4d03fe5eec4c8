"""Bounds are reached, not exceeded, and what could exceed a width is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spikeloom.bounds import prove_bounds, weight_bounds
from spikeloom.network import (
    Attend,
    Conv,
    Depthwise,
    KeyValue,
    Lif,
    Network,
    NetworkError,
    Neuron,
    TemporalAttend,
    Tensor,
    Upsample,
)
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_limits import FURTHER_THEMES
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference

LEVELS = {"spikes": 1, "integers": 5, "planes": 1, "pixels": 1}


def conv(
    kind: str, weight: np.ndarray, *, bias: int = 0, negate: bool = False, size: int = 1, frames: int = 1
) -> Network:
    """One convolution of `kind` on a `size` x `size` map, padded to keep the size, with planes as output."""
    co, ci, k, _ = weight.shape
    arrays = {"w": weight.astype(np.int8), "bias": np.full(co, bias, np.int32), "zero": np.zeros(co, np.int32)}
    arrays["negate"] = np.full(co, int(negate), np.int32)
    source = Tensor(name="in", kind="spikes" if kind == "planes" else kind, channels=ci, height=size, width=size,
                    levels=LEVELS[kind])
    middle = Tensor(name="middle", kind="planes", channels=ci, height=size, width=size)
    out = Tensor(name="out", kind="planes", channels=co, height=size, width=size)
    neuron = Neuron(mode="planes", bias="bias", shift="zero", negate="negate", planes="out")
    main = Conv(name="main", input="in", weight="w", padding=k // 2, neuron=neuron)
    network = Network(frames=frames, tensors={"in": source, "out": out}, operators=[main], arrays=arrays,
                      input="in", output="out")
    if kind == "planes":
        arrays |= {"one": np.ones((ci, 1, 1, 1), np.int8), "none": np.zeros(ci, np.int32)}
        first = Depthwise(name="first", input="in", weight="one", neuron=Neuron(
            mode="planes", bias="none", shift="none", planes="middle"))
        network.tensors["middle"] = middle
        network.operators[:] = [first, replace(main, input="middle")]
    network.check()
    return network


@pytest.mark.parametrize(("kind", "low", "high"), [
    ("spikes", -8, 6), ("integers", -40, 30), ("planes", -(128 * 6 + 127 * 8), 127 * 6 + 128 * 8),
    ("pixels", -255 * 8, 255 * 6)])
def test_formulas(kind, low, high):
    weight = np.array([1, -3, 5, -5]).reshape(1, 4, 1, 1).astype(np.int8)
    assert [int(v[0]) for v in weight_bounds(weight, kind, levels=LEVELS[kind])] == [low, high]
    three = np.array([6, -8, 0]).reshape(1, 3, 1, 1)
    bounds = prove_bounds(conv(kind, three))["main"]
    assert bounds.accumulator == (low, high)
    assert bounds.current == (low, high)
    assert bounds.magnitude == 14 * {"spikes": 1, "integers": 5, "planes": 128, "pixels": 255}[kind]


def test_negate_and_bias_move_the_current():
    bounds = prove_bounds(conv("spikes", np.array([6, -8]).reshape(1, 2, 1, 1), bias=100, negate=True))["main"]
    assert bounds.current == (94, 108)


@pytest.mark.parametrize(("seed", "theme"), [
    *((seed, "") for seed in range(16)), *((seed, theme) for seed in (16, 17) for theme in FURTHER_THEMES)])
def test_no_run_leaves_the_bounds(seed, theme):
    network = random_network(seed, channels=10, size=8, theme=theme)
    reference, accumulators = Reference(network), {}
    values = reference.run(random_clip(network, seed), accumulators=accumulators)
    for operator in network.operators:
        if isinstance(operator, Upsample):
            continue
        low, high = reference.bounds[operator.name].accumulator
        found = values[operator.output] if isinstance(operator, KeyValue) else accumulators[operator.name]
        assert low <= int(found.min())
        assert int(found.max()) <= high


@pytest.mark.parametrize("kind", ["spikes", "pixels"])
def test_bounds_are_reached(kind):
    rng = np.random.default_rng(1)
    weight = rng.integers(-127, 128, (4, 3, 3, 3))
    network, accumulators = conv(kind, weight, size=3), {}
    reference = Reference(network)
    for channel in range(4):
        most = np.where(weight[channel] > 0, 255 if kind == "pixels" else 1, 0)
        clip = most.transpose(1, 2, 0).astype(np.uint8) if kind == "pixels" else most.astype(bool)
        reference.run(clip[None], accumulators=accumulators)
        high = int(weight_bounds(weight[channel:channel + 1].astype(np.int8), kind)[1][0])
        assert int(accumulators["main"][0, channel, 1, 1]) == high


def test_accumulator_limit_is_exact():
    full = np.zeros((1, 66060, 1, 1))
    full[:] = 127
    assert prove_bounds(conv("spikes", full[:, :66052]))["main"].accumulator[1] == 8388604
    with pytest.raises(NetworkError, match=r"main: accumulator of channel 0 may reach \[0, 8389620\], beyond 24"):
        prove_bounds(conv("spikes", full))
    with pytest.raises(NetworkError, match="operator main: accumulator"):
        prove_bounds(conv("planes", np.full((1, 517, 1, 1), 127)))
    with pytest.raises(NetworkError, match="operator main: accumulator"):
        prove_bounds(conv("pixels", np.full((1, 3, 11, 11), 127)))


def test_current_limit():
    weight = np.ones((1, 1, 1, 1))
    prove_bounds(conv("spikes", weight, bias=(1 << 25) - 2))
    with pytest.raises(NetworkError, match=r"operator main: a = acc \+ bias of channel 0 .* beyond 26 bits"):
        prove_bounds(conv("spikes", weight, bias=(1 << 25) - 1))
    prove_bounds(conv("spikes", weight, bias=(1 << 25) - 1, negate=True))
    with pytest.raises(NetworkError, match="a = acc"):
        prove_bounds(conv("spikes", weight, bias=-(1 << 25), negate=True))


def test_temporal_sum_limit():
    def network(frames):
        net = conv("spikes", np.ones((1, 1, 1, 1)), bias=(1 << 25) - 2, frames=frames)
        net.tensors["out"] = Tensor(name="out", kind="logits", channels=1)
        net.operators[0] = replace(net.operators[0], neuron=Neuron(mode="direct", bias="bias", logits="out"))
        net.check()
        return net

    prove_bounds(network(64))
    with pytest.raises(NetworkError, match=r"operator main: sum over frames .* beyond 32 bits"):
        prove_bounds(network(65))


def test_spatial_sum_limit():
    def network(size):
        net = conv("spikes", np.ones((1, 1, 1, 1)), size=size)
        net.tensors["out"] = Tensor(name="out", kind="spikes", channels=1)
        net.arrays["one"] = np.ones(1, np.int32)
        neuron = Neuron(mode="residual", bias="bias", shift="zero", pool=True, lif=Lif(), threshold="one", spikes="out")
        net.operators[0] = replace(net.operators[0], neuron=neuron)
        net.check()
        return net

    prove_bounds(network(64))
    with pytest.raises(NetworkError, match=r"operator main: sum over 4225 pixels .* beyond 28 bits"):
        prove_bounds(network(65))


def attention(size: int, heads: int, width: int, frames: int = 1) -> Network:
    channels = heads * width
    spikes = Tensor(name="in", kind="spikes", channels=channels, height=size, width=size)
    made = [Tensor(name="kv", kind="keyvalue", channels=channels),
            Tensor(name="out", kind="planes", channels=channels, height=size, width=size)]
    neuron = Neuron(mode="planes", bias="zero", shift="zero", planes="out")
    network = Network(
        frames=frames, tensors={t.name: t for t in [spikes, *made]}, arrays={"zero": np.zeros(channels, np.int32)},
        operators=[KeyValue(name="kv", key="in", value="in", heads=heads, bipolar=True, output="kv"),
                   Attend(name="attend", query="in", keyvalue="kv", bipolar=True, neuron=neuron)],
        input="in", output="out")
    network.check()
    return network


def test_attention_limits():
    bounds = prove_bounds(attention(14, 2, 45, frames=8))
    assert bounds["kv"].accumulator == (-1568, 1568)
    assert bounds["kv"].limbs == 2
    assert bounds["attend"].accumulator == (-45 * (1568 + 64), 45 * (1568 + 64))
    assert prove_bounds(attention(128, 1, 4))["attend"].limbs == 3
    with pytest.raises(NetworkError, match="operator attend: accumulator of channel 0"):
        prove_bounds(attention(512, 1, 32))
    with pytest.raises(NetworkError, match=r"operator kv: K\^T V over 4194304 tokens exceeds three limbs"):
        prove_bounds(attention(512, 1, 1, frames=16))


def test_attention_reaches_its_bound():
    network = attention(4, 1, 3)
    accumulators: dict[str, torch.Tensor] = {}
    values = Reference(network).run(np.ones((1, 3, 4, 4), bool), accumulators=accumulators)
    assert int(values["kv"].max()) == 16
    assert int(accumulators["attend"].max()) == 3 * 16


@pytest.mark.parametrize("bipolar", [True, False])
def test_attention_on_integer_spikes_reaches_its_bound(bipolar):
    """Products of levels in K^T V, times those of the query; limbs are counted for all of it."""
    network = attention(4, 1, 3)
    network.tensors["in"] = replace(network.tensors["in"], kind="integers", levels=5)
    network.operators[:] = [replace(operator, bipolar=bipolar) for operator in network.operators]
    network.check()
    accumulators: dict[str, torch.Tensor] = {}
    reference = Reference(network)
    values = reference.run(np.full((1, 3, 4, 4), 5, np.uint8), accumulators=accumulators)
    assert int(values["kv"].max()) == reference.bounds["kv"].accumulator[1] == 16 * 25
    assert int(accumulators["attend"].max()) == 3 * 5 * 16 * 25
    assert reference.bounds["attend"].accumulator[1] == 3 * 5 * (16 * 25 + 64)


@pytest.mark.parametrize("levels", [(1, 1), (7, 3)])
@pytest.mark.parametrize("bipolar", [True, False])
def test_temporal_attention_reaches_its_bound(bipolar, levels):
    """Three channels per head and five frames: a score is at most 3, a sum at most 15; lowest where no bit agrees.

    `levels` of query and value, and of key.
    """
    network = attention(2, 2, 3, frames=5)
    network.tensors["in"], network.tensors["key"] = (
        replace(network.tensors["in"], name=name, kind="integers" if most > 1 else "spikes", levels=most)
        for name, most in zip(("in", "key"), levels, strict=True))
    high = 15 * levels[0] ** 2 * levels[1]
    low = -high if bipolar else 0
    attend = TemporalAttend(name="temporal", query="in", key="key", value="in", heads=2, bipolar=bipolar,
                            neuron=network.operators[1].neuron)
    network.operators[:] = [attend]
    network.given = ("key",)
    assert prove_bounds(network)["temporal"].accumulator == (low, high)
    ones = torch.ones((5, 1, 6, 2, 2), dtype=torch.uint8)
    for key, expected in ((levels[1], high), (0, low)):
        found = Reference(network).accumulate(attend, {"in": ones * levels[0], "key": ones * key})
        assert found.shape == ones.shape
        assert (found == expected).all()
