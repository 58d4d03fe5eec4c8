"""Adders of four operands in two DSP48E2: `sum = a + b + c + d`, four values of 12 bits each, modulo 2**12, or two of
24 bits.

    a, b -> registers -> + -> P --cascade-.
    c, d ------> registers --------> + <--' -> P = sum

The FOUR12 and TWO24 modes of the DSP's 48-bit adder; the multiplier is not used. All registers hold while `en` is low.
The modules are written in Verilog by hand, with two bodies: two DSP48E2 where `SYNTHESIS` is defined (Yosys and Vivado
do), else the same sums in plain arithmetic, which every simulator understands and runs faster than four adders.
`DSP48E2_MODEL` is the part of the DSP that the first needs, for the test that holds one against the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, ClockSignal, Instance, Module, Signal, Value, ValueLike

__all__ = ["DSP48E2_MODEL", "LATENCY", "MODULES", "OPERANDS", "VERILOG", "simd_add"]

MODULES = {12: "spikeloom_simd_adder", 24: "spikeloom_simd_adder_wide"}
"""Bits of a lane -> module."""

OPERANDS = 4
"""Values that one lane adds up."""

LATENCY = 3
"""Cycles from the first two operands to the sum."""

_BITS = 48
_CONSTANT_REGISTERS = "ALUMODEREG CARRYINREG CARRYINSELREG INMODEREG OPMODEREG DREG ADREG MREG"
_OFF = "CEA1 CEB1 CEALUMODE CECARRYIN CECTRL CED CEAD CEINMODE CEM RSTA RSTB RSTC RSTCTRL RSTALUMODE RSTALLCARRYIN " \
       "RSTD RSTINMODE RSTM RSTP CARRYIN CARRYCASCIN MULTSIGNIN"


def _dsp(name: str, simd: str, opmode: str, first: str, second: str, cascade: str) -> str:
    """`first` (on A:B) + `second` (on C), and PCIN if `opmode` says so."""
    parameters = [f'.USE_SIMD("{simd}")', '.USE_MULT("NONE")', '.AMULTSEL("A")', '.BMULTSEL("B")']
    parameters += [f".{register}(1)" for register in ("AREG", "BREG", "CREG", "PREG", "ACASCREG", "BCASCREG")]
    parameters += [f".{register}(0)" for register in _CONSTANT_REGISTERS.split()]
    pins = ["CLK(clk)", f"A({first}[47:18])", f"B({first}[17:0])", f"C({second})", f"OPMODE(9'b{opmode})",
            "ALUMODE(4'b0)", "INMODE(5'b0)", "CARRYINSEL(3'b0)", "D(27'b0)", "ACIN(30'b0)", "BCIN(18'b0)", cascade]
    pins += [f"{pin}(en)" for pin in ("CEA2", "CEB2", "CEC", "CEP")] + [f"{pin}(1'b0)" for pin in _OFF.split()]
    connections = ",\n    ".join(f".{pin}" for pin in pins)
    return f"  DSP48E2 #({', '.join(parameters)}) {name} (\n    {connections}\n  );\n"


def _verilog(lane_bits: int) -> str:
    simd = {12: "FOUR12", 24: "TWO24"}[lane_bits]
    tops = sum(1 << place + lane_bits - 1 for place in range(0, _BITS, lane_bits))
    low, top = f"48'h{(1 << _BITS) - 1 - tops:x}", f"48'h{tops:x}"
    return f"""module {MODULES[lane_bits]} (a, b, c, clk, d, en, sum);
  input [47:0] a;
  input [47:0] b;
  input [47:0] c;
  input clk;
  input [47:0] d;
  input en;
  output [47:0] sum;
`ifdef SYNTHESIS
  wire [47:0] cascade;
{_dsp("first", simd, "000001111", "a", "b", "PCIN(48'b0), .PCOUT(cascade)")}\
{_dsp("second", simd, "000011111", "c", "d", "PCIN(cascade), .P(sum)")}\
`else
  reg [47:0] a_q, b_q, c_q, d_q, first, second;
  assign sum = second;
  // Each lane's top bit is added apart, so that no carry leaves the lane.
  function [47:0] add(input [47:0] x, input [47:0] y);
    add = ((x & {low}) + (y & {low})) ^ ((x ^ y) & {top});
  endfunction
  always @(posedge clk) if (en) begin
    a_q <= a;
    b_q <= b;
    c_q <= c;
    d_q <= d;
    first <= add(a_q, b_q);
    second <= add(first, add(c_q, d_q));
  end
`endif
endmodule
"""


VERILOG = {module: _verilog(bits) for bits, module in MODULES.items()}
"""Module -> its text."""

DSP48E2_MODEL = """module DSP48E2 #(
  parameter USE_SIMD = "ONE48", USE_MULT = "MULTIPLY", AMULTSEL = "A", BMULTSEL = "B",
  parameter AREG = 1, BREG = 1, CREG = 1, PREG = 1, ACASCREG = 1, BCASCREG = 1, ALUMODEREG = 1, CARRYINREG = 1,
            CARRYINSELREG = 1, INMODEREG = 1, OPMODEREG = 1, DREG = 1, ADREG = 1, MREG = 1
) (
  input CLK, input [29:0] A, input [17:0] B, input [47:0] C, input [8:0] OPMODE, input [3:0] ALUMODE,
  input [4:0] INMODE, input [2:0] CARRYINSEL, input [26:0] D, input [29:0] ACIN, input [17:0] BCIN,
  input [47:0] PCIN, input CEA1, CEA2, CEB1, CEB2, CEC, CEP, CEALUMODE, CECARRYIN, CECTRL, CED, CEAD, CEINMODE, CEM,
  input RSTA, RSTB, RSTC, RSTCTRL, RSTALUMODE, RSTALLCARRYIN, RSTD, RSTINMODE, RSTM, RSTP, CARRYIN, CARRYCASCIN,
  input MULTSIGNIN, output [47:0] P, output [47:0] PCOUT
);
  // UG579: P = Z + W + X + Y in lanes of 12, 24 or 48 bits. What is not modelled ends the simulation.
  localparam LANE = USE_SIMD == "FOUR12" ? 12 : USE_SIMD == "TWO24" ? 24 : 48;
  initial if (USE_MULT != "NONE" || !AREG || !BREG || !CREG || !PREG || OPMODEREG || ALUMODEREG) $fatal;
  reg [47:0] ab, c, p;
  wire [47:0] x = OPMODE[1:0] == 2'b11 ? ab : OPMODE[1:0] == 2'b10 ? p : 48'd0;
  wire [47:0] y = OPMODE[3:2] == 2'b11 ? c : 48'd0;
  wire [47:0] z = OPMODE[6:4] == 3'b001 ? PCIN : OPMODE[6:4] == 3'b010 ? p : OPMODE[6:4] == 3'b011 ? c : 48'd0;
  wire [47:0] w = OPMODE[8:7] == 2'b01 ? p : OPMODE[8:7] == 2'b11 ? c : 48'd0;
  genvar lane;
  generate
    for (lane = 0; lane < 48 / LANE; lane = lane + 1) begin : lanes
      always @(posedge CLK)
        if (CEP && ALUMODE == 4'b0)
          p[LANE * lane +: LANE] <= w[LANE * lane +: LANE] + x[LANE * lane +: LANE] + y[LANE * lane +: LANE]
            + z[LANE * lane +: LANE];
    end
  endgenerate
  always @(posedge CLK) begin
    if (CEA2) ab[47:18] <= A;
    if (CEB2) ab[17:0] <= B;
    if (CEC) c <= C;
  end
  assign P = p;
  assign PCOUT = p;
endmodule
"""


def simd_add(
    m: Module, operands: Sequence[Sequence[Value]], name: str, *, lane_bits: int = 12, enable: ValueLike = 1
) -> list[Value]:
    """Instantiate the adder as `name`: per lane the signed sum of four signed operands of at most `lane_bits` bits.

    Operands 0 and 1 are taken in one cycle, 2 and 3 in the next; the sum, which must fit, comes `LATENCY` cycles after
    the first two. Cycles in which `enable` is low do not count: all registers hold.
    """
    most = _BITS // lane_bits
    if not 1 <= len(operands) <= most or any(len(lane) != OPERANDS for lane in operands):
        raise ValueError(f"`operands` must be {OPERANDS} for each of 1 to {most} lanes")
    if any(len(value) > lane_bits or not value.shape().signed for lane in operands for value in lane):
        raise ValueError(f"`operands` must be signed and of at most {lane_bits} bits")
    total = Signal(_BITS, name=f"{name}_sum")
    pins = {}
    for place, pin in enumerate("abcd"):
        lanes = Signal(_BITS, name=f"{name}_{pin}")
        m.d.comb += lanes.eq(Cat(_extended(lane[place], lane_bits) for lane in operands))
        pins[f"i_{pin}"] = lanes
    m.submodules[name] = Instance(MODULES[lane_bits], i_clk=ClockSignal(), i_en=enable, o_sum=total, **pins)
    return [total.word_select(lane, lane_bits).as_signed() for lane in range(len(operands))]


def _extended(value: Value, bits: int) -> Value:
    return Cat(value, value[-1].replicate(bits - len(value)))
