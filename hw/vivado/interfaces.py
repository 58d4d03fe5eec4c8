"""Bus interfaces of the IP, read off the ports of the accelerator.

    Accelerator.signature --prefix--> s_axi_ctrl | m_axi_gmem<i> | interrupt        ap_clk, ap_rst_n: of the wrapper

Wrapper, packaging script, block design and expected .hwh all start from `ip_interfaces`, so a port that is added to or
removed from the accelerator shows in each of them. The AXI4 masters have no lock, QoS, region and user ports: these
are optional in AXI4 and take their defaults in SmartConnect (HAS_LOCK, HAS_QOS, HAS_REGION = 0).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from amaranth.hdl import Shape, UnusedElaboratable
from amaranth.lib.wiring import Out

from spikeloom.board import CONTROL_INTERFACE, INTERRUPT_PIN
from spikeloom.config import MachineConfig
from spikeloom.registers import ADDRESS_BITS as CONTROL_ADDRESS_BITS

from ..gateware.accelerator import READERS, WRITERS, Accelerator, axi_prefix, clients_of
from ..gateware.axi import ADDRESS_BITS, ID_BITS, MAX_BEATS
from ..gateware.read_port import ReadPort
from ..gateware.write_port import OUTSTANDING_BITS

__all__ = ["CLOCK", "RESET", "Interface", "Port", "core_ports", "ip_interfaces", "masters"]

CLOCK = "ap_clk"
RESET = "ap_rst_n"
AXI = "xilinx.com:interface:aximm:1.0"

MAX_OUTSTANDING = 16
"""Bursts that an HP port of the processing system takes at once; more would only make SmartConnect larger."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """One port of a module."""

    name: str
    width: int
    output: bool


@dataclass(frozen=True, kw_only=True)
class Interface:
    """Ports that form one bus or one special signal.

    Attributes:
        name: Name of the interface; the ports of a bus are `<name>_<signal>`.
        kind: Vendor, library, name and version of the interface's definition.
        master: Whether the IP is the initiator (of a signal: the source).
        ports: The ports.
        parameters: What IP Integrator has to know, by its names.
    """

    name: str
    kind: str
    master: bool
    ports: tuple[Port, ...]
    parameters: tuple[tuple[str, str], ...]

    @property
    def is_bus(self) -> bool:
        return self.kind == AXI

    def logical(self, port: Port) -> str:
        """Name of a port in the definition of the interface."""
        if self.is_bus:
            return port.name.removeprefix(f"{self.name}_").upper()
        return {"clock": "CLK", "reset": "RST", "interrupt": "INTERRUPT"}[self.kind.split(":")[2]]

    def parameter(self, name: str) -> str:
        """Value of a parameter. Raises KeyError."""
        return dict(self.parameters)[name]


def core_ports(config: MachineConfig) -> tuple[Port, ...]:
    """Ports of the accelerator, without its clock and reset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)  # only its signature is wanted
        members = dict(Accelerator(config).signature.members)
    return tuple(
        Port(name=name, width=Shape.cast(member.shape).width, output=member.flow is Out)
        for name, member in members.items())


def ip_interfaces(config: MachineConfig) -> tuple[Interface, ...]:
    """Every interface of the IP: clock, reset, control, masters in their order, interrupt.

    Raises:
        ValueError: The accelerator has a port that belongs to none of them.
    """
    left = list(core_ports(config))

    def take(prefix: str) -> tuple[Port, ...]:
        taken = tuple(port for port in left if port.name.startswith(prefix))
        left[:] = [port for port in left if port not in taken]
        return taken

    control = Interface(
        name=CONTROL_INTERFACE, kind=AXI, master=False, ports=take(f"{CONTROL_INTERFACE}_"),
        parameters=_control_parameters())
    buses = tuple(
        Interface(name=axi_prefix(port).rstrip("_"), kind=AXI, master=True, ports=take(axi_prefix(port)),
                  parameters=_master_parameters(config, port))
        for port in range(config.axi_ports))
    interrupt = Interface(
        name=INTERRUPT_PIN, kind="xilinx.com:signal:interrupt:1.0", master=True, ports=take(INTERRUPT_PIN),
        parameters=(("SENSITIVITY", "LEVEL_HIGH"),))
    if left or not (control.ports and interrupt.ports and all(bus.ports for bus in buses)):
        raise ValueError(f"ports and interfaces of the accelerator do not match; left over: {left!r}")
    return (*_clocking((control, *buses)), control, *buses, interrupt)


def masters(config: MachineConfig) -> tuple[Interface, ...]:
    """The AXI4 masters, in the order of their numbers."""
    return tuple(interface for interface in ip_interfaces(config) if interface.is_bus and interface.master)


def _clocking(buses: tuple[Interface, ...]) -> tuple[Interface, Interface]:
    names = ":".join(bus.name for bus in buses)
    clock = Interface(
        name=CLOCK, kind="xilinx.com:signal:clock:1.0", master=False,
        ports=(Port(name=CLOCK, width=1, output=False),),
        parameters=(("ASSOCIATED_BUSIF", names), ("ASSOCIATED_RESET", RESET)))
    reset = Interface(
        name=RESET, kind="xilinx.com:signal:reset:1.0", master=False,
        ports=(Port(name=RESET, width=1, output=False),), parameters=(("POLARITY", "ACTIVE_LOW"),))
    return clock, reset


def _control_parameters() -> tuple[tuple[str, str], ...]:
    return (
        ("PROTOCOL", "AXI4LITE"), ("DATA_WIDTH", "32"), ("ADDR_WIDTH", str(CONTROL_ADDRESS_BITS)), ("ID_WIDTH", "0"),
        ("READ_WRITE_MODE", "READ_WRITE"), ("HAS_PROT", "1"), ("HAS_WSTRB", "1"), ("NUM_READ_OUTSTANDING", "1"),
        ("NUM_WRITE_OUTSTANDING", "1"), ("MAX_BURST_LENGTH", "1"))


def _master_parameters(config: MachineConfig, port: int) -> tuple[tuple[str, str], ...]:
    """Ports that only read are declared so, which spares SmartConnect half its logic; their write ports stay idle."""
    readers, writers = (len(clients_of(engines, port, config)) for engines in (READERS, WRITERS))
    return (
        ("PROTOCOL", "AXI4"), ("DATA_WIDTH", str(config.beat_bits)), ("ADDR_WIDTH", str(ADDRESS_BITS)),
        ("ID_WIDTH", str(ID_BITS)), ("READ_WRITE_MODE", "READ_WRITE" if writers else "READ_ONLY"),
        ("HAS_BURST", "1"), ("HAS_LOCK", "0"), ("HAS_CACHE", "1"), ("HAS_PROT", "1"), ("HAS_QOS", "0"),
        ("HAS_REGION", "0"), ("HAS_WSTRB", "1"), ("HAS_BRESP", "1"), ("HAS_RRESP", "1"),
        ("SUPPORTS_NARROW_BURST", "0"), ("MAX_BURST_LENGTH", str(MAX_BEATS)),
        ("NUM_READ_OUTSTANDING", str(_reads_outstanding(config, readers))),
        ("NUM_WRITE_OUTSTANDING", str(min(max(writers, 1) * ((1 << OUTSTANDING_BITS) - 1), MAX_OUTSTANDING))))


def _reads_outstanding(config: MachineConfig, readers: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)
        credits = ReadPort(config, readers).credits
    return min(readers * credits // MAX_BEATS, MAX_OUTSTANDING)
