"""The builder of random networks: segments and operators one behind the other, with the values of a clip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spikeloom.arithmetic import LEAKS, LEVELS_MAX, RESETS, WEIGHT_MAX
from spikeloom.bounds import weight_bounds
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
    Neuron,
    Operator,
    TemporalAttend,
    Upsample,
    outputs_of,
)
from spikeloom.network import Tensor as Declaration

from .random_clips import random_clip
from .random_limits import FURTHER_THEMES, Limits
from .random_stages import MAXIMUM_SHIFT, stage_arrays
from .reference import Reference

HEAD_WIDTHS = (12, 45, 16, 32, 7, 1)


class Builder:
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

    def accumulator(self, operator: Accumulating, shape: tuple[int, int, int]) -> tuple[Tensor, int]:
        """`acc` of an operator that has no neuron stage yet, and its largest magnitude for any clip."""
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
        low, high = reference.bounds[operator.name].accumulator
        return reference.accumulate(operator, self.values), max(-low, high)

    def finish(
        self, operator: Accumulating, shape: tuple[int, int, int], mode: str, shortcut: str | None
    ) -> str:
        """Give `operator` a neuron stage and append it.

        `mode`: direct, both (residual and spikes), stream (residual alone), inner (spikes of a residual value that is
        not kept), pool, planes, logits.
        """
        accumulator, largest = self.accumulator(operator, shape)
        if shortcut is not None and self.values[shortcut].shape != accumulator.shape:
            shortcut = None
        stage = self.stage(operator.name, shape, mode, shortcut)
        if isinstance(operator, MaxConv):
            stage = replace(stage, negate=None)
        arrays = stage_arrays(
            self.rng, stage, accumulator, largest, None if shortcut is None else self.values[shortcut],
            maximum=isinstance(operator, MaxConv))
        self.network.arrays |= {name: array.numpy().astype(np.int32) for name, array in arrays.items()}
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
