"""Tensors and operators of the integer network; `spikeloom.network` has all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

KINDS = ("pixels", "spikes", "integers", "residual", "planes", "keyvalue", "logits")
SPIKING = ("spikes", "integers")
"""Kinds that neurons fire: what attention works on."""

MODES = ("direct", "residual", "planes")


class NetworkError(ValueError):
    """A malformed integer network: the message names file, operator or tensor."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Name, kind and shape of a tensor. `channels` is 3 for pixels, E*heads for keyvalue, classes for logits.

    `levels`: largest value of integer spikes, 2..LEVELS_MAX; 1 for all other kinds.
    """

    name: str
    kind: str
    channels: int
    height: int = 1
    width: int = 1
    fraction_bits: int = 0
    levels: int = 1


@dataclass(frozen=True, kw_only=True)
class Lif:
    """Neuron variant. The threshold is an array of the stage (`threshold`)."""

    leak: str = "decayed"
    reset: str = "hard"
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """What happens to an accumulator; names of arrays (`int32[C]` each) and tensors.

    `mode` direct: `X = a`, needs `lif` or `logits`. residual: `r` from `shift` and the optional `shortcut`; any of
    the outputs `residual`, `spikes`. With `pool` the spikes are of the spatial sum of r (size 1x1). planes: `planes`.
    `logits`: direct mode without lif; output is the sum of `a` over frames, one value per channel (size 1x1 only).
    `levels` > 1: `spikes` is a tensor of integer spikes, each the number of thresholds that are reached; `threshold` is
    int32[levels, C], rising, and the leak "memoryless".
    """

    mode: str
    bias: str
    shift: str | None = None
    negate: str | None = None
    threshold: str | None = None
    lif: Lif | None = None
    levels: int = 1
    shortcut: str | None = None
    pool: bool = False
    spikes: str | None = None
    residual: str | None = None
    planes: str | None = None
    logits: str | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors made, in the order spikes, residual, planes, logits."""
        return tuple(n for n in (self.spikes, self.residual, self.planes, self.logits) if n is not None)


@dataclass(frozen=True, kw_only=True)
class Conv:
    """Dense convolution. `weight` names int8[Co, Ci, kh, kw]; on pixels, borders are padded with `pad_codes`
    (one uint8 per colour), elsewhere with zero. `padding` and `stride` hold for both directions.
    A linear layer is a 1x1 convolution on a 1x1 map."""

    name: str
    input: str
    weight: str
    stride: int = 1
    padding: int = 0
    pad_codes: tuple[int, int, int] = (0, 0, 0)
    neuron: Neuron


@dataclass(frozen=True, kw_only=True)
class MaxConv(Conv):
    """Dense convolution and signed max-pooling: acc[t, c, y, x] is the largest value of the convolution in a window of
    `window` x `window` outputs that begins at (y, x) * `window_stride` - `window_padding`; what lies outside the map
    does not count. 2 * `window_padding` < `window`. Of spikes or planes; the neuron stage has mode residual and a
    residual output, and neither shortcut, negate nor pool."""

    window: int = 3
    window_stride: int = 2
    window_padding: int = 1

    @classmethod
    def of(cls, conv: Conv, window: int, stride: int, padding: int) -> MaxConv:
        """`conv` with a maximum behind it."""
        values = {field.name: getattr(conv, field.name) for field in fields(Conv)}
        return cls(**values, window=window, window_stride=stride, window_padding=padding)

    def pooled(self, size: int) -> int:
        """Rows or columns of the result, for so many of the convolution."""
        return (size + 2 * self.window_padding - self.window) // self.window_stride + 1


@dataclass(frozen=True, kw_only=True)
class Depthwise:
    """Depthwise convolution, stride 1, `weight` names int8[C, 1, k, k], k in 1..7 odd; zero padding. Input spikes or
    planes."""

    name: str
    input: str
    weight: str
    padding: int = 0
    neuron: Neuron


@dataclass(frozen=True, kw_only=True)
class KeyValue:
    """K^T V over all tokens of the clip, or with `per_frame` over those of each frame. bipolar (Hamming):
    M_ij = 2*popcount(K_i & V_j) - popcount(V_j); otherwise M_ij = popcount(K_i & V_j). Channel c of K belongs to
    head c // D, of V to head c // E: V may be wider or narrower than K. Of integer spikes: M_ij = sum (2 K_i -
    levels of K) V_j, otherwise sum K_i V_j."""

    name: str
    key: str
    value: str
    heads: int
    bipolar: bool
    output: str
    per_frame: bool = False


@dataclass(frozen=True, kw_only=True)
class Attend:
    """Y_nj = sum_i q_ni M_ij within a head, q = 2Q - levels of Q if bipolar (of binary spikes 2Q-1), else Q; M of the
    frame if there is one per frame. It is as wide as V."""

    name: str
    query: str
    keyvalue: str
    bipolar: bool
    neuron: Neuron


@dataclass(frozen=True, kw_only=True)
class TemporalAttend:
    """Attention from frame to frame within a pixel and head: acc[t, c] = sum_s S[t, s] * value[s, c] over all frames s,
    with S[t, s] = D - 2*popcount(query_t ^ key_s) if bipolar (Hamming), else popcount(query_t & key_s); D = C / heads,
    channel c belongs to head c // D. Of integer spikes: S[t, s] = sum (2 query_t - levels of query) (2 key_s - levels
    of key) over the channels of the head, otherwise sum query_t key_s."""

    name: str
    query: str
    key: str
    value: str
    heads: int
    bipolar: bool
    neuron: Neuron


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Nearest neighbour: output[t, c, y, x] = input[t, c, y // factor, x // factor], residual tensors of the same
    `fraction_bits`. The result may be the shortcut of later neuron stages. `factor` is 2, or None: the input is a 1x1
    map, whose value every pixel of the output has."""

    name: str
    input: str
    output: str
    factor: int | None = 2


Accumulating = Conv | Depthwise | Attend | TemporalAttend
"""Operators with an accumulator and a neuron stage."""

Operator = Accumulating | KeyValue | Upsample

OPERATORS: Mapping[str, type] = {
    "conv": Conv, "maxconv": MaxConv, "depthwise": Depthwise, "keyvalue": KeyValue, "attend": Attend,
    "temporalattend": TemporalAttend, "upsample": Upsample}
"""By their name in the file."""


def outputs_of(operator: Operator) -> tuple[str, ...]:
    """Names of the tensors that an operator makes."""
    return (operator.output,) if isinstance(operator, (KeyValue, Upsample)) else operator.neuron.outputs


def inputs_of(operator: Operator) -> tuple[str, ...]:
    """Names of the tensors that an operator reads."""
    if isinstance(operator, KeyValue):
        return (operator.key, operator.value)
    if isinstance(operator, Upsample):
        return (operator.input,)
    if isinstance(operator, TemporalAttend):
        first: tuple[str, ...] = (operator.query, operator.key, operator.value)
    else:
        first = (operator.query, operator.keyvalue) if isinstance(operator, Attend) else (operator.input,)
    return first + ((operator.neuron.shortcut,) if operator.neuron.shortcut else ())


def operator_of(data: dict[str, Any]) -> Operator:
    """The operator that JSON data describes. Raises KeyError, TypeError or ValueError."""
    data = dict(data)
    kind = data.pop("type")
    if kind not in OPERATORS:
        raise ValueError(f"unknown operator type `{kind!r}`")
    if "neuron" in data:
        neuron = dict(data["neuron"])
        if neuron.get("lif") is not None:
            neuron["lif"] = Lif(**neuron["lif"])
        data["neuron"] = Neuron(**neuron)
    if "pad_codes" in data:
        data["pad_codes"] = tuple(data["pad_codes"])
    cls = OPERATORS[kind]
    unknown = set(data) - {f.name for f in fields(cls)}
    if unknown:
        raise ValueError(f"operator {data.get('name')}: unknown fields {sorted(unknown)}")
    return cls(**data)
