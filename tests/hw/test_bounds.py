"""What is left of an estimate if transfers cost nothing."""

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
    whole, loads, weights, both, positions = (bound.cycles for bound in bounds(program))
    assert whole == made.cycles
    assert positions == sum(o.positions for o in made.operators)
    assert both < loads < whole
    assert both < weights < whole
    assert positions < both


def test_table():
    lines = table([Bound("everything", 1234567), Bound("less", 617283)]).splitlines()
    assert [line.split() for line in lines] == [
        ["everything", "1,234,567", "100.0", "%"], ["less", "617,283", "50.0", "%"]]
