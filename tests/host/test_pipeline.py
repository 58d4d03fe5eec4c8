"""From a source to results: clips, order, names, timing, and every fault with its clear error. No RTL: the driver runs
on the integer reference behind its registers (`spikeloom.sim.reference_board`)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from spikeloom import cli
from spikeloom.config import preset
from spikeloom.host.errors import AcceleratorError, AcceleratorTimeout, DriverError
from spikeloom.host.lock import BoardLock
from spikeloom.host.pipeline import Build, Run, Summary, Tasks, open_run
from spikeloom.host.pipeline_device import open_device
from spikeloom.host.pipeline_meter import SpikeCounter
from spikeloom.host.pipeline_run import run
from spikeloom.host.pipeline_source import CameraSource, Clip, VideoSource, open_source
from spikeloom.hw.program.compiler import compile_network
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference
from spikeloom.video import VideoError

pytest.importorskip("av")

Pictures = Callable[[Build, int], Path]
"""Writes a video of so many clips for a network."""


# Names of classes


def test_names_of_classes(tmp_path: Path) -> None:
    assert Tasks.read(tmp_path, 3).names == {"class": ("0", "1", "2")}
    (tmp_path / "network").mkdir()
    network = tmp_path / "network" / "network.json"
    network.write_text(json.dumps({"metadata": {
        "tasks": [["digit", 0, 10], ["direction", 10, 14]], "logits": {"scale": 0.5}, "class_names": None}}))
    tasks = Tasks.read(tmp_path, 14)
    assert tasks.names["direction"] == ("right", "left", "down", "up")
    assert tasks.scale == 0.5
    network.write_text(json.dumps({"metadata": {"tasks": [["a", 0, 1], ["b", 1, 3]], "class_names": ["x", "y", "z"]}}))
    assert Tasks.read(tmp_path, 3).names == {"a": ["x"], "b": ["y", "z"]}
    (tmp_path / "labels.json").write_text(json.dumps({"a": ["1"], "b": ["2", "3"]}))
    assert Tasks.read(tmp_path, 3).names == {"a": ["1"], "b": ["2", "3"]}
    network.write_text("{")
    with pytest.raises(ValueError, match=r"network.json: not a network"):
        Tasks.read(tmp_path, 3)


def test_labels_of_one_task(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert Tasks.read(tmp_path, 2, tmp_path / "names.txt").names == {"class": ["cat", "dog"]}
    with pytest.raises(ValueError, match=r"names.txt: must name classes of class \(3\), not of class \(2\)"):
        Tasks.read(tmp_path, 3, tmp_path / "names.txt")
    (tmp_path / "names.json").write_text('{"class": 2}')
    with pytest.raises(ValueError, match=r"names.json: must name classes of class \(2\), not of none"):
        Tasks.read(tmp_path, 2, tmp_path / "names.json")


def test_top_classes() -> None:
    tasks = Tasks(names={"a": ["x", "y"], "b": ["p", "q", "r"]}, scale=0.25)
    top = tasks.top(np.array([3, 3, -4, 8, 0], np.int32), 2)
    assert [(g.name, g.index, g.logit) for g in top["a"]] == [("x", 0, 3), ("y", 1, 3)]
    assert [g.name for g in top["b"]] == ["q", "r"]
    chances = np.exp([-1, 2, 0]) / np.exp([-1, 2, 0]).sum()
    assert [g.probability for g in top["b"]] == pytest.approx([chances[1], chances[2]])
    assert Tasks(names={"a": ["x"]}).top(np.array([3]))["a"][0].probability is None


# Runs


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build directory, without Verilog, of a random network that makes logits of pixels."""
    path = tmp_path_factory.mktemp("build")
    network = random_network(38)
    network.save(path / "network")
    compile_network(network, preset("tiny")).save(path / "program")
    return path


@pytest.fixture
def build(directory: Path) -> Build:
    return Build.load(directory)


@pytest.fixture
def pictures(noise_video: Callable[..., Path], tmp_path: Path) -> Pictures:
    """`pictures(build, clips)`: noise of the network's size."""
    return lambda build, clips: noise_video(
        tmp_path / "clips.mkv", clips * build.shape.frames, height=build.shape.height, width=build.shape.width)


def test_results_are_those_of_the_reference(build: Build, pictures: Pictures) -> None:
    source = open_source(str(pictures(build, 6)), build.shape, build.tasks.sizes)
    with open_run(build, device="reference", look=0.0) as running:
        results = list(running.results(source))
        reference = running.device.board._reference
    assert [result.number for result in results] == list(range(6))
    assert len({result.logits.tobytes() for result in results}) == 6, "the clips do not tell the order apart"
    for result in results:
        tensors = reference.run(result.clip.pixels)
        np.testing.assert_array_equal(result.logits, tensors[build.program.output].numpy())
        assert result.best["class"] == str(int(result.logits.argmax()))
        assert result.latency > 0
        assert result.run.rates is not None
        for name, rate in result.run.rates.items():
            assert rate == pytest.approx(float(tensors[name].double().mean()), abs=1e-12), name
        assert set(result.run.rates) == set(running.counter.names)
    assert running.summary.clips == 6
    assert running.summary.to_dict()["frames_per_second"] > 0


def test_what_is_no_neuron_is_not_counted(build: Build) -> None:
    """Lanes without a frame and channels that fill a word up may hold anything."""
    assert build.program.frames % build.program.config.lanes
    counter = SpikeCounter(build.program)
    rates = counter.rates(np.full(build.program.workspace_bytes, 0xFF, np.uint8))
    assert rates == dict.fromkeys(counter.names, 1.0)


def test_spikes_that_cannot_be_seen_are_counted(build: Build) -> None:
    counter = SpikeCounter(build.program)
    assert counter.names
    assert counter.hidden == 0
    first, second = (build.program.tensors[name] for name in counter.names[:2])
    build.program.tensors[first.name] = type(first)(**{**vars(first), "offset": second.offset})
    assert SpikeCounter(build.program).hidden >= 2


def test_next_clip_is_decoded_while_the_machine_computes(build: Build, pictures: Pictures) -> None:
    """Clip n + 1 has been taken from the source when result n is delivered."""
    source = VideoSource(pictures(build, 5), build.shape, hop=build.shape.frames)
    taken: list[int] = []
    clips = source.clips
    source.clips = lambda: (taken.append(clip.first) or clip for clip in clips())  # type: ignore[method-assign]
    with open_run(build, device="reference") as running:
        for result in running.results(source):
            assert len(taken) >= min(5, result.number + 2)


def test_camera_results_are_not_held_back(build: Build, video: Path, camera: Callable[..., CameraSource]) -> None:
    """A result is delivered though the next clip never comes."""
    never = threading.Event()
    source = camera(video, build.shape, 2 * build.shape.frames, lambda: never.wait(20))
    with open_run(build, device="reference") as running:
        results = running.results(source)
        assert next(results).clip.first in (0, build.shape.frames)
        never.set()
        results.close()


def test_stop_after(build: Build, directory: Path, pictures: Pictures) -> None:
    seen: list[int] = []
    summary = run(directory, source=str(pictures(build, 5)), device="reference", clips=2,
                  each=lambda result: seen.append(result.number))
    assert seen == [0, 1]
    assert summary["clips"] == 2
    with pytest.raises(ValueError, match="`clips` must be at least 1, not `0`"):
        run(directory, source="digits", clips=0)


def test_broken_source_delivers_what_was_before(directory: Path, build: Build, truncated: Path) -> None:
    whole = len(list(_until_error(VideoSource(truncated, build.shape, hop=build.shape.frames).clips())))
    seen: list[int] = []
    with pytest.raises(VideoError, match=r"part.avi: "):
        run(directory, source=str(truncated), device="reference", each=lambda result: seen.append(result.number))
    assert seen == list(range(whole))
    assert whole > 0


def _until_error(clips: Iterator[Clip]) -> Iterator[Clip]:
    try:
        yield from clips
    except VideoError:
        return


def _with_fault(build: Build, fault: str, **options: Any) -> Run:
    running = open_run(build, device="reference", **options)
    running.device.board.fault = fault
    return running


@pytest.mark.parametrize(("fault", "error", "message"), [
    ("hang", AcceleratorTimeout, r"clip not finished after 0\.2 s\nstate: busy"),
    ("bus_error", AcceleratorError, r"machine stopped: BUS_READ in engine \w+ at instruction \d+ \(layer \S+\)")])
def test_machine_that_fails(fault: str, error: type, message: str, build: Build, pictures: Pictures) -> None:
    source = VideoSource(pictures(build, 3), build.shape, hop=build.shape.frames)
    with _with_fault(build, fault, timeout=0.2) as running:
        with pytest.raises(error, match=message):
            list(running.results(source))
        running.device.board.fault = ""
        assert len(list(running.results(source))) == 3, "a good clip right after"


def test_ctrl_c_ends_what_has_no_end(directory: Path, build: Build, pictures: Pictures) -> None:
    path = str(pictures(build, 3))

    def interrupt(result: Any) -> None:
        if result.number == 4:
            raise KeyboardInterrupt

    assert run(directory, source=path, device="reference", loop=True, each=interrupt)["clips"] == 5

    def at_once(result: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(directory, source=path, device="reference", each=at_once)


def test_networks_that_do_not_classify(tmp_path: Path) -> None:
    compile_network(random_network(3), preset("tiny")).save(tmp_path / "program")
    with pytest.raises(ValueError, match="not logits of pixels"):
        Build.load(tmp_path)


def test_values_of_every_frame_and_pixel(tmp_path: Path, pictures: Pictures) -> None:
    """A residual output comes as it is: poses, segmentation."""
    network = random_network(128, cycles=30_000)
    network.save(tmp_path / "network")
    compile_network(network, preset("tiny")).save(tmp_path / "program")
    build = Build.load(tmp_path)
    source = open_source(str(pictures(build, 2)), build.shape, build.tasks.sizes)
    with open_run(build, device="reference") as running:
        results = list(running.results(source))
        reference = running.device.board._reference
    output = network.tensors[network.output]
    assert output.kind == "residual"
    for result in results:
        assert result.logits.shape == (network.frames, output.channels, output.height, output.width)
        np.testing.assert_array_equal(result.logits, reference.infer(result.clip.pixels).numpy(), strict=True)
        assert result.best == {}


def test_devices(directory: Path, build: Build, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`device` must be one of sim, board, reference, not `'fpga'`"):
        open_device("fpga", directory, build.program)
    with pytest.raises(ValueError, match=r"spikeloom.v: no such file; build again"):
        open_device("sim", tmp_path, build.program)


class FakeOverlay:
    """In place of `spikeloom.host.driver.SpikeloomOverlay`, with its lock."""

    def __init__(self, bitfile: Path) -> None:
        self._lock = BoardLock(f"test-{os.getppid()}-{os.environ.get('PYTEST_XDIST_WORKER', '')}")

    def close(self) -> None:
        self._lock.release()


def test_second_process_is_refused(build: Build, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = ModuleType("driver")
    driver.SpikeloomOverlay = FakeOverlay
    monkeypatch.setitem(sys.modules, "spikeloom.host.driver", driver)
    (directory / "bitfile").mkdir(exist_ok=True)
    (directory / "bitfile" / "spikeloom.bit").touch()
    lock = f"test-{os.getppid()}-{os.environ.get('PYTEST_XDIST_WORKER', '')}"
    code = f"from spikeloom.host.lock import BoardLock; lock = BoardLock('{lock}'); print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DriverError, match=rf"is used by process {holder.pid}: close it there first"):
            open_device("board", directory, build.program)
    finally:
        holder.communicate("\n", timeout=120)


def test_board_needs_a_bitstream_and_pynq(directory: Path, build: Build, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    driver: Any = ModuleType("driver")

    def absent(bitfile: Path) -> None:
        raise RuntimeError("No Devices Found")

    driver.SpikeloomOverlay = absent
    monkeypatch.setitem(sys.modules, "spikeloom.host.driver", driver)
    with pytest.raises(ValueError, match=r"spikeloom.bit: no such file; `spikeloom bitstream"):
        open_device("board", tmp_path, build.program)
    (tmp_path / "bitfile").mkdir()
    (tmp_path / "bitfile" / "spikeloom.bit").touch()
    with pytest.raises(DriverError, match=r"no board here that PYNQ can use \(No Devices Found\): run this"):
        open_device("board", tmp_path, build.program)


def test_summary() -> None:
    empty = Summary(frames=4).to_dict()
    assert empty["frames_per_second"] is None
    assert empty["latency_seconds"] == {"median": None, "p99": None, "max": None}


# The command


def command(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    status = cli.main(["run", *words])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def test_command(directory: Path, build: Build, pictures: Pictures, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(pictures(build, 3))
    status, lines, error = command(str(directory), "--source", path, "--device", "reference", capsys=capsys)
    assert status == 0
    assert "integer reference (no hardware): network " in error
    assert [line.split()[:2] for line in lines[:3]] == [["clip", str(i)] for i in range(3)]
    assert re.search(r"class: \d+ -?\d+ .*\[machine [\d.e+]+ ms, latency [\d.e+]+ ms\]$", lines[0])
    assert re.match(rf"3 clips, {3 * build.shape.frames} frames in .* frames/s end to end", lines[3])


def test_command_for_machines(
    directory: Path, build: Build, pictures: Pictures, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(pictures(build, 2))
    status, lines, _ = command(str(directory), "--source", path, "--device", "reference", "--json", capsys=capsys)
    first, second, last = map(json.loads, lines)
    assert status == 0
    assert (first["clip"], second["first_frame"]) == (0, build.shape.frames)
    assert first["top"]["class"][0]["logit"] >= first["top"]["class"][1]["logit"]
    assert last["summary"]["clips"] == 2


def test_command_says_what_is_wrong(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.mp4").write_text("no video at all")
    for words, message in (
            ((str(tmp_path), "--source", "0"), f"{tmp_path}: holds no program; write one with"),
            ((str(directory), "--source", "98"), "camera /dev/video98: no such device"),
            ((str(directory), "--source", str(tmp_path / "text.mp4")), "text.mp4: not a readable video file"),
            ((str(directory), "--source", "digits"), "`digits` must be run on a network with"),
            ((str(directory), "--source", "0", "--labels", str(tmp_path / "none.txt")), "none.txt: No such file")):
        status, lines, error = command(*words, capsys=capsys)
        assert (status, lines) == (1, [])
        assert error.startswith("spikeloom run: error: ")
        assert message in error
    monkeypatch.setitem(sys.modules, "av", None)
    assert "av is not installed: pip install 'spikeloom[video]'" in command(
        str(directory), "--source", str(tmp_path / "text.mp4"), capsys=capsys)[2]


def test_boards_need_no_torch() -> None:
    code = ("import sys, spikeloom.host.pipeline_run, spikeloom.host.measure, spikeloom.host.serve\n"
            "print({'torch', 'amaranth', 'safetensors', 'tqdm', 'pynq', 'av', 'sklearn'} & set(sys.modules))")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_reference_board_is_the_reference(build: Build) -> None:
    """Its driver's logits are those of `Reference.infer`."""
    with open_run(build, device="reference") as running:
        clip = np.random.default_rng(3).integers(
            0, 256, (build.shape.frames, build.shape.height, build.shape.width, 3), dtype=np.uint8)
        reference: Reference = running.device.board._reference
        np.testing.assert_array_equal(running.accelerator.infer(clip), reference.infer(clip).numpy())
