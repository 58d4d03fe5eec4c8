"""Self-test of a deployed machine, layer by layer: is the board right, and if not, which layer is wrong first?

    python3 validate.py              where the zip of `spikeloom deploy` was unpacked; on a board as root
    python3 -m spikeloom.host.validate [DIR]

Checks the files, loads bitstream and program, runs the stored input, compares the checksum of every layer's output with
the integer reference, then classifies the sample clips. Exit status: 0 all right; 1 something is wrong, one line says
what; 2 the driver is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path


def validate(directory: Path, *, timeout: float = 10.0) -> list[str]:
    """Run everything; lines to print.

    Args:
        directory: In or below the unpacked deployment.
        timeout: Seconds that a clip may take.

    Raises:
        RuntimeError, ValueError, OSError: What is wrong: files, bitstream, program, a layer, a clip.
    """
    import numpy as np

    from spikeloom.host.deployment import Deployment
    from spikeloom.host.driver import SpikeloomOverlay

    deployment = Deployment.find(directory)
    manifest = deployment.check()
    lines = [f"files           OK   {len(manifest['files'])} as packed"]
    samples = deployment.samples()
    with SpikeloomOverlay(deployment.bitfile, deployment.program, timeout=timeout) as overlay:
        lines.append(f"machine         OK   configuration {manifest['config_hash']}")
        wrong = overlay.self_test()
        if wrong is not None:
            raise RuntimeError(f"first wrong layer: {wrong}\n{overlay.driver.status()}")
        lines.append("self-test       OK   every stored layer equals the reference")
        begun = time.monotonic()
        for number, logits in enumerate(overlay.stream(samples.clips)):
            if not np.array_equal(logits, samples.logits[number]):
                raise RuntimeError(f"sample clip {number}: not the reference's logits, though the self-test is right")
        seconds = time.monotonic() - begun
        lines.append(f"sample clips    OK   {len(samples.clips)}, {1000 * seconds / len(samples.clips):.2f} ms each")
    return lines


def main(argv: list[str] | None = None) -> int:
    """The command; the exit status."""
    parser = argparse.ArgumentParser(description="Self-test of a deployed Spikeloom machine, layer by layer.")
    parser.add_argument(
        "directory", type=Path, nargs="?", default=Path("."), metavar="DIR", help="unpacked deployment (%(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="seconds that a clip may take (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        importlib.import_module("spikeloom.host.driver")
    except ImportError as error:
        print(f"validate: the driver or PYNQ is not installed ({error}): pip install wheels/*.whl", file=sys.stderr)
        return 2
    try:
        lines = validate(arguments.directory, timeout=arguments.timeout)
    except (RuntimeError, ValueError, OSError) as error:
        print(f"validate: FAILED: {error}", file=sys.stderr)
        return 1
    print("\n".join([*lines, "OK"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
