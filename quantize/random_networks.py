"""Random integer networks for verification: small, legal, far from the beaten track, and alive.

`random_network(seed)` draws a chain of segments

    source     pixels + stem convolution | spikes
    plain      conv
    residual   conv, conv + shortcut
    separable  conv 1x1, depthwise -> planes, conv 1x1 on planes + shortcut
    planes     depthwise -> planes, depthwise on planes -> spikes
    hamming    q, k, v convolutions, K^T V, attention with +-1 inputs, projection + shortcut
    dot        the same with 0/1 inputs
    head       spatial sum -> spikes -> linear -> sum over frames
    frames     q, k, v convolutions, K^T V and attention of every frame, projection + shortcut; only if asked for
    pyramid    convs of stride 2, then conv + upsampled residual for each on the way back; only if asked for
    temporal   q, k, v convolutions, attention from frame to frame, projection + shortcut; only if asked for by `theme`
    gate       conv summed over space, conv on that, then conv + the result in every pixel; only if asked for
    maximum    conv with a max-pool behind it, conv + shortcut; only if asked for
    wide       hamming, dot or frames with V wider or narrower than K; only if asked for
    integers   one of residual, separable, planes, dot, most of whose neurons, and those of all other segments but the
               head's, fire integer spikes; only if asked for
    timed      temporal, with the neurons of integers; only if asked for

with kernels, strides, paddings, neuron variants, thresholds, shifts and weights over their legal ranges. Features take
turns with the seed (`seed % len(THEMES)` is present for certain, `seed // len(THEMES) % len(PROFILES)` decides what is
large: channels, map or frames), so a handful of consecutive seeds covers all. Biases are searched so that neurons
fire at rates between 10 and 60 %: a network whose spikes are all 0 finds no faults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikeloom.arithmetic import LEAKS, LEVELS_MAX, RESETS, RESIDUAL_BITS, SHIFT_MAX, SHIFT_MIN, WEIGHT_MAX
from spikeloom.bounds import CURRENT_BITS, prove_bounds, weight_bounds
from spikeloom.config import ACCUMULATOR_BITS
from spikeloom.network import (
    Accumulating,
    Attend,
    Conv,
    Depthwise,
    KeyValue,
    Lif,
    MaxConv,
    Network,
    NetworkError,
    Neuron,
    Operator,
    TemporalAttend,
    Upsample,
    outputs_of,
)
from spikeloom.network import Tensor as Declaration
from spikeloom.operations import input_bits

from .reference import Reference, neuron_stage

THEMES = ("pixels", "residual", "separable", "hamming", "dot", "planes", "head", "plain")
"""Segment that a network is sure to have, by `seed % len(THEMES)`."""

FURTHER_THEMES = ("temporal", "frames", "pyramid", "integers", "gate", "maximum", "wide", "timed")
"""Segments that only networks have that are asked for them; these have neurons without memory as well."""

MAXIMUM_SHIFT = 8
"""Of what a maximum is taken of: every accumulator is a residual then."""

FRAMES = (1, 3, 4, 8, 11, 16, 24)
HEAD_WIDTHS = (12, 45, 16, 32, 7, 1)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a random network may be.

    Attributes:
        cycles: Estimated cycles on a machine of 512 synaptic operations per cycle (preset tiny), see `cost`.
        operators: Operators are added until there are this many (a segment is finished, so there may be more).
        channels: Most channels of a tensor.
        size: Most rows or columns.
        frames: Choices of T, at most 63.
        theme: One of THEMES or FURTHER_THEMES, in place of the one that follows from the seed.
    """

    cycles: int = 120_000
    operators: int = 6
    channels: int = 96
    size: int = 40
    frames: tuple[int, ...] = FRAMES
    theme: str = ""

    def __post_init__(self) -> None:
        if self.theme and self.theme not in THEMES + FURTHER_THEMES:
            raise ValueError(f"`theme` must be one of {', '.join(THEMES + FURTHER_THEMES)}, not `{self.theme!r}`")


PROFILES: Mapping[str, Limits] = MappingProxyType({
    "balanced": Limits(channels=24, size=12, frames=(3, 4, 8)),
    "wide": Limits(channels=96, size=5),
    "large": Limits(channels=10, size=40),
    "long": Limits(channels=16, size=9, frames=(11, 16, 24)),
})
"""What is large, in turns."""


def random_network(seed: int, **limits: Any) -> Network:
    """A random legal network; the same for the same arguments.

    Args:
        seed: Any non-negative integer. Theme and profile follow from it, see the module docstring.
        limits: Fields of `Limits`.
    """
    profile = tuple(PROFILES.values())[seed // len(THEMES) % len(PROFILES)]
    bound = Limits(**limits)
    frames = tuple(t for t in profile.frames if t in bound.frames) or bound.frames
    attempt = 0
    while True:
        shrink = 0.85 ** attempt
        drawn = replace(
            bound, frames=frames, channels=max(1, int(min(bound.channels, profile.channels) * shrink)),
            size=max(1, int(min(bound.size, profile.size) * shrink)))
        try:
            network = _Builder(seed, attempt, drawn).build(bound.theme or THEMES[seed % len(THEMES)])
            if cost(network) <= bound.cycles or attempt == 30:
                network.check()
                prove_bounds(network)
                return network
        except NetworkError:  # attention on many levels of wide heads may leave the accumulator
            if attempt == 30:
                raise
        attempt += 1


def random_clip(network: Network, seed: int) -> NDArray[Any]:
    """An input for `network`: `uint8[T, H, W, 3]` (smooth colours, noise, saturated areas), `bool[T, C, H, W]` or
    `uint8[T, C, H, W]` integer spikes."""
    rng = np.random.default_rng([seed, 0xC11B])
    tensor = network.tensors[network.input]
    t, c, h, w = network.frames, tensor.channels, tensor.height, tensor.width
    if tensor.kind == "integers":
        return rng.integers(0, tensor.levels + 1, (t, c, h, w), dtype=np.uint8)
    if tensor.kind == "spikes":
        return rng.random((t, c, h, w)) < rng.uniform(0.1, 0.7, (1, c, 1, 1))
    y, x = np.linspace(0, 6, h)[:, None, None], np.linspace(0, 6, w)[None, :, None]
    phase = np.arange(t)[:, None, None, None] * 0.4 + rng.uniform(0, 6, c)
    clip = 127 + 170 * np.sin(y + rng.uniform(0.3, 2) * x + phase) + rng.normal(0, 25, (t, h, w, c))
    return clip.clip(0, 255).astype(np.uint8)


def cost(network: Network) -> int:
    """Rough cycles on the preset tiny (16 inputs x 8 outputs x 4 lanes); loading dominates maps below 24 pixels."""
    return sum(_cost(network, operator) for operator in network.operators)


def _cost(network: Network, operator: Operator) -> int:
    lanes = -(-network.frames // 4)
    if isinstance(operator, KeyValue):
        key, value = network.tensors[operator.key], network.tensors[operator.value]
        passes = network.frames if operator.per_frame else lanes
        passes *= key.levels * value.levels
        return value.channels * (key.channels // operator.heads) * key.height * key.width * passes // 64
    if isinstance(operator, TemporalAttend):
        query = network.tensors[operator.query]
        words = operator.heads * -(-(query.channels // operator.heads) // 8)
        levels, others = query.levels, network.tensors[operator.key].levels * network.tensors[operator.value].levels
        columns = words // operator.heads * levels + 1
        return words * columns * others * network.frames * lanes * query.height * query.width
    if isinstance(operator, Attend):
        query = network.tensors[operator.query]
        source = network.producer(operator.keyvalue)
        assert isinstance(source, KeyValue)
        heads, passes = source.heads, network.frames if source.per_frame else lanes
        keys, values = (n // heads for n in (query.channels, network.tensors[operator.keyvalue].channels))
        passes *= query.levels
        return heads * 3 * passes * -(-values // 8) * -(-keys // 16) * max(24, query.height * query.width)
    source = network.tensors[operator.input]
    if isinstance(operator, Upsample):
        return lanes * -(-source.channels // 8) * 4 * source.height * source.width
    weight = network.arrays[operator.weight]
    stride = operator.stride if isinstance(operator, Conv) else 1
    pixels = max(24, source.height * source.width // stride ** 2)
    chunks = -(-int(np.prod(weight.shape[1:])) // 16) if isinstance(operator, Conv) else -(-weight.shape[2] // 2)
    return lanes * input_bits(source) * -(-weight.shape[0] // 8) * chunks * pixels


def _moments(accumulator: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation per channel, from exact sums: the same on every machine."""
    count = accumulator.numel() // accumulator.shape[2]
    total, squares = (x.sum(dim=(0, 1, 3, 4)).numpy() / count for x in (accumulator, accumulator * accumulator))
    return total, np.sqrt((squares - total * total).clip(min=0))


def steps(step: Tensor, levels: int) -> Tensor:
    """Thresholds int64[levels, C] of integer spikes that rise by `step` int64[C]: (i - 1/2) steps, rounded up."""
    rising = (2 * torch.arange(1, levels + 1)[:, None] - 1) * step
    return ((rising + 1) >> 1).clamp(max=(1 << 27) - 1)


class _Builder:
    """A network under construction, with the values of its tensors for one clip.

    `top` is the tensor that the next operator reads, `stream` the residual tensor it was made of, if any.
    """

    def __init__(self, seed: int, attempt: int, limits: Limits) -> None:
        self.rng = np.random.default_rng([seed, attempt])
        self.seed, self.limits = seed, limits
        frames = int(self.rng.choice(limits.frames))
        self.network = Network(frames=frames, tensors={}, operators=[], arrays={}, input="input", output="")
        self.values: dict[str, Tensor] = {}
        self.top = self.theme = ""
        self.stream: str | None = None

    def build(self, theme: str) -> Network:
        rng, self.theme = self.rng, theme
        segments = {
            "plain": self.plain, "residual": self.residual, "separable": self.separable, "planes": self.planes,
            "hamming": self.hamming, "dot": self.dot, "temporal": self.temporal, "timed": self.temporal,
            "frames": self.frames, "pyramid": self.pyramid,
            "integers": self.integers, "gate": self.gate, "maximum": self.maximum, "wide": self.wide}
        self.source(theme)
        sections = [theme] if theme not in ("pixels", "head") else []
        others = ("plain", "residual", "separable", "planes")
        while len(sections) < 3:
            first = int(theme == "pyramid")  # it needs the even size of the input
            sections.insert(int(rng.integers(first, len(sections) + 1)), str(rng.choice(others)))
        for section in sections:
            if section == theme or len(self.network.operators) + 2 <= self.limits.operators:
                segments[section]()
        room = len(self.network.operators) < self.limits.operators
        if theme == "head" or (rng.random() < 0.4 and room):
            self.head()
        elif rng.random() < 0.3 and room:
            self.conv(mode="stream")
        self.network.metadata = {"origin": "spikeloom.quantize.random_networks", "seed": self.seed, "theme": theme}
        return self.network

    # segments

    def source(self, theme: str) -> None:
        pixels = theme == "pixels" or (theme != "pyramid" and self.rng.random() < 0.25)
        height, width = (int(v) for v in self.rng.integers(1, self.limits.size + 1, 2))
        if max(height, width) * 2 < self.limits.size:
            height = self.limits.size
        if theme == "pyramid":
            height, width = height + height % 2, width + width % 2
        channels = 3 if pixels else self.channels()
        self.declare("input", "pixels" if pixels else "spikes", channels, height, width)
        clip = torch.from_numpy(random_clip(self.network, self.seed))[None]
        self.values["input"] = clip.movedim(1, 0).movedim(-1, 2) if pixels else clip.movedim(1, 0)
        self.top = "input"
        if pixels:
            codes = tuple(int(v) for v in self.rng.integers(0, 256, 3))
            self.conv(kernel=int(self.rng.choice((3, 7))), codes=codes, mode=self.mode())

    def plain(self) -> None:
        self.conv(mode=self.mode())

    def residual(self) -> None:
        start = self.stream
        shape = self.shape
        self.conv(stride=1, same=True)
        self.conv(channels=shape[0], stride=1, same=True, mode="both", shortcut=start)

    def separable(self) -> None:
        start, shape = self.stream, self.shape
        self.conv(kernel=1, stride=1, same=True)
        self.depthwise(kernel=int(self.rng.choice((3, 7))), same=True)
        self.conv(channels=shape[0], kernel=1, stride=1, same=True, mode="both", shortcut=start)

    def planes(self) -> None:
        first = self.rng.random() < 0.5
        if first:
            self.depthwise(kernel=int(self.rng.choice((3, 5, 7))))
        else:
            self.conv(mode="planes")
        self.depthwise(kernel=int(self.rng.choice((1, 3, 7))), mode=self.mode())

    def hamming(self) -> None:
        self.attention(bipolar=True)

    def dot(self) -> None:
        self.attention(bipolar=False)

    def temporal(self) -> None:
        self.attention(bipolar=bool(self.rng.random() < 0.5), temporal=True)

    def frames(self) -> None:
        self.attention(bipolar=bool(self.rng.random() < 0.5), per_frame=True)

    def wide(self) -> None:
        bipolar, per_frame = (bool(self.rng.random() < 0.5) for _ in range(2))
        self.attention(bipolar=bipolar, per_frame=per_frame, wide=True)

    def pyramid(self) -> None:
        fine, levels = [], self.rng.integers(1, 3)
        while len(fine) < levels and self.shape[1] % 2 == self.shape[2] % 2 == 0:
            fine.append(self.top)
            self.conv(kernel=int(self.rng.choice((1, 3))), stride=2, same=True, mode="both")
        for source in reversed(fine):
            coarse = self.network.tensors[str(self.stream)]
            size = coarse.channels, 2 * coarse.height, 2 * coarse.width
            name = self.name("upsample")
            wide = self.declare(f"{name}.out", "residual", *size, coarse.fraction_bits)
            self.append(Upsample(name=name, input=coarse.name, output=wide))
            self.conv(source=source, channels=coarse.channels, stride=1, same=True, mode="both", shortcut=wide)

    def gate(self) -> None:
        """What neurons make of the sums over space is added in every pixel."""
        source, (_, height, width) = self.top, self.shape
        self.conv(stride=1, same=True, mode="pool")
        self.conv(kernel=1, stride=1, same=True, mode="both")
        small = self.network.tensors[str(self.stream)]
        name = self.name("upsample")
        wide = self.declare(f"{name}.out", "residual", small.channels, height, width)
        self.append(Upsample(name=name, input=small.name, output=wide, factor=None))
        self.conv(source=source, channels=small.channels, stride=1, same=True, mode="both", shortcut=wide)

    def maximum(self) -> None:
        rng, name, given = self.rng, self.name("maximum"), self.network.tensors[self.top]
        kernel, count = int(rng.choice((1, 3))), self.channels()
        choices = ((3, 2), (3, 2), (3, 1), (2, 2))[:4 if min(given.height, given.width) > 1 else 3]
        window, stride = choices[int(rng.integers(len(choices)))]
        self.weights(name, (count, given.channels, kernel, kernel), given)
        operator = MaxConv(
            name=name, input=given.name, weight=f"{name}.weight", padding=kernel // 2, window=window,
            window_stride=stride, window_padding=(window - 1) // 2, neuron=Neuron(mode="residual", bias=""))
        shape = count, operator.pooled(given.height), operator.pooled(given.width)
        self.finish(operator, shape, "both", None)
        self.conv(channels=count, stride=1, same=True, mode="both", shortcut=self.stream)

    def integers(self) -> None:
        (self.residual, self.separable, self.planes, self.dot, self.hamming)[self.seed % 5]()

    def attention(
        self, *, bipolar: bool, temporal: bool = False, per_frame: bool = False, wide: bool = False
    ) -> None:
        start, source, entry = self.stream, self.top, self.shape
        widths = [d for d in HEAD_WIDTHS if d <= max(self.limits.channels, 12)]
        width = int(self.rng.choice(widths))
        heads = int(self.rng.integers(1, max(1, min(4, self.limits.channels // width)) + 1))
        kernel = int(self.rng.choice((1, 3)))
        others = [d for d in widths if d != width]
        values = int(self.rng.choice(others)) if wide else width
        query, key, value = (
            self.conv(source=source, channels=heads * d, kernel=kernel, stride=1, same=True)
            for d in (width, width, values))
        if temporal:
            self.finish_attention(TemporalAttend(
                name=self.name("temporal"), query=query, key=key, value=value, heads=heads, bipolar=bipolar,
                neuron=Neuron(mode="planes", bias="")))
        else:
            name = self.name("keyvalue")
            self.declare(f"{name}.out", "keyvalue", heads * values, 1, 1)
            self.append(KeyValue(
                name=name, key=key, value=value, heads=heads, bipolar=bipolar, output=f"{name}.out",
                per_frame=per_frame))
            self.finish_attention(Attend(
                name=self.name("attend"), query=query, keyvalue=f"{name}.out", bipolar=bipolar,
                neuron=Neuron(mode="planes", bias="")))
        fits = start is not None and self.network.tensors[start].channels == entry[0]
        self.conv(
            channels=entry[0], kernel=kernel, stride=1, same=True, mode="both", shortcut=start if fits else None)

    def head(self) -> None:
        shape = self.shape
        shortcut = self.stream
        self.conv(channels=shape[0], stride=1, same=True, mode="pool", shortcut=shortcut)
        self.conv(channels=int(self.rng.integers(2, 21)), kernel=1, stride=1, same=True, mode="logits")

    # operators

    def conv(
        self, *, source: str | None = None, channels: int | None = None, kernel: int | None = None,
        stride: int | None = None, same: bool = False, codes: tuple[int, ...] = (0, 0, 0), mode: str = "direct",
        shortcut: str | None = None,
    ) -> str:
        """Add a convolution; returns the name of its spikes or planes. Unset fields are drawn."""
        rng, name = self.rng, self.name("conv")
        given = self.network.tensors[source or self.top]
        if kernel is None:
            kernel = int(rng.choice((1, 3, 3, 7)))
        if not same and kernel > min(given.height, given.width) + 2 * (kernel // 2):
            same = True
        stride = int(rng.integers(1, 3)) if stride is None else stride
        padding = kernel // 2 if same or kernel > min(given.height, given.width) else int(rng.integers(kernel // 2 + 1))
        count = self.channels() if channels is None else channels
        self.weights(name, (count, given.channels, kernel, kernel), given)
        operator = Conv(
            name=name, input=given.name, weight=f"{name}.weight", stride=stride, padding=padding,
            pad_codes=(codes[0], codes[1], codes[2]), neuron=Neuron(mode="planes", bias=""))
        height, width = ((n + 2 * padding - kernel) // stride + 1 for n in (given.height, given.width))
        return self.finish(operator, (count, height, width), mode, shortcut)

    def depthwise(self, *, kernel: int, same: bool = False, mode: str = "planes") -> str:
        name, given = self.name("depthwise"), self.network.tensors[self.top]
        small = kernel > min(given.height, given.width)
        padding = kernel // 2 if same or small else int(self.rng.integers(kernel // 2 + 1))
        self.weights(name, (given.channels, 1, kernel, kernel), given)
        operator = Depthwise(
            name=name, input=given.name, weight=f"{name}.weight", padding=padding,
            neuron=Neuron(mode="planes", bias=""))
        height, width = (n + 2 * padding - kernel + 1 for n in (given.height, given.width))
        return self.finish(operator, (given.channels, height, width), mode, None)

    def finish_attention(self, operator: Attend | TemporalAttend) -> str:
        given = self.network.tensors[operator.query]
        channels = self.network.tensors[operator.keyvalue].channels if isinstance(operator, Attend) else given.channels
        mode = str(self.rng.choice(("direct", "direct", "both", "planes")))
        return self.finish(operator, (channels, given.height, given.width), mode, None)

    # parts of operators

    def mode(self) -> str:
        return str(self.rng.choice(("direct", "both", "both", "inner")))

    def channels(self) -> int:
        most = self.limits.channels
        count = int(self.rng.integers(1, most + 1))
        return most if self.rng.random() < 0.2 else count

    @property
    def shape(self) -> tuple[int, int, int]:
        tensor = self.network.tensors[self.top]
        return tensor.channels, tensor.height, tensor.width

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.network.operators)}"

    def declare(self, name: str, kind: str, channels: int, height: int, width: int, fraction_bits: int = 0) -> str:
        self.network.tensors[name] = Declaration(
            name=name, kind=kind, channels=channels, height=height, width=width, fraction_bits=fraction_bits)
        return name

    def weights(self, name: str, shape: tuple[int, ...], source: Declaration) -> None:
        """Draw weights: uniform, narrow, sparse, or all at +-127 where the accumulator allows."""
        style = self.rng.choice(("uniform", "narrow", "sparse", "extreme"))
        most = 7 if style == "narrow" else WEIGHT_MAX
        weight = self.rng.integers(-most, most + 1, shape)
        if style == "sparse":
            weight = weight * (self.rng.random(shape) < 0.15)
        if style == "extreme":
            weight = np.where(self.rng.random(shape) < self.rng.uniform(0.2, 0.8, (shape[0], 1, 1, 1)), most, -most)
        weight = weight.astype(np.int8)
        while True:
            low, high = weight_bounds(weight, source.kind, source.levels)
            if max(int(high.max()), -int(low.min())) < 1 << (ACCUMULATOR_BITS - 1):
                break
            weight = (weight // 2).astype(np.int8)
        self.network.arrays[f"{name}.weight"] = weight

    def append(self, operator: Operator) -> None:
        """Add a complete operator and compute what it makes."""
        self.network.operators.append(operator)
        self.network.output = outputs_of(operator)[0]
        self.values.update(Reference(self.network).operate(operator, self.values))

    def accumulator(self, operator: Accumulating, shape: tuple[int, int, int]) -> Tensor:
        """`acc` of an operator that has no neuron stage yet, and its bounds."""
        trial = replace(self.network, tensors=dict(self.network.tensors), arrays=dict(self.network.arrays))
        zeros = np.zeros(shape[0], dtype=np.int32)
        trial_stage = Neuron(mode="planes", bias="trial", shift="shift", planes="trial")
        if isinstance(operator, MaxConv):
            trial_stage = Neuron(mode="residual", bias="trial", shift="shift", residual="trial")
        trial.tensors["trial"] = Declaration(
            name="trial", kind=trial_stage.mode, channels=shape[0], height=shape[1], width=shape[2])
        trial.arrays |= {"trial": zeros, "shift": zeros + MAXIMUM_SHIFT}
        operator = replace(operator, neuron=trial_stage)
        trial.operators, trial.output = [*self.network.operators, operator], "trial"
        reference = Reference(trial)
        self.bounds = reference.bounds[operator.name].accumulator
        return reference.accumulate(operator, self.values)

    def finish(
        self, operator: Accumulating, shape: tuple[int, int, int], mode: str, shortcut: str | None
    ) -> str:
        """Give `operator` a neuron stage and append it.

        `mode`: direct, both (residual and spikes), stream (residual alone), inner (spikes of a residual value that is
        not kept), pool, planes, logits.
        """
        accumulator = self.accumulator(operator, shape)
        if shortcut is not None and self.values[shortcut].shape != accumulator.shape:
            shortcut = None
        stage = self.stage(operator.name, shape, mode, shortcut)
        if isinstance(operator, MaxConv):
            stage = replace(stage, negate=None)
        self.fill(stage, accumulator, maximum=isinstance(operator, MaxConv))
        self.append(replace(operator, neuron=stage))
        self.stream = stage.residual
        self.top = stage.spikes or stage.planes or self.top
        return self.top

    def stage(self, name: str, shape: tuple[int, int, int], mode: str, shortcut: str | None) -> Neuron:
        """Declare the tensors of a neuron stage; its arrays are still missing."""
        rng = self.rng
        fires = mode in ("direct", "both", "inner", "pool")
        leaks = LEAKS if self.theme in FURTHER_THEMES else LEAKS[:-1]
        lif = Lif(leak=str(rng.choice(leaks)), reset=str(rng.choice(RESETS)), strict=bool(rng.random() < 0.3))
        wanted = {"spikes": fires, "residual": mode in ("stream", "both"), "planes": mode == "planes",
                  "logits": mode == "logits"}
        size = (shape[0], 1, 1) if mode == "pool" else shape
        levels = 1
        if self.theme in ("integers", "timed") and fires and mode != "pool" and rng.random() < 0.8:
            levels, lif = int(rng.integers(2, LEVELS_MAX + 1)), replace(lif, leak="memoryless")
        made = {kind: self.declare(f"{name}.{kind}", kind, *size) for kind, yes in wanted.items() if yes}
        if levels > 1:
            spikes = self.network.tensors[made["spikes"]]
            self.network.tensors[spikes.name] = replace(spikes, kind="integers", levels=levels)
        base = {"logits": "direct", "direct": "direct", "planes": "planes"}.get(mode, "residual")
        return Neuron(
            mode=base, bias=f"{name}.bias", shift=f"{name}.shift" if base != "direct" else None,
            negate=f"{name}.negate" if rng.random() < 0.25 else None,
            threshold=f"{name}.threshold" if fires else None, lif=lif if fires else None, levels=levels,
            shortcut=shortcut, pool=mode == "pool", **made)

    def fill(self, stage: Neuron, accumulator: Tensor, *, maximum: bool = False) -> None:
        """Draw shift, negate and threshold of a stage, search its bias, and store them.

        `maximum`: values are no less than the least residual.
        """
        channels = accumulator.shape[2]
        arrays: dict[str, Tensor] = {}
        if stage.negate is not None:
            arrays[stage.negate] = torch.from_numpy(self.rng.integers(0, 2, channels))
        spread = _moments(accumulator)[1].clip(min=0.5)
        if stage.shift is not None:
            shifts, reach = self.shifts(spread, stage.planes is not None), max(-self.bounds[0], self.bounds[1], 1)
            if maximum:
                least = max(SHIFT_MIN, reach.bit_length() + 2 - RESIDUAL_BITS)
                shifts = shifts.clip(least, max(least, MAXIMUM_SHIFT))
            arrays[stage.shift] = torch.from_numpy(shifts)
            spread = spread / 2.0 ** arrays[stage.shift].numpy()
        if stage.threshold is not None:
            reach = 1 << (CURRENT_BITS - 2) if stage.mode == "direct" else 1 << (RESIDUAL_BITS - 2)
            arrays[stage.threshold] = torch.from_numpy(self.thresholds(spread, reach))
            if stage.levels > 1:
                arrays[stage.threshold] = steps(arrays[stage.threshold], stage.levels)
        shortcut = self.values[stage.shortcut] if stage.shortcut is not None else None
        most = max(-self.bounds[0], self.bounds[1], 1) if maximum else 1 << CURRENT_BITS
        arrays[stage.bias] = self.biases(stage, arrays, accumulator, shortcut, most)
        for name, array in arrays.items():
            self.network.arrays[name] = array.numpy().astype(np.int32)

    def shifts(self, spread: NDArray[np.float64], planes: bool) -> NDArray[np.int64]:
        """Shifts that bring `spread` to a drawn size; a tenth of the channels anywhere in the legal range."""
        wanted = self.rng.uniform(3, 6) if planes else self.rng.uniform(4, 12)
        shift = np.round(np.log2(spread) - wanted + self.rng.uniform(-1, 1, spread.shape))
        wild = self.rng.integers(SHIFT_MIN, SHIFT_MAX + 1, spread.shape)
        shift = np.where(self.rng.random(spread.shape) < 0.1, wild, shift)
        return shift.clip(SHIFT_MIN, SHIFT_MAX).astype(np.int64)

    def thresholds(self, spread: NDArray[np.float64], reach: int) -> NDArray[np.int64]:
        """Thresholds in [1, 2**27): 1, powers of two near the spread, any near the spread, or huge.

        Huge ones are within `reach` of the input current, save for one in ten.
        """
        style = self.rng.choice(("one", "power", "any", "huge"), p=(0.15, 0.35, 0.35, 0.15))
        near = spread * 2.0 ** self.rng.uniform(-1, 2, spread.shape)
        if style == "one":
            near = np.ones(spread.shape)
        elif style == "power":
            near = 2.0 ** np.round(np.log2(near))
        elif style == "huge":
            wild = self.rng.random(spread.shape) < 0.1
            near = np.where(wild, 2.0 ** self.rng.uniform(18, 27, spread.shape), reach * self.rng.uniform(0.1, 1))
        near = np.where(near > reach, near if style == "huge" else reach, near)
        return near.round().clip(1, (1 << 27) - 1).astype(np.int64)

    def biases(
        self, stage: Neuron, arrays: Mapping[str, Tensor], accumulator: Tensor, shortcut: Tensor | None, most: int
    ) -> Tensor:
        """Biases of magnitude up to `most` that keep `a` inside its width; with spikes, by bisection towards a rate
        drawn per channel."""
        channels = accumulator.shape[2]
        room = min(most, (1 << (CURRENT_BITS - 1)) - 1 - max(-self.bounds[0], self.bounds[1]))
        low = torch.full((channels,), -room)
        high = -low
        if stage.spikes is None:
            centre = -torch.from_numpy(_moments(accumulator)[0])
            noise = torch.from_numpy(self.rng.normal(0, 0.5, channels)) * centre.abs().clamp(min=1)
            return torch.minimum(torch.maximum((centre + noise).round().to(torch.int64), low), high)
        target = stage.levels * torch.from_numpy(self.rng.uniform(0.1, 0.6, channels))
        free = torch.from_numpy(self.rng.random(channels) < 0.05)
        anywhere = torch.from_numpy(self.rng.integers(-(1 << 16), 1 << 16, channels))

        def rate(bias: Tensor) -> Tensor:
            made = neuron_stage(stage, {**arrays, stage.bias: bias}, accumulator, shortcut)
            return made[str(stage.spikes)].to(torch.float64).mean(dim=(0, 1, 3, 4))

        while bool((high - low > 1).any()):
            middle = (low + high) >> 1
            above = rate(middle) >= target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        best = torch.where((rate(low) - target).abs() < (rate(high) - target).abs(), low, high)
        return torch.where(free, anywhere.clamp(-room, room), best)
