"""The command `spikeloom synth`: resources of a machine, by Yosys."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Progress, add_out, add_preset, command, show

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
        commands, "synth", _run,
        "Estimate the resources of a machine with Yosys. Writes OUT/report/estimate_resources.json: cells per block "
        "and in total, share of the XCZU7EV, longest combinational paths in LUTs and carry bits. A post-synthesis "
        "estimate, not placed and routed. The first run of a machine takes minutes, results are cached per module.",
        """
        spikeloom synth --preset zcu104
        spikeloom synth --preset tiny --block core_compute --out build/tiny
        """)
    add_preset(parser, "zcu104")
    add_out(parser, default=Path("build/synth"))
    parser.add_argument("--block", metavar="NAME", help="only this module of the machine, and what it uses")


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import synth
    from spikeloom.hw.synth.page import summary

    report = synth(preset=arguments.preset, out=arguments.out, block=arguments.block, progress=Progress())
    show(f"{report['top']}, {report['device']}: {report['note']}")
    for line in summary(report):
        show(line)
    show(f"report  {arguments.out / 'report' / 'estimate_resources.json'}")
    return 0
