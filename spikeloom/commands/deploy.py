"""The command `spikeloom deploy`: a zip for the board."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Progress, command, show

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
        commands, "deploy", _run,
        "Pack a build for a board: bitstream, program, driver, notebook, self-test. The zip installs on a PYNQ image "
        "with pip, without compiler, torch or network; its README.txt says how.",
        """
        spikeloom deploy build/zcu104 --out build/spikeloom-zcu104.zip
        spikeloom deploy build/zcu104 --out build/spikeloom-zcu104.zip --without-bitstream
        """)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that `build` and `bitstream` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="ZIP", help="file to write")
    parser.add_argument(
        "--without-bitstream", action="store_true", help="pack the rest; README.txt says how to make the bitstream")


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import deploy

    manifest = deploy(
        arguments.directory, arguments.out, without_bitstream=arguments.without_bitstream, progress=Progress())
    show(f"{arguments.out}: network {manifest['network_hash'][:12]}, configuration {manifest['config_hash']}, "
          f"{arguments.out.stat().st_size:,} bytes" + (", WITHOUT a bitstream" if arguments.without_bitstream else ""))
    return 0
