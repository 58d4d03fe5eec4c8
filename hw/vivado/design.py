"""The block design on the ZCU104 as data: what the Tcl script builds and the expected .hwh describes.

    PS M_AXI_HPM0_FPD -> SmartConnect -> s_axi_ctrl of the accelerator, axi_intc
    accelerator m_axi_gmem<i> -> SmartConnect -> PS S_AXI_HP<j>_FPD (128 bits)
    accelerator interrupt -> axi_intc -> PS pl_ps_irq0
    PS pl_clk0 -> everything; PS pl_resetn0 -> proc_sys_reset -> all resets

One clock domain and only the processing system's pins, so no constraint file. SmartConnect takes its widths from what
it joins: the IP declares its beat, the HP ports are set to 128 bits, and it converts where a preset's beat is narrower.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from spikeloom.board import (
    CONTROL_BASE,
    CONTROL_INTERFACE,
    DESIGN,
    INSTANCE,
    INTERRUPT_CONTROLLER,
    INTERRUPT_CONTROLLER_BASE,
    INTERRUPT_CONTROLLER_RANGE,
    INTERRUPT_PIN,
    IP_NAME,
    LIBRARY,
    VENDOR,
)
from spikeloom.config import MachineConfig
from spikeloom.registers import ADDRESS_BITS

from .clock import PlClock, pl_clock
from .interfaces import CLOCK, RESET, masters

__all__ = [
    "BOARD", "DDR_BYTES", "HP_BITS", "PART", "PROCESSOR", "AddressRange", "BlockDesign", "Cell", "Link", "Net",
    "design_problems", "zcu104_design"]

PART = "xczu7ev-ffvc1156-2-e"
BOARD = "xilinx.com:zcu104:part0"
"""Board files without their version."""

PROCESSOR = "zynq_ultra_ps_e_0"
RESETS = "proc_sys_reset_0"
CONTROL_CONNECT = "smartconnect_control"

HP_BITS = 128
DDR_BYTES = 0x8000_0000
"""DDR of the processing system on a ZCU104, from address 0."""

HP_PORTS = {1: (0,), 2: (0, 3), 4: (0, 1, 2, 3)}
"""Masters -> HP ports. HP1 and HP2 share a port of the DDR controller, so two masters get HP0 and HP3."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One IP of the design.

    Attributes:
        name: Name of the cell.
        ip: Vendor, library and name; Vivado's newest version is taken.
        settings: Configuration, names without `CONFIG.`.
        masters, slaves: Bus interfaces; each must be linked.
        inputs: Pins that must be driven; outputs: pins that must drive something.
    """

    name: str
    ip: str
    settings: tuple[tuple[str, str], ...] = ()
    masters: tuple[str, ...] = ()
    slaves: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Link:
    """Two bus interfaces joined, each `cell/interface`."""

    master: str
    slave: str


@dataclass(frozen=True, kw_only=True)
class Net:
    """A driver and its loads, each `cell/pin`."""

    driver: str
    loads: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AddressRange:
    """A slave in the address space of a master.

    Attributes:
        space: Address space, `cell/space`.
        segment: Slave segment, `cell/memory map/block`.
        base: First byte.
        size: Bytes.
        master: Bus interface that the space belongs to.
        slave: Bus interface that the segment is behind.
    """

    space: str
    segment: str
    base: int
    size: int
    master: str
    slave: str


@dataclass(frozen=True, kw_only=True)
class BlockDesign:
    """Cells and what joins them."""

    name: str
    clock: PlClock
    cells: tuple[Cell, ...]
    links: tuple[Link, ...]
    nets: tuple[Net, ...]
    addresses: tuple[AddressRange, ...]

    def cell(self, name: str) -> Cell:
        """Look a cell up by name. Raises KeyError."""
        return {cell.name: cell for cell in self.cells}[name]


def zcu104_design(config: MachineConfig) -> BlockDesign:
    """The design for a machine.

    Raises:
        ValueError: The clock cannot be made.
    """
    buses = tuple(interface.name for interface in masters(config))
    ports = HP_PORTS[len(buses)]
    clock = pl_clock(config.clock_mhz)
    connects = tuple(_connect(f"smartconnect_{bus.removeprefix('m_axi_')}", slaves=1) for bus in buses)
    cells = (
        _processor(clock, ports), _resets(), _interrupts(), _accelerator(buses), _connect(CONTROL_CONNECT, slaves=2),
        *connects)
    return BlockDesign(
        name=DESIGN, clock=clock, cells=cells, links=_links(buses, ports, connects), nets=_nets(cells),
        addresses=_addresses(buses, ports))


def _processor(clock: PlClock, ports: tuple[int, ...]) -> Cell:
    settings = {
        "PSU__USE__M_AXI_GP0": "1", "PSU__MAXIGP0__DATA_WIDTH": "128", "PSU__USE__M_AXI_GP1": "0",
        "PSU__USE__M_AXI_GP2": "0", "PSU__USE__IRQ0": "1", "PSU__USE__IRQ1": "0", "PSU__FPGA_PL0_ENABLE": "1",
        "PSU__FPGA_PL1_ENABLE": "0", "PSU__FPGA_PL2_ENABLE": "0", "PSU__FPGA_PL3_ENABLE": "0",
        "PSU__CRL_APB__PL0_REF_CTRL__SRCSEL": "IOPLL", "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": f"{clock.mhz:g}"}
    for port in range(4):
        settings[f"PSU__USE__S_AXI_GP{port + 2}"] = str(int(port in ports))
        if port in ports:
            settings[f"PSU__SAXIGP{port + 2}__DATA_WIDTH"] = str(HP_BITS)
    return Cell(
        name=PROCESSOR, ip="xilinx.com:ip:zynq_ultra_ps_e", settings=tuple(settings.items()),
        masters=("M_AXI_HPM0_FPD",), slaves=tuple(f"S_AXI_HP{port}_FPD" for port in ports),
        inputs=("maxihpm0_fpd_aclk", *(f"saxihp{port}_fpd_aclk" for port in ports), "pl_ps_irq0"),
        outputs=("pl_clk0", "pl_resetn0"))


def _resets() -> Cell:
    return Cell(
        name=RESETS, ip="xilinx.com:ip:proc_sys_reset", inputs=("slowest_sync_clk", "ext_reset_in"),
        outputs=("interconnect_aresetn", "peripheral_aresetn"))


def _interrupts() -> Cell:
    """PYNQ finds interrupts only behind an axi_intc; its output is a plain signal, not a bus."""
    return Cell(
        name=INTERRUPT_CONTROLLER, ip="xilinx.com:ip:axi_intc", settings=(("C_IRQ_CONNECTION", "1"),),
        slaves=("s_axi",), inputs=("s_axi_aclk", "s_axi_aresetn", "intr"), outputs=("irq",))


def _accelerator(buses: tuple[str, ...]) -> Cell:
    return Cell(
        name=INSTANCE, ip=f"{VENDOR}:{LIBRARY}:{IP_NAME}", masters=buses, slaves=(CONTROL_INTERFACE,),
        inputs=(CLOCK, RESET), outputs=(INTERRUPT_PIN,))


def _connect(name: str, *, slaves: int) -> Cell:
    return Cell(
        name=name, ip="xilinx.com:ip:smartconnect",
        settings=(("NUM_SI", "1"), ("NUM_MI", str(slaves)), ("NUM_CLKS", "1")),
        masters=tuple(f"M{i:02d}_AXI" for i in range(slaves)), slaves=("S00_AXI",), inputs=("aclk", "aresetn"))


def _links(buses: tuple[str, ...], ports: tuple[int, ...], connects: tuple[Cell, ...]) -> tuple[Link, ...]:
    links = [
        Link(master=f"{PROCESSOR}/M_AXI_HPM0_FPD", slave=f"{CONTROL_CONNECT}/S00_AXI"),
        Link(master=f"{CONTROL_CONNECT}/M00_AXI", slave=f"{INSTANCE}/{CONTROL_INTERFACE}"),
        Link(master=f"{CONTROL_CONNECT}/M01_AXI", slave=f"{INTERRUPT_CONTROLLER}/s_axi")]
    for bus, port, connect in zip(buses, ports, connects, strict=True):
        links += [Link(master=f"{INSTANCE}/{bus}", slave=f"{connect.name}/S00_AXI"),
                  Link(master=f"{connect.name}/M00_AXI", slave=f"{PROCESSOR}/S_AXI_HP{port}_FPD")]
    return tuple(links)


def _nets(cells: tuple[Cell, ...]) -> tuple[Net, ...]:
    inputs = [f"{cell.name}/{pin}" for cell in cells for pin in cell.inputs]
    clocks = tuple(pin for pin in inputs if pin.endswith(("aclk", CLOCK, "slowest_sync_clk")))
    connects = tuple(f"{cell.name}/aresetn" for cell in cells if cell.ip.endswith(":smartconnect"))
    return (
        Net(driver=f"{PROCESSOR}/pl_clk0", loads=clocks),
        Net(driver=f"{PROCESSOR}/pl_resetn0", loads=(f"{RESETS}/ext_reset_in",)),
        Net(driver=f"{RESETS}/interconnect_aresetn", loads=connects),
        Net(driver=f"{RESETS}/peripheral_aresetn",
            loads=(f"{INSTANCE}/{RESET}", f"{INTERRUPT_CONTROLLER}/s_axi_aresetn")),
        Net(driver=f"{INSTANCE}/{INTERRUPT_PIN}", loads=(f"{INTERRUPT_CONTROLLER}/intr",)),
        Net(driver=f"{INTERRUPT_CONTROLLER}/irq", loads=(f"{PROCESSOR}/pl_ps_irq0",)))


def _addresses(buses: tuple[str, ...], ports: tuple[int, ...]) -> tuple[AddressRange, ...]:
    control = {"space": f"{PROCESSOR}/Data", "master": f"{PROCESSOR}/M_AXI_HPM0_FPD"}
    ranges = [
        AddressRange(
            segment=f"{INSTANCE}/{CONTROL_INTERFACE}/reg0", base=CONTROL_BASE, size=1 << ADDRESS_BITS,
            slave=f"{INSTANCE}/{CONTROL_INTERFACE}", **control),
        AddressRange(
            segment=f"{INTERRUPT_CONTROLLER}/S_AXI/Reg", base=INTERRUPT_CONTROLLER_BASE,
            size=INTERRUPT_CONTROLLER_RANGE, slave=f"{INTERRUPT_CONTROLLER}/s_axi", **control)]
    for bus, port in zip(buses, ports, strict=True):
        ranges.append(AddressRange(
            space=f"{INSTANCE}/{bus}", master=f"{INSTANCE}/{bus}", base=0, size=DDR_BYTES,
            segment=f"{PROCESSOR}/SAXIGP{port + 2}/HP{port}_DDR_LOW", slave=f"{PROCESSOR}/S_AXI_HP{port}_FPD"))
    return tuple(ranges)


def design_problems(design: BlockDesign, config: MachineConfig) -> list[str]:
    """What is missing or inconsistent; empty for a sound design.

    Every interface linked once, every pin on one net, every master of the accelerator with DDR in its address space,
    both register blocks mapped without overlap, nothing named that no cell has.
    """
    return [*_connection_problems(design), *_address_problems(design), *_port_problems(design, config)]


def _connection_problems(design: BlockDesign) -> list[str]:
    groups = {
        "master interface": (lambda cell: cell.masters, [link.master for link in design.links]),
        "slave interface": (lambda cell: cell.slaves, [link.slave for link in design.links]),
        "input": (lambda cell: cell.inputs, [load for net in design.nets for load in net.loads]),
        "output": (lambda cell: cell.outputs, [net.driver for net in design.nets])}
    problems = []
    for what, (pins_of, used) in groups.items():
        pins = [f"{cell.name}/{pin}" for cell in design.cells for pin in pins_of(cell)]
        problems += [f"{what} {pin} is connected {used.count(pin)} times" for pin in pins if used.count(pin) != 1]
        problems += [f"{what} {pin} does not exist" for pin in sorted(set(used) - set(pins))]
    return problems


def _address_problems(design: BlockDesign) -> list[str]:
    accelerator, processor = design.cell(INSTANCE), design.cell(PROCESSOR)
    wanted = [("master", f"{INSTANCE}/{bus}") for bus in accelerator.masters]
    wanted += [("slave", link.slave) for link in design.links if link.master.startswith(f"{CONTROL_CONNECT}/")]
    wanted += [("slave", f"{PROCESSOR}/{bus}") for bus in processor.slaves]
    problems = [
        f"{side} {interface} has no address range" for side, interface in wanted
        if interface not in [getattr(entry, side) for entry in design.addresses]]
    mapped = sorted((entry.base, entry.base + entry.size, entry.segment)
                    for entry in design.addresses if entry.space == f"{PROCESSOR}/Data")
    for (_, end, first), (start, _, second) in pairwise(mapped):
        if start < end:
            problems.append(f"{first} and {second} overlap")
    return problems


def _port_problems(design: BlockDesign, config: MachineConfig) -> list[str]:
    buses = {interface.name for interface in masters(config)}
    differing = sorted(buses ^ set(design.cell(INSTANCE).masters))
    return [f"{INSTANCE}/{name} is in one of design and accelerator only" for name in differing]
