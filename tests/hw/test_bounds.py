"""What is left of an estimate if transfers cost less or nothing."""

from dataclasses import replace

import pytest

from spikeloom.config import preset
from spikeloom.hw.estimate.bounds import Bound, bounds, table
from spikeloom.hw.estimate.estimate import estimate
from spikeloom.hw.program.compiler import compile_network
from spikeloom.quantize.random_networks import random_network


@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_random_networks(seed):
    """The program first; whatever is free, it is never slower, and positions are always walked."""
    program = compile_network(random_network(seed), preset("tiny"))
    made = estimate(program)
    whole, once, loads, weights, both, positions = (bound.cycles for bound in bounds(program))
    assert whole == made.cycles
    assert positions == sum(o.positions for o in made.operators)
    assert both < loads < whole
    assert once == whole  # the banks hold their maps
    assert both < weights < whole
    assert positions < both


def test_what_is_loaded_twice():
    """With little room strips bring the rows between them again."""
    program = compile_network(random_network(4), replace(preset("tiny"), spike_depth=512))
    whole, once, loads, *_ = (bound.cycles for bound in bounds(program))
    assert loads < once < whole


def test_table():
    lines = table([Bound("everything", 1234567), Bound("less", 617283)]).splitlines()
    assert [line.split() for line in lines] == [
        ["everything", "1,234,567", "100.0", "%"], ["less", "617,283", "50.0", "%"]]
