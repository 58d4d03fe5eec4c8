"""A board whose machine is the integer reference: the driver's registers, memory and interrupt, without RTL.

    driver --- registers, buffers ---> ReferenceBoard --- clip ---> Reference --- spikes, output ---> buffers

Results are those of the machine; there are no cycles, no busses and no cache. It computes in a thread of its own, in
the time that PyTorch takes. Good for a live demo where no board is, and for tests of what lies above the driver.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import MACHINE_VERSION
from spikeloom.host.board import PAGE
from spikeloom.host.status import BUSY, DONE, ERROR
from spikeloom.hw.program.layout import NETWORK_DTYPES, Region
from spikeloom.hw.program.program import Program
from spikeloom.network import Network
from spikeloom.quantize.reference import Reference
from spikeloom.registers import IDENTIFIER, REGION_NAMES, ErrorCode, register

__all__ = ["ReferenceBoard"]

_START, _RESET = 1, 2


class _Buffer:
    """Memory that both sides see at once; see `spikeloom.host.board.Buffer`."""

    def __init__(self, board: ReferenceBoard, address: int, size: int) -> None:
        self.address, self.array, self._board = address, np.zeros(size, np.uint8), board

    def flush(self) -> None:
        """Nothing: there is no cache."""

    def invalidate(self) -> None:
        """Nothing: there is no cache."""

    def free(self) -> None:
        self._board.buffers.remove(self)


class ReferenceBoard:
    """See the module.

    Args:
        network: What to compute.
        program: The program that the driver will load.

    Attributes:
        fault: `hang`: runs never end; `bus_error`: runs end with a bus error in the middle of the program.
        buffers: Allocated and not given back.

    Raises:
        ValueError: `program` was compiled from another network.
    """

    has_interrupt = True

    def __init__(self, network: Network, program: Program) -> None:
        if program.network_hash != network.hash:
            raise ValueError(f"`program` must be of network {network.hash:.12}, not `{program.network_hash:.12}`")
        self.program, self.fault = program, ""
        self.buffers: list[_Buffer] = []
        self._reference = Reference(network)
        self._next_address = 16 * PAGE
        self._registers = {register("id").offset: IDENTIFIER, register("version").offset: MACHINE_VERSION,
                           register("config_hash").offset: program.config.hash}
        self._ended = threading.Event()
        self._computing: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "reference")

    def close(self) -> None:
        """Wait for the clip that is computed, if any."""
        self._thread.shutdown()

    def allocate(self, size: int) -> _Buffer:
        buffer = _Buffer(self, self._next_address, size)
        self._next_address += -(-size // PAGE) * PAGE
        self.buffers.append(buffer)
        return buffer

    def read_register(self, offset: int) -> int:
        self._settle()
        return self._registers.get(offset, 0)

    def write_register(self, offset: int, value: int) -> None:
        if offset == register("control").offset:
            if value & _RESET:
                self._abandon()
            elif value & _START:
                self._start()
        elif offset == register("interrupt_status").offset:
            self._ended.clear()
        else:
            self._registers[offset] = value

    def wait_interrupt(self, seconds: float) -> bool:
        return self._ended.wait(seconds)

    def clock(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _abandon(self) -> None:
        if self._computing is not None:
            self._computing.exception()  # until it has ended
        self._computing = None
        self._set("status", 0)
        self._ended.clear()

    def _start(self) -> None:
        self._set("status", BUSY)
        if self.fault == "hang":
            return
        if self.fault == "bus_error":
            self._set("error_code", ErrorCode.BUS_READ)
            self._set("error_instruction", self.program.instruction_count // 2)
            self._set("status", ERROR)
            self._ended.set()
            return
        self._computing = self._thread.submit(self._compute)
        self._computing.add_done_callback(lambda _: self._ended.set())

    def _settle(self) -> None:
        """The state of a run that has ended. Whatever went wrong in it is raised."""
        if self._computing is not None and self._computing.done():
            computing, self._computing = self._computing, None
            self._set("status", DONE)
            computing.result()

    def _compute(self) -> None:
        program = self.program
        place = program.tensors[program.input]
        clip = place.unpack(self._memory(Region.INPUT)[:place.size].tobytes(), program.config)
        for name, tensor in self._reference.run(clip).items():
            target = program.tensors.get(name)
            if target is not None and (target.kind == "spikes" or name == program.output) and (
                    target.region != Region.INPUT):
                data = target.pack(np.asarray(tensor.numpy(), NETWORK_DTYPES[target.kind]), program.config)
                memory = self._memory(target.region)
                memory[target.offset:target.offset + target.size] = np.frombuffer(data, np.uint8)

    def _memory(self, region: Region) -> NDArray[np.uint8]:
        name = REGION_NAMES[region]
        low, high = (self._registers[register(f"{name}_base_{half}").offset] for half in ("low", "high"))
        return next(buffer.array for buffer in self.buffers if buffer.address == high << 32 | low)

    def _set(self, name: str, value: int) -> None:
        self._registers[register(name).offset] = value
