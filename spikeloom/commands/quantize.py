"""The command `spikeloom quantize`: a trained model to an integer network."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Progress, add_out, add_preset, add_repconv, choose_repconv, command, positive, show

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
        commands, "quantize", _run,
        "Turn a trained model into an integer network. MODEL is the name of a trained network of the zoo (digits), or "
        "a .safetensors file with its configuration in the .json file beside it, as `train` writes them.",
        """
        spikeloom quantize digits --out build/network
        spikeloom quantize digits --weight-bits 4 --out build/network4
        spikeloom quantize digits --repconv auto --preset small --out build/network
        spikeloom quantize runs/mine.safetensors --calibrate a.mp4 b.mp4 --out build/network
        """)
    parser.add_argument("model", metavar="MODEL", help="name in the zoo, or a .safetensors file")
    parser.add_argument(
        "--calibrate", type=Path, nargs="+", metavar="FILE", help="video files to calibrate on, one clip each")
    parser.add_argument(
        "--clips", type=positive, default=32, metavar="N",
        help="clips of moving digits to calibrate on otherwise (%(default)s)")
    parser.add_argument(
        "--weight-bits", type=int, choices=range(2, 9), metavar="B",
        help="bits of a weight, 2 to 8; the machine runs them all as int8 (8, or those that it was trained with)")
    add_repconv(parser)
    add_preset(parser, "zcu104", of="machine that --repconv auto chooses for")
    add_out(parser)


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import quantize

    repconv = choose_repconv(
        arguments.repconv, arguments.model, arguments.preset, arguments.out / "repconv.json")
    report = quantize(
        arguments.model, arguments.out, videos=arguments.calibrate or (), count=arguments.clips,
        weight_bits=arguments.weight_bits, repconv=repconv, progress=Progress())
    show(report.table())
    show(f"network {report.network_hash[:12]} in {arguments.out}")
    return 0
