"""Longest combinational paths of a synthesised design, through the boundaries of its modules.

Depth has two measures, each a maximum over all paths: **levels**, the look-up tables on a path (an asynchronous read of
a distributed memory is one; the multiplexers F7 to F9 beside the tables are none), and **carry**, the bits of carry
chain that it runs through. There is no wire delay in it.

A module is searched once. What its parent needs of it is its `Timing`: for every bit of its ports the depth from or to
a register inside, and the paths straight through. A registered port has depth 0 and no path through.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .device import cost_of

__all__ = ["MEASURES", "Path", "Timing", "timing"]

MEASURES = ("levels", "carry")

_Bit = tuple[str, int]
"""A bit of a port: name and index."""

_REGISTERS = {"FDRE", "FDSE", "FDCE", "FDPE"}
_CLOCKED = _REGISTERS | {"DSP48E2", "RAMB36E2", "RAMB18E2", "URAM288"}
_CLOCKS = {"C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK"}
_CONSTANT_DRIVERS = {"GND", "VCC"}
_SHIFT_REGISTERS = {"SRL16E", "SRLC16E", "SRLC32E"}


@dataclass(frozen=True)
class Path:
    """The worst path by one measure, from register (or port) `start` to register (or port) `end`."""

    depth: int
    start: str
    end: str

    def __str__(self) -> str:
        return f"{self.depth}: {self.start} -> {self.end}"


@dataclass
class Timing:
    """Depths of one module by one measure.

    `inside` is the worst register-to-register path that lies in the module or its children. `to_register` and
    `from_register` give per bit of the ports (depth, name of the register); `through` per output bit the input bits
    that reach it without a register, with depth.
    """

    inside: Path | None = None
    to_register: dict[_Bit, tuple[int, str]] = field(default_factory=dict)
    from_register: dict[_Bit, tuple[int, str]] = field(default_factory=dict)
    through: dict[_Bit, dict[_Bit, int]] = field(default_factory=dict)

    def worst_in(self) -> Path | None:
        """The deepest path from an input port to a register."""
        return max((Path(depth, _named(bit), name) for bit, (depth, name) in self.to_register.items()),
                   key=lambda path: path.depth, default=None)

    def worst_out(self) -> Path | None:
        """The deepest path from a register to an output port."""
        return max((Path(depth, name, _named(bit)) for bit, (depth, name) in self.from_register.items()),
                   key=lambda path: path.depth, default=None)

    def worst_through(self) -> Path | None:
        """The deepest path from an input port to an output port."""
        return max((Path(depth, _named(given), _named(bit)) for bit, depths in self.through.items()
                    for given, depth in depths.items()), key=lambda path: path.depth, default=None)

    def summary(self) -> dict[str, Any]:
        """The worst paths, for a report."""
        worst = {"register_to_register": self.inside, "input_to_register": self.worst_in(),
                 "register_to_output": self.worst_out(), "input_to_output": self.worst_through()}
        return {name: asdict(path) if path else None for name, path in worst.items()}


def timing(netlist: Mapping[str, Any], children: Mapping[str, Mapping[str, Timing]]) -> dict[str, Timing]:
    """Depths of a module by each of `MEASURES`; `children` has those of the modules that it instantiates.

    Raises:
        ValueError: A cell that is not known, or a loop without a register.
    """
    return {measure: _Search(netlist, children, measure).result() for measure in MEASURES}


class _Search:
    """One module, one measure: an arc per (input, output) of every cell, then one walk in topological order."""

    def __init__(self, netlist: Mapping[str, Any], children: Mapping[str, Mapping[str, Timing]], measure: str) -> None:
        self._netlist, self._children, self._carry = netlist, children, measure == "carry"
        self._names = _net_names(netlist)
        self._arcs: dict[Any, list[tuple[Any, int]]] = defaultdict(list)
        self._degree: dict[Any, int] = defaultdict(int)
        self._starts: dict[Any, tuple[int, str]] = {}
        self._ends: dict[Any, tuple[int, str]] = {}
        self._measure = measure
        for name, cell in netlist["cells"].items():
            self._add(name, cell)
        self._inputs = {
            bit: (port, index) for port, entry in netlist["ports"].items() if entry["direction"] == "input"
            for index, bit in enumerate(entry["bits"])}

    def result(self) -> Timing:
        found = Timing()
        depth, origins = dict(self._starts), {bit: {place: 0} for bit, place in self._inputs.items()}
        for bit in self._in_order():
            self._finish(bit, depth.get(bit), origins.get(bit), found)
            for target, cost in self._arcs.get(bit, ()):
                if bit in depth:
                    _raise(depth, target, depth[bit][0] + cost, depth[bit][1])
                if bit in origins:
                    reached = origins.setdefault(target, {})
                    for place, before in origins[bit].items():
                        reached[place] = max(reached.get(place, 0), before + cost)
        for port, entry in self._netlist["ports"].items():
            if entry["direction"] == "output":
                for index, bit in enumerate(entry["bits"]):
                    if bit in depth:
                        found.from_register[port, index] = depth[bit]
                    if origins.get(bit):
                        found.through[port, index] = origins[bit]
        return found

    def _finish(self, bit: Any, depth: tuple[int, str] | None, origins: Mapping[_Bit, int] | None, to: Timing) -> None:
        """Paths that end in a register at `bit`."""
        if bit not in self._ends:
            return
        more, end = self._ends[bit]
        if depth and (to.inside is None or depth[0] + more > to.inside.depth):
            to.inside = Path(depth[0] + more, depth[1], end)
        for place, before in (origins or {}).items():
            _raise(to.to_register, place, before + more, end)

    def _in_order(self) -> Iterator[Any]:
        """All nets, each after those that it depends on."""
        degree = dict(self._degree)
        known = set(self._arcs) | set(self._starts) | set(self._ends) | set(self._inputs)
        ready = [bit for bit in known if not degree.get(bit)]
        while ready:
            bit = ready.pop()
            yield bit
            for target, _ in self._arcs.get(bit, ()):
                degree[target] -= 1
                if not degree[target]:
                    ready.append(target)
        if looping := [bit for bit, count in degree.items() if count]:
            raise ValueError(f"a loop without a register through {self._names.get(looping[0], looping[0])}")

    def _add(self, name: str, cell: Mapping[str, Any]) -> None:
        kind, pins = cell["type"], cell["connections"]
        if kind in self._children:
            self._add_child(name, pins, self._children[kind][self._measure])
        elif kind in _CLOCKED:
            self._add_clocked(name, kind, pins, cell["port_directions"])
        elif kind == "CARRY4":
            self._add_carry(pins)
        elif kind.startswith("LUT") or kind == "INV":
            self._connect([pin[0] for port, pin in pins.items() if port != "O"], pins["O"], not self._carry)
        elif kind.startswith("MUXF"):
            self._connect([pins["I0"][0], pins["I1"][0], pins["S"][0]], pins["O"], 0)
        elif kind.startswith("RAM") or kind in _SHIFT_REGISTERS:
            self._add_memory(name, pins, cell["port_directions"])
        elif kind == "BUFG":
            self._connect(pins["I"], pins["O"], 0)
        elif kind not in _CONSTANT_DRIVERS:
            reason = "has no model of its paths" if cost_of(kind) else "is not known"
            raise ValueError(f"cell `{name}`: its type `{kind}` {reason}")

    def _add_clocked(self, name: str, kind: str, pins: Mapping[str, Any], directions: Mapping[str, str]) -> None:
        label = self._names.get(pins["Q"][0], name) if kind in _REGISTERS else _plain(name)
        for port, bits in pins.items():
            if port in _CLOCKS:
                continue
            for bit in bits:
                _raise(self._starts if directions[port] == "output" else self._ends, bit, 0, label)

    def _add_memory(self, name: str, pins: Mapping[str, Any], directions: Mapping[str, str]) -> None:
        """A distributed memory or shift register: every address reaches the outputs of its letter."""
        label = _plain(name)
        for port, bits in pins.items():
            if directions[port] == "output":
                for bit in bits:
                    _raise(self._starts, bit, int(not self._carry), label)
                self._connect([bit for source in _addresses(port, pins) for bit in pins[source]], bits, not self._carry)
            elif port not in _CLOCKS:
                for bit in bits:
                    _raise(self._ends, bit, 0, label)

    def _add_carry(self, pins: Mapping[str, Any]) -> None:
        for place in range(4):
            for port in ("CO", "O"):
                if place >= len(pins[port]):
                    continue
                target = pins[port][place:place + 1]
                self._connect([*pins["CI"], *pins["CYINIT"]], target, (place + 1) * self._carry)
                for source in range(place + 1):
                    bits = [pins[kind][source] for kind in ("S", "DI") if port == "CO" or kind == "S" or source < place]
                    self._connect(bits, target, (place - source + 1) * self._carry)

    def _add_child(self, name: str, pins: Mapping[str, Any], child: Timing) -> None:
        name = _plain(name)
        for (port, index), (depth, label) in child.from_register.items():
            if index < len(pins.get(port, ())):
                _raise(self._starts, pins[port][index], depth, f"{name}/{label}")
        for (port, index), (depth, label) in child.to_register.items():
            if index < len(pins.get(port, ())):
                _raise(self._ends, pins[port][index], depth, f"{name}/{label}")
        for (port, index), depths in child.through.items():
            if index < len(pins.get(port, ())):
                for (source, place), depth in depths.items():
                    if place < len(pins.get(source, ())):
                        self._connect([pins[source][place]], [pins[port][index]], depth)

    def _connect(self, sources: list[Any], targets: list[Any], cost: int) -> None:
        for source in sources:
            if isinstance(source, str):  # a constant
                continue
            for target in targets:
                self._arcs[source].append((target, int(cost)))
                self._degree[target] += 1


def _raise(table: dict[Any, tuple[int, str]], key: Any, depth: int, label: str) -> None:
    """Note the deeper of two paths; constants have none."""
    if not isinstance(key, str) and (key not in table or depth > table[key][0]):
        table[key] = depth, label


def _addresses(output: str, pins: Mapping[str, Any]) -> list[str]:
    """Address pins that an output of a memory depends on."""
    if len(output) == 3 and output.startswith("DO"):
        return [f"ADDR{output[2]}"]
    if output == "DPO":
        return [pin for pin in pins if pin.startswith("DPRA")]
    if output == "Q31":
        return []
    return [pin for pin in pins if re.fullmatch(r"A\d*", pin)]


def _net_names(netlist: Mapping[str, Any]) -> dict[Any, str]:
    """Net -> the shortest name that the source gave it."""
    names: dict[Any, str] = {}
    for name, entry in netlist["netnames"].items():
        if entry["hide_name"]:
            continue
        for index, bit in enumerate(entry["bits"]):
            text = _plain(name) + (f"[{index}]" if len(entry["bits"]) > 1 else "")
            if bit not in names or len(text) < len(names[bit]):
                names[bit] = text
    return names


def _plain(name: str) -> str:
    return name.lstrip("\\").replace("$auto$", "").split(" ")[0]


def _named(bit: _Bit) -> str:
    return f"{bit[0]}[{bit[1]}]"
