"""DRAIN in NumPy: the neuron stage, with the functions of `spikeloom.arithmetic`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spikeloom.arithmetic import (
    GUARD_BITS,
    LEAKS,
    MEMBRANE_BITS,
    PLANE_BITS,
    RESIDUAL_BITS,
    SHIFT_MIN,
    current,
    lif_step,
    round_shift,
    saturate,
)
from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Mode

from .layout import planes_of
from .memory import InterpreterError, Memory

Body = dict[str, int]
Rows = NDArray[np.intp]
SUM_BITS = MEMBRANE_BITS - GUARD_BITS
"""Width of a spatial sum."""


@dataclass
class Drained:
    """What a DRAIN makes.

    Attributes:
        beats: Main stream, one uint8[beats, beat bytes] per item.
        writes: (memory, rows, content), to be done at its completion.
    """

    beats: list[NDArray[np.uint8]] = field(default_factory=list)
    writes: list[tuple[Memory, Rows, NDArray[np.uint8]]] = field(default_factory=list)


class DrainModel:
    """State of the drain engine: carry memory and spatial sums."""

    def __init__(
        self, config: MachineConfig, accumulators: list[Memory], parameters: Memory, residual: Memory,
        banks: list[Memory],
    ) -> None:
        self.config, self._accumulators, self._parameters = config, accumulators, parameters
        self._residual, self._banks = residual, banks
        depth = config.accumulator_depth * config.output_words
        self._carry = Memory("carry memory", depth, (config.word_channels,), np.int64)
        self._sums = Memory("spatial sums", config.output_words, (config.word_channels, config.lanes), np.int64)

    def execute(self, body: Body) -> Drained:
        """All words: read everything, change carry memory and sums. Raises InterpreterError."""
        if not body["words"] or not body["pixels"]:
            return Drained()
        self._check(body)
        drained = Drained()
        for index in range(body["words"]):
            self._word(body, index, drained)
        return drained

    def _check(self, body: Body) -> None:
        """Raises InterpreterError for outputs that exclude one another and items that are overwritten before they are
        read."""
        if body["spikes"] + (body["planes"] and not body["local"]) + body["raw"] > 1:
            raise InterpreterError("DRAIN puts out more than one kind of beats")
        if body["local"] and not body["planes"]:
            raise InterpreterError("DRAIN: `local` without `planes`")
        if not body["residual"]:
            return
        if body["pool"]:
            raise InterpreterError("DRAIN: `residual` with `pool`")
        items = body["words"] * body["pixels"]
        written = np.concatenate([self._items_of(body, "residual_item", k) for k in range(body["words"])])
        if len(np.unique(written)) != items:
            raise InterpreterError("DRAIN writes an item of the residual buffer twice")
        if not body["shortcut"]:
            return
        read = np.concatenate([self._items_of(body, "shortcut_item", k) for k in range(body["words"])])
        both, when_written, when_read = np.intersect1d(written, read, return_indices=True)
        if (when_written < when_read).any():
            item = both[when_written < when_read][0]
            raise InterpreterError(f"{self._residual.name}: row {item} is written before it is read")

    @staticmethod
    def _items_of(body: Body, first: str, index: int) -> Rows:
        """Items of word number `index`."""
        return body[first] + index * body["item_stride"] + np.arange(body["pixels"])

    def _word(self, body: Body, index: int, drained: Drained) -> None:
        config, pixels, mode = self.config, body["pixels"], Mode(body["mode"])
        word = body["word"] + index
        acc = self._accumulators[body["acc_bank"]].read(body["acc_base"] + np.arange(pixels))
        acc = acc[:, word * config.word_channels:(word + 1) * config.word_channels]  # [pixel, channel, lane]
        row = self._parameters.read(np.array([body["parameter"] + index]))[0].view("<i4").astype(np.int64)
        bias, threshold, misc = (v[:, None] for v in row.reshape(-1, 3).T)
        valid = np.arange(config.lanes) < body["lanes"]
        a = current(acc, bias, misc >> 8 & 1)
        shifted = round_shift(a, (misc & 31) + SHIFT_MIN)
        value = a
        if mode is Mode.RESIDUAL:
            if body["shortcut"]:
                items = self._residual.read(self._items_of(body, "shortcut_item", index))
                shifted = shifted + items.view("<i2").astype(np.int64).reshape(acc.shape)
            value = saturate(shifted, RESIDUAL_BITS) * valid
        planes = saturate(shifted, PLANE_BITS) * valid
        self._write_back(body, index, value, planes, drained)
        if body["pool"]:
            value = self._pooled(body, word, value)
            if not body["pool_last"]:
                return
        carry = body["carry"] + index * len(value) + np.arange(len(value))
        spikes, membrane = self._fire(body, value, threshold[:, 0], carry)
        if mode is not Mode.PLANES:
            self._carry.write(carry, membrane)
        if body["spikes"]:
            drained.beats += list(_pack_bits(spikes)[:, None])
        elif body["planes"] and not body["local"]:
            drained.beats += list(planes_of(planes.astype(np.int8), config))
        elif body["raw"]:
            raw = np.ascontiguousarray(membrane.astype("<i4")).view(np.uint8)
            drained.beats += list(raw.reshape(len(raw), -1, config.beat_bytes))

    def _write_back(
        self, body: Body, index: int, residual: NDArray[np.int64], planes: NDArray[np.int64], drained: Drained
    ) -> None:
        """What goes to buffers on chip."""
        if body["residual"]:
            data = np.ascontiguousarray(residual.astype("<i2")).view(np.uint8).reshape(len(residual), -1)
            drained.writes.append((self._residual, self._items_of(body, "residual_item", index), data))
        if body["planes"] and body["local"]:
            words = planes_of(planes.astype(np.int8), self.config)
            for plane in range(PLANE_BITS):
                drained.writes.append((*self._plane_place(body, index, plane), words[:, plane]))

    def _plane_place(self, body: Body, index: int, plane: int) -> tuple[Memory, Rows]:
        """Bank and addresses of a plane of word number `index`, see field `local`."""
        banks = self.config.banks
        first = body["local_address"] + plane // banks * body["local_stride"] + index * body["pixels"]
        return self._banks[(body["local_bank"] + index + plane) % banks], first + np.arange(body["pixels"])

    def _pooled(self, body: Body, word: int, value: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum over pixels on top of what is kept, as one pixel."""
        row = np.array([word])
        total = value.sum(axis=0, keepdims=True) + (0 if body["pool_first"] else self._sums.read(row))
        half = 1 << SUM_BITS - 1
        total = (total + half) % (2 * half) - half  # the compiler proves that it fits
        self._sums.write(row, total)
        return total

    def _fire(
        self, body: Body, value: NDArray[np.int64], threshold: NDArray[np.int64], carry: NDArray[np.intp]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        membrane = self._carry.read(carry) if body["carry_in"] else np.zeros_like(value[..., 0])
        spikes = np.zeros_like(value)
        for lane in range(body["lanes"]):
            if body["mode"] == Mode.SUM:
                membrane = saturate(membrane + value[..., lane], MEMBRANE_BITS)
            else:
                spikes[..., lane], membrane = lif_step(
                    membrane, value[..., lane] << GUARD_BITS, threshold << GUARD_BITS, leak=LEAKS[body["leak"]],
                    reset="soft" if body["soft"] else "hard", strict=bool(body["strict"]))
        return spikes, membrane


def _pack_bits(spikes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[item, channel, lane] -> [item, beat bytes]."""
    return np.packbits(spikes.astype(np.uint8).reshape(len(spikes), -1), axis=-1, bitorder="little")
