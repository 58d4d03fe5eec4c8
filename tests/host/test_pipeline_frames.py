"""What a network says of every frame or pixel, told by `spikeloom run`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from spikeloom import cli
from spikeloom.config import preset
from spikeloom.host.pipeline_frames import FrameOutput, describe_frames
from spikeloom.hw.program.compiler import compile_network
from spikeloom.quantize.models import named_config
from spikeloom.quantize.quantizer import integer_outputs, quantize
from spikeloom.quantize.untrained import untrained
from spikeloom.quantize.video import read_clip

CLIP = Path(__file__).parents[3] / "shared" / "clips" / "nasa_13013.mp4"
HEADS = {
    "pose": {"head": "pose", "classes": 6},
    "segment": {"head": "segment", "classes": 3, "head_width": 8, "strides": (2, 1, 2, 2, 1)}}


def test_joints() -> None:
    meaning = FrameOutput.of({"model": {"head": "pose"}, "output": {"scale": 0.25}})
    values = np.array([[1, 2, 3, 4], [0, -1, 2, 3]], np.int16).reshape(2, 4, 1, 1)
    read = meaning.read(values)
    assert read == {"joints": [[[0.25, 0.5], [0.75, 1.0]], [[0.0, -0.25], [0.5, 0.75]]]}
    assert describe_frames(read) == "joints of the last frame, x y in %: 0 -25, 50 75"


def test_classes_of_pixels() -> None:
    values = np.zeros((2, 3, 1, 2), np.int16)
    values[0, 2, 0, 0] = values[1, 2] = values[1, 1, 0, 1] = 5  # of equals the first
    metadata = {"model": {"head": "segment"}, "output": {"scale": 0.25}}
    read = FrameOutput.of(metadata).read(values)
    assert read == {"pixels": [{"0": 1, "1": 0, "2": 1}, {"0": 0, "1": 1, "2": 1}]}
    assert describe_frames(read) == "pixels: 2 50.0 %, 0 25.0 %, 1 25.0 %"
    named = FrameOutput.of(metadata | {"class_names": ["road", "car", "sky"]}).read(values)
    assert named["pixels"][1] == {"road": 0, "car": 1, "sky": 1}


@pytest.mark.parametrize("metadata", [
    {}, {"model": {"head": "class"}, "output": {"scale": 1}}, {"model": {"head": "pose"}}, {"model": None}])
def test_unknown_outputs_say_nothing(metadata: dict) -> None:
    read = FrameOutput.of(metadata).read(np.ones((1, 4, 1, 1), np.int16))
    assert read == {}
    assert describe_frames(read) == ""


@pytest.mark.skipif(not CLIP.exists(), reason="the NASA clip is not at hand")
@pytest.mark.parametrize("head", HEADS)
def test_run(head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says what the integer network's outputs are, in the float model's units."""
    config = replace(named_config("micro"), tasks=(), **HEADS[head])
    clip = read_clip(CLIP, frames=config.frames, height=config.height, width=config.width)
    network, _ = quantize(untrained(config, clip), clip[None])
    network.save(tmp_path / "network")
    compile_network(network, preset("tiny")).save(tmp_path / "program")
    words = ["run", str(tmp_path), "--source", str(CLIP), "--device", "reference", "--whole"]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[0])
    outputs = integer_outputs(network, clip[None]).numpy()
    if head == "pose":
        np.testing.assert_allclose(found["joints"], outputs[:, 0].reshape(config.frames, 3, 2))
    else:
        counts = [{str(i): int((frame == i).sum()) for i in range(3)} for frame in outputs[:, 0].argmax(axis=1)]
        assert found["pixels"] == counts
    assert cli.main(words) == 0
    said = {"pose": "  joints of the last frame, x y in %: ", "segment": "  pixels: "}[head]
    assert said in capsys.readouterr().out.splitlines()[0]
