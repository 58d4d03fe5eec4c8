"""E-SpikeFormer (Spike-Driven Transformer V3, its models up to 19M) in plain torch, with the released names.

::

    x float[T, B, 3, H, W], normalised pixels; nothing is carried from frame to frame
      downsample1_1, ConvBlock1_1, downsample1_2, ConvBlock1_2, downsample2, ConvBlock2_1, ConvBlock2_2
      downsample3, block3 x 6, downsample4, block4 x 2       as SpikeVideoFormer, with other blocks
      head          spatial mean, S without division, linear, mean over T

Neuron: S(x) = round(clamp(x, 0, 4)) / 4, halves to even, without membrane. SepConv has a batch norm and an S after
the depthwise convolution as well. Block: x = x + SepConv3x3(x), x = x + attn(x), x = x + mlp(x). Attention: q, k of
width D, v of 4 D, all BN(conv 1x1), then S; per frame and head (Q K^T) V * 2 / sqrt(d), S, BN(conv 1x1 of 4 D).

On the machine: `v3_folding`.

Source: arXiv 2411.16061 and the structure of Spike-Driven-Transformer-V3 (SDT_V3/Classification/Model_Base/models.py),
read for names, shapes and order of operations. The large models of that repository (Model_Large) are built otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..layers import per_frame
from ..neurons import integer_spikes
from .common import Relative, RelativeConfig, check_positive, from_dict

__all__ = ["ESpikeFormer", "IntegerSpike", "V3Config"]


@dataclass(frozen=True, kw_only=True)
class V3Config(RelativeConfig):
    """Shape of an :class:`ESpikeFormer`. Defaults are those of the 19M network.

    Attributes:
        widths: Channels of the four stages; the stem has half of the first.
        depths: Blocks in stages 3 and 4.
        heads: Attention heads; divides the last two widths.
        mlp_ratio, conv_ratio, sep_ratio, value_ratio: Inner width over width of MLPs, 3x3 pairs, separable
            convolutions, and of V.
        stem_kernel, sep_kernel, block_kernel: Kernels of the first convolution, of the depthwise ones of convolutional
            blocks, and of those of transformer blocks.
        strides: Of downsample1_1, 1_2, 2, 3, 4.
        levels: Largest integer spike.

    The others are those of :class:`RelativeConfig`.

    Raises:
        ValueError: A field is out of range.
    """

    widths: tuple[int, int, int, int] = (64, 128, 256, 360)
    depths: tuple[int, int] = (6, 2)
    heads: int = 8
    mlp_ratio: int = 4
    conv_ratio: int = 4
    sep_ratio: int = 2
    value_ratio: int = 4
    stem_kernel: int = 7
    sep_kernel: int = 7
    block_kernel: int = 3
    strides: tuple[int, int, int, int, int] = (2, 2, 2, 2, 1)
    levels: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self, "heads", "mlp_ratio", "conv_ratio", "sep_ratio", "value_ratio", "stem_kernel", "sep_kernel",
            "block_kernel", "levels")
        if len(self.widths) != 4 or self.widths[0] % 2 or any(w % self.heads for w in self.widths[2:]):
            raise ValueError(
                f"`widths` must be four, the first even, the last two divisible by {self.heads} heads, not "
                f"`{self.widths!r}`")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> V3Config:
        """Configuration from :meth:`to_dict`'s values."""
        return from_dict(cls, values)


class IntegerSpike(nn.Module):
    """``round(clamp(x, 0, levels)) / norm``, halves to even; the gradient is that of the clamp."""

    def __init__(self, levels: int, norm: int | None = None) -> None:
        super().__init__()
        self.levels, self.norm = levels, norm or levels

    def forward(self, x: Tensor) -> Tensor:
        return integer_spikes(x, self.levels, "even") / self.norm


def conv_norm(inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1) -> nn.Sequential:
    """Convolution of the same size without bias, then batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class SepConv(nn.Module):
    """S, 1x1, S, depthwise, S, 1x1, a batch norm behind every convolution; on ``[N, C, H, W]``."""

    def __init__(self, dim: int, config: V3Config, kernel: int) -> None:
        super().__init__()
        inner = config.sep_ratio * dim
        self.spike = IntegerSpike(config.levels)
        self.pwconv1 = conv_norm(dim, inner)
        self.dwconv = conv_norm(inner, inner, kernel, groups=inner)
        self.pwconv2 = conv_norm(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.pwconv1, self.dwconv, self.pwconv2):
            x = conv(self.spike(x))
        return x


class ConvBlock(nn.Module):
    """``x = x + SepConv(x)``, then two 3x3 convolutions with their shortcut; on ``[N, C, H, W]``."""

    def __init__(self, dim: int, config: V3Config) -> None:
        super().__init__()
        inner = config.conv_ratio * dim
        self.Conv = SepConv(dim, config, config.sep_kernel)
        self.spike = IntegerSpike(config.levels)
        self.conv1 = nn.Conv2d(dim, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)

    @property
    def branch_norms(self) -> list[nn.Module]:
        """The last batch norm of every branch."""
        return [self.Conv.pwconv2[1], self.bn2]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.Conv(x)
        y = self.bn1(self.conv1(self.spike(x)))
        return x + self.bn2(self.conv2(self.spike(y)))


class LinearAttention(nn.Module):
    """See the module docstring; on ``[N, C, H, W]``."""

    def __init__(self, dim: int, config: V3Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = 2 / math.sqrt(dim // config.heads)
        wide = config.value_ratio * dim
        self.spike = IntegerSpike(config.levels)
        self.q_conv, self.k_conv, self.v_conv = conv_norm(dim, dim), conv_norm(dim, dim), conv_norm(dim, wide)
        self.proj_conv = conv_norm(wide, dim)

    def tokens(self, x: Tensor) -> Tensor:
        """``[N, C, H, W] -> [N, heads, H * W, C / heads]``."""
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        s = self.spike(x)
        q, k, v = (self.tokens(self.spike(conv(s))) for conv in (self.q_conv, self.k_conv, self.v_conv))
        y = (q @ k.transpose(2, 3)) @ v * self.scale
        y = y.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])
        return self.proj_conv(self.spike(y))


class MLP(nn.Module):
    """S, 1x1, S, 1x1 as 1-d convolutions with bias, a batch norm behind each; on ``[N, C, H, W]``."""

    def __init__(self, dim: int, config: V3Config) -> None:
        super().__init__()
        inner = config.mlp_ratio * dim
        self.spike = IntegerSpike(config.levels)
        self.fc1_conv, self.fc1_bn = nn.Conv1d(dim, inner, 1), nn.BatchNorm1d(inner)
        self.fc2_conv, self.fc2_bn = nn.Conv1d(inner, dim, 1), nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc1_bn(self.fc1_conv(self.spike(x.flatten(2))))
        return self.fc2_bn(self.fc2_conv(self.spike(y))).unflatten(2, x.shape[2:])


class Block(nn.Module):
    """Transformer block; on ``[N, C, H, W]``."""

    def __init__(self, dim: int, config: V3Config) -> None:
        super().__init__()
        self.conv = SepConv(dim, config, config.block_kernel)
        self.attn = LinearAttention(dim, config)
        self.mlp = MLP(dim, config)

    @property
    def branch_norms(self) -> list[nn.Module]:
        """The last batch norm of every branch."""
        return [self.conv.pwconv2[1], self.attn.proj_conv[1], self.mlp.fc2_bn]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv(x)
        x = x + self.attn(x)
        return x + self.mlp(x)


class DownSampling(nn.Module):
    """Strided convolution and batch norm, S in front unless it takes pixels; on ``[N, C, H, W]``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, spike: IntegerSpike | None) -> None:
        super().__init__()
        self.encode_spike = spike
        self.encode_conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        self.encode_bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_bn(self.encode_conv(x if self.encode_spike is None else self.encode_spike(x)))


class ESpikeFormer(Relative):
    """``forward(x: float[T, B, in_channels, H, W]) -> float[B, classes]``, the mean over frames."""

    def __init__(self, config: V3Config) -> None:
        super().__init__()
        self.config = config
        w1, w2, w3, w4 = config.widths
        widths = (config.in_channels, w1 // 2, w1, w2, w3, w4)
        for index, name in enumerate(("1_1", "1_2", "2", "3", "4")):
            kernel, spike = (3, IntegerSpike(config.levels)) if index else (config.stem_kernel, None)
            stage = DownSampling(widths[index], widths[index + 1], kernel, config.strides[index], spike)
            self.add_module(f"downsample{name}", stage)
        for name, dim in (("1_1", w1 // 2), ("1_2", w1), ("2_1", w2), ("2_2", w2)):
            self.add_module(f"ConvBlock{name}", nn.ModuleList([ConvBlock(dim, config)]))
        self.block3 = nn.ModuleList(Block(w3, config) for _ in range(config.depths[0]))
        self.block4 = nn.ModuleList(Block(w4, config) for _ in range(config.depths[1]))
        self.spike = IntegerSpike(config.levels, norm=1)
        self.head = nn.Linear(w4, config.classes)

    def stages(self) -> list[tuple[str, nn.Module]]:
        """Modules up to the head, in the order they run, with their `state_dict` prefixes."""
        order = ("downsample1_1", "ConvBlock1_1", "downsample1_2", "ConvBlock1_2", "downsample2", "ConvBlock2_1",
                 "ConvBlock2_2", "downsample3", "block3", "downsample4", "block4")
        found: list[tuple[str, nn.Module]] = []
        for name in order:
            module = self.get_submodule(name)
            lists = isinstance(module, nn.ModuleList)
            found += [(f"{name}.{i}", child) for i, child in enumerate(module)] if lists else [(name, module)]
        return found

    def features(self, x: Tensor) -> Tensor:
        """Real-valued stream before the head, ``float[T, B, widths[3], h, w]``."""
        for _, module in self.stages():
            x = per_frame(module, x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.spike(self.features(x).mean(dim=(3, 4)))).mean(0)
