"""From passes to jobs: each pass of an operator becomes a job whose works know what they need and what they emit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from spikeloom.hw.isa import Core, Opcode, Target

from .emitter import Emitter
from .feeds import Feed, LocalFeed, Split, Unit
from .layout import lane_groups
from .neuron_stage import LocalPlanes, NeuronStage, OutputTile
from .passes import Pass, Run, Segments
from .schedule import Access
from .work import Content, Job, Need, Places, Work

LoadWeights = Callable[[tuple[int, int], int], None]
"""Brings (set of weights, segment) to a row of the weight buffer."""


class Tiling:
    """Makes the jobs of one operator, the emitter's present layer.

    Args:
        load_weights: Emits the loads of a segment.
        planes: Where the planes of a depthwise convolution go if they stay on chip.
        weights_need: What makes the weights, if the program itself does.
        together: Lane groups that a pass makes; their rows take turns in the accumulators.
        carried_words: Every tile keeps the potentials of all output words at the same time.
        by_group: All words of a lane group come before the next lane group: their sums' potentials are kept.
    """

    def __init__(
        self, emitter: Emitter, core: Core, feed: Feed, split: Split, segments: Segments, stage: NeuronStage,
        load_weights: LoadWeights, *, frames: int, planes: LocalFeed | None = None, carried_words: bool = False,
        weights_need: tuple[Need, ...] = (), together: int = 1, by_group: bool = False,
    ) -> None:
        self._emitter, self._core, self._feed, self._split = emitter, core, feed, split
        self._segments, self._stage, self._load_weights = segments, stage, load_weights
        self._size, self._layer, self._band = feed.size(split), emitter.layer, emitter.band
        self._groups, self._together = lane_groups(frames, emitter.config), together
        self._planes, self._carried_words, self._weights_need = planes, carried_words, weights_need
        self._by_group = by_group

    def job(self, one: Pass) -> Job:
        tile = one.output.tile
        shortcut: list[int] = []
        works = tuple(self._work(one, run, shortcut) for run in one.runs)
        return Job(
            layer=self._layer, rows=(tile.row, tile.row + tile.rows), works=works,
            words=(one.output.word, one.output.word + one.output.words),
            cycles=sum(len(run.chunks) * run.part(tile).pixels for run in one.runs) * self._together,
            glued=one.output.lane_group + self._together < self._groups, needs=self._stage.needs(one.output),
            band=self._band)

    def jobs(self, passes: Sequence[Pass]) -> list[Job]:
        jobs = [self.job(one) for one in passes]
        if self._by_group:  # nobody else may write the carry memory until the last lane group is through
            jobs[:-1] = [replace(job, glued=True) for job in jobs[:-1]]
        return jobs

    def _work(self, one: Pass, run: Run, shortcut: list[int]) -> Work:
        """`shortcut`: items that the first work of the pass loads and the last one adds."""
        output, first, last = one.output, run is one.runs[0], run is one.runs[-1]
        unit = Unit(output.lane_group, one.strip, run.word, run.tap, run.plane,
                    output.tile.col if self._split.cols else 0)
        spikes = [self._unit_content(unit)]
        if self._planes is not None:
            name = self._planes.planes_of(output.tile.row, output.lane_group)
            spikes.append(Content(name, self._planes.size(Split(1, 1, 1))))
        parameters = self._stage.parameters(output)

        def prepare() -> None:
            shortcut[:] = self._stage.prepare(output)

        def compute(places: Places) -> None:
            self._compute(one, unit, run, places, places.spikes[spikes[0].name])

        def finish(places: Places) -> None:
            local = None
            if self._planes is not None:
                local = LocalPlanes(places.spikes[spikes[1].name], self._planes.part_size)
            row = places.parameters + parameters[1]
            kept = 1 if self._by_group else output.tile.pixels if self._carried_words else 0  # items of a word
            if self._together > 1:
                self._drain_in_turn(output, places.bank, row)
            else:
                self._stage.drain(output, places.bank, row, shortcut, local, output.word * kept)

        return Work(
            spikes=tuple(spikes), weights=self._weights_content(one.weights, run.segment), chunks=run.chunks,
            compute=compute, prepare=prepare if first else None, finish=finish if last else None,
            parameters=parameters[0] if last else None)

    def _drain_in_turn(self, output: OutputTile, bank: int, parameter: int) -> None:
        """Row by row, in each one lane group after the other."""
        tile = output.tile
        for row in range(tile.rows):
            for group in range(self._together):
                part = replace(output, tile=replace(tile, row=tile.row + row, rows=1), lane_group=group)
                self._stage.drain(part, bank, parameter, pixel=(row * self._together + group) * tile.cols)

    def _unit_content(self, unit: Unit) -> Content:
        if isinstance(self._feed, LocalFeed):
            return Content(self._feed.content(self._layer, self._split, unit), self._size)

        def fill(base: int) -> None:
            self._emitter.layer = self._layer
            self._feed.load(self._emitter, self._split, unit, base)

        return Content(self._feed.content(self._layer, self._split, unit), self._size, fill,
                       self._feed.needs(self._emitter, self._split, unit),
                       self._feed.beats(self._split, unit))

    def _weights_content(self, weights: int, segment: int) -> Content:
        def fill(row: int) -> None:
            self._emitter.layer = self._layer
            self._load_weights((weights, segment), row)

        return Content((self._layer, self._band, weights, segment), self._segments.size, fill, self._weights_need)

    def _compute(self, one: Pass, unit: Unit, run: Run, places: Places, base: int) -> None:
        used = {b for chunk in run.chunks for b, read in enumerate(chunk.banks) if read is not None}
        rows = min(self._segments.size, max(chunk.operand for chunk in run.chunks) + self._segments.rows)
        accesses = [Access(f"bank {b}", base, base + self._size) for b in sorted(used)]
        accesses += [
            Access(Target.WEIGHTS.name, places.weights, places.weights + rows),
            Access(Target.CHUNKS.name, places.headers, places.headers + len(run.chunks)),
            Access(f"acc {places.bank}", 0, one.output.tile.pixels * self._together, write=True)]
        tile = run.part(one.output.tile)
        fields = self._feed.walk(self._split, unit, tile, base + one.offset)
        fields |= {"core": self._core, "chunk": places.headers, "chunks": len(run.chunks), "acc_bank": places.bank,
                   "acc_base": (run.row or 0) * tile.cols}
        self._emitter.emit(Opcode.COMPUTE, fields, accesses)
