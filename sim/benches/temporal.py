"""Bench of the temporal unit: rows of any length with pauses, settings that change from row to row, exact latency."""

import random

import cocotb
import numpy as np

from spikeloom.hw.gateware.temporal import Position, TemporalUnit

from . import support
from .schedule import gaps, play, unpack_values


def positions(rng, config, rows):
    """Rows of random positions, each ending with `emit`."""
    result = []
    for _ in range(rows):
        skip = rng.choice([0, 1, 2, 3, 8])
        common = {"lane": rng.randrange(config.lanes), "bipolar": bool(rng.getrandbits(1)),
                  "width": rng.choice([rng.randint(1, 2047), skip * config.word_channels])}
        kind = rng.randrange(4)
        for _ in range(skip):
            query, key = rng.getrandbits(config.beat_bits), rng.getrandbits(config.beat_bits)
            everything = (1 << config.beat_bits) - 1
            query, key = [(query, key), (query, query), (everything, 0), (everything, everything)][kind]
            result.append(Position(words=(query, key), emit=False, **common))
        value = rng.choice([rng.getrandbits(config.beat_bits), (1 << config.beat_bits) - 1])
        result.append(Position(words=(value, rng.getrandbits(config.beat_bits)), emit=True, **common))
    return result


def ports(config, position):
    words = position.words[0] | position.words[1] << config.beat_bits
    return {"words": words, "emit": int(position.emit), "lane": position.lane, "bipolar": int(position.bipolar),
            "width": position.width}


def sums(config, sample):
    """What the masks make of a sample of the outputs."""
    scores = unpack_values(sample["scores"], TemporalUnit.sum_bits, config.lanes)
    return [score * (sample["values"] >> c & 1) for c in range(config.word_channels) for score in scores]


@cocotb.test()
async def adds_up(dut):
    config = support.config()
    block = TemporalUnit(config)
    rng = random.Random(support.seed())
    await support.start(dut)
    for probability in (0.0, 0.4):
        given = positions(rng, config, 100)
        cycles = gaps(rng, len(given), probability)
        noise = [name for name in ("words", "emit", "lane", "bipolar", "width") if hasattr(dut, name)]
        schedule = [{"valid": 0} | {name: rng.getrandbits(len(getattr(dut, name))) for name in noise}
                    for _ in range(cycles[-1] + 1)]
        for cycle, position in zip(cycles, given, strict=True):
            driven = ports(config, position)
            schedule[cycle] = {"valid": 1} | {name: driven[name] for name in noise}
        samples = await play(dut, [*schedule, {"valid": 0}], ["scores", "values"], tail=block.latency)
        emitted = [cycle for cycle, position in zip(cycles, given, strict=True) if position.emit]
        got = [sums(config, samples[cycle + block.latency]) for cycle in emitted]
        support.compare("sums", got, [sums.ravel().tolist() for sums in block.model(given)])


@cocotb.test()
async def agrees_with_attention(dut):
    """The model itself, against the products that it stands for: a head of 45 channels, all frames."""
    config = support.config()
    block, numbers, width = TemporalUnit(config), np.random.default_rng(support.seed()), 45
    words = -(-width // config.word_channels)
    channels = words * config.word_channels
    query, key, value = (numbers.integers(0, 2, (config.lanes, channels)) for _ in range(3))
    query[:, width:] = key[:, width:] = 0

    def word(frames, index):
        bits = frames[:, index * config.word_channels:(index + 1) * config.word_channels].T.ravel()
        return int("".join(map(str, bits[::-1])), 2)

    for bipolar in (True, False):
        q, k = ((2 * x - 1 if bipolar else x)[:, :width] for x in (query, key))
        expected = (q @ k.T @ value).T
        found = np.zeros((channels, config.lanes), np.int64)
        for lane in range(config.lanes):
            common = {"lane": lane, "bipolar": bipolar, "width": width}
            for index in range(words):
                walk = [Position(words=(word(query, i), word(key, i)), emit=False, **common) for i in range(words)]
                walk.append(Position(words=(word(value, index), 0), emit=True, **common))
                found[index * config.word_channels:(index + 1) * config.word_channels] += block.model(walk)[0]
        assert (found == expected).all()
    await support.start(dut)
