"""Benches of the data movers: transfer generator, AXI ports, load, pack and store engines, buffers."""

from dataclasses import asdict

import pytest

from spikeloom.config import MachineConfig, preset
from spikeloom.hw.gateware.arbiter import RoundRobin
from spikeloom.hw.gateware.axi import MAX_BEATS
from spikeloom.hw.gateware.buffers import RowBuffer, SpikeBanks
from spikeloom.hw.gateware.emit import assert_no_multiplier
from spikeloom.hw.gateware.engine import STEP_BITS
from spikeloom.hw.gateware.read_port import ReadPort
from spikeloom.hw.gateware.residual_buffer import ResidualBuffer
from spikeloom.hw.gateware.row_load import ITEMS, RowLoadEngine, row_beats
from spikeloom.hw.gateware.skid import SkidBuffer
from spikeloom.hw.gateware.store import StoreEngine
from spikeloom.hw.gateware.transfer import TransferGenerator
from spikeloom.hw.gateware.write_port import WritePort
from spikeloom.hw.isa import Opcode, Target
from spikeloom.sim.benches.dma import ReadEngines, WriteEngines
from spikeloom.sim.cocotb_runner import run_bench

TINY = preset("tiny")
CONFIGS = {
    "tiny": TINY, "small": preset("small"),
    # What the presets do not have: one lane, a beat of 1/8 word_channels bytes, 8 banks, odd depths.
    "narrow": MachineConfig(lanes=1, word_channels=32, banks=8, output_words=1, spike_depth=1000, line_bytes=200)}
PRESETS = pytest.mark.parametrize("name", ["tiny", "small"])


def bench(component, module: str, name: str, top: str, seed: int = 1, **parameters):
    return run_bench(component, f"spikeloom.sim.benches.{module}", name=f"{top}_{name}", seed=seed,
                     parameters={"config": asdict(CONFIGS[name]), **parameters})


@PRESETS
def test_transfer(name):
    bench(TransferGenerator(CONFIGS[name]), "transfer", name, "transfer")


def test_steps_under_way_can_be_told_apart():
    """Ends of transfers are compared modulo 2**STEP_BITS: the beats on their way and those of the bursts on offer."""
    on_offer = 3  # of the generator, two of the skid buffer
    assert ReadPort(TINY, 1).credits + on_offer * MAX_BEATS < 1 << STEP_BITS


@PRESETS
@pytest.mark.parametrize("credits", [16, 128])
def test_read_port(name, credits):
    port = ReadPort(CONFIGS[name], 3, credits=credits)
    bench(port, "read_port", name, f"read_port{credits}", seed=2, credits=credits)


def test_skid_buffer():
    run_bench(SkidBuffer(9), "spikeloom.sim.benches.skid", name="skid", seed=17)


@PRESETS
def test_write_port(name):
    bench(WritePort(CONFIGS[name], 3), "write_port", name, "write_port", seed=2)


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("module", ["load", "row_load", "packer"])
def test_read_engines(name, module):
    bench(ReadEngines(CONFIGS[name]), module, name, "read_engines", seed=3)


@PRESETS
def test_write_engines(name):
    bench(WriteEngines(CONFIGS[name]), "store", name, "write_engines", seed=3)


@pytest.mark.parametrize(("writers", "parallel"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize(("depth", "row_beats"), [(16, 1), (20, 3)])
def test_row_buffer(depth, row_beats, writers, parallel):
    buffer = RowBuffer(depth, row_beats, 32, writers=writers, parallel=parallel)
    bench(buffer, "buffers", "tiny", f"row_buffer{depth}x{row_beats}", kind="rows", depth=depth, row_beats=row_beats,
          beat_bits=32, writers=writers, parallel=parallel)


def test_row_buffer_that_keeps_some_bits():
    used = 0x7FF01FFF_80000001_00FF0100
    buffer = RowBuffer(20, 3, 32, writers=2, used=used)
    bench(buffer, "buffers", "tiny", "row_buffer_used", kind="rows", depth=20, row_beats=3, beat_bits=32, writers=2,
          parallel=False, used=used)


@PRESETS
def test_spike_banks(name):
    bench(SpikeBanks(CONFIGS[name]), "buffers", name, "spike_banks", kind="banks")


@PRESETS
def test_residual_buffer(name):
    bench(ResidualBuffer(CONFIGS[name]), "residual_buffer", name, "residual_buffer")


def test_no_multiplier():
    for component in (ReadEngines(TINY), WriteEngines(TINY), SpikeBanks(TINY), ResidualBuffer(TINY)):
        assert_no_multiplier(component)


def test_beats_per_row():
    flagship = preset("zcu104")
    assert row_beats(flagship, Opcode.LOAD_WEIGHTS) == {Target.WEIGHTS: 8, Target.CHUNKS: 3, Target.PARAMETERS: 12}
    assert row_beats(flagship, Opcode.LOAD_SHORTCUT) == {ITEMS: 16}


@pytest.mark.parametrize(("make", "message"), [
    (lambda: ReadPort(TINY, 0), "`count` must be 1..16, not `0`"),
    (lambda: ReadPort(TINY, 17), "`count` must be 1..16, not `17`"),
    (lambda: ReadPort(TINY, 1, credits=15), "`credits` must be at least 16, not `15`"),
    (lambda: WritePort(TINY, 0), "`count` must be 1..16, not `0`"),
    (lambda: RoundRobin(0), "`count` must be at least 1, not `0`"),
    (lambda: RowBuffer(0, 1, 8), "`depth` must be at least 1, not `0`"),
    (lambda: RowBuffer(4, 0, 8), "`row_beats` must be at least 1, not `0`"),
    (lambda: RowBuffer(4, 257, 8), "`row_beats` must be at most 256, not `257`"),
    (lambda: RowBuffer(4, 2, 8, writers=3), "`writers` must be 1 or 2, not `3`"),
    (lambda: RowBuffer(4, 1, 8, used=256), "`used` must have 1 to 8 bits, not `0x100`"),
    (lambda: RowLoadEngine(TINY, Opcode.LOAD), "`opcodes` must be LOAD_WEIGHTS or LOAD_SHORTCUT, LOAD_WEIGHTS_B, not"),
    (lambda: row_beats(TINY, Opcode.LOAD), "`opcode` must be LOAD_WEIGHTS, LOAD_WEIGHTS_B or LOAD_SHORTCUT, not"),
    (lambda: StoreEngine(TINY, 3), "`sources` must be 1 or 2, not `3`"),
    (lambda: StoreEngine(TINY, 1, depth=16), "`depth` must be at least 32, not `16`"),
])
def test_parameters_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
