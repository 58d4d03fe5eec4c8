"""The command `spikeloom import`: the weights of a checkpoint from outside."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .options import Progress, command, show

if TYPE_CHECKING:
    from spikeloom.quantize.checkpoints import ImportedModel

__all__ = ["add"]

TEXT = (
    "Take the weights of a checkpoint from outside into a model that `quantize` takes. Reads .safetensors and what "
    "torch.save wrote (.pth, .pt), the latter without running code from it. Says every tensor that is missing, left "
    "over, of another shape or not finite. --check runs the original network on the same weights and compares.")
EXAMPLES = """
spikeloom import SVF_15M.pth --arch 15M --out models/m15
spikeloom quantize models/m15.safetensors --calibrate a.mp4 b.mp4 --out build/network
spikeloom import checkpoint-199.pth --arch v2-55M --distilled average --size 224 --out models/v2
spikeloom import best.pth --ema --frames 8 --mean 0.45,0.45,0.45 --std 0.225,0.225,0.225 --out models/mine
spikeloom import SVF_15M.pth --arch 15M --check ~/SpikeVideoFormer --python ~/svf/bin/python
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(commands, "import", _run, TEXT, EXAMPLES)
    parser.add_argument("file", type=Path, metavar="FILE", help="the checkpoint")
    parser.add_argument("--arch", metavar="A", help="as 15M or v2-55M; default: told from names and shapes")
    parser.add_argument("--out", type=Path, metavar="PATH", help="write PATH.safetensors and PATH.json")
    parser.add_argument("--ema", action="store_true", help="take the moving average of the weights")
    parser.add_argument(
        "--distilled", choices=("average", "head", "head_kd"), default="average",
        help="of the two heads of a distilled network (%(default)s)")
    parser.add_argument("--heads", type=_heads, metavar="N[,N]", help="attention heads (of stages 3, 4)")
    parser.add_argument("--design", metavar="D", help="where attention looks: joint, neuron (within a frame) ...")
    parser.add_argument("--frames", type=int, metavar="N", help="time steps of a clip")
    parser.add_argument("--size", type=_size, metavar="H[xW]", help="frames in pixels")
    parser.add_argument("--mean", type=_channels, metavar="R,G,B", help="mean of pixels from 0 to 1")
    parser.add_argument("--std", type=_channels, metavar="R,G,B", help="standard deviation of pixels from 0 to 1")
    parser.add_argument(
        "--neuron", type=_assignment, nargs="+", metavar="FIELD=VALUE", help="as leak=half reset=soft threshold=0.5")
    check = parser.add_argument_group("check against the original (runs the code of that repository)")
    check.add_argument("--check", type=Path, metavar="REPO", help="copy of the original's repository")
    check.add_argument("--module", metavar="FILE", help="file in it that defines the network")
    check.add_argument("--builder", metavar="NAME", help="function in it to call without arguments")
    check.add_argument("--python", type=Path, metavar="FILE", help="Python of its environment (default: this one)")


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.quantize.checkpoints import ImportOptions, import_model

    options = {name: getattr(arguments, name) for name in ImportOptions.__dataclass_fields__}
    options["neuron"] = dict(arguments.neuron or ())
    progress = Progress()
    progress(f"read {arguments.file}")
    imported = import_model(arguments.file, ImportOptions(**options))
    for notice in imported.notices:
        print(f"spikeloom: notice: {notice}", file=sys.stderr)
    parameters = sum(value.numel() for value in imported.model.parameters())
    sha256 = imported.checkpoint.sha256[:12]
    show(f"{imported.name} ({imported.family.name}), {parameters:,} parameters, sha256 {sha256}")
    status = _check(imported, arguments, progress) if arguments.check else 0
    if arguments.out is None:
        show("nothing written: --out PATH writes the model")
    else:
        for path in imported.save(arguments.out):
            show(str(path))
    return status


def _check(imported: ImportedModel, arguments: argparse.Namespace, progress: Progress) -> int:
    from spikeloom.quantize.checkpoints.against import compare_with_original

    progress(f"run the original of {arguments.check} and ours")
    agreement = compare_with_original(
        imported, arguments.check, module=arguments.module, builder=arguments.builder, python=arguments.python)
    for stage in agreement.stages:
        show(str(stage))
    if agreement.agrees:
        show(f"agrees with {agreement.module}")
        return 0
    print(f"spikeloom: differs from {agreement.module}", file=sys.stderr)
    return 1


def _heads(text: str) -> int | tuple[int, ...]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be N or N,N, not `{text}`") from None
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"must be FIELD=VALUE, not `{text}`")
    return name, value


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be H or HxW in pixels, not `{text}`") from None


def _channels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, not `{text}`") from None
