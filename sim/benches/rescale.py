"""Bench of `Rescale`: every shift and sign, extremes, settings that change from item to item, exact latency."""

import random

import cocotb
import numpy as np

from spikeloom.arithmetic import GUARD_BITS, PLANE_BITS, RESIDUAL_BITS, SHIFT_MAX, SHIFT_MIN
from spikeloom.config import ACCUMULATOR_BITS
from spikeloom.hw.gateware.rescale import CURRENT_BITS, LOW_BITS, Rescale

from . import support
from .fixed_latency import bits_of, extreme, magnitudes, play, values_of

ITEMS = 6000
BIAS = (1 << (CURRENT_BITS - 1)) - (1 << (ACCUMULATOR_BITS - 1))


@cocotb.test()
async def matches_the_model(dut):
    lanes = support.parameters()["lanes"]
    rng = np.random.default_rng(support.seed())
    await support.start(dut)
    await _run(dut, rng, lanes)


async def _run(dut, rng, lanes):
    acc = magnitudes(rng, (ITEMS, lanes), ACCUMULATOR_BITS)
    bias = extreme(rng, np.clip(magnitudes(rng, (ITEMS, 1), CURRENT_BITS), -BIAS, BIAS - 1), [-BIAS, BIAS - 1])
    negate = rng.integers(0, 2, (ITEMS, 1))
    shift = rng.integers(SHIFT_MIN, SHIFT_MAX + 1, (ITEMS, 1))
    shortcut = magnitudes(rng, (ITEMS, lanes), RESIDUAL_BITS)
    kind, add = rng.integers(0, 3, (ITEMS, 1)), rng.integers(0, 2, (ITEMS, 1))
    direct, temporal = (kind == 1).astype(int), (kind == 2).astype(int)
    shortcut *= add
    mask = np.where(rng.random(ITEMS) < 0.5, (1 << lanes) - 1, rng.integers(0, 1 << lanes, ITEMS))
    got = await play(
        dut,
        {"acc": (0, [bits_of(row, ACCUMULATOR_BITS) for row in acc]), "bias": (0, bias[:, 0].tolist()),
         "negate": (0, negate[:, 0].tolist()), "shift": (0, (shift[:, 0] - SHIFT_MIN).tolist()),
         "mask": (Rescale.latency - 1, mask.tolist()),
         "direct": (Rescale.latency - 1, direct[:, 0].tolist()),
         "temporal": (Rescale.latency - 1, temporal[:, 0].tolist()),
         "shortcut": (Rescale.SHORTCUT_CYCLE, [bits_of(row, RESIDUAL_BITS) for row in shortcut])},
        {**dict.fromkeys(("residual", "plane", "current", "raw", "addend"), Rescale.latency),
         **dict.fromkeys(("current_high", "raw_high"), Rescale.latency + 1)},
        random.Random(support.seed()))
    residual, plane, addend = Rescale.model(acc, bias, negate, shift, shortcut, direct=False)
    _, _, current = Rescale.model(acc, bias, negate, shift, shortcut, direct=True)
    keep = mask[:, None] >> np.arange(lanes) & 1
    for name, expected, bits in (("residual", residual * keep, RESIDUAL_BITS), ("plane", plane * keep, PLANE_BITS),
                                 *_parts("current", current * direct, LOW_BITS - GUARD_BITS),
                                 *_parts("raw", current * temporal, LOW_BITS),
                                 ("addend", addend * (kind == 0), RESIDUAL_BITS)):
        support.compare(name, got[name], expected.tolist(),
                        convert=lambda payload, bits=bits: values_of(payload, bits, lanes))


def _parts(name, values, low):
    """(port, values, bits) of a number that is put out in two parts, the first of `low` bits."""
    bits = CURRENT_BITS - low
    return (name, values << 64 - low >> 64 - low, low), (f"{name}_high", values >> low, bits)
