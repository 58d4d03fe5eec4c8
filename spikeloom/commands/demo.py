"""The command `spikeloom demo`: from clips to bit-exact RTL, with a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Progress, add_out, add_preset, add_repconv, choose_repconv, command, positive, show, status

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
        commands, "demo", _run,
        "Run a trained network through float model, integer reference and RTL simulation. Held-out clips of its "
        "task (moving handwritten digits), or any video file; ends with a picture and the path of the report.",
        """
        spikeloom demo
        spikeloom demo --clips 5 --out build/demo
        spikeloom demo --model walkers --held-out 200
        spikeloom demo --model v3-digits --preset tiny --clips 1
        spikeloom demo --video holiday.mp4
        """)
    parser.add_argument(
        "--model", default="digits", help="trained network: name in the zoo, or a .safetensors file (%(default)s)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="take the clip from this video file")
    parser.add_argument(
        "--clips", type=positive, default=2, metavar="N", help="held-out clips to simulate (%(default)s)")
    parser.add_argument(
        "--held-out", type=positive, default=400, metavar="N",
        help="held-out clips to measure accuracy on (%(default)s)")
    add_repconv(parser)
    add_preset(parser, "small")
    add_out(parser, default=Path("build/demo"))


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import demo

    repconv = choose_repconv(
        arguments.repconv, arguments.model, arguments.preset, arguments.out / "report" / "repconv.json")
    result = demo(
        model=arguments.model, video=arguments.video, clips=arguments.clips, preset=arguments.preset, out=arguments.out,
        held_out=arguments.held_out, repconv=repconv, progress=Progress(), show=show)
    return status(result.mismatches)
