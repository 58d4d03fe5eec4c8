"""The comparison finds the first wrong element in network order and counts all of them."""

from __future__ import annotations

import numpy as np
import pytest

from spikeloom.network import Conv, Lif, Network, Neuron, Tensor
from spikeloom.operations import additions, additions_by_engine
from spikeloom.sim.compare import Comparison


def network() -> Network:
    """Two 1x1 convolutions, 2 -> 3 channels making spikes and residual, 3 -> 4 making spikes; T = 2, 5 x 6 pixels."""
    arrays = {
        "w0": np.ones((3, 2, 1, 1), np.int8), "w1": np.ones((4, 3, 1, 1), np.int8),
        "b0": np.zeros(3, np.int32), "b1": np.zeros(4, np.int32), "s0": np.zeros(3, np.int32),
        "t0": np.ones(3, np.int32), "t1": np.ones(4, np.int32)}
    tensors = [
        Tensor(name="x", kind="spikes", channels=2, height=5, width=6),
        Tensor(name="a", kind="spikes", channels=3, height=5, width=6),
        Tensor(name="r", kind="residual", channels=3, height=5, width=6),
        Tensor(name="y", kind="spikes", channels=4, height=5, width=6)]
    first = Neuron(mode="residual", bias="b0", shift="s0", threshold="t0", lif=Lif(), spikes="a", residual="r")
    second = Neuron(mode="direct", bias="b1", threshold="t1", lif=Lif(), spikes="y")
    made = Network(
        frames=2, tensors={t.name: t for t in tensors}, arrays=arrays, input="x", output="y",
        operators=[Conv(name="first", input="x", weight="w0", neuron=first),
                   Conv(name="second", input="a", weight="w1", neuron=second)])
    made.check()
    return made


def tensors(net: Network, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 2, (net.frames, t.channels, t.height, t.width)) for name, t in net.tensors.items()}


def test_equal() -> None:
    net = network()
    comparison = Comparison(net)
    expected = tensors(net)
    assert comparison.add(expected, {name: value.copy() for name, value in expected.items()}) == 0
    report = comparison.report()
    assert report["layers"] == [
        {"name": "first", "compared": 360, "mismatches": 0}, {"name": "second", "compared": 240, "mismatches": 0}]
    assert (report["compared"], report["mismatches"], report["first_divergence"]) == (600, 0, None)
    assert report["logits_reference"] == report["logits_rtl"]
    assert comparison.summary() == "bit-exact: 600 values of 2 layers compared, 0 differ"


def test_first_divergence_is_the_first_in_network_order() -> None:
    net = network()
    comparison = Comparison(net)
    expected = tensors(net)
    got = {name: value.copy() for name, value in expected.items()}
    got["y"][0, 0, 0, 0] ^= 1
    got["r"][1, 2, 3, 4] += 7
    got["r"][1, 2, 4, 4] += 1
    assert comparison.add(expected, got, cycle=lambda name, index: 1000 + index[-1]) == 3
    want = int(expected["r"][1, 2, 3, 4])
    assert comparison.first_divergence == {
        "layer": "first", "index": [1, 2, 3, 4], "expected": want, "got": want + 7, "cycle": 1004, "tensor": "r",
        "clip": 0}
    assert [layer["mismatches"] for layer in comparison.report()["layers"]] == [2, 1]
    assert comparison.summary() == (
        f"3 of 600 values differ; first in layer first, r[1, 2, 3, 4]: expected {want}, got {want + 7} "
        "(written in cycle 1,004)")


def test_clips_add_up() -> None:
    net = network()
    comparison = Comparison(net)
    for seed in (0, 1):
        comparison.add(tensors(net, seed), tensors(net, seed))
    assert comparison.add(tensors(net, 2), tensors(net, 3)) > 0
    assert comparison.compared == 1800
    assert comparison.first_divergence is not None
    assert comparison.first_divergence["clip"] == 2


def test_output_only() -> None:
    net = network()
    comparison = Comparison(net, every_layer=False)
    assert comparison.tensors == ["y"]
    output = {"y": tensors(net)["y"]}
    comparison.add(output, output)
    assert comparison.compared == 240


def test_missing_and_misshapen() -> None:
    net = network()
    expected = tensors(net)
    with pytest.raises(ValueError, match="tensor a: the machine has none of this name"):
        Comparison(net).add(expected, {})
    with pytest.raises(ValueError, match=r"tensor a: reference has shape \[2, 3, 5, 6\], machine \[2, 3, 5, 1\]"):
        Comparison(net).add(expected, expected | {"a": expected["a"][..., :1]})


def test_additions() -> None:
    net = network()
    assert additions(net, net.operators[0]) == 2 * 5 * 6 * 3 * 2
    assert additions_by_engine(net) == {"array": 2 * 30 * (6 + 12), "depthwise": 0, "hamming": 0, "temporal": 0}
