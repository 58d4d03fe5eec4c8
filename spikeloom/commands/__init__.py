"""The commands of `spikeloom`, a file each: its parser, and what it shows of the function of `spikeloom.api`."""

from __future__ import annotations

from . import (
    bitstream,
    build,
    demo,
    deploy,
    estimate,
    import_checkpoint,
    measure,
    quantize,
    run,
    simulate,
    synth,
    train,
    vivado,
)

__all__ = ["COMMANDS"]

COMMANDS = (
    demo, train, import_checkpoint, quantize, build, simulate, run, measure, estimate, synth, vivado, bitstream, deploy)
"""In the order of `spikeloom --help`; each has `add(commands)`."""
