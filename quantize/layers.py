"""Building blocks of SpikeVideoFormer, with the released code's module and parameter names.

All blocks map ``float[T, B, C, H, W]`` to ``float[T, B, C', H', W']``: a real-valued residual ("membrane")
stream. Each branch starts with a LIF, so convolutions see spikes, except the stem (pixels) and the
second half of :class:`SepConv` (real values between depthwise and pointwise convolution).

Source: SpikeVideoFormer (arXiv 2505.10352), skeleton of Meta-SpikeFormer (arXiv 2404.03663). Written
from the description of the released network; the names are those of its ``state_dict``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .neurons import LIF, NeuronConfig

__all__ = [
    "ATTENTIONS",
    "DESIGNS",
    "MSMLP",
    "SCOPES",
    "Attention",
    "BNAndPadLayer",
    "DownSampling",
    "FactorisedAttention",
    "MSAttention",
    "MSBlock",
    "MSConvBlock",
    "RepConv",
    "SepConv",
    "dot_attention",
    "hamming_attention",
]

ATTENTIONS = ("hamming", "dot", "hamming/2C", "hamming/8")
"""Similarity of queries and keys, and what stands between the attention's sums and its neuron, C = channels:

    hamming      1/2C, then batch norm (released network)
    dot          1/8; threshold 0.5 (released)
    hamming/2C   1/2C alone (ablation: batch norm takes a factor out again, so without it the factor sets the threshold)
    hamming/8    1/8 alone (ablation)
"""

SCOPES = ("clip", "frame", "pixel")
"""Tokens that attend to each other: all of the clip, those of a frame, those of a pixel (from frame to frame)."""

DESIGNS = ("joint", "spatial", "neuron", "hierarchical", "factorised")
"""Where attention looks in space and time; D = channels:

    joint         one module over all tokens of the clip (released network), 4 D^2 parameters
    neuron        one module, within each frame: only membrane potentials carry time
    spatial       the same, and every neuron memoryless
    hierarchical  one module within each frame, then one from frame to frame within each pixel, 8 D^2
    factorised    queries, keys and values for both, their spikes added in front of one projection, 7 D^2

The released code has joint, and attention within each frame as a mode of the dot product. The others follow the
descriptions and parameter counts of the paper's ablation; what those leave open is inferred: that hierarchical is
spatial first, each module with a shortcut of its own; that factorised adds behind the neurons; that all scales
(1/2C, 1/8) are those of the joint attention.
"""

DOT_DIVISOR = 8
DOT_THRESHOLD = 0.5


def per_frame(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2-d module to every frame: ``[T, B, C, H, W] -> [T, B, C', H', W']``."""
    y = module(x.flatten(0, 1))
    return y.unflatten(0, x.shape[:2])


def conv(inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1) -> nn.Conv2d:
    """Convolution without bias, stride 1, same-size padding (odd kernel)."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


class DownSampling(nn.Module):
    """``BN(conv(LIF(x)))``; the first one (``spiking=False``) takes pixels and has no LIF.

    ``[T, B, inputs, H, W] -> [T, B, outputs, ceil(H / stride), ceil(W / stride)]`` (odd kernel).
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, spiking: bool, neuron: NeuronConfig
    ) -> None:
        super().__init__()
        self.encode_lif = LIF(neuron) if spiking else None
        self.encode_conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        self.encode_bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.encode_lif is not None:
            x = self.encode_lif(x)
        y = self.encode_bn(self.encode_conv(x.flatten(0, 1)))
        return y.unflatten(0, x.shape[:2])


class SepConv(nn.Module):
    """Separable convolution ``BN(pw2(dw(LIF(BN(pw1(LIF(x)))))))``, width ``ratio * dim`` inside.

    Nothing stands between ``dwconv`` and ``pwconv2``: ``pwconv2`` reads real values.
    """

    def __init__(self, dim: int, *, ratio: int = 2, kernel: int = 7, neuron: NeuronConfig) -> None:
        super().__init__()
        inner = ratio * dim
        self.lif1 = LIF(neuron)
        self.pwconv1 = conv(dim, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.lif2 = LIF(neuron)
        self.dwconv = conv(inner, inner, kernel, groups=inner)
        self.pwconv2 = conv(inner, dim)
        self.bn2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[:2]
        y = self.bn1(self.pwconv1(self.lif1(x).flatten(0, 1)))
        y = self.lif2(y.unflatten(0, shape)).flatten(0, 1)
        y = self.bn2(self.pwconv2(self.dwconv(y)))
        return y.unflatten(0, shape)


class MSConvBlock(nn.Module):
    """Convolutional block of stages 1 and 2.

    ``x = x + SepConv(x)``, then ``x = x + BN(conv3x3(LIF(BN(conv3x3(LIF(x))))))`` of width
    ``dim -> ratio * dim -> dim``.
    """

    def __init__(
        self, dim: int, *, ratio: int = 4, sep_ratio: int = 2, sep_kernel: int = 7, neuron: NeuronConfig
    ) -> None:
        super().__init__()
        self.Conv = SepConv(dim, ratio=sep_ratio, kernel=sep_kernel, neuron=neuron)
        self.lif1 = LIF(neuron)
        self.conv1 = conv(dim, ratio * dim, 3)
        self.bn1 = nn.BatchNorm2d(ratio * dim)
        self.lif2 = LIF(neuron)
        self.conv2 = conv(ratio * dim, dim, 3)
        self.bn2 = nn.BatchNorm2d(dim)

    @property
    def branch_norms(self) -> list[nn.Module]:
        """The last batch norm of every branch."""
        return [self.Conv.bn2, self.bn2]

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[:2]
        x = x + self.Conv(x)
        y = self.bn1(self.conv1(self.lif1(x).flatten(0, 1)))
        y = self.lif2(y.unflatten(0, shape)).flatten(0, 1)
        return x + self.bn2(self.conv2(y)).unflatten(0, shape)


class BNAndPadLayer(nn.Module):
    """Batch norm, then a border holding what batch norm makes of 0: ``beta - mean * gamma / std``.

    Equals padding the input with zeros and normalising, with the statistics taken without the border, so
    that :class:`RepConv` fuses exactly into one zero-padded 3x3 convolution.
    ``[N, C, H, W] -> [N, C, H + 2 pad, W + 2 pad]``; no gradient through the border.
    """

    def __init__(self, channels: int, pad: int = 1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.pad = pad

    def border(self) -> Tensor:
        """Batch norm of 0 from the running statistics, ``float[C]``."""
        bn = self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        return bn.bias.detach() - bn.running_mean * bn.weight.detach() / torch.sqrt(bn.running_var + bn.eps)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        p = self.pad
        interior = F.pad(torch.ones_like(y[:1, :1]), (p, p, p, p))
        return F.pad(y, (p, p, p, p)) + (1 - interior) * self.border().view(1, -1, 1, 1)


class RepConv(nn.Module):
    """Re-parameterised convolution: 1x1, BN + border, depthwise 3x3, 1x1, BN; linear at inference.

    ``[N, C, H, W] -> [N, C, H, W]``; ``N`` counts frames of all clips.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(dim, dim, 3, groups=dim, bias=False)
        tail = nn.Sequential(depthwise, conv(dim, dim), nn.BatchNorm2d(dim))
        self.body = nn.Sequential(conv(dim, dim), BNAndPadLayer(dim), tail)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def hamming_attention(q: Tensor, k: Tensor, v: Tensor, *, divisor: int) -> Tensor:
    """Spike-driven Hamming attention, ``(2Q-1) ((2K-1)^T V) / divisor``.

    Spikes ``float[..., N, d]`` with values in {0, 1}, or of I-LIF {0, 1 / levels, .., 1}, and ``N`` tokens; result of
    the same shape. The released code's divisor is 2 C with the full width C, not the head's. The constant 1/2 of the
    paper's similarity is dropped, as there; the batch norm that follows absorbs it.
    """
    return (2 * q - 1) @ ((2 * k - 1).transpose(-2, -1) @ v) / divisor


def dot_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Spike-driven dot-product attention, ``Q (K^T V) / 8``; shapes of :func:`hamming_attention`."""
    return q @ (k.transpose(-2, -1) @ v) / DOT_DIVISOR


class Attention(nn.Module):
    """Queries, keys, values and the attention's own neuron: spikes to spikes, ``[T, B, C, H, W]`` both.

    ``q, k, v = LIF(conv(s))``; ``y = attention(q, k, v)``; Hamming: ``LIF(BN(y))``, dot: ``LIF(y)`` with
    threshold 0.5.

    Parameters
    ----------
    dim, heads : int
        Channels and heads; head ``h`` owns channels ``h * dim / heads ...`` consecutively.
    attention : str
        One of :data:`ATTENTIONS`.
    neuron : NeuronConfig
        All neurons; the threshold of the dot product's own neuron is halved.
    scope : str
        What attends to each other, see :data:`SCOPES`.
    """

    def __init__(self, dim: int, *, heads: int, attention: str, neuron: NeuronConfig, scope: str = "clip") -> None:
        super().__init__()
        if scope not in SCOPES:
            raise ValueError(f"`scope` must be one of {', '.join(SCOPES)}, not `{scope!r}`")
        self.dim, self.heads, self.attention, self.scope = dim, heads, attention, scope
        for name in ("q", "k", "v"):
            self.add_module(f"{name}_conv", nn.Sequential(RepConv(dim), nn.BatchNorm2d(dim)))
            self.add_module(f"{name}_lif", LIF(neuron))
        self.bipolar = attention != "dot"
        self.divisor = 2 * dim if attention in ("hamming", "hamming/2C") else DOT_DIVISOR
        self.attn_bn = nn.BatchNorm2d(dim) if attention == "hamming" else None
        factor = 1.0 if self.bipolar else DOT_THRESHOLD
        self.attn_lif = LIF(replace(neuron, threshold=neuron.threshold * factor))

    def project(self, name: str, spikes: Tensor) -> Tensor:
        """Spikes of ``"q"``, ``"k"`` or ``"v"``: ``[T, B, C, H, W] -> [T, B, C, H, W]``."""
        return self.get_submodule(f"{name}_lif")(per_frame(self.get_submodule(f"{name}_conv"), spikes))

    def tokens(self, x: Tensor) -> Tensor:
        """``[T, B, C, H, W]`` to ``[B, heads, N, C / heads]`` with N = T*H*W tokens (scope clip),
        ``[B, heads, T, N, C / heads]`` with N = H*W (frame), ``[B, heads, H*W, N, C / heads]`` with N = T (pixel)."""
        t, b, _, h, w = x.shape
        x = x.reshape(t, b, self.heads, self.dim // self.heads, h * w)
        if self.scope == "pixel":
            return x.permute(1, 2, 4, 0, 3)
        x = x.permute(1, 2, 0, 4, 3)
        return x.flatten(2, 3) if self.scope == "clip" else x

    def frames(self, y: Tensor, shape: torch.Size) -> Tensor:
        """Inverse of :meth:`tokens` for the given ``[T, B, C, H, W]`` shape."""
        t, b, _, h, w = shape
        if self.scope == "pixel":
            return y.permute(3, 0, 1, 4, 2).reshape(shape)
        y = y.reshape(b, self.heads, t, h * w, self.dim // self.heads)
        return y.permute(2, 0, 1, 4, 3).reshape(shape)

    def attend(self, spikes: Tensor) -> Tensor:
        """Spikes of the attention's neuron."""
        q, k, v = (self.tokens(self.project(name, spikes)) for name in ("q", "k", "v"))
        y = hamming_attention(q, k, v, divisor=self.divisor) if self.bipolar else dot_attention(q, k, v)
        y = self.frames(y, spikes.shape)
        return self.attn_lif(y if self.attn_bn is None else per_frame(self.attn_bn, y))


class MSAttention(Attention):
    """``proj(attend(LIF(x)))``: one attention module of the residual stream; parameters as :class:`Attention`.

    Scope ``"clip"`` is the joint space-time attention of the released network, over all ``T * H * W`` tokens and linear
    in their number.
    """

    def __init__(self, dim: int, *, heads: int, attention: str, neuron: NeuronConfig, scope: str = "clip") -> None:
        super().__init__(dim, heads=heads, attention=attention, neuron=neuron, scope=scope)
        self.head_lif = LIF(neuron)
        self.proj_conv = nn.Sequential(RepConv(dim), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        return per_frame(self.proj_conv, self.attend(self.head_lif(x)))


class FactorisedAttention(nn.Module):
    """``proj(space(s) + time(s))``, ``s = LIF(x)``: attention within each frame and within each pixel.

    Both have queries, keys, values and a neuron of their own; the spikes of both neurons are added (0, 1 or 2) in
    front of one projection.
    """

    def __init__(self, dim: int, *, heads: int, attention: str, neuron: NeuronConfig) -> None:
        super().__init__()
        self.head_lif = LIF(neuron)
        self.space = Attention(dim, heads=heads, attention=attention, neuron=neuron, scope="frame")
        self.time = Attention(dim, heads=heads, attention=attention, neuron=neuron, scope="pixel")
        self.proj_conv = nn.Sequential(RepConv(dim), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.head_lif(x)
        return per_frame(self.proj_conv, self.space.attend(spikes) + self.time.attend(spikes))


class MSMLP(nn.Module):
    """``BN(fc2(LIF(BN(fc1(LIF(x))))))``, width ``ratio * dim`` inside; linear layers as 1-d convolutions."""

    def __init__(self, dim: int, *, ratio: int, neuron: NeuronConfig) -> None:
        super().__init__()
        self.fc1_lif = LIF(neuron)
        self.fc1_conv = nn.Conv1d(dim, ratio * dim, 1)
        self.fc1_bn = nn.BatchNorm1d(ratio * dim)
        self.fc2_lif = LIF(neuron)
        self.fc2_conv = nn.Conv1d(ratio * dim, dim, 1)
        self.fc2_bn = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[:2]
        y = self.fc1_lif(x.flatten(3)).flatten(0, 1)
        y = self.fc1_bn(self.fc1_conv(y)).unflatten(0, steps)
        y = self.fc2_bn(self.fc2_conv(self.fc2_lif(y).flatten(0, 1)))
        return y.reshape(x.shape)


class MSBlock(nn.Module):
    """Transformer block of stages 3 and 4: ``x = x + attn(x)``, then ``x = x + mlp(x)``.

    ``design``: of :data:`DESIGNS`; ``"hierarchical"`` has a second module in between, ``x = x + attn_time(x)``.
    """

    def __init__(
        self, dim: int, *, heads: int, mlp_ratio: int = 4, attention: str = "hamming", design: str = "joint",
        neuron: NeuronConfig
    ) -> None:
        super().__init__()
        self.attn: MSAttention | FactorisedAttention
        self.attn_time: MSAttention | None = None
        if design == "factorised":
            self.attn = FactorisedAttention(dim, heads=heads, attention=attention, neuron=neuron)
        else:
            scope = "clip" if design == "joint" else "frame"
            self.attn = MSAttention(dim, heads=heads, attention=attention, neuron=neuron, scope=scope)
        if design == "hierarchical":
            self.attn_time = MSAttention(dim, heads=heads, attention=attention, neuron=neuron, scope="pixel")
        self.mlp = MSMLP(dim, ratio=mlp_ratio, neuron=neuron)

    @property
    def branch_norms(self) -> list[nn.Module]:
        """The last batch norm of every branch."""
        attentions = [part for part in (self.attn, self.attn_time) if part is not None]
        return [*(part.proj_conv[1] for part in attentions), self.mlp.fc2_bn]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        if self.attn_time is not None:
            x = x + self.attn_time(x)
        return x + self.mlp(x)
