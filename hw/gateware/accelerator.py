"""The accelerator: everything between the AXI4 master ports and the AXI4-Lite slave.

    s_axi_ctrl <-> registers <-> supervisor --reset--> core
    core: sequencer -> load, weight, shortcut, compute, drain, store, store_residual, and the buffers between them
    read clients (fetch, weight, load, shortcut) and write clients (store, store_residual): number i is on port
    i % axi_ports
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig
from spikeloom.registers import ENGINE_NAMES

from ..isa import Engine, Opcode, Source, Target
from .axi import ReadClient, WriteClient, read_members, write_members
from .buffers import RowBuffer, SpikeBanks
from .compute import ComputeEngine
from .control import LITE_MEMBERS, LIVE, PREFIX, ControlRegisters
from .drain import DrainEngine
from .load import LoadEngine
from .neuron_channel import PARAMETER, USED_PARAMETER
from .read_port import ReadPort
from .residual_buffer import ResidualBuffer
from .residual_store import ResidualStoreEngine
from .row_load import RowLoadEngine
from .sequencer import Sequencer
from .shared import ResetInserter
from .store import StoreEngine
from .supervisor import Supervisor
from .write_port import WritePort

READERS = (Engine.SEQUENCER, Engine.WEIGHT, Engine.LOAD, Engine.SHORTCUT)
"""Engines that read DDR (the sequencer fetches), in the order of their numbers as read clients."""

WRITERS = (Engine.STORE, Engine.STORE_RESIDUAL)
"""Engines that write DDR, in the order of their numbers as write clients."""


def clients_of(engines: Sequence[Engine], port: int, config: MachineConfig) -> tuple[Engine, ...]:
    """The engines on AXI port number `port`."""
    return tuple(engine for i, engine in enumerate(engines) if i % config.axi_ports == port)


def axi_prefix(port: int) -> str:
    """Prefix of the signals of AXI4 master port number `port`."""
    return f"m_axi_gmem{port}_"


class Core(wiring.Component):
    """Sequencer, engines and buffers: all that a soft reset clears.

    Ports: `run`, `bases`; `read_<engine>` (`ReadClient`), `write_<engine>` (`WriteClient`); state of the sequencer for
    the supervisor; `bus_error_read`, `bus_error_write` (one bit per engine).
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.sequencer = Sequencer(config)
        passed = ("ended", "error", "error_code", "error_engine", "error_index", "executing", "blocked", "indices",
                  "finished")
        self.passed = passed
        super().__init__({
            "run": In(1), "bases": In(160),
            **{f"read_{e.name.lower()}": Out(ReadClient(config)) for e in READERS},
            **{f"write_{e.name.lower()}": Out(WriteClient(config)) for e in WRITERS},
            **{name: Out(len(getattr(self.sequencer, name))) for name in passed},
            "bus_error_read": Out(len(ENGINE_NAMES)), "bus_error_write": Out(len(ENGINE_NAMES))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sequencer = self.sequencer
        m.d.comb += [self.sequencer.run.eq(self.run), self.sequencer.base.eq(self.bases[:40])]
        m.d.comb += [getattr(self, name).eq(getattr(self.sequencer, name)) for name in self.passed]
        wiring.connect(m, self.sequencer.reads, wiring.flipped(self.read_sequencer))
        m.d.comb += self.bus_error_read[Engine.SEQUENCER].eq(self.read_sequencer.error)
        self._buffers(m)
        self._loads(m)
        self._compute(m)
        self._stores(m)
        return m

    def _attach(self, m: Module, engine: Engine, unit: Any, *, command: bool = True) -> None:
        """Connect an engine's instruction stream and `done` to its queue."""
        name, sequencer = engine.name.lower(), self.sequencer
        stream = unit.i
        body, opcode = getattr(sequencer, f"{name}_body"), getattr(sequencer, f"{name}_opcode")
        m.d.comb += [
            stream.valid.eq(getattr(sequencer, f"{name}_valid")), getattr(sequencer, f"{name}_ready").eq(stream.ready),
            getattr(sequencer, f"{name}_done").eq(unit.done)]
        if command:
            m.d.comb += [stream.payload.opcode.eq(opcode), stream.payload.body.eq(body)]
        else:
            m.d.comb += stream.payload.eq(body)

    def _mover(self, m: Module, engine: Engine, unit: Any) -> None:
        """An engine that moves data: instruction, bases, bus errors."""
        name = engine.name.lower()
        m.submodules[name] = unit
        self._attach(m, engine, unit)
        m.d.comb += unit.bases.eq(self.bases)
        side = "read" if engine in READERS else "write"
        m.d.comb += getattr(self, f"bus_error_{side}")[engine].eq(unit.error)
        client = unit.reads if side == "read" else unit.writes
        wiring.connect(m, client, wiring.flipped(getattr(self, f"{side}_{name}")))

    def _buffers(self, m: Module) -> None:
        """Buffers, each filled by the engines that load and, some, by the drain engine."""
        config, bits = self.config, self.config.beat_bits
        m.submodules.spike_banks = self.spikes = SpikeBanks(config)
        m.submodules.weights = self.weights = RowBuffer(
            config.weight_depth, config.weight_row_bytes // config.beat_bytes, bits, writers=2, parallel=True)
        m.submodules.headers = self.headers = RowBuffer(config.chunk_depth, config.chunk_header_beats, bits, writers=2)
        m.submodules.parameters = self.parameters = RowBuffer(
            config.parameter_depth, config.parameter_beats, bits, writers=2,
            used=sum(USED_PARAMETER << PARAMETER.size * channel for channel in range(config.word_channels)))
        m.submodules.residuals = self.residuals = ResidualBuffer(config)

    def _loads(self, m: Module) -> None:
        load = LoadEngine(self.config)
        self._mover(m, Engine.LOAD, load)
        m.d.comb += [
            self.spikes.write_mask.eq(load.write_mask), self.spikes.write_address.eq(load.write_address),
            self.spikes.write_data.eq(load.write_data), load.write_ready.eq(self.spikes.write_ready)]
        weight = RowLoadEngine(self.config, Opcode.LOAD_WEIGHTS)
        shortcut = RowLoadEngine(self.config, Opcode.LOAD_SHORTCUT, Opcode.LOAD_WEIGHTS_B)
        buffers = {Target.WEIGHTS: self.weights, Target.CHUNKS: self.headers, Target.PARAMETERS: self.parameters}
        for writer, (engine, unit) in enumerate(((Engine.WEIGHT, weight), (Engine.SHORTCUT, shortcut))):
            self._mover(m, engine, unit)
            for target, buffer in buffers.items():
                wiring.connect(m, unit.targets[target], buffer.writers[writer])
        residuals = self.residuals
        m.d.comb += [
            residuals.load_valid.eq(shortcut.load_valid), residuals.load_row.eq(shortcut.load_row),
            residuals.load_data.eq(shortcut.load_data), shortcut.load_ready.eq(residuals.load_ready)]

    def _compute(self, m: Module) -> None:
        m.submodules.compute = self.compute = compute = ComputeEngine(self.config)
        m.submodules.drain = self.drain = drain = DrainEngine(
            self.config, acc_latency=compute.acc_latency, residual_latency=ResidualBuffer.latency)
        self._attach(m, Engine.COMPUTE, compute, command=False)
        self._attach(m, Engine.DRAIN, drain, command=False)
        m.d.comb += [
            self.headers.read_row.eq(compute.header_row), compute.header_data.eq(self.headers.read_data),
            self.weights.read_row.eq(compute.weight_row), compute.weight_data.eq(self.weights.read_data),
            self.spikes.read_address.eq(compute.spike_address), compute.spike_data.eq(self.spikes.read_data),
            compute.acc_bank.eq(drain.acc_bank), compute.acc_address.eq(drain.acc_address),
            compute.acc_word.eq(drain.acc_word), drain.acc_data.eq(compute.acc_data),
            self.parameters.read_row.eq(drain.parameter_row), drain.parameter_data.eq(self.parameters.read_data)]
        residuals = self.residuals
        m.d.comb += [
            residuals.read_en.eq(drain.shortcut_en), residuals.read_row.eq(drain.shortcut_item),
            drain.shortcut_data.eq(residuals.shortcut_data), residuals.write_en.eq(drain.residual_write),
            residuals.write_row.eq(drain.residual_row), residuals.write_data.eq(drain.residual_data),
            self.spikes.plane_valid.eq(drain.plane_valid), self.spikes.plane_mask.eq(drain.plane_mask),
            self.spikes.plane_address.eq(drain.plane_address), self.spikes.plane_data.eq(drain.plane_data)]

    def _stores(self, m: Module) -> None:
        store, residual = StoreEngine(self.config, sources=2), ResidualStoreEngine(self.config)
        residuals = self.residuals
        self._mover(m, Engine.STORE, store)
        self._mover(m, Engine.STORE_RESIDUAL, residual)
        wiring.connect(m, self.drain.main, store.sources[Source.DRAIN])
        wiring.connect(m, self.compute.matrix, store.sources[Source.HAMMING])
        m.d.comb += [
            residuals.store_valid.eq(residual.store_valid), residuals.store_row.eq(residual.store_row),
            residual.store_ready.eq(residuals.store_ready), residual.read_data.eq(residuals.read_data),
            residual.store_data_valid.eq(residuals.store_data_valid)]


class Accelerator(wiring.Component):
    """The whole machine.

    Ports: `s_axi_ctrl_*` (AXI4-Lite slave, 32 bits, 12 address bits), `m_axi_gmem<i>_*` (AXI4 masters, `axi_ports` of
    them, beats of `beat_bits`, 40-bit addresses), `interrupt` (level). One clock `clk`, synchronous reset `rst`.
    Registers: `spikeloom.registers`. Programs: `spikeloom.hw.isa`.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        members: dict[str, object] = {PREFIX + name: member for name, member in LITE_MEMBERS.items()}
        for port in range(config.axi_ports):
            bus = {**read_members(config), **write_members(config)}
            members |= {axi_prefix(port) + name: member for name, member in bus.items()}
        super().__init__({**members, "interrupt": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.control = control = ControlRegisters(self.config)
        m.submodules.supervisor = supervisor = Supervisor()
        core = Core(self.config)
        m.submodules.core = ResetInserter(supervisor.core_reset)(core)
        for name, member in LITE_MEMBERS.items():
            inner, outer = getattr(control, PREFIX + name), getattr(self, PREFIX + name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        m.d.comb += [self.interrupt.eq(control.interrupt), core.run.eq(supervisor.run), core.bases.eq(control.bases)]
        moved, idle = self._ports(m, core, supervisor)
        self._supervise(m, control, supervisor, core)
        m.d.comb += [supervisor.progress.eq(core.finished | moved), supervisor.ports_idle.eq(idle)]
        return m

    def _ports(self, m: Module, core: Core, supervisor: Supervisor) -> tuple[Signal, Signal]:
        """The AXI ports; returns (a beat moved, all are idle)."""
        moved, idle = [], []
        for port in range(self.config.axi_ports):
            for kind, engines, cls in (("read", READERS, ReadPort), ("write", WRITERS, WritePort)):
                clients = clients_of(engines, port, self.config)
                if not clients:
                    continue
                m.submodules[f"{kind}_port{port}"] = unit = cls(self.config, len(clients))
                for number, engine in enumerate(clients):
                    wiring.connect(m, getattr(core, f"{kind}_{engine.name.lower()}"), getattr(unit, f"client{number}"))
                self._expose(m, unit.bus, axi_prefix(port))
                m.d.comb += unit.abort.eq(supervisor.abort)
                idle.append(unit.idle)
                beat = ("r" if kind == "read" else "w")
                moved.append(getattr(unit.bus, f"{beat}valid") & getattr(unit.bus, f"{beat}ready"))
        any_moved, all_idle = Signal(name="any_moved"), Signal(name="all_idle")
        m.d.comb += [any_moved.eq(Cat(moved).any()), all_idle.eq(Cat(idle).all())]
        return any_moved, all_idle

    def _expose(self, m: Module, bus: object, prefix: str) -> None:
        for name, member in bus.signature.members.items():
            inner, outer = getattr(bus, name), getattr(self, prefix + name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)

    def _supervise(self, m: Module, control: ControlRegisters, supervisor: Supervisor, core: Core) -> None:
        m.d.comb += [
            supervisor.start.eq(control.start), supervisor.soft_reset.eq(control.soft_reset),
            control.finished.eq(supervisor.finished), supervisor.watchdog.eq(control.setting_watchdog),
            supervisor.ended.eq(core.ended), supervisor.sequencer_error.eq(core.error),
            supervisor.sequencer_code.eq(core.error_code), supervisor.sequencer_engine.eq(core.error_engine),
            supervisor.sequencer_index.eq(core.error_index), supervisor.bus_error_read.eq(core.bus_error_read),
            supervisor.bus_error_write.eq(core.bus_error_write), supervisor.executing.eq(core.executing),
            supervisor.blocked.eq(core.blocked), supervisor.indices.eq(core.indices),
            supervisor.instruction_finished.eq(core.finished)]
        values = {
            "status": Cat(supervisor.busy, supervisor.done, supervisor.error, supervisor.resetting),
            "error_code": supervisor.error_code, "error_instruction": supervisor.error_instruction,
            "error_engine": supervisor.error_engine, "instructions": supervisor.instructions,
            "cycles": supervisor.cycles}
        for number, name in enumerate(ENGINE_NAMES[:-1]):
            values[f"{name}_busy"] = supervisor.engine_busy[32 * number:32 * (number + 1)]
            values[f"{name}_blocked"] = supervisor.engine_blocked[32 * number:32 * (number + 1)]
        if set(values) != set(LIVE):
            raise AssertionError(f"register table and accelerator disagree: {set(values) ^ set(LIVE)}")
        m.d.comb += [getattr(control, f"value_{name}").eq(value) for name, value in values.items()]
