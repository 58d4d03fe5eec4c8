"""SpikeDrivenTransformerV1 -> a folded float network.

Max-pool of spikes is OR: a convolution of each channel with ones, and a memoryless neuron of threshold 1. The last one,
of real values, stays a maximum behind its convolution. With spikes as 0 and 1, the gated attention of a block is::

    kv     k + v >= 2                       depthwise 1x1 of v on top of one of k, a memoryless neuron of threshold 2
    gate   LIF over time of sum(kv)         over a frame's pixels, threshold 0.5
    gated  q + gate >= 2                    likewise, the gate's 1x1 map in every pixel

All of it is exact, also in integers.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from spikeloom.network import NetworkError

from ..folding import PIXELS, FloatStage, Folder, conv_norm, fold, fold_pixels
from ..neurons import LIF, NeuronConfig
from .v1 import MLP, SDSA, Block, PatchEmbed, SpikeDrivenTransformerV1

__all__ = ["fold_v1"]

OR = NeuronConfig(leak="memoryless", threshold=1.0)
AND = NeuronConfig(leak="memoryless", threshold=2.0)


@fold.register
def fold_v1(
    model: SpikeDrivenTransformerV1, *, unfused: Collection[str] = (), differentiable: bool = False
) -> list[FloatStage]:
    """`fold` of a V1.

    Raises:
        TypeError: `unfused` names something: a V1 has no RepConvs.
        NetworkError: Its neurons fire integer spikes, on which AND and OR are not defined.
    """
    if unfused:
        raise TypeError("a Spike-Driven Transformer V1 has no RepConvs to choose from")
    if model.config.neuron.levels > 1:
        raise NetworkError("operator block.0.attn: gates are AND of binary spikes, not of integer spikes of "
                           f"{model.config.neuron.levels} levels")
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        return _Folder(model).run()


class _Folder(Folder):
    """Walks the modules."""

    def __init__(self, model: SpikeDrivenTransformerV1) -> None:
        super().__init__(model.config.neuron)
        self.model = model

    def run(self) -> list[FloatStage]:
        self.patch_embed(self.model.patch_embed)
        for index, block in enumerate(self.model.block):
            assert isinstance(block, Block)
            self.attention(f"block.{index}.attn", block.attn)
            self.mlp(f"block.{index}.mlp", block.mlp)
        self.pool_last(_config(self.model.head_lif))
        self.conv("head", self.spikes, conv_norm(self.model.head), mode="logits")
        return self.finish()

    def patch_embed(self, module: PatchEmbed) -> None:
        size, stride, padding = module.maxpool.kernel_size, module.maxpool.stride, module.maxpool.padding
        assert isinstance(size, int)
        assert isinstance(stride, int)
        assert isinstance(padding, int)
        window = size, stride, padding
        for pool, suffix in zip(module.pooling, ("", "1", "2", "3"), strict=True):
            conv, norm = (module.get_submodule(f"proj_{part}{suffix}") for part in ("conv", "bn"))
            name, weights = f"patch_embed.proj_conv{suffix}", conv_norm(conv, norm)
            if suffix == "3":
                self.onto_stream(name, self.spikes, weights, window=window if pool else None)
                break
            self.spikes = self.first(name, weights) if self.spikes == PIXELS else self.conv(
                name, self.spikes, weights, neuron=self.neuron)
            if pool:
                self.spikes = self.maximum(f"patch_embed.maxpool{suffix}", self.spikes, len(weights[1]), *window)
        self.onto_stream("patch_embed.rpe_conv", self.spikes, conv_norm(module.rpe_conv, module.rpe_bn))

    def first(self, name: str, weights: tuple[Tensor, Tensor]) -> str:
        """Spikes of the convolution of pixels."""
        config = self.model.config
        weight, bias, pad = fold_pixels(*weights, config.pixel_mean, config.pixel_std)
        return self.conv(name, PIXELS, (weight, bias), pad=pad, neuron=self.neuron)

    def maximum(self, name: str, source: str, channels: int, size: int, stride: int, padding: int) -> str:
        """OR of the spikes in a window."""
        weight = torch.eye(channels, dtype=torch.float64)[:, :, None, None].expand(-1, -1, size, size)
        return self.conv(name, source, (weight, torch.zeros(channels, dtype=torch.float64)), stride=stride,
                         padding=padding, neuron=OR)

    def attention(self, name: str, module: SDSA) -> None:
        def spikes(part: str) -> str:
            conv, norm, lif = (module.get_submodule(f"{part}_{kind}") for kind in ("conv", "bn", "lif"))
            return self.conv(f"{name}.{part}_conv", self.spikes, conv_norm(conv, norm), neuron=_config(lif))

        query, key, value = (spikes(part) for part in "qkv")
        channels = len(module.proj_bn.weight)
        both = self.copy(f"{name}.kv", value, channels, neuron=AND, shortcut=self.kept(f"{name}.k", key, channels))
        gate = self.copy(
            f"{name}.gate", both, channels, neuron=_config(module.talking_heads_lif), pool=True, total=True)
        small = self.kept(f"{name}.gate_map", gate, channels)
        wide = self.add(f"{name}.gate_wide", "upsample", (small, query), mode="residual", keep=True)
        gated = self.copy(f"{name}.gated", query, channels, neuron=AND, shortcut=wide)
        self.onto_stream(f"{name}.proj_conv", gated, conv_norm(module.proj_conv, module.proj_bn))

    def copy(self, name: str, source: str, channels: int, **fields: object) -> str:
        """Spikes as reals."""
        weight = torch.ones(channels, 1, 1, 1, dtype=torch.float64)
        zero = torch.zeros(channels, dtype=torch.float64)
        return self.depthwise(name, source, (weight, zero), mode="residual", **fields)

    def kept(self, name: str, source: str, channels: int) -> str:
        """Spikes as a residual tensor."""
        return self.copy(name, source, channels, keep=True)

    def mlp(self, name: str, module: MLP) -> None:
        weights = conv_norm(module.fc1_conv, module.fc1_bn)
        if module.fc1_conv.out_channels == module.fc1_conv.in_channels:  # the released code adds the inner sum as well
            self.onto_stream(f"{name}.fc1_conv", self.spikes, weights)
            hidden = self.spikes
        else:
            hidden = self.conv(f"{name}.fc1_conv", self.spikes, weights, neuron=_config(module.fc2_lif))
        self.onto_stream(f"{name}.fc2_conv", hidden, conv_norm(module.fc2_conv, module.fc2_bn))


def _config(lif: object) -> NeuronConfig:
    assert isinstance(lif, LIF)
    return lif.config
