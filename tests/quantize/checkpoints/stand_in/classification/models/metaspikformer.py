"""Stand-in for the released SpikeVideoFormer: its class name, arguments and tensor names, written for the tests.

The arithmetic is done in other ways than ours where it can be: heads one by one, (Q K^T) V instead of Q (K^T V), the
border of RepConv by concatenation.
"""

from __future__ import annotations

import torch
from spikingjelly.clock_driven.neuron import MultiStepLIFNode
from torch import Tensor, nn


def lif(threshold: float = 1.0) -> MultiStepLIFNode:
    return MultiStepLIFNode(tau=2.0, v_threshold=threshold, detach_reset=True, backend="cupy")


def over_frames(part: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([part(frame) for frame in x])


class Border(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        value = self.bn(torch.zeros_like(x[:1, :, :1, :1]))
        side = value.expand(len(y), -1, y.shape[2], 1)
        y = torch.cat([side, y, side], 3)
        edge = value.expand(len(y), -1, 1, y.shape[3])
        return torch.cat([edge, y, edge], 2)


class RepConv(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        tail = nn.Sequential(
            nn.Conv2d(dim, dim, 3, groups=dim, bias=False), nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim))
        self.body = nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), Border(dim), tail)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Separable(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lif1, self.lif2 = lif(), lif()
        self.pwconv1, self.bn1 = nn.Conv2d(dim, 2 * dim, 1, bias=False), nn.BatchNorm2d(2 * dim)
        self.dwconv = nn.Conv2d(2 * dim, 2 * dim, 7, padding=3, groups=2 * dim, bias=False)
        self.pwconv2, self.bn2 = nn.Conv2d(2 * dim, dim, 1, bias=False), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.lif2(over_frames(nn.Sequential(self.pwconv1, self.bn1), self.lif1(x)))
        return over_frames(nn.Sequential(self.dwconv, self.pwconv2, self.bn2), hidden)


class ConvBlock(nn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.Conv = Separable(dim)
        self.lif1, self.lif2 = lif(), lif()
        self.conv1, self.bn1 = nn.Conv2d(dim, ratio * dim, 3, padding=1, bias=False), nn.BatchNorm2d(ratio * dim)
        self.conv2, self.bn2 = nn.Conv2d(ratio * dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.Conv(x)
        hidden = over_frames(nn.Sequential(self.conv1, self.bn1), self.lif1(x))
        return x + over_frames(nn.Sequential(self.conv2, self.bn2), self.lif2(hidden))


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, mode: str) -> None:
        super().__init__()
        self.heads, self.mode = heads, mode
        self.head_lif = lif()
        for name in ("q", "k", "v", "proj"):
            self.add_module(f"{name}_conv", nn.Sequential(RepConv(dim), nn.BatchNorm2d(dim)))
            self.add_module(f"{name}_lif", lif())
        self.attn_lif = lif(1.0 if mode == "3D_ham" else 0.5)
        if mode == "3D_ham":
            self.attn_bn = nn.BatchNorm2d(dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[N, C] each."""
        parts = []
        for one, two, three in zip(*(x.chunk(self.heads, 1) for x in (q, k, v)), strict=True):
            if self.mode == "3D_ham":
                parts.append((2 * one - 1) @ (2 * two - 1).T @ three / (2 * q.shape[1]))
            else:
                parts.append(one @ two.T @ three * 0.125)
        return torch.cat(parts, 1)

    def forward(self, x: Tensor) -> Tensor:
        t, b, c, h, w = x.shape
        s = self.head_lif(x)
        made = [getattr(self, f"{n}_lif")(over_frames(self.get_submodule(f"{n}_conv"), s)) for n in ("q", "k", "v")]
        q, k, v = (part.permute(1, 0, 3, 4, 2) for part in made)
        spans = [slice(None)] if self.mode.startswith("3D") else [slice(i, i + 1) for i in range(t)]
        clips = []
        for i in range(b):
            tokens = [self.attend(*(part[i, span].reshape(-1, c) for part in (q, k, v))) for span in spans]
            clips.append(torch.cat(tokens).reshape(t, h, w, c))
        y = torch.stack(clips, 1).permute(0, 1, 4, 2, 3)
        if self.mode == "3D_ham":
            y = over_frames(self.get_submodule("attn_bn"), y)
        return over_frames(self.get_submodule("proj_conv"), self.attn_lif(y))


class Perceptron(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_conv, self.fc1_bn, self.fc1_lif = nn.Conv1d(dim, hidden, 1), nn.BatchNorm1d(hidden), lif()
        self.fc2_conv, self.fc2_bn, self.fc2_lif = nn.Conv1d(hidden, dim, 1), nn.BatchNorm1d(dim), lif()

    def forward(self, x: Tensor) -> Tensor:
        hidden = over_frames(nn.Sequential(self.fc1_conv, self.fc1_bn), self.fc1_lif(x.flatten(3)))
        return over_frames(nn.Sequential(self.fc2_conv, self.fc2_bn), self.fc2_lif(hidden)).reshape(x.shape)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, ratio: int, mode: str) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(dim, heads, mode), Perceptron(dim, ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, spiking: bool) -> None:
        super().__init__()
        self.encode_conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.encode_bn = nn.BatchNorm2d(outputs)
        self.encode_lif = lif() if spiking else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return over_frames(nn.Sequential(self.encode_conv, self.encode_bn), self.encode_lif(x))


class Spiking_vit_MetaFormer(nn.Module):
    def __init__(
        self, img_size_h: int, img_size_w: int, embed_dim: list[int], num_heads: list[int], mlp_ratios: list[int],
        depths: list[int], num_classes: int, in_channels: int = 3, kd: bool = False, att_mode: str = "2D",
    ) -> None:
        super().__init__()
        assert len(depths) == 4
        a, b, c, d = embed_dim
        self.T, self.membrane_head = 1, False
        self.downsample1_1 = Down(in_channels, a // 2, 7, 2, False)
        self.ConvBlock1_1 = nn.ModuleList([ConvBlock(a // 2, mlp_ratios[0])])
        self.downsample1_2 = Down(a // 2, a, 3, 2, True)
        self.ConvBlock1_2 = nn.ModuleList([ConvBlock(a, mlp_ratios[0])])
        self.downsample2 = Down(a, b, 3, 2, True)
        self.ConvBlock2_1 = nn.ModuleList([ConvBlock(b, mlp_ratios[1])])
        self.ConvBlock2_2 = nn.ModuleList([ConvBlock(b, mlp_ratios[1])])
        self.downsample3 = Down(b, c, 3, 2, True)
        self.block3 = nn.ModuleList(Block(c, num_heads[2], mlp_ratios[2], att_mode) for _ in range(6))
        self.downsample4 = Down(c, d, 3, 1, True)
        self.block4 = nn.ModuleList(Block(d, num_heads[3], mlp_ratios[3], att_mode) for _ in range(2))
        self.lif = lif()
        self.head = nn.Linear(d, num_classes)
        if kd:
            self.head_kd = nn.Linear(d, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        for part in self.children():
            if part is self.lif:
                break
            for layer in part if isinstance(part, nn.ModuleList) else [part]:
                x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(torch.stack([x] * self.T)).mean((3, 4))
        spikes = self.lif(x)
        y = self.head(x if self.membrane_head else spikes).mean(0)
        return (y + self.head_kd(spikes).mean(0)) / 2 if hasattr(self, "head_kd") else y


def _small(**changed: object) -> Spiking_vit_MetaFormer:
    sizes = {"embed_dim": [8, 8, 16, 16], "num_heads": [2] * 4, "mlp_ratios": [4] * 4, "depths": [8] * 4}
    return Spiking_vit_MetaFormer(32, 32, num_classes=5, **{**sizes, "att_mode": "3D_ham", **changed})  # type: ignore[arg-type]


def small() -> Spiking_vit_MetaFormer:
    """As the test's network."""
    return _small()


def membrane_head() -> Spiking_vit_MetaFormer:
    """The head reads real values, as in Meta-SpikeFormer's first release."""
    model = _small()
    model.membrane_head = True
    return model


def other_threshold() -> Spiking_vit_MetaFormer:
    """One neuron in the last block is another."""
    model = _small()
    model.block4[1].attn.attn_lif = lif(0.5)
    return model
