"""E-SpikeFormer (V3) -> a folded float network, see `spikeloom.quantize.folding`.

Integer spikes are 0..levels here, those of the model 0..1 (but in front of the head): weights behind them are that much
smaller, and attention, a product of three, by levels**3. Halves round to even, so thresholds are

    spike i = 1, 3, ..   x >  (i - 1/2) step
    spike i = 2, 4, ..   x >= (i - 1/2) step

Ties are no rarity: 2 / sqrt(d) is a power of two for heads of 4, 16 or 64 channels, attention then counts in exact
fractions of a step; and every second step of a residual stream's half is a number of it.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from spikeloom.network import NetworkError

from ..folding import FloatStage, Folder, conv_norm, fold
from ..neurons import NeuronConfig
from .v3 import MLP, Block, ConvBlock, DownSampling, ESpikeFormer, LinearAttention, SepConv

__all__ = ["fold_v3"]


@fold.register
def fold_v3(
    model: ESpikeFormer, *, unfused: Collection[str] = (), differentiable: bool = False
) -> list[FloatStage]:
    """`folding.fold` of an E-SpikeFormer.

    Raises:
        TypeError: `unfused` names something: a V3 has no RepConvs.
        NetworkError: Its spikes are not integers of 2 levels or more.
    """
    if unfused:
        raise TypeError("an E-SpikeFormer has no RepConvs to choose from")
    if model.config.levels < 2:
        raise NetworkError(f"operator downsample1_1: integer spikes need 2 levels or more, not {model.config.levels}")
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        return _FolderV3(model).run()


class _FolderV3(Folder):
    """Walks the modules of an E-SpikeFormer."""

    def __init__(self, model: ESpikeFormer) -> None:
        super().__init__(NeuronConfig(leak="memoryless", levels=model.config.levels, ties="even"))
        self.model = model

    def run(self) -> list[FloatStage]:
        """Stages in execution order."""
        config = self.model.config
        for name, module in self.model.stages():
            if isinstance(module, DownSampling):
                self.new_stream(
                    name, module.encode_conv, module.encode_bn, mean=config.pixel_mean, std=config.pixel_std)
            elif isinstance(module, ConvBlock):
                self.conv_block(name, module)
            else:
                assert isinstance(module, Block)
                self.block(name, module)
        self.pool_last(self.neuron)
        self.largest[self.spikes] = 1  # the head reads 0..levels
        self.conv("head", self.spikes, conv_norm(self.model.head), mode="logits")
        return self.finish()

    def conv_block(self, name: str, module: ConvBlock) -> None:
        self.separable(f"{name}.Conv", module.Conv)
        hidden = self.spiking(f"{name}.conv1", self.spikes, conv_norm(module.conv1, module.bn1))
        self.onto_stream(f"{name}.conv2", hidden, conv_norm(module.conv2, module.bn2))

    def separable(self, name: str, module: SepConv) -> None:
        hidden = self.spiking(f"{name}.pwconv1", self.spikes, conv_norm(*module.pwconv1))
        hidden = self.depthwise(
            f"{name}.dwconv", hidden, conv_norm(*module.dwconv), mode="direct", neuron=self.neuron)
        self.onto_stream(f"{name}.pwconv2", hidden, conv_norm(*module.pwconv2))

    def block(self, name: str, module: Block) -> None:
        self.separable(f"{name}.conv", module.conv)
        self.attention(f"{name}.attn", module.attn)
        self.mlp(f"{name}.mlp", module.mlp)

    def attention(self, name: str, module: LinearAttention) -> None:
        """K^T V of every frame; the result is as wide as V, the last of the three."""
        query, key, value = (
            self.spiking(f"{name}.{part}_conv", self.spikes, conv_norm(*_modules(module, f"{part}_conv")))
            for part in ("q", "k", "v"))
        scale = torch.full((self.stages[-1].channels,), module.scale / self.neuron.levels ** 3, dtype=torch.float64)
        common: dict[str, object] = {"heads": module.heads, "per_frame": True, "levels": self.neuron.levels}
        matrix = self.add(f"{name}.kv", "keyvalue", (key, value), **common)
        attended = self.add(
            f"{name}.attend", "attend", (query, matrix), scale=scale, bias=torch.zeros_like(scale), neuron=self.neuron,
            **common)
        self.onto_stream(f"{name}.proj_conv", attended, conv_norm(*module.proj_conv))

    def mlp(self, name: str, module: MLP) -> None:
        hidden = self.spiking(f"{name}.fc1", self.spikes, conv_norm(module.fc1_conv, module.fc1_bn))
        self.onto_stream(f"{name}.fc2", hidden, conv_norm(module.fc2_conv, module.fc2_bn))

    def spiking(self, name: str, source: str, weights: tuple[Tensor, Tensor]) -> str:
        """A convolution with a neuron behind it."""
        return self.conv(name, source, weights, neuron=self.neuron)


def _modules(module: nn.Module, name: str) -> nn.Sequential:
    sequence = module.get_submodule(name)
    assert isinstance(sequence, nn.Sequential)
    return sequence
