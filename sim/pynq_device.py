"""A PYNQ device over a simulated board: `pynq.Overlay` and the unmodified driver run on the RTL (`SimulatedBoard`), or
on a stand-in that takes its time (`TimedBoard`).

    device = SimulatedDevice(board)
    Device.active_device = device          # PYNQ's interrupts look there
    SpikeloomOverlay("spikeloom.bit", "program")

The `.bit` may hold anything; the `.hwh` beside it is the expected one (`spikeloom.hw.vivado.hwh`) or Vivado's.
Modelled are the accelerator's registers, the axi_intc, the UIO device of its interrupt, and memory for the clock
registers of the processing system. Simulated time passes in register accesses and while asyncio waits for an
interrupt.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pynq.buffer import PynqBuffer  # pyright: ignore[reportMissingImports]
from pynq.interrupt import _InterruptController  # pyright: ignore[reportMissingImports]
from pynq.pl_server.device import Device  # pyright: ignore[reportMissingImports]
from pynqmetadata.frontends import Metadata  # pyright: ignore[reportMissingImports]
from pynqmetadata.views.runtime import RuntimeMetadataParser  # pyright: ignore[reportMissingImports]

from spikeloom.board import CONTROL_BASE, INTERRUPT_CONTROLLER_BASE, INTERRUPT_CONTROLLER_RANGE
from spikeloom.registers import ADDRESS_BITS

from .timed_board import TimedBoard, TimedBuffer

if TYPE_CHECKING:
    from .board import SimulatedBoard, SimulatedBuffer

__all__ = ["InterruptControllerModel", "SimulatedDevice"]

IRQ = 121
"""Of pl_ps_irq0."""

CLOCK_REGISTERS = {0xFF5E0000: {0x20: 45 << 8, 0xC0: 0x01010500}, 0xFD1A0000: {}}
"""CRL_APB and CRF_APB, 256 bytes each: I/O PLL times 45, pl_clk0 divided by 5."""

ACCESS_CYCLES = 200
"""Cycles of the machine that pass in a register access of the CPU."""

WAIT_CYCLES = 2000
"""Cycles that pass in a turn of the event loop."""


class InterruptControllerModel:
    """axi_intc with one level input; the registers that PYNQ uses.

    Args:
        level: Reads the input.
    """

    def __init__(self, level: Callable[[], bool]) -> None:
        self._level = level
        self._pending = self._enabled = self._master = 0

    @property
    def output(self) -> bool:
        """Level of `irq`."""
        self._pending |= self._level()
        return bool(self._pending & self._enabled) and self._master == 3

    def read(self, offset: int) -> int:
        self._pending |= self._level()
        return {0x00: self._pending, 0x04: self._pending & self._enabled, 0x08: self._enabled,
                0x1C: self._master}.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        if offset == 0x08:
            self._enabled = value & 1
        elif offset == 0x0C:  # acknowledge: stays pending while the input is high
            self._pending &= ~value
        elif offset == 0x10:
            self._enabled |= value & 1
        elif offset == 0x14:
            self._enabled &= ~value
        elif offset == 0x1C:
            self._master = value & 3


class _SimulatedUio:
    """In place of `pynq.uio.UioController`: lets the machine run while the event loop waits."""

    def __init__(self, output: Callable[[], bool], run: Callable[[], None]) -> None:
        self._output, self._run = output, run
        self._events: list[Any] = []

    def add_event(self, event: Any, number: int) -> None:
        del number
        if not self._events:
            asyncio.get_event_loop().call_soon(self._step)
        self._events.append(event)

    def _step(self) -> None:
        if self._output():
            events, self._events = self._events, []
            for event in events:
                event.set()
        else:
            self._run()
        if self._events:
            asyncio.get_event_loop().call_soon(self._step)


class SimulatedDevice(Device):
    """See the module. Loading a bitstream resets the machine."""

    def __init__(self, board: SimulatedBoard | TimedBoard, tag: str = "simulated_zcu104") -> None:
        super().__init__(tag)
        self.name, self.arch, self.capabilities = "Simulated ZCU104", "aarch64", {"REGISTER_RW": True}
        self.board = board
        self.interrupt_controller = InterruptControllerModel(lambda: board.interrupt)
        self._clocks = {base + at: value for base, words in CLOCK_REGISTERS.items() for at, value in words.items()}
        _InterruptController._uio_devices[IRQ] = _SimulatedUio(
            lambda: self.interrupt_controller.output, lambda: board.idle(WAIT_CYCLES))

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        del partial
        return RuntimeMetadataParser(Metadata(input=str(Path(bitfile_name).with_suffix(".hwh"))))

    def download(self, bitstream: Any, parser: Any = None) -> None:
        self.board.reset()
        self.post_download(bitstream, parser, self.name)

    def gen_cache(self, bitstream: Any, parser: Any = None) -> None:
        """Nothing: the cache is for boards."""

    def allocate(self, shape: Any, dtype: Any, **options: Any) -> Any:
        """A PynqBuffer over a simulated one, which is given back when nobody refers to it any more."""
        del options
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        simulated = self.board.allocate(math.prod(shape) * np.dtype(dtype).itemsize)
        buffer = PynqBuffer(
            shape, dtype, buffer=simulated.array.data, device=self, device_address=simulated.address, bo=simulated,
            coherent=False)
        weakref.finalize(buffer, simulated.free).atexit = False
        return buffer

    def flush(self, bo: SimulatedBuffer | TimedBuffer, offset: int, virtual_address: int, nbytes: int) -> None:
        """Write a buffer back, whole as XRT does."""
        del offset, virtual_address, nbytes
        bo.flush()

    def invalidate(self, bo: SimulatedBuffer | TimedBuffer, offset: int, virtual_address: int, nbytes: int) -> None:
        """Load a buffer, whole as XRT does."""
        del offset, virtual_address, nbytes
        bo.invalidate()

    def read_registers(self, address: int, length: int) -> bytes:
        """Read words over M_AXI_HPM0_FPD. RuntimeError where nothing is."""
        return b"".join(self._read_word(address + i).to_bytes(4, "little") for i in range(0, length, 4))

    def write_registers(self, address: int, data: bytes) -> None:
        """Write words. RuntimeError where nothing is."""
        for i in range(0, len(data), 4):
            self._write_word(address + i, int.from_bytes(data[i:i + 4], "little"))

    def _read_word(self, address: int) -> int:
        if CONTROL_BASE <= address < CONTROL_BASE + (1 << ADDRESS_BITS):
            self.board.run(ACCESS_CYCLES)
            return self.board.read_register(address - CONTROL_BASE)
        if INTERRUPT_CONTROLLER_BASE <= address < INTERRUPT_CONTROLLER_BASE + INTERRUPT_CONTROLLER_RANGE:
            return self.interrupt_controller.read(address - INTERRUPT_CONTROLLER_BASE)
        self._check_clock(address)
        return self._clocks.get(address, 0)

    def _write_word(self, address: int, value: int) -> None:
        if CONTROL_BASE <= address < CONTROL_BASE + (1 << ADDRESS_BITS):
            self.board.write_register(address - CONTROL_BASE, value)
        elif INTERRUPT_CONTROLLER_BASE <= address < INTERRUPT_CONTROLLER_BASE + INTERRUPT_CONTROLLER_RANGE:
            self.interrupt_controller.write(address - INTERRUPT_CONTROLLER_BASE, value)
        else:
            self._check_clock(address)
            self._clocks[address] = value

    def _check_clock(self, address: int) -> None:
        if not any(base <= address < base + 0x100 for base in CLOCK_REGISTERS):
            raise RuntimeError(f"bus error: nothing answers at {address:#x}")
