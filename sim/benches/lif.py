"""Bench of `LifChain`: every leak, reset and comparison, every number of lanes, extremes, ties, exact latency,
settings that change from item to item."""

import itertools
import random

import cocotb
import numpy as np

from spikeloom.arithmetic import GUARD_BITS, LEAKS, MEMBRANE_BITS
from spikeloom.hw.gateware.lif import LifChain
from spikeloom.hw.gateware.rescale import LOW_BITS

from . import support
from .fixed_latency import bits_of, extreme, magnitudes, play, values_of

RUN = 250
SETTINGS = list(itertools.product(range(len(LEAKS)), (0, 1), (0, 1)))
"""leak, soft, strict."""


@cocotb.test()
async def matches_the_model(dut):
    """All settings, in an order that changes from item to item."""
    block = LifChain(**support.parameters())
    rng = np.random.default_rng(support.seed())
    await support.start(dut)
    items = RUN * len(SETTINGS)
    choice = rng.permutation(np.arange(items) % len(SETTINGS))
    leak, soft, strict = np.array(SETTINGS)[choice].T
    never = rng.random(items) < 0.125
    valid = np.where(rng.random(items) < 0.5, rng.integers(1, block.lanes + 1, items), block.lanes)
    value, start, threshold = _stimulus(rng, items, block.lanes, valid)
    got = await play(
        dut, {"value": (0, [bits_of(row, LOW_BITS) for row in value]),
              "value_high": (1, [bits_of(row >> LOW_BITS, MEMBRANE_BITS - LOW_BITS) for row in value]),
              "start": (0, start.tolist()), "threshold": (0, threshold.tolist()), "leak": (0, leak.tolist()),
              "soft_reset": (0, soft.tolist()), "strict": (0, strict.tolist()),
              "never": (0, never.astype(int).tolist()), "mask": (0, ((1 << valid) - 1).tolist())},
        {"spikes": block.latency, "membrane": block.latency}, random.Random(support.seed()))
    spikes, membrane = np.zeros_like(value), np.zeros_like(start)
    for kind in {(int(c), bool(n), int(v)) for c, n, v in zip(choice, never, valid, strict=True)}:
        here = (choice == kind[0]) & (never == kind[1]) & (valid == kind[2])
        leaks, soft_reset, strictly = SETTINGS[kind[0]]
        spikes[here], membrane[here] = LifChain.model(
            value[here], start[here], threshold[here], leak=leaks, soft=bool(soft_reset), strict=bool(strictly),
            never=kind[1], valid=kind[2])
    support.compare("spikes", got["spikes"], spikes.tolist(),
                    convert=lambda payload: values_of(payload, 1, block.lanes, signed=False))
    support.compare("membrane", got["membrane"], membrane.tolist(),
                    convert=lambda payload: support.to_signed(payload, MEMBRANE_BITS))
    assert spikes.sum() > 1000, f"only {spikes.sum()} spikes: the stimulus is too dull"


def _stimulus(rng, items, lanes, valid):
    """(value, start, threshold); many values are just about the threshold."""
    value = magnitudes(rng, (items, lanes), MEMBRANE_BITS)
    start = magnitudes(rng, (items,), MEMBRANE_BITS)
    threshold = np.maximum(1, np.abs(magnitudes(rng, (items,), MEMBRANE_BITS - GUARD_BITS)))
    threshold = np.minimum(extreme(rng, threshold, [1, (1 << 27) - 1, 1 << 27, (1 << 31) - 1]), (1 << 32) - 1)
    value[::3, 0] = np.clip((threshold[::3] << GUARD_BITS) + rng.integers(-1, 2, value[::3, 0].shape),
                            -1 << 31, (1 << 31) - 1)
    start[::6] = 0
    value[np.arange(lanes) >= valid[:, None]] = 0
    return value, start, threshold
