"""The neuron stage of an operator: parameters, DRAIN, shortcut and the stores of what it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spikeloom.arithmetic import LEAKS
from spikeloom.hw.isa import Leak, Mode, Opcode, Source, Target
from spikeloom.network import Network, Neuron

from .buffers import LeastRecentBuffer
from .constants import NEVER, pack_parameters
from .emitter import Emitter, Transfer
from .feeds import Tile
from .layout import ITEM_BEATS, ChannelMap, TensorPlace, lane_groups
from .schedule import Access


@dataclass(frozen=True)
class OutputTile:
    """Output of one pass: words [word, word + words) of the pixels of `tile` in a lane group.

    `first`, `last`: first and last tile of the map (spatial sums).
    """

    word: int
    words: int
    tile: Tile
    lane_group: int
    first: bool
    last: bool


@dataclass(frozen=True)
class _Piece:
    """Part of an OutputTile that one DRAIN takes, relative to it. `item`: items before it."""

    word: int
    words: int
    pixel: int
    pixels: int
    item: int


class NeuronStage:
    """Drains the accumulators of one operator.

    Args:
        out_map: Channel map of everything that the operator makes.
        height, width: Of the accumulator map.
        pass_words: Output words that one pass fills.
    """

    def __init__(
        self, emitter: Emitter, network: Network, places: dict[str, TensorPlace], neuron: Neuron, out_map: ChannelMap,
        height: int, width: int, pass_words: int,
    ) -> None:
        self._emitter, self._config, self._neuron = emitter, emitter.config, neuron
        self._places, self._frames, self._pixels, self._width = places, network.frames, height * width, width
        self._pass_words = pass_words
        self._offset = emitter.constant(_parameters(network, neuron, out_map))
        self._words = out_map.words
        self._parameters = LeastRecentBuffer(emitter.regions(self._config.parameter_depth, pass_words))
        self._shortcut = places[neuron.shortcut] if neuron.shortcut else None
        self._shortcut_region = 0
        self._bank = 0

    def next_bank(self) -> int:
        """The accumulator bank of the next tile, in turn."""
        self._bank ^= 1
        return self._bank

    def prepare(self, output: OutputTile) -> int:
        """Loads that can run beside the computing of a tile. Returns its parameter row, to be given to `drain`."""
        for index, piece in enumerate(self._pieces(output)):
            if index < self._shortcut_regions(output):
                self._load_shortcut(output, piece, index)
        return self._parameters.place(output.word, lambda row: self._load_parameters(output, row))

    def drain(self, output: OutputTile, bank: int, parameter: int) -> None:
        """Emit the drains of a tile, each with its stores."""
        pieces = list(self._pieces(output))
        regions = self._shortcut_regions(output)
        for index, piece in enumerate(pieces):
            self._drain(output, piece, bank, parameter, index)
            self._store(output, piece)
            if index + regions < len(pieces):
                self._load_shortcut(output, pieces[index + regions], index + regions)
        self._shortcut_region += len(pieces)

    def _pieces(self, output: OutputTile) -> Iterator[_Piece]:
        """All at once, or so that two pieces fit the shortcut buffer."""
        pixels, words = output.tile.pixels, output.words
        if self._shortcut is None:
            yield _Piece(0, words, 0, pixels, 0)
            return
        most = self._config.shortcut_depth // 2
        word_step, pixel_step = max(1, min(words, most // pixels)), min(pixels, most)
        item = 0
        for word in range(0, words, word_step):
            for pixel in range(0, pixels, pixel_step):
                piece = _Piece(word, min(word_step, words - word), pixel, min(pixel_step, pixels - pixel), item)
                item += piece.words * piece.pixels
                yield piece

    def _shortcut_regions(self, output: OutputTile) -> int:
        return 0 if self._shortcut is None else 2

    def _shortcut_row(self, index: int) -> int:
        return (self._shortcut_region + index) % 2 * (self._config.shortcut_depth // 2)

    def _load_shortcut(self, output: OutputTile, piece: _Piece, index: int) -> None:
        if self._shortcut is None:
            return
        row, transfer = self._shortcut_row(index), self._transfer(self._shortcut, output, piece)
        accesses = [Access("SHORTCUT", row, row + piece.words * piece.pixels, write=True)]
        self._emitter.emit(
            Opcode.LOAD_SHORTCUT, transfer.fields(self._config.beat_bytes) | {"item": row},
            [*accesses, *transfer.accesses(self._config.beat_bytes, write=False)])

    def _load_parameters(self, output: OutputTile, row: int) -> None:
        beats = self._config.parameter_beats
        offset = self._offset + output.word * beats * self._config.beat_bytes
        self._emitter.load_constants(Target.PARAMETERS, row, output.words, offset, output.words * beats)

    def _drain(self, output: OutputTile, piece: _Piece, bank: int, parameter: int, index: int) -> None:
        n = self._neuron
        mode = Mode.SUM if n.logits else Mode[n.mode.upper()]
        last_group = output.lane_group == lane_groups(self._frames, self._config) - 1
        row = parameter + piece.word
        accesses = [Access(f"acc {bank}", piece.pixel, piece.pixel + piece.pixels),
                    Access(Target.PARAMETERS.name, row, row + piece.words)]
        fields: dict[str, int] = {}
        if self._shortcut is not None:
            item = self._shortcut_row(index)
            accesses.append(Access("SHORTCUT", item, item + piece.words * piece.pixels))
            fields |= {"shortcut": 1, "shortcut_item": item}
        if n.lif is not None:
            fields |= {"leak": Leak(LEAKS.index(n.lif.leak)), "soft": n.lif.reset == "soft", "strict": n.lif.strict}
        if n.pool:
            fields |= {"pool": 1, "pool_first": output.first and piece.pixel == 0,
                       "pool_last": output.last and piece.pixel + piece.pixels == output.tile.pixels}
        if n.lif is not None or n.logits is not None:
            fields |= {"carry_in": output.lane_group > 0, "carry": piece.word if n.pool else piece.item}
        fields |= {
            "acc_bank": bank, "acc_base": piece.pixel, "pixels": piece.pixels, "word": piece.word,
            "words": piece.words, "parameter": row, "mode": mode, "spikes": n.spikes is not None,
            "residual": n.residual is not None, "planes": n.planes is not None,
            "raw": n.logits is not None and last_group,
            "lanes": min(self._config.lanes, self._frames - output.lane_group * self._config.lanes)}
        self._emitter.emit(Opcode.DRAIN, fields, accesses)

    def _store(self, output: OutputTile, piece: _Piece) -> None:
        """Stores of one DRAIN. They come right behind it: it blocks while the FIFO is full."""
        n, beat = self._neuron, self._config.beat_bytes
        if n.pool:
            if output.last and piece.pixel + piece.pixels == output.tile.pixels and n.spikes is not None:
                place = self._places[n.spikes]
                first = output.lane_group * self._words + output.word + piece.word
                self._emitter.store(Transfer(place, place.offset + first * beat, piece.words), Source.DRAIN)
            return
        for name in (n.spikes, n.planes):
            if name is not None:
                self._emitter.store(self._transfer(self._places[name], output, piece), Source.DRAIN)
        if n.residual is not None:
            self._emitter.store(self._transfer(self._places[n.residual], output, piece), None)
        if n.logits is not None and output.lane_group == lane_groups(self._frames, self._config) - 1:
            place, beats = self._places[n.logits], self._config.raw_beats
            offset = place.offset + (output.word + piece.word) * beats * beat
            self._emitter.store(Transfer(place, offset, piece.words * beats), Source.DRAIN)

    def _transfer(self, place: TensorPlace, output: OutputTile, piece: _Piece) -> Transfer:
        """The items of a piece in a spikes, planes or residual tensor."""
        item = ITEM_BEATS[place.kind] * self._config.beat_bytes
        word = output.lane_group * self._words + output.word + piece.word
        pixel = output.tile.row * self._width + output.tile.col + piece.pixel
        return Transfer(place, place.offset + (word * self._pixels + pixel) * item,
                        piece.pixels * ITEM_BEATS[place.kind], piece.words, self._pixels * item)


def _parameters(network: Network, neuron: Neuron, out_map: ChannelMap) -> bytes:
    """Parameter rows of all output words."""
    def values(name: str | None, fill: int = 0) -> np.ndarray:
        array = np.full(out_map.channels, fill, np.int64) if name is None else network.arrays[name].astype(np.int64)
        return out_map.spread(array, 0, fill)

    return pack_parameters(values(neuron.bias), values(neuron.threshold, NEVER), values(neuron.shift),
                           values(neuron.negate))


