"""The wrapper and the interfaces of the IP against the accelerator's own ports."""

from __future__ import annotations

import re

import pytest
from amaranth.hdl import Shape
from amaranth.lib.wiring import Out

from spikeloom.config import PRESETS, preset
from spikeloom.hw.build import TOP as CORE
from spikeloom.hw.build import emit_machine
from spikeloom.hw.gateware.accelerator import Accelerator
from spikeloom.hw.vivado import interfaces
from spikeloom.hw.vivado.clock import pl_clock
from spikeloom.hw.vivado.interfaces import Port, core_ports, ip_interfaces, masters
from spikeloom.hw.vivado.package_ip import ooc_constraints
from spikeloom.hw.vivado.wrapper import TOP, wrapper_verilog
from spikeloom.sim.verilator import LintError, lint


def stub(name: str) -> str:
    """The machine without its inside, from its signature."""
    lines = ["/* verilator lint_off UNUSEDSIGNAL */", f"module {CORE}(input clk, input rst"]
    for port, member in Accelerator(preset(name)).signature.members.items():
        width = Shape.cast(member.shape).width
        lines.append(f", {'output' if member.flow is Out else 'input'} [{width - 1}:0] {port}")
    lines.append(");")
    lines += [f"assign {port} = 0;" for port, member in Accelerator(preset(name)).signature.members.items()
              if member.flow is Out]
    return "\n".join([*lines, "endmodule", ""])


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_verilator_links_it_to_the_machine(name: str) -> None:
    """Every port of the machine is connected to a port of the wrapper (widths: below); no warning at all."""
    lint(wrapper_verilog(preset(name)) + stub(name), top=TOP)


def test_a_lost_port_is_found() -> None:
    text = wrapper_verilog(preset("tiny")).replace(",\n    .interrupt(interrupt)", "")
    with pytest.raises(LintError, match="PINMISSING"):
        lint(text + stub("tiny"), top=TOP)


@pytest.mark.slow
def test_verilator_links_it_to_the_real_machine() -> None:
    lint(wrapper_verilog(preset("tiny")) + emit_machine(preset("tiny")), top=TOP)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_port_has_its_interface(name: str) -> None:
    text = wrapper_verilog(preset(name))
    ports = re.findall(
        r'X_INTERFACE_INFO = "(\S+) (\S+) (\S+)" \*\)\n(?:  \(\*[^\n]*\n)?  (input|output) wire (?:\[(\d+):0\] )?(\w+)',
        text)
    core = {port.name: (port.output, port.width) for port in core_ports(preset(name))}
    found = {entry[5]: (entry[3] == "output", int(entry[4] or 0) + 1) for entry in ports}
    assert found == {**core, "ap_clk": (False, 1), "ap_rst_n": (False, 1)}
    for kind, interface, logical, _, _, port in ports:
        if "aximm" in kind:
            assert f"{interface}_{logical.lower()}" == port


def test_parameters() -> None:
    text = wrapper_verilog(preset("tiny"))
    assert "ASSOCIATED_BUSIF s_axi_ctrl:m_axi_gmem0, ASSOCIATED_RESET ap_rst_n" in text
    assert "POLARITY ACTIVE_LOW" in text
    assert "SENSITIVITY LEVEL_HIGH" in text
    (master,) = masters(preset("tiny"))
    wanted = {"PROTOCOL": "AXI4", "DATA_WIDTH": "32", "ADDR_WIDTH": "40", "ID_WIDTH": "4", "MAX_BURST_LENGTH": "16"}
    assert {name: master.parameter(name) for name in wanted} == wanted
    assert len(re.findall("XIL_INTERFACENAME", text)) == 5


def test_ports_that_only_read_are_declared_so() -> None:
    modes = [master.parameter("READ_WRITE_MODE") for master in masters(preset("zcu104"))]
    assert modes == ["READ_WRITE", "READ_WRITE", "READ_ONLY", "READ_ONLY"]
    assert [master.parameter("READ_WRITE_MODE") for master in masters(preset("small"))] == ["READ_WRITE"] * 2


@pytest.mark.parametrize("change", ["added", "lost"])
def test_a_port_without_interface_is_refused(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = core_ports(preset("tiny"))
    changed = {"added": (*ports, Port(name="extra", width=1, output=True)), "lost": ports[:-1]}[change]
    monkeypatch.setattr(interfaces, "core_ports", lambda config: changed)
    with pytest.raises(ValueError, match="ports and interfaces of the accelerator do not match"):
        ip_interfaces(preset("tiny"))


@pytest.mark.parametrize(("wanted", "divisors", "mhz"), [
    (300.0, (5, 1), 300.0), (500.0, (3, 1), 500.0), (299.0, (6, 1), 250.0), (100.0, (15, 1), 100.0),
    (1.0, (60, 25), 1.0)])
def test_clock(wanted: float, divisors: tuple[int, int], mhz: float) -> None:
    clock = pl_clock(wanted)
    assert ((clock.divisor0, clock.divisor1), clock.mhz) == (divisors, mhz)
    assert abs(clock.hertz / (mhz * 1e6) - 1) < 1e-4


@pytest.mark.parametrize("mhz", [0.0, 0.5, 501.0, -3.0])
def test_impossible_clock(mhz: float) -> None:
    with pytest.raises(ValueError, match="`clock_mhz` must be 1 to 500 on this board"):
        pl_clock(mhz)


def test_constraints_for_synthesis_by_itself() -> None:
    assert ooc_constraints(preset("tiny")) == "create_clock -name ap_clk -period 3.333 [get_ports ap_clk]\n"
