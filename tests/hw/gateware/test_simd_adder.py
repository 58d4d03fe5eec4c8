"""The adders on DSP slices: their two bodies are equal, and equal to sums modulo 2**12 or 2**24; parameters."""

import subprocess

import pytest
from amaranth.hdl import Module, Signal, signed

from spikeloom.hw.gateware.simd_adder import DSP48E2_MODEL, LATENCY, MODULES, VERILOG, simd_add
from spikeloom.sim.verilator import build_program

COMPARE = """
module compare (clk, en, a, b, c, d, plain, dsp);
  input clk, en;
  input [47:0] a, b, c, d;
  output [47:0] plain, dsp;
  MODULE first (.clk(clk), .a(a), .b(b), .c(c), .d(d), .en(en), .sum(plain));
  MODULE_dsp second (.clk(clk), .a(a), .b(b), .c(c), .d(d), .en(en), .sum(dsp));
endmodule
"""

HARNESS = """
#include <cstdio>
#include <cstdint>
#include <random>
#include "Vtop.h"

int main() {
    VerilatedContext context;
    Vtop top(&context);
    std::mt19937_64 random(1);
    const uint64_t mask = (1ull << 48) - 1;
    uint64_t a[CYCLES], b[CYCLES], c[CYCLES], d[CYCLES];
    int cycle = 0;  // of those in which the registers are enabled
    while (cycle < CYCLES) {
        uint64_t *values[] = {&a[cycle], &b[cycle], &c[cycle], &d[cycle]};
        for (auto *value : values) *value = (random() % 8 ? random() : random() % 2 ? ~0ull : 0x800800800800ull) & mask;
        top.a = a[cycle], top.b = b[cycle], top.c = c[cycle], top.d = d[cycle];
        top.en = random() % 4 != 0;
        top.clk = 0; top.eval();
        if (cycle >= LATENCY) {
            uint64_t expected = 0;  // first pair LATENCY cycles ago, second pair a cycle later
            int early = cycle - LATENCY, late = early + 1;
            for (int lane = 0; lane < 48; lane += BITS)
                expected |= ((a[early] >> lane) + (b[early] >> lane) + (c[late] >> lane) + (d[late] >> lane)
                    & (1ull << BITS) - 1) << lane;
            if (top.plain != expected) return std::printf("plain, cycle %d\\n", cycle), 1;
            if (top.dsp != expected) return std::printf("dsp, cycle %d\\n", cycle), 1;
        }
        top.clk = 1; top.eval();
        cycle += top.en;
    }
    std::printf("equal\\n");
}
double sc_time_stamp() { return 0; }
"""


def bodies(bits):
    """The module, and a copy that is made of DSP slices in simulation, too."""
    module, text = MODULES[bits], VERILOG[MODULES[bits]]
    copy = text.replace(f"module {module}", f"module {module}_dsp")
    return text, copy.replace("`ifdef SYNTHESIS", "`ifndef SYNTHESIS")


def compared(bits, dsp_body, tmp_path):
    source = tmp_path / "main.cpp"
    source.write_text(HARNESS.replace("CYCLES", "20000").replace("LATENCY", str(LATENCY)).replace("BITS", str(bits)))
    compare = COMPARE.replace("MODULE", MODULES[bits])
    program = build_program(bodies(bits)[0] + dsp_body + DSP48E2_MODEL + compare, top="compare", sources=[source])
    return subprocess.run([str(program)], capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.parametrize("bits", MODULES)
def test_dsp_slices_and_plain_sums_are_equal(bits, tmp_path):
    assert compared(bits, bodies(bits)[1], tmp_path) == "equal"


def test_a_wrong_operating_mode_is_seen(tmp_path):
    body = bodies(12)[1]
    assert compared(12, body.replace("000011111", "000001111"), tmp_path).startswith("dsp, cycle")
    assert compared(12, body.replace("FOUR12", "TWO24"), tmp_path).startswith("dsp, cycle")


def test_a_slice_that_is_always_enabled_is_seen(tmp_path):
    assert compared(12, bodies(12)[1].replace(".CEP(en)", ".CEP(1'b1)"), tmp_path).startswith("dsp, cycle")


def test_parameters_are_checked():
    value, wide = Signal(signed(12)), Signal(signed(13))
    with pytest.raises(ValueError, match="`operands` must be 4 for each of 1 to 4 lanes"):
        simd_add(Module(), [[value] * 3], "add")
    with pytest.raises(ValueError, match="`operands` must be signed and of at most 12 bits"):
        simd_add(Module(), [[value, value, value, wide]], "add")
