"""What the model knows about the machine beside the program: memory, and the fixed cycles of every engine."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from amaranth.hdl import UnusedElaboratable

from spikeloom.config import MachineConfig
from spikeloom.hw.gateware.chunk_fetch import ChunkFetch
from spikeloom.hw.gateware.compute import ComputeEngine
from spikeloom.hw.gateware.drain import ITEM_DEPTH, SPIKE_DEPTH, DrainEngine
from spikeloom.hw.gateware.hamming import HammingUnit
from spikeloom.hw.gateware.packer import PixelPacker
from spikeloom.hw.gateware.semaphores import Semaphores
from spikeloom.hw.gateware.sequencer import FETCH_AHEAD, IN_FLIGHT, QUEUE_DEPTH, InstructionQueue
from spikeloom.hw.gateware.table_loader import TableLoader
from spikeloom.hw.gateware.walker import BankReader, Walker

__all__ = ["DDR", "Ddr", "Times", "times_of"]


@dataclass(frozen=True, kw_only=True)
class Ddr:
    """Memory, in the words of `spikeloom.sim.accelerator_model.MemoryModel`.

    Attributes:
        total_bandwidth: Beats per cycle of all ports together, both directions.
        latency: Cycles from the address to the first read beat, from the last write beat to its response.
        jitter: Up to so many cycles more, at random.
        bandwidth: Beats per cycle, port and direction.
        outstanding: Bursts that a port accepts in each direction before it answers the first.
    """

    total_bandwidth: float = 2.08
    latency: float = 80
    jitter: float = 20
    bandwidth: float = 1.0
    outstanding: int = 16

    def __post_init__(self) -> None:
        if self.total_bandwidth <= 0:
            raise ValueError(f"`total_bandwidth` must be positive, not `{self.total_bandwidth!r}`")
        if not 0 < self.bandwidth <= 1:
            raise ValueError(f"`bandwidth` must be above 0 and at most 1, not `{self.bandwidth!r}`")
        for name, least in (("latency", 0), ("jitter", 0), ("outstanding", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, not `{getattr(self, name)!r}`")

    @property
    def delay(self) -> float:
        """Cycles to the answer of a burst, on average."""
        return self.latency + self.jitter / 2


DDR = Ddr()
"""10 GB/s at 300 MHz and beats of 16 bytes, as `spikeloom.sim.bench` simulates it."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Fixed cycles of one machine; use `times_of`.

    Read off the gateware, where each is a property of the block named in brackets:

        queue: Instructions that the queue of an engine holds (sequencer).
        in_flight: Instructions that an engine may have taken and not finished (sequencer).
        fetch_ahead: Instructions requested ahead (sequencer).
        spike_items, wide_items: Items that the output FIFOs of DRAIN hold (drain).
        drain_gap: From the hand-over of a DRAIN to its first item (drain: GAP).
        drain_latency: From the last item to `done` (drain: `flight`).
        header: From the hand-over of a COMPUTE, or of the chunk before, until a header is there (chunk fetch).
        table: From the begin of a filling to its first write, if none goes on (table loader: `latency`).
        near: Positions before the end of a pass at which its tables may be filled anew (walker).
        spacing: Least cycles from pass to pass (accumulators).
        flush: From the last position to `done` (compute: `flush_cycles`).
        matrix: From the last position to the first beat of K^T V (bank reader, Hamming unit).
        pixels: LOAD_PIXELS beyond its slots (packer: `cycles`).
        issue: From the arrival of the last token to the hand-over to the engine (queue: OFFER, `latency`).
        token: From `done` to the token at the consumer (queue, semaphores: `latency`).

    Counted in the source; `read_end` and `write_start` fitted to the busy counters of RTL runs of the demo network on
    `small` and `zcu104` (DDR as in `sim.bench`):

        fetch_check: From the last beat of an instruction until it can be distributed (CRC of 15 words, 3 states).
        fetch_start: From a request of the fetch, or of a load under way, to the bus and back (port, FIFO: registers).
        read_start: From the hand-over of a load to the first address on the bus (engine, generator, port: registers).
        read_end: From the last beat on the bus to `done` (port, FIFO, buffer: registers).
        write_start: From the first beat at a store to the first beat on the bus, a burst of 16 beats collected first.
        write_end: From the response of the last burst to `done`.
        credits: Beats that a read client may have on the way (read port: default).
        write_bursts: Bursts of a writer that may wait for their response (write port: a counter of 4 bits).
        stream: Beats that a store holds (store: default).
        quiet: Beyond `drain_latency`, until DRAIN takes the pipeline for empty.
        apart: Beyond `flush`, until the compute engine is taken for empty.
        matrix_end: From the last beat of K^T V to the next pass.
        start: From the start of the run to the first request, and from END to the end of the run (supervisor).
    """

    queue: int
    in_flight: int
    fetch_ahead: int
    spike_items: int
    wide_items: int
    drain_gap: float
    drain_latency: float
    header: float
    table: float
    near: int
    spacing: int
    flush: float
    matrix: float
    pixels: float
    issue: float
    token: float
    fetch_check: float = 18
    fetch_start: float = 5
    read_start: float = 8
    read_end: float = 4
    write_start: float = 13
    write_end: float = 5
    credits: int = 128
    write_bursts: int = 15
    stream: int = 64
    quiet: float = 2
    apart: float = 3
    matrix_end: float = 3
    start: float = 13


def times_of(config: MachineConfig) -> Times:
    """The fixed cycles of a machine. Needs Amaranth, for the blocks state their latencies themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)  # only their properties are wanted
        return _read(config)


def _read(config: MachineConfig) -> Times:
    compute = ComputeEngine(config)
    drain = DrainEngine(config, acc_latency=compute.acc_latency)
    return Times(
        queue=QUEUE_DEPTH, in_flight=IN_FLIGHT, fetch_ahead=FETCH_AHEAD, spike_items=SPIKE_DEPTH, wide_items=ITEM_DEPTH,
        drain_gap=drain.GAP, drain_latency=drain.flight, header=ChunkFetch.latency + 1, table=TableLoader.latency,
        near=Walker.near, spacing=compute.accumulators.spacing, flush=compute.flush_cycles,
        matrix=BankReader.latency + HammingUnit.latency + 1, pixels=PixelPacker(config).cycles(0, 0, 0, 1),
        issue=InstructionQueue.latency + 1, token=InstructionQueue.latency + Semaphores.latency)
