"""Bench of `NeuronUnit`: random instructions item by item with gaps, every mode, pooling over instructions."""

import random

import cocotb
import numpy as np

from spikeloom.arithmetic import GUARD_BITS, MEMBRANE_BITS, PLANE_BITS, RESIDUAL_BITS, SHIFT_MAX, SHIFT_MIN
from spikeloom.config import ACCUMULATOR_BITS
from spikeloom.hw.gateware.neuron import NeuronUnit
from spikeloom.hw.gateware.neuron_channel import SETTINGS
from spikeloom.hw.isa import Leak, Mode

from . import support
from .fixed_latency import bits_of, extreme, magnitudes, play

RUNS = 60
BIAS = 3 << 23


def parameter_rows(rng, rows: int, channels: int):
    """int64[rows, channels, 3]: bias, threshold, misc as in the parameter buffer."""
    bias = extreme(rng, np.clip(magnitudes(rng, (rows, channels), 26), -BIAS, BIAS - 1), [-BIAS, BIAS - 1])
    threshold = np.maximum(1, np.abs(magnitudes(rng, (rows, channels), MEMBRANE_BITS - GUARD_BITS)))
    shift = rng.integers(SHIFT_MIN, SHIFT_MAX + 1, (rows, channels))
    negate = rng.integers(0, 2, (rows, channels))
    return np.stack([bias, threshold, (shift - SHIFT_MIN) | negate << 8], axis=-1)


def random_settings(rng, lanes: int) -> dict[str, int]:
    """Settings of an instruction that make sense together."""
    mode = int(rng.choice([Mode.DIRECT, Mode.RESIDUAL, Mode.RESIDUAL, Mode.PLANES, Mode.SUM]))
    flags = {name: int(rng.integers(2)) for name in ("shortcut", "soft", "strict", "carry_in")}
    valid = lanes if rng.random() < 0.6 else int(rng.integers(1, lanes + 1))
    pool = int(mode == Mode.RESIDUAL and rng.random() < 0.6)
    return {"mode": mode, **flags, "leak": int(rng.integers(len(Leak))), "lanes": valid, "pool": pool,
            "pool_first": int(rng.integers(2)), "pool_last": int(rng.integers(2))}


@cocotb.test()
async def matches_the_model(dut):
    config = support.config()
    unit, rng = NeuronUnit(config), np.random.default_rng(support.seed())
    sums = np.zeros((config.output_words, config.word_channels, config.lanes), np.int64)
    await support.start(dut)
    pooled = 0
    for run in range(RUNS):
        settings = random_settings(rng, config.lanes)
        pooled += settings["pool"]
        sums = await _run(dut, rng, unit, run, settings, sums)
    assert pooled > 8, f"only {pooled} instructions with pooling"


async def _run(dut, rng, unit, run, settings, sums):
    config = unit.config
    words, pixels = int(rng.integers(1, config.output_words + 1)), int(rng.choice([1, 2, 3, 17]))
    shape = (words, pixels, config.word_channels, config.lanes)
    acc, shortcut = magnitudes(rng, shape, ACCUMULATOR_BITS), magnitudes(rng, shape, RESIDUAL_BITS)
    parameters = parameter_rows(rng, words, config.word_channels)
    count = 1 if settings["pool"] else pixels
    carry = magnitudes(rng, (words, count, config.word_channels), MEMBRANE_BITS)
    first_word = int(rng.integers(config.output_words - words + 1))
    kept = slice(first_word, first_word + words)
    expected = unit.model(settings, acc, parameters, shortcut, carry, sums[kept])
    got, emitted = await _play(dut, unit, settings, acc, parameters, shortcut, carry, first_word)
    assert len(emitted) == (count * words if not settings["pool"] or settings["pool_last"] else 0)
    _check(f"run {run} {settings}", unit, got, expected, emitted, pooled=bool(settings["pool"]))
    if settings["pool"]:
        sums = sums.copy()
        sums[kept] = expected.sums
    return sums


async def _play(dut, unit, settings, acc, parameters, shortcut, carry, first_word):
    """Items with gaps between them; returns (outputs in every cycle of input, indices of items put out)."""
    rng = random.Random(f"{support.seed()} {acc.sum()}")
    columns: dict[str, list] = {name: [] for name in (
        "valid", "first", "last", "word", "settings", "acc", "parameters", "shortcut", "carry")}
    packed = support.pack(SETTINGS, {name: settings[name] for name in SETTINGS.members})
    emitted = []

    def put(**values):
        for name, column in columns.items():
            column.append(values.get(name))

    for word in range(acc.shape[0]):
        row = bits_of(parameters[word], 32)
        for pixel in range(acc.shape[1]):
            while rng.random() < 0.2:
                put()
            last = pixel == acc.shape[1] - 1
            emit = settings["pool_last"] and last if settings["pool"] else 1
            item = min(pixel, carry.shape[1] - 1)
            if emit:
                emitted.append(len(columns["valid"]))
            put(valid=1, first=pixel == 0, last=last, word=first_word + word, parameters=row, settings=packed,
                acc=bits_of(acc[word, pixel], ACCUMULATOR_BITS),
                shortcut=settings["shortcut"] * bits_of(shortcut[word, pixel], RESIDUAL_BITS),
                carry=bits_of(carry[word, item], MEMBRANE_BITS))
    starts = {"shortcut": unit.SHORTCUT_CYCLE, "carry": unit.carry_cycle}
    early, late = unit.early_latency, unit.latency
    got = await play(
        dut, {name: (starts.get(name, 0), column) for name, column in columns.items()},
        {"residual": early, "planes": early, "spikes": late, "membranes": late}, rng, quiet=("valid",))
    return got, emitted


def _check(context, unit, got, expected, emitted, *, pooled):
    config = unit.config
    if not emitted:
        return
    planes = (expected.planes[:, :, None] >> np.arange(PLANE_BITS)[:, None, None]) & 1
    for name, values, bits in (("residual", expected.residual, RESIDUAL_BITS), ("planes", planes, 1),
                               ("spikes", expected.spikes, 1), ("membranes", expected.membranes, MEMBRANE_BITS)):
        if pooled and name in ("residual", "planes"):
            continue
        wanted = [bits_of(item, bits) for item in values.reshape(len(emitted), -1)]
        support.compare(f"{name} of {config.word_channels}x{config.lanes}, {context}",
                        [got[name][index] for index in emitted], wanted)
