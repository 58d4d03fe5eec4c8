"""The register table: once, for RTL, IP packaging, driver and documentation.

All registers are 32 bits wide on the AXI4-Lite port `s_axi_ctrl`. Access: `ro` read-only, `rw` read-write, `w1s` write
one to start an action (reads 0), `w1c` write one to clear.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

IDENTIFIER = 0x4C4B5053
"""`SPKL` in ASCII, little-endian."""

REGION_NAMES = ("program", "workspace", "input", "output")
"""DDR regions; an instruction addresses DDR as (region, byte offset). Each has a base address register pair."""

ENGINE_NAMES = ("load", "weight", "shortcut", "compute", "drain", "store", "store_residual", "sequencer")
"""Engines in the order of their numbers (semaphores, error reports, counters)."""


class ErrorCode(enum.IntEnum):
    """Why the machine stopped."""

    NONE = 0
    BUS_READ = 1
    BUS_WRITE = 2
    BAD_OPCODE = 3
    BAD_CHECKSUM = 4
    WATCHDOG = 5
    SEMAPHORE_OVERFLOW = 6


@dataclass(frozen=True, kw_only=True)
class Field:
    """Bits [low, low + width) of a register."""

    name: str
    low: int
    width: int = 1
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Register:
    """One 32-bit register at byte `offset`."""

    name: str
    offset: int
    access: str
    description: str
    fields: tuple[Field, ...] = ()
    reset: int = 0


def _table() -> tuple[Register, ...]:
    table = [
        Register(name="id", offset=0x00, access="ro", description="identifier, reads 'SPKL'", reset=IDENTIFIER),
        Register(name="version", offset=0x04, access="ro", description="machine version"),
        Register(name="config_hash", offset=0x08, access="ro", description="hash of the machine configuration"),
        Register(name="control", offset=0x10, access="w1s", description="actions", fields=(
            Field(name="start", low=0, description="fetch and run the program; ignored unless idle"),
            Field(name="soft_reset", low=1, description="abandon the run, drain the buses, reset the core"))),
        Register(name="status", offset=0x14, access="ro", description="state", fields=(
            Field(name="busy", low=0, description="a program is running"),
            Field(name="done", low=1, description="the last program ended without an error"),
            Field(name="error", low=2, description="stopped by an error, see error_code"),
            Field(name="resetting", low=3, description="soft reset waits for outstanding bus transactions"))),
        Register(name="interrupt_enable", offset=0x18, access="rw", description="1: raise the interrupt"),
        Register(name="interrupt_status", offset=0x1C, access="w1c", description="1: run ended (done or error)"),
        Register(name="error_code", offset=0x20, access="ro", description="see ErrorCode"),
        Register(name="error_instruction", offset=0x24, access="ro",
                 description="index of the failing instruction in the program"),
        Register(name="error_engine", offset=0x28, access="ro", description="number of the failing engine"),
        Register(name="watchdog", offset=0x2C, access="rw", reset=1_000_000,
                 description="cycles without a finished instruction or bus beat before WATCHDOG; 0 turns it off"),
        Register(name="instructions", offset=0x30, access="ro", description="instructions finished in this run"),
    ]
    for i, region in enumerate(REGION_NAMES):
        table.append(Register(name=f"{region}_base_low", offset=0x40 + 8 * i, access="rw",
                              description=f"base address of the {region} region, bits 31:0, 4 KiB aligned"))
        table.append(Register(name=f"{region}_base_high", offset=0x44 + 8 * i, access="rw",
                              description=f"base address of the {region} region, bits 39:32"))
    table.append(Register(name="cycles", offset=0x80, access="ro", description="cycles of this run"))
    for i, engine in enumerate(ENGINE_NAMES[:-1]):
        table.append(Register(name=f"{engine}_busy", offset=0x90 + 8 * i, access="ro",
                              description=f"cycles in which the {engine} engine executed an instruction"))
        table.append(Register(name=f"{engine}_blocked", offset=0x94 + 8 * i, access="ro",
                              description=f"cycles in which the {engine} engine waited for a semaphore"))
    return tuple(table)


REGISTERS: tuple[Register, ...] = _table()
"""Every register, by rising offset."""

ADDRESS_BITS = 12
"""Bits of an AXI4-Lite address."""


def register(name: str) -> Register:
    """Look a register up by name. Raises KeyError."""
    for entry in REGISTERS:
        if entry.name == name:
            return entry
    raise KeyError(name)
