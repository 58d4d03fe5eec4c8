"""Vivado's report files, read back.

    report_timing_summary -file timing_summary.rpt --> `Timing`: worst slacks, failing endpoints, worst path
    report_utilization -file utilization.rpt       --> `resources`: used and available, by kind
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ReportError", "Timing", "TimingPath", "read_resources", "read_timing"]


class ReportError(ValueError):
    """A report does not look as Vivado writes it."""


@dataclass(frozen=True, kw_only=True)
class TimingPath:
    """One path of the report."""

    kind: str
    slack_ns: float
    source: str
    destination: str
    group: str
    delay: str
    levels: str

    def __str__(self) -> str:
        return (f"{self.kind} path from {self.source} to {self.destination} (clock {self.group}): slack "
                f"{self.slack_ns:+.3f} ns, delay {self.delay}, logic levels {self.levels}")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Worst slacks in ns and failing endpoints of set-up, hold and pulse width; the path with the least slack."""

    setup_slack_ns: float
    setup_failing: int
    hold_slack_ns: float
    hold_failing: int
    pulse_width_slack_ns: float
    pulse_width_failing: int
    worst_path: TimingPath | None

    @property
    def met(self) -> bool:
        return min(self.setup_slack_ns, self.hold_slack_ns, self.pulse_width_slack_ns) >= 0

    def failure(self) -> str:
        """One line on why the timing is not met."""
        slacks = {"set-up": (self.setup_slack_ns, self.setup_failing), "hold": (self.hold_slack_ns, self.hold_failing),
                  "pulse width": (self.pulse_width_slack_ns, self.pulse_width_failing)}
        failing = [f"{name} slack {slack:+.3f} ns at {count} endpoints"
                   for name, (slack, count) in slacks.items() if slack < 0]
        where = f"; worst {self.worst_path}" if self.worst_path else ""
        return f"timing is not met: {', '.join(failing)}{where}"

    def as_dict(self) -> dict[str, Any]:
        """For a JSON report."""
        return {**asdict(self), "met": self.met}


_SUMMARY = re.compile(
    r"^\s*WNS\(ns\)\s+TNS\(ns\)[^\n]*WHS\(ns\)[^\n]*WPWS\(ns\)[^\n]*\n[\s-]+\n(?P<values>[^\n]+)", re.M)
_PATH = re.compile(
    r"^Slack\s*\((?:VIOLATED|MET)\)\s*:\s+(?P<slack>-?[\d.]+)ns.*?\n"
    r"\s+Source:\s+(?P<source>\S+).*?"
    r"\s+Destination:\s+(?P<destination>\S+).*?"
    r"\s+Path Group:\s+(?P<group>\S+).*?"
    r"\s+Path Type:\s+(?P<kind>\S+).*?"
    r"\s+Data Path Delay:\s+(?P<delay>\S+).*?"
    r"\s+Logic Levels:\s+(?P<levels>\d+)", re.M | re.S)

_RESOURCES = {
    "lut": "CLB LUTs", "lut_logic": "LUT as Logic", "lut_memory": "LUT as Memory", "register": "CLB Registers",
    "carry8": "CARRY8", "block_ram_tile": "Block RAM Tile", "ultra_ram": "URAM", "dsp": "DSPs"}


def read_timing(text: str) -> Timing:
    """Figures of a timing summary.

    Raises:
        ReportError: No table of the design's timing, or nothing is constrained.
    """
    match = _SUMMARY.search(text)
    if match is None:
        raise ReportError("timing_summary.rpt: no Design Timing Summary")
    values = match["values"].split()
    try:
        slacks = [float(values[i]) for i in (0, 4, 8)]
        failing = [int(values[i]) for i in (2, 6, 10)]
    except (IndexError, ValueError) as error:
        raise ReportError(f"timing_summary.rpt: unconstrained or unreadable: {match['values'].strip()}") from error
    paths = [_path(found) for found in _PATH.finditer(text)]
    return Timing(
        setup_slack_ns=slacks[0], setup_failing=failing[0], hold_slack_ns=slacks[1], hold_failing=failing[1],
        pulse_width_slack_ns=slacks[2], pulse_width_failing=failing[2],
        worst_path=min(paths, key=lambda path: path.slack_ns, default=None))


def _path(found: re.Match[str]) -> TimingPath:
    return TimingPath(
        kind=found["kind"], slack_ns=float(found["slack"]), source=found["source"], destination=found["destination"],
        group=found["group"], delay=found["delay"], levels=found["levels"])


def read_resources(text: str) -> dict[str, dict[str, float]]:
    """Resources by kind: `used`, `available`, `percent`. A tile of block RAM holds two halves, hence fractions.

    Raises:
        ReportError: A kind is missing.
    """
    columns: list[str] = []
    rows: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|") or len(cells) < 3:
            continue
        if cells[0] == "Site Type":
            columns = cells
        elif columns and len(cells) == len(columns):
            rows.setdefault(cells[0].rstrip("*"), dict(zip(columns, cells, strict=True)))
    missing = [site for site in _RESOURCES.values() if site not in rows]
    if missing:
        raise ReportError(f"utilization.rpt: no row for {', '.join(missing)}")
    return {name: _row(rows[site]) for name, site in _RESOURCES.items()}


def _row(cells: dict[str, str]) -> dict[str, float]:
    used, available = float(cells["Used"]), float(cells["Available"])
    return {"used": used, "available": available, "percent": round(100 * used / available, 2) if available else 0.0}
