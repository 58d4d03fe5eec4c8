"""The command `spikeloom train`: a network by a TOML file."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from .options import command, show

__all__ = ["add"]

TEXT = (
    "Train a network by a TOML file, float or quantisation-aware. Writes OUT/model.safetensors and model.json for "
    "`quantize`, log.csv, TensorBoard events if tensorboardX is installed, and checkpoint.pt. Ctrl-C ends after the "
    "step, --resume goes on to the same bits. Several processes: torchrun --nproc-per-node 2 -m "
    "spikeloom.quantize.training CONFIG --out DIR.")
EXAMPLES = """
spikeloom train digits --out build/digits
spikeloom train digits-qat4 --out build/qat4 --threads 2
spikeloom train mine.toml --out build/mine --resume
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(commands, "train", _run, TEXT, EXAMPLES)
    parser.add_argument("config", metavar="CONFIG", help="TOML file, or name of one of quantize/training/configs")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="auto: a GPU where there is one (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch, per process")


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.quantize.training import train

    out = arguments.out
    report = train(
        arguments.config, out, resume=arguments.resume, device=arguments.device, threads=arguments.threads,
        command=shlex.join(["spikeloom", "train", arguments.config, "--out", str(out)]))
    if report:  # of several processes the first one reports
        show(json.dumps(report["test"]))
        show(f"model {out / 'model.safetensors'}, {report['parameters']:,} parameters, "
             f"{report['training']['schedule']['steps']} steps in {report['minutes']} minutes")
    return 0
