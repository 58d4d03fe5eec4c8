"""Vivado projects: IP, block design for the ZCU104, expected hardware description, bitstream flow."""
