"""What bitstream, hardware description and driver agree on: names, addresses, interrupt wiring on the board.

The driver on the board imports this and nothing of the generator.
"""

from __future__ import annotations

from .config import MACHINE_VERSION

VENDOR = "spikeloom"
LIBRARY = "accelerator"
IP_NAME = "spikeloom"
IP_VERSION = f"{MACHINE_VERSION}.0"
VLNV = f"{VENDOR}:{LIBRARY}:{IP_NAME}:{IP_VERSION}"
"""Type of the accelerator in a block design: what a driver binds to."""

DESIGN = "spikeloom_system"
"""Name of the block design. Not `spikeloom`: that is a module of the machine, and Vivado has one space for both."""

STEM = "spikeloom"
"""Of the names of the `.bit` and the `.hwh`, which PYNQ wants to be equal."""

INSTANCE = "spikeloom_0"
"""The accelerator's cell: its name in an overlay."""

CONTROL_INTERFACE = "s_axi_ctrl"
CONTROL_BASE = 0xA000_0000
"""Physical address of the registers; on M_AXI_HPM0_FPD."""

INTERRUPT_PIN = "interrupt"
INTERRUPT_CONTROLLER = "axi_intc_0"
INTERRUPT_CONTROLLER_BASE = 0xA001_0000
INTERRUPT_CONTROLLER_RANGE = 0x1_0000
