"""Bench of the depthwise unit: windows over gaps, tables written during look-up, exact latency."""

import random

import cocotb
import numpy as np

from spikeloom.hw.gateware.depthwise import DepthwiseUnit

from . import support
from .table_engine import check, rounds


@cocotb.test()
async def sums_of_the_window(dut):
    config = support.config()
    block = DepthwiseUnit(config)
    rng, numbers = random.Random(support.seed()), np.random.default_rng(support.seed())
    await support.start(dut)
    schedule, positions = rounds(rng, numbers, dut, config, config.depthwise_rows * config.beat_bits)
    words = [word for _, word, _ in positions]
    expected = [
        block.model(tables, [word], history=words[max(0, index - 8) : index])[0]
        for index, (_, word, tables) in enumerate(positions)
    ]
    await check(dut, block, schedule, positions, expected)


@cocotb.test()
async def agrees_with_a_convolution(dut):
    """The model itself, against the sum over rows and taps that it stands for."""
    config = support.config()
    block = DepthwiseUnit(config)
    numbers = np.random.default_rng(support.seed())
    rows, channels = config.depthwise_rows, config.word_channels
    kernel = numbers.integers(-127, 128, (rows, channels, 7))
    kernel[7:] = 0  # no kernel has an eighth row
    spikes = numbers.integers(0, 2, (20, rows, channels, config.lanes))
    taps = np.concatenate([kernel, np.zeros((rows, channels, 1), np.int64)], 2).reshape(rows, channels, 2, 4)
    bits = np.arange(16)[:, None] >> np.arange(4) & 1
    tables = np.einsum("ei,rchi->rhec", bits, taps).reshape(2 * rows, 16, channels)
    words = [int("".join(map(str, word.ravel()[::-1])), 2) for word in spikes]
    expected = np.zeros((20, channels, config.lanes), np.int64)
    for tap in range(7):
        expected[tap:] += np.einsum("nrct,rc->nct", spikes[: 20 - tap], kernel[:, :, tap])
    await support.start(dut)
    assert (block.model(tables, words) == expected).all()
