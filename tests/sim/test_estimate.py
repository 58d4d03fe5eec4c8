"""The command `estimate`: names, directories, files written, errors; comparison with counters."""

import json
from dataclasses import replace

import pytest

from spikeloom import api, cli
from spikeloom.config import preset
from spikeloom.hw.estimate import report
from spikeloom.hw.program.compiler import compile_network
from spikeloom.quantize.random_networks import random_network
from spikeloom.sim import estimate as command
from spikeloom.sim.estimate import compare


def test_a_named_network(tmp_path, capsys):
    assert cli.main(["estimate", "digits", "--preset", "small", "--frames", "16", "--out", str(tmp_path / "out"),
                     "--json", str(tmp_path / "all.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("digits, 16 frames, small, estimate: ") for line in lines)
    performance = json.loads((tmp_path / "out" / "estimate_network_performance.json").read_text())
    layers = json.loads((tmp_path / "out" / "estimate_layer_cycles.json").read_text())
    assert performance["kind"] == "estimate"
    assert performance["frames"] == 16
    assert performance["peak_ops_per_cycle"] == 4096
    assert performance["frames_per_second"] == pytest.approx(16 * 300e6 / performance["cycles"])
    assert 0 < performance["utilisation"] < 1
    assert len(layers["layers"]) == 42
    assert json.loads((tmp_path / "all.json").read_text()) == performance | {"layers": layers["layers"]}
    assert (tmp_path / "out" / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_network_and_program_directories(tmp_path):
    network = random_network(2)
    network.save(tmp_path / "network")
    program = compile_network(network, preset("tiny"))
    program.save(tmp_path / "program")
    built = api.estimate(tmp_path).estimate
    assert built.config == preset("tiny")
    assert api.estimate(tmp_path / "program").estimate == built
    assert api.estimate(network, preset="tiny").estimate == built
    assert api.estimate(tmp_path, preset="tiny").estimate == built
    assert api.estimate(tmp_path, preset="small").estimate.config == preset("small")
    assert api.estimate(tmp_path / "network").estimate.config == preset("zcu104")


@pytest.mark.parametrize(("words", "message"), [
    (["15G"], "no model `15G`: name one of 15M, 31M, 55M, digits, "),
    (["."], "holds neither a network nor a program"),
    ([".", "--frames", "4"], "`frames` and `size` are for named networks"),
    (["micro", "--frames", "100000", "--preset", "tiny"], "estimate: error: operator ")])
def test_errors_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["estimate", *words]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("  ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_bounds_are_shown(capsys):
    assert cli.main(["estimate", "micro", "--preset", "tiny", "--bounds"]) == 0
    lines = capsys.readouterr().out.splitlines()
    total = next(line.split()[1] for line in lines if line.startswith("all "))
    assert f"everything as it is {total} 100.0 %" in [" ".join(line.split()) for line in lines]


def test_compare(tmp_path, capsys):
    made = api.estimate("micro", preset="tiny").estimate
    counters = {"cycles": round(2 * made.cycles * 1.02), "frames": 2 * made.frames,
                "engines": {"compute": {"busy": 2 * made.engines["compute"].busy, "blocked": 0}}}
    rows = compare(made, counters)
    assert [row[0] for row in rows] == ["cycles", "compute"]
    assert rows[0][3] == pytest.approx(-100 * 0.02 / 1.02, abs=0.01)
    assert rows[1][3] == pytest.approx(0, abs=0.01)
    path = tmp_path / "rtl.json"
    path.write_text(json.dumps(counters))
    assert command.main(["micro", "--preset", "tiny", "--rtl", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[0] == "cycles"
    assert command.main(["micro", "--preset", "tiny", "--rtl", str(path), "--within", "1"]) == 1
    assert command.main(["micro", "--preset", "tiny", "--rtl", str(tmp_path / "none.json")]) == 1


def test_no_picture_without_matplotlib(tmp_path, monkeypatch):
    def missing(*arguments):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    said = []
    monkeypatch.setattr(report, "roofline", missing)
    made = api.estimate(random_network(1), preset="tiny", out=tmp_path, progress=said.append)
    assert [path.name for path in made.files] == ["estimate_layer_cycles.json", "estimate_network_performance.json"]
    assert said[-1].startswith("no picture: matplotlib is not installed")


@pytest.mark.slow
def test_full_size():
    """15M at 224 x 224 on the flagship: cycles of the published order, the array the largest part of them."""
    made = api.estimate("15M", preset="zcu104").estimate
    assert made.frames == 8
    assert sum(o.synaptic_operations for o in made.operators if o.kind in report.ARRAY_KINDS) == 88_598_545_920
    assert 2_700_000 < made.cycles < 8_300_000
    assert max(made.causes, key=made.causes.__getitem__) == "compute"
    slow = replace(made.memory, total_bandwidth=1.0)
    assert api.estimate("15M", preset="zcu104", memory=slow).estimate.cycles > made.cycles
