"""What a well-formed integer network is: tensors, operators and arrays that fit each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arithmetic import LEAKS, LEVELS_MAX, RESETS, SHIFT_MAX, SHIFT_MIN, WEIGHT_MAX
from .network_operators import (
    KINDS,
    MODES,
    SPIKING,
    Accumulating,
    Attend,
    Conv,
    Depthwise,
    KeyValue,
    MaxConv,
    NetworkError,
    Operator,
    TemporalAttend,
    Tensor,
    Upsample,
    inputs_of,
    outputs_of,
)

if TYPE_CHECKING:
    from .network import Network


def check_network(network: Network) -> None:
    """Check that graph and arrays fit each other.

    Raises:
        NetworkError: naming the operator or tensor.
    """
    if not isinstance(network.frames, int) or network.frames < 1:
        raise NetworkError(f"`frames` must be a positive integer, not `{network.frames!r}`")
    for tensor in network.tensors.values():
        if tensor.kind not in KINDS or min(tensor.channels, tensor.height, tensor.width) < 1:
            raise NetworkError(f"tensor {tensor.name}: bad kind or shape: {tensor}")
        if tensor.levels not in (range(2, LEVELS_MAX + 1) if tensor.kind == "integers" else (1,)):
            raise NetworkError(f"tensor {tensor.name}: levels must be 2..{LEVELS_MAX} of kind integers, 1 of all "
                               f"others, not {tensor.levels!r} of {tensor.kind}")
    source = network.tensors.get(network.input)
    pixels = source is not None and source.kind == "pixels" and source.channels == 3
    if source is None or (source.kind not in SPIKING and not pixels):
        raise NetworkError(f"input {network.input}: must be a declared tensor of spikes or of pixels of 3 colours")
    made = {network.input, *network.given}
    names = [operator.name for operator in network.operators]
    for operator in network.operators:
        if names.count(operator.name) > 1:
            _fail(operator, "another operator has this name")
        _check_operator(network, operator, made)
        made.update(outputs_of(operator))
    if network.output not in made:
        raise NetworkError(f"output {network.output}: no operator makes it")


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
