"""The measurement of the host's overhead, on a stand-in that takes its time: it sees what it is meant to see."""

from __future__ import annotations

import time

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.host.accelerator import Accelerator
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.program import Program
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_networks import random_network
from spikeloom.sim.host_overhead import Overhead, measure, page
from spikeloom.sim.timed_board import TimedBoard

NETWORK = random_network(16)
SECONDS = 0.02


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_network(NETWORK, preset("tiny"))


def clips(count: int, pause: float = 0.0):
    for seed in range(count):
        time.sleep(pause)
        yield random_clip(NETWORK, seed)


@pytest.mark.parametrize("interrupt", [True, False])
def test_order_and_time(interrupt: bool, program: Program) -> None:
    """Every clip once, in order, in no less than the machine's time."""
    board = TimedBoard(program.config.hash, SECONDS)
    begun = time.perf_counter()
    with Accelerator(board, program, interrupt=interrupt) as accelerator:
        got = [int(logits[0]) for logits in accelerator.stream(clips(10))]
    assert got == [int(np.frombuffer(program.pack_input(clip)[:4], "<i4")[0]) for clip in clips(10)]
    assert board.runs == 10
    assert time.perf_counter() - begun >= 10 * SECONDS


def test_slow_source_is_overhead(program: Program) -> None:
    """A source that takes three times as long as the machine: it is what the time goes to."""
    board = TimedBoard(program.config.hash, SECONDS)
    with Accelerator(board, program) as accelerator:
        result = measure("slow", board, accelerator, lambda count: clips(count, 3 * SECONDS), count=5, rounds=1)
    assert result.best > 1.5
    assert result.work["wait for the source"][0] >= 3 * SECONDS * 5 / 6
    assert {"pack the clip", "flush the input buffer", "unpack the logits"} <= set(result.work)


def test_lost_interrupt(program: Program) -> None:
    board = TimedBoard(program.config.hash, SECONDS)
    board.interrupts = False
    with Accelerator(board, program) as accelerator:
        with pytest.warns(RuntimeWarning, match="interrupt of the machine was lost"):
            accelerator.infer(random_clip(NETWORK, 0))
        assert accelerator.polling


def test_page() -> None:
    result = Overhead(name="driver", machine=0.010, wall=[0.0105, 0.012], cpu=0.001, late=0.0001,
                      work={"pack the clip": (0.0005, 1.0)})
    text = page([result], cycles=3_000_000, mhz=300.0)
    assert "| driver | 10.50 | 5.0% | 12.5% | 1.00 | 0.100 |" in text
    assert "| driver | 500 (1.0) |" in text


@pytest.mark.parametrize(("options", "message"), [
    ({"count": 0}, "`count` must be at least 1, not `0`"), ({"rounds": 0}, "`rounds` must be at least 1, not `0`")])
def test_parameters(options: dict[str, int], message: str, program: Program) -> None:
    board = TimedBoard(program.config.hash, SECONDS)
    with Accelerator(board, program) as accelerator, pytest.raises(ValueError, match=message):
        measure("x", board, accelerator, clips, **options)
    with pytest.raises(ValueError, match="`seconds` must be positive, not `0`"):
        TimedBoard(program.config.hash, 0)
