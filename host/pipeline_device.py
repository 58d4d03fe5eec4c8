"""What a program runs on, by name.

    board       the ZCU104, through PYNQ, with the bitstream DIR/bitfile/spikeloom.bit
    sim         the Verilated machine of DIR/rtl in a simulated board: every cycle, some 100,000 of them per second
    reference   the integer reference of DIR/network in place of the machine: the same results, no cycles

One driver runs on all of them. What `sim` and `reference` need is imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spikeloom.board import INSTANCE
from spikeloom.hw.program.layout import Region
from spikeloom.hw.program.program import Program

from .board import PAGE, Board
from .errors import DriverError
from .power import Power, open_power

__all__ = ["DEVICES", "Device", "open_device"]

DEVICES = ("sim", "board", "reference")

DDR_BYTES_PER_SECOND = 10e9
"""Of the simulated board's memory, all ports together."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Somewhere to run.

    Attributes:
        kind: One of `DEVICES`.
        name: For people.
        board: For the driver.
        simulated_time: Whether the board's clock is that of a simulation.
        power: Rails of the board; None where there are none to measure.
        close: Give it back.
    """

    kind: str
    name: str
    board: Board
    simulated_time: bool = False
    power: Power | None = None
    close: Callable[[], None] = lambda: None


def open_device(kind: str, directory: Path, program: Program) -> Device:
    """Open a device for a program.

    Raises:
        ValueError: No such kind, or a file of `directory` is missing.
        DriverError: There is no board here, or another process uses it.
    """
    if kind not in DEVICES:
        raise ValueError(f"`device` must be one of {', '.join(DEVICES)}, not `{kind!r}`")
    return {"sim": _simulation, "board": _board, "reference": _reference}[kind](directory, program)


def _simulation(directory: Path, program: Program) -> Device:
    from spikeloom.sim.accelerator_model import MemoryModel
    from spikeloom.sim.board import SimulatedBoard

    verilog = directory / "rtl" / "spikeloom.v"
    if not verilog.is_file():
        raise ValueError(f"{verilog}: no such file; build again")
    config = program.config
    beats = DDR_BYTES_PER_SECOND / (config.beat_bytes * config.clock_mhz * 1e6)
    board = SimulatedBoard(
        config, verilog=verilog.read_text(), memory_bytes=_memory(program),
        memory=MemoryModel(total_bandwidth=beats, latency=80, jitter=20))
    return Device(kind="sim", name="simulated board (RTL)", board=board, simulated_time=True,
                  close=lambda: board.__exit__(None, None, None))


def _memory(program: Program) -> int:
    """Bytes of DDR: every region, input and output twice, rounding and what lies before the first buffer."""
    pages = [-(-program.region_size(region) // PAGE) for region in Region]
    needed = (sum(pages) + pages[Region.INPUT] + pages[Region.OUTPUT] + 64) * PAGE
    return max(1 << 20, 1 << (needed - 1).bit_length())


def _reference(directory: Path, program: Program) -> Device:
    from spikeloom.network import Network
    from spikeloom.sim.reference_board import ReferenceBoard

    board = ReferenceBoard(Network.load(directory / "network"), program)
    return Device(kind="reference", name="integer reference (no hardware)", board=board, close=board.close)


def _board(directory: Path, program: Program) -> Device:
    del program
    from .driver import SpikeloomOverlay

    bitfile = directory / "bitfile" / "spikeloom.bit"
    if not bitfile.is_file():
        raise ValueError(f"{bitfile}: no such file; `spikeloom bitstream {directory}` makes it")
    try:
        overlay = SpikeloomOverlay(bitfile)
    except DriverError:
        raise
    except RuntimeError as error:  # PYNQ's, where there is no device
        raise DriverError(f"no board here that PYNQ can use ({error}): run this on the board, or with "
                          f"`--device sim`") from error
    return Device(
        kind="board", name=f"ZCU104 ({INSTANCE})", board=overlay.driver.board, power=open_power(),
        close=overlay.close)
