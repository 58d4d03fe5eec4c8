"""The generated machine, simulated: program in DDR, registers written, interrupt awaited, tensors read back.

    with Machine(config, program) as machine:
        result = machine.run(clip)
        result.tensor("logits"), result.cycles

The sequence of register accesses is the one of the board's driver. Nothing waits for ever: a run ends with the
interrupt, with the machine's own error (`MachineError`), or with `SimulationTimeout`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import MachineConfig
from spikeloom.hw.gateware.accelerator import Accelerator
from spikeloom.hw.gateware.emit import emit_verilog
from spikeloom.hw.isa import INSTRUCTION_BYTES
from spikeloom.hw.program.layout import TensorPlace
from spikeloom.hw.program.program import Program
from spikeloom.registers import ENGINE_NAMES, REGION_NAMES, ErrorCode, register

from .accelerator_model import AcceleratorModel, MemoryModel, SimulationTimeout

__all__ = [
    "Machine", "MachineError", "Result", "SimulationError", "SimulationTimeout", "element_offset", "region_bases",
]  # fmt: skip

PAGE = 4096
FIRST_PAGE = 0x10000
"""Address of the first region: not zero, so that a forgotten base register shows."""

RESET_LIMIT = 100_000
"""Cycles that a soft reset may take."""


class SimulationError(RuntimeError):
    """The simulated machine could not run the program."""


class MachineError(SimulationError):
    """The machine stopped with an error of its own.

    Attributes:
        code: What happened.
        engine: Name of the failing engine.
        instruction: Index of the failing instruction in the program.
        registers: All registers at that moment, by name.
    """

    def __init__(self, code: ErrorCode, engine: str, instruction: int, what: str, registers: Mapping[str, int]) -> None:
        self.code, self.engine, self.instruction, self.registers = code, engine, instruction, dict(registers)
        super().__init__(
            f"machine stopped: {code.name} in engine {engine} at instruction {instruction} ({what}), "
            f"cycle {registers['cycles']} of the run")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One clip through the machine.

    Attributes:
        cycles: Clock cycles from start to end, as the machine counted them.
        engines: Per engine `busy` and `blocked` cycles.
        tensor: Reads a tensor back from DDR, in network shape.
        write_cycle: (tensor name, index) -> cycle of the run in which that element was written, None if it never was.
    """

    cycles: int
    engines: Mapping[str, Mapping[str, int]]
    tensor: Callable[[str], NDArray[np.generic]]
    write_cycle: Callable[[str, tuple[int, ...]], int | None]


class Machine:
    """A Verilated accelerator with one program; any number of clips can be run.

    Args:
        config: The machine that `program` was compiled for.
        program: What to run.
        memory: Behaviour of the DDR.
        verilog: Verilog of `Accelerator(config)`, emitted here if not given.
        wave: Write a waveform (VCD) of every run to this file.
        watchdog: Cycles without progress after which the machine stops itself; 0 turns that off.
        progress: Hears one line per step.

    Raises:
        SimulationError: The program was compiled for another configuration.
        BuildError: The model cannot be built.
    """

    def __init__(
        self, config: MachineConfig, program: Program, *, memory: MemoryModel | None = None, verilog: str | None = None,
        wave: str | Path | None = None, watchdog: int = 200_000, progress: Callable[[str], None] | None = None,
    ) -> None:
        self.config, self.program, self._wave = config, program, wave
        if program.config.hash != config.hash:
            raise SimulationError(
                f"program is for configuration {program.config.hash:08x}, the machine is {config.hash:08x}")
        self.bases, end = region_bases(program)
        if verilog is None:
            if progress is not None:
                progress("emit Verilog")
            verilog = emit_verilog(Accelerator(config), name="spikeloom")
        self.model = AcceleratorModel(
            verilog, name="spikeloom", memory_bytes=end, memory=memory, trace=wave is not None,
            progress=progress)
        self._write(0, program.image, "program")
        if self.read("config_hash") != config.hash:
            raise SimulationError(f"the machine's configuration hash is {self.read('config_hash'):08x}")
        for name, base in self.bases.items():
            self.write(f"{name}_base_low", base & 0xFFFFFFFF)
            self.write(f"{name}_base_high", base >> 32)
        self.write("watchdog", watchdog)
        self.write("interrupt_enable", 1)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.model.close()

    def read(self, name: str) -> int:
        """Read a register by name."""
        return self.model.read_register(register(name).offset)

    def write(self, name: str, value: int) -> None:
        """Write a register by name."""
        self.model.write_register(register(name).offset, value)

    def registers(self) -> dict[str, int]:
        """Status dump: every readable register that tells about a run."""
        names = ("status", "error_code", "error_engine", "error_instruction", "instructions", "cycles")
        return {name: self.read(name) for name in names} | {
            f"{engine}_{kind}": self.read(f"{engine}_{kind}") for engine in ENGINE_NAMES[:-1]
            for kind in ("busy", "blocked")}

    def run(
        self, clip: NDArray[np.generic], *, max_cycles: int = 1_000_000_000,
        given: Mapping[str, NDArray[np.generic]] = MappingProxyType({}),
    ) -> Result:
        """Run one clip.

        Args:
            clip: The network's input: `uint8[T, H, W, 3]` pixels or `bool[T, C, H, W]` spikes.
            given: Tensors that the network does not make (`Network.given`), in network shape.
            max_cycles: Give up after so many cycles.

        Raises:
            MachineError: The machine stopped with an error.
            ProtocolViolation: It broke a rule of AXI.
            SimulationTimeout: It did not stop.
            ValueError: The clip does not fit the network.
        """
        self._write(0, self.program.pack_input(clip), "input")
        for name, value in given.items():
            place = self.program.tensors[name]
            self._write(place.offset, place.pack(value, self.config), REGION_NAMES[place.region])
        self.model.last_write_cycles[:] = 0
        with self.model.wave(self._wave) if self._wave is not None else nullcontext():
            first = self.model.cycle
            self.write("control", 1)
            self.model.run_until_interrupt(max_cycles)
            self.write("interrupt_status", 1)
        registers = self.registers()
        self.model.check()
        if registers["status"] >> 2 & 1:
            raise self._error(registers)
        return Result(
            cycles=registers["cycles"], tensor=self.tensor,
            engines={engine: {kind: registers[f"{engine}_{kind}"] for kind in ("busy", "blocked")}
                     for engine in ENGINE_NAMES[:-1]},
            write_cycle=lambda name, index: self._write_cycle(name, index, first))

    def soft_reset(self) -> None:
        """Bring the machine back after an error.

        Raises:
            SimulationTimeout: Outstanding bus transactions are not answered.
        """
        self.write("control", 2)
        self.model.run_until_register(register("status").offset, mask=8, value=0, max_cycles=RESET_LIMIT)
        self.write("interrupt_status", 1)

    def tensor(self, name: str) -> NDArray[np.generic]:
        """Read a tensor back from DDR, in network shape."""
        return self.program.read_tensor(self._read_region, name)

    def _error(self, registers: Mapping[str, int]) -> MachineError:
        instruction = registers["error_instruction"]
        return MachineError(
            ErrorCode(registers["error_code"]), ENGINE_NAMES[registers["error_engine"]], instruction,
            self._describe(instruction), registers)

    def _describe(self, instruction: int) -> str:
        lines = self.program.listing().splitlines()
        found = [line for line in lines if line.split(maxsplit=1)[:1] == [str(instruction)]]
        return " ".join(found[0].split()[1:4]) if found else f"byte {instruction * INSTRUCTION_BYTES} of the program"

    def _write(self, offset: int, data: bytes, region: str) -> None:
        address = self.bases[region] + offset
        self.model.memory[address:address + len(data)] = np.frombuffer(data, np.uint8)

    def _read_region(self, region: int, offset: int, size: int) -> bytes:
        address = self.bases[REGION_NAMES[region]] + offset
        return self.model.memory[address:address + size].tobytes()

    def _write_cycle(self, name: str, index: tuple[int, ...], first: int) -> int | None:
        place = self.program.tensors[name]
        base = self.bases[REGION_NAMES[place.region]] + place.offset
        offset = element_offset(place, index, self.config)
        if offset is not None:
            cycle = self.model.last_write_cycle(base + offset)
        else:
            beats = slice(base // self.config.beat_bytes, (base + place.size) // self.config.beat_bytes)
            cycle = int(self.model.last_write_cycles[beats].max()) or None
        return None if cycle is None else cycle - first


def region_bases(program: Program) -> tuple[dict[str, int], int]:
    """Base address of every region, page by page, and the end of the memory needed."""
    sizes = (len(program.image), program.workspace_bytes, program.input_bytes, program.output_bytes)
    bases, address = {}, FIRST_PAGE
    for name, size in zip(REGION_NAMES, sizes, strict=True):
        bases[name] = address
        address += -(-max(size, 1) // PAGE) * PAGE
    return bases, address + PAGE


def element_offset(place: TensorPlace, index: tuple[int, ...], config: MachineConfig) -> int | None:
    """Byte offset, within its tensor, of the beat that holds an element; None for keyvalue.

    Of planes plane 0, of integer spikes the first of their maps. `index` is (t, c, y, x), for logits (c,).
    """
    beats = {"spikes": 1, "integers": 1, "planes": 8, "residual": config.residual_beats,
             "logits": config.raw_beats}.get(place.kind)
    if beats is None:
        return None
    time, channel, y, x = index if place.kind != "logits" else (0, index[0], 0, 0)
    channels = place.channel_map(config)
    group, lane = divmod(int(time), config.lanes)
    word, inner = divmod(int(channels.physical[channel]), config.word_channels)
    item = ((group * channels.words + word) * place.levels * place.height + int(y)) * place.width + int(x)
    bit = {"residual": (inner * config.lanes + lane) * 16, "logits": inner * 32}.get(place.kind, 0)
    return (item * beats + bit // config.beat_bits) * config.beat_bytes
