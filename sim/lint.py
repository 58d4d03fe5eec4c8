"""Lint the Verilog of presets: ``python -m spikeloom.sim.lint [PRESET...]``, by default all of them.

Runs ``verilator --lint-only -Wall``; the waivers, each with its reason, are `spikeloom.sim.verilator.LINT_WAIVERS`.
"""

from __future__ import annotations

import sys

from spikeloom.config import PRESETS, preset
from spikeloom.hw.build import TOP, emit_machine

from .verilator import BuildError, LintError, lint


def main(names: list[str]) -> int:
    """Lint each preset; the exit status."""
    failed = False
    for name in names or list(PRESETS):
        try:
            verilog = emit_machine(preset(name))
            lint(verilog, top=TOP)
        except (LintError, BuildError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{name}: {len(verilog):,} bytes of Verilog, no findings")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
