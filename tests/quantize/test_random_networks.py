"""Random networks: legal, reproducible, small, and neither dead nor saturated."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from spikeloom.arithmetic import LEAKS, RESETS, WEIGHT_MAX
from spikeloom.bounds import prove_bounds
from spikeloom.network import Accumulating, Attend, Conv, KeyValue, MaxConv, Network, TemporalAttend, Upsample
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_limits import FRAMES, FURTHER_THEMES, PROFILES, THEMES
from spikeloom.quantize.random_networks import cost, random_network
from spikeloom.quantize.reference import Reference

SEEDS = range(len(THEMES) * len(PROFILES))


@pytest.fixture(scope="module")
def networks() -> list[Network]:
    return [random_network(seed, cycles=20_000) for seed in SEEDS]


def test_legal_small_and_named(networks):
    for seed, network in zip(SEEDS, networks, strict=True):
        network.check()
        prove_bounds(network)
        assert cost(network) <= 20_000
        assert network.metadata["seed"] == seed
        assert network.frames in FRAMES


def test_reproducible():
    assert random_network(5, cycles=5000).hash == random_network(5, cycles=5000).hash
    assert random_network(5, cycles=5000).hash != random_network(13, cycles=5000).hash
    network = random_network(0, cycles=5000)
    assert np.array_equal(random_clip(network, 1), random_clip(network, 1))
    assert not np.array_equal(random_clip(network, 1), random_clip(network, 2))


def test_save_and_load(networks, tmp_path):
    for seed, network in enumerate(networks[:8]):
        network.save(tmp_path / str(seed))
        assert Network.load(tmp_path / str(seed)).hash == network.hash


def test_features_take_turns(networks):
    seen: Counter[str] = Counter()
    for network in networks:
        for operator in network.operators:
            if isinstance(operator, KeyValue):
                seen[f"bipolar {operator.bipolar}"] += 1
                continue
            seen.update([type(operator).__name__, operator.neuron.mode])
            neuron = operator.neuron
            seen.update(k for k in ("shortcut", "negate", "residual", "planes", "logits") if getattr(neuron, k))
            seen.update(["pool"] if neuron.pool else [])
            if neuron.lif is not None:
                seen.update([neuron.lif.leak, neuron.lif.reset, f"strict {neuron.lif.strict}"])
            if not isinstance(operator, Attend):
                weight = network.arrays[operator.weight]
                stride = operator.stride if isinstance(operator, Conv) else 1
                kind = network.tensors[operator.input].kind
                seen.update([f"kernel {weight.shape[2]}", f"stride {stride}", f"{type(operator).__name__} {kind}"])
                seen.update(["full weights"] if (np.abs(weight) == WEIGHT_MAX).all() else [])
    wanted = ["Conv", "Depthwise", "Attend", "bipolar True", "bipolar False", "shortcut", "negate", "pool", "logits"]
    wanted += [*LEAKS[:-1], *RESETS, "strict True", "strict False", "direct", "residual", "planes", "full weights"]
    wanted += ["kernel 1", "kernel 3", "kernel 7", "stride 1", "stride 2", "Conv pixels", "Conv planes", "Conv spikes"]
    wanted += ["Depthwise spikes", "Depthwise planes"]
    assert [name for name in wanted if not seen[name]] == []


def test_features_to_ask_for():
    made = {theme: [random_network(seed, cycles=20_000, theme=theme) for seed in range(3)] for theme in FURTHER_THEMES}
    operators = {theme: [o for network in made[theme] for o in network.operators] for theme in made}
    assert {o.per_frame for o in operators["frames"] if isinstance(o, KeyValue)} == {True}
    for theme, kind in (
            ("temporal", TemporalAttend), ("pyramid", Upsample), ("gate", Upsample), ("maximum", MaxConv)):
        assert all(any(isinstance(o, kind) for o in network.operators) for network in made[theme])
    stages = [o.neuron.lif for theme in made for o in operators[theme] if isinstance(o, Accumulating)]
    assert {lif.leak for lif in stages if lif is not None} == set(LEAKS)


def test_rates(networks):
    """Most spike tensors are a mix, on a clip that the biases were not chosen for."""
    rates, dead = [], 0
    for network in networks:
        values = Reference(network).run(random_clip(network, 77))
        for name, tensor in network.tensors.items():
            if tensor.kind == "spikes" and name != network.input:
                rates.append(float(values[name].float().mean()))
                dead += bool(rates[-1] in (0.0, 1.0))
    rate = torch.tensor(rates)
    quantiles = [round(float(rate.quantile(q)), 2) for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
    print(f"{len(rates)} spike tensors: rates at 5/25/50/75/95 % {quantiles}, {dead} constant")
    assert dead <= 0.06 * len(rates)
    assert 0.25 <= quantiles[2] <= 0.55
    assert quantiles[1] >= 0.15
    assert quantiles[3] <= 0.7


def test_limits():
    network = random_network(4, channels=12, size=6, frames=(4,), cycles=5000)
    assert network.frames == 4
    assert all(max(t.height, t.width) <= 6 + 6 for t in network.tensors.values())
    with pytest.raises(TypeError, match="unexpected keyword"):
        random_network(0, colour=3)
