"""Stand-in for the released E-SpikeFormer (V3): class name, arguments, tensor names, images without a time axis."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def spike(x: Tensor, norm: int = 4) -> Tensor:
    return sum(((x - i).round() > 0).float() for i in range(4)) / norm  # type: ignore[return-value]


def unit(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Separable(nn.Module):
    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.pwconv1, self.dwconv = unit(dim, 2 * dim), unit(2 * dim, 2 * dim, kernel, 2 * dim)
        self.pwconv2 = unit(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.pwconv2(spike(self.dwconv(spike(self.pwconv1(spike(x))))))


class ConvBlock(nn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.Conv = Separable(dim, 7)
        self.conv1, self.bn1 = nn.Conv2d(dim, ratio * dim, 3, padding=1, bias=False), nn.BatchNorm2d(ratio * dim)
        self.conv2, self.bn2 = nn.Conv2d(ratio * dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.Conv(x)
        return x + self.bn2(self.conv2(spike(self.bn1(self.conv1(spike(x))))))


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_conv, self.k_conv, self.v_conv = unit(dim, dim), unit(dim, dim), unit(dim, 4 * dim)
        self.proj_conv = unit(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        s = spike(x)
        q, k, v = (spike(conv(s)).flatten(2) for conv in (self.q_conv, self.k_conv, self.v_conv))
        scale = 2 * (q.shape[1] // self.heads) ** -0.5
        parts = [c.double() @ b.mT.double() @ a.double() * scale  # channels first: (V K^T) Q
                 for a, b, c in zip(*(y.chunk(self.heads, 1) for y in (q, k, v)), strict=True)]
        y = torch.cat(parts, 1).float()
        return self.proj_conv(spike(y.unflatten(2, x.shape[2:])))


class Perceptron(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_conv, self.fc1_bn = nn.Conv1d(dim, hidden, 1), nn.BatchNorm1d(hidden)
        self.fc2_conv, self.fc2_bn = nn.Conv1d(hidden, dim, 1), nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1_bn(self.fc1_conv(spike(x.flatten(2))))
        return self.fc2_bn(self.fc2_conv(spike(hidden))).reshape(x.shape)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.conv, self.attn, self.mlp = Separable(dim, 3), Attention(dim, heads), Perceptron(dim, ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        for part in (self.conv, self.attn, self.mlp):
            x = x + part(x)
        return x


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, spiking: bool) -> None:
        super().__init__()
        self.spiking = spiking
        self.encode_conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.encode_bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_bn(self.encode_conv(spike(x) if self.spiking else x))


class Spiking_vit_MetaFormer_Spike_SepConv(nn.Module):
    def __init__(
        self, img_size_h: int, img_size_w: int, embed_dim: list[int], num_heads: int, mlp_ratios: int, depths: int,
        num_classes: int, in_channels: int = 3,
    ) -> None:
        super().__init__()
        assert depths == 8
        a, b, c, d = embed_dim
        self.downsample1_1, self.downsample1_2 = Down(in_channels, a // 2, 7, 2, False), Down(a // 2, a, 3, 2, True)
        self.downsample2, self.downsample3, self.downsample4 = (
            Down(a, b, 3, 2, True), Down(b, c, 3, 2, True), Down(c, d, 3, 1, True))
        for name, dim in (("1_1", a // 2), ("1_2", a), ("2_1", b), ("2_2", b)):
            self.add_module(f"ConvBlock{name}", nn.ModuleList([ConvBlock(dim, mlp_ratios)]))
        self.block3 = nn.ModuleList(Block(c, num_heads, mlp_ratios) for _ in range(6))
        self.block4 = nn.ModuleList(Block(d, num_heads, mlp_ratios) for _ in range(2))
        self.head = nn.Linear(d, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        for name in ("downsample1_1", "ConvBlock1_1", "downsample1_2", "ConvBlock1_2", "downsample2", "ConvBlock2_1",
                     "ConvBlock2_2", "downsample3", "block3", "downsample4", "block4"):
            part = self.get_submodule(name)
            for layer in part if isinstance(part, nn.ModuleList) else [part]:
                x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        pixels = math.prod(self.forward_features(x).shape[2:])
        return self.head(spike(self.forward_features(x).sum((2, 3)) / pixels, norm=1))
