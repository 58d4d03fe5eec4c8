"""The driver on the simulated board, RTL underneath: right results, order, and every fault with its clear error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.host.accelerator import Accelerator
from spikeloom.host.errors import AcceleratorError, AcceleratorTimeout, DriverError, ProgramError
from spikeloom.hw.build import emit_machine
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.program import Program
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference
from spikeloom.registers import ErrorCode
from spikeloom.sim.accelerator_model import MemoryModel
from spikeloom.sim.board import SimulatedBoard, SimulatedBuffer

CONFIG = preset("tiny")
STALLING = MemoryModel(bandwidth=0.8, latency=30, jitter=20, stall_probability=0.1)
SHORT = 500e-6
"""Seconds on the board's clock: several times a clip of the network below."""


class Expected:
    """A network with its program, and the reference's logits of seeded clips."""

    def __init__(self, seed: int) -> None:
        self.network = random_network(seed)
        self.program = compile_network(self.network, CONFIG)
        self._reference = Reference(self.network)
        self._logits: dict[int, np.ndarray] = {}

    def clip(self, seed: int) -> np.ndarray:
        return random_clip(self.network, seed)

    def logits(self, seed: int) -> np.ndarray:
        if seed not in self._logits:
            self._logits[seed] = self._reference.run(self.clip(seed))[self.network.output].numpy()
        return self._logits[seed]

    def check(self, accelerator: Accelerator, seed: int = 1) -> None:
        """A good clip."""
        np.testing.assert_array_equal(accelerator.infer(self.clip(seed)), self.logits(seed))


@pytest.fixture(scope="module")
def verilog() -> str:
    return emit_machine(CONFIG)


@pytest.fixture(scope="module")
def expected() -> Expected:
    return Expected(3)


@pytest.fixture
def board(verilog: str) -> Iterator[SimulatedBoard]:
    with SimulatedBoard(CONFIG, memory=STALLING, verilog=verilog) as board:
        yield board


@pytest.fixture
def accelerator(board: SimulatedBoard, expected: Expected) -> Iterator[Accelerator]:
    with Accelerator(board, expected.program) as accelerator:
        yield accelerator


@pytest.mark.parametrize(("seed", "interrupt"), [(3, True), (14, True), (16, True), (38, False)])
def test_infer_equals_the_reference(seed: int, interrupt: bool, board: SimulatedBoard) -> None:
    expected = Expected(seed)
    with Accelerator(board, expected.program, interrupt=interrupt) as accelerator:
        assert accelerator.polling != interrupt
        for clip in range(2):
            expected.check(accelerator, clip)


def test_stream_loses_and_reorders_nothing(accelerator: Accelerator, expected: Expected) -> None:
    seeds = list(range(20))
    results = list(accelerator.stream(expected.clip(seed) for seed in seeds))
    assert len({logits.tobytes() for logits in results}) > 10, "the clips do not tell the order apart"
    np.testing.assert_array_equal(results, [expected.logits(seed) for seed in seeds])


def test_next_clip_is_prepared_while_the_machine_computes(accelerator: Accelerator, expected: Expected) -> None:
    """Asked for between start and end of the clip before; the result is delivered with the next clip running."""
    busy = []

    def clips() -> Iterator[np.ndarray]:
        for seed in range(4):
            busy.append(accelerator.status().state)
            yield expected.clip(seed)

    delivered = []
    for logits in accelerator.stream(clips()):
        delivered.append(accelerator.status().state)
        np.testing.assert_array_equal(logits, expected.logits(len(delivered) - 1))
    assert busy == ["idle", "busy", "busy", "busy"]
    assert delivered == ["busy", "busy", "busy", "done"]


def test_second_stream_is_refused(accelerator: Accelerator, expected: Expected) -> None:
    stream = accelerator.stream([expected.clip(0), expected.clip(1)])
    next(stream)
    with pytest.raises(DriverError, match="another stream is open"):
        accelerator.infer(expected.clip(0))
    stream.close()
    expected.check(accelerator)


def test_broken_source_delivers_what_was_started(accelerator: Accelerator, expected: Expected) -> None:
    def camera() -> Iterator[np.ndarray]:
        yield expected.clip(0)
        yield expected.clip(1)
        raise OSError("unplugged")

    results = []
    with pytest.raises(OSError, match="unplugged"):
        results.extend(accelerator.stream(camera()))
    np.testing.assert_array_equal(results, [expected.logits(0), expected.logits(1)])
    assert list(accelerator.stream([])) == []
    with pytest.raises(ValueError, match="must be"):
        accelerator.infer(expected.clip(0)[:, :1])
    expected.check(accelerator)


@pytest.mark.parametrize("direction", ["read", "write"])
def test_bus_error(direction, board: SimulatedBoard, accelerator: Accelerator, expected: Expected) -> None:
    expected.check(accelerator, 0)
    board.model.inject_error(0, direction, "SLVERR", cycle=board.model.cycle + 1500)
    with pytest.raises(AcceleratorError, match="machine stopped: BUS_") as stopped:
        accelerator.infer(expected.clip(0))
    error = stopped.value
    assert error.code == (ErrorCode.BUS_READ if direction == "read" else ErrorCode.BUS_WRITE)
    assert error.layer in [operator.name for operator in expected.network.operators]
    assert error.engine in str(error)
    assert error.status["cycles"] > 0
    expected.check(accelerator)


def test_error_amid_a_stream_keeps_what_came_before(
    board: SimulatedBoard, accelerator: Accelerator, expected: Expected
) -> None:
    stream = accelerator.stream(expected.clip(seed) for seed in range(5))
    results = [next(stream), next(stream)]
    board.model.inject_error(0, "read", "DECERR", cycle=board.model.cycle + 500)
    with pytest.raises(AcceleratorError):
        next(stream)
    np.testing.assert_array_equal(results, [expected.logits(0), expected.logits(1)])
    expected.check(accelerator)


def test_hang_is_a_time_out(board: SimulatedBoard, expected: Expected, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watchdog off and a bus that does not answer: only the host notices, and it waits for the bus to recover."""
    monkeypatch.setattr("spikeloom.host.accelerator.RESET_TIMEOUT", 100e-6)
    accelerator = Accelerator(board, expected.program, timeout=SHORT, watchdog=0)
    board.model.stall_port(0, from_cycle=board.model.cycle + 2000)
    with pytest.raises(AcceleratorTimeout, match=r"clip not finished after 0\.0005 s") as stopped:
        accelerator.infer(expected.clip(0))
    assert stopped.value.status.state == "busy"
    assert "instructions finished in" in str(stopped.value)
    with pytest.raises(AcceleratorTimeout, match="soft reset not finished"):
        accelerator.infer(expected.clip(0))
    with pytest.raises(AcceleratorTimeout, match="soft reset not finished"):
        accelerator.close()
    assert board.buffers, "the machine may still write to them"
    board.model.release_port(0)
    accelerator.timeout = 1.0
    expected.check(accelerator)
    accelerator.close()
    assert not board.buffers
    with pytest.raises(DriverError, match="is closed"):
        accelerator.infer(expected.clip(0))


def test_watchdog(board: SimulatedBoard, expected: Expected) -> None:
    with Accelerator(board, expected.program, watchdog=3000) as accelerator:
        board.model.stall_port(0, from_cycle=board.model.cycle + 2000)
        with pytest.raises(AcceleratorError, match="WATCHDOG"):
            accelerator.infer(expected.clip(0))
        board.model.release_port(0)
        expected.check(accelerator)


def test_lost_interrupt_falls_back_to_polling(
    board: SimulatedBoard, accelerator: Accelerator, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikeloom.host.accelerator.INTERRUPT_SLICE", SHORT)
    expected.check(accelerator, 0)
    board.interrupts = False
    with pytest.warns(RuntimeWarning, match="interrupt of the machine was lost"):
        expected.check(accelerator, 1)
    assert accelerator.polling
    expected.check(accelerator, 2)


def test_program_of_another_machine(board: SimulatedBoard, expected: Expected) -> None:
    other = compile_network(expected.network, replace(CONFIG, spike_depth=2 * CONFIG.spike_depth))
    with pytest.raises(ProgramError, match="compiled for another machine"):
        Accelerator(board, other)
    assert not board.buffers
    with Accelerator(board, expected.program) as accelerator:
        expected.check(accelerator)


def test_no_machine(board: SimulatedBoard, expected: Expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "read_register", lambda offset: 0xFFFFFFFF)
    with pytest.raises(DriverError, match="no Spikeloom machine: register `id` reads 0xffffffff"):
        Accelerator(board, expected.program)


@pytest.mark.parametrize(("damage", "message"), [
    ("truncate", "has .* bytes"), ("flip", "checksum is"), ("version", "`version` must be 1"),
    ("missing", "cannot be read"), ("json", "not JSON")])
def test_damaged_program_files(damage: str, message: str, expected: Expected, tmp_path: Path) -> None:
    expected.program.save(tmp_path / "good")
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    image, description = tmp_path / "bad" / "program.bin", tmp_path / "bad" / "program.json"
    if damage == "truncate":
        image.write_bytes(image.read_bytes()[:-64])
    elif damage == "flip":
        image.write_bytes(bytes([*image.read_bytes()[:-1], image.read_bytes()[-1] ^ 1]))
    elif damage == "version":
        description.write_text(json.dumps({**json.loads(description.read_text()), "version": 99}))
    elif damage == "missing":
        image.unlink()
    else:
        description.write_text(description.read_text()[:-10])
    with pytest.raises(ProgramError, match=message):
        Program.load(tmp_path / "bad")
    assert Program.load(tmp_path / "good").image == expected.program.image


def test_program_damaged_in_memory_is_written_anew(
    board: SimulatedBoard, accelerator: Accelerator, expected: Expected
) -> None:
    board.buffers[0].memory[64 * 7 + 20] ^= 1
    with pytest.raises(AcceleratorError, match="BAD_CHECKSUM in engine sequencer at instruction 7"):
        accelerator.infer(expected.clip(0))
    expected.check(accelerator)


@pytest.mark.parametrize(("region", "method"), [(0, "flush"), (2, "flush"), (3, "invalidate")])
def test_missing_flush_shows(
    region: int, method: str, board: SimulatedBoard, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that forgets to flush program or input, or to invalidate the output, does not get the right logits."""
    allocated: list[SimulatedBuffer] = []

    def allocate(size: int) -> SimulatedBuffer:
        buffer = SimulatedBoard.allocate(board, size)
        if len(allocated) == region:
            setattr(buffer, method, lambda: None)
        allocated.append(buffer)
        return buffer

    monkeypatch.setattr(board, "allocate", allocate)
    with Accelerator(board, expected.program) as accelerator:
        if region == 0:
            with pytest.raises(AcceleratorError, match="BAD_CHECKSUM"):
                accelerator.infer(expected.clip(0))
        else:
            assert not np.array_equal(accelerator.infer(expected.clip(0)), expected.logits(0))


def test_lines_written_back_late_do_no_harm(board: SimulatedBoard, accelerator, expected: Expected) -> None:
    board.evict = True
    for seed in range(3):
        expected.check(accelerator, seed)


def test_machine_left_running_by_somebody_else(board: SimulatedBoard, expected: Expected) -> None:
    first = Accelerator(board, expected.program)
    stream = first.stream([expected.clip(0), expected.clip(1)])
    next(stream)
    assert first.status().state == "busy"
    with Accelerator(board, expected.program) as second:
        expected.check(second)


def test_buffers_are_allocated_once_and_given_back(board: SimulatedBoard, expected: Expected) -> None:
    with Accelerator(board, expected.program) as accelerator:
        before = list(board.buffers)
        assert len(before) == 6
        expected.check(accelerator)
        assert board.buffers == before
    assert board.buffers == []


@pytest.mark.parametrize(("options", "message"), [
    ({"timeout": 0}, "`timeout` must be positive, not `0`"), ({"watchdog": -1}, "`watchdog` must be a 32-bit number")])
def test_parameters(options: dict[str, Any], message: str, board: SimulatedBoard, expected: Expected) -> None:
    with pytest.raises(ValueError, match=message):
        Accelerator(board, expected.program, **options)
