"""Random integer networks for verification: small, legal, far from the beaten track, and alive.

`random_network(seed)` draws a chain of segments

    source     pixels + stem convolution | spikes
    plain      conv
    residual   conv, conv + shortcut
    separable  conv 1x1, depthwise -> planes, conv 1x1 on planes + shortcut
    planes     depthwise -> planes, depthwise on planes -> spikes
    hamming    q, k, v convolutions, K^T V, attention with +-1 inputs, projection + shortcut
    dot        the same with 0/1 inputs
    head       spatial sum -> spikes -> linear -> sum over frames
    frames     q, k, v convolutions, K^T V and attention of every frame, projection + shortcut; only if asked for
    pyramid    convs of stride 2, then conv + upsampled residual for each on the way back; only if asked for
    temporal   q, k, v convolutions, attention from frame to frame, projection + shortcut; only if asked for by `theme`
    gate       conv summed over space, conv on that, then conv + the result in every pixel; only if asked for
    maximum    conv with a max-pool behind it, conv + shortcut; only if asked for
    wide       hamming, dot or frames with V wider or narrower than K; only if asked for
    integers   one of residual, separable, planes, dot, most of whose neurons, and those of all other segments but the
               head's, fire integer spikes; only if asked for
    timed      temporal, with the neurons of integers; only if asked for

with kernels, strides, paddings, neuron variants, thresholds, shifts and weights over their legal ranges. Features take
turns with the seed (`seed % len(THEMES)` is present for certain, `seed // len(THEMES) % len(PROFILES)` decides what is
large: channels, map or frames), so a handful of consecutive seeds covers all. Biases are searched so that neurons
fire at rates between 10 and 60 %: a network whose spikes are all 0 finds no faults.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from spikeloom.bounds import prove_bounds
from spikeloom.network import Attend, Conv, KeyValue, Network, NetworkError, Operator, TemporalAttend, Upsample
from spikeloom.operations import input_bits

from .random_builder import Builder
from .random_limits import PROFILES, THEMES, Limits


def random_network(seed: int, **limits: Any) -> Network:
    """A random legal network; the same for the same arguments.

    Args:
        seed: Any non-negative integer. Theme and profile follow from it, see the module docstring.
        limits: Fields of `Limits`.
    """
    profile = tuple(PROFILES.values())[seed // len(THEMES) % len(PROFILES)]
    bound = Limits(**limits)
    frames = tuple(t for t in profile.frames if t in bound.frames) or bound.frames
    attempt = 0
    while True:
        shrink = 0.85 ** attempt
        drawn = replace(
            bound, frames=frames, channels=max(1, int(min(bound.channels, profile.channels) * shrink)),
            size=max(1, int(min(bound.size, profile.size) * shrink)))
        try:
            network = Builder(seed, attempt, drawn).build(bound.theme or THEMES[seed % len(THEMES)])
            if cost(network) <= bound.cycles or attempt == 30:
                network.check()
                prove_bounds(network)
                return network
        except NetworkError:  # attention on many levels of wide heads may leave the accumulator
            if attempt == 30:
                raise
        attempt += 1


def cost(network: Network) -> int:
    """Rough cycles on the preset tiny (16 inputs x 8 outputs x 4 lanes); loading dominates maps below 24 pixels."""
    return sum(_cost(network, operator) for operator in network.operators)


def _cost(network: Network, operator: Operator) -> int:
    lanes = -(-network.frames // 4)
    if isinstance(operator, KeyValue):
        key, value = network.tensors[operator.key], network.tensors[operator.value]
        passes = network.frames if operator.per_frame else lanes
        passes *= key.levels * value.levels
        return value.channels * (key.channels // operator.heads) * key.height * key.width * passes // 64
    if isinstance(operator, TemporalAttend):
        query = network.tensors[operator.query]
        words = operator.heads * -(-(query.channels // operator.heads) // 8)
        levels, others = query.levels, network.tensors[operator.key].levels * network.tensors[operator.value].levels
        columns = words // operator.heads * levels + 1
        return words * columns * others * network.frames * lanes * query.height * query.width
    if isinstance(operator, Attend):
        query = network.tensors[operator.query]
        source = network.producer(operator.keyvalue)
        assert isinstance(source, KeyValue)
        heads, passes = source.heads, network.frames if source.per_frame else lanes
        keys, values = (n // heads for n in (query.channels, network.tensors[operator.keyvalue].channels))
        passes *= query.levels
        return heads * 3 * passes * -(-values // 8) * -(-keys // 16) * max(24, query.height * query.width)
    source = network.tensors[operator.input]
    if isinstance(operator, Upsample):
        return lanes * -(-source.channels // 8) * 4 * source.height * source.width
    weight = network.arrays[operator.weight]
    stride = operator.stride if isinstance(operator, Conv) else 1
    pixels = max(24, source.height * source.width // stride ** 2)
    chunks = -(-int(np.prod(weight.shape[1:])) // 16) if isinstance(operator, Conv) else -(-weight.shape[2] // 2)
    return lanes * input_bits(source) * -(-weight.shape[0] // 8) * chunks * pixels
