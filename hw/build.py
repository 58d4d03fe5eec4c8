"""Integer network + preset -> everything that runs: Verilog, program, report.

    OUT/rtl/spikeloom.v           the machine; depends on the preset only
    OUT/program/program.bin, .json, .asm    what it executes, its memory map, the listing for people
    OUT/program/self_test.bin, .json        a clip and the checksum of every layer, for a board (needs torch)
    OUT/network/                  the integer network itself, so that OUT can be simulated without anything else
    OUT/report/build.json         hashes, sizes, additions per clip
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import spikeloom
from spikeloom.config import MachineConfig
from spikeloom.config import preset as named_preset
from spikeloom.network import Network
from spikeloom.operations import additions_by_engine

from .gateware.cache import cache_directory, content_hash, exclusive, write_atomically
from .program.compiler import compile_network
from .program.program import Program

__all__ = ["TOP", "build", "emit_machine", "write_report"]

TOP = "spikeloom"
"""Name of the top module and of the Verilog file."""


def build(
    network: str | Path | Network, *, preset: str | MachineConfig = "zcu104", out: str | Path,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compile a network for a machine and emit the machine.

    Args:
        network: Directory written by `quantize`, or the network.
        preset: Name of a preset, or a configuration of your own.
        out: Directory to write to, created if need be.
        progress: Hears one line per step.

    Returns:
        The content of `report/build.json`.

    Raises:
        NetworkError: The network cannot be read or is malformed.
        ValueError: No such preset, or an operator cannot be mapped (the message names it and the reason).
    """
    tell = progress or (lambda message: None)
    config = named_preset(preset) if isinstance(preset, str) else preset
    network = network if isinstance(network, Network) else Network.load(network)
    out = Path(out)
    for name in ("rtl", "program", "report"):
        (out / name).mkdir(parents=True, exist_ok=True)
    tell("compile the network")
    program = compile_network(network, config)
    program.save(out / "program")
    write_atomically(out / "program" / "program.asm", program.listing())
    network.save(out / "network")
    tell("emit the Verilog")
    verilog = emit_machine(config)
    write_atomically(out / "rtl" / f"{TOP}.v", verilog)
    report = _report(network, config, program, verilog, preset if isinstance(preset, str) else None)
    write_report(out / "report" / "build.json", report)
    tell("write the self-test")
    _write_self_test(out, tell)
    return report


def _write_self_test(out: Path, tell: Callable[[str], None]) -> None:
    """The expected tensors are the integer reference's, which runs on torch; without torch there is no self-test."""
    try:
        from spikeloom.sim.self_test import write_self_test
    except ModuleNotFoundError as error:
        for name in ("self_test.bin", "self_test.json"):
            (out / "program" / name).unlink(missing_ok=True)
        tell(f"no self-test: {error.name} is not installed")
        return
    write_self_test(out)


def emit_machine(config: MachineConfig) -> str:
    """Verilog of the machine: the same text for the same configuration, on every run.

    Emitting takes Amaranth up to minutes, so the text is kept in the cache under a hash of the configuration and of
    every source file that it is made from.
    """
    sources = sorted((Path(__file__).parent / "gateware").glob("*.py"))
    sources += [Path(__file__).parent / "isa.py", *sorted(Path(spikeloom.__file__).parent.glob("*.py"))]
    key = content_hash([version("amaranth"), json.dumps(config.hardware), *(path.read_bytes() for path in sources)])
    path = cache_directory("rtl") / f"{key}.v"
    with exclusive(path.with_suffix(".lock")):
        if not path.exists():
            from .gateware.accelerator import Accelerator
            from .gateware.emit import emit_verilog

            write_atomically(path, emit_verilog(Accelerator(config), name=TOP))
    return path.read_text()


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(report, indent=1) + "\n")


def _report(
    network: Network, config: MachineConfig, program: Program, verilog: str, preset: str | None
) -> dict[str, Any]:
    return {
        "network_hash": network.hash, "config_hash": f"{config.hash:08x}", "preset": preset, "config": asdict(config),
        "peak_ops_per_cycle": config.peak_ops_per_cycle, "additions_per_clip": additions_by_engine(network),
        "verilog": {"sha256": hashlib.sha256(verilog.encode()).hexdigest(), "bytes": len(verilog)},
        "program": {
            "bytes": len(program.image), "instructions": program.instruction_count,
            "workspace_bytes": program.workspace_bytes, "input_bytes": program.input_bytes,
            "output_bytes": program.output_bytes},
    }
