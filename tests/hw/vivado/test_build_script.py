"""build_zcu104.tcl, run by a recording stand-in for Vivado and held against the configuration.

What the design must be is said here once more, from the configuration and not from the design: an interface, an address
or a cell that the design has lost shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from spikeloom.board import CONTROL_BASE, INSTANCE
from spikeloom.config import PRESETS, MachineConfig, preset
from spikeloom.hw.vivado.design import BlockDesign, Net, design_problems, zcu104_design

from .conftest import Project, Recording

PS = "zynq_ultra_ps_e_0"
HP = {1: "0", 2: "03", 4: "0123"}
SCRIPT = "build_zcu104.tcl"
Make = Callable[..., Project]


def wanted_buses(config: MachineConfig) -> set[frozenset[str]]:
    pairs = [(f"{PS}/M_AXI_HPM0_FPD", "smartconnect_control/S00_AXI"),
             ("smartconnect_control/M00_AXI", f"{INSTANCE}/s_axi_ctrl"),
             ("smartconnect_control/M01_AXI", "axi_intc_0/s_axi")]
    for i, port in enumerate(HP[config.axi_ports]):
        pairs += [(f"{INSTANCE}/m_axi_gmem{i}", f"smartconnect_gmem{i}/S00_AXI"),
                  (f"smartconnect_gmem{i}/M00_AXI", f"{PS}/S_AXI_HP{port}_FPD")]
    return {frozenset(pair) for pair in pairs}


def wanted_sources(config: MachineConfig) -> dict[str, str]:
    """Pin -> the pin that drives it."""
    connects = ["smartconnect_control", *(f"smartconnect_gmem{i}" for i in range(config.axi_ports))]
    clocks = [f"{PS}/maxihpm0_fpd_aclk", *(f"{PS}/saxihp{port}_fpd_aclk" for port in HP[config.axi_ports]),
              f"{INSTANCE}/ap_clk", "axi_intc_0/s_axi_aclk", "proc_sys_reset_0/slowest_sync_clk",
              *(f"{name}/aclk" for name in connects)]
    return {
        **dict.fromkeys(clocks, f"{PS}/pl_clk0"),
        "proc_sys_reset_0/ext_reset_in": f"{PS}/pl_resetn0",
        **dict.fromkeys([f"{name}/aresetn" for name in connects], "proc_sys_reset_0/interconnect_aresetn"),
        **dict.fromkeys([f"{INSTANCE}/ap_rst_n", "axi_intc_0/s_axi_aresetn"], "proc_sys_reset_0/peripheral_aresetn"),
        "axi_intc_0/intr": f"{INSTANCE}/interrupt", f"{PS}/pl_ps_irq0": "axi_intc_0/irq"}


def wanted_addresses(config: MachineConfig) -> set[tuple[str, str, int, int]]:
    """(address space, segment, base, size)."""
    wanted = {(f"{PS}/Data", f"{INSTANCE}/s_axi_ctrl/reg0", CONTROL_BASE, 4096),
              (f"{PS}/Data", "axi_intc_0/S_AXI/Reg", 0xA001_0000, 0x1_0000)}
    for i, port in enumerate(HP[config.axi_ports]):
        wanted.add((f"{INSTANCE}/m_axi_gmem{i}", f"{PS}/SAXIGP{int(port) + 2}/HP{port}_DDR_LOW", 0, 1 << 31))
    return wanted


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def problems(recording: Recording, config: MachineConfig) -> list[str]:
    """What the recorded commands build, against what they must."""
    buses = {frozenset(words) for words in recording.calls("connect_bd_intf_net")}
    sources = {load: words[0] for words in recording.calls("connect_bd_net") for load in words[1:]}
    addresses = {(option(words, "-target_address_space"), words[-1], int(option(words, "-offset"), 0),
                  int(option(words, "-range"), 0)) for words in recording.calls("assign_bd_address")}
    found: list[str] = []
    found += [f"bus {sorted(bus)}" for bus in buses ^ wanted_buses(config)]
    found += [f"net {pair}" for pair in set(sources.items()) ^ set(wanted_sources(config).items())]
    found += [f"address {entry}" for entry in addresses ^ wanted_addresses(config)]
    return sorted(found)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_interface_is_connected(name: str, project: Make) -> None:
    config = preset(name)
    recording = project(config).run(SCRIPT)
    assert recording.status == 0, recording.output
    assert problems(recording, config) == []


def test_order(project: Make) -> None:
    recording = project(preset("small")).run(SCRIPT)
    names = [words[0] for words in recording.commands]
    steps = ["create_project", "update_ip_catalog", "create_bd_design", "create_bd_cell", "connect_bd_intf_net",
             "connect_bd_net", "assign_bd_address", "exclude_bd_addr_seg", "validate_bd_design", "save_bd_design",
             "generate_target", "make_wrapper", "add_files", "launch_runs", "open_run", "report_timing_summary"]
    first = [names.index(step) for step in steps]
    assert first == sorted(first)
    assert [words[0] for words in recording.calls("launch_runs")] == ["synth_1", "impl_1"]
    assert recording.calls("launch_runs")[1][1:3] == ["-to_step", "write_bitstream"]


def test_cells_exist_before_they_are_used(project: Make) -> None:
    recording = project(preset("zcu104")).run(SCRIPT)
    made: set[str] = set()
    for words in recording.commands:
        if words[0] == "create_bd_cell":
            made.add(words[-1])
        if words[0] in ("connect_bd_net", "connect_bd_intf_net"):
            assert {pin.split("/")[0] for pin in words[1:]} <= made


def test_newest_version_of_an_ip_is_taken(project: Make) -> None:
    cells = project(preset("small")).run(SCRIPT).calls("create_bd_cell")
    assert {option(words, "-vlnv").split(":")[3] for words in cells} == {"1.10"}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_processing_system(name: str, project: Make) -> None:
    config = preset(name)
    recording = project(config).run(SCRIPT)
    (settings,) = [words[1].split() for words in recording.calls("set_property")
                   if words[0] == "-dict" and words[-1] == PS]
    values = {key.removeprefix("CONFIG."): value.strip("{}")
              for key, value in zip(settings[::2], settings[1::2], strict=True)}
    used = {f"PSU__USE__S_AXI_GP{i + 2}": "1" if str(i) in HP[config.axi_ports] else "0" for i in range(4)}
    assert {key: values[key] for key in used} == used
    widths = [values[f"PSU__SAXIGP{int(port) + 2}__DATA_WIDTH"] for port in HP[config.axi_ports]]
    assert set(widths) == {"128"}  # whatever the beat: SmartConnect converts
    assert values["PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ"] == "300"
    assert values["PSU__USE__IRQ0"] == "1"
    apply, configure = (recording.commands.index(words) for words in recording.commands
                        if words[0] == "apply_bd_automation" or (words[0] == "set_property" and words[-1] == PS))
    assert apply < configure  # the board's preset must not undo the settings


def test_bit_and_description_are_copied_under_one_name(project: Make) -> None:
    made = project(preset("small"))
    assert made.run(SCRIPT).status == 0
    assert sorted(path.name for path in (made.folder / "bitfile").iterdir()) == ["spikeloom.bit", "spikeloom.hwh"]
    reports = {"timing_summary", "utilization"}
    assert reports <= {path.stem for path in (made.folder / "report").iterdir()}


@pytest.mark.parametrize("kind", ["setup", "hold"])
def test_missed_timing_leaves_reports_and_no_bitstream(kind: str, project: Make) -> None:
    made = project(preset("small"))
    recording = made.run(SCRIPT, **{kind: "-0.001"})
    assert recording.status == 3
    assert f"ERROR: spikeloom: {kind} slack -0.001 ns" in recording.output
    assert (made.folder / "report" / "timing_summary.rpt").exists()
    assert list((made.folder / "bitfile").iterdir()) == []


def test_failed_run(project: Make) -> None:
    recording = project(preset("small")).run(SCRIPT, progress="40%")
    assert recording.status == 1
    assert "synth_1 failed: some status; see" in recording.output
    assert [words[0] for words in recording.calls("launch_runs")] == ["synth_1"]


@pytest.mark.parametrize(("missing", "message"), [
    ("spikeloom:*", "holds no IP spikeloom:accelerator:spikeloom; run package_ip.tcl first"),
    ("*:smartconnect", "xilinx.com:ip:smartconnect: this Vivado has none"),
    ("*zcu104*", "board xilinx.com:zcu104:part0: this Vivado has none")])
def test_what_vivado_lacks_is_named(missing: str, message: str, project: Make) -> None:
    recording = project(preset("small")).run(SCRIPT, missing=missing)
    assert recording.status == 1
    assert message in recording.output


def damaged(design: BlockDesign, what: str) -> BlockDesign:
    """The design without one of its parts."""
    if what == "link":
        return replace(design, links=design.links[:-1])
    if what == "control link":
        return replace(design, links=tuple(link for link in design.links if "s_axi_ctrl" not in link.slave))
    if what == "address":
        return replace(design, addresses=design.addresses[:-1])
    if what == "control address":
        return replace(design, addresses=design.addresses[1:])
    if what == "interrupt":
        return replace(design, nets=tuple(net for net in design.nets if "interrupt" not in net.driver))
    first = design.nets[0]
    return replace(design, nets=(Net(driver=first.driver, loads=first.loads[:-1]), *design.nets[1:]))


@pytest.mark.parametrize("what", ["link", "control link", "address", "control address", "interrupt", "clock"])
def test_a_missing_part_is_found(what: str, project: Make) -> None:
    config = preset("small")
    design = damaged(zcu104_design(config), what)
    assert problems(project(config, design).run(SCRIPT), config) != []
    assert design_problems(design, config) != []


def test_a_missing_master_is_found(project: Make) -> None:
    """A design for fewer ports than the accelerator has is sound in itself."""
    config = preset("small")
    design = zcu104_design(replace(config, axi_ports=1))
    assert design_problems(design, replace(config, axi_ports=1)) == []
    assert design_problems(design, config) == ["spikeloom_0/m_axi_gmem1 is in one of design and accelerator only"]
    assert problems(project(config, design).run(SCRIPT), config) != []


def test_overlapping_addresses_are_found() -> None:
    config = preset("tiny")
    design = zcu104_design(config)
    moved = replace(design.addresses[1], base=design.addresses[0].base + 0x800)
    design = replace(design, addresses=(design.addresses[0], moved, *design.addresses[2:]))
    assert design_problems(design, config) == ["spikeloom_0/s_axi_ctrl/reg0 and axi_intc_0/S_AXI/Reg overlap"]
