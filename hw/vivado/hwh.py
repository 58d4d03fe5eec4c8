"""Expected hardware description (.hwh): what Vivado will write for the block design, as far as anyone reads it.

    register table + BlockDesign + interfaces of the IP --> EDKSYSTEM XML --> PYNQ's parser, the simulated board

Holds what PYNQ's parser needs: system information, every cell with type, parameters, ports and their connections, bus
interfaces, memory ranges under each master, registers and fields of the accelerator. The signals of a bus are listed
where the accelerator is one end of it; inside the other buses (SmartConnect to processing system) nothing is looked up.
"""

from __future__ import annotations

from xml.etree import ElementTree

from spikeloom.board import CONTROL_INTERFACE, INSTANCE, IP_VERSION
from spikeloom.config import MachineConfig
from spikeloom.registers import ADDRESS_BITS, REGISTERS, Register

from .design import BOARD, HP_BITS, PROCESSOR, BlockDesign, Cell
from .interfaces import AXI, Interface, Port, ip_interfaces
from .package_ip import ACCESS, ADDRESS_BLOCK

__all__ = ["expected_hwh"]

VERSIONS = {"zynq_ultra_ps_e": "3.5", "proc_sys_reset": "5.0", "axi_intc": "4.1", "smartconnect": "1.0"}
"""Of the IPs in recent Vivado releases. PYNQ looks at vendor, library and name only."""

CONTROL_BITS = 32
HPM_BITS = 128

_MODULE_CLASS = {"zynq_ultra_ps_e": "PROCESSOR", "axi_intc": "INTERRUPT_CNTLR", "smartconnect": "BUS"}
_REVERSE = {"master": "slave", "slave": "master"}

Element = ElementTree.Element


def expected_hwh(design: BlockDesign, config: MachineConfig) -> str:
    """XML text of the hardware description of `design`."""
    return _Writer(design, ip_interfaces(config)).text()


class _Writer:
    """One description in the making: the design, and which net each pin is on."""

    def __init__(self, design: BlockDesign, interfaces: tuple[Interface, ...]) -> None:
        self.design = design
        self.buses = {interface.name: interface for interface in interfaces if interface.is_bus}
        self.special = {interface.name: interface for interface in interfaces if not interface.is_bus}
        self.net_of = {pin: net for net in design.nets for pin in (net.driver, *net.loads)}
        self.links = {end: link for link in design.links for end in (link.master, link.slave)}

    def text(self) -> str:
        root = Element("EDKSYSTEM", EDWVERSION="1.2", TIMESTAMP="", VIVADOVERSION="expected")
        part = {"ARCH": "zynquplus", "DEVICE": "xczu7ev", "PACKAGE": "ffvc1156", "SPEEDGRADE": "-2"}
        _child(root, "SYSTEMINFO", BOARD=f"{BOARD}:1.1", NAME=self.design.name, **part)
        _child(root, "EXTERNALPORTS")
        _child(root, "EXTERNALINTERFACES")
        modules = _child(root, "MODULES")
        for cell in sorted(self.design.cells, key=lambda cell: cell.name):
            self._module(modules, cell)
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

    def _module(self, modules: Element, cell: Cell) -> None:
        name = cell.ip.split(":")[2]
        version = VERSIONS.get(name, IP_VERSION)
        module = _child(
            modules, "MODULE", FULLNAME=f"/{cell.name}", HWVERSION=version, INSTANCE=cell.name,
            IPTYPE="PERIPHERAL", IS_ENABLE="1", MODCLASS=_MODULE_CLASS.get(name, "PERIPHERAL"), MODTYPE=name,
            VLNV=f"{cell.ip}:{version}")
        if cell.name == PROCESSOR:
            module.set("IS_PL", "FALSE")
        if cell.name == INSTANCE:
            _registers(_child(module, "ADDRESSBLOCKS"))
        parameters = _child(module, "PARAMETERS")
        for key, value in self._parameters(cell):
            _child(parameters, "PARAMETER", NAME=key, VALUE=value)
        self._ports(_child(module, "PORTS"), cell)
        self._interfaces(_child(module, "BUSINTERFACES"), cell)
        self._memory(_child(module, "MEMORYMAP"), cell)

    def _parameters(self, cell: Cell) -> list[tuple[str, str]]:
        settings = dict(cell.settings)
        if cell.name == PROCESSOR:
            clock = self.design.clock
            for index in range(4):
                settings.setdefault(f"PSU__CRL_APB__PL{index}_REF_CTRL__SRCSEL", "IOPLL")
                divisors = (clock.divisor0, clock.divisor1) if index == 0 else (15, 1)
                for number, divisor in enumerate(divisors):
                    settings[f"PSU__CRL_APB__PL{index}_REF_CTRL__DIVISOR{number}"] = str(divisor)
            settings["PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ"] = f"{clock.hertz / 1e6:.6f}"
            # PYNQ sets the widths of the AXI ports from these.
            for name in [name for name in settings if name.endswith("AXIGP0__DATA_WIDTH") or "SAXIGP" in name]:
                settings[name.replace("PSU__", "C_").replace("__DATA", "_DATA")] = settings[name]
        for entry in self.design.addresses:
            if entry.slave.startswith(f"{cell.name}/") and cell.name != PROCESSOR:
                settings["C_BASEADDR"] = f"0x{entry.base:08X}"
                settings["C_HIGHADDR"] = f"0x{entry.base + entry.size - 1:08X}"
        return list(settings.items())

    def _ports(self, ports: Element, cell: Cell) -> None:
        for pin in (*cell.inputs, *cell.outputs):
            self._pin(ports, cell, pin, output=pin in cell.outputs)
        for name in (*cell.slaves, *cell.masters):
            bus = self._ip_bus(f"{cell.name}/{name}")
            for port in bus.ports if bus else ():
                self._bus_port(ports, cell, name, bus, port)

    def _pin(self, ports: Element, cell: Cell, pin: str, *, output: bool) -> None:
        here = f"{cell.name}/{pin}"
        net = self.net_of[here]
        element = _child(ports, "PORT", DIR="O" if output else "I", NAME=pin, SIGIS=_signal_kind(pin),
                         SIGNAME=net.driver.replace("/", "_"))
        if pin in ("intr", "pl_ps_irq0", "interconnect_aresetn", "peripheral_aresetn"):
            element.set("LEFT", "0")
            element.set("RIGHT", "0")
        if _signal_kind(pin) == "clk":
            element.set("CLKFREQUENCY", str(self.design.clock.hertz))
        if pin == "interrupt":
            element.set("SENSITIVITY", "LEVEL_HIGH")
        connections = _child(element, "CONNECTIONS")
        for other in (net.driver, *net.loads):
            if other != here and (output or other == net.driver):
                instance, port = other.split("/")
                _child(connections, "CONNECTION", INSTANCE=instance, PORT=port)

    def _ip_bus(self, end: str) -> Interface | None:
        """The accelerator's interface at or opposite to one end of a link."""
        link = self.links[end]
        for side in (link.master, link.slave):
            cell, name = side.split("/")
            if cell == INSTANCE:
                return self.buses[name]
        return None

    def _bus_port(self, ports: Element, cell: Cell, name: str, bus: Interface | None, port: Port) -> None:
        assert bus is not None
        link = self.links[f"{cell.name}/{name}"]
        own = cell.name == INSTANCE
        other_cell, other_name = (link.slave if link.master == f"{cell.name}/{name}" else link.master).split("/")
        signal = bus.logical(port).lower()
        element = _child(
            ports, "PORT", DIR="O" if port.output == own else "I", NAME=f"{name}_{signal}", SIGIS="undef",
            SIGNAME=f"{link.master.replace('/', '_')}_{signal}")
        if port.width > 1:
            element.set("LEFT", str(port.width - 1))
            element.set("RIGHT", "0")
        connections = _child(element, "CONNECTIONS")
        _child(connections, "CONNECTION", INSTANCE=other_cell, PORT=f"{other_name}_{signal}")

    def _interfaces(self, interfaces: Element, cell: Cell) -> None:
        for name in (*cell.masters, *cell.slaves):
            link = self.links[f"{cell.name}/{name}"]
            kind = "MASTER" if name in cell.masters else "SLAVE"
            bits = self._bits(f"{cell.name}/{name}")
            element = _child(interfaces, "BUSINTERFACE", BUSNAME=link.master.replace("/", "_"), DATAWIDTH=str(bits),
                             NAME=name, TYPE=kind, VLNV=AXI)
            bus = self._ip_bus(f"{cell.name}/{name}")
            if bus is None:
                _child(element, "PARAMETER", NAME="DATA_WIDTH", VALUE=str(bits))
                continue
            for key, value in bus.parameters:
                _child(element, "PARAMETER", NAME=key, VALUE=value)
            _child(element, "PARAMETER", NAME="FREQ_HZ", VALUE=str(self.design.clock.hertz))
            maps = _child(element, "PORTMAPS")
            for port in bus.ports:
                logical = bus.logical(port)
                _child(maps, "PORTMAP", LOGICAL=logical, PHYSICAL=f"{name}_{logical.lower()}")

    def _bits(self, end: str) -> int:
        """Data width of the link at one of its ends."""
        bus = self._ip_bus(end)
        if bus is not None:
            return int(bus.parameter("DATA_WIDTH"))
        link = self.links[end]
        if f"{PROCESSOR}/" in link.slave:
            return HP_BITS
        return HPM_BITS if link.master.startswith(f"{PROCESSOR}/") else CONTROL_BITS

    def _memory(self, memory: Element, cell: Cell) -> None:
        for entry in self.design.addresses:
            master_cell, master = entry.master.split("/")
            if master_cell != cell.name:
                continue
            instance, slave = entry.slave.split("/")
            _child(memory, "MEMRANGE", ADDRESSBLOCK=entry.segment.rsplit("/", 1)[1], BASENAME="C_BASEADDR",
                   BASEVALUE=f"0x{entry.base:08X}", HIGHNAME="C_HIGHADDR",
                   HIGHVALUE=f"0x{entry.base + entry.size - 1:08X}", INSTANCE=instance, IS_DATA="TRUE",
                   MASTERBUSINTERFACE=master, MEMTYPE="MEMORY" if instance == PROCESSOR else "REGISTER",
                   SLAVEBUSINTERFACE=slave)


def _child(parent: Element, tag: str, **attributes: str) -> Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _signal_kind(pin: str) -> str:
    if pin.endswith(("clk", "pl_clk0")):
        return "clk"
    if "reset" in pin or "rst" in pin:
        return "rst"
    return "INTERRUPT" if pin in ("interrupt", "intr", "irq", "pl_ps_irq0") else "undef"


def _registers(blocks: Element) -> None:
    block = _child(blocks, "ADDRESSBLOCK", ACCESS="read-write", INTERFACE=CONTROL_INTERFACE, NAME=ADDRESS_BLOCK,
                   RANGE=str(1 << ADDRESS_BITS), USAGE="register")
    registers = _child(block, "REGISTERS")
    for entry in REGISTERS:
        _register(registers, entry)


def _register(registers: Element, entry: Register) -> None:
    element = _child(registers, "REGISTER", NAME=entry.name)
    access = ACCESS[entry.access]
    _properties(element, DESCRIPTION=entry.description, ADDRESS_OFFSET=f"{entry.offset:#x}", SIZE="32", ACCESS=access,
                IS_ENABLED="true", RESET_VALUE=f"{entry.reset:#x}")
    fields = _child(element, "FIELDS")
    for field in entry.fields:
        _properties(
            _child(fields, "FIELD", NAME=field.name), DESCRIPTION=field.description, ADDRESS_OFFSET=str(field.low),
            ACCESS=access, MODIFIED_READ_VALUES="", WRITE_CONSTRAINT="0", READ_ACTION="", BIT_OFFSET=str(field.low),
            BIT_WIDTH=str(field.width))


def _properties(element: Element, **values: str) -> None:
    for name, value in values.items():
        _child(element, "PROPERTY", NAME=name, VALUE=value)
