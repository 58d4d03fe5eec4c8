"""Synaptic operations: what throughput is counted in."""

from __future__ import annotations

from spikeloom.arithmetic import PLANE_BITS
from spikeloom.network import Attend, Conv, KeyValue, Network, Operator


def synaptic_operations(network: Network, operator: Operator) -> int:
    """Additions that an operator stands for: frames * outputs * inputs per output * pixels.

    Bit-planes count (8 additions for a pixel or multi-bit input). Padding is not left out. Attention counts one
    addition per channel of a head and output, K^T V one per pair of channels and token; limbs do not count.
    """
    if isinstance(operator, KeyValue):
        key = network.tensors[operator.key]
        return network.frames * key.height * key.width * key.channels * (key.channels // operator.heads)
    if isinstance(operator, Attend):
        query = network.tensors[operator.query]
        source = network.producer(operator.keyvalue)
        assert isinstance(source, KeyValue)
        return network.frames * query.height * query.width * query.channels * (query.channels // source.heads)
    source_tensor = network.tensors[operator.input]
    co, ci, kh, kw = network.arrays[operator.weight].shape
    stride = operator.stride if isinstance(operator, Conv) else 1
    pixels = 1
    for size in (source_tensor.height, source_tensor.width):
        pixels *= (size + 2 * operator.padding - kh) // stride + 1
    planes = 1 if source_tensor.kind == "spikes" else PLANE_BITS
    return network.frames * pixels * co * ci * kh * kw * planes
