"""`spikeloom measure`: throughput, latency and power of a machine, clips in memory.

    throughput   clips streamed back to back, again and again, for `seconds`
    latency      clips one by one
    power        board only: rails read every `interval` seconds, first idle, then under that stream; idle is subtracted

Files, in DIR/report:

    run_performance.json   throughput and latency, and on which device
    energy_measured.json   from rails of a real board; never written without them
    energy_model.json      operations counted on spikes x 45 nm energies (`spikeloom.quantize.energy`); needs torch

The last two say different things and are never mixed: a model of arithmetic, and the power of a board.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pipeline import Build, Run, open_run
from .pipeline_source import Prefetch, open_source
from .power import Average, Power

__all__ = ["measure", "show_measured"]

KEEP = 64
"""Clips held in memory, at most."""

LATENCY_CLIPS = 100

LEAST_SECONDS = 10.0
"""Of power: sensors are too coarse for less."""


def measure(
    directory: str | Path, *, source: str = "digits", device: str = "sim", clips: int | None = None,
    seconds: float | None = None, stride: int = 1, interval: float = 0.1, timeout: float = 10.0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure a machine and write what was found to `directory/report`.

    Args:
        directory: Output of `build`.
        source: As for `run`; its first clips are taken, and used again and again.
        device: As for `run`. On `sim` times are counted by simulation; on `reference` only the model of energy is made.
        clips: Distinct clips, at most 64. None: 2 on `sim`, else 32.
        seconds: How long to stream, and to look at power idle and busy each. None: 10. `sim` streams each clip once.
        stride: Take every `stride`-th frame.
        interval: Seconds between two readings of the power rails.
        timeout: Seconds that the machine may take for a clip, in the board's time.
        progress: Hears one line per step.

    Returns:
        `{"performance": ..., "energy_measured": ... or None, "energy_model": ... or None, "why_no_power": ...}`.

    Raises:
        ValueError, VideoError, CameraError, DriverError: As for `run`.
    """
    clips = (2 if device == "sim" else 32) if clips is None else clips
    seconds = LEAST_SECONDS if seconds is None else seconds
    if not 1 <= clips <= KEEP:
        raise ValueError(f"`clips` must be from 1 to {KEEP}, not `{clips!r}`")
    if seconds <= 0:
        raise ValueError(f"`seconds` must be positive, not `{seconds!r}`")
    tell, directory = progress or (lambda line: None), Path(directory)
    build = Build.load(directory)
    tell(f"read {clips} clips")
    pixels = _clips(build, source, clips, stride)
    with open_run(build, device=device, timeout=timeout) as run:
        power = run.device.power
        if power is not None and seconds < LEAST_SECONDS:
            raise ValueError(f"`seconds` must be at least {LEAST_SECONDS:g} to measure power, not `{seconds!r}`")
        performance = energy = None
        if device != "reference":
            idle = _watch(power, interval, seconds, tell)
            performance, busy = _throughput(run, pixels, seconds, power, tell)
            performance |= _latency(run, pixels, tell)
            _write(directory, "run_performance.json", performance)
            if idle is not None and busy is not None:
                energy = _energy(run, idle, busy, performance, interval)
                _write(directory, "energy_measured.json", energy)
    return {"performance": performance, "energy_measured": energy, "energy_model": _model(directory, pixels, tell),
            "why_no_power": None if energy else _why_no_power(device)}


def _why_no_power(device: str) -> str:
    if device == "board":
        return "PYNQ finds no power rails on this board"
    return "there is no board: a simulation has no power"


def _clips(build: Build, source: str, count: int, stride: int) -> list[NDArray[np.uint8]]:
    feed = open_source(source, build.shape, build.tasks.sizes, stride=stride)
    with Prefetch(feed) as ready:
        return [clip.pixels for clip in islice(ready, count)]


def _watch(
    power: Power | None, interval: float, seconds: float, tell: Callable[[str], None]
) -> Average | None:
    """Idle power."""
    if power is None:
        return None
    tell(f"power, idle, {seconds:g} s")
    power.interval = interval
    power.start()
    power.restart()
    time.sleep(seconds)
    return power.average()


def _throughput(
    run: Run, pixels: Sequence[NDArray[np.uint8]], seconds: float, power: Power | None, tell: Callable[[str], None]
) -> tuple[dict[str, Any], Average | None]:
    simulated = run.device.simulated_time
    tell(f"throughput, {len(pixels)} clips" if simulated else f"throughput, {seconds:g} s")
    run.board.records.clear()
    if power is not None:
        power.restart()
    began, clock = time.perf_counter(), run.board.clock()
    source = iter(pixels) if simulated else _until(pixels, began + seconds)
    done = sum(1 for _ in run.accelerator.stream(source))
    wall, elapsed = time.perf_counter() - began, run.board.clock() - clock
    busy = None if power is None else power.average()
    frames, machine = done * run.build.shape.frames, [record.seconds for record in run.board.records]
    cycles = [record.cycles for record in run.board.records]
    return {
        "device": run.device.kind, "clock": "simulated" if simulated else "wall", "clips": done, "frames": frames,
        "network_hash": run.build.program.network_hash, "config_hash": f"{run.build.program.config.hash:08x}",
        "clock_mhz": run.build.program.config.clock_mhz, "seconds": elapsed, "wall_seconds": wall,
        "frames_per_second": frames / elapsed, "clips_per_second": done / elapsed,
        "machine_busy": sum(machine) / elapsed,
        "cycles_per_clip": None if None in cycles else float(np.mean([c for c in cycles if c is not None])),
    }, busy


def _until(pixels: Sequence[NDArray[np.uint8]], end: float) -> Iterator[NDArray[np.uint8]]:
    for clip in cycle(pixels):
        yield clip
        if time.perf_counter() >= end:
            return


def _latency(
    run: Run, pixels: Sequence[NDArray[np.uint8]], tell: Callable[[str], None]
) -> dict[str, Any]:
    """One clip at a time, from `infer` called to logits there."""
    count = len(pixels) if run.device.simulated_time else LATENCY_CLIPS
    tell(f"latency, {count} clips one by one")
    found = []
    for clip in islice(cycle(pixels), count):
        began = run.board.clock()
        run.accelerator.infer(clip)
        found.append(run.board.clock() - began)
    quantiles = {"min": 0.0, "median": 0.5, "p99": 0.99, "max": 1.0}
    return {"latency_clips": count,
            "latency_seconds": {name: float(np.quantile(found, part)) for name, part in quantiles.items()}}


def _energy(
    run: Run, idle: Average, busy: Average, performance: dict[str, Any], interval: float
) -> dict[str, Any]:
    """Joules per clip, by rail: what is drawn above idle."""
    assert run.device.power is not None
    above = {rail: busy.watts[rail] - idle.watts[rail] for rail in busy.watts if rail in idle.watts}
    rate = performance["clips_per_second"]
    return {
        "what": "measured: power rails of the board read by PYNQ, idle subtracted",
        "device": run.device.name, "network_hash": run.build.program.network_hash,
        "config_hash": performance["config_hash"], "interval_seconds": interval,
        "idle": asdict(idle), "busy": asdict(busy), "busy_minus_idle_watts": above, "clips_per_second": rate,
        "main_rail": run.device.power.main,
        "joules_per_clip_above_idle": {rail: watts / rate for rail, watts in above.items()},
        "joules_per_clip_idle_included": {rail: watts / rate for rail, watts in busy.watts.items()}}


def _model(
    directory: Path, pixels: Sequence[NDArray[np.uint8]], tell: Callable[[str], None]
) -> dict[str, Any] | None:
    """The model of energy, where the integer reference can run."""
    if not (directory / "network" / "network.json").exists():
        tell("no model of energy: the directory holds no network")
        return None
    try:
        from spikeloom.quantize.energy import energy_model
    except ModuleNotFoundError as error:
        tell(f"no model of energy: {error.name} is not installed")
        return None
    from spikeloom.network import Network

    tell("count synaptic operations")
    return energy_model(Network.load(directory / "network"), np.stack(pixels), directory / "report")


def _write(directory: Path, name: str, report: dict[str, Any]) -> None:
    path = directory / "report" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def show_measured(found: Mapping[str, Any]) -> list[str]:
    """What `measure` found, as lines for people."""
    lines, performance, model = [], found["performance"], found["energy_model"]
    if performance is not None:
        latency = performance["latency_seconds"]
        where = "counted by simulation" if performance["clock"] == "simulated" else "measured"
        lines.append(f"throughput {performance['frames_per_second']:,.1f} frames/s "
                     f"({performance['clips_per_second']:,.1f} clips/s), machine busy "
                     f"{100 * performance['machine_busy']:.1f} % of the time; {where}")
        lines.append("latency " + ", ".join(f"{name} {1e3 * value:.3f} ms" for name, value in latency.items())
                     + f"; {performance['latency_clips']} clips one by one")
    if (energy := found["energy_measured"]) is not None:
        rail = energy["main_rail"]
        lines.append(f"power, rail {rail}: idle {energy['idle']['watts'][rail]:.2f} W, busy "
                     f"{energy['busy']['watts'][rail]:.2f} W over {energy['busy']['seconds']:.1f} s: "
                     f"{1e3 * energy['joules_per_clip_above_idle'][rail]:.3f} mJ per clip above idle")
    else:
        lines.append(f"power not measured: {found['why_no_power']}")
    if model is not None:
        clip = model["per_clip"]
        lines.append(f"model of energy, not measured: {clip['accumulates']:,.0f} accumulates and "
                     f"{clip['multiply_accumulates']:,.0f} multiply-accumulates per clip, {clip['energy_mj']:.4f} mJ "
                     f"at 45 nm; ANN twin {clip['ann_twin_energy_mj']:.4f} mJ, {clip['ratio']:.1f} times as much")
    return lines
