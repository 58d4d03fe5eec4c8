"""Constant data of a program: weight chunks, neuron parameters, chunk headers, as `docs/machine.md` lays them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.arithmetic import SHIFT_MIN
from spikeloom.config import GROUP_INPUTS, MachineConfig
from spikeloom.hw.isa import CHUNK_BANK, CHUNK_COMMON, Accumulate, pack_fields

NEVER = (1 << 27) - 1
"""Threshold of unused channels: their potential stays 0."""


def pack_weights(weights: NDArray[np.int8], config: MachineConfig) -> bytes:
    """int8[chunks, inputs, outputs] -> weight rows; the last group is padded to `load_groups` tables."""
    chunks, inputs, outputs = weights.shape
    groups = inputs // GROUP_INPUTS
    split = weights.reshape(chunks, groups // config.load_groups, config.load_groups, GROUP_INPUTS, outputs)
    return split.transpose(0, 1, 3, 2, 4).tobytes()


def unpack_weights(rows: NDArray[np.uint8], config: MachineConfig) -> NDArray[np.int8]:
    """One chunk back from its rows `uint8[rows, row bytes]`: int8[inputs, outputs]."""
    split = rows.view(np.int8).reshape(-1, GROUP_INPUTS, config.load_groups, config.outputs)
    return split.transpose(0, 2, 1, 3).reshape(-1, config.outputs)


def pack_parameters(
    bias: NDArray[Any], threshold: NDArray[Any], shift: NDArray[Any], negate: NDArray[Any]
) -> bytes:
    """Neuron parameters of physical channels (one value each)."""
    misc = (shift - SHIFT_MIN) | negate << 8
    return np.stack([bias, threshold, misc], axis=-1).astype("<i4").tobytes()


@dataclass(frozen=True)
class BankRead:
    """What one bank adds to the position of a chunk."""

    offset: int
    dy: int = 0
    dx: int = 0


@dataclass(frozen=True)
class Chunk:
    """One chunk header, its operand relative to the segment of weights it is in.

    `banks` has an entry per bank, None where the bank reads as zero. With `single` only `lane` counts.
    """

    accumulate: Accumulate
    operand: int
    banks: tuple[BankRead | None, ...]
    negate: bool = False
    bipolar: bool = False
    load: bool = True
    swap: bool = False
    finish: bool = False
    limbs: int = 0
    lane: int = 0
    single: bool = False


def pack_headers(chunks: list[Chunk], weight_row: int, config: MachineConfig) -> bytes:
    """Chunk headers; `weight_row` is added to the operands. Raises EncodingError for offsets out of range."""
    return b"".join(_pack_header(chunk, weight_row, config) for chunk in chunks)


def _pack_header(chunk: Chunk, weight_row: int, config: MachineConfig) -> bytes:
    words = [pack_fields(CHUNK_COMMON, {
        "accumulate": chunk.accumulate, "negate": chunk.negate, "bipolar": chunk.bipolar, "load": chunk.load,
        "swap": chunk.swap, "lane": chunk.lane, "single": chunk.single,
        "finish": chunk.finish, "limbs": chunk.limbs, "operand": chunk.operand + weight_row}, "chunk header")]
    for bank in chunk.banks:
        values = {} if bank is None else {"offset": bank.offset, "dy": bank.dy, "dx": bank.dx, "enable": 1}
        words.append(pack_fields(CHUNK_BANK, values, "chunk header"))
    return np.array(words, dtype="<u4").tobytes().ljust(config.chunk_header_beats * config.beat_bytes, b"\0")
