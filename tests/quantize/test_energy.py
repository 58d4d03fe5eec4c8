"""Operations of the energy model, against a brute-force count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.network import Attend, Conv, Depthwise, KeyValue, Network, TemporalAttend
from spikeloom.quantize.energy import ACCUMULATE_PJ, MULTIPLY_ACCUMULATE_PJ, count, energy_model
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference

SEEDS = (3, 8, 14, 16)


def brute_force(network: Network, operator: Any, values: dict[str, np.ndarray]) -> tuple[int, int]:
    """(operations that a spike causes, all operations), one by one."""
    if isinstance(operator, (Conv, Depthwise)):
        weight = network.arrays[operator.weight]
        source = values[operator.input]
        if network.tensors[operator.input].kind == "pixels":
            source = source.transpose(0, 3, 1, 2)
        stride = operator.stride if isinstance(operator, Conv) else 1
        size, padding = weight.shape[2:], operator.padding
        channels = weight.shape[0] if isinstance(operator, Conv) else 1

        def total(tensor: np.ndarray) -> int:
            padded = np.pad(tensor, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(2, 3))[:, :, ::stride, ::stride]
            return int(windows.sum(dtype=np.int64)) * channels

        return total(source.astype(np.int64)), total(np.ones(source.shape, np.int64))
    if isinstance(operator, KeyValue):
        key, value, heads = values[operator.key], values[operator.value], operator.heads
        levels = network.tensors[operator.key].levels
        key, value = (
            tensor.reshape(len(tensor), heads, tensor.shape[1] // heads, -1).astype(np.int64)
            for tensor in (key, value))
        key = np.full_like(key, levels) if operator.bipolar else key
        pairs = np.einsum("thip,thjp->", key, value)
        return int(pairs), int(np.einsum("thip,thjp->", np.ones_like(key), np.ones_like(value)))
    if isinstance(operator, TemporalAttend):
        query, key, value = (values[name].astype(np.int64) for name in (operator.query, operator.key, operator.value))
        levels = (network.tensors[name].levels for name in (operator.query, operator.key))
        pairs = np.einsum("tcyx,scyx->", *(
            np.full_like(x, most) if operator.bipolar else x for x, most in zip((query, key), levels, strict=True)))
        return int(pairs + np.einsum("tcyx,scyx->", np.ones_like(query), value)), 2 * query.size * len(query)
    assert isinstance(operator, Attend)
    query = values[operator.query]
    width = next(o for o in network.operators if isinstance(o, KeyValue) and o.output == operator.keyvalue).heads
    width = network.tensors[operator.keyvalue].channels // width  # of V
    found = query.size * network.tensors[operator.query].levels if operator.bipolar else int(query.sum())
    return found * width, query.size * width


@pytest.mark.parametrize(("seed", "theme"), [
    *((seed, "") for seed in SEEDS), *((seed, "integers") for seed in (1, 3, 24)), (0, "wide")])
def test_counts(seed: int, theme: str) -> None:
    network = random_network(seed, theme=theme)
    values = {name: tensor.numpy() for name, tensor in Reference(network).run(random_clip(network, seed)).items()}
    for operator, found in zip(network.operators, count(network, values), strict=True):
        spikes, dense = brute_force(network, operator, values)
        valued = isinstance(operator, (Conv, Depthwise)) and network.tensors[operator.input].kind in (
            "pixels", "planes")
        assert found.operator == operator.name
        assert found.twin_macs == dense
        assert (found.accumulates, found.macs) == ((0, dense) if valued else (spikes, 0)), operator


def test_kinds_of_operators_are_covered() -> None:
    kinds = {type(operator) for seed in SEEDS for operator in random_network(seed).operators}
    assert kinds == {Conv, Depthwise, KeyValue, Attend}


@pytest.mark.parametrize(("seed", "theme"), [(1, "temporal"), (2, "temporal"), (0, "timed"), (4, "timed")])
def test_temporal_attention_is_counted(seed: int, theme: str) -> None:
    network = random_network(seed, theme=theme, channels=12, size=5, frames=(4,))
    values = {name: tensor.numpy() for name, tensor in Reference(network).run(random_clip(network, seed)).items()}
    index = next(i for i, o in enumerate(network.operators) if isinstance(o, TemporalAttend))
    found = count(network, values)[index]
    assert (found.accumulates, found.twin_macs) == brute_force(network, network.operators[index], values)


def test_report(tmp_path: Path) -> None:
    network = random_network(16)
    clips = np.stack([random_clip(network, seed) for seed in range(2)])
    report = energy_model(network, clips, tmp_path)
    assert json.loads((tmp_path / "energy_model.json").read_text()) == report
    parts, clip = report["operators"], report["per_clip"]
    assert clip["accumulates"] == sum(part["accumulates"] for part in parts) / 2
    assert clip["energy_mj"] == pytest.approx(
        1e-9 * (ACCUMULATE_PJ * clip["accumulates"] + MULTIPLY_ACCUMULATE_PJ * clip["multiply_accumulates"]))
    assert clip["ratio"] == pytest.approx(clip["ann_twin_energy_mj"] / clip["energy_mj"])
    fired = [Reference(network).run(clip) for clip in clips]
    for name, rate in report["firing_rates"].items():
        assert rate == pytest.approx(np.mean([tensors[name].double().mean() for tensors in fired])), name
    assert set(report["firing_rates"]) == {n for n, t in network.tensors.items() if t.kind == "spikes"}
    single = energy_model(network, clips[:1])["per_clip"]
    assert single["ann_twin_multiply_accumulates"] == clip["ann_twin_multiply_accumulates"]
    with pytest.raises(ValueError, match="`clips` must not be empty"):
        energy_model(network, clips[:0])
