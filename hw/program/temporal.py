"""Lowering of TemporalAttend: per tile and word of the output one COMPUTE for each lane group of K and V, a chunk per
frame.

A chunk walks the pixels of the tile, and in each of them the words of the head and then the word of V that belongs to
the output word: `cols` = words + 1, of which `skip` = words only fill the counters. So Q and that word of V lie one
behind the other in bank 0, K at the same addresses in bank 1.

Integer spikes are sums of binary ones, and so are their scores: over all pairs of a map of Q and a map of K. A chunk
walks the words of all Lq maps of Q, and chunk r of the Lk chunks of a frame has map (a + r) % Lk of K beside map a of
Q; therefore some maps of K lie in bank 1 more than once, Lq + Lk - 1 maps in all::

    bank 0   Q0 Q1 .. Q(Lq-1) V              column a * words + w: word w of map a; then V
    bank 1   K0 K1 .. K(Lk-1) K0 K1 ..       read from map r on

Each map of V has COMPUTEs of its own, onto the same accumulators.
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
        levels = places[operator.query].levels
        if self._width * levels >= 1 << SCORE_BITS - 1:
            of_levels = f" of spikes of {levels} levels" if levels > 1 else ""
            raise MappingError(f"heads of {self._width} channels{of_levels} exceed the scores of {SCORE_BITS} bits")
        self._geometry = geometry = Geometry(query.height, query.width)
        self._map = query.channel_map(config)
        self._head_words = self._map.words // operator.heads
        self._query, self._key, self._value = (
            SpikeFeed(places[n], geometry, config) for n in (operator.query, operator.key, operator.value))
        self._skip = self._head_words * self._query.planes
        self._key_maps = self._query.planes + self._key.planes - 1
        self._strips = max(self._skip + 1, self._head_words * self._key_maps)
        rows = min(tile_rows(geometry, config), config.spike_depth // 2 // self._strips // geometry.width)
        if rows < 1:
            raise MappingError(f"{self._strips} rows of {geometry.width} words do not fit half of a spike bank "
                               f"({config.spike_depth // 2} words)")
        self._split = Split(rows, self._map.words, 1)
        self._strip = min(geometry.height, rows) * geometry.width
        self._stage = NeuronStage(emitter, network, places, operator.neuron, self._map, geometry.out_height,
                                  geometry.out_width, 1, residuals)
        self._parts = [(group, level, chunks) for group in range(lane_groups(network.frames, config))
                       for level in range(self._value.planes) for chunks in self._make_chunks(group, level)]

    def run(self) -> Lowered:
        outputs = output_tiles(self._query, self._split, self._map.words, 1, self._frames, self._operator.neuron.pool,
                               self._split.rows, self._config)
        return Lowered((self._layer,), [self._job(output) for _, output in outputs])

    def _make_chunks(self, group: int, level: int) -> list[tuple[Chunk, ...]]:
        """Chunks for each frame of a lane group and map of K, for one map of V; as many together as a COMPUTE takes."""
        lanes, most, turn = self._config.lanes, self._config.chunk_depth // 2, self._head_words * self._strip
        chunks = [Chunk(
            accumulate=Accumulate.KEEP if group or level or lane or key else Accumulate.ZERO,
            operand=self._width * self._query.planes, bipolar=self._operator.bipolar, load=False, lane=lane,
            # at V, bank 1 is a column beyond the end and reads zero
            banks=(BankRead(0), BankRead(key * turn, dx=1)) + (None,) * (self._config.banks - 2))
            for lane in range(min(lanes, self._frames - group * lanes)) for key in range(self._key.planes)]
        return [tuple(chunks[first:first + most]) for first in range(0, len(chunks), most)]

    def _job(self, output: OutputTile) -> Job:
        tile, groups, count = output.tile, lane_groups(self._frames, self._config), len(self._parts)
        shortcut: list[int] = []
        parameters, before = self._stage.parameters(output)

        def prepare() -> None:
            shortcut[:] = self._stage.prepare(output)

        def finish(places: Places) -> None:
            self._stage.drain(output, places.bank, places.parameters + before, shortcut)

        def work(part: int) -> Work:
            group, level, chunks = self._parts[part]
            content, last = self._content(output, group, level), part == count - 1

            def compute(places: Places) -> None:
                self._compute(tile, len(chunks), places, places.spikes[content.name])

            return Work(
                spikes=(content,), weights=None, chunks=chunks, compute=compute, prepare=None if part else prepare,
                finish=finish if last else None, parameters=parameters if last else None)

        return Job(
            layer=self._layer, rows=(tile.row, tile.row + tile.rows), words=(output.word, output.word + 1),
            works=tuple(work(part) for part in range(count)),
            cycles=sum(len(chunks) for _, _, chunks in self._parts) * tile.pixels * (self._skip + 1),
            glued=output.lane_group < groups - 1, needs=self._stage.needs(output))

    def _content(self, output: OutputTile, group: int, level: int) -> Content:
        """Q of the output's lane group, K and map `level` of V of lane group `group`; the strip of the tile."""
        words, row, strip = self._head_words, output.tile.row, self._strip
        first = output.word // words * words
        query, key = (Unit(lanes, row, first, 0, 0) for lanes in (output.lane_group, group))
        value = Unit(group, row, output.word, 0, level)

        def fill(base: int) -> None:
            self._emitter.layer = self._layer
            split = self._split
            self._emitter.load(self._query.level_transfer(split, query, words, self._query.planes), base, [0])
            for start in range(0, self._key_maps, self._key.planes):  # all maps of K, then the first ones again
                maps = min(self._key.planes, self._key_maps - start)
                self._emitter.load(
                    self._key.level_transfer(split, key, words, maps), base + start * words * strip, [1])
            self._emitter.load(self._value.level_transfer(split, value, 1, 1), base + self._skip * strip, [0])

        needs = tuple(need for feed, unit, count in (
            (self._query, query, words), (self._key, key, words), (self._value, value, 1))
            for need in feed.needs(self._emitter, Split(self._split.rows, count, 1), unit))
        name = (self._layer, output.word, output.lane_group, group, level, row)
        return Content(name, self._strips * strip, fill, needs)

    def _compute(self, tile: Tile, count: int, places: Places, base: int) -> None:
        width = self._geometry.width
        # the last strip is moved up to end with the picture
        first = min(tile.row, max(0, self._geometry.height - self._split.rows))
        accesses = [Access("bank 0", base, base + (self._skip + 1) * self._strip),
                    Access("bank 1", base, base + self._head_words * self._key_maps * self._strip),
                    Access(Target.CHUNKS.name, places.headers, places.headers + count),
                    Access(f"acc {places.bank}", 0, tile.pixels, write=True)]
        self._emitter.emit(Opcode.COMPUTE, {
            "core": Core.TEMPORAL, "chunk": places.headers, "chunks": count, "rows": tile.pixels,
            "cols": self._skip + 1, "skip": self._skip,
            "address": base + (tile.row - first) * width + tile.col, "col_step": self._strip, "row_step": 1,
            "x_step": 1, "height": 1, "width": self._skip + 1, "acc_bank": places.bank, "acc_base": 0}, accesses)
