"""COMPUTE in NumPy: walker, table engine, depthwise unit, Hamming unit, temporal unit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikeloom.arithmetic import LIMB_BITS, split_limbs
from spikeloom.config import ACCUMULATOR_BITS, GROUP_INPUTS, SCORE_BITS, MachineConfig
from spikeloom.hw.isa import CHUNK_BANK, CHUNK_COMMON, Accumulate, Core, Target, unpack_fields

from .constants import unpack_weights
from .layout import unpack_words
from .memory import InterpreterError, Memory

Body = dict[str, int]
WINDOW = 7
"""Words of a row that a window of the depthwise unit holds."""


class ComputeModel:
    """State of the compute engine; `accumulators`: two memories of int64[outputs, lanes] per pixel."""

    def __init__(self, config: MachineConfig, banks: list[Memory], buffers: dict[Target, Memory]) -> None:
        self.config, self._banks, self._buffers = config, banks, buffers
        shape = (config.outputs, config.lanes)
        self.accumulators = [Memory(f"accumulators {b}", config.accumulator_depth, shape, np.int64) for b in range(2)]
        self._counts = np.zeros((config.word_channels, config.word_channels), dtype=np.int64)
        self._column = np.zeros(config.word_channels, dtype=np.int64)
        self._tables: tuple[NDArray[np.int8], int, int] | None = None
        self._before = self._tables

    def execute(self, body: Body) -> list[NDArray[np.uint8]]:
        """All chunks. Returns the beats of the Hamming unit, one entry per piece."""
        beats: list[NDArray[np.uint8]] = []
        self._tables = self._before = None
        for chunk in range(body["chunk"], body["chunk"] + body["chunks"]):
            words = self._buffers[Target.CHUNKS].read(np.array([chunk]))[0].view("<u4")
            common = unpack_fields(CHUNK_COMMON, int(words[0]))
            banks = [unpack_fields(CHUNK_BANK, int(w)) for w in words[1:1 + self.config.banks]]
            bits = [self._read_bank(body, self._banks[b], bank) for b, bank in enumerate(banks)]
            match Core(body["core"]):
                case Core.ARRAY:
                    self._accumulate(body, common, self._array(body, common, bits))
                case Core.DEPTHWISE:
                    self._accumulate(body, common, self._depthwise(body, common, bits))
                case Core.HAMMING:
                    beats += self._hamming(common, bits[0], bits[1])
                case Core.TEMPORAL:
                    self._accumulate(body, common, self._temporal(body, common, bits[0], bits[1]))
        return beats

    def _read_bank(self, body: Body, bank: Memory, header: Body) -> NDArray[np.uint8]:
        """Bits [row, col, channel, lane]; zero where the bank is disabled or the position outside."""
        row, col = np.arange(body["rows"])[:, None], np.arange(body["cols"])
        y = body["y"] + row * body["y_step"] + header["dy"]
        x = body["x"] + col * body["x_step"] + header["dx"]
        address = body["address"] + row * body["row_step"] + col * body["col_step"] + header["offset"]
        inside = (y >= 0) & (y < body["height"]) & (x >= 0) & (x < body["width"])
        inside = inside & bool(header["enable"])
        words = np.zeros((*inside.shape, self.config.beat_bytes), dtype=np.uint8)
        words[inside] = bank.read(address[inside])
        return unpack_words(words, self.config)

    def _load_tables(self, common: Body, rows: int) -> NDArray[np.float32]:
        """Weights int8[inputs, outputs] of a chunk as its tables have them."""
        if common["load"]:
            data = self._buffers[Target.WEIGHTS].read(common["operand"] + np.arange(rows))
            weights = unpack_weights(data, self.config)
            self._before, self._tables = self._tables, (weights, common["negate"], common["bipolar"])
        elif common["swap"]:
            self._before, self._tables = self._tables, self._before
        if self._tables is None:
            raise InterpreterError("tables are used that the COMPUTE has not loaded")
        if self._tables[1:] != (common["negate"], common["bipolar"]):
            raise InterpreterError("a chunk that keeps the tables changes their sign or kind")
        return self._tables[0].astype(np.float32) * (-1 if common["negate"] else 1)

    def _array(self, body: Body, common: Body, bits: list[NDArray[np.uint8]]) -> NDArray[np.int64]:
        weights = self._load_tables(common, self.config.chunk_rows)
        inputs = np.stack(bits, axis=2).astype(np.float32)  # [row, col, bank, channel, lane]
        if common["bipolar"]:
            inputs = 2 * inputs - 1
        inputs = inputs.reshape(-1, self.config.inputs, self.config.lanes)
        return np.matmul(weights.T, inputs).astype(np.int64)

    def _depthwise(self, body: Body, common: Body, bits: list[NDArray[np.uint8]]) -> NDArray[np.int64]:
        config = self.config
        weights = self._load_tables(common, GROUP_INPUTS * config.depthwise_groups // config.load_groups)
        taps = weights.reshape(config.depthwise_rows, 2 * GROUP_INPUTS, config.outputs)[:, :WINDOW]
        kept = body["cols"] - body["skip"]
        sums = np.zeros((body["rows"], kept, config.outputs, config.lanes), dtype=np.int64)
        for r in range(config.depthwise_rows):
            for tap in range(WINDOW):
                # word `tap` positions before the newest; before the row began there is none
                if body["skip"] < tap:
                    if taps[r, tap].any():
                        raise InterpreterError(f"tap {tap} is used, but only {body['skip']} words filled the window")
                    continue
                shifted = np.zeros_like(bits[r])
                shifted[:, tap:] = bits[r][:, :bits[r].shape[1] - tap]
                weight = taps[r, tap, :config.word_channels].astype(np.int64)
                sums[:, :, :config.word_channels] += shifted[:, body["skip"]:] * weight[:, None]
        return sums.reshape(-1, config.outputs, config.lanes)

    def _temporal(
        self, body: Body, common: Body, first: NDArray[np.uint8], second: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        config, skip, lane = self.config, body["skip"], common["lane"]
        if not config.temporal_unit:
            raise InterpreterError("the machine has no temporal unit")
        if body["cols"] != skip + 1 or lane >= config.lanes:
            raise InterpreterError(f"temporal unit: {body['cols']} columns, {skip} skipped, lane {lane}")
        query, key = first[:, :skip].astype(np.int64), second[:, :skip, :, lane, None].astype(np.int64)
        found = ((query ^ key) if common["bipolar"] else query & key).sum(axis=(1, 2))  # [pixel, lane]
        score = common["operand"] - 2 * found if common["bipolar"] else found
        if score.size and np.abs(score).max() >= 1 << SCORE_BITS - 1:
            raise InterpreterError(f"temporal unit: a score exceeds {SCORE_BITS} bits")
        sums = np.zeros((len(score), config.outputs, config.lanes), dtype=np.int64)
        sums[:, :config.word_channels] = first[:, skip, :, lane, None] * score[:, None]
        return sums

    def _accumulate(self, body: Body, common: Body, sums: NDArray[np.int64]) -> None:
        memory = self.accumulators[body["acc_bank"]]
        rows = body["acc_base"] + np.arange(len(sums))
        mode = Accumulate(common["accumulate"])
        if mode is not Accumulate.ZERO:
            shift = {Accumulate.KEEP: 0, Accumulate.DOUBLE: 1, Accumulate.LIMB: LIMB_BITS}[mode]
            sums = (memory.read(rows) << shift) + sums
        if common["single"]:
            kept = memory.read(rows)
            kept[..., common["lane"]] = sums[..., common["lane"]]
            sums = kept
        if sums.size and max(int(sums.max()), -int(sums.min()) - 1) >= 1 << (ACCUMULATOR_BITS - 1):
            raise InterpreterError(f"{memory.name}: a sum exceeds {ACCUMULATOR_BITS} bits")
        memory.write(rows, sums)

    def _hamming(
        self, common: Body, key: NDArray[np.uint8], value: NDArray[np.uint8]
    ) -> list[NDArray[np.uint8]]:
        config = self.config
        if common["accumulate"] == Accumulate.ZERO:
            self._counts[:] = 0
            self._column[:] = 0
        if common["single"]:
            value = value * (np.arange(config.lanes) == common["lane"])
        k, v = (x.transpose(2, 0, 1, 3).reshape(config.word_channels, -1).astype(np.float32) for x in (key, value))
        self._counts += (k @ v.T).astype(np.int64)
        self._column += v.sum(axis=1).astype(np.int64)
        if not common["finish"]:
            return []
        matrix = 2 * self._counts - self._column if common["bipolar"] else self._counts
        valid = common["operand"] >> np.arange(config.word_channels) & 1
        limbs = split_limbs(matrix * valid[:, None], common["limbs"])
        beats = []
        r = np.arange(config.word_channels // config.load_groups)
        for limb in limbs:
            if limb.max() > 127 or limb.min() < -127:
                raise InterpreterError("Hamming unit: a limb does not fit a weight")
            for slot in range(config.load_groups):
                rows = (r // GROUP_INPUTS * config.load_groups + slot) * GROUP_INPUTS + r % GROUP_INPUTS
                data = limb[rows].astype(np.int8).view(np.uint8).reshape(len(rows), -1, config.beat_bytes)
                beats += list(data)
        return beats
