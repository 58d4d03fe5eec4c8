"""Random inputs for integer networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.network import Network


def random_clip(network: Network, seed: int) -> NDArray[Any]:
    """An input for `network`: `uint8[T, H, W, 3]` (smooth colours, noise, saturated areas), `bool[T, C, H, W]` or
    `uint8[T, C, H, W]` integer spikes."""
    rng = np.random.default_rng([seed, 0xC11B])
    tensor = network.tensors[network.input]
    t, c, h, w = network.frames, tensor.channels, tensor.height, tensor.width
    if tensor.kind == "integers":
        return rng.integers(0, tensor.levels + 1, (t, c, h, w), dtype=np.uint8)
    if tensor.kind == "spikes":
        return rng.random((t, c, h, w)) < rng.uniform(0.1, 0.7, (1, c, 1, 1))
    y, x = np.linspace(0, 6, h)[:, None, None], np.linspace(0, 6, w)[None, :, None]
    phase = np.arange(t)[:, None, None, None] * 0.4 + rng.uniform(0, 6, c)
    clip = 127 + 170 * np.sin(y + rng.uniform(0.3, 2) * x + phase) + rng.normal(0, 25, (t, h, w, c))
    return clip.clip(0, 255).astype(np.uint8)
