"""Networks of the named shapes with seeded random integers: for whatever depends on shapes alone, above all programs.

The model is built without memory behind it (torch device "meta"), folded and given small random weights, which no
calibration clip has to be at hand for. The program of such a network is that of a quantised one of the same shape.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from spikeloom.bounds import prove_bounds
from spikeloom.network import Network

from .folding import FloatStage, fold
from .models import SpikeVideoFormer, named_config
from .quantizer import Step, _Quantizer

__all__ = ["shape_network"]

WEIGHT = 7
"""Largest magnitude of a weight: no accumulator comes near its bound."""


def shape_network(name: str, *, frames: int | None = None, size: int | None = None, seed: int = 0) -> Network:
    """The integer network of a named configuration with random weights.

    Args:
        name: In `models.CONFIGS`.
        frames: T; None: as configured.
        size: Height and width of a frame in pixels; None: as configured.
        seed: Of the weights.

    Raises:
        ValueError: No such configuration, or `frames` or `size` is not positive.
        NetworkError: The network cannot be represented with so many frames or pixels.
    """
    config = named_config(name)
    for key, value in (("frames", frames), ("size", size)):
        if value is not None and value < 1:
            raise ValueError(f"`{key}` must be at least 1, not `{value!r}`")
    height, width = (config.height, config.width) if size is None else (size, size)
    with torch.device("meta"):
        stages = fold(SpikeVideoFormer(config).eval())
    network = _Shapes([_filled(stage) for stage in stages], frames or config.frames, height, width, seed).run()
    network.metadata = {"origin": "spikeloom.quantize.shapes", "model": config.to_dict(), "seed": seed}
    network.check()
    prove_bounds(network)
    return network


def _filled(stage: FloatStage) -> FloatStage:
    """Zeros and ones instead of tensors without data; weights keep nothing but their shape."""
    return replace(
        stage, bias=None if stage.bias is None else torch.zeros(stage.bias.shape, dtype=torch.float64, device="cpu"),
        scale=None if stage.scale is None else torch.ones(stage.scale.shape, dtype=torch.float64, device="cpu"),
        pad=None if stage.pad is None else torch.zeros(3, dtype=torch.float64, device="cpu"))


class _Shapes(_Quantizer):
    """The quantiser with steps that nothing is measured for."""

    def __init__(self, stages: list[FloatStage], frames: int, height: int, width: int, seed: int) -> None:
        clips = torch.empty((1, frames, height, width, 3), dtype=torch.uint8, device="meta")
        super().__init__(stages, {}, {}, clips, bias_correction=False)
        self._rng = np.random.default_rng(seed)

    def choose(self, stage: FloatStage) -> None:
        assert stage.weight is not None
        shape = tuple(stage.weight.shape)
        weight = self._rng.integers(-WEIGHT, WEIGHT + 1, shape, dtype=np.int8)
        self.steps[stage.name] = Step(weight=weight, scale=np.ones(shape[0]), residue=np.zeros(shape[:2]))
        if stage.mode == "planes":
            self.fractions[stage.outputs["planes"]] = 0

    def choose_streams(self) -> None:
        self.fractions |= {stage.name: 0 for stage in self.stages if stage.mode == "residual"}
