"""Cycle model: hand-computed programs, sharing of the memory, accounts, constants held against the gateware."""

from dataclasses import replace

import numpy as np
import pytest

from spikeloom.config import PRESETS, preset
from spikeloom.hw.estimate import report
from spikeloom.hw.estimate.bandwidth import fair, read_cap, write_cap
from spikeloom.hw.estimate.estimate import estimate
from spikeloom.hw.estimate.simulator import Simulator, StuckError
from spikeloom.hw.estimate.times import DDR, Ddr, times_of
from spikeloom.hw.estimate.work import PARTS, Compute, Drain, Move, Task, digest
from spikeloom.hw.gateware.packer import WINDOW_WORDS
from spikeloom.hw.gateware.read_port import ReadPort
from spikeloom.hw.gateware.sequencer import IN_FLIGHT
from spikeloom.hw.gateware.store import StoreEngine
from spikeloom.hw.gateware.transfer import TransferGenerator
from spikeloom.hw.gateware.write_port import OUTSTANDING_BITS
from spikeloom.hw.isa import Core, Engine, Opcode, Source
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.schedule import QUEUE_DEPTH
from spikeloom.quantize.random_networks import random_network
from spikeloom.sim.bench import DDR as SIMULATED

ZCU = preset("zcu104")
TIMES = times_of(ZCU)
FAST = Ddr(total_bandwidth=100, latency=0, jitter=0)
L, W, S, C, D, T, R = (Engine.LOAD, Engine.WEIGHT, Engine.SHORTCUT, Engine.COMPUTE, Engine.DRAIN, Engine.STORE,
                       Engine.STORE_RESIDUAL)


def _task(engine, work, wait=(), signal=()):
    return Task(engine, 0, tuple(wait), tuple(signal), work)


def _move(beats, source=None):
    return Move(beats, -(-beats // 16), source=source)


def _compute(positions, chunks, batches=8, core=Core.ARRAY):
    return Compute(core, (1, positions, 0, 0), True, positions, (batches,) * chunks, (0,) * chunks, (0,) * chunks)


def _run(*tasks, ddr=DDR, config=ZCU):
    return Simulator([*tasks, _task(Engine.SEQUENCER, None)], config, 1, ddr, TIMES).run()


def _cycles(*tasks, ddr=DDR, config=ZCU):
    return _run(*tasks, ddr=ddr, config=config).now


def test_one_load():
    """fetch, hand-over, latency, a beat per cycle, end; then END is fetched already."""
    first = TIMES.start + DDR.delay + TIMES.fetch_check
    load = TIMES.issue + TIMES.read_start + DDR.delay + 640 + TIMES.read_end
    assert _cycles(_task(L, _move(640))) == pytest.approx(first + load + TIMES.start)


@pytest.mark.parametrize("engine", [L, W, S])
def test_loads_of_one_engine_follow_each_other(engine):
    """Beat after beat: latencies overlap."""
    one, two = (_cycles(*[_task(engine, _move(640))] * count) for count in (1, 2))
    assert two - one == pytest.approx(640, abs=1)


def _busy(engine, beats, count, ddr):
    """Cycles of `count` transfers, all of them fetched when the first one begins."""
    first = _task(engine, _move(beats), wait=[C])
    run = _run(_task(C, _compute(2000, 1), signal=[engine]), first, *[_task(engine, _move(beats))] * (count - 1),
               ddr=ddr)
    return run.units[engine].busy - TIMES.issue


@pytest.mark.parametrize(("engine", "beats", "counted"), [
    (L, 8, 623), (L, 16, 687), (L, 32, 815), (L, 64, 1391), (T, 64, 1487)])
def test_twenty_instructions_take_what_was_counted(engine, beats, counted):
    """Cycles of the RTL at a latency of 100, from the first hand-over to the last `done`."""
    assert _busy(engine, beats, 20, replace(FAST, latency=100)) == pytest.approx(counted, rel=0.01)


def test_few_instructions_are_under_way():
    """A burst each: a round trip brings `in_flight` of them."""
    one, most, more = (_busy(L, 8, count, DDR) for count in (1, TIMES.in_flight, TIMES.in_flight + 1))
    assert one == pytest.approx(TIMES.read_start + DDR.delay + 8 + TIMES.read_end)
    assert most - one == pytest.approx(8 * (TIMES.in_flight - 1))
    assert more == pytest.approx(2 * one)


def test_pixels_are_loaded_alone():
    """LOAD_PIXELS begins when the LOAD before it is done, and no other begins before it is done itself."""
    pixels = _task(L, Move(640, 40, 2000))
    load = _task(L, _move(640))
    serial = TIMES.read_start + DDR.delay + TIMES.read_end
    one = _cycles(load)
    assert _cycles(load, pixels) - one == pytest.approx(serial + 2000 + TIMES.pixels, abs=3)
    assert _cycles(load, pixels, load) - _cycles(load, pixels) == pytest.approx(serial + 640, abs=3)
    assert _cycles(load, load, _task(L, Move(0, 0, 500)), load) - one == pytest.approx(640 + 500 + serial + 640, abs=3)


@pytest.mark.parametrize(("engine", "work"), [(L, _move(2000)), (L, Move(640, 40, 2000)), (W, _move(2000))])
@pytest.mark.parametrize("local", [False, True])
def test_planes_keep_loads_from_the_banks(engine, work, local):
    """While DRAIN writes 300 items of planes to the spike banks; weights go elsewhere."""
    before = _task(engine, work), _task(C, _compute(300, 1), signal=[D])
    lost = 300 if local and engine is L else 0
    assert _cycles(*before, _task(D, Drain(300, 0, 0, local=local), wait=[C])) - _cycles(*before) == pytest.approx(lost)


def test_a_token_comes_with_the_response():
    """The second STORE goes on meanwhile, a COMPUTE that waits for the first one begins after the answer to it."""
    stores = _task(R, _move(16), signal=[C]), _task(R, _move(1600))
    run = _run(*stores, _task(C, _compute(10, 1), wait=[R]))
    assert run.units[C].blocked > DDR.delay - 60
    assert run.now == pytest.approx(_cycles(*stores), abs=5)


def test_instructions_without_beats():
    empty = [_task(engine, Move(0, 0)) for engine in (L, R)]
    assert _cycles(*empty) < TIMES.start * 2 + TIMES.fetch_check * 3 + 4 * DDR.delay
    assert _cycles(*[_task(L, _move(640)), empty[0], _task(L, _move(640))]) == pytest.approx(
        _cycles(*[_task(L, _move(640))] * 2), abs=2)


@pytest.mark.parametrize(("total", "expected"), [(1.0, 2000), (1.5, 4000 / 3), (2.0, 1000), (3.0, 1000)])
def test_two_loads_share_the_memory(total, expected):
    ddr = replace(DDR, total_bandwidth=total)
    alone = _cycles(_task(L, _move(16)), _task(W, _move(16)), ddr=ddr)
    both = _cycles(_task(L, _move(1016)), _task(W, _move(1016)), ddr=ddr)
    assert both - alone == pytest.approx(expected, abs=30)


def test_engines_of_one_port_share_it():
    one_port = replace(ZCU, axi_ports=1)
    tasks = (_task(L, _move(1600)), _task(W, _move(1600)))
    assert _cycles(*tasks, config=one_port) - _cycles(*tasks) == pytest.approx(1600, abs=30)


@pytest.mark.parametrize(("positions", "batches", "cycles"), [(200, 8, 200), (50, 8, 128), (50, 4, 64), (3, 0, 5)])
def test_chunks_cost_positions_or_table_filling(positions, batches, cycles):
    few, many = (_cycles(_task(C, _compute(positions, chunks, batches))) for chunks in (5, 25))
    assert many - few == pytest.approx(20 * cycles)


def test_swapped_tables_cost_nothing():
    """Two chunks load, the others go back and forth between their tables: positions count alone."""
    loads, swaps = (8, 8, *(0,) * 20), (0, 0, *(1,) * 20)
    swapping = Compute(Core.ARRAY, (), True, 50, loads, swaps, (0,) * 22)
    assert _cycles(_task(C, swapping)) - _cycles(_task(C, _compute(50, 2))) == pytest.approx(20 * 50)


def test_tables_of_the_next_compute_are_filled_meanwhile():
    once, twice = (_cycles(*[_task(C, _compute(300, 2))] * count) for count in (1, 2))
    assert twice - once == pytest.approx(600)
    apart = _cycles(_task(C, _compute(300, 2)), _task(C, _compute(300, 2, 4, Core.DEPTHWISE)))
    assert apart - once == pytest.approx(600 + TIMES.flush + TIMES.apart)


@pytest.mark.parametrize(("item", "rate"), [(1, 1 + 1 / 16), (8, 8 * (1 + 1 / 16))])
def test_drain_and_store_go_together(item, rate):
    def cycles(items):
        return _cycles(_task(D, Drain(items, items * item, item)), _task(T, _move(items * item, Source.DRAIN)))

    assert cycles(2000) - cycles(1000) == pytest.approx(1000 * rate, abs=5)


def test_drain_stops_when_the_fifo_is_full():
    """The store waits for a token of a long COMPUTE: so does DRAIN, behind 64 beats."""
    run = _run(_task(C, _compute(5000, 1), signal=[T]), _task(D, Drain(300, 300, 1)),
               _task(T, _move(300, Source.DRAIN), wait=[C]))
    assert run.units[D].busy > 5000
    free = _run(_task(C, _compute(5000, 1), signal=[T]), _task(D, Drain(60, 60, 1)),
                _task(T, _move(60, Source.DRAIN), wait=[C]))
    assert free.units[D].busy < 150


def test_residual_store_needs_no_drain():
    one, two = (_cycles(_task(R, _move(beats))) for beats in (1600, 3200))
    assert two - one == pytest.approx(1700)


def test_tokens_order_the_engines():
    apart = _cycles(_task(L, _move(1000)), _task(C, _compute(1000, 1)))
    ordered = _cycles(_task(L, _move(1000), signal=[C]), _task(C, _compute(1000, 1), wait=[L]))
    assert ordered - apart == pytest.approx(1000 + DDR.delay, abs=40)


def test_a_full_queue_stops_the_fetch():
    """Six loads fill the queue of LOAD; the COMPUTE behind them is fetched late, and runs late."""
    late = _run(*[_task(L, _move(1600))] * 7, _task(C, _compute(10, 1)))
    early = _run(_task(C, _compute(10, 1)), *[_task(L, _move(1600))] * 7)
    assert late.now > early.now - 50
    assert late.spans[0][1] >= 7 * 1600
    assert late.units[C].busy == pytest.approx(early.units[C].busy, abs=1)


def test_no_token_no_end():
    with pytest.raises(StuckError, match="nothing can go on; waiting: COMPUTE at 0"):
        _run(_task(C, _compute(5, 1), wait=[L]))
    with pytest.raises(StuckError, match="nothing can go on"):
        _run(_task(T, _move(16, Source.DRAIN)))


def test_fair_shares():
    assert fair([1, 1, 1], 6) == [1, 1, 1]
    assert fair([1, 0.2, 1], 1.2) == pytest.approx([0.5, 0.2, 0.5])
    assert fair([], 1) == []
    rng = np.random.default_rng(0)
    for _ in range(200):
        demands, total = rng.random(rng.integers(1, 7)), rng.random() * 3
        shares = np.array(fair(demands.tolist(), total))
        assert (shares <= demands + 1e-9).all()
        assert shares.sum() == pytest.approx(min(total, demands.sum()))
        starved = shares < demands - 1e-9
        assert not starved.any() or shares[starved].min() >= shares.max() - 1e-9


def test_short_bursts_are_slow():
    caps = [read_cap(Move(1000, 1000 // size), DDR, TIMES) for size in (16, 4, 1)]
    assert caps[0] == 1
    assert caps[0] > caps[1] > caps[2] == pytest.approx(16 / 95)
    assert write_cap(Move(1600, 100), DDR, TIMES) == pytest.approx(16 / 17)
    assert write_cap(Move(100, 100), DDR, TIMES) == pytest.approx(15 / 95)


@pytest.mark.parametrize(("seed", "theme"), [*((seed, "") for seed in range(4)), (4, "frames"), (24, "pyramid")])
def test_random_networks(seed, theme):
    """Accounts add up; nobody is busy for longer than the run; better memory is never worse."""
    program = compile_network(random_network(seed, theme=theme), preset(("tiny", "small")[seed % 2]))
    made = estimate(program)
    assert sum(o.cycles for o in made.operators) == pytest.approx(made.cycles, abs=6 * len(made.operators))
    assert sum(made.causes.values()) == sum(o.cycles for o in made.operators)
    assert all(0 <= e.busy + e.blocked <= made.cycles + 1 for e in made.engines.values())
    assert made.instructions == program.instruction_count
    assert made.cycles > sum(o.positions for o in made.operators)
    wide, near = (estimate(program, memory=m) for m in (replace(DDR, total_bandwidth=4), replace(DDR, latency=20)))
    assert wide.cycles <= made.cycles * 1.01
    assert near.cycles <= made.cycles * 1.01
    narrow = estimate(program, memory=replace(DDR, total_bandwidth=0.1))
    assert narrow.cycles > made.cycles
    assert narrow.cycles >= (made.read_bytes + made.written_bytes - 64 * made.instructions) / program.config.beat_bytes


@pytest.mark.parametrize("seed", range(2))
def test_bursts_are_those_of_the_gateware(seed):
    program = compile_network(random_network(seed), preset("small"))
    generator = TransferGenerator(program.config)
    for instruction, task in zip(program.instructions(), digest(program), strict=True):
        body = instruction.body
        if instruction.opcode in (Opcode.LOAD, Opcode.LOAD_SHORTCUT, Opcode.STORE, Opcode.STORE_RESIDUAL):
            shape = {name: body[name] for name in ("run", "count1", "stride1", "count2", "stride2")}
            bursts = generator.model(0, body["offset"], **shape)
        elif instruction.opcode in (Opcode.LOAD_WEIGHTS, Opcode.LOAD_WEIGHTS_B):
            bursts = generator.model(0, body["offset"], body["beats"])
        else:
            continue
        assert isinstance(task.work, Move)
        assert (task.work.beats, task.work.bursts) == (sum(b.length for b in bursts), len(bursts))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_constants_are_those_of_the_gateware(name):
    config = preset(name)
    times, sources = times_of(config), StoreEngine(config, sources=1)
    assert times.stream == sources.depth
    assert times.credits == ReadPort(config, 1).credits
    assert times.write_bursts == (1 << OUTSTANDING_BITS) - 1
    assert PARTS == WINDOW_WORDS
    assert times.queue == QUEUE_DEPTH
    assert times.in_flight == IN_FLIGHT
    assert times.drain_latency > 20
    assert times.flush > times.spacing


def test_memory_is_that_of_the_benchmarks():
    assert (DDR.total_bandwidth, DDR.latency, DDR.jitter) == (
        SIMULATED.total_bandwidth, SIMULATED.latency, SIMULATED.jitter)
    assert (DDR.bandwidth, DDR.outstanding) == (SIMULATED.bandwidth, SIMULATED.outstanding)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("total_bandwidth", 0, "`total_bandwidth` must be positive, not `0`"),
    ("bandwidth", 2, "`bandwidth` must be above 0 and at most 1, not `2`"),
    ("latency", -1, "`latency` must be at least 0, not `-1`"),
    ("outstanding", 0, "`outstanding` must be at least 1, not `0`")])
def test_memory_is_checked(field, value, message):
    with pytest.raises(ValueError, match=message):
        Ddr(**{field: value})


def test_reports(tmp_path):
    program = compile_network(random_network(3), preset("tiny"))
    made = estimate(program)
    performance, layers = report.network_performance(made), report.layer_cycles(made)
    assert performance["kind"] == layers["kind"] == "estimate"
    assert performance["frames_per_second"] == pytest.approx(program.frames * 300e6 / made.cycles)
    assert performance["peak_ops_per_cycle"] == 512
    assert [layer["name"] for layer in layers["layers"]] == [o.name for o in program.operators]
    assert all(layer["causes"][layer["bound"]] == max(layer["causes"].values()) for layer in layers["layers"])
    assert [path.name for path in report.write(made, tmp_path)] == [
        "estimate_layer_cycles.json", "estimate_network_performance.json"]
    lines = report.table(made).splitlines()
    assert len(lines) == len(program.operators) + 4
    assert lines[len(program.operators) + 1].startswith("all")
