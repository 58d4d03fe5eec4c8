"""SpikeVideoFormer in plain torch: configuration, named networks, the network itself.

::

    x float[T, B, 3, H, W], normalised pixels
      downsample1_1  conv 7x7, no LIF        widths[0] / 2      ConvBlock1_1
      downsample1_2  LIF, conv 3x3           widths[0]          ConvBlock1_2
      downsample2    LIF, conv 3x3           widths[1]          ConvBlock2_1, ConvBlock2_2
      downsample3    LIF, conv 3x3           widths[2]          block3 x depths[0]
      downsample4    LIF, conv 3x3           widths[3]          block4 x depths[1]
      head           class: spatial mean, LIF, linear, mean over T; pose, segment: see `spikeloom.quantize.heads`
    logits float[B, classes]

Module structure and ``state_dict`` keys are those of the released classification network (arXiv
2505.10352, ICML 2025), so its checkpoints load without renaming once taken out of their ``"model"`` entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .heads import HEADS, LEVELS, Pyramid, check_pyramid
from .layers import ATTENTIONS, DESIGNS, DownSampling, MSBlock, MSConvBlock
from .neurons import LIF, NeuronConfig

__all__ = [
    "CONFIGS", "SpikeVideoFormer", "SpikeVideoFormerConfig", "as_tuple", "build", "check_tasks", "named_config",
    "normalised", "task_slices"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class SpikeVideoFormerConfig:
    """Shape and behaviour of a :class:`SpikeVideoFormer`. Defaults are those of the released networks.

    Attributes
    ----------
    widths : (int, int, int, int)
        Channels of the four stages; the stem has ``widths[0] / 2``.
    depths : (int, int)
        Transformer blocks in stages 3 and 4. Stages 1 and 2 have two convolutional blocks each.
    heads : int or (int, int)
        Attention heads, one number or those of stages 3 and 4; divide ``widths[2]`` and ``widths[3]``.
    mlp_ratio, conv_ratio, sep_ratio : int
        Inner width over width of the MLPs, of the 3x3 pairs, of the separable convolutions.
    stem_kernel, sep_kernel : int
        Odd kernel sizes, in pixels, of the first convolution and of the depthwise ones.
    strides : five ints
        Strides of downsample1_1, 1_2, 2, 3, 4.
    attention : str
        See :data:`spikeloom.quantize.layers.ATTENTIONS`.
    design : str
        Where attention looks in space and time, see :data:`spikeloom.quantize.layers.DESIGNS`. ``"spatial"`` makes
        ``neuron`` memoryless.
    neuron : NeuronConfig
        All neurons of the network.
    in_channels, height, width, frames : int
        Input clip; height and width in pixels. ``frames`` is the clip length it was trained for: the
        torch network runs any.
    classes : int
        Logits in all; of head ``"pose"`` two per joint, of ``"segment"`` per pixel.
    head : str
        ``"class"``, ``"pose"`` (joints of every frame) or ``"segment"`` (classes of every pixel).
    head_width : int
        Channels of the feature pyramid of head ``"segment"``.
    tasks : tuple of (name, int)
        Names and sizes of consecutive groups of logits; sizes sum to ``classes``. Empty: ``"class"`` alone.
    pixel_mean, pixel_std : tuple of float
        Per channel, for pixels scaled to 0..1: the network's input is ``(pixel / 255 - mean) / std``.

    Raises
    ------
    ValueError
        If a field is out of range or two fields contradict each other.
    """

    widths: tuple[int, int, int, int] = (64, 128, 256, 360)
    depths: tuple[int, int] = (6, 2)
    heads: int | tuple[int, int] = 8
    mlp_ratio: int = 4
    conv_ratio: int = 4
    sep_ratio: int = 2
    stem_kernel: int = 7
    sep_kernel: int = 7
    strides: tuple[int, int, int, int, int] = (2, 2, 2, 2, 1)
    attention: str = "hamming"
    design: str = "joint"
    neuron: NeuronConfig = field(default_factory=NeuronConfig)
    in_channels: int = 3
    height: int = 224
    width: int = 224
    frames: int = 8
    classes: int = 400
    head: str = "class"
    head_width: int = 256
    tasks: tuple[tuple[str, int], ...] = ()
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN
    pixel_std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name, length in (("widths", 4), ("depths", 2), ("strides", 5)):
            values = getattr(self, name)
            if len(values) != length or any(not isinstance(v, int) or v < 1 for v in values):
                raise ValueError(f"`{name}` must be {length} positive integers, not `{values!r}`")
        for name in ("mlp_ratio", "conv_ratio", "sep_ratio", "in_channels", "frames", "classes", "head_width"):
            _check_positive(name, getattr(self, name))
        for name in ("stem_kernel", "sep_kernel"):
            if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
                raise ValueError(f"`{name}` must be odd and positive, not `{getattr(self, name)!r}`")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"`attention` must be one of {', '.join(ATTENTIONS)}, not `{self.attention!r}`")
        if self.design not in DESIGNS:
            raise ValueError(f"`design` must be one of {', '.join(DESIGNS)}, not `{self.design!r}`")
        if self.design == "spatial":
            object.__setattr__(self, "neuron", replace(self.neuron, leak="memoryless"))
        if self.widths[0] % 2:
            raise ValueError(f"`widths[0]` must be even, not `{self.widths[0]!r}`")
        if any(h < 1 for h in self.stage_heads):
            raise ValueError(f"`heads` must be at least 1, not `{self.heads!r}`")
        if len(self.stage_heads) != 2 or any(w % h for w, h in zip(self.widths[2:], self.stage_heads, strict=True)):
            raise ValueError(f"`heads` must divide the widths `{self.widths[2:]!r}`, not `{self.heads!r}`")
        for name in ("height", "width"):
            _check_positive(name, getattr(self, name))
        for name in ("pixel_mean", "pixel_std"):
            if len(getattr(self, name)) != self.in_channels:
                values = getattr(self, name)
                raise ValueError(f"`{name}` must have {self.in_channels} values, not `{values!r}`")
        if any(s <= 0 for s in self.pixel_std):
            raise ValueError(f"`pixel_std` must be positive, not `{self.pixel_std!r}`")
        check_tasks(self.tasks, self.classes)
        self._check_head()

    def _check_head(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"`head` must be one of {', '.join(HEADS)}, not `{self.head!r}`")
        if self.head != "class" and self.tasks:
            raise ValueError(f"`tasks` must be empty for head `{self.head}`, not `{self.tasks!r}`")
        if self.head == "pose" and self.classes % 2:
            raise ValueError(f"`classes` must be even for head `pose`, not `{self.classes!r}`")
        if self.head == "segment":
            check_pyramid((self.height, self.width), self.sizes[1:])

    @property
    def stem_width(self) -> int:
        """Channels of the stem."""
        return self.widths[0] // 2

    @property
    def stage_heads(self) -> tuple[int, int]:
        """Attention heads of stages 3 and 4."""
        return (self.heads, self.heads) if isinstance(self.heads, int) else self.heads

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) in pixels after each of the five convolutions of ``strides``."""
        sizes, (h, w) = [], (self.height, self.width)
        for stride in self.strides:
            h, w = -(-h // stride), -(-w // stride)
            sizes.append((h, w))
        return tuple(sizes)

    @property
    def task_slices(self) -> dict[str, slice]:
        """Task name -> its logits."""
        return task_slices(self.tasks, self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; read back by :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpikeVideoFormerConfig:
        """Configuration from :meth:`to_dict`'s values, after JSON or not.

        Raises
        ------
        ValueError
            For an unknown field, or one that fails the checks of the class.
        """
        fields = cls.__dataclass_fields__
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ValueError(f"`values` must be fields of {cls.__name__}, not `{unknown!r}`")
        plain = {name: as_tuple(value) for name, value in values.items()}
        if isinstance(plain.get("neuron"), Mapping):
            plain["neuron"] = NeuronConfig(**plain["neuron"])
        return cls(**plain)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, not `{value!r}`")


def check_tasks(tasks: tuple[tuple[str, int], ...], classes: int) -> None:
    """ValueError unless the groups of logits are all logits; without groups there is one."""
    if tasks and sum(size for _, size in tasks) != classes:
        raise ValueError(f"`tasks` must have {classes} logits in all, not `{tasks!r}`")


def task_slices(tasks: tuple[tuple[str, int], ...], classes: int) -> dict[str, slice]:
    """Task name -> its logits; without tasks all of them are `class`."""
    slices, start = {}, 0
    for name, size in tasks or (("class", classes),):
        slices[name] = slice(start, start + size)
        start += size
    return slices


def as_tuple(value: Any) -> Any:
    """Lists as JSON and TOML have them as the tuples of a configuration, nested ones too."""
    return tuple(as_tuple(v) for v in value) if isinstance(value, (list, tuple)) else value


_STAGES = (
    "downsample1_1",
    "ConvBlock1_1",
    "downsample1_2",
    "ConvBlock1_2",
    "downsample2",
    "ConvBlock2_1",
    "ConvBlock2_2",
    "downsample3",
    "block3",
    "downsample4",
    "block4",
)

_SVF15 = SpikeVideoFormerConfig()
_DIGITS = SpikeVideoFormerConfig(
    neuron=NeuronConfig(surrogate="atan"),
    widths=(16, 32, 48, 64),
    depths=(1, 1),
    heads=4,
    conv_ratio=2,
    strides=(2, 2, 1, 2, 1),
    height=32,
    width=32,
    classes=14,
    tasks=(("digit", 10), ("direction", 4)),
    pixel_mean=(64 / 255,) * 3,
    pixel_std=(64 / 255,) * 3,
)
_FIGURES = replace(_DIGITS, mlp_ratio=2, classes=4, tasks=(), pixel_mean=(96 / 255,) * 3)

CONFIGS: dict[str, SpikeVideoFormerConfig] = {
    "15M": _SVF15,
    "31M": replace(_SVF15, widths=(96, 192, 384, 480)),
    "55M": replace(_SVF15, widths=(128, 256, 512, 640)),
    "digits": _DIGITS,
    "walkers": replace(_FIGURES, widths=(16, 24, 48, 96), head="pose", classes=26),
    "masks": replace(_FIGURES, strides=(2, 1, 2, 2, 1), head="segment", head_width=32),
    "micro": replace(
        _DIGITS, widths=(8, 8, 16, 16), heads=2, mlp_ratio=2, strides=(2, 2, 1, 1, 1), height=16, width=16, frames=4),
}
"""Named networks: the published sizes, those of the generated data sets, and one for tests. Published sizes as of the
paper, with 400 classes (Kinetics-400) and 8 frames."""


def named_config(name: str) -> SpikeVideoFormerConfig:
    """Configuration called ``name`` in :data:`CONFIGS`; ValueError if there is none."""
    if name not in CONFIGS:
        raise ValueError(f"`name` must be one of {', '.join(CONFIGS)}, not `{name!r}`")
    return CONFIGS[name]


class SpikeVideoFormer(nn.Module):
    """Spiking video transformer of arXiv 2505.10352.

    ``forward(x: float[T, B, in_channels, H, W])``: normalised pixels (see :meth:`normalise`) to ``float[B, classes]``
    of head ``"class"``, ``float[T, B, classes]`` of ``"pose"``, ``float[T, B, classes, h, w]`` of ``"segment"`` at the
    size of the first stage. Any T, H and W run; time steps are video frames, one each.

    Parameters
    ----------
    config : SpikeVideoFormerConfig
        Kept as ``self.config``.

    Raises
    ------
    ValueError
        From ``forward``: if the input is not 5-dimensional with ``in_channels`` channels.
    """

    def __init__(self, config: SpikeVideoFormerConfig) -> None:
        super().__init__()
        self.config = config
        stem, (w1, w2, w3, w4) = config.stem_width, config.widths
        self.downsample1_1 = self._down(0, config.in_channels, stem)
        self.ConvBlock1_1 = self._conv_blocks(stem)
        self.downsample1_2 = self._down(1, stem, w1)
        self.ConvBlock1_2 = self._conv_blocks(w1)
        self.downsample2 = self._down(2, w1, w2)
        self.ConvBlock2_1 = self._conv_blocks(w2)
        self.ConvBlock2_2 = self._conv_blocks(w2)
        self.downsample3 = self._down(3, w2, w3)
        self.block3 = self._blocks(0)
        self.downsample4 = self._down(4, w3, w4)
        self.block4 = self._blocks(1)
        self.lif = LIF(config.neuron)
        self.head = self._head()

    def _head(self) -> nn.Linear | Pyramid:
        config = self.config
        if config.head == "segment":
            return Pyramid(config.widths, width=config.head_width, classes=config.classes, neuron=config.neuron)
        head = nn.Linear(config.widths[3], config.classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.constant_(head.bias, 0.5 if config.head == "pose" else 0.0)  # joints start in the middle of the frame
        return head

    def _down(self, index: int, inputs: int, outputs: int) -> DownSampling:
        config = self.config
        return DownSampling(
            inputs,
            outputs,
            kernel=config.stem_kernel if index == 0 else 3,
            stride=config.strides[index],
            spiking=index > 0,
            neuron=config.neuron,
        )

    def _conv_blocks(self, dim: int) -> nn.ModuleList:
        config = self.config
        block = MSConvBlock(
            dim,
            ratio=config.conv_ratio,
            sep_ratio=config.sep_ratio,
            sep_kernel=config.sep_kernel,
            neuron=config.neuron,
        )
        return nn.ModuleList([block])

    def _blocks(self, stage: int) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            MSBlock(
                config.widths[2 + stage],
                heads=config.stage_heads[stage],
                mlp_ratio=config.mlp_ratio,
                attention=config.attention,
                design=config.design,
                neuron=config.neuron,
            )
            for _ in range(config.depths[stage])
        )

    def stages(self) -> list[tuple[str, nn.Module]]:
        """Modules up to the head, in the order they run, with their ``state_dict`` prefixes."""
        found: list[tuple[str, nn.Module]] = []
        for name in _STAGES:
            module = self.get_submodule(name)
            if isinstance(module, nn.ModuleList):
                found += [(f"{name}.{i}", child) for i, child in enumerate(module)]
            else:
                found.append((name, module))
        return found

    def normalise(self, pixels: Tensor) -> Tensor:
        """Network input from ``uint8[..., H, W, in_channels]``: ``float32[..., in_channels, H, W]``."""
        return normalised(pixels, self.config.pixel_mean, self.config.pixel_std)

    def features(self, x: Tensor) -> Tensor:
        """Membrane stream before the head, ``float[T, B, widths[3], h, w]``."""
        return self.levels(x)[-1]

    def levels(self, x: Tensor) -> list[Tensor]:
        """Membrane streams at the ends of the four stages, ``float[T, B, widths[i], h_i, w_i]``."""
        channels = self.config.in_channels
        if x.dim() != 5 or x.shape[2] != channels:
            raise ValueError(f"`x` must have shape [T, B, {channels}, H, W], not `{tuple(x.shape)!r}`")
        made: dict[str, Tensor] = {}
        for name, module in self.stages():
            made[name.split(".")[0]] = x = module(x)
        return [made[name] for name in LEVELS]

    def frame_logits(self, x: Tensor) -> Tensor:
        """Logits of every time step; the result of ``forward``, but for head ``"class"``, which takes their mean."""
        levels = self.levels(x)
        if isinstance(self.head, Pyramid):
            return self.head(levels)
        return self.head(self.lif(levels[-1].mean(dim=(3, 4))))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.frame_logits(x)
        return logits.mean(0) if self.config.head == "class" else logits

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """Task name -> its logits ``[..., n]``, from ``[..., classes]``."""
        return {name: logits[..., part] for name, part in self.config.task_slices.items()}


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``uint8[..., H, W, C]`` to ``float32[..., C, H, W]``, ``(pixels / 255 - mean) / std`` per channel."""
    means, stds = (torch.tensor(values, device=pixels.device) for values in (mean, std))
    return ((pixels.float() / 255 - means) / stds).movedim(-1, -3)


def build(name: str) -> SpikeVideoFormer:
    """Untrained network of a named configuration."""
    return SpikeVideoFormer(named_config(name))
