"""Control registers through cocotbext-axi: every register of the table, actions, interrupt, byte strobes."""

import itertools
import random

import cocotb
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from spikeloom.config import MACHINE_VERSION
from spikeloom.hw.gateware.control import LIVE, SETTINGS
from spikeloom.registers import IDENTIFIER, REGISTERS, register

from . import support


async def master_of(dut) -> AxiLiteMaster:
    """Start the clock and return an AXI4-Lite master that pauses at random on all channels."""
    await support.start(dut)
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_ctrl"), dut.clk, dut.rst)
    rng = random.Random(support.seed())
    channels = (master.write_if.aw_channel, master.write_if.w_channel, master.write_if.b_channel,
                master.read_if.ar_channel, master.read_if.r_channel)
    for channel in channels:
        channel.set_pause_generator(itertools.cycle([rng.random() < 0.3 for _ in range(97)]))
    for part in (master.write_if, master.read_if):
        part.log.setLevel("ERROR")
    return master


@cocotb.test()
async def constants_and_live_values(dut):
    """Constants read as the table says, live registers as their input ports."""
    master = await master_of(dut)
    rng = random.Random(support.seed())
    config = support.config()
    expected = {"id": IDENTIFIER, "version": MACHINE_VERSION, "config_hash": config.hash}
    for name in LIVE:
        expected[name] = rng.getrandbits(32)
        getattr(dut, f"value_{name}").value = expected[name]
    for name, value in expected.items():
        assert await master.read_dword(register(name).offset) == value, name
    assert await master.read_dword(0xFFC) == 0, "an unmapped register reads zero"


@cocotb.test()
async def settings(dut):
    """Read-write registers hold what was written and show it at their ports; strobes select bytes."""
    master = await master_of(dut)
    rng = random.Random(support.seed())
    for name in SETTINGS:
        entry = register(name)
        assert await master.read_dword(entry.offset) == entry.reset, name
        value = rng.getrandbits(32)
        await master.write_dword(entry.offset, value)
        assert await master.read_dword(entry.offset) == value, name
        assert int(getattr(dut, f"setting_{name}").value) == value, name
        await master.write(entry.offset + 1, b"\xa5")
        assert await master.read_dword(entry.offset) == value & ~0xFF00 | 0xA500, name
    low, high = register("output_base_low"), register("output_base_high")
    await master.write_dword(low.offset, 0x1234_5000)
    await master.write_dword(high.offset, 0x7F)
    assert int(dut.bases.value) >> 120 == 0x7F_1234_5000


@cocotb.test()
async def actions_and_interrupt(dut):
    """Actions pulse once; the interrupt is pending & enabled, and is cleared by writing one."""
    master = await master_of(dut)
    pulses = {"start": 0, "soft_reset": 0}

    async def count() -> None:
        while True:
            await RisingEdge(dut.clk)
            for name in pulses:
                pulses[name] += int(getattr(dut, name).value)

    cocotb.start_soon(count())
    await master.write_dword(register("control").offset, 1)
    await master.write_dword(register("control").offset, 2)
    assert pulses == {"start": 1, "soft_reset": 1}
    dut.finished.value = 1
    await RisingEdge(dut.clk)
    dut.finished.value = 0
    assert await master.read_dword(register("interrupt_status").offset) == 1
    assert dut.interrupt.value == 0, "not enabled yet"
    await master.write_dword(register("interrupt_enable").offset, 1)
    assert dut.interrupt.value == 1
    await master.write_dword(register("interrupt_status").offset, 1)
    assert dut.interrupt.value == 0
    assert len(REGISTERS) == len({r.offset for r in REGISTERS})
