"""The command `spikeloom simulate`: a clip on the RTL, against the reference."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Progress, command, seed, show, status

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
        commands, "simulate", _run,
        "Run one clip on the RTL, cycle by cycle, and hold it against the integer reference. Writes "
        "DIR/report/bit_exact.json and DIR/report/rtlsim_performance.json; the exit status is 0 only if every "
        "value compared is equal.",
        """
        spikeloom simulate build/machine --random 1 --every-layer
        spikeloom simulate build/machine --random 1 --layers 5:7
        spikeloom simulate build/machine --video holiday.mp4 --wave build/machine.vcd
        """)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that `build` wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", type=Path, metavar="FILE", help="take the clip from this video file")
    source.add_argument("--random", type=seed, metavar="SEED", help="random pixels")
    parser.add_argument("--every-layer", action="store_true", help="compare every tensor in DDR, not the logits alone")
    parser.add_argument("--observe", action="store_true",
                        help="compile again so that tensors which stay on chip go to DDR too, and are compared")
    parser.add_argument("--layers", type=_layer_range, metavar="A:B",
                        help="simulate operators A to B - 1 alone, their inputs taken from the reference")
    parser.add_argument("--wave", type=Path, metavar="FILE", help="write a waveform (VCD)")


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import simulate

    result = simulate(
        arguments.directory, video=arguments.video, random=arguments.random, every_layer=arguments.every_layer,
        observe=arguments.observe, layers=arguments.layers,
        wave=arguments.wave, progress=Progress())
    performance = result.performance
    show(f"{performance['cycles']:,} cycles for {performance['frames']} frames, {performance['synaptic_ops']:,} "
          f"synaptic operations, {100 * performance['utilisation']:.1f} % of the array's peak")
    show(result.summary)
    show(f"report  {arguments.directory / 'report' / 'bit_exact.json'}")
    return status(result.mismatches)


def _layer_range(text: str) -> tuple[int, int]:
    """`A:B`; either may be missing."""
    first, colon, last = text.partition(":")
    if not colon or not all(part == "" or part.isdigit() for part in (first, last)):
        raise argparse.ArgumentTypeError(f"must be A:B, not `{text}`")
    return int(first or 0), int(last or 1 << 30)
