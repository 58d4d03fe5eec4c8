"""`spikeloom vivado` and `spikeloom bitstream`, with a stand-in for the executable."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from spikeloom import cli
from spikeloom.config import preset
from spikeloom.hw.vivado.flow import EXPECTED, VivadoError, bitstream, vivado

HERE = Path(__file__).parent
SAMPLES = HERE / "samples"
CONFIG = preset("small")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """What `build` leaves that matters here; the Verilog is no machine."""
    folder = tmp_path / "a machine"
    for name in ("rtl", "report"):
        (folder / name).mkdir(parents=True)
    (folder / "rtl" / "spikeloom.v").write_text("module spikeloom; endmodule\n")
    digest = hashlib.sha256((folder / "rtl" / "spikeloom.v").read_bytes()).hexdigest()
    report = {"config": asdict(CONFIG), "config_hash": f"{CONFIG.hash:08x}", "verilog": {"sha256": digest}}
    (folder / "report" / "build.json").write_text(json.dumps(report))
    return folder


@pytest.fixture
def no_vivado(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def fake_vivado(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put an executable `vivado` on the PATH; `$script` is the script it is given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    text = f'#!/bin/sh\nfor script; do :; done\n[ "$SPIKELOOM_JOBS" = 3 ] || exit 9\n{body}\n'
    (folder / "vivado").write_text(text)
    (folder / "vivado").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def mock(machine: Path, *options: str) -> str:
    """Shell command that runs the recording stand-in on `$script`."""
    words = [f'hwh="{machine / "vivado" / EXPECTED}"', f'utilization="{SAMPLES / "utilization.rpt"}"', *options]
    return f'exec tclsh "{HERE / "mock_vivado.tcl"}" "$PWD/$script" "$PWD/record.txt" {" ".join(words)}'


def timing(name: str) -> str:
    return f'timing="{SAMPLES / name}.rpt"'


def test_scripts_are_written(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vivado", str(machine)]) == 0
    written = sorted(path.name for path in (machine / "vivado").iterdir())
    assert written == ["build_zcu104.tcl", EXPECTED, "package_ip.tcl", "spikeloom_top.v", "spikeloom_top_ooc.xdc"]
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] != []
    before = [(path, path.read_bytes()) for path in vivado(machine)]
    assert [(path, path.read_bytes()) for path in vivado(machine)] == before


def test_needs_a_machine(tmp_path: Path, machine: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no report/build\.json; write it with `spikeloom build"):
        vivado(tmp_path)
    (machine / "rtl" / "spikeloom.v").write_text("other")
    with pytest.raises(ValueError, match="do not belong together; run `spikeloom build` again"):
        vivado(machine)
    (machine / "report" / "build.json").write_text('{"config": {"lanes": 3}}')
    with pytest.raises(ValueError, match="`lanes` must be a power of two"):
        vivado(machine)
    (machine / "report" / "build.json").write_text("[]")
    with pytest.raises(ValueError, match=r"build\.json: cannot be read"):
        vivado(machine)


@pytest.mark.usefixtures("no_vivado")
def test_without_vivado_the_command_is_told(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bitstream", str(machine)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("spikeloom bitstream: error: no `vivado` on the PATH.")
    assert ("cd vivado && vivado -mode batch -source package_ip.tcl && vivado -mode batch -source build_zcu104.tcl"
            in error)
    assert (machine / "vivado" / "build_zcu104.tcl").exists()  # what that command needs


def test_whole_flow(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vivado(tmp_path, monkeypatch, mock(machine, timing("timing_summary")))
    steps: list[str] = []
    lines: list[str] = []
    result = bitstream(machine, jobs=3, progress=steps.append, show=lines.append)
    assert steps == ["vivado: package_ip.tcl", "vivado: build_zcu104.tcl", "read the reports"]
    assert "spikeloom: step 2 of 3: implementation" in lines
    assert result["timing"]["setup_slack_ns"] == 0.021
    assert Path(result["bit"]).exists()
    resources = json.loads((machine / "report" / "post_implementation_resources.json").read_text())
    assert resources == result["resources"]
    assert resources["lut"]["used"] == 118342
    assert json.loads((machine / "report" / "post_implementation_timing.json").read_text())["met"] is True
    assert "step 1 of 3" in (machine / "vivado" / "build_zcu104.log").read_text()


def test_command_line(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_vivado(tmp_path, monkeypatch, mock(machine, timing("timing_summary")))
    assert cli.main(["bitstream", str(machine), "--jobs", "3"]) == 0
    out, error = capsys.readouterr()
    assert out.splitlines()[0] == "slack +0.021 ns (set-up), +0.010 ns (hold)"
    assert "lut 118,342 of 230,400" in out
    assert out.splitlines()[-1] == str(machine / "bitfile" / "spikeloom.bit")
    assert "  | spikeloom: step 1 of 3: synthesis" in error.splitlines()


def test_missed_timing_names_the_path(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vivado(tmp_path, monkeypatch, mock(machine, timing("timing_summary_violated"), "setup=-0.187"))
    with pytest.raises(VivadoError, match=r"set-up slack -0\.187 ns at 617 endpoints; worst Setup path from .*sum_reg"):
        bitstream(machine, jobs=3)
    assert json.loads((machine / "report" / "post_implementation_timing.json").read_text())["met"] is False
    assert list((machine / "bitfile").glob("*.bit")) == []


def test_missed_timing_is_found_in_what_was_collected(machine: Path) -> None:
    vivado(machine)
    for name, sample in (("timing_summary", "timing_summary_violated"), ("utilization", "utilization")):
        (machine / "report" / f"{name}.rpt").write_text((SAMPLES / f"{sample}.rpt").read_text())
    with pytest.raises(VivadoError, match="timing is not met"):
        bitstream(machine, collect=True)


def test_collect(machine: Path) -> None:
    with pytest.raises(VivadoError, match=r"timing_summary\.rpt: no such file; Vivado has not been run"):
        bitstream(machine, collect=True)
    for name in ("timing_summary", "utilization"):
        (machine / "report" / f"{name}.rpt").write_text((SAMPLES / f"{name}.rpt").read_text())
    with pytest.raises(VivadoError, match=r"spikeloom\.bit: no such file; bring bitfile/ back"):
        bitstream(machine, collect=True)
    (machine / "bitfile").mkdir()
    (machine / "bitfile" / "spikeloom.bit").write_bytes(b"")
    expected = (machine / "vivado" / EXPECTED).read_text()
    (machine / "bitfile" / "spikeloom.hwh").write_text(expected)
    assert bitstream(machine, collect=True)["timing"]["met"] is True
    (machine / "bitfile" / "spikeloom.hwh").write_text(expected.replace("0xA0000000", "0xA0080000"))
    with pytest.raises(VivadoError, match="not what the driver expects, 1 differences, the first: address in"):
        bitstream(machine, collect=True)
    assert (machine / "report" / "hwh_differences.txt").read_text().count("\n") == 1


def test_failing_script(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vivado(tmp_path, monkeypatch, 'echo "INFO: on it"; echo "ERROR: [Common 17-39] no licence"; exit 1')
    with pytest.raises(VivadoError, match=r"status 1 in package_ip\.tcl: ERROR: \[Common 17-39\] no licence; see"):
        bitstream(machine, jobs=3)


def test_old_results_are_not_taken_for_new_ones(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "report" / "timing_summary.rpt").write_text((SAMPLES / "timing_summary.rpt").read_text())
    fake_vivado(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(VivadoError, match=r"timing_summary\.rpt: no such file"):
        bitstream(machine, jobs=3)


def test_interrupt_ends_vivado(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what Vivado has started itself."""
    fake_vivado(tmp_path, monkeypatch, f'sleep 300 & echo $! > "{tmp_path}/child"; echo started; wait')
    code = (  # a shell's background jobs, and what they start, ignore SIGINT
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from spikeloom.cli import main; sys.exit(main(['bitstream', {str(machine)!r}, '--jobs', '3']))")
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "started" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert "interrupted" in process.stderr.read()
    assert process.returncode == 130
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if "Z" in Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]:
            return
        time.sleep(0.05)
    raise AssertionError("Vivado's child is still running")
