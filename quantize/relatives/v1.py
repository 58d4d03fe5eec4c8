"""Spike-Driven Transformer (V1) in plain torch, with the released code's module and parameter names.

::

    x float[T, B, 3, H, W], normalised pixels
      patch_embed   conv 3x3, BN, LIF, max-pool     dim / 8
                    conv 3x3, BN, LIF, max-pool     dim / 4
                    conv 3x3, BN, LIF, max-pool     dim / 2
                    conv 3x3, BN, max-pool  =: e    dim        e + BN(conv 3x3(LIF(e)))
      block x depth x = x + attn(x), x = x + mlp(x)
      head          spatial mean, LIF, linear, mean over T

Attention (SDSA): s = LIF(x); q, k, v = LIF(BN(conv 1x1(s))); g = LIF over time of the sum over a frame's pixels of
k AND v, threshold 0.5, one per channel; result BN(conv 1x1(q AND g)). It works channel by channel, so the number of
heads changes nothing; it is kept because `talking_heads.weight`, which the released forward pass does not use, has its
shape.

The first three max-pools are of spikes, the last one of real values. `v1_folding` has the integer form of all.

Source: arXiv 2307.01694 and the structure of BICLab/Spike-Driven-Transformer (module/sps.py, module/ms_conv.py,
model/spikeformer.py), read for names, shapes and order of operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import per_frame
from ..neurons import LIF, NeuronConfig
from .common import Relative, RelativeConfig, check_positive, from_dict

__all__ = ["SpikeDrivenTransformerV1", "V1Config"]

GATE_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class V1Config(RelativeConfig):
    """Shape of a :class:`SpikeDrivenTransformerV1`. Defaults are those of "8-512" for ImageNet.

    Attributes:
        dim: Channels of the blocks; divisible by 8 and by `heads`.
        depth: Blocks.
        heads: Attention heads, without effect on numbers.
        mlp_ratio: Inner width over width of the MLPs.
        pooling: Which of the four convolutions of `patch_embed` a max-pool of stride 2 follows.
        frames: Time steps; the released code repeats the image.
        neuron: All neurons; the gate's threshold is half of theirs.

    The others are those of :class:`RelativeConfig`.

    Raises:
        ValueError: A field is out of range.
    """

    dim: int = 512
    depth: int = 8
    heads: int = 8
    mlp_ratio: int = 4
    pooling: tuple[bool, bool, bool, bool] = (True, True, True, True)
    frames: int = 4
    neuron: NeuronConfig = field(default_factory=NeuronConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "dim", "depth", "heads", "mlp_ratio")
        if self.dim % 8 or self.dim % self.heads:
            raise ValueError(f"`dim` must be divisible by 8 and by {self.heads} heads, not `{self.dim!r}`")
        if len(self.pooling) != 4:
            raise ValueError(f"`pooling` must be four flags, not `{self.pooling!r}`")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> V1Config:
        """Configuration from :meth:`to_dict`'s values."""
        return from_dict(cls, {**values, "neuron": NeuronConfig(**values.get("neuron", {}))})


class PatchEmbed(nn.Module):
    """Pixels to the membrane stream: ``[T, B, in_channels, H, W] -> [T, B, dim, H', W']``."""

    def __init__(self, config: V1Config) -> None:
        super().__init__()
        self.pooling = config.pooling
        inputs = config.in_channels
        for index, suffix in enumerate(("", "1", "2", "3")):
            width = config.dim >> (3 - index)
            self.add_module(f"proj_conv{suffix}", nn.Conv2d(inputs, width, 3, padding=1, bias=False))
            self.add_module(f"proj_bn{suffix}", nn.BatchNorm2d(width))
            self.add_module(f"proj_lif{suffix}", LIF(config.neuron))
            inputs = width
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.rpe_conv = nn.Conv2d(inputs, inputs, 3, padding=1, bias=False)
        self.rpe_bn = nn.BatchNorm2d(inputs)

    @property
    def branch_norms(self) -> list[nn.Module]:
        """The last batch norm of every branch."""
        return [self.rpe_bn]

    def forward(self, x: Tensor) -> Tensor:
        for pool, suffix in zip(self.pooling, ("", "1", "2", "3"), strict=True):
            conv, norm, lif = (self.get_submodule(f"proj_{name}{suffix}") for name in ("conv", "bn", "lif"))
            x = per_frame(norm, per_frame(conv, x))
            if suffix == "3":  # the last one pools before it fires
                x = per_frame(self.maxpool, x) if pool else x
                return x + per_frame(self.rpe_bn, per_frame(self.rpe_conv, lif(x)))
            x = lif(x)
            x = per_frame(self.maxpool, x) if pool else x
        raise AssertionError("unreachable: four convolutions")


class SDSA(nn.Module):
    """Spike-driven self-attention, see the module docstring; ``[T, B, dim, H, W] -> [T, B, dim, H, W]``."""

    def __init__(self, config: V1Config) -> None:
        super().__init__()
        dim, neuron = config.dim, config.neuron
        self.shortcut_lif = LIF(neuron)
        for name in ("q", "k", "v"):
            self.add_module(f"{name}_conv", nn.Conv2d(dim, dim, 1, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(dim))
            self.add_module(f"{name}_lif", LIF(neuron))
        self.talking_heads = nn.Conv1d(config.heads, config.heads, 1, bias=False).requires_grad_(False)  # not used
        self.talking_heads_lif = LIF(replace(neuron, threshold=neuron.threshold * GATE_THRESHOLD))
        self.proj_conv = nn.Conv2d(dim, dim, 1)
        self.proj_bn = nn.BatchNorm2d(dim)

    def spikes(self, name: str, s: Tensor) -> Tensor:
        """Of `q`, `k` or `v`."""
        conv, norm, lif = (self.get_submodule(f"{name}_{part}") for part in ("conv", "bn", "lif"))
        return lif(per_frame(norm, per_frame(conv, s)))

    def forward(self, x: Tensor) -> Tensor:
        s = self.shortcut_lif(x)
        q, k, v = (self.spikes(name, s) for name in ("q", "k", "v"))
        gate = self.talking_heads_lif((k * v).sum(dim=(3, 4), keepdim=True))
        return per_frame(self.proj_bn, per_frame(self.proj_conv, q * gate))


class MLP(nn.Module):
    """Two 1x1 convolutions with LIF in front of each; the inner sum of the released code if the width stays."""

    def __init__(self, config: V1Config) -> None:
        super().__init__()
        dim, hidden = config.dim, config.mlp_ratio * config.dim
        self.fc1_lif, self.fc2_lif = LIF(config.neuron), LIF(config.neuron)
        self.fc1_conv, self.fc1_bn = nn.Conv2d(dim, hidden, 1), nn.BatchNorm2d(hidden)
        self.fc2_conv, self.fc2_bn = nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """The sum with the shortcut, which starts in the middle if the inner width is the outer one."""
        y = per_frame(self.fc1_bn, per_frame(self.fc1_conv, self.fc1_lif(x)))
        if y.shape == x.shape:
            x = y = x + y
        return x + per_frame(self.fc2_bn, per_frame(self.fc2_conv, self.fc2_lif(y)))


class Block(nn.Module):
    """``x + attn(x)``, then the MLP with its shortcut."""

    def __init__(self, config: V1Config) -> None:
        super().__init__()
        self.attn = SDSA(config)
        self.mlp = MLP(config)

    @property
    def branch_norms(self) -> list[nn.Module]:
        """The last batch norm of every branch."""
        return [self.attn.proj_bn, self.mlp.fc2_bn]

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x + self.attn(x))


class SpikeDrivenTransformerV1(Relative):
    """``forward(x: float[T, B, in_channels, H, W]) -> float[B, classes]``."""

    def __init__(self, config: V1Config) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.block = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_lif = LIF(config.neuron)
        self.head = nn.Linear(config.dim, config.classes)

    def stages(self) -> list[tuple[str, nn.Module]]:
        """Modules up to the head, in the order they run, with their `state_dict` prefixes."""
        return [("patch_embed", self.patch_embed), *((f"block.{i}", block) for i, block in enumerate(self.block))]

    def features(self, x: Tensor) -> Tensor:
        """Membrane stream before the head, ``float[T, B, dim, h, w]``."""
        for _, module in self.stages():
            x = module(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head_lif(torch.mean(self.features(x), dim=(3, 4)))).mean(0)
