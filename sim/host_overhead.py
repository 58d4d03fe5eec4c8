"""What the host costs: time of driver and pipeline per clip against the time of the machine.

    python -m spikeloom.sim.host_overhead [--cycles 3700000] [--out docs/performance-host.md] [--pynq PYTHON]

SpikeVideoFormer 15M, 224 x 224, 8 frames, on the flagship preset; the machine is replaced by one that takes its time
and computes nothing (`TimedBoard`), so that what is measured is the host. Overhead of clips back to back:

    overhead = wall time per clip / machine time per clip - 1

What the host does while the machine computes costs nothing; what it does between two runs does.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import preset
from spikeloom.host.accelerator import Accelerator
from spikeloom.hw.program.layout import network_shape
from spikeloom.hw.program.program import Program

from .timed_board import TimedBoard

__all__ = ["CYCLES", "LIMIT", "Overhead", "measure", "page"]

CYCLES = 3_700_000
"""Cycles of a clip, unless told otherwise: about what 15M needs on the flagship."""

LIMIT = 0.10
"""Overhead that is still good."""

WARM_UP = 5
"""Clips before the clock runs."""

VIDEO_SIZE = (320, 240)
"""Width and height of the generated video."""


@dataclass(kw_only=True)
class Overhead:
    """One way to feed the machine.

    Attributes:
        name: For people.
        machine: Seconds that the machine takes for a clip.
        wall: Seconds per clip, of each round.
        cpu: Seconds of processor time per clip, all threads: whatever else the computer does is not in it.
        late: Seconds per clip from the end of a run to the moment that the driver saw it.
        work: What the host did -> (seconds per clip, times per clip), most of it while the machine computes.
    """

    name: str
    machine: float
    wall: list[float] = field(default_factory=list)
    cpu: float = 0.0
    late: float = 0.0
    work: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def best(self) -> float:
        """Of the least disturbed round."""
        return min(self.wall) / self.machine - 1

    @property
    def median(self) -> float:
        """Of the rounds."""
        return float(np.median(self.wall)) / self.machine - 1


class _Meter:
    """Adds up the time spent in wrapped functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def wrap(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - begun
                self.calls[what] = self.calls.get(what, 0) + 1
        return timed

    def watch(self, what: str, owner: Any, name: str) -> None:
        """Measure a method of an object from now on."""
        setattr(owner, name, self.wrap(what, getattr(owner, name)))

    def source(self, clips: Iterable[Any]) -> Iterator[Any]:
        """The same clips; the time that they are waited for is measured."""
        fetch = self.wrap("wait for the source", iter(clips).__next__)
        while True:
            try:
                clip = fetch()
            except StopIteration:
                return
            yield clip


def measure(
    name: str, board: TimedBoard, accelerator: Accelerator, clips: Callable[[int], Iterable[NDArray[Any]]], *,
    count: int = 100, rounds: int = 5,
) -> Overhead:
    """Stream clips back to back and see where the time goes.

    Args:
        name: Of the result.
        board: Under the accelerator, perhaps with PYNQ between.
        accelerator: The driver, which is not used for anything else afterwards.
        clips: Makes a source of so many clips.
        count: Clips of a round.
        rounds: Times to do it.
    """
    for what, value in (("count", count), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"`{what}` must be at least 1, not `{value!r}`")
    result, meter = Overhead(name=name, machine=board.seconds), _Meter()
    _drain(accelerator.stream(clips(WARM_UP)))
    _watch(meter, accelerator)
    late, runs, cpu = board.late, board.runs, time.process_time()
    for _ in range(rounds):
        source = meter.source(clips(count))
        begun = time.perf_counter()
        done = _drain(accelerator.stream(source))
        result.wall.append((time.perf_counter() - begun) / done)
    runs = board.runs - runs
    result.cpu = (time.process_time() - cpu) / runs
    result.late = (board.late - late) / runs
    result.work = {what: (seconds / runs, meter.calls[what] / runs) for what, seconds in meter.seconds.items()}
    return result


def _drain(results: Iterator[Any]) -> int:
    return sum(1 for _ in results)


def _watch(meter: _Meter, accelerator: Accelerator) -> None:
    meter.watch("pack the clip", accelerator.program, "pack_input")
    meter.watch("unpack the logits", accelerator.program, "read_tensor")
    meter.watch("read a register", accelerator.board, "read_register")
    meter.watch("write a register", accelerator.board, "write_register")
    for slot in accelerator._slots:
        meter.watch("flush the input buffer", slot.input, "flush")
        meter.watch("invalidate the output buffer", slot.output, "invalidate")


def _in_memory(program: Program) -> Callable[[int], Iterable[NDArray[Any]]]:
    """Clips that are there: four of them, again and again."""
    shape = network_shape(program.tensors[program.input])
    kept = np.random.default_rng(1).integers(0, 256, (4, *shape), dtype=np.uint8)
    return lambda count: (kept[number % len(kept)] for number in range(count))


def _write_video(path: Path, frames: int) -> None:
    """A moving pattern, MPEG-4."""
    import av

    width, height = VIDEO_SIZE
    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            waves = [127 + 100 * np.sin((x * a + y * b) / 17 + t / 5) for a, b in ((1, 0), (0, 1), (1, 1))]
            picture = av.VideoFrame.from_ndarray(np.stack(waves, axis=-1).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _from_video(program: Program, path: Path, *, hop: int) -> Callable[[int], Iterable[NDArray[Any]]]:
    """Clips of a video file through the pipeline's decoder, `hop` frames from one to the next."""
    from spikeloom.host.pipeline_source import ClipShape, Prefetch, VideoSource

    place = program.tensors[program.input]
    shape = ClipShape(frames=program.frames, height=place.height, width=place.width)

    def clips(count: int) -> Iterator[NDArray[Any]]:
        with Prefetch(VideoSource(path, shape, hop=hop, loop=True)) as ready:
            for _ in range(count):
                yield next(ready).pixels

    return clips


def _direct(program: Program, seconds: float, folder: Path, **options: int) -> list[Overhead]:
    """The driver on the bare stand-in, fed from memory and from a video."""
    _write_video(folder / "video.mp4", 240)
    ways: Mapping[str, tuple[bool, Callable[[int], Iterable[NDArray[Any]]]]] = {
        "driver, clips in memory, interrupt": (True, _in_memory(program)),
        "driver, clips in memory, polling": (False, _in_memory(program)),
        "pipeline, video, a clip every frame": (True, _from_video(program, folder / "video.mp4", hop=1)),
        f"pipeline, video, a clip every {program.frames} frames":
            (True, _from_video(program, folder / "video.mp4", hop=program.frames))}
    results = []
    for name, (interrupt, clips) in ways.items():
        board = TimedBoard(program.config.hash, seconds)
        with ExitStack() as stack:
            stack.callback(program.__dict__.pop, "pack_input", None)
            stack.callback(program.__dict__.pop, "read_tensor", None)
            accelerator = stack.enter_context(Accelerator(board, program, interrupt=interrupt))
            results.append(measure(name, board, accelerator, clips, **options))
    return results


def _under_pynq(directory: Path, seconds: float, **options: int) -> list[Overhead]:
    """The driver in PYNQ's `Overlay`; runs in an environment with PYNQ. `directory`: program/, bitfile/."""
    from pynq.pl_server.device import Device  # pyright: ignore[reportMissingImports]

    from spikeloom.host.driver import SpikeloomOverlay

    from .pynq_device import SimulatedDevice

    config = Program.load(directory / "program").config
    results = []
    for name, interrupt in (("interrupt", True), ("polling", False)):
        board = TimedBoard(config.hash, seconds)
        Device.active_device = SimulatedDevice(board)
        bitfile = directory / "bitfile" / "spikeloom.bit"
        with SpikeloomOverlay(bitfile, directory / "program", interrupt=interrupt) as overlay:
            accelerator = overlay.driver.accelerator
            results.append(measure(
                f"PYNQ 4.0.0 and driver, clips in memory, {name}", board, accelerator, _in_memory(accelerator.program),
                **options))
    return results


def _run_under_pynq(python: str, program: Program, folder: Path, cycles: int) -> list[Overhead]:
    from spikeloom.hw.vivado.design import zcu104_design
    from spikeloom.hw.vivado.hwh import expected_hwh

    program.save(folder / "program")
    (folder / "bitfile").mkdir()
    (folder / "bitfile" / "spikeloom.bit").write_bytes(b"\0")
    (folder / "bitfile" / "spikeloom.hwh").write_text(expected_hwh(zcu104_design(program.config), program.config))
    root = Path(__file__).parents[1]
    packages = root / "typings" if (root / "typings").is_dir() else root.parent
    command = [python, "-m", "spikeloom.sim.host_overhead", "--cycles", str(cycles), "--within", str(folder)]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(packages), "TMPDIR": str(folder)})
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return [Overhead(**entry) for entry in json.loads(result.stdout.splitlines()[-1])]


def page(results: Sequence[Overhead], *, cycles: int, mhz: float) -> str:
    """The measured page, Markdown."""
    machine, load = results[0].machine, os.getloadavg()[1]
    head = f"""# What the host costs

<!-- written by `python -m spikeloom.sim.host_overhead`; do not edit -->

Per clip of SpikeVideoFormer 15M (8 frames of 224 x 224, preset `zcu104`), clips back to back. The machine is replaced
by a stand-in that is busy for {cycles:,} cycles at {mhz:g} MHz, {1e3 * machine:.2f} ms, and computes nothing; flush and
invalidate are copies. The video is MPEG-4, {VIDEO_SIZE[0]} x {VIDEO_SIZE[1]}.

Measured on {platform.machine()}, {os.cpu_count()} cores shared with other work (load average {load:.1f}), Python
{platform.python_version()}: **not on a ZCU104**, whose cores are several times slower. Overhead is wall time over
machine time, less one; the goal is at most {LIMIT:.0%}. Other work on the computer shows in the median; CPU time
does not depend on it.

| what feeds the machine | ms per clip | overhead, best | median of {len(results[0].wall)} rounds | CPU time, ms | \
end of a run seen late, ms |
| --- | --- | --- | --- | --- | --- |
"""
    rows = [f"| {r.name} | {1e3 * min(r.wall):.2f} | {r.best:.1%} | {r.median:.1%} | {1e3 * r.cpu:.2f} | "
            f"{1e3 * r.late:.3f} |" for r in results]
    kinds = list(dict.fromkeys(what for r in results for what in r.work))
    table = [
        "", "Where the host's time goes, wall microseconds per clip (calls per clip). All of it but some registers' is "
        "spent", "while the machine computes:", "",
        "| | " + " | ".join(kinds) + " |", "| --- " * (len(kinds) + 1) + "|"]
    for r in results:
        cells = [f"{1e6 * r.work[what][0]:,.0f} ({r.work[what][1]:.1f})" if what in r.work else "" for what in kinds]
        table.append(f"| {r.name} | " + " | ".join(cells) + " |")
    return head + "\n".join([*rows, *table]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit status 1 if the driver's overhead is above the limit."""
    parser = argparse.ArgumentParser(description="Measure what the host costs per clip of the 15M network.")
    parser.add_argument("--cycles", type=int, default=CYCLES, help="of the machine for a clip (%(default)s)")
    parser.add_argument("--out", type=Path, help="page to write")
    parser.add_argument("--pynq", metavar="PYTHON", help="a Python with PYNQ: measure PYNQ's part too")
    parser.add_argument("--within", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    config = preset("zcu104")
    seconds = arguments.cycles / (config.clock_mhz * 1e6)
    if arguments.within:
        print(json.dumps([asdict(result) for result in _under_pynq(arguments.within, seconds)]))
        return 0
    from spikeloom.hw.program.compiler import compile_network
    from spikeloom.quantize.shapes import shape_network

    program = compile_network(shape_network("15M"), config)
    with tempfile.TemporaryDirectory() as folder:
        results = _direct(program, seconds, Path(folder))
        if arguments.pynq:
            results += _run_under_pynq(arguments.pynq, program, Path(folder), arguments.cycles)
    text = page(results, cycles=arguments.cycles, mhz=config.clock_mhz)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)
    worst = max(result.best for result in results)
    if worst > LIMIT:
        print(f"overhead {worst:.1%} is above {LIMIT:.0%}", file=sys.stderr)
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
