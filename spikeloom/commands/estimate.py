"""The command `spikeloom estimate`: cycles of a network, without RTL."""

from __future__ import annotations

import argparse
from pathlib import Path

from spikeloom.config import PRESETS

from .options import Progress, add_repconv, choose_repconv, command, positive, show

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
        commands, "estimate", _run,
        "Estimate the cycles of a network from its program, without RTL, in seconds. MODEL is a named architecture "
        "(15M, 55M, v1-8-512, v3-5M ...; no weights are needed), or a directory that `quantize` or `build` wrote. A "
        "star marks what most of a layer's cycles are spent on.",
        """
        spikeloom estimate 15M
        spikeloom estimate 55M --frames 32 --size 224 --preset zcu104 --out build/estimate
        spikeloom estimate 15M --frames 8 --bounds
        spikeloom estimate 55M --size 112 --repconv auto --out build/estimate
        spikeloom estimate build/machine --json build/estimate.json
        """)
    parser.add_argument("model", metavar="MODEL", help="name, or a directory that `quantize` or `build` wrote")
    parser.add_argument(
        "--frames", type=positive, metavar="T",
        help="frames of a clip (8; of V1 4, of V2 and V3 1); named networks only")
    parser.add_argument(
        "--size", type=positive, metavar="S", help="height and width of a frame, pixels (224); named networks only")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), metavar="P",
        help=f"machine: {', '.join(sorted(PRESETS))} (that of a built directory, else zcu104)")
    add_repconv(parser)
    parser.add_argument(
        "--bounds", action="store_true", help="show also the cycles that would be left if transfers cost less")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="write estimate_layer_cycles.json, estimate_network_performance.json, roofline.png, and repconv.json with "
             "--repconv auto, which `quantize --repconv` reads")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write both reports into one file")


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import estimate

    repconv = choose_repconv(
        arguments.repconv, arguments.model, arguments.preset or "zcu104",
        arguments.out and arguments.out / "repconv.json", frames=arguments.frames, size=arguments.size)
    result = estimate(
        arguments.model, frames=arguments.frames, size=arguments.size, preset=arguments.preset, repconv=repconv,
        with_bounds=arguments.bounds, out=arguments.out, json=arguments.json, progress=Progress())
    show(result.table)
    show(result.summary)
    for path in result.files:
        show(str(path))
    return 0
