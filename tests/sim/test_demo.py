"""The demo, short: few clips, all files, lines for people."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spikeloom import api, cli
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference
from spikeloom.sim.picture import PictureClip, draw, spike_rates

NASA = Path(__file__).parents[3] / "shared" / "clips" / "nasa_13013.mp4"


def test_spike_rates() -> None:
    network = random_network(0)
    tensors = Reference(network).run(random_clip(network, 0))
    names, rates = spike_rates(network, tensors)
    assert names == [name for name, tensor in network.tensors.items() if tensor.kind == "spikes"]
    assert rates.shape == (len(names), network.frames)
    assert rates[-1, 0] == pytest.approx(tensors[names[-1]][0].float().mean().item())


def test_picture(tmp_path: Path) -> None:
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    draw(tmp_path / "new" / "demo.png", clips=[PictureClip(frames=frames, caption="label: 3 up", good=True)] * 4,
         rates=(["a", "b"], np.ones((2, 8)) / 2), logits={"digit": (["0", "1"], np.array([-3, 5]))}, title="test")
    assert (tmp_path / "new" / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["clips", "held_out"])
def test_arguments(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, not `0`"):
        api.demo(**{name: 0})  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--clips", "2", "--held-out", "40", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "bit-exact: " in text
    assert "integer model on 40 held-out clips: digit " in text
    assert text.rstrip().endswith(str(tmp_path / "report" / "bit_exact.json"))
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"demo.png", "rtl/spikeloom.v", "program/program.bin", "report/accuracy.json", "report/bit_exact.json",
            "report/build.json", "report/quantize_report.json", "report/rtlsim_performance.json"} <= files
    exact = json.loads((tmp_path / "report" / "bit_exact.json").read_text())
    assert (exact["mismatches"], exact["clips"], exact["frames"]) == (0, 2, 16)
    assert all(layer["compared"] > 0 for layer in exact["layers"])


@pytest.mark.slow
@pytest.mark.skipif(not NASA.exists(), reason="the NASA clip is not at hand")
def test_demo_on_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--video", str(NASA), "--out", str(tmp_path)]) == 0
    assert "bit-exact: " in capsys.readouterr().out
    assert not (tmp_path / "report" / "accuracy.json").exists()
    assert json.loads((tmp_path / "report" / "bit_exact.json").read_text())["mismatches"] == 0
