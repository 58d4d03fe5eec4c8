"""PYNQ's driver: what a user of a board imports.

    overlay = SpikeloomOverlay("spikeloom.bit", "program")
    logits = overlay.infer(clip)
    for logits in overlay.stream(clips): ...

`SpikeloomDriver` binds to the accelerator of any overlay; `SpikeloomOverlay` is an overlay with one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray
from pynq import DefaultIP, Overlay, UnsupportedConfiguration  # pyright: ignore[reportMissingImports]
from pynq.pl_server.device import Device  # pyright: ignore[reportMissingImports]

from spikeloom.board import INSTANCE, VLNV
from spikeloom.hw.program.program import Program

from .accelerator import Accelerator, check_machine
from .errors import DriverError
from .lock import BoardLock
from .pynq_board import PynqBoard
from .self_test import SelfTest
from .status import Status

__all__ = ["SpikeloomDriver", "SpikeloomOverlay"]


class SpikeloomDriver(DefaultIP):
    """Driver of one accelerator. `load` a program first; errors are those of `Accelerator`.

    Raises:
        UnsupportedConfiguration: The registers are not those of a machine that this driver knows.
    """

    bindto: ClassVar[list[str]] = [VLNV]

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self.board = PynqBoard(self)
        self._accelerator: Accelerator | None = None
        self._directory: Path | None = None
        try:
            check_machine(self.board)
        except DriverError as error:
            raise UnsupportedConfiguration(str(error)) from error

    @property
    def accelerator(self) -> Accelerator:
        """The loaded program on the machine. DriverError if none is loaded."""
        if self._accelerator is None:
            raise DriverError("no program is loaded: `load` one first")
        return self._accelerator

    def load(self, directory: str | Path, **options: Any) -> Accelerator:
        """Load a program, in place of the one before.

        Args:
            directory: Output of the compiler: `program.bin`, `program.json`.
            options: `timeout`, `watchdog`, `interrupt` of `Accelerator`.

        Raises:
            ProgramError: A file is missing, malformed, truncated, changed, or the program is for another machine.
        """
        program = Program.load(directory)
        self.close()
        self._accelerator, self._directory = Accelerator(self.board, program, **options), Path(directory)
        return self._accelerator

    def infer(self, clip: NDArray[Any]) -> NDArray[Any]:
        """See `Accelerator.infer`."""
        return self.accelerator.infer(clip)

    def stream(self, clips: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """See `Accelerator.stream`."""
        return self.accelerator.stream(clips)

    def self_test(self) -> str | None:
        """Run the self-test beside the program: name of the first wrong layer, None if all are right.

        Raises:
            ProgramError: There is no self-test, or that of another program.
        """
        accelerator = self.accelerator
        assert self._directory is not None
        return accelerator.self_test(SelfTest.load(self._directory, accelerator.program))

    def reset(self) -> None:
        """See `Accelerator.reset`."""
        self.accelerator.reset()

    def status(self) -> Status:
        """See `Accelerator.status`."""
        return self.accelerator.status()

    def close(self) -> None:
        """Stop the machine and give the buffers back. Harmless without a program."""
        if self._accelerator is not None:
            self._accelerator.close()
            self._accelerator = None


class SpikeloomOverlay(Overlay):
    """A bitstream with an accelerator, and a program; a context manager.

    Args:
        bitfile: `.bit`, with its `.hwh` beside it.
        program: Directory of a program to load.
        device: As for `pynq.Overlay`.
        download: Load the bitstream; otherwise it is there already.
        options: `timeout`, `watchdog`, `interrupt` of `Accelerator`.

    Attributes:
        driver: The accelerator's driver.

    Raises:
        DriverError: Another process uses the board.
        UnsupportedConfiguration: The bitstream holds no accelerator that this driver knows.
        ProgramError: As for `SpikeloomDriver.load`.
    """

    def __init__(
        self, bitfile: str | Path, program: str | Path | None = None, *, device: Any = None, download: bool = True,
        **options: Any,
    ) -> None:
        device = device or Device.active_device
        self._lock = BoardLock(device.tag)
        try:
            super().__init__(str(bitfile), download=download, device=device)
            self.driver: SpikeloomDriver = self._find_driver()
            if program is not None:
                self.driver.load(program, **options)
        except BaseException:
            self._lock.release()
            raise

    def _find_driver(self) -> SpikeloomDriver:
        if INSTANCE not in self.ip_dict:
            raise UnsupportedConfiguration(f"{self.bitfile_name}: has no {INSTANCE}, only {', '.join(self.ip_dict)}")
        driver = getattr(self, INSTANCE)
        if not isinstance(driver, SpikeloomDriver):
            raise UnsupportedConfiguration(
                f"{self.bitfile_name}: {INSTANCE} is of type {self.ip_dict[INSTANCE]['type']} or does not answer as "
                f"{VLNV} does; see the warning above")
        return driver

    def __enter__(self) -> SpikeloomOverlay:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def load(self, directory: str | Path, **options: Any) -> Accelerator:
        """See `SpikeloomDriver.load`."""
        return self.driver.load(directory, **options)

    def infer(self, clip: NDArray[Any]) -> NDArray[Any]:
        """See `Accelerator.infer`."""
        return self.driver.infer(clip)

    def stream(self, clips: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """See `Accelerator.stream`."""
        return self.driver.stream(clips)

    def self_test(self) -> str | None:
        """See `SpikeloomDriver.self_test`."""
        return self.driver.self_test()

    def close(self) -> None:
        """Stop the machine, give the buffers back, let other processes have the board."""
        self.driver.close()
        self._lock.release()
