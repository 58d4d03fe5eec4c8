"""Depthwise convolutions whose rows are dealt to the banks, and the tiles in which their planes are handed over."""

from dataclasses import replace

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.hw.isa import Core, Opcode
from spikeloom.hw.program import compiler
from spikeloom.hw.program.constants import pack_weights, unpack_weights
from spikeloom.hw.program.dealt import TAPS, Ring
from spikeloom.hw.program.handover_tiles import HandoverTiles, handover_tiles
from spikeloom.hw.program.residual import Chain, Rolling

SIZES = {"word_channels": 16, "banks": 8, "depthwise_rows": 8, "load_groups": 4, "spike_depth": 1024,
         "weight_depth": 1024}


def _machine(**changes):
    return replace(preset("tiny"), **{**SIZES, **changes})


def _pair(builder, kernel, height=11, width=9, frames=4, channels=40):
    """Spikes -> depthwise -> 1 x 1, and another convolution that reads the same spikes in another layout."""
    made = builder("spikes", 12, height, width, frames)
    spikes = made.conv(channels=channels)
    planes = made.depthwise(spikes, kernel=kernel, padding=kernel // 2, kind="planes")
    made.conv(planes, channels=12)
    return made.network


def _choose(monkeypatch, tiles):
    monkeypatch.setattr(compiler, "handover_tiles", lambda *_: tiles)


def _bodies(program, opcode, layer):
    return [i.body for i in program.instructions() if i.opcode is opcode and i.layer == layer]


@pytest.mark.parametrize(("kernel", "rows", "strip"), [(7, 2, 2), (7, 3, 6), (5, 3, 3), (3, 2, 12)])
@pytest.mark.parametrize("load_groups", [1, 2, 4])
def test_rows_are_dealt(builder, check, monkeypatch, kernel, rows, strip, load_groups):
    """Strips of a tile, of several, of the whole map; the last tile is a smaller one."""
    _choose(monkeypatch, HandoverTiles(rows, strip, dealt=True))
    program = check(_pair(builder, kernel), _machine(load_groups=load_groups), kernel, interleavings=3)
    loads = _bodies(program, Opcode.LOAD, 1)
    assert {body["bank_mask"] for body in loads} <= {1 << bank for bank in range(kernel)}
    computes = [body for body in _bodies(program, Opcode.COMPUTE, 1) if body["core"] == Core.DEPTHWISE]
    assert all(body["rows"] == 1 for body in computes)


def test_rows_are_dealt_in_lane_groups(builder, check, monkeypatch):
    _choose(monkeypatch, HandoverTiles(2, 2, dealt=True))
    check(_pair(builder, 5, frames=11), _machine(), 3, interleavings=3)


def test_the_same_spikes_dealt_and_whole(builder, check, monkeypatch):
    """Contents of the banks that differ only in that have different names."""
    made = builder("spikes", 12, 8, 9)
    spikes = made.conv(channels=8)
    for _ in range(2):
        made.conv(made.depthwise(spikes, kernel=5, padding=2, kind="planes"), channels=8)
    choice = iter([HandoverTiles(4, 8, dealt=False), HandoverTiles(4, 8, dealt=True)] * 9)
    monkeypatch.setattr(compiler, "handover_tiles", lambda *_: next(choice))
    check(made.network, _machine(), 4)


@pytest.mark.parametrize("load_groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_ring(kernel, load_groups):
    """Wherever a chunk begins, bank b finds the kernel row that is there for it."""
    config = _machine(load_groups=load_groups)
    ring = Ring(kernel, config)
    weight = np.random.default_rng(0).integers(-128, 128, (config.word_channels, kernel, kernel)).astype(np.int8)
    rows = np.frombuffer(pack_weights(ring.spread(weight), config), np.uint8).reshape(ring.rows, -1)
    taken = TAPS * config.depthwise_rows // load_groups
    for turn in range(kernel):
        first = ring.operand(turn)
        banks = unpack_weights(rows[first:first + taken], config).reshape(config.depthwise_rows, TAPS, -1)
        for bank in range(kernel):
            expected = weight[:, (bank - turn) % kernel, ::-1].T
            assert np.array_equal(banks[bank, :kernel, :config.word_channels], expected)


def _tiles(network, config, **arguments):
    emitter_places = {}

    def noted(made, places, *rest):
        emitter_places.update(places)
        return handover_tiles(made, places, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "handover_tiles", noted)
        compiler.compile_network(network, config)
    return handover_tiles(network, emitter_places, 1, config, **arguments)


def _needed(found, words, width, height, kernel, groups=1):
    """Addresses that planes of a tile and the input of a strip take: of all words, if other tiles want it again."""
    rows = min(found.strip + kernel - 1, height)
    unit = -(-rows // kernel) * width if found.dealt else rows * width
    return words * found.rows * width + unit * (words * groups if found.strip > found.rows else 1)


@pytest.mark.parametrize(("depth", "frames"), [(1024, 4), (1400, 4), (2048, 4), (2048, 11), (4096, 11)])
def test_tiles_fit_the_banks(builder, depth, frames):
    network = _pair(builder, 7, height=16, width=40, channels=40, frames=frames)
    found = _tiles(network, _machine(spike_depth=depth, accumulator_depth=160))
    assert found is not None
    assert _needed(found, 3, 40, 16, 7, -(-frames // 4)) <= depth


def test_rows_are_dealt_where_room_is_short(builder):
    network = _pair(builder, 7, height=16, width=40, channels=40)
    config = _machine(spike_depth=1024, accumulator_depth=160)
    found = _tiles(network, config)
    assert found is not None
    assert found.dealt
    wide = _tiles(network, replace(config, spike_depth=1 << 14))
    assert wide == HandoverTiles(4, 16, dealt=False)


def test_a_strip_is_no_larger_than_the_window_allows(builder):
    """Five tiles must be in the window; what it holds beyond may be waited for."""
    network = _pair(builder, 7, height=16, width=40, channels=40)
    config = _machine(spike_depth=1 << 14, accumulator_depth=160)
    for window, strip in ((10, 2), (12, 4), (14, 6)):
        rolling = Rolling(Chain(("none",), 0, 0), window, 2)
        assert _tiles(network, config, rolling=rolling) == HandoverTiles(2, strip, dealt=False)


def test_few_banks_cannot_be_dealt_to(builder):
    network = _pair(builder, 7, height=16, width=40, channels=40)
    found = _tiles(network, _machine(spike_depth=1024, depthwise_rows=4))
    assert found is not None
    assert not found.dealt
