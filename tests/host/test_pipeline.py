"""From a source to results: clips, order, names, timing, and every fault with its clear error. No RTL: the driver runs
on the integer reference behind its registers (`spikeloom.sim.reference_board`)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from spikeloom import cli
from spikeloom.config import preset
from spikeloom.host import pipeline_source
from spikeloom.host.errors import AcceleratorError, AcceleratorTimeout, DriverError
from spikeloom.host.lock import BoardLock
from spikeloom.host.pipeline import Build, Run, Summary, Tasks, open_run
from spikeloom.host.pipeline_device import open_device
from spikeloom.host.pipeline_meter import SpikeCounter
from spikeloom.host.pipeline_run import run
from spikeloom.host.pipeline_source import (
    CameraError,
    CameraSource,
    Clip,
    ClipShape,
    DigitSource,
    Prefetch,
    VideoSource,
    cut,
    open_source,
)
from spikeloom.hw.program.compiler import compile_network
from spikeloom.quantize.digits import DigitClips
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference
from spikeloom.video import VideoError, read_clip

av = pytest.importorskip("av")

SHAPE = ClipShape(frames=4, height=24, width=20)
TASKS = {"digit": 10, "direction": 4}


# Videos


def noise(count: int, height: int = 40, width: int = 64, seed: int = 1) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def write(path: Path, pictures: list[np.ndarray], codec: str = "ffv1") -> Path:
    """Video of `pictures`, lossless with ffv1."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25))
        stream.height, stream.width = pictures[0].shape[:2] if pictures else (16, 16)
        stream.pix_fmt = {"ffv1": "bgr0", "mpeg4": "yuv420p"}[codec]
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames."""
    return write(tmp_path_factory.mktemp("video") / "noise.mkv", noise(30))


def truncated(path: Path) -> Path:
    """A video whose end is missing."""
    whole = write(path.with_name("whole.avi"), noise(30), "mpeg4").read_bytes()
    path.write_bytes(whole[:int(len(whole) * 0.7)])
    return path


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


# Sources


@pytest.mark.parametrize(("stride", "hop"), [(1, None), (1, 1), (2, 3), (3, 5), (2, 11), (1, 4)])
@pytest.mark.parametrize("codec", ["ffv1", "mpeg4"])
def test_clips_of_a_file_are_those_of_read_clip(stride: int, hop: int | None, codec: str, tmp_path: Path) -> None:
    """Bit for bit, though the file is decoded once."""
    path = write(tmp_path / "video.avi", noise(30), codec)
    source = open_source(str(path), SHAPE, TASKS, stride=stride, hop=hop)
    clips, step = list(source.clips()), hop or stride * SHAPE.frames
    assert len(clips) == (30 - stride * (SHAPE.frames - 1) - 1) // step + 1
    for number, clip in enumerate(clips):
        assert (clip.first, clip.last) == (number * step, number * step + stride * (SHAPE.frames - 1))
        np.testing.assert_array_equal(clip.pixels, read_clip(
            path, frames=SHAPE.frames, height=SHAPE.height, width=SHAPE.width, start=clip.first, stride=stride))
        assert clip.preview is clip.pixels


def test_whole_file_as_one_clip(video: Path) -> None:
    (clip,) = open_source(str(video), SHAPE, TASKS, whole=True).clips()
    np.testing.assert_array_equal(
        clip.pixels, read_clip(video, frames=SHAPE.frames, height=SHAPE.height, width=SHAPE.width))


def test_rest_of_a_file_is_counted(video: Path) -> None:
    source = VideoSource(video, SHAPE, hop=4)
    assert len(list(source.clips())) == 7
    assert source.left_over == 2


def test_loop_begins_again(video: Path) -> None:
    clips = open_source(str(video), SHAPE, TASKS, loop=True).clips()
    assert [next(clips).first for _ in range(9)] == [0, 4, 8, 12, 16, 20, 24, 0, 4]


def test_no_frame_is_converted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(pipeline_source, "fit", lambda frame, h, w: seen.append(frame) or np.zeros((h, w, 3), np.uint8))
    assert len(list(cut(iter(range(40)), SHAPE, stride=2, hop=12))) == 3
    assert seen == [0, 2, 4, 6, 12, 14, 16, 18, 24, 26, 28, 30, 36, 38]


def test_preview_is_larger(video: Path) -> None:
    clip = next(open_source(str(video), SHAPE, TASKS, preview=True).clips())
    assert clip.preview.shape == (4, 40, 64, 3)


def test_digits_are_the_held_out_clips() -> None:
    source = DigitSource(ClipShape(frames=8, height=32, width=32), TASKS)
    clip = next(source.clips())
    pixels, digit, direction = DigitClips(size=32, frames=8).clip(0, "test")
    assert not source.live
    np.testing.assert_array_equal(clip.pixels, pixels)
    assert clip.label == {"digit": str(digit), "direction": ("right", "left", "down", "up")[direction]}
    with pytest.raises(ValueError, match=r"digit \(10\), direction \(4\) or both, not `32 x 32`, `class \(400\)`"):
        DigitSource(ClipShape(frames=8, height=32, width=32), {"class": 400})
    alone = next(DigitSource(ClipShape(frames=8, height=32, width=32), {"digit": 10}).clips())
    assert alone.label == {"digit": str(digit)}


def test_files_that_are_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all")
    for name, message in (("none.mp4", "no such file"), ("empty.mp4", "the file is empty"),
                          ("text.mp4", "not a readable video file")):
        with pytest.raises(VideoError, match=rf"{name}: {message}"):
            open_source(str(tmp_path / name), SHAPE, TASKS)


def test_zero_length_and_short_videos(tmp_path: Path) -> None:
    short = write(tmp_path / "short.mkv", noise(3))
    with pytest.raises(VideoError, match=r"short.mkv: a clip takes 4 frames, but the video ends after 3"):
        list(open_source(str(short), SHAPE, TASKS).clips())
    nothing = write(tmp_path / "nothing.avi", [], "mpeg4")
    with pytest.raises(VideoError, match=r"nothing.avi: "):
        list(open_source(str(nothing), SHAPE, TASKS).clips())


def test_truncated_video_gives_the_clips_before(tmp_path: Path) -> None:
    clips: list[Clip] = []
    with pytest.raises(VideoError, match=r"part.avi: (truncated: \d+ frames|frame \d+)"):
        clips.extend(open_source(str(truncated(tmp_path / "part.avi")), SHAPE, TASKS).clips())
    assert [clip.first for clip in clips] == [4 * i for i in range(len(clips))]
    assert len(clips) >= 3


@pytest.mark.parametrize("options", [{"stride": 0}, {"hop": 0}])
def test_arguments_of_a_source(options: dict[str, Any], video: Path) -> None:
    with pytest.raises(ValueError, match="must be at least 1, not `0`"):
        open_source(str(video), SHAPE, TASKS, **options)
    with pytest.raises(ValueError, match="`whole` must be used with a video file, not with `0`"):
        open_source("0", SHAPE, TASKS, whole=True)


# Cameras


class Camera(CameraSource):
    """A camera of a test: a video file in place of the device, then an error or silence.

    Its container gives `frames` frames, `pause` seconds apart.
    """

    def __init__(self, video: Path, frames: int, then: Callable[[], None], pause: float = 0.0) -> None:
        super().__init__("/dev/null", SHAPE, hop=4)
        self.name = "camera /dev/video7"
        self._video, self._count, self._then, self._pause = video, frames, then, pause

    def _open(self) -> Any:
        camera = self

        class Container:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *exception: object) -> None:
                pass

            def decode(self, video: int) -> Iterator[Any]:
                with av.open(str(camera._video)) as container:
                    for number, frame in enumerate(container.decode(video=video)):
                        if number == camera._count:
                            camera._then()
                        time.sleep(camera._pause)
                        yield frame

        return Container()


def hang(until: threading.Event) -> None:
    until.wait(20)


def unplug() -> None:
    raise av.error.OSError(19, "No such device", "/dev/video7")


def test_no_such_camera() -> None:
    with pytest.raises(CameraError, match=r"camera /dev/video97: no such device; (there are|none is there)"):
        open_source("97", SHAPE, TASKS)


def test_device_that_is_no_camera() -> None:
    with pytest.raises(CameraError, match="gives no picture: "):
        next(CameraSource("/dev/null", SHAPE, hop=4).clips())


def test_unplugged_camera(video: Path) -> None:
    clips: list[Clip] = []
    with pytest.raises(CameraError, match=r"camera /dev/video7: lost after 10 frames: No such device"):
        clips.extend(Camera(video, 10, unplug).clips())
    assert [clip.first for clip in clips] == [0, 4]


def test_camera_that_hangs(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It blocks for ever in the kernel: the reader is left behind, the consumer hears of it."""
    monkeypatch.setattr(pipeline_source, "CAMERA_PATIENCE", 0.3)
    never = threading.Event()
    with (pytest.raises(CameraError, match=r"no picture for 0.3 s"),
          Prefetch(Camera(video, 10, lambda: hang(never), pause=0.01)) as clips):
        list(clips)
    never.set()


def test_camera_does_not_wait(video: Path) -> None:
    """Of clips that nobody took, the newest is left; they are counted."""
    with Prefetch(Camera(video, 29, unplug)) as clips:
        wait_for(lambda: clips._ended)
        assert next(clips).first == 24
        assert clips.dropped == 6
        with pytest.raises(CameraError, match="lost after 29 frames"):
            next(clips)


def test_file_waits(video: Path) -> None:
    """A file is decoded a few clips ahead, and no further."""
    source = VideoSource(video, SHAPE, hop=4)
    with Prefetch(source, depth=2) as clips:
        wait_for(lambda: len(clips._ready) == 2)
        time.sleep(0.1)
        assert len(clips._ready) == 2
        assert [clip.first for clip in clips] == [0, 4, 8, 12, 16, 20, 24]
        assert clips.dropped == 0
    assert not clips._thread.is_alive()


def test_prefetch_can_be_left(video: Path) -> None:
    with Prefetch(VideoSource(video, SHAPE, hop=4, loop=True)) as clips:
        next(clips)
    assert not clips._thread.is_alive()


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


def pictures_for(build: Build, path: Path, clips: int) -> Path:
    """Noise of the network's size."""
    return write(path / "clips.mkv", noise(clips * build.shape.frames, build.shape.height, build.shape.width))


def test_results_are_those_of_the_reference(build: Build, tmp_path: Path) -> None:
    source = open_source(str(pictures_for(build, tmp_path, 6)), build.shape, build.tasks.sizes)
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


def test_next_clip_is_decoded_while_the_machine_computes(build: Build, tmp_path: Path) -> None:
    """Clip n + 1 has been taken from the source when result n is delivered."""
    source = VideoSource(pictures_for(build, tmp_path, 5), build.shape, hop=build.shape.frames)
    taken: list[int] = []
    clips = source.clips
    source.clips = lambda: (taken.append(clip.first) or clip for clip in clips())  # type: ignore[method-assign]
    with open_run(build, device="reference") as running:
        for result in running.results(source):
            assert len(taken) >= min(5, result.number + 2)


def test_camera_results_are_not_held_back(build: Build, video: Path) -> None:
    """A result is delivered though the next clip never comes."""
    never = threading.Event()
    camera = Camera(video, 2 * build.shape.frames, lambda: hang(never))
    camera.shape, camera._hop = build.shape, build.shape.frames
    with open_run(build, device="reference") as running:
        results = running.results(camera)
        assert next(results).clip.first in (0, build.shape.frames)
        never.set()
        results.close()


def test_stop_after(build: Build, directory: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    summary = run(directory, source=str(pictures_for(build, tmp_path, 5)), device="reference", clips=2,
                  each=lambda result: seen.append(result.number))
    assert seen == [0, 1]
    assert summary["clips"] == 2
    with pytest.raises(ValueError, match="`clips` must be at least 1, not `0`"):
        run(directory, source="digits", clips=0)


def test_broken_source_delivers_what_was_before(directory: Path, build: Build, tmp_path: Path) -> None:
    path = truncated(tmp_path / "part.avi")
    whole = len(list(_until_error(VideoSource(path, build.shape, hop=build.shape.frames).clips())))
    seen: list[int] = []
    with pytest.raises(VideoError, match=r"part.avi: "):
        run(directory, source=str(path), device="reference", each=lambda result: seen.append(result.number))
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
def test_machine_that_fails(fault: str, error: type, message: str, build: Build, tmp_path: Path) -> None:
    source = VideoSource(pictures_for(build, tmp_path, 3), build.shape, hop=build.shape.frames)
    with _with_fault(build, fault, timeout=0.2) as running:
        with pytest.raises(error, match=message):
            list(running.results(source))
        running.device.board.fault = ""
        assert len(list(running.results(source))) == 3, "a good clip right after"


def test_ctrl_c_ends_what_has_no_end(directory: Path, build: Build, tmp_path: Path) -> None:
    path = str(pictures_for(build, tmp_path, 3))

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


def test_values_of_every_frame_and_pixel(tmp_path: Path) -> None:
    """A residual output comes as it is: poses, segmentation."""
    network = random_network(128, cycles=30_000)
    network.save(tmp_path / "network")
    compile_network(network, preset("tiny")).save(tmp_path / "program")
    build = Build.load(tmp_path)
    source = open_source(str(pictures_for(build, tmp_path, 2)), build.shape, build.tasks.sizes)
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


def test_command(directory: Path, build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(pictures_for(build, tmp_path, 3))
    status, lines, error = command(str(directory), "--source", path, "--device", "reference", capsys=capsys)
    assert status == 0
    assert "integer reference (no hardware): network " in error
    assert [line.split()[:2] for line in lines[:3]] == [["clip", str(i)] for i in range(3)]
    assert re.search(r"class: \d+ -?\d+ .*\[machine [\d.e+]+ ms, latency [\d.e+]+ ms\]$", lines[0])
    assert re.match(rf"3 clips, {3 * build.shape.frames} frames in .* frames/s end to end", lines[3])


def test_command_for_machines(
    directory: Path, build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(pictures_for(build, tmp_path, 2))
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
