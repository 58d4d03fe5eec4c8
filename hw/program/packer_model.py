"""LOAD_PIXELS in NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import MachineConfig

from .layout import planes_of


def packed_words(
    body: dict[str, int], picture: NDArray[np.uint8], config: MachineConfig
) -> Iterator[tuple[list[int], NDArray[np.intp], NDArray[np.uint8]]]:
    """What LOAD_PIXELS writes.

    Args:
        body: Fields of the instruction.
        picture: uint8[frames, height, bytes], at least `row_bytes` bytes per row.

    Yields:
        (banks, addresses, words uint8[addresses, beat bytes]).
    """
    rows, cols, wc = body["rows"], body["cols"], config.word_channels
    y = body["row"] + np.arange(rows)
    inside_y = (y >= 0) & (y < body["height"])
    for word in range(body["words"]):
        byte = word * wc + np.arange(wc)
        n = body["start"] + np.arange(cols)[:, None] * body["step"] + byte
        inside = inside_y[:, None, None] & (n >= 0) & (n < body["row_bytes"])
        pad = np.array([body["pad0"], body["pad1"], body["pad2"]], dtype=np.uint8)[byte % 3]
        values = np.zeros((rows, cols, wc, config.lanes), dtype=np.uint8)
        at_y, at_n = y.clip(0, body["height"] - 1), n.clip(0, body["row_bytes"] - 1)
        for frame in range(body["frames"]):
            values[..., frame] = np.where(inside, picture[frame][at_y[:, None, None], at_n], pad)
        words = planes_of(values.view(np.int8), config)  # [row, col, plane, beat bytes]
        banks = [b for b in range(config.banks) if b % body["fold"] == word % body["fold"]]
        base = body["address"] + word // body["fold"] * body["word_stride"]
        for plane in range(8):
            address = base + plane * body["plane_stride"] + np.arange(rows * cols)
            yield banks, address, words[:, :, plane].reshape(rows * cols, -1)
