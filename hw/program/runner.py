"""Runner: finds places for what the works need and emits them in the order given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spikeloom.hw.isa import EncodingError, Target

from .buffers import Plan, Planner
from .constants import Chunk, pack_headers
from .emitter import Emitter
from .errors import MappingError
from .work import Content, Job, Name, Places, Work

SPIKES_AHEAD, WEIGHTS_AHEAD, HEADERS_AHEAD, PARAMETERS_AHEAD = 3, 3, 4, 4
"""Contents fetched before they are needed: enough to hide DDR, few enough that no queue is blocked by them."""


@dataclass(frozen=True)
class _Step:
    job: Job
    work: Work


class Runner:
    """Emits jobs. Everything that lies on chip has its place planned over the whole program first.

    `names`: of the operators, for messages.
    """

    def __init__(self, emitter: Emitter, jobs: Sequence[Job], names: Sequence[str]) -> None:
        self._emitter, self._config, self._names = emitter, emitter.config, names
        self._steps = [_Step(job, work) for job in jobs for work in job.works]
        self._contents: dict[Name, Content] = {}
        self._packed: dict[tuple[int, int], bytes] = {}
        self._done: dict[int, list[tuple[Job, int]]] = {}
        for index, step in enumerate(self._steps):
            if step.work is step.job.works[-1]:
                self._done.setdefault(step.job.layer, []).append((step.job, index))

    def run(self) -> None:
        """Raises MappingError if a buffer is too small, or an operator does not fit the chunk headers."""
        config = self._config
        spikes = self._plan("spike banks", config.spike_depth, [s.work.spikes for s in self._steps], SPIKES_AHEAD)
        weights = self._plan("weight buffer", config.weight_depth, [
            (s.work.weights,) if s.work.weights else () for s in self._steps], WEIGHTS_AHEAD)
        rows = [next(iter(r.values()), 0) for r in weights.rows]
        headers = self._plan("chunk buffer", config.chunk_depth, [
            (self._headers(step, row, places),)
            for step, row, places in zip(self._steps, rows, spikes.rows, strict=True)], HEADERS_AHEAD)
        parameters = self._plan("parameter buffer", config.parameter_depth, [
            (s.work.parameters,) if s.work.parameters else () for s in self._steps], PARAMETERS_AHEAD)
        bank = 0
        for index, step in enumerate(self._steps):
            for plan in (weights, headers, spikes, parameters):
                self._fill(plan.fills[index])
            if step.work is step.job.works[0] and step.job.accumulates:
                bank ^= 1
            self._emitter.layer = step.job.layer
            if step.work.prepare is not None:
                step.work.prepare()
            places = Places(
                spikes.rows[index], _row(weights, index), _row(headers, index), _row(parameters, index), bank)
            step.work.compute(places)
            for plan in (weights, headers, spikes, parameters):  # behind it, for a full queue stops all engines
                self._fill(plan.ahead[index])
            self._emitter.layer = step.job.layer
            if step.work.finish is not None:
                step.work.finish(places)

    def _plan(self, what: str, depth: int, uses: Sequence[tuple[Content, ...]], ahead: int) -> Plan:
        self._contents |= {content.name: content for use in uses for content in use}
        made = frozenset(content.name for use in uses for content in use if content.fill is None)
        known = {content.name: self._available(content) for use in uses for content in use if content.needs}
        beats = {content.name: content.beats for use in uses for content in use if content.beats}
        durations = [s.job.cycles // len(s.job.works) for s in self._steps] if beats else ()
        return Planner(what, depth, [tuple((c.name, c.size) for c in use) for use in uses], ahead=ahead,
                       made=made, available=known, beats=beats, durations=durations).run()

    def _available(self, content: Content) -> int:
        """First step before which the content can be fetched."""
        return 1 + max((done for need in content.needs for job, done in self._done.get(need.layer, ())
                        if need.meets(job.rows, job.words, job.band)), default=-1)

    def _pack(self, chunks: Sequence[Chunk], weight_row: int, layer: int) -> bytes:
        try:
            return pack_headers(list(chunks), weight_row, self._config)
        except EncodingError as error:
            raise MappingError(f"operator {self._names[layer]}: {error}") from error

    def _fill(self, fills: Sequence[tuple[Name, int]]) -> None:
        for name, row in fills:
            fill = self._contents[name].fill
            if fill is not None:
                fill(row)

    def _headers(self, step: _Step, weight_row: int, spikes: Mapping[Name, int]) -> Content:
        """Headers of a work; equal ones are held once."""
        chunks, layer = step.work.chunks, step.job.layer
        if callable(chunks):
            chunks = chunks(spikes)
            data = self._pack(chunks, weight_row, layer)
        else:
            key = (id(chunks), weight_row)
            if key not in self._packed:
                self._packed[key] = self._pack(chunks, weight_row, layer)
            data = self._packed[key]
        count = len(chunks)

        def fill(row: int) -> None:
            self._emitter.layer = layer
            beats = count * self._config.chunk_header_beats
            self._emitter.load_constants(Target.CHUNKS, row, count, self._emitter.constant(data), beats)

        return Content(("headers", data), count, fill)


def _row(plan: Plan, index: int) -> int:
    """First row of the only content that a step uses, 0 if it uses none."""
    return next(iter(plan.rows[index].values()), 0)
