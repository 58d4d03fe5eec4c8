"""Proof that no number of an integer network leaves its register, from weights and shapes alone.

An accumulator is a sum of weight x input terms. The machine adds them in an order of its own (chunks, bit-planes,
limbs), so the bound covers every *partial* sum: with P = sum of the positive, N = -sum of the negative weights of
an output channel,

    input       lowest              highest
    spikes      -N                  P
    integers    -levels N           levels P
    planes      -(128 P + 127 N)    127 P + 128 N     a sign plane alone adds -128 w
    pixels      -255 N              255 P
    attention   -D L B              D L B             D channels of K per head, B = largest |M_ij| with its limb
                                                      rounding, L = levels of the query
    temporal    -T D L (AND: 0)     T D L             T frames, D channels per head, L = product of the levels of
                                                      query, key and value

A maximum lies within the bound of what it is taken of; since the machine makes it of differences of residuals, what it
is taken of must not lie below the least residual.

Checked: accumulators against ACCUMULATOR_BITS, `a = +-acc + bias` against CURRENT_BITS, K^T V against three limbs,
temporal sums against MEMBRANE_BITS and spatial ones, which become input currents with guard bits, against
MEMBRANE_BITS - GUARD_BITS (4096 pixels): so neither ever saturates, and X always has the width of a membrane potential.
Needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikeloom.arithmetic import (
    GUARD_BITS,
    LIMB_BITS,
    MEMBRANE_BITS,
    RESIDUAL_BITS,
    limb_count,
    round_shift,
)
from spikeloom.config import ACCUMULATOR_BITS
from spikeloom.network import (
    Accumulating,
    Attend,
    Conv,
    KeyValue,
    MaxConv,
    Network,
    NetworkError,
    TemporalAttend,
    Upsample,
)

CURRENT_BITS = 26
"""Width of `a`, signed: an accumulator plus a bias."""

_INPUT_RANGE: Mapping[str, tuple[int, int]] = {"spikes": (0, 1), "planes": (-128, 127), "pixels": (0, 255)}

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What an operator can reach in the worst case.

    Attributes:
        accumulator: (lowest, highest) partial sum over all channels; of K^T V for a `KeyValue`.
        current: (lowest, highest) `a` over all channels; None for a `KeyValue`.
        magnitude: Largest sum of |weight| * |input|, no partial sum in any order lies beyond it. Float arithmetic
            of a wider mantissa is exact.
        limbs: Limbs of K^T V, for `KeyValue` and `Attend`.
    """

    accumulator: tuple[int, int]
    current: tuple[int, int] | None = None
    magnitude: int
    limbs: int | None = None


def prove_bounds(network: Network) -> dict[str, Bounds]:
    """Worst case of every operator but `Upsample`, which computes nothing, by operator name.

    Raises:
        NetworkError: An operator could exceed a width; the message names it and the value.
    """
    return {
        operator.name: _prove(network, operator) for operator in network.operators
        if not isinstance(operator, Upsample)}


def input_range(kind: str, levels: int = 1) -> tuple[int, int]:
    """Lowest and highest value of a tensor that is convolved; `levels` as in `Tensor`."""
    return (0, levels) if kind == "integers" else _INPUT_RANGE[kind]


def weight_bounds(weight: NDArray[np.int8], kind: str, levels: int = 1) -> tuple[Integers, Integers]:
    """Lowest and highest partial sum per output channel (int64[Co] each) for inputs of `kind`."""
    flat = weight.astype(np.int64).reshape(weight.shape[0], -1)
    positive, negative = flat.clip(min=0).sum(axis=1), -flat.clip(max=0).sum(axis=1)
    low, high = input_range(kind, levels)
    return low * positive - high * negative, high * positive - low * negative


def keyvalue_bound(network: Network, operator: KeyValue) -> int:
    """Largest |M_ij|: the tokens of a clip, or of a frame, times the largest values of integer spikes."""
    key, value = network.tensors[operator.key], network.tensors[operator.value]
    frames = 1 if operator.per_frame else network.frames
    return frames * key.height * key.width * key.levels * value.levels


def fits(low: int, high: int, bits: int) -> bool:
    """Whether [low, high] lies in the range of a signed `bits`-bit number."""
    return -(1 << (bits - 1)) <= low and high < 1 << (bits - 1)


def _prove(network: Network, operator: Accumulating | KeyValue) -> Bounds:
    if isinstance(operator, KeyValue):
        tokens = keyvalue_bound(network, operator)
        low = -tokens if operator.bipolar else 0
        return Bounds(accumulator=(low, tokens), magnitude=tokens, limbs=_limbs(operator, tokens))
    limbs = None
    if isinstance(operator, Attend):
        source = network.producer(operator.keyvalue)
        assert isinstance(source, KeyValue)
        tokens = keyvalue_bound(network, source)
        limbs = _limbs(operator, tokens)
        # the upper limbs alone: |M| rounded to a multiple of 128 (of 128**2 with three limbs)
        rounded = tokens + sum(1 << (LIMB_BITS * i - 1) for i in range(1, limbs))
        query = network.tensors[operator.query]
        magnitude = query.channels // source.heads * rounded * query.levels
        high = np.full(network.tensors[operator.keyvalue].channels, magnitude, dtype=np.int64)
        low = -high
    elif isinstance(operator, TemporalAttend):
        query, key, value = (network.tensors[n] for n in (operator.query, operator.key, operator.value))
        channels = query.channels
        magnitude = network.frames * channels // operator.heads * query.levels * key.levels * value.levels
        high = np.full(channels, magnitude, dtype=np.int64)
        low = -high if operator.bipolar else 0 * high
    else:
        tensor = network.tensors[operator.input]
        weight = network.arrays[operator.weight]
        low, high = weight_bounds(weight, tensor.kind, tensor.levels)
        largest = max(abs(v) for v in input_range(tensor.kind, tensor.levels))
        flat = np.abs(weight.astype(np.int64)).reshape(weight.shape[0], -1)
        magnitude = largest * int(flat.sum(axis=1).max())
    _require(operator, "accumulator", low, high, ACCUMULATOR_BITS)
    current = _prove_neuron(network, operator, low, high)
    return Bounds(accumulator=(int(low.min()), int(high.max())), current=current, magnitude=magnitude, limbs=limbs)


def _prove_neuron(
    network: Network, operator: Accumulating, low: Integers, high: Integers
) -> tuple[int, int]:
    neuron = operator.neuron
    bias = network.arrays[neuron.bias].astype(np.int64)
    if neuron.negate is not None:
        negate = network.arrays[neuron.negate] != 0
        low, high = np.where(negate, -high, low), np.where(negate, -low, high)
    low, high = low + bias, high + bias
    _require(operator, "a = acc + bias", low, high, CURRENT_BITS)
    if neuron.logits is not None:
        _require(operator, "sum over frames", low * network.frames, high * network.frames, MEMBRANE_BITS)
    if isinstance(operator, MaxConv):
        _prove_maximum(network, operator, low, high)
    if neuron.pool:
        pixels = _pixels(network, operator)
        largest = np.full(1, pixels << (RESIDUAL_BITS - 1), dtype=np.int64)
        _require(operator, f"sum over {pixels} pixels", -largest, largest - pixels, MEMBRANE_BITS - GUARD_BITS)
    return int(low.min()), int(high.max())


def _prove_maximum(network: Network, operator: MaxConv, low: Integers, high: Integers) -> None:
    """`low`, `high`: of `a`. See `spikeloom.hw.program.maximum` for what is added to it."""
    shift = network.arrays[str(operator.neuron.shift)].astype(np.int64)
    _require(operator, "maximum of values whose least", round_shift(low, shift), 0 * low, RESIDUAL_BITS)
    raised = raise_by(shift)
    _require(operator, "a of a maximum", -high - 1 - raised, high + raised, CURRENT_BITS)


def raise_by(shift: Integers) -> Integers:
    """What is added to `a` so that the residual rises by half of its range: 2**15 * 2**shift."""
    return np.int64(1) << (RESIDUAL_BITS - 1 + shift)


def _pixels(network: Network, operator: Accumulating) -> int:
    if isinstance(operator, (Attend, TemporalAttend)):
        query = network.tensors[operator.query]
        return query.height * query.width
    source, kernel = network.tensors[operator.input], network.arrays[operator.weight].shape[2]
    stride = operator.stride if isinstance(operator, Conv) else 1
    height, width = ((n + 2 * operator.padding - kernel) // stride + 1 for n in (source.height, source.width))
    return height * width


def _limbs(operator: KeyValue | Attend, tokens: int) -> int:
    try:
        return limb_count(tokens)
    except ValueError as error:
        raise NetworkError(f"operator {operator.name}: K^T V over {tokens} tokens exceeds three limbs") from error


def _require(operator: Accumulating, what: str, low: Integers, high: Integers, bits: int) -> None:
    outside = (low < -(1 << (bits - 1))) | (high >= 1 << (bits - 1))
    if outside.any():
        channel = int(np.flatnonzero(outside)[0])
        raise NetworkError(
            f"operator {operator.name}: {what} of channel {channel} may reach [{low[channel]}, {high[channel]}], "
            f"beyond {bits} bits")
