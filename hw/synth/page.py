"""The committed page of resources: ``python -m spikeloom.hw.synth.page [--presets ...] [--out docs/...]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spikeloom.config import PRESETS

from .device import NAME, RESOURCES
from .estimate import synth

__all__ = ["main", "page", "summary"]

_SHOWN = 12  # blocks per preset


def summary(report: Mapping[str, Any]) -> list[str]:
    """Total and share of every resource, one line each; then the density and the deepest paths."""
    total, available, share = report["total"], report["available"], report["share"]
    lines = [f"{name:8} {total[name]:>9,g} of {available[name]:>8,}  {100 * share[name]:5.1f} %" for name in RESOURCES]
    lines += [f"{report['additions_per_cycle_per_1000_lut']:g} additions per cycle per 1,000 LUT"]
    lines += [f"beyond the limit: {name}" for name in report["beyond_limits"]]
    return lines + [f"too deep: {line}" for line in report["too_deep"]]


def page(reports: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: totals of all machines, then the biggest blocks and the deepest paths of each."""
    lines = [
        "# Resources", "", "<!-- written by `python -m spikeloom.hw.synth.page`; do not edit -->", "",
        f"{reports[0]['note'][0].upper()}{reports[0]['note'][1:]}. {reports[0]['tool']} for UltraScale+; {NAME}.", "",
        *(f"* {line}" for line in reports[0]["method"]), ""]
    head = ("preset", *RESOURCES, "additions per cycle per 1,000 LUT")
    rows = [(f"`{report['preset']}`", *(_amount(report, name) for name in RESOURCES),
             f"{report['additions_per_cycle_per_1000_lut']:g}") for report in reports]
    lines += _rows(head, rows)
    for report in reports:
        lines += ["", f"## `{report['preset']}`", "", *_blocks(report), "", *_depths(report)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Synthesise and write the page; the exit status."""
    parser = argparse.ArgumentParser(prog="spikeloom.hw.synth.page", description="Resources, by Yosys.")
    parser.add_argument("--presets", nargs="+", choices=sorted(PRESETS), default=["tiny", "small", "zcu104"])
    parser.add_argument("--out", type=Path, help="write the page to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        reports = [synth(preset=name, out=folder, progress=lambda message: print(message, file=sys.stderr, flush=True))
                   for name in options.presets]
    text = page(reports)
    print(text)
    if options.out is not None:
        options.out.write_text(text)
    return 0


def _amount(report: Mapping[str, Any], name: str) -> str:
    return f"{report['total'][name]:,g} ({100 * report['share'][name]:.1f} %)"


def _blocks(report: Mapping[str, Any]) -> list[str]:
    """The blocks with the most LUTs of their own."""
    def own(block: Mapping[str, Any], name: str) -> float:
        return block["instances"] * block["own"][name]

    most = sorted(report["blocks"], key=lambda block: -own(block, "LUT"))[:_SHOWN]
    names = tuple(name for name in RESOURCES if report["total"][name])
    rows = [(f"`{block['name'].removeprefix('spikeloom_')}`", f"{block['instances']:,}",
             *(f"{own(block, name):,g}" for name in names)) for block in most]
    return ["Own cells of all instances, most LUTs first:", "", *_rows(("block", "instances", *names), rows)]


def _depths(report: Mapping[str, Any]) -> list[str]:
    limits = report["depth_limits"]
    goal = f"{limits['levels']} LUT levels or {limits['carry']} bits of carry chain"
    if not report["too_deep"]:
        return [f"No register-to-register path has more than {goal}."]
    return [f"Register-to-register paths of more than {goal}:", "", *(f"* {line}" for line in report["too_deep"])]


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    sys.exit(main())
