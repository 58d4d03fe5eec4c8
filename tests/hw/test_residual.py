"""Where residual tensors lie: whole, in windows of rows, in part, and what is staged beside them."""

from dataclasses import replace

import pytest

from spikeloom.config import preset
from spikeloom.hw.isa import Opcode
from spikeloom.hw.program import residual
from spikeloom.quantize.random_networks import random_network


def _block(builder, height=24, width=8, frames=4):
    """A residual block; its maps are larger than the residual buffer of `tiny`."""
    made = builder("spikes", 12, height, width, frames)
    stream = made.conv(channels=12, kernel=3, padding=1, kind="residual")
    made.conv(channels=16)
    planes = made.depthwise("conv1.out", kernel=5, padding=2, kind="planes")
    after = made.conv(planes, channels=12, kind="residual", shortcut=stream)
    made.conv(channels=12, kernel=3, padding=1, kind="residual", shortcut=after)
    made.conv(channels=3)
    return made


@pytest.mark.parametrize("frames", [4, 11])
def test_residual_maps_pass_through_a_window(builder, check, frames):
    """No residual tensor goes to DDR although none fits the buffer, and no planes."""
    network = _block(builder, frames=frames).network
    network.output = "conv5.out"
    config = replace(preset("tiny"), residual_depth=128 if frames == 4 else 320)
    program = check(network, config, 1, interleavings=4)
    drains = [i.body for i in program.instructions() if i.opcode is Opcode.DRAIN]
    moves = {i.opcode for i in program.instructions()}
    stored = {Opcode.STORE_RESIDUAL} if program.tensors["conv4.out"].stored else set()
    assert moves & {Opcode.LOAD_SHORTCUT, Opcode.STORE_RESIDUAL} == stored
    items = [d["residual_item"] for d in drains if d["residual"]]
    assert len(items) > len(set(items))
    assert any(d["local"] for d in drains)


def test_residual_output_is_stored(builder, check):
    made = _block(builder)
    made.network.operators.pop()
    del made.network.tensors["conv5.out"]
    made.network.output = "conv4.out"
    program = check(made.network, preset("tiny"), 2)
    assert program.tensors["conv4.out"].stored


def test_residual_maps_partly_on_chip(builder, check, monkeypatch):
    """Of four words of the first chain one finds room beside the staging; the second chain may take the staging."""
    monkeypatch.setattr(residual, "can_be_banded", lambda *_: False)  # bands of columns would find room for all
    made = builder("spikes", 12, 12, 16)
    for channels in (32, 16):
        stream = made.conv(channels=channels, kernel=3, stride=2, padding=1, kind="residual")
        made.conv(channels=channels, stride=2, kind="residual", shortcut=stream)
    made.conv(channels=3)
    program = check(made.network, preset("tiny"), 5, interleavings=4)
    beats = dict.fromkeys([(opcode, layer) for opcode in (Opcode.STORE_RESIDUAL, Opcode.LOAD_SHORTCUT)
                           for layer in range(4)], 0)
    for i in program.instructions():
        if (i.opcode, i.layer) in beats:
            beats[i.opcode, i.layer] += i.body["run"] * i.body["count1"] * i.body["count2"]
    staged = 3 * 6 * 8 * preset("tiny").residual_beats
    assert list(beats.values()) == [staged, staged, 0, 0, 0, staged, 0, 0]


def test_a_window_too_small_for_planes_that_are_handed_over(check):
    """The operator that finds no room is the depthwise convolution, before the first one that writes the window."""
    check(random_network(226), preset("tiny"), 226)


def test_a_window_waits_for_what_is_staged_in_its_place(builder, check):
    """The first chain holds one word, in items [0, 48), and the third is in none of them; but it reads the input, so
    that it would go before the first if that were not staged in its items."""
    made = builder("spikes", 12, 12, 16)
    spikes = made.stream("first", channels=32, kernel=3, stride=2, padding=1)
    made.conv("input", stride=4)  # among maps of another size no window rolls
    made.conv(spikes, channels=32, kind="residual", shortcut="first")
    low, high = (made.conv("input", stride=2, kind="residual") for _ in range(2))
    made.conv(spikes, mode="residual", shortcut=high)
    made.conv(spikes, mode="residual", shortcut=low)
    program = check(made.network, preset("tiny"), 1)
    drains = [i for i in program.instructions() if i.opcode is Opcode.DRAIN and i.body["residual"]]
    items = {layer: {i.body["residual_item"] for i in drains if i.layer == layer} for layer in (0, 3, 4)}
    assert items == {0: {0, 64, 80, 96, 112}, 3: {0}, 4: {48}}


def test_what_lives_beside_a_staged_chain_leaves_it_room(builder, check):
    """Both words of the outer chain would fit the buffer, but not beside the staging of the inner one."""
    made = builder("spikes", 12, 12, 16)
    outer = made.conv("input", channels=16, stride=2, kind="residual")
    made.stream("first", channels=32, kernel=3, stride=2, padding=1)
    made.conv("input", stride=4)  # among maps of another size no window rolls
    inner = made.conv("conv1.out", channels=32, mode="residual", shortcut="first")
    made.conv(inner, channels=16, mode="residual", shortcut=outer)
    program = check(made.network, preset("tiny"), 1)
    drains = [i.body for i in program.instructions() if i.opcode is Opcode.DRAIN and i.layer == 0]
    assert {i["residual_item"] for i in drains} == {0, 64, 80, 96}
