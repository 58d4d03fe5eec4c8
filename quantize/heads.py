"""Heads of SpikeVideoFormer: what is made of the membrane streams at the ends of the four stages.

==========  ==========================================================  ==================================
head        computes                                                    output of the model
==========  ==========================================================  ==================================
``class``   spatial mean, LIF, linear, mean over frames                 ``float[B, classes]``
``pose``    spatial mean, LIF, linear                                   ``float[T, B, classes]``
``segment`` feature pyramid, see :class:`Pyramid`                       ``float[T, B, classes, h, w]``
==========  ==========================================================  ==================================

``classes`` is the number of outputs: twice the number of joints for ``pose``, in the order x, y, x, y, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .layers import conv, per_frame
from .neurons import LIF, NeuronConfig

__all__ = ["HEADS", "LEVELS", "Pyramid", "check_pyramid", "enlarge", "enlarge_to"]

HEADS = ("class", "pose", "segment")

LEVELS = ("ConvBlock1_2", "ConvBlock2_2", "block3", "block4")
"""Modules of SpikeVideoFormer whose results a pyramid reads, finest first."""


def check_pyramid(size: tuple[int, int], levels: Sequence[tuple[int, int]]) -> None:
    """ValueError unless every level (height, width) is the next one or twice it, and divides the frame's `size`."""
    steps = [(fine[0] / coarse[0], fine[1] / coarse[1]) for fine, coarse in pairwise(levels)]
    if any(step not in ((1, 1), (2, 2)) for step in steps):
        raise ValueError(f"`strides` must make stages that are equal or halve for head `segment`, not `{levels!r}`")
    if size[0] % levels[0][0] or size[0] * levels[0][1] != size[1] * levels[0][0]:
        raise ValueError(f"`height` and `width` must be a multiple of the finest stage's {levels[0]!r}, not `{size!r}`")


class Pyramid(nn.Module):
    """Feature pyramid with spikes between its layers, after Lin et al., arXiv 1612.03144.

    ::

        stage 4 -> LIF -> 1x1, BN ---------------+          levels p4 .. p1, each `width` channels wide
                                                 |  x2 nearest, where the sizes differ
        stage 3 -> LIF -> 1x1, BN ------------- (+)
        ...
        stage 1 -> LIF -> 1x1, BN ------------- (+) -> LIF -> 3x3, BN -> LIF -> 1x1 -> logits

    ``forward([float[T, B, widths[i], h_i, w_i] for i in 0..3]) -> float[T, B, classes, h_0, w_0]``.

    Parameters
    ----------
    widths : sequence of int
        Channels of the stages, finest first.
    width : int
        Channels of every level.
    classes : int
        Logits per pixel.
    neuron : NeuronConfig
        All neurons.
    """

    def __init__(self, widths: Sequence[int], *, width: int, classes: int, neuron: NeuronConfig) -> None:
        super().__init__()
        self.lif = LIF(neuron)
        self.laterals = nn.ModuleList(nn.Sequential(conv(w, width), nn.BatchNorm2d(width)) for w in widths)
        self.smooth = nn.Sequential(conv(width, width, 3), nn.BatchNorm2d(width))
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        level: Tensor | None = None
        for stage, lateral in zip(reversed(stages), reversed(self.laterals), strict=True):
            spread = per_frame(lateral, self.lif(stage))
            level = spread if level is None else spread + _matched(level, spread)
        assert level is not None
        smooth = per_frame(self.smooth, self.lif(level))
        return per_frame(self.classify, self.lif(smooth))


def _matched(level: Tensor, like: Tensor) -> Tensor:
    """`level` [T, B, C, h, w] enlarged by nearest neighbour to the size of `like`, once or twice its own."""
    if level.shape[-2:] == like.shape[-2:]:
        return level
    return enlarge(level, 2)


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Nearest neighbour: ``[..., h, w] -> [..., factor * h, factor * w]``."""
    return enlarge_to(x, factor * x.shape[-2], factor * x.shape[-1])


def enlarge_to(x: Tensor, height: int, width: int) -> Tensor:
    """The same to a size that is a multiple of ``x``'s."""
    return x.repeat_interleave(width // x.shape[-1], -1).repeat_interleave(height // x.shape[-2], -2)
