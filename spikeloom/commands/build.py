"""The command `spikeloom build`: an integer network to program and Verilog."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Progress, add_out, add_preset, command, show

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
        commands, "build", _run,
        "Compile an integer network for a machine and emit the machine. Writes OUT/rtl, OUT/program, OUT/report, and a "
        "copy of the network.",
        """
        spikeloom build build/network --preset small --out build/machine
        spikeloom build build/network --preset zcu104 --out build/zcu104
        """)
    parser.add_argument("network", type=Path, metavar="NETWORK_DIR", help="directory that `quantize` wrote")
    add_preset(parser, "zcu104")
    add_out(parser)


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import build

    report = build(arguments.network, preset=arguments.preset, out=arguments.out, progress=Progress())
    show(f"{arguments.out}: {report['verilog']['bytes']:,} bytes of Verilog, configuration {report['config_hash']}, "
          f"network {report['network_hash'][:12]}")
    return 0
