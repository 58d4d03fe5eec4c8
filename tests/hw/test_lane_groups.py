"""Clips of more frames than the machine has lanes: bands of columns, lane groups made in one pass, residual tensors
that are on chip in part, spatial sums one lane group after the other.
"""

from dataclasses import replace

import pytest

from spikeloom.config import preset
from spikeloom.hw.isa import Opcode
from spikeloom.hw.program.residual import Window


def _block(builder, frames, height=9, width=20):
    """A block of SpikeVideoFormer: two branches, each added to a stream."""
    made = builder("spikes", 12, 2 * height, 2 * width, frames)
    spikes = made.stream("first", channels=12, kernel=3, stride=2, padding=1)
    planes = made.depthwise(made.conv(spikes, channels=16), kernel=5, padding=2, kind="planes")
    spikes = made.stream("second", channels=12, source=planes, shortcut="first")
    wide = made.conv(spikes, channels=16, kernel=3, padding=1)
    last = made.stream("third", channels=12, source=wide, kernel=3, padding=1, shortcut="second")
    made.conv(last, channels=3)
    return made


def _bodies(program, opcode, layer):
    return [i.body for i in program.instructions() if i.opcode is opcode and i.layer == layer]


@pytest.mark.parametrize("frames", [11, 4])
def test_bands(builder, check, frames):
    """Columns beyond the edge of a band are made for both; the stream never leaves the chip."""
    network = _block(builder, frames).network
    groups = -(-frames // 4)
    program = check(network, replace(preset("tiny"), residual_depth=280 * groups + 4), 1)
    assert not {i.opcode for i in program.instructions()} & {Opcode.LOAD_SHORTCUT, Opcode.STORE_RESIDUAL}
    columns = {layer: {(b["x"], b["x"] + b["cols"]) for b in _bodies(program, Opcode.COMPUTE, layer)}
               for layer in (1, 4, 5)}
    items = {b["residual_item"] for b in _bodies(program, Opcode.DRAIN, 0)}
    assert 9 * 14 in items  # the second band's first row follows the first band's last in the window of 10 rows
    assert columns == {1: {(0, 14), (6, 20)}, 4: {(0, 11), (9, 20)}, 5: {(0, 10), (10, 20)}}


def test_lane_groups_in_one_pass(builder, check):
    """Tables are filled once for the rows of all three groups; a tile of the widest operators would not fit."""
    network = _block(builder, 11).network
    program = check(network, replace(preset("tiny"), residual_depth=844), 2)
    rows = {layer: max(b["rows"] for b in _bodies(program, Opcode.COMPUTE, layer)) for layer in (1, 4, 5)}
    assert rows == {1: 2, 4: 2, 5: 6}
    assert {b["height"] for b in _bodies(program, Opcode.COMPUTE, 5)} == {27}


def test_a_stream_is_on_chip_in_part(builder, check):
    made = builder("spikes", 24, 6, 7, frames=9)
    made.stream("first", channels=20, kernel=3, padding=1)
    spikes = made.conv("input", channels=40, kernel=3, padding=1)
    made.conv("input", stride=2)  # among maps of another size no window rolls
    made.conv(made.stream("second", channels=20, source=spikes, shortcut="first"), channels=3)
    config = replace(preset("tiny"), residual_depth=340)
    program = check(made.network, config, 3, interleavings=4)
    items = [b["residual_item"] for b in _bodies(program, Opcode.DRAIN, 0)]
    assert any(item < 126 for item in items)  # a word of 42 pixels and three lane groups
    assert any(item >= 170 for item in items)  # staging
    assert not program.tensors["first"].stored


def test_words_on_chip_are_spread():
    window = Window(base=5, groups=2, words=3, rows=2, width=4, every=8)
    held = [word for word in range(8) if window.holds(word)]
    assert held == [2, 5, 7]
    items = [window.item(g, w, y, x) for g in range(2) for w in held for y in range(2) for x in range(4)]
    assert items == list(range(5, 5 + window.size))


def test_a_window_on_a_band():
    window = Window(base=5, groups=1, words=1, rows=4, width=6, col=10, shift=9)
    assert window.item(0, 0, 0, 10) == 5 + 6
    assert window.item(0, 0, 3, 12) == 5 + 2
    assert [window.rows_left(row) for row in range(4)] == [3, 2, 1, 4]


def test_sums_of_one_lane_group_after_the_other(builder, check):
    """The input of all lane groups does not fit the banks; potentials of all words are kept meanwhile."""
    made = builder("spikes", 12, 8, 9, frames=11)
    pooled = made.conv(made.conv(channels=40), channels=30, mode="residual", pool=True)
    made.conv(pooled, channels=7, kind="logits")
    config = replace(preset("tiny"), spike_depth=640)
    program = check(made.network, config, 4)
    carries = [b["carry"] for b in _bodies(program, Opcode.DRAIN, 1)]
    assert set(carries) == {0, 1, 2, 3}
    loads = {b["offset"] for b in _bodies(program, Opcode.LOAD, 1)}
    assert len(_bodies(program, Opcode.LOAD, 1)) == len(loads)  # nothing is loaded twice
