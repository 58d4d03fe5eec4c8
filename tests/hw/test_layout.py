"""Tensors <-> DDR bytes, against the bit positions of docs/machine.md."""

from dataclasses import replace

import numpy as np
import pytest

from spikeloom.arithmetic import split_limbs
from spikeloom.config import MachineConfig, preset
from spikeloom.hw.program.constants import pack_weights, unpack_weights
from spikeloom.hw.program.layout import (
    NETWORK_DTYPES,
    ChannelMap,
    KeyValueLayout,
    Region,
    TensorPlace,
    network_shape,
    tensor_size,
)

CONFIGS = {
    "tiny": preset("tiny"), "zcu104": preset("zcu104"),
    "narrow": MachineConfig(lanes=2, word_channels=16, banks=2, output_words=2, load_groups=4, depthwise_rows=2)}


LEVELS = 5


def _place(config, kind, frames=5, channels=21, height=3, width=4, group=None):
    place = TensorPlace(
        name="t", kind=kind, region=Region.WORKSPACE, offset=0, size=0, frames=frames, channels=channels,
        height=height, width=width, group=group or channels, levels=LEVELS if kind == "integers" else 1)
    return replace(place, size=tensor_size(place, config))


def _random(place, rng):
    dtype, shape = NETWORK_DTYPES[place.kind], network_shape(place)
    if dtype is np.bool_:
        return rng.random(shape) < 0.5
    if place.kind == "integers":
        return rng.integers(0, LEVELS, shape, dtype=dtype, endpoint=True)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("kind", "channels", "group"), [
    ("spikes", 21, None), ("spikes", 90, 45), ("planes", 21, 7), ("residual", 36, 12), ("logits", 21, None),
    ("pixels", 3, None), ("integers", 90, 45)])
def test_round_trip(config, kind, channels, group):
    rng = np.random.default_rng(1)
    place = _place(config, kind, channels=channels, group=group)
    array = _random(place, rng)
    data = place.pack(array, config)
    assert len(data) == place.size
    assert len(data) % config.beat_bytes == 0
    assert np.array_equal(place.unpack(data, config), array)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_bit_positions(config):
    """One value, alone, is where the document says."""
    rng = np.random.default_rng(2)
    beat, lanes, wc = config.beat_bytes, config.lanes, config.word_channels
    for _ in range(30):
        frames, heads, width = int(rng.integers(1, 20)), int(rng.integers(1, 4)), int(rng.integers(1, 50))
        h, w = (int(v) for v in rng.integers(1, 6, 2))
        t, head, c, y, x = (int(rng.integers(n)) for n in (frames, heads, width, h, w))
        words = -(-width // wc)
        word, channel = head * words + c // wc, c % wc
        item = ((t // lanes * heads * words + word) * h + y) * w + x
        level = (item // (h * w) * LEVELS) * h * w + item % (h * w)  # the first map of the word
        for kind, value in (("spikes", 1), ("residual", -12345), ("planes", 0b01010010), ("integers", 3)):
            place = _place(config, kind, frames, heads * width, h, w, width)
            array = np.zeros(network_shape(place), dtype=NETWORK_DTYPES[kind])
            array[t, head * width + c, y, x] = value
            number = int.from_bytes(place.pack(array, config), "little")
            bit = channel * lanes + t % lanes
            expected = {
                "spikes": 1 << item * beat * 8 + bit,
                "integers": sum(1 << (level + i * h * w) * beat * 8 + bit for i in range(value)),
                "residual": (value & 0xFFFF) << (item * 16 * beat * 8 + 16 * bit),
                "planes": sum((value >> p & 1) << ((item * 8 + p) * beat * 8 + bit) for p in range(8))}[kind]
            assert number == expected, kind


def test_pixels_and_logits():
    config = preset("tiny")
    place = _place(config, "pixels", frames=2, channels=3, height=2, width=3)
    clip = np.arange(36, dtype=np.uint8).reshape(2, 2, 3, 3)
    rows = np.frombuffer(place.pack(clip, config), dtype=np.uint8).reshape(4, 12)
    assert np.array_equal(rows[:, :9], clip.reshape(4, 9))
    assert not rows[:, 9:].any()
    logits = _place(config, "logits", channels=10)
    values = np.arange(-5, 5, dtype=np.int32)
    assert logits.pack(values, config)[:40] == values.astype("<i4").tobytes()
    assert logits.size == 64


def test_pack_checks_its_argument():
    config = preset("tiny")
    place = _place(config, "spikes")
    with pytest.raises(ValueError, match=r"`t` must be bool\[5, 21, 3, 4\], not `uint8\[5, 21, 3, 4\]`"):
        place.pack(np.zeros((5, 21, 3, 4), dtype=np.uint8), config)
    with pytest.raises(ValueError, match=r"must have .* bytes, not `3`"):
        place.unpack(b"abc", config)


def test_channel_map():
    config = preset("tiny")
    assert ChannelMap.of(90, 45, config).words == 12
    assert list(ChannelMap.of(4, 2, config).physical) == [0, 1, 8, 9]
    assert ChannelMap.of(32, 16, config) == ChannelMap.of(32, 32, config)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_weight_chunk(config):
    """Byte of (input, output) as the formula has it."""
    rng = np.random.default_rng(3)
    chunk = rng.integers(-127, 128, (1, config.inputs, config.outputs), dtype=np.int8)
    data = np.frombuffer(pack_weights(chunk, config), dtype=np.int8).reshape(-1, config.weight_row_bytes)
    assert len(data) == config.chunk_rows
    for i in range(config.inputs):
        group = i // 4
        row, slot = group // config.load_groups * 4 + i % 4, group % config.load_groups
        assert np.array_equal(data[row, slot * config.outputs:(slot + 1) * config.outputs], chunk[0, i])
    assert np.array_equal(unpack_weights(data.view(np.uint8), config), chunk[0])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("heads", "width", "wide"), [
    (1, 5, 5), (2, 12, 12), (3, 45, 45), (8, 16, 16), (5, 7, 7), (2, 4, 16), (3, 12, 45), (3, 24, 5)])
def test_keyvalue(config, heads, width, wide):
    """Chunks that hold the limbs of M where the array wants them are read as M."""
    rng = np.random.default_rng(heads)
    limbs = 2
    layout = KeyValueLayout(heads * width, heads * wide, heads, limbs, config)
    matrix = rng.integers(-8000, 8000, (heads, width, wide), endpoint=True)
    words, wc, fold = heads * layout.key_words, config.word_channels, layout.fold
    dense = np.zeros((words, wc, layout.words, wc), dtype=np.int64)
    flat = dense.reshape(words * wc, layout.words * wc)
    keys, values = (ChannelMap.of(heads * d, d, config).physical.reshape(heads, d) for d in (width, wide))
    for head in range(heads):
        flat[np.ix_(keys[head], values[head])] = matrix[head]
    data = bytearray(layout.size)
    for tile in range(layout.tiles):
        for limb, values in enumerate(split_limbs(dense, limbs)):
            for slot in layout.slots(tile):
                chunk = np.zeros((config.banks, wc, config.output_words, wc), dtype=np.int8)
                for bank in range(min(fold, words - slot * fold)):
                    part = values[slot * fold + bank][:, tile * config.output_words:(tile + 1) * config.output_words]
                    chunk[bank, :, :part.shape[1]] = part
                packed = pack_weights(chunk.reshape(1, config.inputs, config.outputs), config)
                start = layout.chunk_offset(tile, limb, slot)
                assert not any(data[start:start + len(packed)])
                data[start:start + len(packed)] = packed
    assert np.array_equal(layout.unpack(np.frombuffer(bytes(data), dtype=np.uint8)), matrix)
