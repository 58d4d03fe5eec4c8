"""The reference against loops over Python integers, and the faults that it must not hide."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from spikeloom.bounds import Bounds
from spikeloom.network import Attend, Conv, KeyValue, Lif, MaxConv, Network, NetworkError, TemporalAttend, Upsample
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_limits import FURTHER_THEMES
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.random_stages import steps
from spikeloom.quantize.reference import DTYPES, Reference, exact_type, fire

SMALL = {"channels": 6, "size": 5, "frames": (1, 3, 4), "operators": 6}


def naive(network: Network, clip: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor, by loops over Python integers, from the docstrings of spikeloom.network and .arithmetic."""
    values = {network.input: clip.astype(object)}
    for operator in network.operators:
        if isinstance(operator, KeyValue):
            key, value, levels = values[operator.key], values[operator.value], network.tensors[operator.key].levels
            if operator.per_frame:
                frames = [naive_keyvalue(operator, key[t:t + 1], value[t:t + 1], levels) for t in range(network.frames)]
                values[operator.output] = np.array(frames)
            else:
                values[operator.output] = naive_keyvalue(operator, key, value, levels)
            continue
        if isinstance(operator, Upsample):
            given = values[operator.input]
            wide = network.tensors[operator.output]
            out = np.zeros((*given.shape[:2], wide.height, wide.width), dtype=object)
            for t, c, y, x in np.ndindex(out.shape):
                place = (y // 2, x // 2) if operator.factor == 2 else (0, 0)
                out[t, c, y, x] = given[t, c][place]
            values[operator.output] = out
            continue
        if isinstance(operator, Attend):
            levels = network.tensors[operator.query].levels
            accumulator = naive_attend(operator, values[operator.query], values[operator.keyvalue], levels)
        elif isinstance(operator, TemporalAttend):
            names = operator.query, operator.key, operator.value
            levels = [network.tensors[name].levels for name in names[:2]]
            query, key, value = (values[name] for name in names)
            accumulator = naive_temporal(operator, query, key, value, levels)
        else:
            accumulator = naive_convolution(network, operator, values[operator.input])
        if isinstance(operator, MaxConv):
            accumulator = naive_maximum(operator, accumulator)
        values.update(naive_neuron(network, operator.neuron, accumulator, values))
    return values


def naive_convolution(network, operator, x):
    weight = network.arrays[operator.weight].astype(object)
    pixels = network.tensors[operator.input].kind == "pixels"
    x = np.moveaxis(x, 3, 1) if pixels else x
    dense = isinstance(operator, Conv)
    stride, padding = operator.stride if dense else 1, operator.padding
    steps, _, height, width = x.shape
    co, ci, k, _ = weight.shape
    rows, columns = ((n + 2 * padding - k) // stride + 1 for n in (height, width))
    out = np.zeros((steps, co, rows, columns), dtype=object)
    for t, o, y, c in np.ndindex(out.shape):
        total = 0
        for i, dy, dx in itertools.product(range(ci), range(k), range(k)):
            row, column = y * stride + dy - padding, c * stride + dx - padding
            if 0 <= row < height and 0 <= column < width:
                total += int(weight[o, i, dy, dx]) * int(x[t, i if dense else o, row, column])
            elif pixels:
                total += int(weight[o, i, dy, dx]) * operator.pad_codes[i]
        out[t, o, y, c] = total
    return out


def naive_maximum(operator, x):
    rows, columns = ([[i for i in range(begin, begin + operator.window) if 0 <= i < size]
                      for begin in range(-operator.window_padding, size + operator.window_padding - operator.window + 1,
                                         operator.window_stride)] for size in x.shape[2:])
    out = np.zeros((*x.shape[:2], len(rows), len(columns)), dtype=object)
    for t, c, y, column in np.ndindex(out.shape):
        out[t, c, y, column] = max(x[t, c, i, j] for i in rows[y] for j in columns[column])
    return out


def naive_keyvalue(operator, key, value, levels):
    """`levels` of the key."""
    keys, values = (x.shape[1] // operator.heads for x in (key, value))
    out = np.zeros((operator.heads, keys, values), dtype=object)
    for head, i, j in np.ndindex(out.shape):
        for k, v in zip(key[:, head * keys + i].flat, value[:, head * values + j].flat, strict=True):
            out[head, i, j] += (2 * int(k) - levels if operator.bipolar else int(k)) * int(v)
    return out


def naive_attend(operator, query, keyvalue, levels):
    """`levels` of the query."""
    heads, keys, values = keyvalue.shape[-3:]
    out = np.zeros((len(query), heads * values, *query.shape[2:]), dtype=object)
    for t, c, y, x in np.ndindex(out.shape):
        head = c // values
        for i in range(keys):
            q, m = int(query[t, head * keys + i, y, x]), keyvalue[t] if keyvalue.ndim == 4 else keyvalue
            out[t, c, y, x] += (2 * q - levels if operator.bipolar else q) * m[head, i, c % values]
    return out


def naive_temporal(operator, query, key, value, levels):
    """`levels` of query and key."""
    width = query.shape[1] // operator.heads
    out = np.zeros(query.shape, dtype=object)
    for t, c, y, x in np.ndindex(out.shape):
        for s in range(len(key)):
            score = 0
            for i in range(c // width * width, c // width * width + width):
                q, k = int(query[t, i, y, x]), int(key[s, i, y, x])
                score += (2 * q - levels[0]) * (2 * k - levels[1]) if operator.bipolar else q * k
            out[t, c, y, x] += score * int(value[s, c, y, x])
    return out


def clip_to(value, bits):
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, value))


def naive_neuron(network, neuron, accumulator, values):
    arrays = network.arrays
    current = np.zeros(accumulator.shape, dtype=object)
    for t, c, y, x in np.ndindex(current.shape):
        value = int(accumulator[t, c, y, x])
        value = -value if neuron.negate and arrays[neuron.negate][c] else value
        value += int(arrays[neuron.bias][c])
        if neuron.mode != "direct":
            shift = int(arrays[neuron.shift][c])
            value = value * 2 ** -shift if shift <= 0 else (value + 2 ** (shift - 1)) // 2 ** shift
        if neuron.mode == "residual":
            value = clip_to(value + (int(values[neuron.shortcut][t, c, y, x]) if neuron.shortcut else 0), 16)
        current[t, c, y, x] = clip_to(value, 8) if neuron.mode == "planes" else value
    made = {neuron.planes: current, neuron.residual: current}
    if neuron.logits:
        made[neuron.logits] = current.sum(axis=(0, 2, 3))
    if neuron.pool:
        current = current.sum(axis=(2, 3), keepdims=True)
    if neuron.spikes:
        thresholds = np.atleast_2d(arrays[neuron.threshold])
        made[neuron.spikes] = np.sum([naive_lif(neuron.lif, current, one) for one in thresholds], axis=0)
    return {name: value for name, value in made.items() if name is not None}


def naive_lif(lif, current, thresholds):
    spikes = np.zeros(current.shape, dtype=object)
    for c, y, x in np.ndindex(current.shape[1:]):
        membrane, threshold = 0, int(thresholds[c]) * 16
        for t in range(current.shape[0]):
            inflow = int(current[t, c, y, x]) * 16
            membrane = {"none": membrane + inflow, "decayed": (membrane + inflow) // 2,
                        "half": membrane // 2 + inflow, "quarter": membrane // 4 + inflow,
                        "memoryless": inflow}[lif.leak]
            membrane = clip_to(membrane, 32)
            if membrane > threshold or (membrane == threshold and not lif.strict):
                spikes[t, c, y, x] = 1
                membrane = 0 if lif.reset == "hard" else membrane - threshold
    return spikes


@pytest.mark.parametrize(("seed", "theme"), [
    *((seed, "") for seed in range(24)), *((seed, theme) for seed in (24, 25) for theme in FURTHER_THEMES),
    (28, "integers")])
def test_against_loops(seed, theme):
    network = random_network(seed, theme=theme, **SMALL)
    clip = random_clip(network, seed + 1)
    expected, found = naive(network, clip), Reference(network).run(clip)
    assert list(found) == [network.input, *(n for n in network.tensors if n != network.input)]
    for name, tensor in found.items():
        assert tensor.dtype == DTYPES[network.tensors[name].kind], name
        assert torch.equal(tensor, torch.from_numpy(expected[name].astype(np.int64)).to(tensor.dtype)), name


def test_shapes_and_accumulators():
    network = random_network(3, **SMALL)
    clip, accumulators = random_clip(network, 0), {}
    values = Reference(network).run(clip, accumulators=accumulators)
    assert torch.equal(values[network.input], torch.from_numpy(clip))
    assert set(accumulators) == {o.name for o in network.operators if not isinstance(o, KeyValue | Upsample)}
    for operator in network.operators:
        if isinstance(operator, Conv):
            weight = network.arrays[operator.weight]
            assert accumulators[operator.name].shape[:2] == (network.frames, weight.shape[0])
            assert accumulators[operator.name].dtype == torch.int64


@pytest.mark.parametrize("seed", [3, 6, 16])
def test_batch_is_clip_by_clip(seed):
    network = random_network(seed, **SMALL)
    clips = np.stack([random_clip(network, i) for i in range(3)])
    reference = Reference(network)
    batch = reference.infer_batch(clips)
    for clip, output in zip(clips, batch, strict=True):
        assert torch.equal(reference.infer(clip), output)
        assert torch.equal(reference.run(clip)[network.output], output)


@pytest.mark.parametrize("levels", [2, 4, 7])
def test_integer_spikes_are_rounded_and_clamped(levels):
    """Thresholds at (i - 1/2) steps make round(clamp(x / step, 0, levels)), rounded half up."""
    step = torch.tensor([1, 2, 16, 1 << 12])
    value = torch.randint(-9 << 12, 9 << 12, (3, 2, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    value >>= torch.tensor([12, 11, 8, 0]).view(4, 1, 1)
    spikes = fire(Lif(leak="memoryless"), value, steps(step, levels))
    wanted = (value / step.view(4, 1, 1)).clamp(0, levels)
    assert spikes.dtype == torch.uint8
    assert torch.equal(spikes, (wanted + 0.5).floor().to(torch.uint8))


def test_a_changed_rounding_is_found():
    def half_down(value, shift):
        return -((-(value << 8) + ((1 << (shift + 8)) >> 1)) >> (shift + 8))

    network = random_network(2, **SMALL)
    clip = random_clip(network, 0)
    right, wrong = Reference(network).run(clip), Reference(network, rounding=half_down).run(clip)
    assert any(not torch.equal(right[name], wrong[name]) for name in right)


@pytest.fixture
def reduced_precision():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("seed", [2, 3])
def test_reduced_float32_precision_is_avoided(seed, reduced_precision):
    assert exact_type("x", Bounds(accumulator=(0, 0), magnitude=10)) == torch.float64
    network = random_network(seed, **SMALL)
    clip = random_clip(network, 0)
    expected = naive(network, clip)[network.output]
    assert torch.equal(Reference(network).infer(clip).to(torch.int64), torch.from_numpy(expected.astype(np.int64)))


@pytest.mark.parametrize(("magnitude", "dtype"), [
    (2 ** 24 - 1, torch.float32), (2 ** 24, torch.float64), (2 ** 53 - 1, torch.float64)])
def test_exact_type(magnitude, dtype):
    assert exact_type("x", Bounds(accumulator=(0, 0), magnitude=magnitude)) == dtype


def test_no_exact_type():
    with pytest.raises(NetworkError, match=r"operator x: sums of magnitude \d+ are not exact in float64"):
        exact_type("x", Bounds(accumulator=(0, 0), magnitude=2 ** 53))


@pytest.mark.parametrize("change", [
    lambda clip: clip[:, :, :, :-1], lambda clip: clip.astype(np.int16), lambda clip: clip[None]])
def test_refuses_other_clips(change):
    network = random_network(1, channels=4, size=4)
    with pytest.raises(ValueError, match=r"`clip` must be torch.bool\["):
        Reference(network).run(change(random_clip(network, 0)))


def test_refuses_malformed_networks():
    network = random_network(1, **SMALL)
    with pytest.raises(NetworkError, match="no operator makes it"):
        Reference(replace(network, output="nothing"))
