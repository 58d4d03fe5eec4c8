"""The command `spikeloom vivado`: scripts for Vivado."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import command, show

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
        commands, "vivado", _run,
        "Write the Vivado scripts for the ZCU104. DIR/vivado gets a wrapper, scripts that package the IP and build the "
        "block design, and the hardware description that is expected of it. Needs no Vivado.",
        "spikeloom vivado build/machine")
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that `build` wrote")


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import vivado

    for path in vivado(arguments.directory):
        show(str(path))
    return 0
