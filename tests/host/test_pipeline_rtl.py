"""`spikeloom run --device sim` on the RTL of a tiny machine, and what it tells, held against the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.host.errors import AcceleratorError, AcceleratorTimeout
from spikeloom.host.measure import measure
from spikeloom.host.pipeline import Build, Result, open_run
from spikeloom.host.pipeline_run import run, show_summary
from spikeloom.host.pipeline_source import VideoSource
from spikeloom.hw.build import build
from spikeloom.network import Network
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference
from spikeloom.registers import ENGINE_NAMES

pytest.importorskip("av")

CLIPS = 4


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build directory of a random network on `tiny`."""
    path = tmp_path_factory.mktemp("build")
    build(random_network(38), preset=preset("tiny"), out=path)
    return path


@pytest.fixture(scope="module")
def video(directory: Path, noise_video: Callable[..., Path]) -> Path:
    """Noise, `CLIPS` clips and one frame."""
    shape = Build.load(directory).shape
    frames = CLIPS * shape.frames + 1
    return noise_video(directory / "noise.mkv", frames, height=shape.height, width=shape.width)


def test_results_spikes_and_cycles(directory: Path, video: Path) -> None:
    """Bit for bit those of the reference; spikes are counted in the memory that the machine wrote."""
    network = Network.load(directory / "network")
    reference, results = Reference(network), list[Result]()
    with open_run(Build.load(directory), device="sim", look=0.0) as running:
        results.extend(running.results(VideoSource(video, running.build.shape, hop=network.frames)))
        assert running.counter.names
    assert [result.number for result in results] == list(range(CLIPS))
    assert len({result.logits.tobytes() for result in results}) == CLIPS, "the clips do not tell the order apart"
    for result in results:
        tensors = reference.run(result.clip.pixels)
        np.testing.assert_array_equal(result.logits, tensors[network.output].numpy())
        assert result.run.rates is not None
        assert result.run.engines is not None
        for name, rate in result.run.rates.items():
            assert rate == pytest.approx(float(tensors[name].double().mean()), abs=1e-12), name
        assert set(result.run.engines) == set(ENGINE_NAMES[:-1])
        assert 0 < result.run.engines["compute"] <= 1
        assert result.run.cycles is not None
        assert result.run.seconds == pytest.approx(result.run.cycles / 300e6, rel=0.2)


def test_command(directory: Path, video: Path) -> None:
    summary = run(directory, source=str(video), device="sim")
    assert (summary["clips"], summary["left_over_frames"], summary["device"]) == (CLIPS, 1, "sim")
    assert summary["cycles"] > 0
    lines = show_summary(summary)
    assert "(simulation, wall time)" in lines[0]
    assert lines[1].endswith("at its clock, counted by simulation")
    assert lines[-1] == "1 frames at the end of the file are no whole clip and were left out"


def test_measure(directory: Path, video: Path) -> None:
    performance = measure(directory, source=str(video), device="sim", clips=2)["performance"]
    assert performance["clock"] == "simulated"
    assert performance["frames_per_second"] == pytest.approx(
        300e6 * performance["frames"] / performance["clips"] / performance["cycles_per_clip"], rel=0.3)
    assert not (directory / "report" / "energy_measured.json").exists()


def test_bus_error_and_hang(directory: Path, video: Path) -> None:
    build = Build.load(directory)
    source = VideoSource(video, build.shape, hop=build.shape.frames)
    with open_run(build, device="sim", watchdog=0) as running:
        results, model = running.results(source), running.device.board.model
        next(results)
        model.inject_error(0, "read", "SLVERR", cycle=model.cycle + 500)
        with pytest.raises(AcceleratorError, match=r"machine stopped: BUS_READ in engine \w+ at instruction \d+"):
            next(results)
        running.accelerator.timeout = 500e-6
        model.stall_port(0, from_cycle=model.cycle + 2000)
        with pytest.raises(AcceleratorTimeout, match=r"clip not finished after 0.0005 s\nstate: busy"):
            list(running.results(source))
        model.release_port(0)
        running.accelerator.timeout = 1.0
        assert len(list(running.results(source))) == CLIPS, "good clips right after"
