"""What the benches of ports and DMA engines share: the component under test, instructions, monitors of the buffers.

DDR: `memory`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge

from spikeloom.config import MachineConfig
from spikeloom.hw.gateware.axi import ReadBus, WriteBus
from spikeloom.hw.gateware.load import LoadEngine
from spikeloom.hw.gateware.read_port import ReadPort
from spikeloom.hw.gateware.residual_buffer import ResidualBuffer
from spikeloom.hw.gateware.residual_store import ResidualStoreEngine
from spikeloom.hw.gateware.row_load import ITEMS, RowLoadEngine
from spikeloom.hw.gateware.sequencer import IN_FLIGHT
from spikeloom.hw.gateware.shared import ResetInserter
from spikeloom.hw.gateware.store import StoreEngine
from spikeloom.hw.gateware.write_port import WritePort
from spikeloom.hw.isa import FIELDS, Opcode, Target, pack_fields

from . import support
from .memory import BASES, REGION_BYTES


class ReadEngines(wiring.Component):
    """Engines LOAD, WEIGHT and SHORTCUT on one read port; `core_reset` resets the engines only.

    Ports of engine e are called `<e>_<port>`, e = load, weight, shortcut.
    """

    side, signature_of_bus, port_class = "reads", ReadBus, ReadPort

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.engines = self.make_engines(config)
        members: dict[str, Any] = {
            "bus": Out(self.signature_of_bus(config)), "abort": In(1), "idle": Out(1), "core_reset": In(1)}
        for name, engine in self.engines.items():
            members |= {f"{name}_{port}": member for port, member in engine.signature.members.items()
                        if port != self.side}
        super().__init__(members)

    @staticmethod
    def make_engines(config: MachineConfig) -> dict[str, Any]:
        return {"load": LoadEngine(config), "weight": RowLoadEngine(config, Opcode.LOAD_WEIGHTS),
                "shortcut": RowLoadEngine(config, Opcode.LOAD_SHORTCUT, Opcode.LOAD_WEIGHTS_B)}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.port = port = self.port_class(self.config, len(self.engines))
        wiring.connect(m, port.bus, wiring.flipped(self.bus))
        m.d.comb += [port.abort.eq(self.abort), self.idle.eq(port.idle)]
        for number, (name, engine) in enumerate(self.engines.items()):
            m.submodules[name] = ResetInserter(self.core_reset)(engine)
            wiring.connect(m, getattr(engine, self.side), port.clients[number])
            for inner, member in engine.signature.members.items():
                if inner == self.side:
                    continue
                ours, theirs = getattr(self, f"{name}_{inner}"), getattr(engine, inner)
                if member.is_signature:
                    wiring.connect(m, wiring.flipped(ours), theirs)
                else:
                    m.d.comb += theirs.eq(ours) if member.flow is In else ours.eq(theirs)
        return m


class WriteEngines(ReadEngines):
    """Engines STORE (two sources) and STORE_RESIDUAL, `store` and `residual`, on one write port."""

    side, signature_of_bus, port_class = "writes", WriteBus, WritePort

    @staticmethod
    def make_engines(config: MachineConfig) -> dict[str, Any]:
        return {"store": StoreEngine(config, 2), "residual": ResidualStoreEngine(config)}


@dataclass
class Writes:
    """Records what an engine writes into its buffers: (number, values of `ports`) per write, and in which `cycles`.

    `handshakes` maps a number to the names (valid, ready) of a writer and its ports. `ready` is driven here: low with
    probability `stall`. A valid is a mask, any bit of it will do.
    """

    dut: Any
    handshakes: Mapping[int, tuple[str, str, tuple[str, ...]]]
    stall: float = 0.0
    seen: list[tuple[int, ...]] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        rng = random.Random(f"{support.seed()} {sorted(self.handshakes.values())}")
        writers = [(number, getattr(self.dut, valid), getattr(self.dut, ready), [getattr(self.dut, p) for p in ports])
                   for number, (valid, ready, ports) in self.handshakes.items()]
        waiting: dict[int, tuple[int, ...]] = {}
        while True:
            for _, _, ready, _ in writers:
                ready.value = int(rng.random() >= self.stall)
            await RisingEdge(self.dut.clk)
            for number, valid, ready, ports in writers:
                values = tuple(int(port.value) for port in ports) if int(valid.value) else ()
                before = waiting.pop(number, None)
                if before not in (None, values) and not int(self.dut.core_reset.value):
                    raise AssertionError(f"cycle {support.cycle()}: writer {number} changed: {before} -> {values}")
                if values and int(ready.value):
                    self.record(number, values)
                    self.cycles.append(support.cycle())
                elif values:
                    waiting[number] = values

    def record(self, number: int, values: tuple[int, ...]) -> None:
        self.seen.append((number, *values))

    def clear(self) -> None:
        self.seen.clear()
        self.cycles.clear()


class BankWrites(Writes):
    """Records what the load engine writes: (mask, address, data), data 0 in the banks outside the mask."""

    def __init__(self, dut: Any, stall: float = 0.0) -> None:
        ports = ("load_write_mask", "load_write_address", "load_write_data")
        super().__init__(dut, {0: ("load_write_mask", "load_write_ready", ports)}, stall)

    def record(self, number: int, values: tuple[int, ...]) -> None:
        mask, address, data = values
        self.seen.append((mask, address, data & spread(support.config(), mask, (1 << support.config().beat_bits) - 1)))


def spread(config: MachineConfig, mask: int, word: int) -> int:
    """`word` in all banks of `mask`, 0 in the others."""
    return sum(word << config.beat_bits * bank for bank in range(config.banks) if mask >> bank & 1)


def row_writes(dut: Any, engine: str, stall: float = 0.0) -> Writes:
    """Monitor of a row load engine's writes: (target, beat as `row_write`); of items (ITEMS, row, item)."""
    writers: dict[int, tuple[str, str, tuple[str, ...]]] = {}
    for target in Target:
        stream = f"{engine}_target{target}"
        writers[int(target)] = (f"{stream}__valid", f"{stream}__ready", (f"{stream}__payload",))
    if hasattr(dut, f"{engine}_load_valid"):
        writers[ITEMS] = (f"{engine}_load_valid", f"{engine}_load_ready", (f"{engine}_load_row", f"{engine}_load_data"))
    return Writes(dut, writers, stall)


class Items:
    """A residual buffer of random items for STORE_RESIDUAL; refuses reads with probability `stall`.

    It has the reset of the engines: what is on its way then is lost.
    """

    def __init__(self, dut: Any, config: MachineConfig, stall: float) -> None:
        self.dut, self.stall, self.rng = dut, stall, random.Random(f"{support.seed()} items")
        bits = config.residual_beats * config.beat_bits
        self.content = [self.rng.getrandbits(bits) for _ in range(config.residual_depth)]
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        dut, width = self.dut, len(self.dut.residual_read_data)
        line: list[int | None] = [None] * (ResidualBuffer.latency - 1)
        while True:
            dut.residual_store_ready.value = int(self.rng.random() >= self.stall)
            await RisingEdge(dut.clk)
            asked = int(dut.residual_store_valid.value) and int(dut.residual_store_ready.value)
            line.append(self.content[int(dut.residual_store_row.value)] if asked else None)
            if int(dut.core_reset.value):
                line = [None] * len(line)
            given = line.pop(0)
            dut.residual_store_data_valid.value = int(given is not None)
            dut.residual_read_data.value = self.rng.getrandbits(width) if given is None else given

    def beats(self, config: MachineConfig, item: int, count: int) -> list[int]:
        """The first `count` beats from `item` on."""
        mask = (1 << config.beat_bits) - 1
        return [self.content[(item + k // config.residual_beats) % len(self.content)]
                >> k % config.residual_beats * config.beat_bits & mask for k in range(count)]


async def start(dut: Any) -> None:
    """Clock, reset, region bases."""
    await support.start(dut)
    bases = sum(base << 40 * number for number, base in enumerate(BASES))
    for name in ("load", "weight", "shortcut", "store", "residual"):
        if hasattr(dut, f"{name}_bases"):
            getattr(dut, f"{name}_bases").value = bases
    await support.ticks(dut, 1)


@dataclass
class Outcome:
    """Of one instruction: cycles from the hand-over to `done`, error pulses meanwhile."""

    cycles: int
    errors: int


async def execute(dut: Any, engine: str, opcode: Opcode, body: Mapping[str, int], limit: int = 40_000) -> Outcome:
    """Give one instruction to `engine` and wait for its end."""
    port = {name: getattr(dut, f"{engine}_{name}") for name in ("i__payload", "i__valid", "i__ready", "done", "error")}
    port["i__payload"].value = opcode | pack_fields(FIELDS[opcode], body, opcode.name) << 8
    port["i__valid"].value = 1
    while True:
        await RisingEdge(dut.clk)
        if int(port["i__ready"].value):
            break
    port["i__valid"].value = 0
    port["i__payload"].value = random.Random(support.seed()).getrandbits(424)
    errors = 0
    for cycles in range(1, limit):
        await RisingEdge(dut.clk)
        errors += int(port["error"].value)
        if int(port["done"].value):
            return Outcome(cycles, errors)
    raise AssertionError(f"{engine}, {opcode.name} {dict(body)}: no end after {limit} cycles")


@dataclass
class Batch:
    """Of instructions that follow each other: cycles in which they were handed over, done, errors reported."""

    taken: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)

    @property
    def cycles(self) -> int:
        """From the first hand-over to the last `done`."""
        return self.done[-1] - self.taken[0]

    def check_order(self, counts: Sequence[int], effects: Sequence[int], name: str) -> None:
        """The first `counts[k]` of the `effects` (cycles) come before `done` of instruction k."""
        for number, (count, done) in enumerate(zip(counts, self.done, strict=True)):
            late = [cycle for cycle in effects[:count] if cycle >= done]
            assert not late, f"{name} {number}: done in cycle {done}, {len(late)} of {count} effects not before"


async def execute_all(dut: Any, engine: str, instructions: Sequence[tuple[Opcode, Mapping[str, int]]],
                      pause: float = 0.0, limit: int = 60_000) -> Batch:
    """Give instructions to `engine` like the sequencer: `IN_FLIGHT` under way at most, a pause of a cycle or more."""
    port = {name: getattr(dut, f"{engine}_{name}") for name in ("i__payload", "i__valid", "i__ready", "done", "error")}
    rng, batch, offered, rest = random.Random(f"{support.seed()} {engine}"), Batch(), False, False
    for _ in range(limit):
        given, under_way = len(batch.taken), len(batch.taken) - len(batch.done)
        offered = offered or (
            given < len(instructions) and under_way < IN_FLIGHT and not rest and rng.random() >= pause)
        payload = rng.getrandbits(424)
        if offered:
            opcode, body = instructions[given]
            payload = opcode | pack_fields(FIELDS[opcode], body, opcode.name) << 8
        port["i__valid"].value, port["i__payload"].value = int(offered), payload
        await RisingEdge(dut.clk)
        for name, cycles in (("done", batch.done), ("error", batch.errors)):
            if int(port[name].value):
                cycles.append(support.cycle())
        rest = offered and bool(int(port["i__ready"].value))
        if rest:
            batch.taken.append(support.cycle())
            offered = False
        if len(batch.done) == len(instructions):
            return batch
    raise AssertionError(f"{engine}: {len(batch.done)} of {len(instructions)} done after {limit} cycles")


async def abort_and_reset(dut: Any, limit: int = 2000) -> None:
    """What the supervisor does: abort until the port is idle, reset the core, go on."""
    dut.abort.value = 1
    await support.ticks(dut, 2)
    for _ in range(limit):
        await RisingEdge(dut.clk)
        if int(dut.idle.value):
            break
    else:
        raise AssertionError(f"the port is not idle {limit} cycles after abort")
    dut.core_reset.value = 1
    await support.ticks(dut, 2)
    dut.core_reset.value = 0
    dut.abort.value = 0
    await support.ticks(dut, 1)


def random_transfer(rng: random.Random, config: MachineConfig, least: int = 1, most: int = 400) -> dict[str, int]:
    """Transfer fields inside a region, of `least` to `most` beats; runs and strides often cross 4 KiB."""
    beat = config.beat_bytes
    while True:
        run, count1, count2 = (rng.choice((1, 2, 3, rng.randint(1, 40), rng.randint(1, high))) for high in (200, 9, 5))
        stride1, stride2 = (rng.randrange(0, 5000 // beat) * beat for _ in range(2))
        room = REGION_BYTES - (run * beat + (count1 - 1) * stride1 + (count2 - 1) * stride2)
        if least <= run * count1 * count2 <= most and room > 0:
            offset = rng.randrange(0, room // beat + 1) * beat
            return {"region": rng.randrange(4), "offset": offset, "run": run, "count1": count1, "stride1": stride1,
                    "count2": count2, "stride2": stride2}


def beat_offsets(config: MachineConfig, body: Mapping[str, int]) -> list[int]:
    """Offset in the region of every beat of a transfer, in order."""
    beat = config.beat_bytes
    return [body["offset"] + n2 * body.get("stride2", 0) + n1 * body.get("stride1", 0) + k * beat
            for n2 in range(body["count2"]) for n1 in range(body["count1"]) for k in range(body["run"])]


def beat_at(config: MachineConfig, region: bytes, offset: int) -> int:
    """The beat at byte `offset` as an integer."""
    return int.from_bytes(region[offset:offset + config.beat_bytes], "little")
