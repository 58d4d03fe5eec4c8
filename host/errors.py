"""What the driver raises. Malformed and foreign program files: `spikeloom.hw.program.errors.ProgramError`."""

from __future__ import annotations

from spikeloom.hw.program.errors import ProgramError
from spikeloom.registers import ErrorCode

from .status import Status, code_name

__all__ = ["AcceleratorError", "AcceleratorTimeout", "DriverError", "ProgramError"]


class DriverError(RuntimeError):
    """The driver cannot do what it was asked to do."""


class AcceleratorError(DriverError):
    """The machine stopped with an error. The next clip starts with a soft reset.

    Attributes:
        code: What happened.
        engine: Name of the failing engine.
        instruction: Index of the failing instruction in the program.
        layer: Name of the network operator that the instruction works for, None if unknown.
        status: All registers at that moment.
    """

    def __init__(self, status: Status, layer: str | None) -> None:
        self.status, self.layer = status, layer
        self.code: ErrorCode | int = status.code
        self.engine, self.instruction = status.engine, status["error_instruction"]
        super().__init__(
            f"machine stopped: {code_name(self.code)} in engine {self.engine} at instruction {self.instruction} "
            f"(layer {layer or 'unknown'}), cycle {status['cycles']} of the run")


class AcceleratorTimeout(DriverError):
    """The machine did not end in time. The next clip starts with a soft reset.

    Attributes:
        status: All registers at that moment; part of the message.
    """

    def __init__(self, what: str, status: Status) -> None:
        self.status = status
        super().__init__(f"{what}\n{status}")
