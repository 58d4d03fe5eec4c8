"""`spikeloom deploy`: what is in the zip; it runs with NumPy alone, and with PYNQ on the simulated board."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom import cli
from spikeloom.config import preset
from spikeloom.host import validate
from spikeloom.host.deployment import OVERLAY_PACKAGE, Deployment
from spikeloom.host.errors import DriverError
from spikeloom.hw import wheels
from spikeloom.hw.build import build
from spikeloom.hw.deploy import DeployError, deploy
from spikeloom.hw.vivado.design import zcu104_design
from spikeloom.hw.vivado.hwh import expected_hwh
from spikeloom.hw.wheels import WheelError, driver_modules, driver_wheel
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.random_networks import random_network
from spikeloom.quantize.reference import Reference

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = preset("tiny")
NETWORK = random_network(16)
DEPLOYED = HERE / "pynq_deployed.py"
CHECKS = re.findall(r"^def (\w+)\(\) -> None:", DEPLOYED.read_text(), re.MULTILINE)[:-1]


def _pynq() -> tuple[str | None, str]:
    spec = importlib.util.spec_from_file_location("pynq_environment", HERE / "pynq_environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.python_with_pynq()


PYTHON, REASON = _pynq()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with a bitstream of one byte."""
    directory = tmp_path_factory.mktemp("built")
    build(NETWORK, preset="tiny", out=directory)
    (directory / "bitfile").mkdir()
    (directory / "bitfile" / "spikeloom.bit").write_bytes(b"\0")
    (directory / "bitfile" / "spikeloom.hwh").write_text(expected_hwh(zcu104_design(CONFIG), CONFIG))
    (directory / "labels.json").write_text("{}")
    return directory


@pytest.fixture(scope="module")
def packed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zip") / "some.zip"
    deploy(built, path)
    return path


@pytest.fixture
def unpacked(packed: Path, tmp_path: Path) -> Path:
    return unpack(packed, tmp_path)


def unpack(path: Path, to: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(to)
    return to / "spikeloom-tiny"


def copy_without(built: Path, to: Path, *names: str) -> Path:
    shutil.copytree(built, to)
    for name in names:
        (to / name).unlink()
    return to


def test_build_writes_the_self_test(built: Path) -> None:
    data = json.loads((built / "program" / "self_test.json").read_text())
    assert {name for name, _, _ in data["checksums"]} == {operator.name for operator in NETWORK.operators}


def test_what_is_in_the_zip(unpacked: Path) -> None:
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    held = {"deploy.json", "labels.json", "samples.npz", "network/network.json", "bitfile/spikeloom.bit",
            "bitfile/spikeloom.hwh",
            "program/program.bin", "program/program.json", "program/self_test.bin", "program/self_test.json"}
    assert {name for name in found if not name.startswith("wheels/")} == held | {
        "README.txt", "validate.py", "spikeloom.ipynb"}
    (driver,) = unpacked.glob("wheels/spikeloom-*.whl")
    (overlay,) = unpacked.glob("wheels/spikeloom_overlay-*.whl")
    assert re.fullmatch(r"spikeloom-[0-9.]+\+driver-py3-none-any\.whl", driver.name)
    with zipfile.ZipFile(overlay) as archive:
        names = {name.removeprefix(f"{OVERLAY_PACKAGE}/") for name in archive.namelist() if ".dist-info/" not in name}
    assert names == held | {"__init__.py", "bitfile/__init__.py"}
    assert set(Deployment(unpacked).check()["files"]) == held - {"deploy.json"}


def test_samples_are_those_of_the_reference(unpacked: Path) -> None:
    samples = Deployment.find(unpacked / "program").samples()
    reference = Reference(NETWORK)
    assert len(samples.clips) == len(samples.labels) == len(samples.logits)
    for clip, logits in zip(samples.clips, samples.logits, strict=True):
        np.testing.assert_array_equal(reference.run(clip)[NETWORK.output].numpy(), logits)
    np.testing.assert_array_equal(samples.clips[0], random_clip(NETWORK, 1))


def test_same_build_same_bytes(built: Path, packed: Path, tmp_path: Path) -> None:
    deploy(built, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_without_a_bitstream(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = copy_without(built, tmp_path / "built", "bitfile/spikeloom.bit")
    out = tmp_path / "some.zip"
    command = f"spikeloom vivado {source} && cd {source}/vivado && vivado -mode batch -source package_ip.tcl"
    assert cli.main(["deploy", str(source), "--out", str(out)]) == 1
    assert command in (said := capsys.readouterr().err.splitlines()[-1])
    assert said.startswith("spikeloom deploy: error: ")
    assert not out.exists()
    assert cli.main(["deploy", str(source), "--out", str(out), "--without-bitstream"]) == 0
    assert "WITHOUT a bitstream" in capsys.readouterr().out
    folder = unpack(out, tmp_path)
    assert command in (folder / "README.txt").read_text()
    assert [path.name.split("-")[0] for path in (folder / "wheels").iterdir()] == ["spikeloom"]
    deployment = Deployment(folder)
    deployment.check()
    with pytest.raises(DriverError, match=r"spikeloom\.bit: no such file; README.txt says how"):
        _ = deployment.bitfile


def test_bitstream_of_another_machine(built: Path, tmp_path: Path) -> None:
    source = copy_without(built, tmp_path / "built")
    (source / "bitfile" / "spikeloom.hwh").write_text(expected_hwh(zcu104_design(preset("small")), preset("small")))
    with pytest.raises(DeployError, match=r"spikeloom\.hwh: for another machine: "):
        deploy(source, tmp_path / "some.zip")


@pytest.mark.parametrize(("missing", "error", "message"), [
    ("program/self_test.json", DeployError, "run `spikeloom build` again, where torch is installed"),
    ("report/build.json", ValueError, "holds no report/build.json"),
    ("network/network.json", ValueError, "network.json")])
def test_incomplete_build(
    missing: str, error: type[Exception], message: str, built: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        deploy(copy_without(built, tmp_path / "built", missing), tmp_path / "some.zip")


def test_parts_of_different_builds(built: Path, tmp_path: Path) -> None:
    source = copy_without(built, tmp_path / "built")
    random_network(38).save(source / "network")
    with pytest.raises(ValueError, match="do not belong together"):
        deploy(source, tmp_path / "some.zip")


@pytest.mark.parametrize("name", ["program/program.bin", "bitfile/spikeloom.bit", "samples.npz"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "missing"])
def test_damaged_files_are_named(name: str, damage: str, unpacked: Path) -> None:
    path = unpacked / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "truncate" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DriverError, match=f"{re.escape(name)}: (missing|changed or truncated)"):
        Deployment(unpacked).check()


def test_no_deployment_here(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"no deploy\.json in .* or above it, and no package spikeloom_overlay"):
        Deployment.find(tmp_path)
    (tmp_path / "deploy.json").write_text("{}")
    with pytest.raises(DriverError, match=r"deploy\.json: not the description of a deployment: KeyError"):
        Deployment.find(tmp_path).check()


def test_validate_without_pynq(unpacked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("pynq") is not None:
        pytest.skip("this environment has pynq")
    assert validate.main([str(unpacked)]) == 2
    assert "the driver or PYNQ is not installed (No module named 'pynq')" in capsys.readouterr().err


def test_driver_wheel_holds_the_driver_only() -> None:
    modules = set(driver_modules())
    assert {"spikeloom.host.driver", "spikeloom.host.validate", "spikeloom.hw.program.program"} <= modules
    foreign = ("spikeloom.sim", "spikeloom.quantize", "spikeloom.hw.gateware", "spikeloom.hw.vivado",
               "spikeloom.hw.program.compiler", "spikeloom.hw.build", "spikeloom.hw.deploy", "spikeloom.hw.wheels")
    assert [name for name in modules if name.startswith(foreign)] == []


def test_no_setuptools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_BUILD", "raise ModuleNotFoundError(\"No module named 'setuptools'\")")
    with pytest.raises(WheelError, match="pip install 'setuptools>=77'"):
        driver_wheel(tmp_path)


def pip_install(to: Path, *paths: Path) -> None:
    """What `pip install --no-deps` does on a board, into a folder; no index is asked."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(to)]
    result = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_wheel_in_a_bare_environment(unpacked: Path, tmp_path: Path) -> None:
    """A virtual environment with NumPy and the wheel: modules load, the driver runs on a stand-in for the board."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    site = next((tmp_path / "venv").glob("lib/python3*/site-packages"))
    numpy = Path(np.__file__).parent
    for folder in (numpy, numpy.with_name("numpy.libs")):
        if folder.exists():
            (site / folder.name).symlink_to(folder)
    pip_install(site, *unpacked.glob("wheels/spikeloom-*.whl"))
    shutil.copy(ROOT / "sim" / "timed_board.py", tmp_path)
    shutil.copy(HERE / "bare_session.py", tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "python"), "bare_session.py", str(unpacked / "program")], cwd=tmp_path,
        capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(site))


@pytest.fixture(scope="module")
def results(built: Path, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of the checks in `pynq_deployed`, with the wheels as pip installs them."""
    folder = tmp_path_factory.mktemp("deployed")
    unpacked = unpack(packed, folder)
    site = folder / "site"
    pip_install(site, *unpacked.glob("wheels/*.whl"))
    environment = {**os.environ, "PYTHONPATH": str(site), "SPIKELOOM_WHEEL_FOLDER": str(site), "TMPDIR": str(folder)}
    result = subprocess.run(
        [str(PYTHON), str(DEPLOYED), str(built)], cwd=unpacked, capture_output=True, text=True, check=False,
        timeout=1200, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.skipif(PYTHON is None, reason=REASON)
@pytest.mark.parametrize("check", CHECKS)
def test_deployed_under_pynq(check: str, results: dict[str, str]) -> None:
    assert results[check] == "", results[check]
