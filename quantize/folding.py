"""SpikeVideoFormer -> a folded float network: the graph of the integer network with real numbers in it.

Batch norm disappears into weights and biases, pixels enter as codes 0..255 (mean and deviation folded into the stem),
and RepConv becomes one dense 3x3 convolution. Everything is float64, so the folded network is the same function as
the model in evaluation mode; `tests/quantize/test_quantizer.py` holds it against the model.

Batch norm of y:  g y + (beta - g mean),  g = gamma / sqrt(var + eps).

RepConv, with A, b1 = 1x1 and its batch norm, K = depthwise 3x3, (W, b) = 1x1 with both batch norms behind it:

    fused     F[o, i, y, x] = sum_m W[o, m] K[m, y, x] A[m, i],   bias  b + W (b1 * sum K)
    unfused   conv A -> planes, depthwise K -> planes, conv W with bias  b + W (b1 * sum K)

The border around the depthwise convolution holds the batch norm of zero, which is b1: so b1 adds b1 * sum K in every
pixel, border or not, and zero padding of what is left is exact in both forms.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor, nn

from .heads import LEVELS, Pyramid
from .layers import (
    MSMLP,
    Attention,
    DownSampling,
    FactorisedAttention,
    MSAttention,
    MSBlock,
    MSConvBlock,
    RepConv,
    SepConv,
)
from .models import SpikeVideoFormer, SpikeVideoFormerConfig
from .neurons import NeuronConfig

PIXELS = "pixels"
"""Name of the input tensor."""

OUTPUT: dict[str, object] = {"mode": "residual", "keep": True}
"""Fields of a last stage whose values are the network's output, per frame."""


@dataclass(frozen=True, kw_only=True)
class FloatStage:
    """One operator with its neuron stage, in real numbers.

    `value = scale * accumulator + bias` where the accumulator is a convolution of `inputs[0]` with `weight`, or the
    product of query `inputs[0]` and K^T V `inputs[1]`, or (`temporal`) the attention from frame to frame of
    `inputs` = (query, key, value); a `keyvalue` makes K^T V of `inputs` = (key, value), an `upsample` enlarges the
    residual tensor `inputs[0]` by nearest neighbour, twice or, from 1x1, to the size of `inputs[1]`. Integer spikes are
    0..levels here, where those of the model are 0..1: the weights behind them are that much smaller.

    Attributes:
        name: Module path, which is the name of the integer operator too.
        kind: conv, depthwise, keyvalue, attend, temporal or upsample.
        inputs: Tensor names.
        weight: float64[Co, Ci, k, k]; of pixels, per code.
        bias: float64[C].
        scale: float64[C], attend and temporal only.
        pad: float64[3] codes around pixels.
        heads, bipolar: Of keyvalue, attend and temporal.
        levels: Of the spikes that keyvalue, attend and temporal read.
        per_frame: Of keyvalue and attend: K^T V is one of each frame.
        mode: direct, residual, planes or logits.
        neuron: What fires on the value, None if nothing does.
        shortcut: Residual tensor that is added.
        pool: The neuron sees the spatial mean, with `total` the sum.
        window: (size, stride, padding) of a max-pool of the convolution, whose padding does not count; None: none.
        keep: The residual value is an output as well.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    weight: Tensor | None = None
    bias: Tensor | None = None
    scale: Tensor | None = None
    pad: Tensor | None = None
    stride: int = 1
    padding: int = 0
    heads: int = 1
    bipolar: bool = False
    levels: int = 1
    per_frame: bool = False
    mode: str = "direct"
    neuron: NeuronConfig | None = None
    shortcut: str | None = None
    pool: bool = False
    total: bool = False
    window: tuple[int, int, int] | None = None
    keep: bool = False

    @property
    def outputs(self) -> dict[str, str]:
        """Kind -> name of every tensor made."""
        if self.kind == "keyvalue":
            return {"keyvalue": f"{self.name}.keyvalue"}
        made = {"spikes": self.neuron is not None, "residual": self.keep, "planes": self.mode == "planes",
                "logits": self.mode == "logits"}
        return {kind: f"{self.name}.{kind}" for kind, yes in made.items() if yes}

    @property
    def channels(self) -> int:
        """Channels of the accumulator."""
        assert self.bias is not None
        return len(self.bias)


@singledispatch
def fold(model: nn.Module, *, unfused: Collection[str] = (), differentiable: bool = False) -> list[FloatStage]:
    """The stages of `model` in evaluation mode, in execution order; the input tensor is `PIXELS`.

    Relatives of SpikeVideoFormer register a function for their class (`spikeloom.quantize.relatives`).

    Args:
        model: A network of a class that has an integer form.
        unfused: Names (`repconvs`) of the RepConvs that stay three convolutions; all others become one.
        differentiable: Weights, biases and scales are functions of the model's parameters to autograd, else constants.

    Raises:
        TypeError: Networks of that class have no integer form, or no RepConvs to choose from.
        ValueError: `unfused` names something else.
        NetworkError: The network cannot be represented.
    """
    raise TypeError(f"`model` must be a network with an integer form, not `{type(model).__name__}`")


@fold.register
def fold_spikevideoformer(
    model: SpikeVideoFormer, *, unfused: Collection[str] = (), differentiable: bool = False
) -> list[FloatStage]:
    """`fold` of a SpikeVideoFormer."""
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        folder = _Folder(model, unfused)
        stages = folder.run()
    unknown = sorted(set(unfused) - set(folder.repconvs))
    if unknown:
        raise ValueError(f"`unfused` must name RepConvs, of which the network has {', '.join(folder.repconvs)}; "
                         f"not `{unknown[0]}`")
    return stages


def repconvs(config: SpikeVideoFormerConfig) -> tuple[str, ...]:
    """Names of the RepConvs in execution order, which are those of the convolutions that they become when fused."""
    with torch.device("meta"), torch.no_grad():
        folder = _Folder(SpikeVideoFormer(config).eval(), ())
        folder.run()
    return tuple(folder.repconvs)


def batch_norm(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """(g, shift) float64[C] of a batch norm in evaluation mode: `g * y + shift`."""
    assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    g = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return g, norm.bias.double() - g * norm.running_mean.double()


def conv_norm(conv: nn.Module, *norms: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight float64[Co, Ci, k, k] and bias float64[Co] of a convolution with the batch norms behind it."""
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Linear))
    weight = conv.weight.double()
    weight = weight.reshape(*weight.shape, *(1,) * (4 - weight.dim()))
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()
    for norm in norms:
        g, shift = batch_norm(norm)
        weight, bias = weight * g.view(-1, 1, 1, 1), bias * g + shift
    return weight, bias


@dataclass(frozen=True, kw_only=True)
class FoldedRepConv:
    """A RepConv and the batch norm behind it: `first` 1x1, `depthwise` 3x3, `last` 1x1, one `bias` at the end."""

    first: Tensor
    depthwise: Tensor
    last: Tensor
    bias: Tensor

    def fused(self) -> Tensor:
        """The dense 3x3 weight of all three."""
        return torch.einsum("om,myx,mi->oiyx", self.last[:, :, 0, 0], self.depthwise[:, 0], self.first[:, :, 0, 0])


def fold_repconv(module: RepConv, outer: nn.Module) -> FoldedRepConv:
    """See the module docstring. `outer` is the batch norm behind the RepConv."""
    first_conv, first_norm, tail = module.body
    assert isinstance(tail, nn.Sequential)
    first, border = conv_norm(first_conv, first_norm.get_submodule("bn"))
    depthwise, _ = conv_norm(tail[0])
    last, bias = conv_norm(tail[1], tail[2], outer)
    return FoldedRepConv(
        first=first, depthwise=depthwise, last=last, bias=bias + last[:, :, 0, 0] @ (border * depthwise.sum((1, 2, 3))))


def fold_pixels(weight: Tensor, bias: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Stem weight per code, bias at code 0, and the codes of the mean colour, which normalise to 0.

    From `x = (code / 255 - mean) / std`.
    """
    colour = 255 * weight.new_tensor(mean)
    weight = weight / (255 * weight.new_tensor(std)).view(1, -1, 1, 1)
    return weight, bias - weight.sum((2, 3)) @ colour, colour


class Folder:
    """Appends stages; `spikes` and `residual` are the tensors that the next module reads.

    `neuron`: what fires on the residual stream. `largest`: of tensors of integer spikes, what 1.0 of the model is.
    """

    def __init__(self, neuron: NeuronConfig) -> None:
        self.neuron = neuron
        self.stages: list[FloatStage] = []
        self.spikes = PIXELS
        self.residual: str | None = None
        self.largest: dict[str, int] = {}

    def add(self, name: str, kind: str, inputs: tuple[str, ...], **fields: object) -> str:
        """Append a stage; returns the name of what it makes beside the residual."""
        stage = FloatStage(name=name, kind=kind, inputs=inputs, **fields)  # type: ignore[arg-type]
        self.stages.append(stage)
        made = stage.outputs
        if stage.neuron is not None:
            self.largest[made["spikes"]] = stage.neuron.levels
        return next((name for kind, name in made.items() if kind != "residual"), f"{name}.residual")

    def conv(self, name: str, source: str, weights: tuple[Tensor, Tensor], **fields: object) -> str:
        """A convolution, of the same size unless `fields` say otherwise; what it makes."""
        weight, bias = weights
        fields = {"padding": weight.shape[2] // 2, **fields}
        return self.add(name, "conv", (source,), weight=weight / self.largest.get(source, 1), bias=bias, **fields)

    def onto_stream(self, name: str, source: str, weights: tuple[Tensor, Tensor], **fields: object) -> None:
        """A convolution whose result is added to the residual stream, and the neuron that reads the sum."""
        fields = {"mode": "residual", "keep": True, "neuron": self.neuron, **fields}
        self.spikes = self.conv(name, source, weights, shortcut=self.residual, **fields)
        self.residual = f"{name}.residual"

    def new_stream(
        self, name: str, convolution: nn.Conv2d, norm: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        """A convolution whose result is a residual stream of its own; `mean`, `std` of pixels, if it is of pixels."""
        weights, pad = conv_norm(convolution, norm), None
        if self.spikes == PIXELS:
            *folded, pad = fold_pixels(*weights, mean, std)
            weights = (folded[0], folded[1])
        self.residual = None
        self.onto_stream(name, self.spikes, weights, pad=pad, stride=convolution.stride[0])

    def depthwise(self, name: str, source: str, weights: tuple[Tensor, Tensor], **fields: object) -> str:
        """A depthwise convolution, to planes unless `fields` say otherwise; what it makes."""
        weight, bias = weights
        fields = {"mode": "planes", "padding": weight.shape[2] // 2, **fields}
        return self.add(name, "depthwise", (source,), weight=weight / self.largest.get(source, 1), bias=bias, **fields)

    def pool_last(self, neuron: NeuronConfig) -> None:
        """Let the last stage onto the stream sum over space as well, and `neuron` fire on the mean."""
        last = self.stages[-1]
        self.stages[-1] = replace(last, pool=True, keep=False, neuron=neuron)
        self.largest[last.outputs["spikes"]] = neuron.levels

    def finish(self) -> list[FloatStage]:
        """The stages, without residual tensors that nobody reads."""
        read = {name for stage in self.stages for name in (stage.shortcut, *stage.inputs)}
        read.add(f"{self.stages[-1].name}.residual")
        return [replace(s, keep=s.keep and f"{s.name}.residual" in read) for s in self.stages]


class _Folder(Folder):
    """Walks the modules of a SpikeVideoFormer."""

    def __init__(self, model: SpikeVideoFormer, unfused: Collection[str]) -> None:
        super().__init__(model.config.neuron)
        self.model, self.unfused = model, unfused
        self.repconvs: list[str] = []
        self.device = next(model.parameters()).device
        self.levels: dict[str, str] = {}  # module -> spikes of the stream at its end

    def run(self) -> list[FloatStage]:
        config = self.model.config
        for name, module in self.model.stages():
            if isinstance(module, DownSampling):
                self.new_stream(
                    name, module.encode_conv, module.encode_bn, mean=config.pixel_mean, std=config.pixel_std)
            elif isinstance(module, MSConvBlock):
                self.conv_block(name, module)
            elif isinstance(module, MSBlock):
                self.block(name, module)
            else:
                raise TypeError(f"`{name}` is a {type(module).__name__}, which has no folded form")
            self.levels[name.split(".")[0]] = self.spikes
        if isinstance(self.model.head, Pyramid):
            self.pyramid(self.model.head)
        else:
            self.head(self.model.head)
        return self.finish()

    def conv_block(self, name: str, module: MSConvBlock) -> None:
        self.separable(f"{name}.Conv", module.Conv)
        hidden = self.conv(
            f"{name}.conv1", self.spikes, conv_norm(module.conv1, module.bn1), neuron=module.lif2.config)
        self.onto_stream(f"{name}.conv2", hidden, conv_norm(module.conv2, module.bn2))

    def separable(self, name: str, module: SepConv) -> None:
        hidden = self.conv(
            f"{name}.pwconv1", self.spikes, conv_norm(module.pwconv1, module.bn1), neuron=module.lif2.config)
        planes = self.depthwise(f"{name}.dwconv", hidden, conv_norm(module.dwconv))
        self.onto_stream(f"{name}.pwconv2", planes, conv_norm(module.pwconv2, module.bn2))

    def repconv(self, name: str, source: str, module: nn.Module) -> tuple[str, str, tuple[Tensor, Tensor]]:
        """What precedes the last convolution of a RepConv: (its name, its input, its weight and bias)."""
        assert isinstance(module, nn.Sequential)
        body = module[0]
        assert isinstance(body, RepConv)
        self.repconvs.append(name)
        folded = fold_repconv(body, module[1])
        if name not in self.unfused:
            return name, source, (folded.fused(), folded.bias)
        zero = folded.first.new_zeros(len(folded.first))
        planes = self.conv(f"{name}.first", source, (folded.first, zero), mode="planes")
        planes = self.depthwise(f"{name}.depthwise", planes, (folded.depthwise, zero))
        return f"{name}.last", planes, (folded.last, folded.bias)

    def block(self, name: str, module: MSBlock) -> None:
        if isinstance(module.attn, FactorisedAttention):
            self.factorised(f"{name}.attn", module.attn)
        else:
            self.attention(f"{name}.attn", module.attn)
        if module.attn_time is not None:
            self.attention(f"{name}.attn_time", module.attn_time)
        self.mlp(f"{name}.mlp", module.mlp)

    def attention(self, name: str, module: MSAttention) -> None:
        attended = self.attend(name, module)
        self.onto_stream(*self.repconv(f"{name}.proj_conv", attended, module.proj_conv))

    def factorised(self, name: str, module: FactorisedAttention) -> None:
        """The projection of a sum of spikes is the sum of two projections, with the bias once."""
        space = self.attend(f"{name}.space", module.space)
        attended = self.attend(f"{name}.time", module.time)
        first, source, (weight, bias) = self.repconv(f"{name}.proj_conv.space", space, module.proj_conv)
        self.onto_stream(first, source, (weight, bias), neuron=None)
        last, source, (weight, _) = self.repconv(f"{name}.proj_conv.time", attended, module.proj_conv)
        self.onto_stream(last, source, (weight, 0 * bias))

    def attend(self, name: str, module: Attention) -> str:
        """The spikes of an attention's neuron."""
        made = {}
        for part in ("q", "k", "v"):
            last = self.repconv(f"{name}.{part}_conv", self.spikes, module.get_submodule(f"{part}_conv"))
            made[part] = self.conv(*last, neuron=self.neuron_of(module, f"{part}_lif"))
        bipolar = module.bipolar
        largest = max(self.largest[spikes] for spikes in made.values())
        common: dict[str, object] = {"heads": module.heads, "bipolar": bipolar, "levels": largest}
        if module.attn_bn is not None:
            scale, bias = batch_norm(module.attn_bn)
            scale = scale / (module.divisor * largest ** 3)
        else:
            factor = 1 / (module.divisor * largest ** 3)
            scale = torch.full((module.dim,), factor, dtype=torch.float64, device=self.device)
            bias = torch.zeros_like(scale)
        stage: dict[str, object] = {
            **common, "scale": scale, "bias": bias, "neuron": self.neuron_of(module, "attn_lif")}
        if module.scope == "pixel":
            return self.add(f"{name}.attend", "temporal", (made["q"], made["k"], made["v"]), **stage)
        frames: dict[str, object] = {"per_frame": module.scope == "frame"}
        keyvalue = self.add(f"{name}.kv", "keyvalue", (made["k"], made["v"]), **common, **frames)
        return self.add(f"{name}.attend", "attend", (made["q"], keyvalue), **stage, **frames)

    def mlp(self, name: str, module: MSMLP) -> None:
        hidden = self.conv(
            f"{name}.fc1", self.spikes, conv_norm(module.fc1_conv, module.fc1_bn), neuron=module.fc2_lif.config)
        self.onto_stream(f"{name}.fc2", hidden, conv_norm(module.fc2_conv, module.fc2_bn))

    def head(self, linear: nn.Linear) -> None:
        """The last stage onto the stream also sums over space; then the linear layer, of every frame for poses."""
        self.pool_last(self.model.lif.config)
        fields: dict[str, object] = {"mode": "logits"} if self.model.config.head == "class" else OUTPUT
        self.conv("head", self.spikes, conv_norm(linear), **fields)

    def pyramid(self, head: Pyramid) -> None:
        """Coarsest level first. The stages' spikes are those that the next stage reads anyway."""
        sizes, level = self.model.config.sizes[1:], None
        for i in reversed(range(len(LEVELS))):
            if level is not None and sizes[i] != sizes[i + 1]:
                level = self.add(f"head.enlarge.{i}", "upsample", (level,), mode="residual", keep=True)
            neuron = head.lif.config if i == 0 else None
            level = self.conv(
                f"head.laterals.{i}", self.levels[LEVELS[i]], conv_norm(*_modules(head.laterals[i])), mode="residual",
                keep=i > 0, neuron=neuron, shortcut=level)
        assert level is not None
        smooth = self.conv("head.smooth", level, conv_norm(*_modules(head.smooth)), neuron=head.lif.config)
        self.conv("head.classify", smooth, conv_norm(head.classify), **OUTPUT)

    def neuron_of(self, module: nn.Module, name: str) -> NeuronConfig:
        config = module.get_submodule(name).config
        assert isinstance(config, NeuronConfig)
        return config


def _modules(sequence: nn.Module) -> list[nn.Module]:
    assert isinstance(sequence, nn.Sequential)
    return list(sequence)
