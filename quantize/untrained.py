"""Full-size networks without a checkpoint: seeded random weights whose neurons fire at realistic rates.

For measuring cycles and checking bits where no trained weights exist. The batch norms take their statistics from a real
clip, so that activity neither dies out nor saturates; what the network computes means nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from .checkpoints.architectures import build_model
from .inference import to_input
from .models import SpikeVideoFormer, SpikeVideoFormerConfig
from .relatives import Relative, RelativeConfig
from .training.optimiser import initialise

__all__ = ["settle", "untrained"]


@torch.no_grad()
def untrained(
    config: SpikeVideoFormerConfig | RelativeConfig, clip: NDArray[np.uint8], *, seed: int = 0
) -> SpikeVideoFormer | Relative:
    """A network of the class that goes with `config`, random weights, norm statistics measured on `clip`
    (uint8[T, H, W, 3]).

    Raises:
        ValueError: The clip does not fit the configuration.
    """
    torch.manual_seed(seed)
    model = build_model(config)
    initialise(model)
    settle(model, clip)
    return model


@torch.no_grad()
def settle(model: SpikeVideoFormer | Relative, clip: NDArray[np.uint8]) -> None:
    """Give all norms the statistics of `clip` (uint8[T, H, W, 3]), and leave the network in evaluation mode.

    Raises:
        ValueError: The clip does not fit the configuration.
    """
    config = model.config
    shape = (config.frames, config.height, config.width, 3)
    if clip.shape != shape:
        raise ValueError(f"`clip` must have the shape {shape}, not `{clip.shape}`")
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            norm.momentum = None  # plain average: the statistics are those of the clip
            norm.reset_running_stats()
    model.train()
    model(to_input(model, clip[None]))
    model.eval()
