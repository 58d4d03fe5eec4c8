"""Synthesis without a vendor tool: resources and depth of the emitted Verilog, by Yosys."""
