"""The integer network: a graph of operators on integer tensors, its file format and its checks.

`network.json` holds the graph, `network.safetensors` the arrays; both together have a content hash that goes into the
program, the driver and every report. Needs NumPy and safetensors only.

Tensors (shapes are per clip; T frames):

    kind       shape                    values
    pixels     uint8[T, H, W, 3]        0..255
    spikes     bool[T, C, H, W]         0, 1
    integers   uint8[T, C, H, W]        0..levels (integer spikes)
    residual   int16[T, C, H, W]        steps of 2**-fraction_bits
    planes     int8[T, C, H, W]         steps of 2**-fraction_bits (two's complement bit-planes)
    keyvalue   int32[heads, D, E]       K^T V of the whole clip, D and E channels per head of K and V; of every frame:
                                        [T, heads, D, E]
    logits     int32[classes]           sums over frames

The output is `logits`, or a `residual` tensor: values of every frame (pose: 1x1) or of every pixel (segmentation).

Operators run in list order; each one makes its tensors out of earlier ones. All but `KeyValue` and `Upsample` produce
an accumulator `acc[T, C, H, W]` which goes through a `Neuron` stage; see `spikeloom.arithmetic` for its equations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arithmetic import LEAKS, LEVELS_MAX, RESETS, SHIFT_MAX, SHIFT_MIN, WEIGHT_MAX

FORMAT_VERSION = 1
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
_OPERATORS: Mapping[str, type] = {
    "conv": Conv, "maxconv": MaxConv, "depthwise": Depthwise, "keyvalue": KeyValue, "attend": Attend,
    "temporalattend": TemporalAttend, "upsample": Upsample}


@dataclass(kw_only=True)
class Network:
    """An integer network.

    Attributes:
        frames: T, time steps of a clip.
        tensors: By name; exactly one of kind pixels (or a spikes tensor that no operator makes) is `input`.
        operators: In execution order.
        arrays: int8 weights and int32 per-channel arrays by name.
        input, output: Tensor names.
        metadata: Free JSON: class names, preprocessing, scale of the logits, how it was made.
        given: Further tensors that no operator makes; only parts of a network (`part`) have some.
    """

    frames: int
    tensors: dict[str, Tensor]
    operators: list[Operator]
    arrays: dict[str, NDArray[Any]]
    input: str
    output: str
    metadata: dict[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = ()

    def part(self, first: int, last: int) -> Network:
        """Operators [first, last) as a network of their own; what they read from others is `given`.

        Raises:
            NetworkError: No operators, none that reads spikes or pixels, or an attention without its K^T V.
        """
        operators = self.operators[max(0, first):last]
        if not operators:
            raise NetworkError(f"no operators in {first}:{last}, the network has {len(self.operators)}")
        made = {name for operator in operators for name in outputs_of(operator)}
        read = dict.fromkeys(name for operator in operators for name in inputs_of(operator) if name not in made)
        for name in read:
            if self.tensors[name].kind == "keyvalue":
                maker = self.producer(name)
                assert maker is not None
                raise NetworkError(f"{first}:{last} begins behind operator {maker.name}, whose K^T V it needs: begin "
                                   f"at {self.operators.index(maker)} or earlier")
        source = next((n for n in read if self.tensors[n].kind in ("pixels", *SPIKING)), None)
        if source is None:
            raise NetworkError(f"operators {first}:{last} read neither spikes nor pixels")
        tensors = {name: self.tensors[name] for name in (*read, *made)}
        return replace(
            self, operators=operators, tensors=tensors, input=source, output=outputs_of(operators[-1])[0],
            given=tuple(name for name in read if name != source))

    def description(self) -> dict[str, Any]:
        """The graph as JSON."""
        kinds = {cls: kind for kind, cls in _OPERATORS.items()}
        return {
            "format": "spikeloom-network", "version": FORMAT_VERSION, "frames": self.frames, "input": self.input,
            "output": self.output, "tensors": [asdict(t) for t in self.tensors.values()],
            "operators": [{"type": kinds[type(o)], **asdict(o)} for o in self.operators], "metadata": self.metadata,
            **({"given": list(self.given)} if self.given else {})}

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the graph and of every array's name, shape and bytes."""
        digest = hashlib.sha256(json.dumps(self.description(), sort_keys=True).encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def producer(self, tensor: str) -> Operator | None:
        """The operator that makes `tensor`, None for the input."""
        for operator in self.operators:
            if tensor in outputs_of(operator):
                return operator
        return None

    def save(self, directory: str | Path) -> None:
        """Write `network.json` and `network.safetensors` into `directory`."""
        from safetensors.numpy import save_file

        self.check()
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        save_file({n: np.ascontiguousarray(a) for n, a in self.arrays.items()}, directory / "network.safetensors")
        text = json.dumps({**self.description(), "hash": self.hash}, indent=1)
        (directory / "network.json").write_text(text + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> Network:
        """Read and check a network.

        Raises:
            NetworkError: A file is missing, malformed, truncated or does not match the stored hash.
        """
        from safetensors.numpy import load_file

        directory = Path(directory)
        path = directory / "network.json"
        try:
            data = json.loads(path.read_text())
            arrays = load_file(directory / "network.safetensors")
        except FileNotFoundError as error:
            raise NetworkError(f"{error.filename}: no such file; is `{directory}` a network directory?") from error
        except Exception as error:  # safetensors raises its own error class
            raise NetworkError(f"{directory}: cannot read the network: {error}") from error
        network = cls.from_description(data, arrays, where=str(path))
        if network.hash != data.get("hash"):
            raise NetworkError(f"{path}: content hash is {network.hash[:16]}..., file says {data.get('hash')!s:.16}...")
        return network

    @classmethod
    def from_description(cls, data: Any, arrays: dict[str, NDArray[Any]], *, where: str = "network") -> Network:
        """Build a network from JSON data. Raises NetworkError."""
        if not isinstance(data, dict) or data.get("format") != "spikeloom-network":
            raise NetworkError(f"{where}: not a spikeloom network")
        if data.get("version") != FORMAT_VERSION:
            raise NetworkError(f"{where}: version must be {FORMAT_VERSION}, not `{data.get('version')!r}`")
        try:
            tensors = {t["name"]: Tensor(**t) for t in data["tensors"]}
            operators = [_operator(o) for o in data["operators"]]
            network = cls(frames=data["frames"], tensors=tensors, operators=operators, arrays=arrays,
                          input=data["input"], output=data["output"], metadata=data.get("metadata", {}))
            network.check()
        except NetworkError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NetworkError(f"{where}: malformed graph: {error!r}") from error
        return network

    def check(self) -> None:
        """Check that graph and arrays fit each other.

        Raises:
            NetworkError: naming the operator or tensor.
        """
        if not isinstance(self.frames, int) or self.frames < 1:
            raise NetworkError(f"`frames` must be a positive integer, not `{self.frames!r}`")
        for tensor in self.tensors.values():
            if tensor.kind not in KINDS or min(tensor.channels, tensor.height, tensor.width) < 1:
                raise NetworkError(f"tensor {tensor.name}: bad kind or shape: {tensor}")
            if tensor.levels not in (range(2, LEVELS_MAX + 1) if tensor.kind == "integers" else (1,)):
                raise NetworkError(f"tensor {tensor.name}: levels must be 2..{LEVELS_MAX} of kind integers, 1 of all "
                                   f"others, not {tensor.levels!r} of {tensor.kind}")
        source = self.tensors.get(self.input)
        pixels = source is not None and source.kind == "pixels" and source.channels == 3
        if source is None or (source.kind not in SPIKING and not pixels):
            raise NetworkError(f"input {self.input}: must be a declared tensor of spikes or of pixels of 3 colours")
        made = {self.input, *self.given}
        names = [operator.name for operator in self.operators]
        for operator in self.operators:
            if names.count(operator.name) > 1:
                _fail(operator, "another operator has this name")
            _check_operator(self, operator, made)
            made.update(outputs_of(operator))
        if self.output not in made:
            raise NetworkError(f"output {self.output}: no operator makes it")


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


def _operator(data: dict[str, Any]) -> Operator:
    data = dict(data)
    kind = data.pop("type")
    if kind not in _OPERATORS:
        raise ValueError(f"unknown operator type `{kind!r}`")
    if "neuron" in data:
        neuron = dict(data["neuron"])
        if neuron.get("lif") is not None:
            neuron["lif"] = Lif(**neuron["lif"])
        data["neuron"] = Neuron(**neuron)
    if "pad_codes" in data:
        data["pad_codes"] = tuple(data["pad_codes"])
    cls = _OPERATORS[kind]
    unknown = set(data) - {f.name for f in fields(cls)}
    if unknown:
        raise ValueError(f"operator {data.get('name')}: unknown fields {sorted(unknown)}")
    return cls(**data)


def _fail(operator: Operator, reason: str) -> None:
    raise NetworkError(f"operator {operator.name}: {reason}")


def _array(network: Network, operator: Operator, name: str | None, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    if name not in network.arrays:
        _fail(operator, f"array {name} is missing")
    array = network.arrays[str(name)]
    if array.dtype != dtype or array.shape != shape:
        _fail(operator, f"array {name} must be {np.dtype(dtype)}{list(shape)}, not {array.dtype}{list(array.shape)}")
    return array


def _check_operator(network: Network, operator: Operator, made: set[str]) -> None:
    for name in inputs_of(operator):
        if name not in made or name not in network.tensors:
            _fail(operator, f"input {name} is not made by an earlier operator")
    for name in outputs_of(operator):
        if name not in network.tensors or name in made:
            _fail(operator, f"output {name} is undeclared or made twice")
    if isinstance(operator, KeyValue):
        key, value, out = (network.tensors[n] for n in (operator.key, operator.value, operator.output))
        if key.kind not in SPIKING or value.kind not in SPIKING or out.kind != "keyvalue":
            _fail(operator, "key and value must be spikes, the output keyvalue")
        if (key.height, key.width) != (value.height, value.width):
            _fail(operator, "key and value differ in height or width")
        for tensor in (key, value):
            if operator.heads < 1 or tensor.channels % operator.heads:
                _fail(operator, f"{operator.heads} heads do not divide {tensor.channels} channels")
        if out.channels != value.channels:
            _fail(operator, f"output {out.name} must have {value.channels} channels, not {out.channels}")
        return
    if isinstance(operator, Upsample):
        _check_upsample(network, operator)
        return
    _check_neuron(network, operator, _accumulator_shape(network, operator))


def _check_upsample(network: Network, operator: Upsample) -> None:
    source, out = (network.tensors[n] for n in (operator.input, operator.output))
    if operator.factor not in (2, None):
        _fail(operator, f"factor must be 2, not {operator.factor!r} (None: of a 1x1 map)")
    if operator.factor is None and (source.height, source.width) != (1, 1):
        _fail(operator, f"without a factor the input must be a 1x1 map, not {source}")
    if source.kind != "residual" or out.kind != "residual" or source.fraction_bits != out.fraction_bits:
        _fail(operator, "input and output must be residual and have the same fraction_bits")
    size = (out.height, out.width) if operator.factor is None else (2 * source.height, 2 * source.width)
    wanted = source.channels, *size
    if _shape(network, out.name) != wanted:
        _fail(operator, f"output {out.name} must be residual {list(wanted)}, not {out}")


def _accumulator_shape(network: Network, operator: Accumulating) -> tuple[int, int, int]:
    if isinstance(operator, TemporalAttend):
        query, key, value = (network.tensors[n] for n in (operator.query, operator.key, operator.value))
        shape = query.channels, query.height, query.width
        if not {query.kind, key.kind, value.kind} <= set(SPIKING):
            _fail(operator, "query, key and value must be spikes")
        if any((other.channels, other.height, other.width) != shape for other in (key, value)):
            _fail(operator, "query, key and value differ in shape")
        if operator.heads < 1 or query.channels % operator.heads:
            _fail(operator, f"{operator.heads} heads do not divide {query.channels} channels")
        return shape
    if isinstance(operator, Attend):
        query, source = network.tensors[operator.query], network.producer(operator.keyvalue)
        if query.kind not in SPIKING or not isinstance(source, KeyValue) or (
                query.channels != network.tensors[source.key].channels):
            _fail(operator, "query must be spikes and as wide as the key of keyvalue")
        return network.tensors[operator.keyvalue].channels, query.height, query.width
    source = network.tensors[operator.input]
    if source.kind not in ("pixels", "planes", *SPIKING):
        _fail(operator, f"input {source.name} of kind {source.kind} cannot be convolved")
    weight = network.arrays.get(operator.weight)
    if weight is None or weight.ndim != 4 or weight.dtype != np.int8:
        _fail(operator, f"array {operator.weight} must be int8[Co, Ci, kh, kw]")
    assert weight is not None
    if int(np.abs(weight.astype(np.int64)).max(initial=0)) > WEIGHT_MAX:
        _fail(operator, f"array {operator.weight} has a weight beyond {WEIGHT_MAX}")
    co, ci, kh, kw = weight.shape
    stride = operator.stride if isinstance(operator, Conv) else 1
    if stride < 1 or operator.padding < 0:
        _fail(operator, f"stride {stride} must be positive, padding {operator.padding} must not be negative")
    if isinstance(operator, Conv) and not (
            len(operator.pad_codes) == 3 and all(0 <= code <= 255 for code in operator.pad_codes)):
        _fail(operator, f"pad_codes must be three values in [0, 255], not {operator.pad_codes}")
    if isinstance(operator, Depthwise) and (kh > 7 or kh % 2 == 0 or source.kind == "pixels"):
        _fail(operator, f"a depthwise kernel must be odd, at most 7, on spikes or planes; not {kh} on {source.kind}")
    expected = source.channels if isinstance(operator, Conv) else 1
    if ci != expected or (isinstance(operator, Depthwise) and co != source.channels) or kh != kw:
        _fail(operator, f"weight {list(weight.shape)} does not fit {source.channels} input channels")
    size = [(n + 2 * operator.padding - kh) // stride + 1 for n in (source.height, source.width)]
    if min(size) < 1:
        _fail(operator, "the output has no pixels")
    if isinstance(operator, MaxConv):
        size = _pooled(operator, source, size)
    return co, size[0], size[1]


def _pooled(operator: MaxConv, source: Tensor, size: list[int]) -> list[int]:
    """Rows and columns of a max-pooled map of `size`."""
    neuron = operator.neuron
    if source.kind == "pixels":
        _fail(operator, "a maximum is of convolved spikes or planes, not of pixels")
    if neuron.mode != "residual" or neuron.residual is None or neuron.shortcut or neuron.negate or neuron.pool:
        _fail(operator, "a maximum needs mode residual and a residual output, and takes no shortcut, negate or pool")
    if min(operator.window, operator.window_stride) < 1 or not 0 <= 2 * operator.window_padding < operator.window:
        _fail(operator, f"no windows of {operator.window}, stride {operator.window_stride} and padding "
                        f"{operator.window_padding}")
    size = [operator.pooled(n) for n in size]
    if min(size) < 1:
        _fail(operator, "the output has no pixels")
    return size


def _check_neuron(network: Network, operator: Accumulating, shape: tuple[int, int, int]) -> None:
    neuron, channels = operator.neuron, shape[0]
    if neuron.mode not in MODES:
        _fail(operator, f"mode must be one of {MODES}, not `{neuron.mode!r}`")
    if neuron.levels not in range(1, LEVELS_MAX + 1) or (neuron.levels > 1 and neuron.lif is None):
        _fail(operator, f"levels must be 1..{LEVELS_MAX}, 1 without lif, not {neuron.levels!r}")
    _array(network, operator, neuron.bias, np.int32, (channels,))
    if neuron.negate is not None:
        negate = _array(network, operator, neuron.negate, np.int32, (channels,))
        if negate.min() < 0 or negate.max() > 1:
            _fail(operator, "negate must be 0 or 1")
    if neuron.mode != "direct":
        shift = _array(network, operator, neuron.shift, np.int32, (channels,))
        if shift.min() < SHIFT_MIN or shift.max() > SHIFT_MAX:
            _fail(operator, f"shifts must lie in [{SHIFT_MIN}, {SHIFT_MAX}]")
    if neuron.lif is not None:
        rows = (neuron.levels, channels) if neuron.levels > 1 else (channels,)
        threshold = _array(network, operator, neuron.threshold, np.int32, rows)
        if threshold.min() < 1 or threshold.max() >= 1 << 27:
            _fail(operator, "thresholds must lie in [1, 2**27)")
        if neuron.lif.leak not in LEAKS or neuron.lif.reset not in RESETS:
            _fail(operator, f"unknown neuron {neuron.lif}")
        if neuron.levels > 1 and (neuron.lif.leak != "memoryless" or (np.diff(threshold, axis=0) < 0).any()):
            _fail(operator, f"integer spikes need leak memoryless, not {neuron.lif.leak}, and thresholds that rise")
    if (neuron.lif is None) != (neuron.spikes is None):
        _fail(operator, "lif and spikes go together")
    allowed = {"direct": ("spikes", "logits"), "residual": ("spikes", "residual"), "planes": ("planes",)}[neuron.mode]
    given = tuple(k for k in ("spikes", "residual", "planes", "logits") if getattr(neuron, k) is not None)
    if not given or set(given) - set(allowed) or (len(given) == 2 and neuron.mode != "residual"):
        _fail(operator, f"mode {neuron.mode} cannot make {given}")
    if neuron.shortcut is not None and (
            neuron.mode != "residual" or network.tensors[neuron.shortcut].kind != "residual"
            or _shape(network, neuron.shortcut) != shape):
        _fail(operator, f"shortcut {neuron.shortcut} does not fit")
    if neuron.pool and (neuron.mode != "residual" or neuron.residual is not None):
        _fail(operator, "pool needs mode residual and no residual output")
    if neuron.logits is not None and shape[1:] != (1, 1):
        _fail(operator, "logits need a 1x1 map")
    for kind in given:
        tensor = network.tensors[getattr(neuron, kind)]
        wanted = (channels, 1, 1) if neuron.pool else shape
        made = "integers" if kind == "spikes" and neuron.levels > 1 else kind
        if (tensor.kind, tensor.levels) != (made, neuron.levels if kind == "spikes" else 1) or (
                _shape(network, tensor.name) != wanted):
            _fail(operator, f"output {tensor.name} must be {made} {list(wanted)}, not {tensor}")


def _shape(network: Network, name: str) -> tuple[int, int, int]:
    tensor = network.tensors[name]
    return tensor.channels, tensor.height, tensor.width
