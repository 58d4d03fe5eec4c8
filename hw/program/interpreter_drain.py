"""DRAIN in NumPy: the neuron stage, with the functions of `spikeloom.arithmetic`."""

from __future__ import annotations

from typing import Any

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
from .memory import Memory

Body = dict[str, int]
Beats = NDArray[np.uint8] | None
SUM_BITS = MEMBRANE_BITS - GUARD_BITS
"""Width of a spatial sum."""


class DrainModel:
    """State of the drain engine: carry memory and spatial sums."""

    def __init__(
        self, config: MachineConfig, accumulators: list[Memory], parameters: Memory, shortcut: Memory
    ) -> None:
        self.config, self._accumulators, self._parameters, self._shortcut = config, accumulators, parameters, shortcut
        depth = config.accumulator_depth * config.output_words
        self._carry = Memory("carry memory", depth, (config.word_channels,), np.int64)
        self._sums = Memory("spatial sums", config.output_words, (config.word_channels, config.lanes), np.int64)

    def execute(self, body: Body) -> list[tuple[Beats, Beats]]:
        """Beats of every item: (main stream, residual stream)."""
        items: list[tuple[Beats, Beats]] = []
        for index in range(body["words"]):
            items += self._word(body, index)
        return items

    def _word(self, body: Body, index: int) -> list[tuple[Beats, Beats]]:
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
                rows = body["shortcut_item"] + index * pixels + np.arange(pixels)
                shifted = shifted + self._shortcut.read(rows).view("<i2").astype(np.int64).reshape(acc.shape)
            value = saturate(shifted, RESIDUAL_BITS) * valid
        residual, planes = value, saturate(shifted, PLANE_BITS) * valid
        if body["pool"]:
            value = self._pooled(body, word, value)
            if not body["pool_last"]:
                return []
        carry = body["carry"] + index * len(value) + np.arange(len(value))
        spikes, membrane = self._fire(body, value, threshold[:, 0], carry)
        if mode is not Mode.PLANES:
            self._carry.write(carry, membrane)
        return self._items(body, spikes, residual, planes, membrane)

    def _pooled(self, body: Body, word: int, value: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum over pixels on top of what is kept, as one pixel."""
        row = np.array([word])
        total = value.sum(axis=0, keepdims=True) + (0 if body["pool_first"] else self._sums.read(row))
        total = saturate(total, SUM_BITS)
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

    def _items(
        self, body: Body, spikes: NDArray[Any], residual: NDArray[Any], planes: NDArray[Any], membrane: NDArray[Any]
    ) -> list[tuple[Beats, Beats]]:
        beat, count = self.config.beat_bytes, len(spikes)
        main: list[Beats] = [None] * count
        if body["spikes"]:
            bits = spikes.astype(np.uint8).reshape(count, 1, -1)
            main = list(np.packbits(bits, axis=-1, bitorder="little"))
        elif body["planes"]:
            main = list(planes_of(planes.astype(np.int8), self.config))
        elif body["raw"]:
            main = list(np.ascontiguousarray(membrane.astype("<i4")).view(np.uint8).reshape(count, -1, beat))
        second: list[Beats] = [None] * count
        if body["residual"]:
            data = np.ascontiguousarray(residual.astype("<i2")).view(np.uint8)
            second = list(data.reshape(count, -1, beat))
        return list(zip(main, second, strict=True))
