"""The numbers: every shift, rounding and saturation of the machine, once.

The PyTorch reference, the compiler's program interpreter and the testbenches all call these functions. They use
operators and methods that NumPy arrays, torch tensors and Python's own integers held in either share (`+ - << >>`,
comparisons, `.clip`), so `int64` arrays of both kinds go through the same lines. Inputs must be signed integers wide
enough (`int64`).

Units: an accumulator of channel `c` counts steps of `2**-k[c]`; a residual value counts steps of `2**-f`.

    a  = (-acc if negate else acc) + bias                         26 bit
    r  = saturate(round_shift(a, shift) + shortcut, 16)           residual ("membrane shortcut")
    p  = saturate(round_shift(a, shift), 8)                       multi-bit activation, stored as 8 bit-planes
    X  = (a | r | spatial sum of r) << GUARD_BITS                 input current
    H  = leak(V, X); fire = H >= th or H > th; V = 0 or H - th    one time step, V starts at 0

with `th = threshold << GUARD_BITS` and H saturated to 32 bits. An integer spike is the number of thresholds that X
reaches: th_i = (i - 1/2) steps makes it round(clamp(X, 0, levels)), rounded half up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

GUARD_BITS = 4
"""Fraction bits that a membrane potential has below its input current."""

MEMBRANE_BITS = 32
"""Width of a membrane potential and of a temporal sum, signed, saturating. A spatial sum has GUARD_BITS
bits less, so that it is an input current; `spikeloom.bounds` refuses a network whose spatial sums could exceed that."""

RESIDUAL_BITS = 16
PLANE_BITS = 8
LIMB_BITS = 7
"""Bits of a lower limb of K^T V. A limb is a weight: the lower ones lie in [-64, 63], the top one in [-127, 127]."""

SHIFT_MIN, SHIFT_MAX = -8, 23
"""Range of a rescaling shift; negative shifts left."""

WEIGHT_MAX = 127
"""Weights lie in [-127, 127], so that a table entry (4 weights, either sign) fits 10 bits."""

LEVELS_MAX = 7
"""Largest value of an integer spike."""

LEAKS = ("none", "decayed", "half", "quarter", "memoryless")
"""none: H = V + X; decayed: H = V + (X - V)/2 = (V + X) >> 1; half: H = (V >> 1) + X; quarter: H = (V >> 2) + X;
memoryless: H = X."""

RESETS = ("hard", "soft")

Array = Any


def saturate(value: Array, bits: int) -> Array:
    """Clip to the range of a signed `bits`-bit number."""
    return value.clip(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def round_shift(value: Array, shift: Array) -> Array:
    """`value / 2**shift`, rounded half up. `shift` in [SHIFT_MIN, SHIFT_MAX], broadcast; negative shifts left.

    Hardware: widen by -SHIFT_MIN bits, add half, shift right by `shift - SHIFT_MIN`.
    """
    wide = value << -SHIFT_MIN
    right = shift - SHIFT_MIN
    half = (1 << right) >> 1
    return (wide + half) >> right


def current(accumulator: Array, bias: Array, negate: Array) -> Array:
    """`a` of the module docstring. `negate` is 0 or 1, broadcast."""
    return (accumulator ^ -negate) + negate + bias


def lif_step(
    membrane: Array, value: Array, threshold: Array, *, leak: str, reset: str, strict: bool
) -> tuple[Array, Array]:
    """One time step of a neuron.

    Args:
        membrane: V, with guard bits.
        value: X, *with* guard bits.
        threshold: th, *with* guard bits.
        leak: One of LEAKS.
        reset: One of RESETS.
        strict: Fire at `>` instead of `>=`.

    Returns:
        (spike 0/1 as int64, V of the next step).
    """
    if leak == "none":
        potential = membrane + value
    elif leak == "decayed":
        potential = (membrane + value) >> 1
    elif leak == "half":
        potential = (membrane >> 1) + value
    elif leak == "quarter":
        potential = (membrane >> 2) + value
    elif leak == "memoryless":
        potential = value + 0 * membrane
    else:
        raise ValueError(f"`leak` must be one of {LEAKS}, not `{leak!r}`")
    if reset not in RESETS:
        raise ValueError(f"`reset` must be one of {RESETS}, not `{reset!r}`")
    potential = saturate(potential, MEMBRANE_BITS)
    spike = (potential > threshold) if strict else (potential >= threshold)
    spike = spike + 0 * membrane  # a boolean of the array library becomes int64
    after = potential - spike * threshold if reset == "soft" else potential - spike * potential
    return spike, after


def limb_count(bound: int) -> int:
    """Limbs that hold every integer of magnitude <= `bound`.

    Raises:
        ValueError: More than three limbs would be needed.
    """
    for count in (2, 3):
        if bound <= limb_capacity(count):
            return count
    raise ValueError(f"`bound` must be at most {limb_capacity(3)} to fit three limbs, not `{bound!r}`")


def limb_capacity(count: int) -> int:
    """Largest magnitude that `count` limbs hold: top limb at 127, all lower limbs at 63 (the smaller side)."""
    value = WEIGHT_MAX
    for _ in range(count - 1):
        value = (value << LIMB_BITS) + (1 << (LIMB_BITS - 1)) - 1
    return value


def split_limbs(value: Array, count: int) -> Sequence[Array]:
    """Split into `count` limbs, the highest first: `value = sum(limb[i] << (7 * (count - 1 - i)))`."""
    limbs = []
    for _ in range(count - 1):
        low = ((value + 64) & 127) - 64
        limbs.append(low)
        value = (value - low) >> LIMB_BITS
    limbs.append(value)
    return limbs[::-1]
