"""Where tensors lie: channel maps, DDR layouts and the conversion between NumPy arrays and DDR bytes.

The layouts are those of `docs/machine.md`. A channel map says at which physical channel a tensor's channel sits: in
groups of `group` channels, each starting at a new word. A plain tensor is one group; tensors of an attention (q, k, v
and what it makes) have one group per head, so that a word belongs to one head.
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.arithmetic import LIMB_BITS, PLANE_BITS
from spikeloom.config import MachineConfig

Bytes = NDArray[np.uint8]


class Region(enum.IntEnum):
    """DDR regions, in the order of `registers.REGION_NAMES`."""

    PROGRAM = 0
    WORKSPACE = 1
    INPUT = 2
    OUTPUT = 3


ITEM_BEATS = {"spikes": 1, "integers": 1, "planes": PLANE_BITS, "residual": 16}
"""Beats of one word of one pixel, by kind of tensor; of integer spikes, in each of their maps."""


def ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)


def power_of_two_above(value: int) -> int:
    """Smallest power of two >= `value`."""
    return 1 << (value - 1).bit_length()


@dataclass(frozen=True)
class ChannelMap:
    """Physical places of `channels` channels in groups of `group`; see the module docstring. Use `of`."""

    channels: int
    group: int
    word_channels: int

    @classmethod
    def of(cls, channels: int, group: int, config: MachineConfig) -> ChannelMap:
        """The map in its normal form: groups that fill their words are no groups."""
        if group % config.word_channels == 0:
            group = channels
        return cls(channels, group, config.word_channels)

    @property
    def group_words(self) -> int:
        return ceil_div(self.group, self.word_channels)

    @property
    def words(self) -> int:
        return self.channels // self.group * self.group_words

    @property
    def physical(self) -> NDArray[np.intp]:
        """Physical channel of every channel."""
        c = np.arange(self.channels)
        return c // self.group * self.group_words * self.word_channels + c % self.group

    def spread(self, array: NDArray[Any], axis: int, fill: int = 0) -> NDArray[Any]:
        """Channels of `axis` at their physical places, `fill` elsewhere."""
        shape = list(array.shape)
        shape[axis] = self.words * self.word_channels
        result = np.full(shape, fill, dtype=array.dtype)
        index: list[Any] = [slice(None)] * array.ndim
        index[axis] = self.physical
        result[tuple(index)] = array
        return result

    def gather(self, array: NDArray[Any], axis: int) -> NDArray[Any]:
        """Inverse of `spread`."""
        return np.take(array, self.physical, axis=axis)


@dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """A tensor in DDR: `size` bytes at `offset` of `region`. `group`: see ChannelMap. `heads`, `keys`, `limbs`: of a
    keyvalue, `keys` channels of K and `channels` of V; `matrices`: one per frame; 0 if there is one for the clip.

    `levels`: as in `spikeloom.network`; integer spikes of 0..levels are that many maps of spikes, see `thermometer`.

    `stored`: the program puts it there; False if it never leaves the chip.
    """

    name: str
    kind: str
    region: Region
    offset: int
    size: int
    frames: int
    channels: int
    height: int
    width: int
    group: int
    heads: int = 0
    keys: int = 0
    limbs: int = 0
    levels: int = 1
    stored: bool = True
    matrices: int = 0

    def description(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def channel_map(self, config: MachineConfig) -> ChannelMap:
        return ChannelMap.of(self.channels, self.group, config)

    def pack(self, array: NDArray[Any], config: MachineConfig) -> bytes:
        """DDR bytes of a tensor in network shape (`spikeloom.network`), keyvalue excluded.

        Raises:
            ValueError: Wrong shape or element type.
        """
        shape, dtype = network_shape(self), NETWORK_DTYPES[self.kind]
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"`{self.name}` must be {np.dtype(dtype)}{list(shape)}, not "
                             f"`{array.dtype}{list(array.shape)}`")
        return _PACK[self.kind](array, self, config).tobytes()

    def unpack(self, data: bytes, config: MachineConfig) -> NDArray[Any]:
        """Tensor in network shape from its DDR bytes. Raises ValueError for a wrong length."""
        if len(data) != self.size:
            raise ValueError(f"`data` of {self.name} must have {self.size} bytes, not `{len(data)}`")
        return _UNPACK[self.kind](np.frombuffer(data, dtype=np.uint8), self, config)


NETWORK_DTYPES: dict[str, Any] = {
    "pixels": np.uint8, "spikes": np.bool_, "integers": np.uint8, "residual": np.int16, "planes": np.int8,
    "keyvalue": np.int32, "logits": np.int32}


def network_shape(place: TensorPlace) -> tuple[int, ...]:
    """Shape of the tensor as `spikeloom.network` has it."""
    if place.kind == "pixels":
        return place.frames, place.height, place.width, place.channels
    if place.kind == "keyvalue":
        shape = place.heads, place.keys // place.heads, place.channels // place.heads
        return (place.matrices, *shape) if place.matrices else shape
    if place.kind == "logits":
        return (place.channels,)
    return place.frames, place.channels, place.height, place.width


def lane_groups(frames: int, config: MachineConfig) -> int:
    return ceil_div(frames, config.lanes)


def pixel_pitch(width: int, config: MachineConfig) -> int:
    """Bytes of one row of input pixels in DDR."""
    return ceil_div(3 * width, config.beat_bytes) * config.beat_bytes


def tensor_size(place: TensorPlace, config: MachineConfig) -> int:
    """Bytes of a tensor in DDR (`place.size` is not looked at)."""
    if place.kind == "pixels":
        return place.frames * place.height * pixel_pitch(place.width, config)
    if place.kind == "keyvalue":
        return keyvalue_layout(place, config).size
    words = place.channel_map(config).words
    if place.kind == "logits":
        return words * config.raw_beats * config.beat_bytes
    items = lane_groups(place.frames, config) * words * place.levels * place.height * place.width
    return items * ITEM_BEATS[place.kind] * config.beat_bytes


def _to_items(array: NDArray[Any], place: TensorPlace, config: MachineConfig) -> NDArray[Any]:
    """[T, C, H, W] -> [lane group, word, y, x, channel, lane]."""
    array = place.channel_map(config).spread(array, 1)
    groups = lane_groups(place.frames, config)
    padded = np.zeros((groups * config.lanes, *array.shape[1:]), dtype=array.dtype)
    padded[:place.frames] = array
    split = padded.reshape(groups, config.lanes, -1, config.word_channels, place.height, place.width)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))


def _from_items(items: NDArray[Any], place: TensorPlace, config: MachineConfig) -> NDArray[Any]:
    """Inverse of `_to_items`; `items` may have its outer axes flattened."""
    groups, words = lane_groups(place.frames, config), place.channel_map(config).words
    split = items.reshape(groups, words, place.height, place.width, config.word_channels, config.lanes)
    frames = split.transpose(0, 5, 1, 4, 2, 3).reshape(
        groups * config.lanes, words * config.word_channels, place.height, place.width)
    return np.ascontiguousarray(place.channel_map(config).gather(frames[:place.frames], 1))


def _pack_bits(bits: NDArray[Any], config: MachineConfig) -> Bytes:
    """[..., channel, lane] bits -> [..., beat bytes]."""
    return np.packbits(bits.reshape(*bits.shape[:-2], config.beat_bits), axis=-1, bitorder="little")


def unpack_words(words: Bytes, config: MachineConfig) -> NDArray[np.uint8]:
    """[..., beat bytes] -> bits [..., channel, lane]."""
    bits = np.unpackbits(words, axis=-1, bitorder="little")
    return bits.reshape(*words.shape[:-1], config.word_channels, config.lanes)


def _pack_spikes(array: NDArray[Any], place: TensorPlace, config: MachineConfig) -> Bytes:
    return _pack_bits(_to_items(array, place, config), config)


def _unpack_spikes(data: Bytes, place: TensorPlace, config: MachineConfig) -> NDArray[Any]:
    return _from_items(unpack_words(data.reshape(-1, config.beat_bytes), config).astype(np.bool_), place, config)


def thermometer(values: NDArray[np.uint8], levels: int) -> NDArray[np.bool_]:
    """Integer spikes p [...] as binary ones [levels, ...]: spike i (from 1) is p >= i. p is their sum."""
    return values >= np.arange(1, levels + 1, dtype=np.uint8).reshape(-1, *(1,) * values.ndim)


def _pack_integers(array: NDArray[Any], place: TensorPlace, config: MachineConfig) -> Bytes:
    if array.max(initial=0) > place.levels:
        raise ValueError(f"`{place.name}` must lie in 0..{place.levels}, not `{array.max()}`")
    maps = [_pack_spikes(one, place, config) for one in thermometer(array, place.levels)]
    return np.stack(maps, axis=2)  # [lane group, word, level, y, x, beat bytes]


def _unpack_integers(data: Bytes, place: TensorPlace, config: MachineConfig) -> NDArray[Any]:
    words = lane_groups(place.frames, config) * place.channel_map(config).words
    bits = unpack_words(data.reshape(words, place.levels, -1, config.beat_bytes), config)
    return _from_items(bits.sum(axis=1, dtype=np.uint8), place, config)


def planes_of(items: NDArray[np.int8], config: MachineConfig) -> Bytes:
    """int8 items [..., channel, lane] -> beats [..., plane, beat bytes]."""
    shifts = np.arange(PLANE_BITS, dtype=np.uint8)[:, None, None]
    return _pack_bits((items.view(np.uint8)[..., None, :, :] >> shifts) & 1, config)


def _pack_planes(array: NDArray[Any], place: TensorPlace, config: MachineConfig) -> Bytes:
    return planes_of(_to_items(array, place, config), config)


def _unpack_planes(data: Bytes, place: TensorPlace, config: MachineConfig) -> NDArray[Any]:
    bits = unpack_words(data.reshape(-1, PLANE_BITS, config.beat_bytes), config)
    values = (bits << np.arange(PLANE_BITS, dtype=np.uint8)[:, None, None]).sum(axis=1, dtype=np.uint8)
    return _from_items(values.view(np.int8), place, config)


def _pack_residual(array: NDArray[Any], place: TensorPlace, config: MachineConfig) -> Bytes:
    return _to_items(array, place, config).astype("<i2").view(np.uint8)


def _unpack_residual(data: Bytes, place: TensorPlace, config: MachineConfig) -> NDArray[Any]:
    return _from_items(data.view("<i2").astype(np.int16), place, config)


def _pack_pixels(array: NDArray[Any], place: TensorPlace, config: MachineConfig) -> Bytes:
    rows = np.zeros((place.frames, place.height, pixel_pitch(place.width, config)), dtype=np.uint8)
    rows[..., :3 * place.width] = array.reshape(place.frames, place.height, 3 * place.width)
    return rows


def _unpack_pixels(data: Bytes, place: TensorPlace, config: MachineConfig) -> NDArray[Any]:
    rows = data.reshape(place.frames, place.height, pixel_pitch(place.width, config))
    return rows[..., :3 * place.width].reshape(network_shape(place)).copy()


def _pack_logits(array: NDArray[Any], place: TensorPlace, config: MachineConfig) -> Bytes:
    return place.channel_map(config).spread(array, 0).astype("<i4").view(np.uint8)


def _unpack_logits(data: Bytes, place: TensorPlace, config: MachineConfig) -> NDArray[Any]:
    return place.channel_map(config).gather(data.view("<i4").astype(np.int32), 0)


def _unpack_keyvalue(data: Bytes, place: TensorPlace, config: MachineConfig) -> NDArray[Any]:
    layout = keyvalue_layout(place, config)
    return np.stack([layout.unpack(data, m) for m in range(max(1, place.matrices))]).reshape(network_shape(place))


_PACK = {"pixels": _pack_pixels, "spikes": _pack_spikes, "residual": _pack_residual, "planes": _pack_planes,
         "integers": _pack_integers, "logits": _pack_logits}
_UNPACK = {"pixels": _unpack_pixels, "spikes": _unpack_spikes, "integers": _unpack_integers,
           "residual": _unpack_residual, "planes": _unpack_planes, "logits": _unpack_logits,
           "keyvalue": _unpack_keyvalue}


def keyvalue_layout(place: TensorPlace, config: MachineConfig) -> KeyValueLayout:
    """Of a tensor of kind keyvalue."""
    return KeyValueLayout(place.keys, place.channels, place.heads, place.limbs, config, max(1, place.matrices))


class KeyValueLayout:
    """K^T V as weight chunks of the attention: [output tile][matrix][limb][chunk], the highest limb first. There is one
    matrix, or one per frame.

    Input words are those of K, output words those of V. The chunks of an output tile hold the input words of all heads
    that the tile touches. Where input and output word belong to different heads the chunk holds zeros, which nobody
    ever writes.

    Args:
        keys, values: Channels of K and V.
        heads: Divides both.
        limbs: Of every number.
        matrices: How many there are.
    """

    def __init__(
        self, keys: int, values: int, heads: int, limbs: int, config: MachineConfig, matrices: int = 1
    ) -> None:
        self.config = config
        self.heads, self.limbs, self.key_width, self.value_width = heads, limbs, keys // heads, values // heads
        self.key_words = ceil_div(self.key_width, config.word_channels)
        self.value_words = ceil_div(self.value_width, config.word_channels)
        self.words = heads * self.value_words
        self.fold = min(config.banks, power_of_two_above(heads * self.key_words))
        self.tiles = ceil_div(self.words, config.output_words)
        self._chunk_bytes = config.chunk_rows * config.weight_row_bytes
        self._first = [0]
        for tile in range(self.tiles):
            self._first.append(self._first[-1] + matrices * limbs * len(self.slots(tile)))

    @property
    def size(self) -> int:
        return self._first[-1] * self._chunk_bytes

    def slots(self, tile: int) -> range:
        """Chunks of input words (words `slot * fold` and on) that the output tile needs."""
        words = self.config.output_words
        last = min(words * (tile + 1), self.words) - 1
        first_input = words * tile // self.value_words * self.key_words
        last_input = last // self.value_words * self.key_words + self.key_words - 1
        return range(first_input // self.fold, last_input // self.fold + 1)

    def chunk_offset(self, tile: int, limb: int, slot: int, matrix: int = 0) -> int:
        """Byte offset of a chunk; limb 0 is the highest."""
        slots = self.slots(tile)
        return (self._first[tile] + (matrix * self.limbs + limb) * len(slots) + slot - slots[0]) * self._chunk_bytes

    def block_offset(self, key_word: int, value_word: int, limb: int, matrix: int = 0) -> int:
        """Byte offset of row 0, slot 0 of the block (word of K, word of V) in its chunk."""
        config = self.config
        tile, word = divmod(value_word, config.output_words)
        slot, bank = divmod(key_word, self.fold)
        rows = bank * config.word_channels // config.load_groups
        start = self.chunk_offset(tile, limb, slot, matrix)
        return start + rows * config.weight_row_bytes + word * config.word_channels

    def unpack(self, data: Bytes, matrix: int = 0) -> NDArray[np.int32]:
        """int32[heads, D, E] from DDR bytes."""
        result = np.zeros((self.heads, self.key_width, self.value_width), dtype=np.int64)
        wc = self.config.word_channels
        for head in range(self.heads):
            for i in range(self.key_words):
                for j in range(self.value_words):
                    block = np.zeros((wc, wc), dtype=np.int64)
                    for limb in range(self.limbs):
                        words = head * self.key_words + i, head * self.value_words + j
                        block = (block << LIMB_BITS) + self._block(data, *words, limb, matrix)
                    target = result[head, i * wc:(i + 1) * wc, j * wc:(j + 1) * wc]
                    target[:] = block[:target.shape[0], :target.shape[1]]
        return result.astype(np.int32)

    def _block(self, data: Bytes, key_word: int, value_word: int, limb: int, matrix: int) -> NDArray[np.int64]:
        config = self.config
        start = self.block_offset(key_word, value_word, limb, matrix)
        i = np.arange(config.word_channels)
        row, slot = i // 4 // config.load_groups * 4 + i % 4, i // 4 % config.load_groups
        index = start + row * config.weight_row_bytes + slot * config.outputs
        return data[index[:, None] + i[None, :]].view(np.int8).astype(np.int64)
