"""What commands share: their parsers, options, kinds of values, and how they show progress and results."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path

from tqdm import tqdm

from spikeloom.config import PRESETS

__all__ = [
    "Progress", "add_device", "add_out", "add_preset", "add_repconv", "choose_repconv", "command", "port", "positive",
    "seconds", "seed", "show", "status"]


class Progress:
    """Steps on stderr (stdout holds results only), one line each; steps of the form `what: 3 of 20` as a bar."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, message: str) -> None:
        counted = re.fullmatch(r"(.+): (\d+) of (\d+)", message)
        if counted is None:
            self._close()
            tqdm.write(f"  {message}", file=sys.stderr)
            return
        what, done, total = counted[1], int(counted[2]), int(counted[3])
        if self._bar is None:
            self._bar = tqdm(total=total, desc=f"  {what}", disable=None, leave=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def show(line: str) -> None:
    """A line of the result, on stdout, above any bar."""
    tqdm.write(line)
    sys.stdout.flush()


def status(mismatches: int) -> int:
    """Exit status of a comparison with so many values that differ; says so on stderr."""
    if mismatches:
        print("spikeloom: the RTL is not bit-exact", file=sys.stderr)
    return int(mismatches != 0)


def command(
    commands: argparse._SubParsersAction, name: str, run: object, text: str, examples: str
) -> argparse.ArgumentParser:
    """A command with what all of them have; its examples are shown below the options."""
    parser = commands.add_parser(
        name, help=text.split(". ")[0].rstrip("."), description=textwrap.fill(text, 100),
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)
    return parser


def add_preset(parser: argparse.ArgumentParser, default: str, of: str = "machine") -> None:
    """Add `--preset`, which is what `of` says."""
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default=default, metavar="P",
        help=f"{of}: {', '.join(sorted(PRESETS))} (%(default)s)")


def add_out(parser: argparse.ArgumentParser, default: Path | None = None) -> None:
    """Add `--out`, required unless there is a default."""
    shown = " (%(default)s)" if default is not None else ""
    parser.add_argument(
        "--out", type=Path, required=default is None, default=default, metavar="DIR", help=f"directory to write{shown}")


def add_repconv(parser: argparse.ArgumentParser) -> None:
    """Add `--repconv`; `choose_repconv` tells what it says."""
    parser.add_argument(
        "--repconv", default="fused", metavar="FORM",
        help="RepConvs of attention: fused (one 3x3 each), unfused (three convolutions each, other rounding), auto "
             "(whichever takes fewer cycles on the machine by the cycle model, each by itself), or a file that auto "
             "wrote (%(default)s)")


def choose_repconv(
    repconv: str, model: str, preset: str, path: Path | None, *, frames: int | None = None, size: int | None = None
) -> str | tuple[str, ...]:
    """`--repconv` for functions of `spikeloom.api`; `auto` is decided and shown here, and written to `path`."""
    if repconv != "auto":
        return repconv
    from spikeloom import api

    choice = api.choose_repconv(model, preset=preset, frames=frames, size=size, progress=Progress())
    show(choice.table())
    if path is not None:
        show(f"choice {choice.save(path)}")
    return choice.unfused


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device` and `--timeout`."""
    parser.add_argument(
        "--device", choices=("sim", "board", "reference"), default="sim",
        help="sim: the RTL in a simulated board; board: the ZCU104, through PYNQ; reference: the integer reference, "
             "quick, no cycles (%(default)s)")
    parser.add_argument(
        "--timeout", type=seconds, default=10.0, metavar="S",
        help="seconds that the machine may take for a clip, in its own time (%(default)s)")


def seed(text: str) -> int:
    """An integer that is not negative."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, is {value}")
    return value


def port(text: str) -> int:
    """A TCP port; 0 takes a free one."""
    value = int(text)
    if not 0 <= value < 1 << 16:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, not {value}")
    return value


def seconds(text: str) -> float:
    """A time above 0."""
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value
