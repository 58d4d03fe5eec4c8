"""The command `spikeloom run`: video through the driver."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .options import Progress, add_device, command, port, positive, show

__all__ = ["add"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = command(
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
    add_device(parser)
    parser.add_argument("--clips", type=positive, metavar="N", help="stop after so many clips")
    parser.add_argument("--stride", type=positive, default=1, metavar="N", help="take every N-th frame (%(default)s)")
    parser.add_argument(
        "--hop", type=positive, metavar="N", help="frames from one clip's start to the next (as many as a clip spans)")
    parser.add_argument(
        "--whole", action="store_true", help="one clip spread over the whole file, as `simulate --video` does")
    parser.add_argument("--loop", action="store_true", help="start again at the end of the source")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="names of the classes, one per line, or JSON {task: [name, ...]}")
    parser.add_argument("--json", action="store_true", help="a JSON object per line instead of text")
    parser.add_argument("--serve", type=port, metavar="PORT", help="show the run on a web page; 0 takes a free port")
    parser.add_argument(
        "--bind", default="127.0.0.1", metavar="ADDRESS",
        help="where that page listens (%(default)s); 0.0.0.0 shows the picture to the whole network")


def _run(arguments: argparse.Namespace) -> int:
    from spikeloom.api import run
    from spikeloom.host.pipeline_run import describe, show_summary

    with tqdm(total=arguments.clips, desc="  clips", unit="clip", disable=None, leave=False) as bar:
        def each(result: Any) -> None:
            show(json.dumps(result.to_dict()) if arguments.json else describe(result, arguments.device))
            bar.update()

        summary = run(
            arguments.directory, source=arguments.source, device=arguments.device, clips=arguments.clips,
            stride=arguments.stride, hop=arguments.hop, whole=arguments.whole, loop=arguments.loop,
            labels=arguments.labels, timeout=arguments.timeout, serve=arguments.serve, bind=arguments.bind, each=each,
            progress=Progress())
    for line in [json.dumps({"summary": summary})] if arguments.json else show_summary(summary):
        show(line)
    return 0
