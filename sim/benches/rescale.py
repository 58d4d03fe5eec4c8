"""Bench of `Rescale`: every shift and sign, extremes, exact latency."""

import random

import cocotb
import numpy as np

from spikeloom.arithmetic import PLANE_BITS, RESIDUAL_BITS, SHIFT_MAX, SHIFT_MIN
from spikeloom.config import ACCUMULATOR_BITS
from spikeloom.hw.gateware.rescale import CURRENT_BITS, Rescale

from . import support
from .fixed_latency import bits_of, extreme, magnitudes, play, values_of

ITEMS = 1500
BIAS = (1 << (CURRENT_BITS - 1)) - (1 << (ACCUMULATOR_BITS - 1))


@cocotb.test()
async def matches_the_model(dut):
    lanes = support.parameters()["lanes"]
    rng = np.random.default_rng(support.seed())
    await support.start(dut)
    for direct, add, mask in ((0, 1, -1), (0, 0, -1), (1, 1, -1), (0, 1, 1), (1, 0, 5)):
        await _run(dut, rng, lanes, direct=direct, add=add, mask=mask & ((1 << lanes) - 1))


async def _run(dut, rng, lanes, *, direct, add, mask):
    acc = magnitudes(rng, (ITEMS, lanes), ACCUMULATOR_BITS)
    bias = extreme(rng, np.clip(magnitudes(rng, (ITEMS, 1), CURRENT_BITS), -BIAS, BIAS - 1), [-BIAS, BIAS - 1])
    negate = rng.integers(0, 2, (ITEMS, 1))
    shift = rng.integers(SHIFT_MIN, SHIFT_MAX + 1, (ITEMS, 1))
    shortcut = magnitudes(rng, (ITEMS, lanes), RESIDUAL_BITS)
    dut.direct.value, dut.add.value, dut.mask.value = direct, add, mask
    got = await play(
        dut,
        {"acc": (0, [bits_of(row, ACCUMULATOR_BITS) for row in acc]), "bias": (0, bias[:, 0].tolist()),
         "negate": (0, negate[:, 0].tolist()), "shift": (0, (shift[:, 0] - SHIFT_MIN).tolist()),
         "shortcut": (Rescale.SHORTCUT_CYCLE, [bits_of(row, RESIDUAL_BITS) for row in shortcut])},
        dict.fromkeys(("residual", "plane", "value"), Rescale.latency), random.Random(support.seed()))
    residual, plane, value = Rescale.model(acc, bias, negate, shift, shortcut * add, direct=bool(direct))
    keep = np.array([mask >> lane & 1 for lane in range(lanes)])
    for name, expected, bits in (("residual", residual * keep, RESIDUAL_BITS), ("plane", plane * keep, PLANE_BITS),
                                 ("value", value, CURRENT_BITS)):
        support.compare(f"{name}, direct={direct} add={add} mask={mask:#x}", got[name], expected.tolist(),
                        convert=lambda payload, bits=bits: values_of(payload, bits, lanes))
