"""The bench runner and the helpers of benches, on a FIFO between two streams."""

import re
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.sim import cocotb_runner
from spikeloom.sim.cocotb_runner import BenchError, run_bench


class Queue(wiring.Component):
    """FIFO of ``depth`` words between streams, two cycles of latency. ``tamper``: breaks the stream protocol."""

    def __init__(self, *, tamper=False):
        self.tamper = tamper
        super().__init__({"i": In(stream.Signature(12)), "o": Out(stream.Signature(12))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=12, depth=4)
        m.d.comb += [queue.w_data.eq(self.i.payload), queue.w_en.eq(self.i.valid), self.i.ready.eq(queue.w_rdy)]
        m.d.comb += [self.o.payload.eq(queue.r_data), self.o.valid.eq(queue.r_rdy), queue.r_en.eq(self.o.ready)]
        if self.tamper:
            m.d.comb += queue.r_en.eq(queue.r_rdy)
        return m


@pytest.fixture(autouse=True)
def bench_path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "bench_modules"))


def run(component=None, **options):
    parameters = {"mode": "pass", "count": 300, "stall": 0.3, **options.pop("parameters", {})}
    return run_bench(component or Queue(), "queue_bench", name="word_queue", parameters=parameters, **options)


@pytest.mark.parametrize("stall", [0, 0.3, 0.8])
def test_a_right_component_passes(stall):
    result = run(parameters={"stall": stall}, seed=7)
    assert result.tests == ("passes_everything_on_in_order",)


def test_the_second_run_takes_the_build_from_the_cache():
    run()
    said = []
    run(seed=2, progress=said.append)
    assert said == ["cached"]


def test_a_difference_names_index_cycle_and_both_values():
    with pytest.raises(BenchError, match=r"seed 3, parameters .*'mode': 'differ'") as failure:
        run(parameters={"mode": "differ"}, seed=3)
    assert re.search(r"o: 1 of 300 items differ \(seed 3\)", str(failure.value))
    assert re.search(r"\[5\], cycle \d+: got -?\d+ \(.*\), expected -?\d+ \(.*\)  <-- differs", str(failure.value))


def test_a_missing_payload_ends_with_the_state_of_every_stream():
    with pytest.raises(BenchError, match=r"no end after .* i sent 30 of 30, o received 30 of 31"):
        run(parameters={"mode": "starve", "count": 30})


def test_a_broken_handshake_is_noticed():
    with pytest.raises(BenchError, match="waited for ready, then valid was"):
        run(Queue(tamper=True))


def test_a_bench_that_does_not_end_is_killed():
    with pytest.raises(BenchError, match="no end after 2 s, killed"):
        run(parameters={"mode": "hang"}, timeout=2)


def test_a_module_without_tests_fails():
    with pytest.raises(BenchError):
        run_bench(Queue(), "json", name="word_queue")


def test_another_cocotb_is_refused(monkeypatch):
    monkeypatch.setattr(cocotb_runner, "_COCOTB", "1.0")
    with pytest.raises(cocotb_runner.BuildError, match=r"this runner starts cocotb 1\.0, not 2\.1\.0"):
        run()


def test_top_ports_are_read_from_the_verilog():
    verilog = "module a (clk, o);\n  input clk;\n  wire clk;\n  output [6:0] o;\n  wire [6:0] o;\nendmodule\n"
    assert cocotb_runner.top_ports(verilog, "a") == {"clk": ("input", 1), "o": ("output", 7)}
    with pytest.raises(ValueError, match="`top` must be a module of the Verilog text, not 'b'"):
        cocotb_runner.top_ports(verilog, "b")


def test_payloads_are_packed_by_their_layout():
    from spikeloom.sim.benches import support

    layout = data.StructLayout({"value": 4, "last": 1})
    assert support.pack(layout, {"value": 5, "last": 1}) == 0b1_0101
    assert support.unpack(layout, 0b1_0101).last == 1
    assert support.to_signed(0xFF, 8) == -1
    assert support.to_signed(0x7F, 8) == 127
