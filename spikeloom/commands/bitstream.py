"""The command `spikeloom bitstream`: Vivado, run and read back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from .options import Progress, command, positive, show

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
        commands, "bitstream", _run,
        "Run the Vivado scripts and read the reports back. Needs `vivado` on the PATH, takes hours, shows Vivado's "
        "output on stderr; timing that is not met is an error. Writes DIR/bitfile and DIR/report.",
        """
        spikeloom bitstream build/machine --jobs 8
        spikeloom bitstream build/machine --collect
        """)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that `build` wrote")
    parser.add_argument("--jobs", type=positive, default=4, metavar="N", help="processes to use (%(default)s)")
    parser.add_argument(
        "--collect", action="store_true", help="run nothing, read back what a run elsewhere has left in DIR")


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import bitstream

    result = bitstream(
        arguments.directory, jobs=arguments.jobs, collect=arguments.collect, progress=Progress(),
        show=lambda line: tqdm.write(f"  | {line}", file=sys.stderr))
    timing = result["timing"]
    show(f"slack {timing['setup_slack_ns']:+.3f} ns (set-up), {timing['hold_slack_ns']:+.3f} ns (hold)")
    show(", ".join(f"{name} {entry['used']:,g} of {entry['available']:,g}"
                    for name, entry in result["resources"].items()))
    show(result["bit"])
    return 0
