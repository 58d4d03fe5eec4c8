"""Dump of the machine's registers: what every error of the driver carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spikeloom.registers import ENGINE_NAMES, REGISTERS, ErrorCode, register

__all__ = ["BUSY", "DONE", "ERROR", "RESETTING", "Status", "read_status"]


def _mask(name: str) -> int:
    return next(1 << field.low for field in register("status").fields if field.name == name)


BUSY, DONE, ERROR, RESETTING = (_mask(name) for name in ("busy", "done", "error", "resetting"))
"""Bits of the register `status`."""


@dataclass(frozen=True)
class Status:
    """All readable registers at one moment, by name. `str` is a page for people."""

    registers: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.registers[name]

    @property
    def state(self) -> str:
        """Names of the bits that are set in `status`, `idle` if none is."""
        bits = [field.name for field in register("status").fields if self["status"] >> field.low & 1]
        return " ".join(bits) or "idle"

    @property
    def code(self) -> ErrorCode | int:
        """Error code; a plain number if this version of the driver does not know it."""
        return error_code(self["error_code"])

    @property
    def engine(self) -> str:
        """Name of the failing engine."""
        number = self["error_engine"]
        return ENGINE_NAMES[number] if number < len(ENGINE_NAMES) else f"number {number}"

    def __str__(self) -> str:
        lines = [
            f"state: {self.state}; {self['instructions']} instructions finished in {self['cycles']} cycles",
            f"error: {code_name(self.code)}, engine {self.engine}, instruction {self['error_instruction']}",
            "engine           busy cycles   waiting for a semaphore"]
        lines += [f"{name:15} {self[f'{name}_busy']:12}   {self[f'{name}_blocked']:23}" for name in ENGINE_NAMES[:-1]]
        rest = [f"{entry.name}={self[entry.name]:#x}" for entry in REGISTERS
                if entry.name in self.registers and not entry.name.endswith(("_busy", "_blocked"))]
        return "\n".join([*lines, *(" ".join(rest[i:i + 4]) for i in range(0, len(rest), 4))])


def error_code(number: int) -> ErrorCode | int:
    """The code of a number, or the number."""
    return ErrorCode(number) if number in ErrorCode.__members__.values() else number


def code_name(code: ErrorCode | int) -> str:
    return code.name if isinstance(code, ErrorCode) else f"code {code}"


def read_status(read: Callable[[int], int]) -> Status:
    """Read every register; `read` takes a byte offset."""
    return Status({entry.name: read(entry.offset) for entry in REGISTERS if entry.access != "w1s"})
