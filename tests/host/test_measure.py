"""Throughput, latency and power: what is measured, what is a model, and that the two never mix."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spikeloom import cli
from spikeloom.config import preset
from spikeloom.host import measure as measure_module
from spikeloom.host import pipeline
from spikeloom.host.measure import measure
from spikeloom.host.pipeline import Build
from spikeloom.host.pipeline_device import Device, open_device
from spikeloom.host.pipeline_source import Clip
from spikeloom.host.power import Power, Rails
from spikeloom.hw.program.compiler import compile_network
from spikeloom.quantize.random_networks import random_network


class Sensors:
    """Rails whose power is 2 W while the machine idles, 5 W while it computes; of the whole board 10 W more."""

    def __init__(self) -> None:
        self.busy = lambda: False

    def rails(self) -> dict[str, Any]:
        sensors = self

        class Sensor:
            def __init__(self, extra: float) -> None:
                self._extra = extra

            @property
            def value(self) -> float:
                return self._extra + (5.0 if sensors.busy() else 2.0)

        return {"INT": SimpleNamespace(power=Sensor(0.0)), "12V": SimpleNamespace(power=Sensor(10.0)),
                "1V8": SimpleNamespace(power=None)}


@pytest.fixture(scope="module")
def network_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("build")
    network = random_network(38)
    network.save(path / "network")
    compile_network(network, preset("tiny")).save(path / "program")
    return path


@pytest.fixture
def directory(network_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build directory without reports; its source has 3 random clips."""
    for name in ("network", "program"):
        (tmp_path / name).symlink_to(network_directory / name)
    build = Build.load(tmp_path)
    shape = build.shape
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (3, shape.frames, shape.height, shape.width, 3), dtype=np.uint8)
    source = SimpleNamespace(name="noise", live=False, clips=lambda: iter(
        [Clip(pixels=clip, first=0, last=shape.frames - 1, preview=clip) for clip in pixels]))
    monkeypatch.setattr(measure_module, "open_source", lambda *arguments, **options: source)
    return tmp_path


def as_board(monkeypatch: pytest.MonkeyPatch, sensors: Sensors | None, *, simulated: bool = False) -> None:
    """`--device board` is the integer reference, with these power rails."""
    def opened(kind: str, directory: Path, program: Any) -> Device:
        found = open_device("reference", directory, program)
        if sensors is not None:
            sensors.busy = lambda: found.board._registers.get(0x14) == 1
        power = None if sensors is None else Power(Rails(sensors.rails()))
        return Device(kind=kind, name="test board", board=found.board, simulated_time=simulated, power=power,
                      close=found.close)

    monkeypatch.setattr(pipeline, "open_device", opened)


def test_power_of_a_board(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "LEAST_SECONDS", 0.3)
    as_board(monkeypatch, Sensors())
    found = measure(directory, device="board", clips=3, seconds=0.6, interval=0.005)
    energy, performance = found["energy_measured"], found["performance"]
    assert json.loads((directory / "report" / "energy_measured.json").read_text()) == energy
    assert json.loads((directory / "report" / "run_performance.json").read_text()) == performance
    assert energy["idle"]["watts"] == {"INT": 2.0, "12V": 12.0}
    assert energy["idle"]["seconds"] == pytest.approx(0.6, abs=0.4)
    assert energy["interval_seconds"] == 0.005
    assert energy["main_rail"] == "12V"
    assert 0 < energy["busy_minus_idle_watts"]["12V"] <= 3.0
    assert energy["joules_per_clip_above_idle"]["INT"] == pytest.approx(
        energy["busy_minus_idle_watts"]["INT"] / performance["clips_per_second"])
    assert performance["seconds"] == pytest.approx(performance["wall_seconds"], rel=0.1)
    assert performance["clips"] > 3
    latency = performance["latency_seconds"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p99"] <= latency["max"]


def test_no_rails_no_energy(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_board(monkeypatch, None)
    found = measure(directory, device="board", clips=2, seconds=0.2)
    assert found["energy_measured"] is None
    assert found["why_no_power"] == "PYNQ finds no power rails on this board"
    assert not (directory / "report" / "energy_measured.json").exists()
    assert (directory / "report" / "energy_model.json").exists()


def test_too_short_for_power(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_board(monkeypatch, Sensors())
    with pytest.raises(ValueError, match="`seconds` must be at least 10 to measure power, not `2`"):
        measure(directory, device="board", seconds=2)


def test_simulation_streams_each_clip_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_board(monkeypatch, None, simulated=True)
    found = measure(directory, device="sim", clips=3)
    assert (found["performance"]["clips"], found["performance"]["clock"]) == (3, "simulated")
    assert found["performance"]["latency_clips"] == 3
    assert found["why_no_power"] == "there is no board: a simulation has no power"


def test_model_is_no_measurement(directory: Path) -> None:
    """Neither file says anything of the other's kind."""
    found = measure(directory, device="reference", clips=2)
    assert found["performance"] is None
    assert found["energy_measured"] is None
    assert [path.name for path in (directory / "report").iterdir()] == ["energy_model.json"]
    model = json.loads((directory / "report" / "energy_model.json").read_text())
    assert model == found["energy_model"]
    assert "not a measurement" in model["what"]
    assert "watts" not in json.dumps(model)


@pytest.mark.parametrize(("options", "message"), [
    ({"clips": 0}, "`clips` must be from 1 to 64, not `0`"), ({"clips": 65}, "`clips` must be from 1 to 64"),
    ({"seconds": -1}, "`seconds` must be positive, not `-1`")])
def test_arguments(options: dict[str, Any], message: str, directory: Path) -> None:
    with pytest.raises(ValueError, match=message):
        measure(directory, **options)


def test_readings_are_averaged() -> None:
    values = [6.0, 2.0, 1.0]

    class Sensor:
        @property
        def value(self) -> float:
            if not values:
                raise OSError("busy")
            return values.pop()

    rail = SimpleNamespace(power=Sensor())
    power = Power(Rails({"INT": rail}), interval=0.01)
    assert power.main == "INT"
    with pytest.raises(RuntimeError, match="no reading of the power rails"):
        power.average()
    power.start()
    end = time.monotonic() + 300
    while power._samples < 3:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert power.average().watts == {"INT": 3.0}
    power.stop()
    with pytest.raises(ValueError, match="`interval` must be positive, not `0`"):
        Power(Rails({}), interval=0)


def test_command(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["measure", str(directory), "--device", "reference", "--clips", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "power not measured: there is no board: a simulation has no power"
    assert out[1].startswith("model of energy, not measured: ")
    assert out[2] == f"reports in {directory / 'report'}"
