"""Lowering of TemporalAttend: per tile and word of the output one COMPUTE for each lane group of K and V, a chunk per
frame.

A chunk walks the pixels of the tile, and in each of them the words of the head and then the word of V that belongs to
the output word: `cols` = words + 1, of which `skip` = words only fill the counters. So Q and that word of V lie one
behind the other in bank 0, K at the same addresses in bank 1.
"""

from __future__ import annotations

from spikeloom.config import SCORE_BITS
from spikeloom.hw.isa import Accumulate, Core, Opcode, Target
from spikeloom.network import Network, TemporalAttend

from .constants import BankRead, Chunk
from .emitter import Emitter
from .errors import MappingError
from .feeds import Geometry, SpikeFeed, Split, Tile, Unit
from .layout import TensorPlace, lane_groups
from .neuron_stage import NeuronStage, OutputTile
from .passes import output_tiles
from .residual import Residuals
from .schedule import Access
from .splits import tile_rows
from .work import Content, Job, Lowered, Places, Work


def lower_temporal(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: TemporalAttend, residuals: Residuals
) -> Lowered:
    """Jobs of a temporal attention. Raises MappingError."""
    return TemporalLowering(emitter, network, places, operator, residuals).run()


class TemporalLowering:
    """See `lower_temporal`."""

    def __init__(
        self, emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: TemporalAttend,
        residuals: Residuals,
    ) -> None:
        self._emitter, self._config, self._layer = emitter, emitter.config, emitter.layer
        self._frames, self._operator = network.frames, operator
        config, query = self._config, places[operator.query]
        self._width = query.channels // operator.heads
        if not config.temporal_unit:
            raise MappingError("the machine has no unit for attention from frame to frame (`temporal_unit`)")
        if self._width >= 1 << SCORE_BITS - 1:
            raise MappingError(f"heads of {self._width} channels exceed the scores of {SCORE_BITS} bits")
        self._geometry = geometry = Geometry(query.height, query.width)
        self._map = query.channel_map(config)
        self._head_words = self._map.words // operator.heads
        self._query, self._key, self._value = (
            SpikeFeed(places[n], geometry, config) for n in (operator.query, operator.key, operator.value))
        rows = min(tile_rows(geometry, config), config.spike_depth // 2 // (self._head_words + 1) // geometry.width)
        if rows < 1:
            raise MappingError(f"{self._head_words + 1} rows of {geometry.width} words do not fit half of a spike bank "
                               f"({config.spike_depth // 2} words)")
        self._split = Split(rows, self._map.words, 1)
        self._strip = min(geometry.height, rows) * geometry.width
        self._stage = NeuronStage(emitter, network, places, operator.neuron, self._map, geometry.out_height,
                                  geometry.out_width, 1, residuals)
        groups = lane_groups(network.frames, config)
        self._chunks = [self._make_chunks(group) for group in range(groups)]

    def run(self) -> Lowered:
        outputs = output_tiles(self._query, self._split, self._map.words, 1, self._frames, self._operator.neuron.pool,
                               self._split.rows, self._config)
        return Lowered((self._layer,), [self._job(output) for _, output in outputs])

    def _make_chunks(self, group: int) -> tuple[Chunk, ...]:
        """One chunk for each frame of a lane group."""
        lanes = self._config.lanes
        return tuple(Chunk(
            accumulate=Accumulate.KEEP if group or lane else Accumulate.ZERO, operand=self._width,
            bipolar=self._operator.bipolar, load=False, lane=lane,
            # at V, bank 1 is a column beyond the end and reads zero
            banks=(BankRead(0), BankRead(0, dx=1)) + (None,) * (self._config.banks - 2))
            for lane in range(min(lanes, self._frames - group * lanes)))

    def _job(self, output: OutputTile) -> Job:
        tile, groups = output.tile, len(self._chunks)
        shortcut: list[int] = []
        parameters, before = self._stage.parameters(output)

        def prepare() -> None:
            shortcut[:] = self._stage.prepare(output)

        def finish(places: Places) -> None:
            self._stage.drain(output, places.bank, places.parameters + before, shortcut)

        def work(group: int) -> Work:
            content, last = self._content(output, group), group == groups - 1

            def compute(places: Places) -> None:
                self._compute(tile, group, places, places.spikes[content.name])

            return Work(
                spikes=(content,), weights=None, chunks=self._chunks[group], compute=compute,
                prepare=None if group else prepare, finish=finish if last else None,
                parameters=parameters if last else None)

        return Job(
            layer=self._layer, rows=(tile.row, tile.row + tile.rows), words=(output.word, output.word + 1),
            works=tuple(work(group) for group in range(groups)),
            cycles=self._frames * tile.pixels * (self._head_words + 1), glued=output.lane_group < groups - 1,
            needs=self._stage.needs(output))

    def _content(self, output: OutputTile, group: int) -> Content:
        """Q of the output's lane group, K and V of lane group `group`; the strip of the tile."""
        words, row = self._head_words, output.tile.row
        first = output.word // words * words
        parts = [(self._query, 0, Unit(output.lane_group, row, first, 0, 0), words, 0),
                 (self._key, 1, Unit(group, row, first, 0, 0), words, 0),
                 (self._value, 0, Unit(group, row, output.word, 0, 0), 1, words * self._strip)]

        def fill(base: int) -> None:
            self._emitter.layer = self._layer
            for feed, bank, unit, count, offset in parts:
                self._emitter.load(feed.transfer(self._split, unit, unit.word, count, 1), base + offset, [bank])

        needs = tuple(need for feed, _, unit, count, _ in parts
                      for need in feed.needs(self._emitter, Split(self._split.rows, count, 1), unit))
        name = (self._layer, output.word, output.lane_group, group, row)
        return Content(name, (words + 1) * self._strip, fill, needs)

    def _compute(self, tile: Tile, group: int, places: Places, base: int) -> None:
        count, width = len(self._chunks[group]), self._geometry.width
        # the last strip is moved up to end with the picture
        first = min(tile.row, max(0, self._geometry.height - self._split.rows))
        size = (self._head_words + 1) * self._strip
        accesses = [Access("bank 0", base, base + size),
                    Access("bank 1", base, base + self._head_words * self._strip),
                    Access(Target.CHUNKS.name, places.headers, places.headers + count),
                    Access(f"acc {places.bank}", 0, tile.pixels, write=True)]
        self._emitter.emit(Opcode.COMPUTE, {
            "core": Core.TEMPORAL, "chunk": places.headers, "chunks": count, "rows": tile.pixels,
            "cols": self._head_words + 1, "skip": self._head_words,
            "address": base + (tile.row - first) * width + tile.col, "col_step": self._strip, "row_step": 1,
            "x_step": 1, "height": 1, "width": self._head_words + 1, "acc_bank": places.bank, "acc_base": 0}, accesses)
