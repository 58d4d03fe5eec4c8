"""What benches share: parameters, clock and reset, stream drivers that stall at random, comparison that names the spot.

A bench in full::

    @cocotb.test()
    async def matches_the_model(dut):
        block = Lif(**support.parameters())
        stimulus = ...
        await support.start(dut)
        got = await support.exchange(dut, {"i": stimulus}, {"o": len(stimulus)})
        support.compare("o", got["o"], block.model(stimulus))

Streams are Amaranth's: ``<name>__payload``, ``<name>__valid``, ``<name>__ready``. A payload goes as one integer;
`pack` and `unpack` convert to and from the fields of an Amaranth layout. Both sides of every stream stall at random,
from the seed that `run_bench` printed; nothing waits for ever.
"""

import json
import os
import random
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cocotb
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge
from cocotb.utils import get_sim_time

from spikeloom.config import MachineConfig

__all__ = [
    "Received", "StreamSink", "StreamSource", "compare", "config", "cycle", "exchange", "pack", "parameters", "seed",
    "start", "ticks", "to_signed", "unpack",
]  # fmt: skip

# cocotbext-axi 0.1.28 on cocotb 2.1 uses names that cocotb renamed. Nothing else may be deprecated in a bench.
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"cocotbext\.axi(\..*)?")

PERIOD_NS = 10


def parameters() -> dict[str, Any]:
    """The ``parameters`` given to `run_bench`, after a trip through JSON (tuples are lists, keys are strings)."""
    return _bench()["parameters"]


def config() -> MachineConfig:
    """The configuration among the parameters."""
    return MachineConfig(**parameters()["config"])


def seed() -> int:
    """The ``seed`` given to `run_bench`."""
    return _bench()["seed"]


def _bench() -> dict[str, Any]:
    if "SPIKELOOM_BENCH" not in os.environ:
        raise RuntimeError("benches are started by spikeloom.sim.cocotb_runner.run_bench")
    return json.loads(os.environ["SPIKELOOM_BENCH"])


async def start(dut: Any, *, reset_cycles: int = 4) -> None:
    """Drive every input to 0, start the clock, hold ``rst`` for ``reset_cycles``; returns just after a clock edge."""
    for name in _bench()["inputs"]:
        getattr(dut, name).value = 0
    dut.rst.value = 1
    cocotb.start_soon(Clock(dut.clk, PERIOD_NS, unit="ns").start())
    await ticks(dut, reset_cycles)
    dut.rst.value = 0
    await ticks(dut, 1)


async def ticks(dut: Any, count: int) -> None:
    """Wait for ``count`` rising clock edges."""
    for _ in range(count):
        await RisingEdge(dut.clk)


def cycle() -> int:
    """Number of the present clock cycle, from 0 at the first rising edge."""
    return round(get_sim_time("ns")) // PERIOD_NS


@dataclass
class Received:
    """One payload and the clock cycle at whose end it was handed over."""

    payload: int
    cycle: int


@dataclass
class StreamSource:
    """Drives input stream ``name``: sends payloads in order, pausing before one with probability ``stall``.

    ``valid`` once high stays, with its payload, until taken (`send` returns after the last one was).
    """

    dut: Any
    name: str
    stall: float = 0.3
    rng: random.Random = field(default_factory=lambda: random.Random(seed()))
    sent: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._payload = getattr(self.dut, f"{self.name}__payload", None)
        self._valid = getattr(self.dut, f"{self.name}__valid")
        self._ready = getattr(self.dut, f"{self.name}__ready")
        self._valid.value = 0

    async def send(self, payloads: Iterable[int]) -> None:
        """Send ``payloads``, each masked to the width of the stream (negative numbers go as two's complement)."""
        width = len(self._payload) if self._payload is not None else 0
        for payload in payloads:
            while self.rng.random() < self.stall:
                await RisingEdge(self.dut.clk)
            if self._payload is not None:
                self._payload.value = int(payload) & ((1 << width) - 1)
            self._valid.value = 1
            await self._taken()
            self.sent.append(Received(int(payload), cycle() - 1))
            self._valid.value = 0
            if self._payload is not None:
                self._payload.value = self.rng.getrandbits(width)  # nobody may look at it now

    async def _taken(self) -> None:
        while True:
            await ReadOnly()
            taken = bool(self._ready.value)
            await RisingEdge(self.dut.clk)
            if taken:
                return


@dataclass
class StreamSink:
    """Takes output stream ``name``, not ready with probability ``stall``; checks that ``valid`` and payload hold."""

    dut: Any
    name: str
    stall: float = 0.3
    rng: random.Random = field(default_factory=lambda: random.Random(seed() + 1))
    received: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._payload = getattr(self.dut, f"{self.name}__payload", None)
        self._valid = getattr(self.dut, f"{self.name}__valid")
        self._ready = getattr(self.dut, f"{self.name}__ready")
        self._ready.value = 0

    async def receive(self, count: int) -> list[Received]:
        """Wait for ``count`` payloads more and return those."""
        first, waiting = len(self.received), None
        while len(self.received) < first + count:
            ready = self.rng.random() >= self.stall
            self._ready.value = int(ready)
            await ReadOnly()
            now, valid = cycle(), bool(self._valid.value)
            payload = int(self._payload.value) if valid and self._payload is not None else 0
            if waiting is not None and (not valid or payload != waiting):
                was = f"payload {waiting:#x} waited for ready"
                raise AssertionError(f"{self.name}, cycle {now}: {was}, then valid was {valid}, payload {payload:#x}")
            waiting = payload if valid and not ready else None
            if valid and ready:
                self.received.append(Received(payload, now))
            await RisingEdge(self.dut.clk)
        self._ready.value = 0
        return self.received[first:]


async def exchange(
    dut: Any,
    inputs: Mapping[str, Iterable[int]],
    outputs: Mapping[str, int],
    *,
    stall: float = 0.3,
    max_cycles: int | None = None,
    silent_cycles: int = 16,
) -> dict[str, list[Received]]:
    """Send ``inputs`` (stream -> payloads), collect ``outputs`` (stream -> how many), all at the same time.

    Returns, for every stream of either direction, its payloads with the cycles in which they were handed over: with
    ``stall=0`` a bench can hold latency and throughput against the block's promise.

    Every stream has random numbers of its own and stalls with probability ``stall``. Raises `AssertionError`, telling
    how far each stream got, after ``max_cycles`` (by default 200 and 40 per payload), and if an output has something
    to say within ``silent_cycles`` after its last expected payload.
    """
    stimuli = {name: list(payloads) for name, payloads in inputs.items()}
    sources = {name: StreamSource(dut, name, stall, _stream_random(name)) for name in stimuli}
    sinks = {name: StreamSink(dut, name, stall, _stream_random(name)) for name in outputs}
    limit = max_cycles or 200 + 40 * (sum(map(len, stimuli.values())) + sum(outputs.values()))
    work = [sources[name].send(payloads) for name, payloads in stimuli.items()]
    work += [sinks[name].receive(count) for name, count in outputs.items()]

    def state() -> str:
        sent = [f"{name} sent {len(sources[name].sent)} of {len(stimuli[name])}" for name in sources]
        got = [f"{name} received {len(sinks[name].received)} of {outputs[name]}" for name in sinks]
        return ", ".join(sent + got)

    await within(dut, limit, work, state)
    await _expect_silence(dut, list(outputs), silent_cycles)
    return {name: source.sent for name, source in sources.items()} | {
        name: sink.received for name, sink in sinks.items()
    }


async def within(dut: Any, max_cycles: int, work: Sequence[Awaitable[Any]], state: Any = lambda: "") -> None:
    """Run all of ``work`` at once; after ``max_cycles`` raise `AssertionError` with what ``state()`` returns."""
    tasks = [cocotb.start_soon(item) for item in work]  # type: ignore[arg-type]
    for _ in range(max_cycles):
        if all(task.done() for task in tasks):
            break
        await RisingEdge(dut.clk)
    else:
        raise AssertionError(f"no end after {max_cycles} cycles (seed {seed()}): {state()}")
    for task in tasks:
        task.result()


async def _expect_silence(dut: Any, streams: Sequence[str], cycles: int) -> None:
    for _ in range(cycles):
        await ReadOnly()
        if talking := [name for name in streams if getattr(dut, f"{name}__valid").value]:
            raise AssertionError(f"cycle {cycle()}: more than was expected from {', '.join(talking)} (seed {seed()})")
        await RisingEdge(dut.clk)


def compare(
    name: str,
    got: Sequence[Any],
    expected: Sequence[Any],
    *,
    convert: Callable[[int], Any] | None = None,
    context: int = 3,
) -> None:
    """Raise `AssertionError` unless equal: first index that differs, its cycle, neighbours, how many differ.

    ``got`` are `Received` or anything that has ``==``; ``convert`` makes what is compared of a payload, e.g.
    ``lambda payload: support.to_signed(payload, 16)``.
    """
    values = [item.payload if isinstance(item, Received) else item for item in got]
    values = [convert(value) for value in values] if convert else values
    wrong = [index for index, (a, b) in enumerate(zip(values, expected, strict=False)) if not _equal(a, b)]
    if not wrong and len(values) == len(expected):
        return
    lines = [f"{name}: {len(wrong)} of {len(expected)} items differ (seed {seed()})"]
    if len(values) != len(expected):
        lines.append(f"{len(values)} items, expected {len(expected)}")
    for index in wrong[:1]:
        for near in range(max(0, index - context), min(len(values), len(expected), index + context + 1)):
            item = got[near]
            when = f", cycle {item.cycle}" if isinstance(item, Received) else ""
            mark = "  <-- differs" if near in wrong else ""
            lines.append(f"  [{near}]{when}: got {_show(values[near])}, expected {_show(expected[near])}{mark}")
    raise AssertionError("\n".join(lines))


def pack(layout: Any, fields: Any) -> int:
    """Payload of ``fields`` (as ``layout.const`` takes them: a mapping, a sequence) in an Amaranth data layout."""
    return data.Layout.cast(layout).const(fields).as_value().value


def unpack(layout: Any, payload: int) -> Any:
    """Constant of ``layout`` whose fields are read by name or index: ``unpack(layout, 5).last``."""
    shape = data.Layout.cast(layout)
    return shape.from_bits(payload)


def to_signed(payload: int, width: int) -> int:
    """Two's complement reading of the low ``width`` bits."""
    payload &= (1 << width) - 1
    return payload - ((payload >> (width - 1)) << width)


def _stream_random(name: str) -> random.Random:
    return random.Random(f"{seed()} {name}")


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b)


def _show(value: Any) -> str:
    return f"{value} ({value:#x})" if isinstance(value, int) else repr(value)
