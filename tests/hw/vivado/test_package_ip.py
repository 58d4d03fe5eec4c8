"""package_ip.tcl, run by a recording stand-in for Vivado and held against the accelerator and the register table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spikeloom.config import PRESETS, preset
from spikeloom.hw.vivado import package_ip
from spikeloom.registers import REGISTERS

from .conftest import Project, Recording

SCRIPT = "package_ip.tcl"
Make = Callable[..., Project]


def properties(words: list[str]) -> dict[str, str]:
    """`set_property -dict {a {b} c {d e}} object` as a dictionary."""
    pairs = [line.strip().split(" ", 1) for line in words[1].splitlines() if line.strip()]
    return {name: value.strip("{}") for name, value in pairs}


def recorded_registers(recording: Recording) -> dict[str, tuple[str, str, dict[str, tuple[str, str]]]]:
    """Name -> (offset, access, fields: name -> (bit, width))."""
    found: dict[str, tuple[str, str, dict[str, tuple[str, str]]]] = {}
    register = field = ""
    for words in recording.commands:
        if words[0] == "ipx::add_register":
            register, field = words[1], ""
        elif words[0] == "ipx::add_field":
            field = words[1]
        elif words[0] == "set_property" and words[1] == "-dict" and words[-1] in (register, field) and register:
            values = properties(words[1:])
            if words[-1] == field:
                found[register][2][field] = (values["bit_offset"], values["bit_width"])
            else:
                found[register] = (values["address_offset"], values["access"], {})
    return found


def wanted_registers() -> dict[str, tuple[str, str, dict[str, tuple[str, str]]]]:
    access = {"ro": "read-only", "rw": "read-write", "w1s": "write-only", "w1c": "read-write"}
    return {
        entry.name: (f"{entry.offset:#x}", access[entry.access],
                     {field.name: (str(field.low), str(field.width)) for field in entry.fields})
        for entry in REGISTERS}


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("inferred", ["0", "1"])
def test_packages(name: str, inferred: str, project: Make) -> None:
    """Whether Vivado takes the interfaces from the attributes or has to be told."""
    config = preset(name)
    recording = project(config).run(SCRIPT, inferred=inferred)
    assert recording.status == 0, recording.output
    buses = ["s_axi_ctrl", *(f"m_axi_gmem{i}" for i in range(config.axi_ports))]
    associated = [words for words in recording.calls("ipx::associate_bus_interfaces") if "-busif" in words]
    assert [words[1] for words in associated] == buses
    told = [words[0].split()[0] for words in recording.calls("ipx::infer_bus_interface")]
    assert len(told) == (0 if inferred == "1" else len(buses) + 3)


def test_every_register_and_field(project: Make) -> None:
    assert recorded_registers(project(preset("tiny")).run(SCRIPT)) == wanted_registers()


def test_a_missing_register_is_found(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_ip, "REGISTERS", REGISTERS[:-1])
    lost = set(wanted_registers()) - set(recorded_registers(project(preset("tiny")).run(SCRIPT)))
    assert lost == {REGISTERS[-1].name}


def test_order(project: Make) -> None:
    names = [words[0] for words in project(preset("tiny")).run(SCRIPT).commands]
    steps = ["create_project", "add_files", "ipx::package_project", "ipx::get_bus_interfaces",
             "ipx::associate_bus_interfaces", "ipx::get_address_spaces", "ipx::add_register", "ipx::add_field",
             "ipx::update_checksums", "ipx::check_integrity", "ipx::save_core", "close_project"]
    first = [names.index(step) for step in steps]
    assert first == sorted(first)


def test_identity_and_address_space(project: Make) -> None:
    recording = project(preset("small")).run(SCRIPT)
    assert recording.calls("create_project")[0][-2:] == ["-part", "xczu7ev-ffvc1156-2-e"]
    values = properties(next(words for words in recording.calls("set_property") if words[-1] == "core"))
    assert (values["name"], values["ipi_drc"]) == ("spikeloom", "ignore_freq_hz true")
    sets = recording.calls("set_property")
    assert [words for words in sets if words[-1] == "m_axi_gmem1"] == [
        ["range", str(1 << 40), "m_axi_gmem1"], ["width", "128", "m_axi_gmem1"]]
    assert ["range", "4096", "reg0"] in sets
    assert ["old_register", "reg0"] in recording.calls("ipx::remove_register")


def test_an_interface_that_is_not_inferred_is_named(project: Make) -> None:
    recording = project(preset("small")).run(SCRIPT, uninferable="m_axi_gmem1")
    assert recording.status == 1
    assert "Vivado inferred no interface m_axi_gmem1 from the ports of spikeloom_top" in recording.output


def test_missing_verilog_is_named(project: Make) -> None:
    made = project(preset("tiny"))
    (made.folder / "rtl" / "spikeloom.v").unlink()
    recording = made.run(SCRIPT)
    assert recording.status == 1
    assert "spikeloom.v: no such file; run `spikeloom build`" in recording.output
