"""For blocks without a handshake: values in at given cycles, values out at given cycles, noise at all other times."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge
from numpy.typing import NDArray

__all__ = ["bits_of", "extreme", "magnitudes", "play", "values_of"]


async def play(
    dut: Any,
    inputs: Mapping[str, tuple[int, Sequence[int | None]]],
    outputs: Mapping[str, int],
    rng: random.Random,
    *,
    quiet: Sequence[str] = (),
) -> dict[str, list[int]]:
    """Drive ``inputs`` (port -> (cycle of the first value, values)), sample ``outputs`` (port -> cycle of the first).

    A value of None, and every cycle before and after, is noise; for the ports in ``quiet`` it is 0.
    Returns one value per output for every entry of the longest input. Call it just after a clock edge.
    """
    count = max(len(values) for _, values in inputs.values())
    widths = {name: len(getattr(dut, name)) for name in inputs}
    got: dict[str, list[int]] = {name: [] for name in outputs}
    for cycle in range(count + max(outputs.values())):
        for name, (first, values) in inputs.items():
            value = values[cycle - first] if 0 <= cycle - first < len(values) else None
            noise = 0 if name in quiet else rng.getrandbits(widths[name])
            getattr(dut, name).value = noise if value is None else int(value) & ((1 << widths[name]) - 1)
        await ReadOnly()
        for name, first in outputs.items():
            if 0 <= cycle - first < count:
                got[name].append(int(getattr(dut, name).value))
        await RisingEdge(dut.clk)
    return got


def bits_of(values: NDArray[np.int64], bits: int) -> int:
    """One integer of ``values``, ``bits`` bits each in two's complement, the first (last axis fastest) lowest."""
    binary = (np.asarray(values).reshape(-1, 1) >> np.arange(bits)) & 1
    return int.from_bytes(np.packbits(binary.astype(np.uint8), bitorder="little").tobytes(), "little")


def values_of(payload: int, bits: int, count: int, *, signed: bool = True) -> list[int]:
    """Inverse of `bits_of`."""
    values = [payload >> (index * bits) & ((1 << bits) - 1) for index in range(count)]
    return [value - ((value >> (bits - 1)) << bits) for value in values] if signed else values


def magnitudes(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> NDArray[np.int64]:
    """Signed ``bits``-bit numbers, all magnitudes equally likely on a logarithmic scale, with zeros and extremes."""
    sizes = np.minimum(np.exp2(rng.uniform(0, bits - 1, shape)), 2.0 ** (bits - 1) - 1).astype(np.int64)
    values = np.where(rng.random(shape) < 0.5, sizes, -sizes)
    return extreme(rng, values, [0, -1, -(1 << (bits - 1)), (1 << (bits - 1)) - 1])


def extreme(rng: np.random.Generator, values: NDArray[np.int64], extremes: Sequence[int]) -> NDArray[np.int64]:
    """``values`` with one in eight replaced by one of ``extremes``."""
    return np.where(rng.random(values.shape) < 0.125, rng.choice(extremes, values.shape), values).astype(np.int64)
