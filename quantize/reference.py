"""The integer network in PyTorch, bit for bit: what hardware and simulation are held against.

Every operator is an accumulator followed by the neuron stage of `spikeloom.arithmetic`, whose functions are called
here on int64 tensors. Convolutions and matrix products run in floating point for speed, in a type that the proven
bound makes exact: every partial sum, in any order, is an integer below 2**24 (float32) or 2**53 (float64). That
needs algorithms that only multiply and add, hence the guards in `plain_algorithms` and `exact_type` (no Winograd,
TF32 or bfloat16).

Inside, tensors are [T, B, C, H, W] (pixels [T, B, 3, H, W], K^T V [B, heads, D, E] or, of
every frame, [T, B, heads, D, E]), B clips side by side.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from spikeloom.arithmetic import (
    GUARD_BITS,
    MEMBRANE_BITS,
    PLANE_BITS,
    RESIDUAL_BITS,
    current,
    lif_step,
    round_shift,
    saturate,
)
from spikeloom.bounds import Bounds, prove_bounds
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
    inputs_of,
)

from .heads import enlarge_to

DTYPES = {
    "pixels": torch.uint8, "spikes": torch.bool, "integers": torch.uint8, "residual": torch.int16, "planes": torch.int8,
    "keyvalue": torch.int32, "logits": torch.int32}
"""Element type of each kind of tensor."""

Rounding = Callable[[Any, Any], Any]


class Reference:
    """Runs an integer network.

    Args:
        network: Checked and its bounds proven here (`self.bounds`).
        device: Where to compute.
        rounding: Stands in for `arithmetic.round_shift`. Only tests that must see a wrong rounding found set it.

    Raises:
        NetworkError: The network is malformed, or a number could leave its register.
    """

    def __init__(self, network: Network, device: str = "cpu", *, rounding: Rounding = round_shift) -> None:
        network.check()
        self.network = network
        self.device = torch.device(device)
        self.bounds: dict[str, Bounds] = prove_bounds(network)
        self._rounding = rounding
        self._arrays = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(self.device, torch.int64)
            for name, array in network.arrays.items()}
        self._weights = {
            operator.name: self._arrays[operator.weight].to(exact_type(operator.name, self.bounds[operator.name]))
            for operator in network.operators if isinstance(operator, (Conv, Depthwise))}

    def run(
        self, clip: Tensor | NDArray[Any], *, accumulators: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Every tensor of the network for one clip, in the kinds and shapes of `spikeloom.network`.

        Args:
            clip: `uint8[T, H, W, 3]` pixels or `bool[T, C, H, W]` spikes.
            accumulators: Filled, when given, with `acc` of every operator that has one: int64[T, C, H, W].

        Raises:
            ValueError: The clip does not have the shape and element type of the network's input.
        """
        values = self._forward(self._load(clip, batched=False), keep=True, accumulators=accumulators)
        return {name: self._unload(name, value)[0] for name, value in values.items()}

    def values(self, clips: Tensor | NDArray[Any]) -> dict[str, Tensor]:
        """Every tensor for clips stacked in front, in the layout of the module docstring. ValueError as in `run`."""
        return self._forward(self._load(clips, batched=True), keep=True)

    def infer(self, clip: Tensor | NDArray[Any]) -> Tensor:
        """The output for one clip: logits `int32[classes]`, residual `int16[T, C, H, W]`. ValueError as in `run`."""
        return self._infer(self._load(clip, batched=False))[0]

    def infer_batch(self, clips: Tensor | NDArray[Any]) -> Tensor:
        """The output tensors for clips stacked in front, `int32[B, classes]` if they are logits."""
        return self._infer(self._load(clips, batched=True))

    def _infer(self, value: Tensor) -> Tensor:
        output = self.network.output
        return self._unload(output, self._forward(value, keep=False)[output])

    def _forward(
        self, value: Tensor, *, keep: bool, accumulators: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        network = self.network
        values = {network.input: value}
        last = {name: operator.name for operator in network.operators for name in inputs_of(operator)}
        for operator in network.operators:
            values.update(self.operate(operator, values, accumulators))
            for name in () if keep else inputs_of(operator):
                if last[name] == operator.name and name != network.output:
                    values.pop(name, None)
        return values

    def accumulate(self, operator: Accumulating, values: Mapping[str, Tensor]) -> Tensor:
        """`acc` int64[T, B, C, H, W] of one operator; `values` in the layout of the module docstring."""
        with torch.no_grad(), plain_algorithms():
            if isinstance(operator, Attend):
                return self._attend(operator, values[operator.query], values[operator.keyvalue])
            if isinstance(operator, TemporalAttend):
                return self._attend_frames(operator, *(values[n] for n in inputs_of(operator)[:3]))
            return self._convolve(operator, values[operator.input])

    def operate(
        self, operator: Operator, values: Mapping[str, Tensor], accumulators: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Tensors that one operator of this network makes; layout and `accumulators` as in `accumulate` and `run`."""
        if isinstance(operator, KeyValue):
            return {operator.output: self._keyvalue(operator, values[operator.key], values[operator.value])}
        if isinstance(operator, Upsample):
            out = self.network.tensors[operator.output]
            return {operator.output: enlarge_to(values[operator.input], out.height, out.width)}
        accumulator = self.accumulate(operator, values)
        if accumulators is not None:
            accumulators[operator.name] = accumulator[:, 0].cpu()
        neuron = operator.neuron
        shortcut = values[neuron.shortcut] if neuron.shortcut is not None else None
        return neuron_stage(neuron, self._arrays, accumulator, shortcut, rounding=self._rounding)

    def _convolve(self, operator: Conv | Depthwise, x: Tensor) -> Tensor:
        weight, p = self._weights[operator.name], operator.padding
        steps = x.shape[:2]
        x = x.flatten(0, 1).to(weight.dtype)
        if isinstance(operator, Depthwise):
            y = F.conv2d(x, weight, padding=p, groups=weight.shape[0])
        else:
            if p and self.network.tensors[operator.input].kind == "pixels":
                x, p = pad_colour(x, p, torch.tensor(operator.pad_codes)), 0
            y = F.conv2d(x, weight, stride=operator.stride, padding=p)
        if isinstance(operator, MaxConv):
            y = F.max_pool2d(y, operator.window, operator.window_stride, operator.window_padding)
        return _integers(operator.name, y).unflatten(0, steps)

    def _keyvalue(self, operator: KeyValue, key: Tensor, value: Tensor) -> Tensor:
        dtype = exact_type(operator.name, self.bounds[operator.name])
        split = split_frames if operator.per_frame else split_heads
        k, v = (split(x, operator.heads).to(dtype) for x in (key, value))
        both = _integers(operator.name, k.transpose(-2, -1) @ v)
        if not operator.bipolar:
            return both.to(torch.int32)
        levels = self.network.tensors[operator.key].levels
        return (2 * both - levels * v.sum(dim=-2, keepdim=True).to(torch.int64)).to(torch.int32)

    def _attend(self, operator: Attend, query: Tensor, keyvalue: Tensor) -> Tensor:
        dtype = exact_type(operator.name, self.bounds[operator.name])
        per_frame, (t, b, _, h, w) = keyvalue.dim() == 5, query.shape
        q = (split_frames if per_frame else split_heads)(query, keyvalue.shape[-3]).to(dtype)
        q = 2 * q - self.network.tensors[operator.query].levels if operator.bipolar else q
        y = _integers(operator.name, q @ keyvalue.to(dtype))
        if per_frame:
            return y.transpose(-2, -1).reshape(t, b, -1, h, w)
        return y.transpose(-2, -1).reshape(b, -1, t, h, w).movedim(2, 0)

    def _attend_frames(self, operator: TemporalAttend, *tensors: Tensor) -> Tensor:
        """`tensors`: query, key, value."""
        dtype = exact_type(operator.name, self.bounds[operator.name])
        q, k, v = (split_pixels(x, operator.heads).to(dtype) for x in tensors)
        if operator.bipolar:
            q, k = (2 * x - self.network.tensors[n].levels for x, n in ((q, operator.query), (k, operator.key)))
        y = _integers(operator.name, q @ k.transpose(-2, -1) @ v)
        t, b, c, h, w = tensors[0].shape
        return y.permute(3, 0, 1, 4, 2).reshape(t, b, c, h, w)

    def _load(self, clip: Tensor | NDArray[Any], *, batched: bool) -> Tensor:
        tensor = self.network.tensors[self.network.input]
        shape = (self.network.frames, tensor.channels, tensor.height, tensor.width)
        if tensor.kind == "pixels":
            shape = (self.network.frames, tensor.height, tensor.width, tensor.channels)
        value = torch.as_tensor(clip)
        given = tuple(value.shape[1:] if batched else value.shape)
        if given != shape or value.dtype != DTYPES[tensor.kind]:
            raise ValueError(
                f"`clip` must be {DTYPES[tensor.kind]}{list(shape)}, not `{value.dtype}{list(given)}`")
        value = value.to(self.device) if batched else value.to(self.device)[None]
        return value.movedim(1, 0).movedim(-1, 2) if tensor.kind == "pixels" else value.movedim(1, 0)

    def _unload(self, name: str, value: Tensor) -> Tensor:
        """[B, ...] in the documented shape and type, on the CPU."""
        kind = self.network.tensors[name].kind
        if value.dim() == 5:
            value = value.movedim(0, 1)
        if kind == "pixels":
            value = value.movedim(2, -1)
        return value.to(DTYPES[kind]).contiguous().cpu()


def neuron_stage(
    neuron: Neuron,
    arrays: Mapping[str, Tensor],
    accumulator: Tensor,
    shortcut: Tensor | None = None,
    *,
    rounding: Rounding = round_shift,
) -> dict[str, Tensor]:
    """What a neuron stage makes of an accumulator, by tensor name.

    Args:
        neuron: The stage.
        arrays: int64[C] by the names that `neuron` uses.
        accumulator: int64[T, B, C, H, W].
        shortcut: int16[T, B, C, H, W], if the stage has one.
        rounding: `arithmetic.round_shift`, or a wrong one in tests.

    Returns:
        [T, B, C, H, W] in the element type of the kind; logits int32[B, C].
    """
    bias = _channels(arrays[neuron.bias])
    negate = _channels(arrays[neuron.negate]) if neuron.negate is not None else 0 * bias
    value = current(accumulator, bias, negate)
    made: dict[str, Tensor] = {}
    if neuron.logits is not None:
        made[neuron.logits] = saturate(value.sum(0).flatten(1), MEMBRANE_BITS).to(torch.int32)
    if neuron.shift is not None and neuron.mode != "direct":
        value = rounding(value, _channels(arrays[neuron.shift]))
    if neuron.planes is not None:
        made[neuron.planes] = saturate(value, PLANE_BITS).to(torch.int8)
    if neuron.mode == "residual":
        value = saturate(value if shortcut is None else value + shortcut, RESIDUAL_BITS)
    if neuron.residual is not None:
        made[neuron.residual] = value.to(torch.int16)
    if neuron.pool:
        value = saturate(value.sum((-2, -1), keepdim=True), MEMBRANE_BITS)
    if neuron.lif is not None and neuron.threshold is not None and neuron.spikes is not None:
        made[neuron.spikes] = fire(neuron.lif, value, arrays[neuron.threshold])
    return {name: made[name] for name in neuron.outputs}


def fire(lif: Lif, value: Tensor, threshold: Tensor) -> Tensor:
    """Spikes bool[T, B, C, H, W] of input currents int64[T, B, C, H, W] and thresholds int64[C], without guard bits.

    Thresholds int64[levels, C]: integer spikes uint8, the number of thresholds that fire.
    """
    if threshold.dim() > 1:
        return torch.stack([fire(lif, value, one) for one in threshold]).sum(0, dtype=torch.uint8)
    guarded = _channels(threshold)[0] << GUARD_BITS
    spikes = torch.empty_like(value, dtype=torch.bool)
    membrane = torch.zeros_like(value[0])
    for t in range(value.shape[0]):
        spike, membrane = lif_step(
            membrane, value[t] << GUARD_BITS, guarded, leak=lif.leak, reset=lif.reset, strict=lif.strict)
        spikes[t] = spike != 0
    return spikes


def _channels(array: Tensor) -> Tensor:
    return array.view(1, 1, -1, 1, 1)


def exact_type(name: str, bounds: Bounds) -> torch.dtype:
    """Float type in which sums of that magnitude are exact.

    Raises:
        NetworkError: There is none.
    """
    if bounds.magnitude < 1 << 24 and torch.get_float32_matmul_precision() == "highest":
        return torch.float32
    if bounds.magnitude < 1 << 53:
        return torch.float64
    raise NetworkError(f"operator {name}: sums of magnitude {bounds.magnitude} are not exact in float64")


@contextlib.contextmanager
def plain_algorithms() -> Iterator[None]:
    """Convolutions by multiplying and adding alone: Winograd and FFT would round."""
    with torch.backends.nnpack.flags(enabled=False), torch.backends.cudnn.flags(enabled=False, allow_tf32=False):
        yield


def _integers(name: str, y: Tensor) -> Tensor:
    """`y` as int64.

    Raises:
        NetworkError: `y` is not integral, so this platform's float arithmetic is not what the proof assumes.
    """
    result = y.to(torch.int64)
    if not torch.equal(result.to(y.dtype), y):
        raise NetworkError(f"operator {name}: this machine's floating-point sums of integers are not integers")
    return result


def pad_colour(x: Tensor, padding: int, codes: Tensor) -> Tensor:
    """`x` [N, 3, H, W] with a border of `padding` pixels of colour `codes`."""
    n, c, h, w = x.shape
    colour = codes.to(x).view(1, c, 1, 1)
    padded = colour.expand(n, c, h + 2 * padding, w + 2 * padding).clone()
    padded[:, :, padding:padding + h, padding:padding + w] = x
    return padded


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[T, B, C, H, W] -> [B, heads, T*H*W, C // heads]."""
    t, b, c, h, w = x.shape
    return x.movedim(0, 2).reshape(b, heads, c // heads, t * h * w).transpose(-2, -1)


def split_frames(x: Tensor, heads: int) -> Tensor:
    """[T, B, C, H, W] -> [T, B, heads, H*W, C // heads]."""
    t, b, c, h, w = x.shape
    return x.reshape(t, b, heads, c // heads, h * w).transpose(-2, -1)


def split_pixels(x: Tensor, heads: int) -> Tensor:
    """[T, B, C, H, W] -> [B, heads, H*W, T, C // heads]."""
    t, b, c, h, w = x.shape
    return x.reshape(t, b, heads, c // heads, h * w).permute(1, 2, 4, 0, 3)
