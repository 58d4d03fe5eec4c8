"""Stand-in for the released Spike-Driven Transformer (V1): class name, arguments, tensor names, tuples as results."""

from __future__ import annotations

import torch
from module import Plain, lif
from torch import Tensor, nn


def pooled(x: Tensor) -> Tensor:
    """Largest of 3 x 3, every second pixel."""
    wide = nn.functional.pad(x, (1, 1, 1, 1), value=float("-inf"))
    return torch.stack([wide[..., i:, j:][..., : x.shape[-2], : x.shape[-1]][..., ::2, ::2]
                        for i in range(3) for j in range(3)]).amax(0)


class Patches(Plain):
    def __init__(self, inputs: int, dim: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        widths = [inputs, dim // 8, dim // 4, dim // 2, dim]
        for i, name in enumerate(("proj", "proj1", "proj2", "proj3")):
            self.layer(name, widths[i], widths[i + 1], 3)
        self.layer("rpe", dim, dim, 3)
        self.lifs = nn.ModuleList(lif() for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        for i, name in enumerate(("proj", "proj1", "proj2")):
            x = self.lifs[i](self.apply_layer(name, x))
            x = pooled(x) if self.pooling[i] == "1" else x
        x = self.apply_layer("proj3", x)
        x = pooled(x) if self.pooling[3] == "1" else x
        return x + self.apply_layer("rpe", self.lifs[3](x)), None


class Attention(Plain):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        for name in ("q", "k", "v"):
            self.layer(name, dim, dim)
        self.layer("proj", dim, dim, bias=True)
        self.talking_heads = nn.Conv1d(heads, heads, 1, bias=False)
        self.lifs = nn.ModuleList([lif(), lif(), lif(), lif(), lif(0.5)])

    def forward(self, x: Tensor) -> Tensor:
        s = self.lifs[0](x)
        q, k, v = (self.lifs[1 + i](self.apply_layer(name, s)).flatten(3) for i, name in enumerate("qkv"))
        gate = self.lifs[4](torch.einsum("tbcn,tbcn->tbc", k, v))
        return x + self.apply_layer("proj", torch.einsum("tbcn,tbc->tbcn", q, gate).reshape(x.shape))


class Perceptron(Plain):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_conv, self.fc1_bn = nn.Conv2d(dim, hidden, 1), nn.BatchNorm2d(hidden)
        self.fc2_conv, self.fc2_bn = nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim)
        self.lifs = nn.ModuleList([lif(), lif()])

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.apply_layer("fc1", self.lifs[0](x))
        return x + self.apply_layer("fc2", self.lifs[1](hidden))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(dim, heads), Perceptron(dim, ratio * dim)

    def forward(self, x: Tensor) -> tuple[Tensor, None, None]:
        return self.mlp(self.attn(x)), None, None


class SpikeDrivenTransformer(nn.Module):
    def __init__(
        self, img_size_h: int, img_size_w: int, embed_dims: int, num_heads: int, mlp_ratios: int, depths: int,
        num_classes: int, in_channels: int = 3, pooling_stat: str = "1111", T: int = 4,
    ) -> None:
        super().__init__()
        self.T = T
        self.patch_embed = Patches(in_channels, embed_dims, pooling_stat)
        self.block = nn.ModuleList(Block(embed_dims, num_heads, mlp_ratios) for _ in range(depths))
        self.head_lif, self.head = lif(), nn.Linear(embed_dims, num_classes)

    def forward_features(self, x: Tensor) -> tuple[Tensor, None]:
        x, _ = self.patch_embed(x)
        for block in self.block:
            x, _, _ = block(x)
        return x.flatten(3).mean(3), None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        x, _ = self.forward_features(torch.stack([x] * self.T))
        return self.head(self.head_lif(x)).mean(0), None
