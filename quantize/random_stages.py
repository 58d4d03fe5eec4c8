"""Arrays of the neuron stages of random networks: shifts, thresholds and biases by which their neurons live."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikeloom.arithmetic import RESIDUAL_BITS, SHIFT_MAX, SHIFT_MIN
from spikeloom.bounds import CURRENT_BITS
from spikeloom.network import Neuron

from .reference import neuron_stage

MAXIMUM_SHIFT = 8
"""Of what a maximum is taken of: every accumulator is a residual then."""



def stage_arrays(
    rng: np.random.Generator, stage: Neuron, accumulator: Tensor, largest: int, shortcut: Tensor | None, *,
    maximum: bool = False,
) -> dict[str, Tensor]:
    """Draw shift, negate and threshold of a stage and search its bias; the arrays by name.

    Args:
        accumulator: What the stage is given for one clip.
        largest: Its largest magnitude for any clip.
        shortcut: Values for that clip, if the stage has one.
        maximum: Values must be no less than the least residual.
    """
    channels, reach = accumulator.shape[2], max(largest, 1)
    arrays: dict[str, Tensor] = {}
    if stage.negate is not None:
        arrays[stage.negate] = torch.from_numpy(rng.integers(0, 2, channels))
    spread = _moments(accumulator)[1].clip(min=0.5)
    if stage.shift is not None:
        shifts = _shifts(rng, spread, stage.planes is not None)
        if maximum:
            least = max(SHIFT_MIN, reach.bit_length() + 2 - RESIDUAL_BITS)
            shifts = shifts.clip(least, max(least, MAXIMUM_SHIFT))
        arrays[stage.shift] = torch.from_numpy(shifts)
        spread = spread / 2.0 ** arrays[stage.shift].numpy()
    if stage.threshold is not None:
        most = 1 << (CURRENT_BITS - 2) if stage.mode == "direct" else 1 << (RESIDUAL_BITS - 2)
        arrays[stage.threshold] = torch.from_numpy(_thresholds(rng, spread, most))
        if stage.levels > 1:
            arrays[stage.threshold] = steps(arrays[stage.threshold], stage.levels)
    room = min(reach if maximum else 1 << CURRENT_BITS, (1 << (CURRENT_BITS - 1)) - 1 - largest)
    arrays[stage.bias] = _biases(rng, stage, arrays, accumulator, shortcut, room)
    return arrays


def steps(step: Tensor, levels: int) -> Tensor:
    """Thresholds int64[levels, C] of integer spikes that rise by `step` int64[C]: (i - 1/2) steps, rounded up."""
    rising = (2 * torch.arange(1, levels + 1)[:, None] - 1) * step
    return ((rising + 1) >> 1).clamp(max=(1 << 27) - 1)


def _moments(accumulator: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation per channel, from exact sums: the same on every machine."""
    count = accumulator.numel() // accumulator.shape[2]
    total, squares = (x.sum(dim=(0, 1, 3, 4)).numpy() / count for x in (accumulator, accumulator * accumulator))
    return total, np.sqrt((squares - total * total).clip(min=0))


def _shifts(rng: np.random.Generator, spread: NDArray[np.float64], planes: bool) -> NDArray[np.int64]:
    """Shifts that bring `spread` to a drawn size; a tenth of the channels anywhere in the legal range."""
    wanted = rng.uniform(3, 6) if planes else rng.uniform(4, 12)
    shift = np.round(np.log2(spread) - wanted + rng.uniform(-1, 1, spread.shape))
    wild = rng.integers(SHIFT_MIN, SHIFT_MAX + 1, spread.shape)
    shift = np.where(rng.random(spread.shape) < 0.1, wild, shift)
    return shift.clip(SHIFT_MIN, SHIFT_MAX).astype(np.int64)


def _thresholds(rng: np.random.Generator, spread: NDArray[np.float64], reach: int) -> NDArray[np.int64]:
    """Thresholds in [1, 2**27): 1, powers of two near the spread, any near the spread, or huge.

    Huge ones are within `reach` of the input current, save for one in ten.
    """
    style = rng.choice(("one", "power", "any", "huge"), p=(0.15, 0.35, 0.35, 0.15))
    near = spread * 2.0 ** rng.uniform(-1, 2, spread.shape)
    if style == "one":
        near = np.ones(spread.shape)
    elif style == "power":
        near = 2.0 ** np.round(np.log2(near))
    elif style == "huge":
        wild = rng.random(spread.shape) < 0.1
        near = np.where(wild, 2.0 ** rng.uniform(18, 27, spread.shape), reach * rng.uniform(0.1, 1))
    near = np.where(near > reach, near if style == "huge" else reach, near)
    return near.round().clip(1, (1 << 27) - 1).astype(np.int64)


def _biases(
    rng: np.random.Generator, stage: Neuron, arrays: Mapping[str, Tensor], accumulator: Tensor,
    shortcut: Tensor | None, room: int,
) -> Tensor:
    """Biases of magnitude up to `room`; with spikes, by bisection towards a rate drawn per channel."""
    channels = accumulator.shape[2]
    low = torch.full((channels,), -room)
    high = -low
    if stage.spikes is None:
        centre = -torch.from_numpy(_moments(accumulator)[0])
        noise = torch.from_numpy(rng.normal(0, 0.5, channels)) * centre.abs().clamp(min=1)
        return torch.minimum(torch.maximum((centre + noise).round().to(torch.int64), low), high)
    target = stage.levels * torch.from_numpy(rng.uniform(0.1, 0.6, channels))
    free = torch.from_numpy(rng.random(channels) < 0.05)
    anywhere = torch.from_numpy(rng.integers(-(1 << 16), 1 << 16, channels))

    def rate(bias: Tensor) -> Tensor:
        made = neuron_stage(stage, {**arrays, stage.bias: bias}, accumulator, shortcut)
        return made[str(stage.spikes)].to(torch.float64).mean(dim=(0, 1, 3, 4))

    while bool((high - low > 1).any()):
        middle = (low + high) >> 1
        above = rate(middle) >= target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    best = torch.where((rate(low) - target).abs() < (rate(high) - target).abs(), low, high)
    return torch.where(free, anywhere.clamp(-room, room), best)
