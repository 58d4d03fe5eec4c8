"""The expected hardware description: what PYNQ's parser finds in it, and how differences from a real one are told."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from spikeloom.board import CONTROL_BASE, INSTANCE, VLNV
from spikeloom.config import PRESETS, MachineConfig, preset
from spikeloom.hw.vivado.compare_hwh import compare_hwh, read_hwh
from spikeloom.hw.vivado.design import zcu104_design
from spikeloom.hw.vivado.hwh import expected_hwh
from spikeloom.registers import REGISTERS

PYNQ = os.environ.get("SPIKELOOM_PYNQ_PYTHON")
"""Python of an environment with pynq (which needs numpy < 2): `pip install pynq==4.0.0`."""


def text_for(config: MachineConfig) -> str:
    return expected_hwh(zcu104_design(config), config)


def module(root: ElementTree.Element, name: str) -> ElementTree.Element:
    (found,) = [entry for entry in root.iter("MODULE") if entry.get("INSTANCE") == name]
    return found


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_structure(name: str) -> None:
    root = ElementTree.fromstring(text_for(preset(name)))
    assert [child.tag for child in root] == ["SYSTEMINFO", "EXTERNALPORTS", "EXTERNALINTERFACES", "MODULES"]
    assert module(root, INSTANCE).get("VLNV") == VLNV
    assert module(root, "zynq_ultra_ps_e_0").get("IS_PL") == "FALSE"
    registers = [entry.get("NAME") for entry in module(root, INSTANCE).iter("REGISTER")]
    assert registers == [entry.name for entry in REGISTERS]
    spaces = [entry.get("MASTERBUSINTERFACE") for entry in module(root, INSTANCE).iter("MEMRANGE")]
    assert spaces == [f"m_axi_gmem{i}" for i in range(preset(name).axi_ports)]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_connections_agree_from_both_ends(name: str) -> None:
    root = ElementTree.fromstring(text_for(preset(name)))
    ports = {(entry.get("INSTANCE"), port.get("NAME")): port for entry in root.iter("MODULE")
             for port in entry.iter("PORT")}
    for (instance, name_), port in ports.items():
        for end in port.iter("CONNECTION"):
            other = ports[end.get("INSTANCE"), end.get("PORT")]
            assert other.get("SIGNAME") == port.get("SIGNAME")
            back = [(entry.get("INSTANCE"), entry.get("PORT")) for entry in other.iter("CONNECTION")]
            assert (instance, name_) in back
            assert {port.get("DIR"), other.get("DIR")} == {"I", "O"}
    for bus in root.iter("BUSINTERFACE"):
        for entry in bus.iter("PORTMAP"):
            assert any(name_ == entry.get("PHYSICAL") for _, name_ in ports)


def test_smartconnect_has_the_widths_of_its_ends() -> None:
    for name, beat in (("tiny", "32"), ("zcu104", "128")):
        root = ElementTree.fromstring(text_for(preset(name)))
        buses = {entry.get("NAME"): entry.get("DATAWIDTH")
                 for entry in module(root, "smartconnect_gmem0").iter("BUSINTERFACE")}
        assert buses == {"S00_AXI": beat, "M00_AXI": "128"}


def test_a_description_equals_itself() -> None:
    for config in PRESETS.values():
        assert compare_hwh(text_for(config), text_for(config)) == []


def test_what_a_real_description_may_have_more() -> None:
    real = ElementTree.fromstring(text_for(preset("small")))
    for clock in real.iter("PORT"):
        if clock.get("CLKFREQUENCY"):
            clock.set("CLKFREQUENCY", "299970032")  # another figure for the crystal
    for entry in real.iter("MODULE"):
        if entry.get("MODTYPE") == "smartconnect":
            entry.set("VLNV", "xilinx.com:ip:smartconnect:1.1")
    ElementTree.SubElement(real.find("MODULES") or real, "MODULE", INSTANCE="system_ila_0", VLNV="x:ip:ila:1.0")
    assert compare_hwh(text_for(preset("small")), ElementTree.tostring(real, encoding="unicode")) == []


@pytest.mark.parametrize(("path", "attribute", "value", "message"), [
    ("MEMRANGE[@INSTANCE='spikeloom_0']", "BASEVALUE", "0xA0020000", "address in zynq_ultra_ps_e_0/M_AXI_HPM0_FPD of "
     "spikeloom_0/s_axi_ctrl reg0: expected 0xa0000000..0xa0000fff, found 0xa0020000..0xa0000fff"),
    ("PORT[@NAME='irq']", "SIGNAME", "other", "source of zynq_ultra_ps_e_0/pl_ps_irq0: expected axi_intc_0/irq, found "
     "nothing"),
    ("PORT[@NAME='ap_clk']", "CLKFREQUENCY", "100000000", "clock frequency at spikeloom_0/ap_clk: expected 299997000, "
     "found 100000000"),
    ("REGISTER[@NAME='cycles']", "NAME", "ticks", "register of spikeloom_0: cycles: expected 0x80 read-only, found "
     "nothing"),
    ("REGISTER[@NAME='control']/FIELDS/FIELD[@NAME='start']", "NAME", "go", "register of spikeloom_0: control: "
     "expected 0x10 write-only start@0+1 soft_reset@1+1, found 0x10 write-only go@0+1 soft_reset@1+1"),
    ("MODULE[@INSTANCE='spikeloom_0']/PORTS/PORT[@NAME='m_axi_gmem1_rdata']", "LEFT", "63",
     "port of spikeloom_0: m_axi_gmem1_rdata: expected I 128, found I 64"),
    ("MODULE[@INSTANCE='spikeloom_0']/BUSINTERFACES/BUSINTERFACE[@NAME='m_axi_gmem1']", "BUSNAME", "other",
     "bus at spikeloom_0/m_axi_gmem1: expected spikeloom_0_m_axi_gmem1, found other")])
def test_differences(path: str, attribute: str, value: str, message: str) -> None:
    real = ElementTree.fromstring(text_for(preset("small")))
    found = real.find(f".//{path}")
    assert found is not None
    found.set(attribute, value)
    assert message in compare_hwh(text_for(preset("small")), ElementTree.tostring(real, encoding="unicode"))


def test_an_unexpected_register_or_address_is_told() -> None:
    wanted, real = text_for(preset("tiny")), text_for(preset("tiny")).replace('NAME="cycles"', 'NAME="ticks"')
    assert "register of spikeloom_0: ticks: expected nothing, found 0x80 read-only" in compare_hwh(wanted, real)
    lines = compare_hwh(text_for(preset("tiny")), text_for(replace(preset("tiny"), axi_ports=2)))
    assert any(line.startswith("address in spikeloom_0/m_axi_gmem1") and "expected nothing" in line for line in lines)


@pytest.mark.parametrize(("content", "message"), [("no xml", "no hardware description"), ("<A/>", "its root is <A>")])
def test_unreadable(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.hwh").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_hwh(tmp_path / "x.hwh")


PARSE = """
import json, sys
from pynqmetadata.frontends import Metadata
from pynqmetadata.views.runtime import RuntimeMetadataParser
parser = RuntimeMetadataParser(Metadata(input=sys.argv[1]))
print(json.dumps({"ip": parser.ip_dict, "controllers": parser.interrupt_controllers, "pins": parser.interrupt_pins,
                  "clocks": parser.clock_dict}, default=repr))
"""


@pytest.mark.skipif(not PYNQ, reason="SPIKELOOM_PYNQ_PYTHON names no Python with pynq")
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_pynq_loads_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "spikeloom.hwh").write_text(text_for(preset(name)))
    result = subprocess.run([str(PYNQ), "-c", PARSE, str(tmp_path / "spikeloom.hwh")], capture_output=True, text=True,
                            check=False)
    assert result.returncode == 0, result.stderr
    parsed = json.loads(result.stdout.splitlines()[-1])
    own = parsed["ip"][INSTANCE]
    assert (own["type"], own["phys_addr"], own["addr_range"]) == (VLNV, CONTROL_BASE, 4096)
    assert {name: entry["address_offset"] for name, entry in own["registers"].items()} == {
        entry.name: entry.offset for entry in REGISTERS}
    assert own["interrupts"]["interrupt"]["controller"] == "axi_intc_0"
    assert own["interrupts"]["interrupt"]["index"] == 0
    assert parsed["controllers"]["axi_intc_0"]["raw_irq"] == 121
    assert (parsed["clocks"]["0"]["divisor0"], parsed["clocks"]["0"]["divisor1"]) == (5, 1)
    assert [parsed["clocks"][str(i)]["enable"] for i in range(4)] == [1, 0, 0, 0]
    widths = [parsed["ip"]["zynq_ultra_ps_e_0"]["parameters"].get(f"C_SAXIGP{i}_DATA_WIDTH") for i in range(2, 6)]
    assert widths.count("128") == preset(name).axi_ports
