"""Runs under a Python with pynq (test_pynq.py): PYNQ's own Overlay, our driver, the RTL.

    python pynq_session.py DIR     DIR/bitfile, DIR/program, DIR/other, DIR/rtl, DIR/clips.npz

Prints one JSON object: name of a check -> "" or its traceback.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pynq import UnsupportedConfiguration  # pyright: ignore[reportMissingImports]
from pynq.pl_server.device import Device  # pyright: ignore[reportMissingImports]

from spikeloom.board import INSTANCE, VLNV
from spikeloom.host.driver import SpikeloomDriver, SpikeloomOverlay
from spikeloom.host.errors import AcceleratorError, AcceleratorTimeout, DriverError, ProgramError
from spikeloom.hw.program.program import Program
from spikeloom.sim.accelerator_model import MemoryModel
from spikeloom.sim.board import SimulatedBoard
from spikeloom.sim.pynq_device import SimulatedDevice

DIRECTORY = Path(sys.argv[1])
BITFILE, PROGRAM = DIRECTORY / "bitfile" / "spikeloom.bit", DIRECTORY / "program"
CLIPS = np.load(DIRECTORY / "clips.npz")
BOARD = SimulatedBoard(
    Program.load(PROGRAM).config, verilog=(DIRECTORY / "rtl" / "spikeloom.v").read_text(),
    memory=MemoryModel(bandwidth=0.8, latency=30, jitter=20, stall_probability=0.1))


def raises(kind: type[Exception], message: str, call: Callable[..., object], *arguments: object) -> None:
    """pytest is not there."""
    try:
        call(*arguments)
    except kind as error:
        caught = str(error)
    else:
        caught = "nothing was raised"
    assert message in caught, caught


def check_clip(overlay: SpikeloomOverlay, number: int) -> None:
    np.testing.assert_array_equal(overlay.infer(CLIPS["clips"][number]), CLIPS["expected"][number])


def overlay() -> SpikeloomOverlay:
    return SpikeloomOverlay(BITFILE, PROGRAM, timeout=120.0)


def binds_by_type() -> None:
    with overlay() as loaded:
        assert isinstance(getattr(loaded, INSTANCE), SpikeloomDriver)
        assert loaded.ip_dict[INSTANCE]["type"] == VLNV
        assert int(loaded.driver.register_map.id) == 0x4C4B5053


def infers_with_interrupts() -> None:
    with overlay() as loaded:
        for number in range(3):
            check_clip(loaded, number)
        assert not loaded.driver.accelerator.polling


def infers_by_polling() -> None:
    with SpikeloomOverlay(BITFILE, PROGRAM, timeout=120.0, interrupt=False) as loaded:
        check_clip(loaded, 0)


def polls_in_a_running_event_loop() -> None:
    async def notebook() -> None:
        with overlay() as loaded:
            assert loaded.driver.accelerator.polling
            check_clip(loaded, 0)

    asyncio.get_event_loop().run_until_complete(notebook())


def streams_in_order() -> None:
    with overlay() as loaded:
        np.testing.assert_array_equal(list(loaded.stream(CLIPS["clips"])), CLIPS["expected"])


def passes_the_self_test() -> None:
    with overlay() as loaded:
        assert loaded.self_test() is None


def recovers_from_a_bus_error() -> None:
    with overlay() as loaded:
        BOARD.model.inject_error(0, "read", "SLVERR", cycle=BOARD.model.cycle + 3000)
        raises(AcceleratorError, "BUS_READ", loaded.infer, CLIPS["clips"][0])
        check_clip(loaded, 1)


def survives_a_lost_interrupt() -> None:
    with overlay() as loaded:
        check_clip(loaded, 0)
        BOARD.interrupts = False
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                check_clip(loaded, 1)
            assert any("interrupt of the machine was lost" in str(warning.message) for warning in caught)
            assert loaded.driver.accelerator.polling
        finally:
            BOARD.interrupts = True
        check_clip(loaded, 2)


def refuses_another_machines_program() -> None:
    with overlay() as loaded:
        raises(ProgramError, "compiled for another machine", loaded.load, DIRECTORY / "other")
        loaded.load(PROGRAM, timeout=120.0)
        check_clip(loaded, 0)


def refuses_a_second_overlay() -> None:
    with overlay() as loaded:
        raises(DriverError, "is used by process", SpikeloomOverlay, BITFILE)
        check_clip(loaded, 0)
    with overlay() as loaded:
        check_clip(loaded, 1)


def refuses_damaged_programs() -> None:
    """Truncated and bit-flipped: refused before the machine sees them; the program that was loaded goes on."""
    with overlay() as loaded:
        content = (PROGRAM / "program.bin").read_bytes()
        for damage, message in ((content[:-64], "has "), (bytes([content[0] ^ 1]) + content[1:], "checksum is ")):
            bad = DIRECTORY / "bad"
            shutil.copytree(PROGRAM, bad, dirs_exist_ok=True)
            (bad / "program.bin").write_bytes(damage)
            raises(ProgramError, message, loaded.load, bad)
            check_clip(loaded, 0)


def recovers_from_a_missing_flush() -> None:
    """Nothing of what the CPU wrote has reached the memory: the machine says so, and the next clip is right."""
    flush = SimulatedDevice.flush
    with overlay() as loaded:
        SimulatedDevice.flush = lambda *arguments: None
        try:
            for buffer in BOARD.buffers:
                buffer.memory[:] = 0
            raises(AcceleratorError, "machine stopped: BAD_", loaded.infer, CLIPS["clips"][0])
        finally:
            SimulatedDevice.flush = flush
        check_clip(loaded, 1)


def recovers_from_a_hang() -> None:
    """The bus stops answering, the watchdog is off: a time-out with all registers; the next clip is right."""
    with SpikeloomOverlay(BITFILE, PROGRAM, timeout=2.0, watchdog=0) as loaded:
        BOARD.model.stall_port(0, from_cycle=BOARD.model.cycle + 3000)
        raises(AcceleratorTimeout, "state: busy", loaded.infer, CLIPS["clips"][0])
        BOARD.model.release_port(0)
        loaded.driver.accelerator.timeout = 120.0
        check_clip(loaded, 1)


SECOND_PROCESS = """
import sys
from pynq.pl_server.device import Device
from spikeloom.host.driver import SpikeloomOverlay
from spikeloom.sim.pynq_device import SimulatedDevice
from spikeloom.sim.timed_board import TimedBoard
Device.active_device = SimulatedDevice(TimedBoard(0, 1.0))
overlay = SpikeloomOverlay(sys.argv[1])
print("open", flush=True)
input()
"""


def second_process() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SECOND_PROCESS, str(BITFILE)], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def keeps_other_processes_out() -> None:
    """Another process cannot have the board meanwhile, nor we while it has it; when it dies the board is free."""
    with overlay() as loaded:
        with second_process() as other:
            _, said = other.communicate()
        assert other.returncode, said
        assert f"DriverError: simulated_zcu104 is used by process {os.getpid()}" in said, said
        check_clip(loaded, 0)
    with second_process() as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        raises(DriverError, f"is used by process {other.pid}", SpikeloomOverlay, BITFILE)
        other.kill()
    with overlay() as loaded:
        check_clip(loaded, 1)


def refuses_a_foreign_bitstream() -> None:
    BOARD.read_register = lambda offset: 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raises(UnsupportedConfiguration, "does not answer as", SpikeloomOverlay, BITFILE)
    finally:
        del BOARD.read_register


def gives_buffers_back() -> None:
    with overlay() as loaded:
        assert len(BOARD.buffers) == 6
        check_clip(loaded, 0)
    assert BOARD.buffers == []


CHECKS = (
    binds_by_type, infers_with_interrupts, infers_by_polling, polls_in_a_running_event_loop, streams_in_order,
    passes_the_self_test, recovers_from_a_bus_error, survives_a_lost_interrupt, refuses_another_machines_program,
    refuses_a_second_overlay, refuses_damaged_programs, recovers_from_a_missing_flush, recovers_from_a_hang,
    keeps_other_processes_out, refuses_a_foreign_bitstream, gives_buffers_back)


def main() -> None:
    Device.active_device = SimulatedDevice(BOARD)
    results = {}
    for check in CHECKS:
        try:
            check()
            results[check.__name__] = ""
        except Exception:
            results[check.__name__] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
