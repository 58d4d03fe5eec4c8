"""From a network directory to both reports: files, their structure, exit status, faults named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from spikeloom import api, cli
from spikeloom.commands.options import status
from spikeloom.config import preset
from spikeloom.network import Network
from spikeloom.operations import additions_by_engine
from spikeloom.quantize.random_networks import random_network
from spikeloom.sim.simulate import BuildDirectoryError, Rig, input_clip

SEED = 0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random network on pixels, built for the preset tiny."""
    folder = tmp_path_factory.mktemp("flow")
    random_network(SEED).save(folder / "network")
    assert cli.main(["build", str(folder / "network"), "--preset", "tiny", "--out", str(folder / "machine")]) == 0
    return folder / "machine"


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "machine"))


def test_build_writes_everything(built: Path) -> None:
    files = {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()}
    assert {"rtl/spikeloom.v", "program/program.bin", "program/program.json", "program/program.asm",
            "report/build.json", "network/network.json", "network/network.safetensors"} <= files
    report = json.loads((built / "report" / "build.json").read_text())
    network = random_network(SEED)
    assert report["network_hash"] == network.hash
    assert report["config_hash"] == f"{preset('tiny').hash:08x}"
    assert report["peak_ops_per_cycle"] == 512
    assert report["additions_per_clip"] == additions_by_engine(network)


def test_build_is_the_same_every_time(built: Path, tmp_path: Path) -> None:
    api.build(built / "network", preset="tiny", out=tmp_path)
    for name in ("rtl/spikeloom.v", "program/program.bin", "program/program.json", "report/build.json"):
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes(), name


def test_simulate(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", str(built), "--random", "3", "--every-layer"]) == 0
    assert "bit-exact: " in capsys.readouterr().out
    exact = json.loads((built / "report" / "bit_exact.json").read_text())
    network = Network.load(built / "network")
    assert exact["network_hash"] == network.hash
    assert exact["config_hash"] == f"{preset('tiny').hash:08x}"
    assert exact["frames"] == network.frames
    assert [layer["name"] for layer in exact["layers"]] == [operator.name for operator in network.operators]
    assert all(layer["compared"] > 0 and layer["mismatches"] == 0 for layer in exact["layers"])
    assert exact["compared"] == sum(layer["compared"] for layer in exact["layers"])
    assert (exact["mismatches"], exact["first_divergence"]) == (0, None)
    assert exact["logits_reference"] == exact["logits_rtl"]
    assert bool(exact["logits_rtl"]) == (network.tensors[network.output].kind == "logits")


def test_performance_report(built: Path) -> None:
    result = api.simulate(built, random=4)
    report = json.loads((built / "report" / "rtlsim_performance.json").read_text())
    assert report == result.performance
    assert {"cycles", "frames", "synaptic_ops", "peak_ops_per_cycle", "utilisation", "clock_mhz",
            "frames_per_second_at_clock", "engines", "simulated_cycles_per_second"} <= set(report)
    assert report["synaptic_ops"] == additions_by_engine(random_network(SEED))["array"]
    assert report["utilisation"] == report["synaptic_ops"] / (report["cycles"] * report["peak_ops_per_cycle"])
    assert 0 < report["utilisation"] < 1
    assert report["frames_per_second_at_clock"] == pytest.approx(report["frames"] / report["cycles"] * 300e6)
    assert all(0 <= engine["busy"] <= report["cycles"] for engine in report["engines"].values())


def test_output_alone_is_compared_by_default(built: Path) -> None:
    result = api.simulate(built, random=3)
    assert [layer["name"] for layer in result.bit_exact["layers"]] == [random_network(SEED).operators[-1].name]


def test_a_wrong_reference_is_found(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reference of another bias in the last layer: first divergence there, exit status 1."""
    rig = Rig(copy)
    last = rig.network.operators[-1]
    rig.reference._arrays[last.neuron.bias] += 1000
    rig.run(input_clip(rig.network, random=3))
    result = rig.finish()
    assert result.mismatches > 0
    first = result.bit_exact["first_divergence"]
    assert first["layer"] == last.name
    assert first["cycle"] is None or 0 < first["cycle"] <= result.performance["cycles"]
    assert f"first in layer {last.name}" in result.summary
    assert status(result.mismatches) == 1
    assert "not bit-exact" in capsys.readouterr().err


def test_parts_of_different_builds(copy: Path) -> None:
    random_network(SEED + 8).save(copy / "network")
    with pytest.raises(BuildDirectoryError, match="program: made for another network"):
        Rig(copy)


@pytest.mark.parametrize("name", ["rtl/spikeloom.v", "program/program.bin", "network/network.json"])
def test_missing_part(copy: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / name).unlink()
    assert cli.main(["simulate", str(copy), "--random", "1"]) == 1
    error = capsys.readouterr().err
    assert Path(name).name in error
    assert "Traceback" not in error


def test_truncated_program(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "program" / "program.bin"
    path.write_bytes(path.read_bytes()[:-100])
    assert cli.main(["simulate", str(copy), "--random", "1"]) == 1
    assert capsys.readouterr().err.startswith("spikeloom simulate: error: ")


def test_no_compiler(built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                     tmp_path: Path) -> None:
    monkeypatch.setenv("SPIKELOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert cli.main(["simulate", str(built), "--random", "1"]) == 1
    assert "no C++ compiler: 'no-such-compiler' is not on PATH" in capsys.readouterr().err


def test_input_clip() -> None:
    network = random_network(SEED)
    np.testing.assert_array_equal(input_clip(network, random=5), input_clip(network, random=5))
    for arguments in ({}, {"video": "x", "random": 1}):
        with pytest.raises(ValueError, match="exactly one of `video` and `random`"):
            input_clip(network, **arguments)


@pytest.mark.slow
def test_waveform(built: Path, tmp_path: Path) -> None:
    wave = tmp_path / "run.vcd"
    api.simulate(built, random=1, wave=wave)
    assert wave.read_text(errors="replace")[:2000].lstrip().startswith("$")
    assert wave.stat().st_size > 100_000
