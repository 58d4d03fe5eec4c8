"""Networks of the named shapes with seeded random integers: for whatever depends on shapes alone, above all programs.

The model is built without memory behind it (torch device "meta"), folded and given small random weights, which no
calibration clip has to be at hand for. The program of such a network is that of a quantised one of the same shape.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from spikeloom.bounds import prove_bounds
from spikeloom.network import Network

from .checkpoints.architectures import build_model, named_architecture
from .folding import FloatStage, fold
from .formats import Formats
from .models import SpikeVideoFormerConfig
from .quantizer import build_network
from .relatives import RelativeConfig

__all__ = ["shape_network"]

WEIGHT = 7
"""Largest magnitude of a weight: no accumulator comes near its bound."""


def shape_network(
    model: str | SpikeVideoFormerConfig | RelativeConfig, *, frames: int | None = None, size: int | None = None,
    seed: int = 0, unfused: Collection[str] = (),
) -> Network:
    """The integer network of a configuration with random weights.

    Args:
        model: Configuration, or the name of an architecture (`checkpoints.ARCHITECTURES`).
        frames: T; None: as configured.
        size: Height and width of a frame in pixels; None: as configured.
        seed: Of the weights.
        unfused: Names (`folding.repconvs`) of the RepConvs that stay three convolutions.

    Raises:
        ValueError: No such configuration or RepConv, or `frames` or `size` is not positive.
        NetworkError: The network cannot be represented with so many frames or pixels.
    """
    config: Any = named_architecture(model).config if isinstance(model, str) else model
    for key, value in (("frames", frames), ("size", size)):
        if value is not None and value < 1:
            raise ValueError(f"`{key}` must be at least 1, not `{value!r}`")
    height, width = (config.height, config.width) if size is None else (size, size)
    rng = np.random.default_rng(seed)
    with torch.device("meta"):
        stages = fold(build_model(config).eval(), unfused=unfused)
    stages = [_filled(stage, rng) for stage in stages]
    network = build_network(stages, _formats(stages), (frames or config.frames, height, width))
    network.metadata |= {"origin": "spikeloom.quantize.shapes", "model": config.to_dict(), "seed": seed}
    network.check()
    prove_bounds(network)
    return network


def _filled(stage: FloatStage, rng: np.random.Generator) -> FloatStage:
    """Small integers for weights, zeros and ones for other tensors without data."""
    weight = None
    if stage.weight is not None:
        weight = torch.from_numpy(rng.integers(-WEIGHT, WEIGHT + 1, tuple(stage.weight.shape), dtype=np.int8))
    return replace(
        stage, weight=weight,
        bias=None if stage.bias is None else torch.zeros(stage.bias.shape, dtype=torch.float64, device="cpu"),
        scale=None if stage.scale is None else torch.ones(stage.scale.shape, dtype=torch.float64, device="cpu"),
        pad=None if stage.pad is None else torch.zeros(3, dtype=torch.float64, device="cpu"))


def _formats(stages: list[FloatStage]) -> Formats:
    """Steps of 1 everywhere, which nothing is measured for."""
    scales = {stage.name: np.ones(stage.channels) for stage in stages if stage.weight is not None}
    planes = {stage.outputs["planes"]: 0 for stage in stages if stage.mode == "planes"}
    return Formats(scales=scales, fractions=planes | {stage.name: 0 for stage in stages if stage.mode == "residual"})
