"""Expected hardware description against the one that Vivado wrote.

Compared is what the driver relies on: cells and their types, addresses, registers and fields of the accelerator, its
ports, bus connections with their widths, clock, reset and interrupt nets, the clock's frequency. Anything else that a
real description holds is ignored, and so are versions of Vivado's own IPs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from spikeloom.board import INSTANCE

__all__ = ["compare_hwh", "read_hwh"]

CLOCK_TOLERANCE = 1e-3
"""Relative. Vivado's figure for the board's crystal differs between releases of the board files."""

Facts = dict[str, str]
"""What a description says, one fact per key; keys are readable."""

Element = ElementTree.Element


def read_hwh(path: Path) -> str:
    """Text of a hardware description.

    Raises:
        ValueError: It is no hardware description.
    """
    text = path.read_text(encoding="utf-8")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: no hardware description: {error}") from error
    if root.tag != "EDKSYSTEM" or root.find("MODULES") is None:
        raise ValueError(f"{path}: no hardware description: its root is <{root.tag}>")
    return text


def compare_hwh(expected: str, real: str) -> list[str]:
    """Differences between two descriptions, one line each; empty if the driver will find what it expects.

    Args:
        expected, real: XML texts.

    Returns:
        Lines `<fact>: expected <value>, found <value>`; `nothing` stands for a fact that is missing.
    """
    wanted, found = _facts(ElementTree.fromstring(expected)), _facts(ElementTree.fromstring(real))
    lines = []
    for key in dict.fromkeys([*wanted, *found]):
        if key not in wanted and not key.startswith(_CLOSED):
            continue
        first, second = wanted.get(key, "nothing"), found.get(key, "nothing")
        if first != second and not (key.startswith("clock frequency") and _close(first, second)):
            lines.append(f"{key}: expected {first}, found {second}")
    return lines


_CLOSED = (f"register of {INSTANCE}", f"port of {INSTANCE}", "address in")
"""Facts that must not appear without being expected; others a real description may have more of."""


def _close(first: str, second: str) -> bool:
    try:
        return abs(int(first) - int(second)) <= CLOCK_TOLERANCE * int(first)
    except ValueError:
        return False


def _facts(root: Element) -> Facts:
    modules = {module.get("INSTANCE", ""): module for module in root.iter("MODULE")}
    facts: Facts = {}
    for name, module in modules.items():
        facts[f"cell {name}"] = _kind(module, own=name == INSTANCE)
        facts |= dict(_addresses(name, module))
        facts |= dict(_interfaces(name, module))
        facts |= dict(_frequencies(name, module))
    facts |= dict(_nets(modules))
    if INSTANCE in modules:
        facts |= dict(_registers(modules[INSTANCE]))
        facts |= dict(_ports(modules[INSTANCE]))
    return facts


def _kind(module: Element, *, own: bool) -> str:
    parts = module.get("VLNV", "").split(":")
    return ":".join(parts if own else parts[:3])


def _addresses(name: str, module: Element) -> Iterator[tuple[str, str]]:
    for entry in module.iter("MEMRANGE"):
        slave = f"{entry.get('INSTANCE')}/{entry.get('SLAVEBUSINTERFACE', '').lower()}"  # S_AXI of axi_intc is s_axi
        where = f"{name}/{entry.get('MASTERBUSINTERFACE')} of {slave}"
        base, high = (int(entry.get(key, "0"), 16) for key in ("BASEVALUE", "HIGHVALUE"))
        yield f"address in {where} {entry.get('ADDRESSBLOCK')}", f"{base:#x}..{high:#x}"


def _interfaces(name: str, module: Element) -> Iterator[tuple[str, str]]:
    for entry in module.iter("BUSINTERFACE"):
        if entry.get("VLNV", "").split(":")[2:3] == ["aximm"]:
            yield f"bus at {name}/{entry.get('NAME')}", f"{entry.get('BUSNAME')}"
            yield f"data width of {name}/{entry.get('NAME')}", f"{entry.get('DATAWIDTH')}"


def _frequencies(name: str, module: Element) -> Iterator[tuple[str, str]]:
    for port in module.iter("PORT"):
        if port.get("SIGIS") == "clk" and port.get("CLKFREQUENCY"):
            yield f"clock frequency at {name}/{port.get('NAME')}", f"{port.get('CLKFREQUENCY')}"


def _nets(modules: dict[str, Element]) -> Iterator[tuple[str, str]]:
    """Where each scalar input comes from: the output with the same signal name."""
    drivers = {
        port.get("SIGNAME"): f"{name}/{port.get('NAME')}"
        for name, module in modules.items() for port in _scalars(module) if port.get("DIR") == "O"}
    for name, module in modules.items():
        for port in _scalars(module):
            if port.get("DIR") == "I" and port.get("SIGNAME"):
                yield f"source of {name}/{port.get('NAME')}", f"{drivers.get(port.get('SIGNAME'), 'nothing')}"


def _scalars(module: Element) -> list[Element]:
    """Ports that belong to no bus."""
    in_bus = {entry.get("PHYSICAL") for bus in module.iter("BUSINTERFACE") for entry in bus.iter("PORTMAP")
              if bus.get("VLNV", "").split(":")[2:3] == ["aximm"]}
    return [port for port in module.iter("PORT") if port.get("NAME") not in in_bus]


def _registers(module: Element) -> Iterator[tuple[str, str]]:
    for register in module.iter("REGISTER"):
        values = _properties(register)
        fields = [f"{field.get('NAME')}@{_properties(field).get('BIT_OFFSET')}+{_properties(field).get('BIT_WIDTH')}"
                  for field in register.iter("FIELD")]
        text = " ".join([f"{int(values.get('ADDRESS_OFFSET', '0'), 0):#x}", values.get("ACCESS", ""), *fields])
        yield f"register of {INSTANCE}: {register.get('NAME')}", text


def _properties(element: Element) -> dict[str, str]:
    return {entry.get("NAME", ""): entry.get("VALUE", "") for entry in element.findall("PROPERTY")}


def _ports(module: Element) -> Iterator[tuple[str, str]]:
    for port in module.iter("PORT"):
        width = abs(int(port.get("LEFT", "0")) - int(port.get("RIGHT", "0"))) + 1
        yield f"port of {INSTANCE}: {port.get('NAME')}", f"{port.get('DIR')} {width}"
