"""spikeloom.arithmetic: NumPy, torch and Python integers agree, and with what the docstrings say."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.arithmetic import (
    GUARD_BITS,
    LEAKS,
    LIMB_BITS,
    MEMBRANE_BITS,
    RESETS,
    SHIFT_MAX,
    SHIFT_MIN,
    WEIGHT_MAX,
    current,
    lif_step,
    limb_capacity,
    limb_count,
    round_shift,
    saturate,
    split_limbs,
)

CURRENTS = st.integers(-(1 << 25), (1 << 25) - 1)
SHIFTS = st.integers(SHIFT_MIN, SHIFT_MAX)


def everywhere(function, *values):
    """`function` of int64 NumPy arrays, torch tensors and object arrays of Python integers: one value, or it fails."""
    kinds = (
        lambda v: np.array([v], dtype=np.int64), lambda v: torch.tensor([v], dtype=torch.int64),
        lambda v: np.array([v], dtype=object))
    results = [function(*(make(v) for v in values)) for make in kinds]
    results = [r if isinstance(r, (tuple, list)) else (r,) for r in results]
    plain = [tuple(int(part[0]) for part in result) for result in results]
    assert plain[0] == plain[1] == plain[2]
    return plain[0]


@given(st.integers(-(1 << 40), 1 << 40), st.integers(2, 32))
def test_saturate(value, bits):
    (result,) = everywhere(lambda v: saturate(v, bits), value)
    assert result == max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


@given(CURRENTS, SHIFTS)
def test_round_shift_rounds_half_up(value, shift):
    (result,) = everywhere(round_shift, value, shift)
    assert result == floor(Fraction(value) / Fraction(2) ** shift + Fraction(1, 2))


@pytest.mark.parametrize(("value", "expected"), [(3, 2), (1, 1), (-1, 0), (-3, -1), (-2, -1), (0, 0)])
def test_round_shift_ties(value, expected):
    assert everywhere(round_shift, value, 1) == (expected,)


@given(st.integers(-(1 << 23), (1 << 23) - 1), st.integers(-(1 << 24), 1 << 24), st.integers(0, 1))
def test_current_negates(accumulator, bias, negate):
    assert everywhere(current, accumulator, bias, negate) == ((-accumulator if negate else accumulator) + bias,)


@settings(max_examples=300)
@given(
    st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 33), 1 << 33), st.integers(1, (1 << 27) - 1),
    st.sampled_from(LEAKS), st.sampled_from(RESETS), st.booleans())
def test_lif_step(membrane, value, threshold, leak, reset, strict):
    threshold <<= GUARD_BITS
    spike, after = everywhere(
        lambda v, x, th: lif_step(v, x, th, leak=leak, reset=reset, strict=strict), membrane, value, threshold)
    exact = {"none": Fraction(membrane + value), "decayed": Fraction(membrane + value, 2),
             "half": floor(Fraction(membrane, 2)) + value, "quarter": floor(Fraction(membrane, 4)) + value,
             "memoryless": value}[leak]
    potential = max(-(1 << 31), min((1 << 31) - 1, floor(exact)))
    fires = potential > threshold if strict else potential >= threshold
    rest = 0 if reset == "hard" else potential - threshold
    assert (spike, after) == (int(fires), rest if fires else potential)
    assert -(1 << (MEMBRANE_BITS - 1)) <= after < 1 << (MEMBRANE_BITS - 1)


def test_lif_step_refuses_unknown_variants():
    zero = np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError, match="`leak` must be one of"):
        lif_step(zero, zero, zero, leak="slow", reset="hard", strict=False)
    with pytest.raises(ValueError, match="`reset` must be one of"):
        lif_step(zero, zero, zero, leak="half", reset="never", strict=False)


@pytest.mark.parametrize("count", [2, 3])
def test_limbs_hold_the_capacity_and_no_more(count):
    capacity = limb_capacity(count)
    for value in (capacity, -capacity, 0, 63, 64, -64, -65):
        limbs = everywhere(lambda v: split_limbs(v, count), value)
        assert sum(limb << (LIMB_BITS * (count - 1 - i)) for i, limb in enumerate(limbs)) == value
        assert abs(limbs[0]) <= WEIGHT_MAX
        assert all(-64 <= limb <= 63 for limb in limbs[1:])
    assert limb_count(capacity) == count
    assert split_limbs(np.array([capacity + 1]), count)[0][0] == WEIGHT_MAX + 1


@given(st.integers(-limb_capacity(3), limb_capacity(3)))
def test_limbs_are_weights(value):
    count = limb_count(abs(value))
    limbs = everywhere(lambda v: split_limbs(v, count), value)
    assert sum(limb << (LIMB_BITS * (count - 1 - i)) for i, limb in enumerate(limbs)) == value
    assert all(abs(limb) <= WEIGHT_MAX for limb in limbs)


def test_limb_count_refuses():
    with pytest.raises(ValueError, match="`bound` must be at most 2088895 to fit three limbs, not `2088896`"):
        limb_count(2088896)
