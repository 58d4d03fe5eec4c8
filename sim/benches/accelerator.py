"""The whole machine through cocotbext-axi: an independent AXI memory and AXI4-Lite master run one clip.

The test prepares the memory (program, input) as a file and checks what the run left in it.
"""

import itertools
import random
from pathlib import Path

import cocotb
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from spikeloom.registers import register

from . import support


def pause(channel, rng: random.Random, share: float) -> None:
    """Pause a channel at random."""
    channel.set_pause_generator(itertools.cycle([rng.random() < share for _ in range(997)]))


@cocotb.test()
async def runs_a_clip(dut):
    """Registers as the driver writes them; the interrupt within the limit; status done; memory written out."""
    given = support.parameters()
    folder, rng = Path(given["folder"]), random.Random(support.seed())
    await support.start(dut)
    lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_ctrl"), dut.clk, dut.rst)
    memory = (folder / "memory.bin").read_bytes()
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi_gmem0"), dut.clk, dut.rst, size=len(memory))
    ram.write(0, memory)
    for channel in (ram.write_if.aw_channel, ram.write_if.w_channel, ram.write_if.b_channel, ram.read_if.ar_channel,
                    ram.read_if.r_channel):
        pause(channel, rng, given["stall"])
    for part in (ram.write_if, ram.read_if, lite.write_if, lite.read_if):
        part.log.setLevel("ERROR")
    for name, base in given["bases"].items():
        await lite.write_dword(register(f"{name}_base_low").offset, base)
    await lite.write_dword(register("interrupt_enable").offset, 1)
    await lite.write_dword(register("control").offset, 1)
    for _ in range(given["max_cycles"]):
        await RisingEdge(dut.clk)
        if dut.interrupt.value:
            break
    else:
        raise AssertionError(f"no interrupt within {given['max_cycles']} cycles")
    status = await lite.read_dword(register("status").offset)
    code = await lite.read_dword(register("error_code").offset)
    assert (status, code) == (2, 0), f"status {status:#x}, error {code}"
    after = ram.read(0, len(memory))
    assert isinstance(after, bytes | bytearray)
    (folder / "after.bin").write_bytes(after)
