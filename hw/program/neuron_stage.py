"""The neuron stage of an operator: parameters, DRAIN, shortcut and the stores of what it makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from spikeloom.arithmetic import LEAKS, PLANE_BITS
from spikeloom.hw.isa import Leak, Mode, Opcode, Source, Target
from spikeloom.network import Network, Neuron

from .emitter import Emitter, Transfer
from .enlarge import copies, enlarged, row_transfers
from .errors import MappingError
from .feeds import Tile
from .layout import ITEM_BEATS, ChannelMap, TensorPlace, ceil_div, lane_groups
from .neuron_parameters import neuron_parameters
from .residual import Residuals, Window
from .schedule import Access
from .work import Content, Need

RESIDUAL = "RESIDUAL"
"""The residual buffer in the hazard analysis."""

PARAMETER_PARTS = 4
"""Share of the parameter buffer that is loaded at a time."""

STAGED = 4
"""A piece of a residual tensor in DDR takes at most the staging's size over this."""

PIECES_LOADED = 2
"""Pieces of the shortcut that are loaded before a tile is drained."""


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
class Piece:
    """Part of an OutputTile that one DRAIN takes, relative to it: whole rows, or part of one. `item`: items before."""

    word: int
    words: int
    row: int
    rows: int
    col: int
    cols: int
    item: int

    @property
    def pixels(self) -> int:
        return self.rows * self.cols

    @property
    def items(self) -> int:
        return self.words * self.pixels


@dataclass(frozen=True)
class LocalPlanes:
    """Where the planes of a tile go in the spike banks: `base`; `part_size` addresses per part of the planes."""

    base: int
    part_size: int


class NeuronStage:
    """Drains the accumulators of one operator.

    Args:
        out_map: Channel map of everything that the operator makes.
        height, width: Of the accumulator map.
        pass_words: Output words that one pass fills.
        residuals: Where residual tensors lie.
        blocks: Blocks of parameter rows of all output words; None: one per threshold.
    """

    def __init__(
        self, emitter: Emitter, network: Network, places: dict[str, TensorPlace], neuron: Neuron, out_map: ChannelMap,
        height: int, width: int, pass_words: int, residuals: Residuals, blocks: Sequence[bytes] | None = None,
    ) -> None:
        self._emitter, self._config, self._neuron = emitter, emitter.config, neuron
        self._places, self._frames, self._pixels, self._width = places, network.frames, height * width, width
        self._pass_words, self._residuals, self._levels = pass_words, residuals, neuron.levels
        blocks = neuron_parameters(network, neuron, out_map) if blocks is None else blocks
        self._offsets = [emitter.constant(rows) for rows in blocks]
        self._words = out_map.words
        if pass_words * len(blocks) > self._config.parameter_depth:
            raise MappingError(f"{len(blocks)} thresholds of {pass_words} words do not fit the parameter buffer "
                               f"({self._config.parameter_depth} rows)")
        # windows of what is read and of what is made; None: staged, if there is such a tensor at all
        self._source = residuals.homes.get(neuron.shortcut or "")
        self._target = residuals.homes.get(neuron.residual or "")
        self._wide = enlarged(network).get(neuron.shortcut or "")
        self._layer = emitter.layer

    def parameters(self, output: OutputTile) -> tuple[Content, int]:
        """The parameter rows that a tile's are among, and how many come before its own.

        The rows of all words of the first block, then of the second, and so on; integer spikes: of each threshold.
        """
        first, words = self._together(output)
        beats = self._config.parameter_beats

        def fill(row: int) -> None:
            self._emitter.layer = self._layer
            for block, start in enumerate(self._offsets):
                self._emitter.load_constants(Target.PARAMETERS, row + block * words, words,
                                             start + first * beats * self._config.beat_bytes, words * beats)

        return Content(("parameters", self._layer, first), words * len(self._offsets), fill), output.word - first

    def _together(self, output: OutputTile) -> tuple[int, int]:
        """First word, and number of words, whose parameters are loaded at a time."""
        most = max(self._pass_words, self._config.parameter_depth // PARAMETER_PARTS // len(self._offsets))
        most -= most % self._pass_words
        first = output.word - output.word % most
        return first, min(most, self._words - first)

    def needs(self, output: OutputTile) -> tuple[Need, ...]:
        """The shortcut of a tile."""
        if self._neuron.shortcut is None:
            return ()
        name, first, last = self._neuron.shortcut, output.tile.row, output.tile.row + output.tile.rows
        if self._wide is not None:
            name, first, last = self._wide.source, first // self._wide.rows, ceil_div(last, self._wide.rows)
        return self._emitter.needs(self._places[name], first, last, output.word, output.word + output.words)

    def prepare(self, output: OutputTile) -> list[int]:
        """Emit the loads of the shortcut that can run beside the computing of a tile; their items, for `drain`."""
        return [self._load_shortcut(output, piece) for piece in self._spilled(output)[:PIECES_LOADED]]

    def drain(
        self, output: OutputTile, bank: int, parameter: int, items: Sequence[int] = (),
        local: LocalPlanes | None = None, carry: int = 0, pixel: int = 0,
    ) -> None:
        """Emit the drains of a tile, each with its stores.

        `carry`, `pixel`: items of the carry memory, and pixels of the accumulators, before it.

        Integer spikes are drained threshold by threshold; the last time the residual is written.
        """
        loaded, later = list(items), self._spilled(output)[PIECES_LOADED:]
        for piece in self._pieces(output):
            spilled = self._brought(output, piece)
            item = loaded.pop(0) if spilled else self._staged(output, piece)
            self._finish(output, piece, bank, parameter, item, local, carry, pixel)
            if spilled and later:
                loaded.append(self._load_shortcut(output, later.pop(0)))

    def _finish(
        self, output: OutputTile, piece: Piece, bank: int, parameter: int, item: int, local: LocalPlanes | None,
        carry: int, before: int,
    ) -> None:
        """The drains of a piece, and the stores of what they make; `item`: where the piece is staged, if it is.

        A spatial sum is taken once. Behind its last piece one pixel of nothing (`neuron_parameters`) puts it out for
        each of the other thresholds.
        """
        self._drain(output, piece, bank, self._row(output, piece, parameter, 0), item, local, carry, before)
        self._store(output, piece, item, 0)
        pool = self._neuron.pool
        again = replace(piece, rows=1, cols=1) if pool else piece
        for level in range(1, self._levels if not pool or self._completes(output, piece) else 1):
            row = self._row(output, piece, parameter, level)
            self._drain(output, again, bank, row, item, local, carry, before, level)
            self._store(output, piece, item, level)

    @staticmethod
    def _completes(output: OutputTile, piece: Piece) -> bool:
        """Whether a piece is the last of the map."""
        return output.last and piece.row * output.tile.cols + piece.col + piece.pixels == output.tile.pixels

    def _row(self, output: OutputTile, piece: Piece, parameter: int, block: int) -> int:
        """Parameter row of the first word of a piece in a block."""
        return parameter + block * self._together(output)[1] + piece.word

    def _spilled(self, output: OutputTile) -> list[Piece]:
        """Pieces whose shortcut is brought from DDR."""
        return [piece for piece in self._pieces(output) if self._brought(output, piece)]

    def _brought(self, output: OutputTile, piece: Piece) -> bool:
        word = output.word + piece.word
        return self._neuron.shortcut is not None and self._home(self._source, word) is None

    def _staged(self, output: OutputTile, piece: Piece) -> int:
        """Where r goes if no shortcut is brought and the tensor lies in DDR."""
        made = self._neuron.residual is not None and self._home(self._target, output.word + piece.word) is None
        return self._residuals.staging.take(piece.items) if made else 0

    @staticmethod
    def _home(window: Window | None, word: int) -> Window | None:
        return window if window is not None and window.holds(word) else None

    @property
    def on_chip(self) -> bool:
        """Nothing of the shortcut, and nothing of r, goes through DDR."""
        return all(name is None or (home is not None and not home.every) for name, home in (
            (self._neuron.shortcut, self._source), (self._neuron.residual, self._target)))

    def _homes(self, word: int) -> tuple[Window | None, Window | None]:
        """Windows that hold a word of the shortcut and of r."""
        return self._home(self._source, word), self._home(self._target, word)

    def _pieces(self, output: OutputTile) -> Iterator[Piece]:
        """All at once; or so that the rows lie together in the window; or so that a few pieces fit the staging."""
        tile, n = output.tile, self._neuron
        if n.shortcut is None and n.residual is None:
            yield Piece(0, output.words, 0, tile.rows, 0, tile.cols, 0)
            return
        item = word = 0
        while word < output.words:
            found = self._homes(output.word + word)
            homes = [home for home in found if home is not None]
            staged = (n.shortcut is not None and found[0] is None) or (n.residual is not None and found[1] is None)
            most = max(1, self._residuals.staging.size // STAGED) if staged else tile.pixels * output.words
            words, cols = max(1, min(output.words - word, most // tile.pixels)), min(most, tile.cols)
            if len({home.word_stride for home in homes} | ({0} if staged else set())) > 1:
                words = 1
            words = next((k for k in range(1, words) if self._homes(output.word + word + k) != found), words)
            row = 0
            while row < tile.rows:
                rows = max(1, min(tile.rows - row, most // tile.cols))
                for home in homes:
                    whole = home.width == tile.cols
                    rows = min(rows, home.rows_left(tile.row + row)) if whole else 1
                for col in range(0, tile.cols, cols):
                    piece = Piece(word, words, row, rows, col, min(cols, tile.cols - col), item)
                    item += piece.items
                    yield piece
                row += rows
            word += words

    def _load_shortcut(self, output: OutputTile, piece: Piece) -> int:
        assert self._neuron.shortcut is not None
        item = self._residuals.staging.take(piece.items)
        if self._wide is None:
            self._load_items(item, self._transfer(self._places[self._neuron.shortcut], output, piece))
            return item
        tile, start = output.tile, output.lane_group * self._words + output.word + piece.word
        small = self._places[self._wide.source]
        if small.height == small.width == 1:
            self._load_items(item, copies(small, start, piece.words, piece.pixels, self._config.beat_bytes))
            return item
        for index in range(piece.words * piece.rows):
            word, row = divmod(index, piece.rows)
            first = tile.col + piece.col
            for before, transfer in row_transfers(
                    small, self._wide, start + word, tile.row + piece.row + row, first,
                    first + piece.cols, self._config.beat_bytes):
                self._load_items(item + index * piece.cols + before, transfer)
        return item

    def _load_items(self, item: int, transfer: Transfer) -> None:
        beat, count = self._config.beat_bytes, transfer.beats // ITEM_BEATS["residual"]
        self._emitter.emit(
            Opcode.LOAD_SHORTCUT, transfer.fields(beat) | {"item": item},
            [Access(RESIDUAL, item, item + count, write=True), *transfer.accesses(beat, write=False)])

    def _residual_fields(
        self, output: OutputTile, piece: Piece, item: int, *, write: bool
    ) -> tuple[dict[str, int], list[Access]]:
        """`item`: where the piece is staged, if it is."""
        n = self._neuron
        fields: dict[str, int] = {}
        accesses = []
        source, target = self._homes(output.word + piece.word)
        for name, tensor, home in (("shortcut", n.shortcut, source), ("residual", n.residual, target)):
            if tensor is None or (name == "residual" and not write):
                continue
            first, stride = item, piece.pixels
            if home is not None:
                first, stride = self._home_item(home, output, piece), home.word_stride
            fields |= {name: 1, f"{name}_item": first, "item_stride": stride}
            accesses += [Access(RESIDUAL, low, low + piece.pixels, write=name == "residual")
                         for low in range(first, first + piece.words * stride, stride)]
        return fields, accesses

    def _home_item(self, home: Window, output: OutputTile, piece: Piece) -> int:
        tile = output.tile
        return home.item(output.lane_group, output.word + piece.word, tile.row + piece.row, tile.col + piece.col)

    def _drain(
        self, output: OutputTile, piece: Piece, bank: int, row: int, item: int, local: LocalPlanes | None,
        carry: int, before: int, level: int = 0, *, fires: bool = True,
    ) -> None:
        """One DRAIN with parameters from `row` on, and the store of its beats. Without `fires` it only makes r.

        `before`: pixels of the accumulators before the tile's.
        """
        tile, n = output.tile, self._neuron if fires else replace(self._neuron, lif=None, spikes=None)
        mode = Mode.SUM if n.logits else Mode[n.mode.upper()]
        last_group = output.lane_group == lane_groups(self._frames, self._config) - 1
        pixel, pixels = piece.row * tile.cols + piece.col, piece.pixels
        fields: dict[str, int] = {}
        accesses: list[Access] = []
        silent = n.pool and level > 0
        if not silent:
            fields, accesses = self._residual_fields(output, piece, item, write=level == self._levels - 1)
        # all of the bank: its one read port serves COMPUTE and DRAIN, whichever addresses they want
        accesses += [Access(f"acc {bank}", 0, self._config.accumulator_depth),
                     Access(Target.PARAMETERS.name, row, row + piece.words)]
        if n.lif is not None:
            fields |= {"leak": Leak(LEAKS.index(n.lif.leak)), "soft": n.lif.reset == "soft", "strict": n.lif.strict}
        if n.pool:
            fields |= {"pool": 1, "pool_first": output.first and pixel == 0 and not silent,
                       "pool_last": silent or self._completes(output, piece)}
        if n.lif is not None or n.logits is not None:
            fields |= {"carry_in": output.lane_group > 0, "carry": carry + (piece.word if n.pool else piece.item)}
        if local is not None:
            first = local.base + output.word * pixels
            fields |= {"local": 1, "local_bank": output.word % self._config.banks, "local_address": first,
                       "local_stride": local.part_size}
            for part in range(ceil_div(PLANE_BITS, self._config.banks)):
                low = first + part * local.part_size
                accesses += [Access(f"bank {b}", low, low + piece.words * pixels, write=True)
                             for b in range(self._config.banks)]
        fields |= {
            "acc_bank": bank, "acc_base": before + pixel, "pixels": pixels, "word": piece.word,
            "words": piece.words, "parameter": row, "mode": mode, "spikes": n.spikes is not None,
            "planes": n.planes is not None, "raw": n.logits is not None and last_group,
            "lanes": min(self._config.lanes, self._frames - output.lane_group * self._config.lanes)}
        self._emitter.emit(Opcode.DRAIN, fields, accesses)
        if (n.planes is not None and local is None) or (n.spikes is not None and not n.pool):
            name = n.planes or n.spikes
            assert name is not None
            self._emitter.store(self._transfer(self._places[name], output, piece, level), Source.DRAIN)

    def _store(self, output: OutputTile, piece: Piece, item: int, level: int) -> None:
        """The other stores of one DRAIN. They come right behind it: it blocks while the FIFO is full."""
        n, beat = self._neuron, self._config.beat_bytes
        if n.pool and self._completes(output, piece) and n.spikes is not None:
            place = self._places[n.spikes]
            first = (output.lane_group * self._words + output.word + piece.word) * self._levels + level
            self._emitter.store(Transfer(place, place.offset + first * beat, 1, piece.words, self._levels * beat),
                                Source.DRAIN)
        if level < self._levels - 1:
            return
        home = self._home(self._target, output.word + piece.word)
        if n.residual is not None and (home is None or self._residuals.observe):
            self._store_residual(output, piece, item, home)
        if n.logits is not None and output.lane_group == lane_groups(self._frames, self._config) - 1:
            place, beats = self._places[n.logits], self._config.raw_beats
            offset = place.offset + (output.word + piece.word) * beats * beat
            self._emitter.store(Transfer(place, offset, piece.words * beats), Source.DRAIN)

    def _store_residual(self, output: OutputTile, piece: Piece, item: int, home: Window | None) -> None:
        assert self._neuron.residual is not None
        place, pixels = self._places[self._neuron.residual], piece.pixels
        if home is None:
            self._emitter.store_residual(self._transfer(place, output, piece), item, piece.items)
            return
        first = self._home_item(home, output, piece)
        for word in range(piece.words):
            one = replace(piece, word=piece.word + word, words=1)
            item = first + word * home.word_stride
            self._emitter.store_residual(self._transfer(place, output, one), item, pixels)

    def _transfer(self, place: TensorPlace, output: OutputTile, piece: Piece, level: int = 0) -> Transfer:
        """The items of a piece in a spikes, planes or residual tensor, or in a map of integer spikes."""
        beats, tile = ITEM_BEATS[place.kind], output.tile
        item = beats * self._config.beat_bytes
        word = (output.lane_group * self._words + output.word + piece.word) * place.levels + level
        pixel = (tile.row + piece.row) * self._width + tile.col + piece.col
        return Transfer(place, place.offset + (word * self._pixels + pixel) * item, piece.cols * beats,
                        piece.rows, self._width * item, piece.words, place.levels * self._pixels * item)
