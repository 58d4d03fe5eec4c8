"""The command `spikeloom measure`: throughput, latency and power."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Progress, add_device, command, positive, seconds, show

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
        commands, "measure", _run,
        "Measure throughput, latency and power of a machine. Clips are held in memory and streamed again and again. "
        "Writes DIR/report/run_performance.json; on a board with power rails energy_measured.json (idle subtracted); "
        "and, never mixed with it, energy_model.json: operations counted on the spikes times 45 nm energies.",
        """
        spikeloom measure build/machine
        spikeloom measure build/machine --device reference --clips 64
        spikeloom measure build/zcu104 --device board --seconds 30
        """)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that `build` wrote")
    parser.add_argument("--source", default="digits", metavar="S", help="as for `run` (%(default)s)")
    add_device(parser)
    parser.add_argument("--clips", type=positive, metavar="N", help="distinct clips, at most 64 (2 on sim, else 32)")
    parser.add_argument("--stride", type=positive, default=1, metavar="N", help="take every N-th frame (%(default)s)")
    parser.add_argument(
        "--seconds", type=seconds, metavar="S", help="to stream, and to look at power idle and busy each (10)")
    parser.add_argument(
        "--interval", type=seconds, default=0.1, metavar="S",
        help="seconds between two readings of the power rails (%(default)s)")


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import measure
    from spikeloom.host.measure import show_measured

    found = measure(
        arguments.directory, source=arguments.source, device=arguments.device, clips=arguments.clips,
        seconds=arguments.seconds, stride=arguments.stride, interval=arguments.interval, timeout=arguments.timeout,
        progress=Progress())
    for line in show_measured(found):
        show(line)
    show(f"reports in {arguments.directory / 'report'}")
    return 0
