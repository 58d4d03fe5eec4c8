"""Reading Vivado's reports back. The samples are made by hand in Vivado's format, see samples/README.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from spikeloom.hw.vivado.reports import ReportError, read_resources, read_timing

SAMPLES = Path(__file__).parent / "samples"


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


def test_timing_met() -> None:
    timing = read_timing(sample("timing_summary.rpt"))
    assert timing.met
    assert (timing.setup_slack_ns, timing.hold_slack_ns, timing.pulse_width_slack_ns) == (0.021, 0.010, 0.791)
    assert timing.worst_path is not None
    assert timing.worst_path.kind == "Hold"
    assert timing.as_dict()["met"] is True


def test_timing_violated_names_the_path() -> None:
    timing = read_timing(sample("timing_summary_violated.rpt"))
    assert not timing.met
    assert timing.failure() == (
        "timing is not met: set-up slack -0.187 ns at 617 endpoints; worst Setup path from "
        "spikeloom_system_i/spikeloom_0/inst/core/core/compute/engine/table_reg[3]/C to "
        "spikeloom_system_i/spikeloom_0/inst/core/core/compute/engine/sum_reg[17]/D (clock clk_pl_0): slack -0.187 ns, "
        "delay 3.336ns, logic levels 5")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("      0.010        0.000 ", "     -0.003       -0.004 ", "timing is not met: hold slack -0.003 ns"),
    ("        0.791        0.000 ", "       -0.100       -0.100 ", "timing is not met: pulse width slack -0.100 ns")])
def test_other_violations(old: str, new: str, message: str) -> None:
    text = sample("timing_summary.rpt")
    assert text.count(old) == 1
    assert read_timing(text.replace(old, new)).failure().startswith(message)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("WNS(ns)", "ABC", "no Design Timing Summary"),
    ("      0.021        0.000 ", "         NA           NA ", "unconstrained or unreadable: NA")])
def test_unreadable_timing(old: str, new: str, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        read_timing(sample("timing_summary.rpt").replace(old, new))


def test_resources() -> None:
    resources = read_resources(sample("utilization.rpt"))
    assert resources["lut"] == {"used": 118342, "available": 230400, "percent": 51.36}
    assert resources["block_ram_tile"] == {"used": 101.5, "available": 312, "percent": 32.53}
    assert {name: entry["used"] for name, entry in resources.items()} == {
        "lut": 118342, "lut_logic": 96120, "lut_memory": 22222, "register": 149873, "carry8": 9204,
        "block_ram_tile": 101.5, "ultra_ram": 32, "dsp": 0}


def test_missing_resource() -> None:
    with pytest.raises(ReportError, match=r"no row for Block RAM Tile, DSPs"):
        read_resources(sample("utilization.rpt").replace("Block RAM Tile ", "BRAM ").replace("| DSPs", "| ABCD"))
