"""Bench of `LifChain`: every leak, reset and comparison, every number of lanes, extremes, ties, exact latency."""

import itertools
import random

import cocotb
import numpy as np

from spikeloom.arithmetic import GUARD_BITS, LEAKS, MEMBRANE_BITS
from spikeloom.hw.gateware.lif import LifChain

from . import support
from .fixed_latency import bits_of, extreme, magnitudes, play, values_of

ITEMS = 250


@cocotb.test()
async def matches_the_model(dut):
    block = LifChain(**support.parameters())
    rng = np.random.default_rng(support.seed())
    await support.start(dut)
    fired = 0
    for leak, soft, strict in itertools.product(range(len(LEAKS)), (0, 1), (0, 1)):
        valid = int(rng.integers(1, block.lanes + 1)) if strict else block.lanes
        fired += await _run(dut, rng, block, leak=leak, soft=soft, strict=strict, never=0, valid=valid)
    assert fired > 1000, f"only {fired} spikes: the stimulus is too dull"
    assert not await _run(dut, rng, block, leak=0, soft=1, strict=0, never=1, valid=block.lanes)


async def _run(dut, rng, block, *, leak, soft, strict, never, valid) -> int:
    value = magnitudes(rng, (ITEMS, block.lanes), MEMBRANE_BITS)
    start = magnitudes(rng, (ITEMS,), MEMBRANE_BITS)
    threshold = np.maximum(1, np.abs(magnitudes(rng, (ITEMS,), MEMBRANE_BITS - GUARD_BITS)))
    threshold = np.minimum(extreme(rng, threshold, [1, (1 << 27) - 1, 1 << 27, (1 << 31) - 1]), (1 << 32) - 1)
    value[::3, 0] = np.clip((threshold[::3] << GUARD_BITS) + rng.integers(-1, 2, value[::3, 0].shape),
                            -1 << 31, (1 << 31) - 1)  # just about the threshold
    start[::6] = 0
    value[:, valid:] = 0
    dut.leak.value, dut.soft_reset.value, dut.strict.value, dut.never.value = leak, soft, strict, never
    dut.mask.value = (1 << valid) - 1
    got = await play(
        dut, {"value": (0, [bits_of(row, MEMBRANE_BITS) for row in value]), "start": (0, start.tolist()),
              "threshold": (0, threshold.tolist())},
        {"spikes": block.latency, "membrane": block.latency}, random.Random(support.seed()))
    spikes, membrane = LifChain.model(value, start, threshold, leak=leak, soft=bool(soft), strict=bool(strict),
                                      never=bool(never), valid=valid)
    which = f"leak={leak} soft={soft} strict={strict} never={never} valid={valid}"
    support.compare(f"spikes, {which}", got["spikes"], spikes.tolist(),
                    convert=lambda payload: values_of(payload, 1, block.lanes, signed=False))
    support.compare(f"membrane, {which}", got["membrane"], membrane.tolist(),
                    convert=lambda payload: support.to_signed(payload, MEMBRANE_BITS))
    return int(spikes.sum())
