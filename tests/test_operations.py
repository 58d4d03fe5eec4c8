"""Additions per clip, against the shapes that the reference really computes."""

from __future__ import annotations

import pytest
import torch

from spikeloom.network import Attend, Conv, KeyValue, MaxConv, TemporalAttend, Upsample
from spikeloom.operations import additions, additions_by_engine
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_limits import FURTHER_THEMES
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference


@pytest.mark.parametrize(("seed", "theme"), [
    *((seed, "") for seed in range(8)), *((8, theme) for theme in FURTHER_THEMES)])
def test_additions(seed: int, theme: str) -> None:
    network = random_network(seed, cycles=20_000, theme=theme)
    accumulators: dict[str, torch.Tensor] = {}
    tensors = Reference(network).run(random_clip(network, seed), accumulators=accumulators)
    totals = {"array": 0, "depthwise": 0, "hamming": 0, "temporal": 0}
    for operator in network.operators:
        if isinstance(operator, Upsample):
            counted, engine = 0, "array"
        elif isinstance(operator, KeyValue):
            frames = network.frames if operator.per_frame else 1
            counted = tensors[operator.output].numel() * tensors[operator.key][:, 0].numel() // frames
            counted *= network.tensors[operator.key].levels * network.tensors[operator.value].levels
            engine = "hamming"
        elif isinstance(operator, Attend):
            counted = accumulators[operator.name].numel() * tensors[operator.keyvalue].shape[-2]
            counted *= network.tensors[operator.query].levels
            engine = "array"
        elif isinstance(operator, TemporalAttend):  # a score takes its head's channels, a sum all frames
            query, key, value = (network.tensors[n].levels for n in (operator.query, operator.key, operator.value))
            scores = network.frames ** 2 * tensors[operator.query][0].numel() * query * key
            sums = accumulators[operator.name].numel() * network.frames * value
            counted, engine = scores + sums, "temporal"
        else:
            levels = network.tensors[operator.input].levels
            bits = levels if levels > 1 or tensors[operator.input].dtype == torch.bool else 8
            weights = network.arrays[operator.weight][0].size
            outputs = accumulators[operator.name].numel()
            if isinstance(operator, MaxConv):  # as many outputs as inputs, which the maximum makes fewer
                height, width = tensors[operator.input].shape[2:]
                outputs = outputs // accumulators[operator.name][0, 0].numel() * height * width
            counted = outputs * weights * bits
            engine = "array" if isinstance(operator, Conv) else "depthwise"
        assert additions(network, operator) == counted, operator.name
        totals[engine] += counted
    assert additions_by_engine(network) == totals
