"""Additions per clip, against the shapes that the reference really computes."""

from __future__ import annotations

import pytest
import torch

from spikeloom.network import Attend, Conv, KeyValue
from spikeloom.operations import additions, additions_by_engine
from spikeloom.quantize.random_networks import random_clip, random_network
from spikeloom.quantize.reference import Reference


@pytest.mark.parametrize("seed", range(8))
def test_additions(seed: int) -> None:
    network = random_network(seed, cycles=20_000)
    accumulators: dict[str, torch.Tensor] = {}
    tensors = Reference(network).run(random_clip(network, seed), accumulators=accumulators)
    totals = {"array": 0, "depthwise": 0, "hamming": 0}
    for operator in network.operators:
        if isinstance(operator, KeyValue):
            counted = tensors[operator.output].numel() * tensors[operator.key][:, 0].numel()
            engine = "hamming"
        elif isinstance(operator, Attend):
            counted = accumulators[operator.name].numel() * tensors[operator.keyvalue].shape[-1]
            engine = "array"
        else:
            bits = 1 if tensors[operator.input].dtype == torch.bool else 8
            weights = network.arrays[operator.weight][0].size
            counted = accumulators[operator.name].numel() * weights * bits
            engine = "array" if isinstance(operator, Conv) else "depthwise"
        assert additions(network, operator) == counted, operator.name
        totals[engine] += counted
    assert additions_by_engine(network) == totals
