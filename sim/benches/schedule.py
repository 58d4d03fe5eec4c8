"""For benches of blocks without a handshake: play a schedule cycle by cycle, vectors of values in wide ports."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

__all__ = ["extreme_weights", "gaps", "pack_values", "play", "unpack_values"]


async def play(
    dut: Any, schedule: Sequence[Mapping[str, int]], outputs: Sequence[str], tail: int = 0
) -> list[dict[str, int]]:
    """Drive the ports of ``schedule[k]`` in cycle k, sample ``outputs`` in the same cycle; ``tail`` cycles more.

    A port not named in a cycle keeps its value, so a schedule says what it drives while nobody should look.
    """
    samples = []
    for values in [*schedule, *({} for _ in range(tail))]:
        for name, value in values.items():
            getattr(dut, name).value = value
        await ReadOnly()
        samples.append({name: int(getattr(dut, name).value) for name in outputs})
        await RisingEdge(dut.clk)
    return samples


def pack_values(values: Iterable[int], bits: int) -> int:
    """Port of ``values`` (signed or not) of ``bits`` bits each, the first lowest."""
    mask = (1 << bits) - 1
    text = "".join(format(int(value) & mask, f"0{bits}b") for value in reversed(list(values)))
    return int(text, 2)


def unpack_values(port: int, bits: int, count: int) -> list[int]:
    """Inverse of `pack_values`, signed."""
    text = format(port, f"0{bits * count}b")
    values = [int(text[at : at + bits], 2) for at in range(0, bits * count, bits)]
    return [value - (value >> (bits - 1) << bits) for value in reversed(values)]


def extreme_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """int64 weights: everywhere in [-127, 127], or only its ends, or all one end; each a third of the time."""
    kind = rng.integers(3)
    if kind == 0:
        return rng.integers(-127, 128, shape)
    if kind == 1:
        return rng.choice([-127, 127], shape)
    return np.full(shape, rng.choice([-127, 127]))


def gaps(rng: random.Random, count: int, probability: float) -> list[int]:
    """Cycles of ``count`` events with pauses of random length between them."""
    cycles, now = [], 0
    for _ in range(count):
        while rng.random() < probability:
            now += 1
        cycles.append(now)
        now += 1
    return cycles
