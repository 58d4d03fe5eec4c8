"""A board simulated: the Verilated machine, DDR, the CPU's cache. The driver runs on it as on a real one.

    driver --- registers -------------------------> machine ---+
       '---- CPU's copy of a buffer --flush-------> DDR <------'
                              ^------invalidate----'

`SimulatedBoard` implements `spikeloom.host.board.Board`. Nothing is coherent: what the CPU wrote reaches DDR with
`flush` only, what the machine wrote reaches the CPU with `invalidate` only, so a forgotten one shows. Time is that of
the machine's clock; it passes in register accesses, in `sleep` and in `wait_interrupt`.
Bus faults are those of `board.model` (`inject_error`, `stall_port`, `set_memory_model`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import MachineConfig
from spikeloom.hw.build import TOP, emit_machine

from .accelerator_model import AcceleratorModel, MemoryModel, SimulationTimeout

__all__ = ["SimulatedBoard", "SimulatedBuffer"]

PAGE = 4096
FIRST_PAGE = 0x10000
"""Address of the first buffer: not zero, so that a forgotten base register shows."""

LINE = 64
"""Bytes of a cache line."""


class SimulatedBuffer:
    """A buffer with a CPU's copy and a copy in DDR; see `spikeloom.host.board.Buffer`.

    Attributes:
        address: Address in DDR.
        array: What the CPU sees.
        memory: What the machine sees.
    """

    def __init__(self, board: SimulatedBoard, address: int, size: int) -> None:
        self.address, self._board = address, board
        self.memory = board.model.memory[address:address + size]
        self.array: NDArray[np.uint8] = np.zeros(size, np.uint8)
        self._clean = ~self.array  # whoever zeroed it did so through the cache: every line is dirty

    def flush(self) -> None:
        """Write everything to DDR: a line that was written is dirty, even with what it held."""
        self.memory[:] = self.array
        self._clean[:] = self.array

    def write_back(self) -> None:
        """Write the lines that the CPU has changed to DDR, as a cache does at any time."""
        dirty = self._dirty()
        self.memory[dirty] = self.array[dirty]
        self._clean[dirty] = self.array[dirty]

    def invalidate(self) -> None:
        """Load everything from DDR. Lines that the CPU has changed are written back before, as the kernel does it."""
        self.write_back()
        self.array[:] = self.memory
        self._clean[:] = self.memory

    def free(self) -> None:
        self._board.release(self)

    def _dirty(self) -> NDArray[np.bool_]:
        """Bytes whose cache line the CPU has changed since it was loaded."""
        changed = self.array != self._clean
        lines = np.zeros(-(-changed.size // LINE) * LINE, np.bool_)
        lines[:changed.size] = changed
        return np.repeat(lines.reshape(-1, LINE).any(axis=1), LINE)[:changed.size]


class SimulatedBoard:
    """A board with one machine; a context manager.

    Args:
        config: The machine.
        memory: Behaviour of the DDR.
        memory_bytes: Size of the DDR that buffers are taken from.
        verilog: Verilog of the machine, emitted here if not given.

    Attributes:
        model: Machine and DDR.
        interrupts: Whether interrupts reach the CPU. Set to False to lose them.
        evict: Whether the cache writes changed lines back at a bad moment: at the end of every wait.

    Raises:
        BuildError: The model cannot be built.
    """

    has_interrupt = True

    def __init__(
        self, config: MachineConfig, *, memory: MemoryModel | None = None, memory_bytes: int = 64 << 20,
        verilog: str | None = None,
    ) -> None:
        self.config = config
        self.model = AcceleratorModel(
            verilog or emit_machine(config), name=TOP, memory_bytes=memory_bytes, memory=memory)
        self.interrupts, self.evict = True, False
        self.buffers: list[SimulatedBuffer] = []
        self._hertz = config.clock_mhz * 1e6

    def __enter__(self) -> SimulatedBoard:
        return self

    def __exit__(self, *exception: object) -> None:
        self.model.__exit__(*(exception or (None, None, None)))

    @property
    def interrupt(self) -> bool:
        """Level of the machine's interrupt as it reaches the CPU."""
        return self.interrupts and self.model.interrupt

    def reset(self) -> None:
        """What loading the bitstream does to the machine."""
        self.model.reset()

    def run(self, cycles: int) -> None:
        """Let time pass."""
        self.model.run(cycles)

    idle = run
    """The same while the CPU waits for the interrupt."""

    def read_register(self, offset: int) -> int:
        return self.model.read_register(offset)

    def write_register(self, offset: int, value: int) -> None:
        self.model.write_register(offset, value)

    def allocate(self, size: int) -> SimulatedBuffer:
        """The lowest free pages that are large enough; the CPU sees zeros, DDR keeps what it held. MemoryError."""
        wanted, address = -(-size // PAGE) * PAGE, FIRST_PAGE
        for other in sorted(self.buffers, key=lambda buffer: buffer.address):
            if other.address - address >= wanted:
                break
            address = other.address + -(-len(other.array) // PAGE) * PAGE
        if address + wanted > len(self.model.memory):
            raise MemoryError(f"the simulated board has no {size} bytes left")
        buffer = SimulatedBuffer(self, address, size)
        self.buffers.append(buffer)
        return buffer

    def release(self, buffer: SimulatedBuffer) -> None:
        """Take a buffer's memory back."""
        self.buffers.remove(buffer)

    def wait_interrupt(self, seconds: float) -> bool:
        """Run until the interrupt, at most so long."""
        if not self.interrupts:
            self.sleep(seconds)
            return False
        try:
            self.model.run_until_interrupt(round(seconds * self._hertz))
        except SimulationTimeout:
            return False
        finally:
            self._evict()
        return True

    def clock(self) -> float:
        return self.model.cycle / self._hertz

    def sleep(self, seconds: float) -> None:
        self.model.run(max(1, round(seconds * self._hertz)))
        self._evict()

    def _evict(self) -> None:
        if self.evict:
            for buffer in self.buffers:
                buffer.write_back()
