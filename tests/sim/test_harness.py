"""The accelerator harness, on a copier: reads bursts through its first memory port, writes them through its last."""

import contextlib

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.sim.accelerator_model import (
    AcceleratorModel,
    MemoryModel,
    ProtocolViolation,
    RegisterError,
    SimulationTimeout,
)

START, SOURCE, TARGET, BEATS, STATUS, FLAW = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14
FLAWS = ["none", "4k", "drop", "wlast", "impatient", "early"]
DONE, ERROR = 2, 4
KIB = 1024


def axi_ports(prefix, data):
    """Members of an AXI4 master port."""
    address = {"id": Out(4), "addr": Out(40), "len": Out(8), "size": Out(3), "burst": Out(2)}
    ports = {f"{c}{name}": member for c in ("aw", "ar") for name, member in address.items()}
    ports |= {"awvalid": Out(1), "awready": In(1), "arvalid": Out(1), "arready": In(1)}
    ports |= {"wdata": Out(data), "wstrb": Out(data // 8), "wlast": Out(1), "wvalid": Out(1), "wready": In(1)}
    ports |= {"bid": In(4), "bresp": In(2), "bvalid": In(1), "bready": Out(1)}
    ports |= {"rid": In(4), "rdata": In(data), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1)}
    return {f"{prefix}_{name}": member for name, member in ports.items()}


def lite_ports(prefix):
    """Members of an AXI4-Lite slave port."""
    ports = {"awaddr": In(12), "awvalid": In(1), "awready": Out(1)}
    ports |= {"wdata": In(32), "wstrb": In(4), "wvalid": In(1), "wready": Out(1)}
    ports |= {"bresp": Out(2), "bvalid": Out(1), "bready": In(1)}
    ports |= {"araddr": In(12), "arvalid": In(1), "arready": Out(1)}
    ports |= {"rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1)}
    return {f"{prefix}_{name}": member for name, member in ports.items()}


class Copier(wiring.Component):
    """Copies BEATS beats from SOURCE to TARGET, 16 at a time; status: busy, done, error. Never stops at an error.

    Register FLAW survives reset and breaks one rule, by its index in `FLAWS`: "4k" (bursts ignore 4 KiB boundaries),
    "drop" (ARVALID goes away when not READY at once), "wlast" (never set), "impatient" (does not wait for write
    responses), "early" (AWVALID in reset).
    """

    def __init__(self, *, ports=1, data=128):
        self.ports, self.data = ports, data
        members = {"interrupt": Out(1), "debug_beats": Out(32)} | lite_ports("s_axi_ctrl")
        for index in range(ports):
            members |= axi_ports(f"m_axi_gmem{index}", data)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        start, source, target, beats = Signal(), Signal(32), Signal(32), Signal(32)
        status, self.flaw = Signal(3), Signal(3, reset_less=True)
        m.d.comb += [self.interrupt.eq(status[1]), self.debug_beats.eq(beats)]
        self.registers(m, start, source, target, beats, status)
        self.copy(m, start, source, target, beats, status)
        return m

    def registers(self, m, start, source, target, beats, status):
        s = {name: getattr(self, f"s_axi_ctrl_{name}") for name in _LITE}
        write = Signal()
        m.d.comb += write.eq(s["awvalid"] & s["wvalid"] & ~s["bvalid"])
        m.d.comb += [s["awready"].eq(write), s["wready"].eq(write), start.eq(0)]
        with m.If(s["bready"]):
            m.d.sync += s["bvalid"].eq(0)
        with m.If(write):
            m.d.sync += [s["bvalid"].eq(1), s["bresp"].eq(0)]
            with m.Switch(s["awaddr"]):
                with m.Case(START):
                    m.d.comb += start.eq(1)
                for address, register in ((SOURCE, source), (TARGET, target), (BEATS, beats), (FLAW, self.flaw)):
                    with m.Case(address):
                        m.d.sync += register.eq(s["wdata"])
                with m.Default():
                    m.d.sync += s["bresp"].eq(2)
        m.d.comb += s["arready"].eq(~s["rvalid"])
        with m.If(s["rready"]):
            m.d.sync += s["rvalid"].eq(0)
        with m.If(s["arvalid"] & s["arready"]):
            m.d.sync += [s["rvalid"].eq(1), s["rresp"].eq(0)]
            with m.Switch(s["araddr"]):
                with m.Case(STATUS):
                    m.d.sync += s["rdata"].eq(status)
                with m.Case(SOURCE):
                    m.d.sync += s["rdata"].eq(source)
                with m.Default():
                    m.d.sync += s["rresp"].eq(3)

    def copy(self, m, start, source, target, beats, status):
        r = {name: getattr(self, f"m_axi_gmem0_{name}") for name in _READ}
        w = {name: getattr(self, f"m_axi_gmem{self.ports - 1}_{name}") for name in _WRITE}
        size = (self.data // 8).bit_length() - 1
        m.submodules.buffer = buffer = fifo.SyncFIFO(width=self.data, depth=16)
        left, at, to, count, sent, early = Signal(32), Signal(32), Signal(32), Signal(5), Signal(5), Signal(init=1)
        m.d.sync += early.eq(0)
        burst = self.burst_length(m, left, at, to, size)
        m.d.comb += [
            r["araddr"].eq(at), r["arlen"].eq(count - 1), r["arsize"].eq(size), r["arid"].eq(3), r["arburst"].eq(1),
            w["awaddr"].eq(to), w["awlen"].eq(count - 1), w["awsize"].eq(size), w["awid"].eq(5), w["awburst"].eq(1),
            buffer.w_data.eq(r["rdata"]), buffer.w_en.eq(r["rvalid"] & r["rready"]),
            w["wdata"].eq(buffer.r_data), w["wstrb"].eq(2 ** (self.data // 8) - 1),
            w["wlast"].eq((sent == count - 1) & ~self.has("wlast")),
        ]  # fmt: skip
        with m.If(self.has("early")):
            m.d.comb += w["awvalid"].eq(1)
        with m.If((r["rvalid"] & r["rready"] & (r["rresp"] != 0)) | (w["bvalid"] & w["bready"] & (w["bresp"] != 0))):
            m.d.sync += status[2].eq(1)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(start):
                    m.d.sync += [left.eq(beats), at.eq(source), to.eq(target), status.eq(1)]
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [count.eq(burst), sent.eq(0)]
                with m.If(left == 0):
                    m.d.sync += status[:2].eq(2)
                    m.next = "IDLE"
                with m.Else():
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += r["arvalid"].eq(1)
                with m.If(r["arready"]):
                    m.next = "FILL"
                with m.Elif(self.has("drop")):
                    m.next = "NEXT"
            with m.State("FILL"):
                m.d.comb += r["rready"].eq(1)
                with m.If(r["rvalid"] & r["rlast"]):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += w["awvalid"].eq(1)
                with m.If(w["awready"]):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += [w["wvalid"].eq(1), buffer.r_en.eq(w["wready"])]
                m.d.sync += sent.eq(sent + w["wready"])
                with m.If(w["wready"] & (sent == count - 1)):
                    m.d.sync += [left.eq(left - count), at.eq(at + (count << size)), to.eq(to + (count << size))]
                    m.next = "WAIT"
                    with m.If(self.has("impatient")):
                        m.next = "NEXT"
                with m.If(self.has("impatient")):
                    m.d.comb += w["bready"].eq(1)
            with m.State("WAIT"):
                m.d.comb += w["bready"].eq(1)
                with m.If(w["bvalid"]):
                    m.next = "NEXT"

    def has(self, flaw):
        return self.flaw == FLAWS.index(flaw)

    def burst_length(self, m, left, at, to, size):
        """At most 16 beats, at most what is left, at most up to the next 4 KiB boundary of either side."""
        page = 12 - size
        burst = Signal(5)
        m.d.comb += burst.eq(16)
        for limit in (left, 2**page - at[size:12], 2**page - to[size:12]):
            smaller = Signal(5)
            m.d.comb += smaller.eq(burst)
            with m.If((limit < burst) & ((limit is left) | ~self.has("4k"))):
                m.d.comb += smaller.eq(limit)
            burst = smaller
        return burst


class Prober(wiring.Component):
    """Issues eight single-beat reads with IDs 0 to 7 at once; ``order`` collects the IDs as answered, first lowest."""

    def __init__(self):
        members = {"interrupt": Out(1)} | lite_ports("s_axi_ctrl") | axi_ports("m_axi_gmem0", 32)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        awake, sent, got, order = Signal(), Signal(4), Signal(4), Signal(32)
        m.d.comb += [
            self.m_axi_gmem0_arvalid.eq(awake & (sent < 8)), self.m_axi_gmem0_arid.eq(sent),
            self.m_axi_gmem0_arsize.eq(2), self.m_axi_gmem0_araddr.eq(sent << 4),
            self.m_axi_gmem0_rready.eq(1), self.m_axi_gmem0_arburst.eq(1), self.interrupt.eq(got == 8),
            self.s_axi_ctrl_arready.eq(~self.s_axi_ctrl_rvalid), self.s_axi_ctrl_rdata.eq(order),
        ]  # fmt: skip
        m.d.sync += awake.eq(1)
        m.d.sync += sent.eq(sent + (self.m_axi_gmem0_arvalid & self.m_axi_gmem0_arready))
        with m.If(self.m_axi_gmem0_rvalid):
            m.d.sync += [got.eq(got + 1), order.eq(order | (self.m_axi_gmem0_rid << (got[:3] << 2)))]
        with m.If(self.s_axi_ctrl_rready):
            m.d.sync += self.s_axi_ctrl_rvalid.eq(0)
        with m.If(self.s_axi_ctrl_arvalid & self.s_axi_ctrl_arready):
            m.d.sync += self.s_axi_ctrl_rvalid.eq(1)
        return m


_LITE = [name.removeprefix("x_") for name in lite_ports("x")]
_READ = [name for name in (n.removeprefix("x_") for n in axi_ports("x", 32)) if name.startswith(("ar", "r"))]
_WRITE = [name for name in (n.removeprefix("x_") for n in axi_ports("x", 32)) if name.startswith(("aw", "w", "b"))]


def model(memory=None, *, ports=1, data=128, **options):
    copier = Copier(ports=ports, data=data)
    return AcceleratorModel(copier, name="copier", memory_bytes=256 * KIB, memory=memory, **options)


def begin(simulation, *, source=0x1F80, target=0x8F40, beats=100):
    """Fill the source with random bytes and start; returns what the target should hold in the end."""
    length = beats * simulation.data_bytes
    expected = np.random.default_rng(5).integers(0, 256, length, np.uint8)
    simulation.memory[source : source + length] = expected
    for register, value in ((SOURCE, source), (TARGET, target), (BEATS, beats), (START, 1)):
        simulation.write_register(register, value)
    return expected


def copied(simulation, expected, target=0x8F40):
    return np.array_equal(simulation.memory[target : target + len(expected)], expected)


@pytest.mark.parametrize(("ports", "data"), [(1, 128), (2, 32), (4, 64)])
def test_copies_through_every_shape_of_memory_port(ports, data):
    with model(ports=ports, data=data) as simulation:
        assert (simulation.port_count, simulation.data_bytes) == (ports, data // 8)
        expected = begin(simulation)
        simulation.run_until_interrupt(max_cycles=20_000)
        assert copied(simulation, expected)
        assert simulation.read_register(STATUS) == DONE
        assert simulation.in_flight == 0
        assert simulation.counters(0).read_beats == 100
        assert simulation.counters(ports - 1).write_beats == 100


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_stalls_jitter_and_reordering_change_the_time_only(seed):
    rough = MemoryModel(bandwidth=0.6, latency=9, jitter=30, stall_probability=0.4, seed=seed, out_of_order=True)
    with model() as smooth, model(rough) as stalled:
        expected = begin(smooth), begin(stalled)
        quick, slow = smooth.run_until_interrupt(20_000), stalled.run_until_interrupt(50_000)
        assert copied(smooth, expected[0])
        assert copied(stalled, expected[1])
        assert slow > 1.3 * quick


def test_the_same_seed_gives_the_same_cycles():
    cycles = []
    for seed in (4, 4, 5):
        with model(MemoryModel(jitter=20, stall_probability=0.3, seed=seed)) as simulation:
            begin(simulation)
            cycles.append(simulation.run_until_interrupt(50_000))
    assert cycles[0] == cycles[1] != cycles[2]


def test_bandwidth_and_latency_count_exactly():
    """160 beats in 10 bursts: halving the rate costs 16 cycles per burst and direction, latency its difference."""
    cycles = []
    for memory in (
        MemoryModel(latency=10),
        MemoryModel(latency=30),
        MemoryModel(latency=10, bandwidth=0.5),
        MemoryModel(latency=10, total_bandwidth=0.5),
    ):
        with model(memory) as simulation:
            begin(simulation, source=0x2000, target=0x8000, beats=160)
            cycles.append(simulation.run_until_interrupt(20_000))
    assert cycles[1] == cycles[0] + 10 * 2 * 20
    assert 10 * 2 * 14 <= cycles[2] - cycles[0] <= 10 * 2 * 16
    assert abs(cycles[3] - cycles[2]) <= 10 * 2


@pytest.mark.parametrize("direction", ["read", "write"])
@pytest.mark.parametrize("when", [{"beat": 40}, {"cycle": 300}])
def test_an_injected_error_reaches_the_accelerator_once(direction, when):
    with model() as simulation:
        simulation.inject_error(0, direction, "SLVERR", **when)
        expected = begin(simulation)
        simulation.run_until_interrupt(20_000)
        assert simulation.read_register(STATUS) == DONE | ERROR
        assert not copied(simulation, expected)
        begin(simulation)
        simulation.run(10)
        simulation.run_until_interrupt(20_000)
        assert simulation.read_register(STATUS) == DONE
        assert copied(simulation, expected)


def test_a_stalled_port_ends_in_a_time_out_and_can_be_released():
    with model() as simulation:
        expected = begin(simulation)
        simulation.stall_port(0, from_cycle=simulation.cycle + 200)
        with pytest.raises(
            SimulationTimeout, match=r"interrupt not 1 after 30000 cycles; cycle \d+, 1 bursts in flight"
        ):
            simulation.run_until_interrupt(30_000)
        with pytest.raises(SimulationTimeout, match="register 0x10 & 0x2 not 0x2 after 1000 cycles"):
            simulation.run_until_register(STATUS, mask=DONE, value=DONE, max_cycles=1000)
        simulation.release_port(0)
        simulation.run_until_register(STATUS, mask=DONE, value=DONE, max_cycles=20_000, interval=10)
        assert copied(simulation, expected)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("4k", r"cycle \d+, m_axi_gmem0: read at 0x1f80 of 16 beats crosses a 4 KiB boundary"),
        ("drop", "m_axi_gmem0: AR: valid fell before ready"),
        ("wlast", "m_axi_gmem0: wlast is 0 in beat 8 of 8"),
        ("early", "m_axi_gmem0: valid is high during reset"),
    ],
)
def test_broken_rules_are_reported(flaw, message):
    with pytest.raises(ProtocolViolation, match=message):
        run_with_flaw(flaw)


def run_with_flaw(flaw):
    with model(MemoryModel(stall_probability=0.3)) as simulation:
        simulation.write_register(FLAW, FLAWS.index(flaw))
        simulation.reset()
        begin(simulation)
        with contextlib.suppress(SimulationTimeout):
            simulation.run_until_interrupt(20_000)


def test_bursts_overtake_each_other_only_when_asked_to():
    orders = []
    for out_of_order in (False, True):
        memory = MemoryModel(latency=10, jitter=40, out_of_order=out_of_order)
        with AcceleratorModel(Prober(), name="prober", memory_bytes=4096, memory=memory) as simulation:
            simulation.run_until_interrupt(1000)
            order = simulation.read_register(0)
            orders.append([order >> 4 * index & 15 for index in range(8)])
    assert orders[0] == list(range(8))
    assert orders[1] != orders[0]
    assert sorted(orders[1]) == orders[0]


def test_reading_what_is_still_being_written_is_reported():
    """The target overlaps the source, so later bursts read what earlier ones wrote."""
    for flaw, broken in (("none", False), ("impatient", True)):
        with model(MemoryModel(latency=50), strict=False) as simulation:
            simulation.write_register(FLAW, FLAWS.index(flaw))
            begin(simulation, source=0x2000, target=0x2100, beats=64)
            simulation.run_until_interrupt(20_000)
            found = [text for text in simulation.violations if "overlaps the write" in text]
            assert bool(found) is broken, simulation.violations


def test_leaving_the_memory_is_reported_and_answered_with_an_error():
    with model(strict=False) as simulation:
        for register, value in ((SOURCE, 256 * KIB), (TARGET, 0), (BEATS, 4), (START, 1)):
            simulation.write_register(register, value)
        simulation.run_until_interrupt(20_000)
        assert simulation.read_register(STATUS) == DONE | ERROR
        assert "read at 0x40000 is outside the memory" in simulation.violations[0]


def test_bursts_longer_than_allowed_are_reported():
    with model(max_burst=8, strict=False) as simulation:
        begin(simulation, source=0, target=0x8000)
        simulation.run_until_interrupt(20_000)
        assert "read at 0x0 has 16 beats" in simulation.violations[0]


def test_the_cycle_of_every_write_is_known():
    with model() as simulation:
        begin(simulation, target=0x8000, beats=32)
        start = simulation.cycle
        simulation.run_until_interrupt(20_000)
        cycles = [simulation.last_write_cycle(0x8000 + 16 * beat) or 0 for beat in range(32)]
        assert cycles == sorted(set(cycles))
        assert start < cycles[0] < cycles[-1] <= simulation.cycle
        assert simulation.last_write_cycle(0x8000 + 32 * 16) is None
        assert np.count_nonzero(simulation.last_write_cycles) == 32


def test_register_errors_are_exceptions():
    with model() as simulation:
        with pytest.raises(RegisterError, match="write to register 0x20: SLVERR"):
            simulation.write_register(0x20, 0)
        with pytest.raises(RegisterError, match="read of register 0x24: DECERR"):
            simulation.read_register(0x24)
        simulation.write_register(SOURCE, 0x12345678)
        assert simulation.read_register(SOURCE) == 0x12345678


def test_reset_starts_over():
    with model() as simulation:
        begin(simulation)
        simulation.run(100)
        simulation.reset()
        assert simulation.read_register(STATUS) == 0
        expected = begin(simulation)
        simulation.run_until_interrupt(20_000)
        assert copied(simulation, expected)


def test_a_waveform_holds_the_cycles_asked_for(tmp_path):
    with model(trace=True) as simulation:
        begin(simulation)
        for name in ("first.vcd", "second.vcd"):
            with simulation.wave(tmp_path / name):
                simulation.run(50)
        simulation.run_until_interrupt(20_000)
        assert (tmp_path / "first.vcd").stat().st_size > 2000
        assert "m_axi_gmem0_araddr" in (tmp_path / "second.vcd").read_text()


def test_a_waveform_needs_a_tracing_build(tmp_path):
    with model() as simulation, pytest.raises(ValueError, match="needs a model made with trace=True"):
        with simulation.wave(tmp_path / "a.vcd"):
            pass


def test_a_top_module_without_the_ports_is_refused():
    verilog = "module copier (clk, rst);\n  input clk;\n  input rst;\nendmodule\n"
    with pytest.raises(ValueError, match="module copier lacks the ports interrupt, s_axi_ctrl_awaddr"):
        AcceleratorModel(verilog, name="copier")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bandwidth": 0}, "`bandwidth` must be above 0 and at most 1, not 0"),
        ({"total_bandwidth": -1}, "`total_bandwidth` must be positive or None, not -1"),
        ({"stall_probability": 1}, "`stall_probability` must be from 0 to below 1, not 1"),
        ({"latency": -1}, "`latency` must be at least 0, not -1"),
        ({"outstanding": 0}, "`outstanding` must be at least 1, not 0"),
    ],
)
def test_memory_models_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        MemoryModel(**options)


def test_arguments_are_checked():
    with model() as simulation:
        with pytest.raises(ValueError, match="`port` must be from 0 to 0, not 1"):
            simulation.stall_port(1)
        with pytest.raises(ValueError, match="exactly one of `beat` and `cycle`"):
            simulation.inject_error(0, "read", "SLVERR")
        with pytest.raises(ValueError, match="`direction` must be"):
            simulation.inject_error(0, "up", "SLVERR", beat=1)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="`response` must be"):
            simulation.inject_error(0, "read", "OKAY", beat=1)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="must be an option of the harness, not 'colour'"):
            simulation.set_option("colour", 1)
    with pytest.raises(ValueError, match="`memory_bytes` must be a positive multiple of 4096"):
        AcceleratorModel("", memory_bytes=100)
    with pytest.raises(ValueError, match="`max_burst` must be from 1 to 256, not 0"):
        AcceleratorModel("", max_burst=0)
