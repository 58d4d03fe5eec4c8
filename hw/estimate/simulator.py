"""Runs a program as events: instructions, tokens, and flows of beats that share the memory.

    fetch -> queues -> engines in order, when their tokens are there -> done -> tokens
    loads, stores: flows, at the rates that `bandwidth.fair` gives them; a rate holds until the next event
    several of one engine: latencies overlap, beats follow each other; LOAD_PIXELS works alone
    DRAIN -> stream (FIFO) -> STORE: DRAIN stops when the FIFO is full, STORE when it is empty

COMPUTE needs no flow: once it has its tokens nothing stops it (K^T V apart), so its time is summed up chunk by chunk.
Every cycle of the run is booked on the operator whose COMPUTE runs or is awaited, under what it is spent on (CAUSES).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from spikeloom.arithmetic import PLANE_BITS
from spikeloom.config import MachineConfig
from spikeloom.hw.isa import INSTRUCTION_BYTES, Engine, Source

from .bandwidth import fair, read_cap, write_cap
from .flows import Flow, Stream, Unit
from .passes import Passes
from .times import Ddr, Times
from .work import Compute, Drain, Move, Task

__all__ = ["CAUSES", "Simulator", "StuckError"]

CAUSES = ("compute", "table", "ddr", "drain", "queue", "transition")
"""What a cycle is spent on: positions; filling of tables; waiting for a transfer; for DRAIN; for an instruction behind
one whose queue is full; for anything else (latency of pipelines and tokens, fetch of instructions)."""

READERS = (Engine.SEQUENCER, Engine.WEIGHT, Engine.LOAD, Engine.SHORTCUT)
WRITERS = (Engine.STORE, Engine.STORE_RESIDUAL)
QUEUED = tuple(engine for engine in Engine if engine is not Engine.SEQUENCER)
TINY = 1e-6


class StuckError(RuntimeError):
    """Nothing can go on: tokens or beats are awaited that never come."""


class Simulator:
    """One run; `run` fills the results.

    Attributes:
        now: Cycles so far; after `run` the length of the run.
        units: Per engine; `busy` and `blocked` as the machine's counters have them.
        causes: Per operator, cycles by cause; all sums together are `now`.
        spans: Per operator, begin of its first and end of its last instruction.
    """

    def __init__(self, tasks: Sequence[Task], config: MachineConfig, operators: int, ddr: Ddr, times: Times) -> None:
        self._tasks, self._config, self._ddr, self._times = tasks, config, ddr, times
        self.now = 0.0
        self.units = {engine: Unit() for engine in QUEUED}
        self.causes: list[dict[str, float]] = [dict.fromkeys(CAUSES, 0.0) for _ in range(operators)]
        self.spans: list[list[float]] = [[float("inf"), 0.0] for _ in range(operators)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._tokens = {(p, c): 0 for p in Engine for c in Engine}
        self._flows: list[Flow] = []
        self._streams = {source: Stream() for source in Source}
        self._ended = self._end_ready = False
        self._fetch_beats = INSTRUCTION_BYTES // config.beat_bytes
        self._accepted: list[float] = []
        self._stalled_fetch: int | None = None
        self._planes = 0  # DRAINs whose planes go to the spike banks just now
        self._quiet = 0.0  # no item of a DRAIN is in the pipeline from then on
        self._booked = 0.0
        self._passes = Passes(times)
        self._compute_order = [t.layer for t in tasks if isinstance(t.work, Compute)]
        self._computes = 0

    def run(self) -> Simulator:
        """To the end. Raises StuckError."""
        self._at(self._times.start + self._ddr.delay + self._times.fetch_check, lambda: self._offer(0))
        while not self._ended:
            self._rates()
            self._advance(self._next())
            self._issue()
        self.now += self._times.start
        self._book(self._times.start, "transition")
        return self

    # time

    def _at(self, when: float, then: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, then))

    def _next(self) -> float:
        """Time of the next event. Raises StuckError."""
        when = self._events[0][0] if self._events else float("inf")
        for flow in self._flows:
            if flow.rate > 0:
                when = min(when, self.now + flow.left / flow.rate)
        for stream in self._streams.values():
            when = min(when, self.now + self._until_bound(stream))
        if when == float("inf"):
            heads = ", ".join(f"{e.name} at {u.queue[0]}" for e, u in self.units.items() if u.queue)
            raise StuckError(f"cycle {self.now:.0f}: nothing can go on; waiting: {heads or 'END'}")
        return when

    def _until_bound(self, stream: Stream) -> float:
        """Cycles until the FIFO is full or empty."""
        change = (stream.producer.rate if stream.producer else 0.0) - (stream.consumer.rate if stream.consumer else 0.0)
        if change > TINY and stream.level < self._capacity(stream) - TINY:
            return (self._capacity(stream) - stream.level) / change
        if change < -TINY and stream.level > TINY:
            return stream.level / -change
        return float("inf")

    def _advance(self, when: float) -> None:
        """To `when`; then everything that happens there."""
        step = when - self.now
        if step > 0:
            self._count_time(step, when)
            for stream in self._streams.values():
                stream.level += step * (stream.producer.rate if stream.producer else 0.0)
                stream.level -= step * (stream.consumer.rate if stream.consumer else 0.0)
                stream.level = max(stream.level, 0.0)
            for flow in self._flows:
                flow.left -= step * flow.rate
            self.now = when
        for flow in [f for f in self._flows if f.left <= TINY]:
            self._flows.remove(flow)
            flow.then()
        while self._events and self._events[0][0] <= self.now + TINY:
            heapq.heappop(self._events)[2]()
        for stream in self._streams.values():
            if stream.awaiting is not None and stream.level <= self._held(stream) + TINY:
                then, stream.awaiting = stream.awaiting, None
                then()

    def _rates(self) -> None:
        """Share the memory among the ports, and each port among its flows."""
        ports: dict[int, list[Flow]] = {}
        wanted: dict[Flow, float] = {}
        for flow in self._flows:
            if flow.stream is not None and flow is flow.stream.producer:
                flow.rate = flow.cap
                continue
            wanted[flow] = self._demand(flow)
            ports.setdefault(flow.port, []).append(flow)
        totals = [min(self._ddr.bandwidth, sum(wanted[f] for f in flows)) for flows in ports.values()]
        for flows, share in zip(ports.values(), fair(totals, self._ddr.total_bandwidth), strict=True):
            for flow, rate in zip(flows, fair([wanted[f] for f in flows], share), strict=True):
                flow.rate = rate
        for stream in self._streams.values():
            if stream.producer is not None and stream.level >= self._capacity(stream) - TINY:
                stream.producer.rate = min(stream.producer.cap, stream.consumer.rate if stream.consumer else 0.0)

    def _demand(self, flow: Flow) -> float:
        stream = flow.stream
        if flow.banks and self._planes:
            return 0.0
        if stream is None or stream.level > TINY:
            return flow.cap
        return min(flow.cap, stream.producer.cap) if stream.producer is not None else 0.0

    def _held(self, stream: Stream) -> float:
        """Beats that the store can hold of the stream."""
        return self._times.stream if stream.consumer is not None else 0.0

    def _capacity(self, stream: Stream) -> float:
        return stream.capacity + self._held(stream)

    # fetch

    def _offer(self, index: int) -> None:
        """Instruction `index` is checked; it goes into its queue, or waits for room."""
        task = self._tasks[index]
        if task.engine is Engine.SEQUENCER:
            self._end_ready = True
            return
        unit = self.units[task.engine]
        if len(unit.queue) >= self._times.queue:
            self._stalled_fetch = index
            return
        unit.queue.append(index)
        self._accepted.append(self.now)
        before = index + 1 - self._times.fetch_ahead
        asked = self._accepted[before] if before >= 0 else self._times.start
        check = self._fetch_beats + self._times.fetch_check
        arrives = asked + self._ddr.delay + self._times.fetch_start + check
        self._at(max(arrives, self.now + check), lambda: self._offer(index + 1))

    def _issue(self) -> None:
        """Hand instructions to engines that can take one, until nothing changes."""
        for engine, unit in self.units.items():
            if not unit.offered and unit.queue and self._satisfied(engine, unit):
                self._take_tokens(engine, self._tasks[unit.queue[0]])
                unit.offered = True
                self._at(self.now + self._times.issue, lambda e=engine, u=unit: self._offered(e, u))
        if self._end_ready and all(not u.queue and not u.running for u in self.units.values()):
            self._ended = True

    def _satisfied(self, engine: Engine, unit: Unit) -> bool:
        return all(self._tokens[producer, engine] for producer in self._tasks[unit.queue[0]].wait)

    def _take_tokens(self, engine: Engine, task: Task) -> None:
        for producer in task.wait:
            self._tokens[producer, engine] -= 1

    def _offered(self, engine: Engine, unit: Unit) -> None:
        """The head of the queue stands at the engine."""
        unit.standing = True
        self._hand_over(engine, unit)

    def _hand_over(self, engine: Engine, unit: Unit) -> None:
        """What stands at the engine, if that can take it."""
        if unit.standing and unit.ready and unit.running < self._times.in_flight:
            index = unit.queue.popleft()
            unit.offered, unit.standing, unit.ready = False, False, False
            unit.running += 1
            span = self.spans[self._tasks[index].layer]
            span[0] = min(span[0], self.now)
            self._begin(self._tasks[index])
            if self._stalled_fetch is not None and self._tasks[self._stalled_fetch].engine is engine:
                waiting, self._stalled_fetch = self._stalled_fetch, None
                self._offer(waiting)

    def _free(self, engine: Engine) -> None:
        """The engine can take another instruction."""
        unit = self.units[engine]
        unit.ready = True
        self._hand_over(engine, unit)

    def _done(self, task: Task) -> None:
        unit = self.units[task.engine]
        unit.running -= 1
        self.spans[task.layer][1] = max(self.spans[task.layer][1], self.now)
        for consumer in task.signal:
            self._at(self.now + self._times.token, lambda c=consumer: self._put(task.engine, c))
        self._begin_alone(unit)
        self._hand_over(task.engine, unit)

    def _put(self, producer: Engine, consumer: Engine) -> None:
        self._tokens[producer, consumer] += 1

    # engines

    def _begin(self, task: Task) -> None:
        if isinstance(task.work, Compute):
            self._compute(task, task.work, 0)
        elif isinstance(task.work, Drain):
            self._drain(task, task.work)
        elif isinstance(task.work, Move):
            (self._store if task.engine in WRITERS else self._load)(task, task.work)

    def _load(self, task: Task, move: Move) -> None:
        unit, times = self.units[task.engine], self._times
        if move.least:
            unit.alone = lambda: self._pixels(task, move)
            self._begin_alone(unit)
            return
        unit.ready = True
        flow = self._reads(task, move, lambda: self._moved(task, times.read_end))
        self._at(self.now + times.read_start + self._ddr.delay, lambda: self._line_up(unit, flow))

    def _begin_alone(self, unit: Unit) -> None:
        if unit.alone is not None and unit.running == 1:
            then, unit.alone = unit.alone, None
            then()

    def _pixels(self, task: Task, move: Move) -> None:
        """LOAD_PIXELS: its engine takes no other instruction until it is done."""
        times = self._times

        def end() -> None:
            self._done(task)
            self._free(task.engine)

        if not move.beats:
            self._at(self.now + max(times.read_start, move.least), end)
            return
        flow = self._reads(task, move, lambda: self._at(self.now + times.read_end + times.pixels, end))
        self._at(self.now + times.read_start + self._ddr.delay, lambda: self._flows.append(flow))

    def _reads(self, task: Task, move: Move, then: Callable[[], None]) -> Flow:
        port = READERS.index(task.engine) % self._config.axi_ports
        return Flow(move.beats, read_cap(move, self._ddr, self._times), then, port, task.engine is Engine.LOAD)

    def _line_up(self, unit: Unit, flow: Flow) -> None:
        """Beats that can move when those of the instructions before have done so."""
        unit.flows.append(flow)
        if len(unit.flows) == 1:
            self._move(flow)

    def _move(self, flow: Flow) -> None:
        if flow.stream is not None:
            flow.stream.consumer = flow
        self._flows.append(flow)

    def _moved(self, task: Task, latency: float) -> None:
        """The beats of `task` have moved, those behind them follow; it is done `latency` later."""
        unit = self.units[task.engine]
        unit.flows.popleft()
        if unit.flows:
            self._move(unit.flows[0])
        unit.ended = max(unit.ended, self.now + latency)
        self._at(unit.ended, lambda: self._done(task))

    def _store(self, task: Task, move: Move) -> None:
        """Beats from a stream (STORE) or the residual buffer; the next instruction does not wait for responses."""
        unit, times = self.units[task.engine], self._times
        port = self._config.axi_ports + WRITERS.index(task.engine) % self._config.axi_ports
        stream = None if move.source is None else self._streams[move.source]

        def end() -> None:
            late = 0.0
            if stream is not None:
                stream.consumer = None
                late = times.drain_latency if stream.level <= TINY else 0.0
            self._moved(task, late + times.write_start + self._ddr.delay + times.write_end)

        unit.ready = True
        self._line_up(unit, Flow(move.beats, write_cap(move, self._ddr, times), end, port, stream=stream))

    def _drain(self, task: Task, drain: Drain) -> None:
        """Issue the items; beats of another kind than those before wait until those are out."""
        stream = self._streams[Source.DRAIN]
        if drain.beats and drain.item != stream.item and stream.level > self._held(stream) + TINY:
            stream.awaiting = lambda: self._drain(task, drain)
            return
        begin = self.now + self._times.drain_gap
        if drain.alone or (drain.beats and drain.item != stream.item):
            begin = max(begin, self._quiet)
        if drain.local:
            written = begin + self._times.drain_latency
            self._at(written, lambda: self._write_planes(1))
            self._at(written + drain.cycles, lambda: self._write_planes(-1))
        if drain.beats:
            self._at(begin, lambda: self._put_out(task, drain, stream))
        else:
            self._at(begin + drain.cycles, lambda: self._drained(task))

    def _put_out(self, task: Task, drain: Drain, stream: Stream) -> None:
        """Items of a DRAIN to the main stream."""
        stream.item = drain.item
        narrow = drain.item == 1
        stream.capacity = self._times.spike_items if narrow else self._times.wide_items * max(PLANE_BITS, drain.item)

        def end() -> None:
            stream.producer = None
            self._drained(task)

        stream.producer = Flow(drain.beats, drain.beats / drain.cycles, end, stream=stream)
        self._flows.append(stream.producer)

    def _write_planes(self, change: int) -> None:
        """A DRAIN begins to write its planes to the spike banks, or ends it."""
        self._planes += change

    def _drained(self, task: Task) -> None:
        """The last item is issued."""
        self._quiet = self.now + self._times.drain_latency + self._times.quiet
        self._at(self.now + self._times.drain_latency, lambda: self._done(task))
        self._free(Engine.DRAIN)

    def _compute(self, task: Task, compute: Compute, first: int) -> None:
        """Passes from chunk `first` on, up to the next K^T V to be put out."""
        passes, idle = self._passes, max(self.now, self._passes.end)
        offered, apart = self.now + self._times.header, not first and self._passes.apart(compute)
        passes.before = compute
        for chunk in range(first, len(compute.batches)):
            passes.walk(compute, chunk, offered, apart and chunk == first)
            offered = passes.held + self._times.header
            if compute.beats[chunk]:
                self._book_compute(task, idle, compute.positions * (chunk + 1 - first))
                self._at(passes.end + self._times.matrix, lambda c=chunk: self._matrix(task, compute, c))
                return
        self._book_compute(task, idle, compute.positions * (len(compute.batches) - first))
        self._at(passes.held + 1, lambda: self._free(Engine.COMPUTE))
        self._at(max(self.now, passes.end) + self._times.flush, lambda: self._computed(task))

    def _computed(self, task: Task) -> None:
        self._computes += 1
        self._done(task)

    def _matrix(self, task: Task, compute: Compute, chunk: int) -> None:
        """K^T V behind `chunk`, beat by beat to STORE; then the next chunks."""
        stream = self._streams[Source.HAMMING]
        stream.capacity = 1.0

        def end() -> None:
            stream.producer = None
            last = self.now + self._times.matrix_end
            self._passes.end = last
            if chunk + 1 < len(compute.batches):
                self._compute(task, compute, chunk + 1)
                return
            self._free(Engine.COMPUTE)
            self._computed(task)

        stream.producer = Flow(compute.beats[chunk], 1.0, end, stream=stream)
        self._flows.append(stream.producer)

    # accounts

    def _book_compute(self, task: Task, idle: float, positions: int) -> None:
        """Passes since `idle`: positions, and what else there is before and between them."""
        end, account = self._passes.end, self.causes[task.layer]
        if positions:
            account["compute"] += positions
            account["table"] += end - idle - positions
            self._booked = end

    def _count_time(self, step: float, when: float) -> None:
        for engine, unit in self.units.items():
            if unit.running or unit.offered:
                unit.busy += step
            elif unit.queue and not self._satisfied(engine, unit):
                unit.blocked += step
        free = when - max(self.now, self._booked)
        if free > 0:
            self._book(free, self._cause(Engine.COMPUTE))

    def _book(self, cycles: float, cause: str) -> None:
        """On the operator of the next COMPUTE, or of the last."""
        if not self.causes:
            return
        layer = self._tasks[-1].layer if not self._compute_order else self._compute_order[
            min(self._computes, len(self._compute_order) - 1)]
        self.causes[layer][cause] += cycles

    def _cause(self, engine: Engine, depth: int = 0) -> str:
        """What `engine`, which does not work for the present, waits for."""
        unit = self.units[engine]
        if self._streams[Source.HAMMING].producer is not None:
            return "ddr"
        if not unit.queue:
            return "transition" if self._stalled_fetch is None else "queue"
        if depth > len(Engine):
            return "transition"
        for producer in self._tasks[unit.queue[0]].wait:
            if self._tokens[producer, engine] == 0 and producer is not Engine.SEQUENCER:
                if self.units[producer].running or self.units[producer].offered:
                    return self._working(producer)
                return self._cause(producer, depth + 1)
        return "transition"

    def _working(self, engine: Engine) -> str:
        """What an engine that works stands for."""
        if engine is Engine.DRAIN:
            stream = self._streams[Source.DRAIN]
            full = stream.producer is not None and stream.producer.rate < stream.producer.cap - TINY
            return "ddr" if full or stream.awaiting is not None else "drain"
        return "transition" if engine is Engine.COMPUTE else "ddr"
