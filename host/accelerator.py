"""The machine as an object: clips in, logits out. Knows registers and buffers, not what board they are on.

    clip n+1:   fill input 1                      | start ....
    clip n:     start .... running .... finished  | read output 0
                                                    -> yield logits n

Input and output are double: while the machine computes a clip, the next one is packed and the consumer works on the
one before. A run ends by interrupt or, where there is none or one was lost, by polling. Nothing waits for ever.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import MACHINE_VERSION
from spikeloom.hw.isa import INSTRUCTION_BYTES, EncodingError, Instruction
from spikeloom.hw.program.layout import Region
from spikeloom.hw.program.program import Program
from spikeloom.registers import IDENTIFIER, register

from .board import ADDRESS_LIMIT, PAGE, Board, Buffer
from .errors import AcceleratorError, AcceleratorTimeout, DriverError, ProgramError
from .self_test import SelfTest
from .status import BUSY, DONE, ERROR, RESETTING, Status, read_status

__all__ = ["Accelerator", "check_machine"]

START, SOFT_RESET = 1, 2
"""Bits of the register `control`."""

INTERRUPT_SLICE = 0.05
"""Seconds to wait for the interrupt before `status` is looked at: how long a lost interrupt costs, once."""

POLL_INTERVAL = 100e-6
"""Seconds between two looks at `status`."""

RESET_TIMEOUT = 0.1
"""Seconds that a soft reset may take: outstanding bus transactions only."""

WATCHDOG = register("watchdog").reset


@dataclass(frozen=True)
class _Slot:
    """Buffers of one clip in flight."""

    input: Buffer
    output: Buffer


def check_machine(board: Board) -> None:
    """Raise DriverError unless the registers are those of a machine that this driver knows."""
    identifier, version = (board.read_register(register(name).offset) for name in ("id", "version"))
    if identifier != IDENTIFIER:
        raise DriverError(
            f"no Spikeloom machine: register `id` reads {identifier:#010x}, not {IDENTIFIER:#010x}; "
            f"is the right bitstream loaded?")
    if version != MACHINE_VERSION:
        raise DriverError(f"the machine is of version {version}, this driver is for version {MACHINE_VERSION}")


class Accelerator:
    """One program on one machine; a context manager.

    Args:
        board: Where the machine is.
        program: What to run.
        timeout: Seconds that a clip may take.
        watchdog: Cycles without progress after which the machine stops itself; 0 turns that off.
        interrupt: Wait for the interrupt if the board has one; otherwise poll.

    Raises:
        DriverError: There is no machine, or one of another version.
        ProgramError: The program was compiled for another configuration.
        MemoryError: The board has no room for the buffers.
        AcceleratorTimeout: The machine was busy and cannot be reset.
    """

    def __init__(
        self, board: Board, program: Program, *, timeout: float = 10.0, watchdog: int = WATCHDOG,
        interrupt: bool = True,
    ) -> None:
        if timeout <= 0:
            raise ValueError(f"`timeout` must be positive, not `{timeout!r}`")
        if not 0 <= watchdog < 1 << 32:
            raise ValueError(f"`watchdog` must be a 32-bit number, not `{watchdog!r}`")
        self.board, self.program, self.timeout, self.watchdog = board, program, timeout, watchdog
        self.polling = not (interrupt and board.has_interrupt)
        """Whether runs are polled for; turns True when an interrupt was lost."""
        self._owner = threading.Lock()
        self._needs_reset = True  # whoever used the machine before may have left it running
        self._deadline = 0.0
        self._buffers: list[Buffer] = []
        check_machine(board)
        self._check_configuration()
        try:
            self._program = self._allocate(Region.PROGRAM)
            self._workspace = self._allocate(Region.WORKSPACE)
            self._slots = tuple(
                _Slot(self._allocate(Region.INPUT), self._allocate(Region.OUTPUT)) for _ in range(2))
            self._reset()
        except BaseException:
            self._free()
            raise

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the machine, then give the buffers back. They are kept if the machine cannot be stopped.

        Raises:
            AcceleratorTimeout: The bus does not answer the machine, which may still write.
        """
        if self._buffers:
            self._soft_reset()
            self._free()

    def infer(self, clip: NDArray[Any]) -> NDArray[Any]:
        """Output of one clip (logits `int32[classes]`, residual `int16[T, C, H, W]`); errors as for `stream`."""
        (output,) = self.stream((clip,))
        return output

    def stream(self, clips: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """The network's output for each clip, in order.

        The next clip is asked for and packed while the machine computes. Results of clips that were started are
        delivered before an error of the source is passed on.

        Args:
            clips: `uint8[T, H, W, 3]` pixels or `bool[T, C, H, W]` spikes, as the network has it.

        Raises:
            AcceleratorError: The machine stopped with an error.
            AcceleratorTimeout: It did not end in time, or cannot be reset.
            DriverError: Another stream is open, or the accelerator is closed.
            ValueError: A clip does not fit the network.
        """
        with self._exclusive():
            source, computing, turn = iter(clips), None, 0
            while True:
                self._check_open()
                failure: Exception | None = None
                slot: _Slot | None = self._slots[turn % 2]
                try:
                    self._fill(slot.input, self.program.pack_input(next(source)))
                except StopIteration:
                    slot = None
                except Exception as error:
                    slot, failure = None, error
                if computing is not None:
                    self._finish()
                if slot is not None:
                    self._start(slot)
                if computing is not None:
                    yield self._output(computing.output)
                if failure is not None:
                    raise failure
                if slot is None:
                    return
                computing, turn = slot, turn + 1

    def self_test(self, test: SelfTest) -> str | None:
        """Run the stored input. Name of the first operator with a wrong output, None if all are right.

        Raises: as for `stream`.
        """
        with self._exclusive():
            slot = self._slots[0]
            self._fill(slot.input, test.input)
            self._start(slot)
            self._finish()
            buffers = (self._program, self._workspace, slot.input, slot.output)
            for buffer in buffers:
                buffer.invalidate()
            return test.first_wrong(
                self.program, lambda region, offset, size: buffers[region].array[offset:offset + size].tobytes())

    def reset(self) -> None:
        """Soft reset; registers and program are written anew. After an error the next clip does that by itself.

        Raises:
            AcceleratorTimeout: Outstanding bus transactions are not answered.
            DriverError: A stream is open, or the accelerator is closed.
        """
        with self._exclusive():
            self._reset()

    def status(self) -> Status:
        """All registers."""
        return read_status(self.board.read_register)

    # Set-up

    def _reset(self) -> None:
        self._soft_reset()
        self._fill(self._program, self.program.image)
        self._write("watchdog", self.watchdog)
        self._write("interrupt_enable", int(not self.polling))
        self._set_base("program", self._program)
        self._set_base("workspace", self._workspace)
        self._needs_reset = False

    def _check_open(self) -> None:
        if not self._buffers:
            raise DriverError("the accelerator is closed")

    def _check_configuration(self) -> None:
        machine, wanted = self._read("config_hash"), self.program.config.hash
        if machine != wanted:
            raise ProgramError(
                f"compiled for another machine: the program's configuration hash is {wanted:08x}, the machine's is "
                f"{machine:08x}; build the program for this bitstream or load the bitstream it was built with")

    def _allocate(self, region: Region) -> Buffer:
        buffer = self.board.allocate(max(self.program.region_size(region), 1))
        self._buffers.append(buffer)
        end = buffer.address + len(buffer.array)
        if buffer.address % PAGE or end > ADDRESS_LIMIT:
            raise DriverError(f"buffer at {buffer.address:#x} must be {PAGE}-byte aligned and below {ADDRESS_LIMIT:#x}")
        buffer.flush()  # no line of it may be written back later, over what the machine has written
        return buffer

    def _free(self) -> None:
        while self._buffers:
            self._buffers.pop().free()

    def _soft_reset(self) -> None:
        self._needs_reset = True
        self._write("control", SOFT_RESET)
        deadline = self.board.clock() + RESET_TIMEOUT
        while self._read("status") & RESETTING:
            if self.board.clock() > deadline:
                raise AcceleratorTimeout(
                    f"soft reset not finished after {RESET_TIMEOUT:g} s: the bus does not answer the machine; "
                    f"if it stays so, load the bitstream again", self.status())
            self.board.sleep(POLL_INTERVAL)
        self._write("interrupt_status", 1)

    # One clip

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One stream at a time; a stream that is left while the machine runs costs a reset."""
        self._check_open()
        if not self._owner.acquire(blocking=False):
            raise DriverError("another stream is open: exhaust or close it first")
        try:
            yield
        finally:
            self._owner.release()

    def _fill(self, buffer: Buffer, data: bytes) -> None:
        buffer.array[:len(data)] = np.frombuffer(data, np.uint8)
        buffer.flush()

    def _start(self, slot: _Slot) -> None:
        if self._needs_reset:
            self._reset()
        self._set_base("input", slot.input)
        self._set_base("output", slot.output)
        self._needs_reset = True  # until the run has ended well
        self._write("control", START)
        self._deadline = self.board.clock() + self.timeout

    def _finish(self) -> None:
        """Wait for the end of the run."""
        while not self._ended():
            left = self._deadline - self.board.clock()
            if left <= 0:
                raise AcceleratorTimeout(f"clip not finished after {self.timeout:g} s", self.status())
            self._wait(left)
        self._write("interrupt_status", 1)
        if self._read("status") & ERROR:
            status = self.status()
            raise AcceleratorError(status, self._layer(status["error_instruction"]))
        self._needs_reset = False

    def _wait(self, left: float) -> None:
        if self.polling:
            self.board.sleep(min(left, POLL_INTERVAL))
            return
        if self.board.wait_interrupt(min(left, INTERRUPT_SLICE)) or not self._ended():
            return
        if not self.board.wait_interrupt(0.0):  # it did not come just now either
            warnings.warn("an interrupt of the machine was lost: polling from now on", RuntimeWarning, stacklevel=2)
            self.polling = True

    def _ended(self) -> bool:
        status = self._read("status")
        return not status & BUSY and bool(status & (DONE | ERROR))

    def _output(self, buffer: Buffer) -> NDArray[Any]:
        buffer.invalidate()
        return self.program.read_tensor(
            lambda region, offset, size: buffer.array[offset:offset + size].tobytes(), self.program.output)

    def _layer(self, instruction: int) -> str | None:
        try:
            data = self.program.image[instruction * INSTRUCTION_BYTES:(instruction + 1) * INSTRUCTION_BYTES]
            return self.program.operators[Instruction.decode(data).layer].name
        except (EncodingError, IndexError):
            return None

    # Registers

    def _read(self, name: str) -> int:
        return self.board.read_register(register(name).offset)

    def _write(self, name: str, value: int) -> None:
        self.board.write_register(register(name).offset, value)

    def _set_base(self, region: str, buffer: Buffer) -> None:
        self._write(f"{region}_base_low", buffer.address & 0xFFFFFFFF)
        self._write(f"{region}_base_high", buffer.address >> 32)
