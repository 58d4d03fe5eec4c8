"""Supervisor: a run from start to done, errors and their blame, the watchdog, soft reset that waits for the ports."""

import random

import cocotb
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from spikeloom.hw.gateware.sequencer import INDEX_BITS
from spikeloom.hw.gateware.supervisor import ENGINES, RESET_CYCLES
from spikeloom.hw.isa import Engine
from spikeloom.registers import ErrorCode

from . import support


async def pulse(dut, name: str, value: int = 1) -> None:
    """One cycle of `value`."""
    getattr(dut, name).value = value
    await RisingEdge(dut.clk)
    getattr(dut, name).value = 0


async def until(dut, name: str, level: int = 1, limit: int = 200) -> int:
    """Cycles until an output has a level; AssertionError after `limit`. Returns before the next clock edge."""
    for cycles in range(limit):
        await ReadOnly()
        if int(getattr(dut, name).value) == level:
            return cycles
        await RisingEdge(dut.clk)
    raise AssertionError(f"{name} did not become {level} within {limit} cycles")


async def started(dut) -> None:
    """Reset, ports idle, start, until running."""
    await support.start(dut)
    dut.ports_idle.value = 1
    dut.indices.value = sum((100 + engine) << INDEX_BITS * engine for engine in range(ENGINES))
    await pulse(dut, "start")
    await until(dut, "run")
    assert int(dut.core_reset.value) == 0, "the core runs out of reset"
    assert int(dut.abort.value) == 0
    await RisingEdge(dut.clk)


def failure(dut) -> tuple[int, int, int]:
    """(code, engine, instruction) as latched."""
    return int(dut.error_code.value), int(dut.error_engine.value), int(dut.error_instruction.value)


@cocotb.test()
async def start_resets_the_core_first(dut):
    """The core is held in reset before a run, for RESET_CYCLES cycles with the ports aborted."""
    await support.start(dut)
    dut.ports_idle.value = 1
    await pulse(dut, "start")
    assert await until(dut, "core_reset", 0) >= RESET_CYCLES - 1
    assert int(dut.run.value) == 1


@cocotb.test()
async def a_burst_of_the_last_cycle_is_awaited(dut):
    """Ports that were idle may have taken a burst in the cycle before `abort`: what they said then is void."""
    await started(dut)
    await support.ticks(dut, 20)
    assert int(dut.ports_idle.value) == 1
    dut.ended.value = 1
    await support.ticks(dut, 2)
    dut.ports_idle.value = 0  # in the first cycle of `abort`
    for _ in range(10):
        await ReadOnly()
        assert (int(dut.finished.value), int(dut.abort.value)) == (0, 1), f"cycle {support.cycle()}"
        await RisingEdge(dut.clk)
    dut.ports_idle.value = 1
    await until(dut, "finished")


@cocotb.test()
async def ends_when_the_ports_are_idle(dut):
    """END: abort, wait for the ports, done, one `finished`; cycles stand still."""
    await started(dut)
    await support.ticks(dut, 20)
    dut.ports_idle.value = 0
    dut.ended.value = 1
    await until(dut, "abort")
    assert int(dut.done.value) == 0
    await RisingEdge(dut.clk)
    await support.ticks(dut, 5)
    dut.ports_idle.value = 1
    await until(dut, "finished")
    await RisingEdge(dut.clk)
    await until(dut, "done")
    counted = int(dut.cycles.value)
    assert 20 <= counted <= 30
    await RisingEdge(dut.clk)
    await support.ticks(dut, 5)
    assert int(dut.cycles.value) == counted
    assert int(dut.finished.value) == 0
    assert int(dut.busy.value) == 0


@cocotb.test()
@cocotb.parametrize(direction=["read", "write"])
async def bus_errors_blame_the_engine(dut, direction):
    """The first error is latched with engine and instruction; later ones do not overwrite it.

    The instruction is that which `indices` show a cycle after the error, not before, not later.
    """
    rng = random.Random(f"{support.seed()} {direction}")
    await started(dut)
    engine = rng.randrange(ENGINES)
    right, wrong = int(dut.indices.value), rng.getrandbits(INDEX_BITS * ENGINES)
    dut.indices.value = wrong
    await pulse(dut, f"bus_error_{direction}", 1 << engine)
    dut.indices.value = right
    await RisingEdge(dut.clk)
    dut.indices.value = wrong
    await until(dut, "error")
    code = ErrorCode.BUS_READ if direction == "read" else ErrorCode.BUS_WRITE
    assert failure(dut) == (code, engine, 100 + engine)
    await RisingEdge(dut.clk)
    await pulse(dut, "bus_error_read", 1 << (engine ^ 1))
    await support.ticks(dut, 3)
    assert failure(dut) == (code, engine, 100 + engine)
    assert int(dut.abort.value) == 1


@cocotb.test()
async def sequencer_error(dut):
    """Errors of the sequencer are passed on."""
    await started(dut)
    dut.sequencer_code.value, dut.sequencer_engine.value = ErrorCode.BAD_OPCODE, Engine.SEQUENCER
    dut.sequencer_index.value = 77
    await pulse(dut, "sequencer_error")
    await until(dut, "error")
    assert failure(dut) == (ErrorCode.BAD_OPCODE, Engine.SEQUENCER, 77)


@cocotb.test()
async def watchdog_counts_cycles_without_progress(dut):
    """Progress restarts it; then it blames the executing engine, `watchdog` cycles later."""
    await started(dut)
    dut.watchdog.value = 40
    dut.executing.value = 1 << Engine.DRAIN
    for _ in range(5):
        await support.ticks(dut, 30)
        await pulse(dut, "progress")
    assert 38 <= await until(dut, "error") <= 44
    assert failure(dut) == (ErrorCode.WATCHDOG, Engine.DRAIN, 100 + Engine.DRAIN)


@cocotb.test()
async def watchdog_compares_all_bits(dut):
    """Neither the lower nor the upper half alone decides."""
    await started(dut)
    dut.watchdog.value = 0x1_0010
    await support.ticks(dut, 100)
    dut.watchdog.value = 0x1_FFFF
    await ClockCycles(dut.clk, 0x1_0000)
    assert int(dut.error.value) == 0
    dut.watchdog.value = 0xFFFF
    assert await until(dut, "error") <= 5


@cocotb.test()
async def soft_reset_waits_for_the_ports(dut):
    """After an error: resetting until the ports are idle, then the core is reset and everything is cleared."""
    await started(dut)
    dut.ports_idle.value = 0
    await pulse(dut, "bus_error_read", 1)
    await until(dut, "error")
    await RisingEdge(dut.clk)
    await pulse(dut, "start")
    await support.ticks(dut, 10)
    assert int(dut.run.value) == 0, "an error must be reset first"
    await pulse(dut, "soft_reset")
    await until(dut, "resetting")
    await RisingEdge(dut.clk)
    await support.ticks(dut, 20)
    assert int(dut.resetting.value) == 1
    assert int(dut.core_reset.value) == 0, "the core may not vanish while the bus owes answers"
    dut.ports_idle.value = 1
    await until(dut, "core_reset")
    await RisingEdge(dut.clk)
    await until(dut, "resetting", 0)
    assert (int(dut.error.value), int(dut.error_code.value), int(dut.busy.value)) == (0, 0, 0)


@cocotb.test()
async def counts_in_every_cycle(dut):
    """Counters of 32 bits; in no cycle does one show anything but a count, two cycles behind its port."""
    late = 2
    rng = random.Random(support.seed())
    await started(dut)
    ports = {"executing": Engine.LOAD, "blocked": Engine.STORE, "instruction_finished": 0}
    history = [dict.fromkeys(ports, 0)] * late
    for cycle in range(700):
        given = {name: int(rng.random() < 0.9) for name in ports}
        for name, bit in ports.items():
            getattr(dut, name).value = given[name] << bit
        await ReadOnly()
        counted = history[-late]
        assert int(dut.engine_busy.value) == counted["executing"] << 32 * Engine.LOAD
        assert int(dut.engine_blocked.value) == counted["blocked"] << 32 * Engine.STORE
        assert int(dut.instructions.value) == counted["instruction_finished"]
        assert int(dut.cycles.value) == 1 + cycle
        history.append({name: history[-1][name] + given[name] for name in ports})
        await RisingEdge(dut.clk)
    assert min(history[-1].values()) > 512, "too few to see the upper bits change twice"
