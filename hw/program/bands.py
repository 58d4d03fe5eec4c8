"""Bands of columns: where whole rows of a map are too long for a window of the residual buffer, the operators of a
chain make it band by band. What a band's readers look at beyond its edges is made twice, for the band before too.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from spikeloom.network import Conv, Depthwise, MaxConv, Network, outputs_of

from .feeds import Columns, Geometry
from .layout import TensorPlace
from .pairs import hands_over

MOST = 4
"""Bands of a map at most."""

BORDER = (7, 5)
"""The widest part of a band, with what is made anew, may be as wide as the band times this."""


def can_be_banded(network: Network, places: Mapping[str, TensorPlace], first: int, last: int) -> bool:
    """Operators `first` to `last` read pixels, binary spikes or planes that stay on chip; none of their pairs has one
    partner outside."""
    if (first and hands_over(network, first - 1)) or hands_over(network, last):
        return False
    for index in range(first, last + 1):
        operator = network.operators[index]
        if isinstance(operator, MaxConv):
            return False
        assert isinstance(operator, Conv | Depthwise)
        place = places[operator.input]
        plain = place.kind == "pixels" or (place.kind == "spikes" and place.levels == 1)
        if not plain and not (index > first and hands_over(network, index - 1)):
            return False
    return True


def bands_of(network: Network, first: int, last: int, width: int, count: int) -> tuple[dict[int, Columns], ...]:
    """For each of `count` bands of a map of `width` columns the columns that each operator makes."""
    edges = [width * n // count for n in range(count + 1)]
    return tuple(_columns(network, first, last, band) for band in pairwise(edges))


def _columns(network: Network, first: int, last: int, band: tuple[int, int]) -> dict[int, Columns]:
    needed: dict[str, tuple[int, int]] = {}
    result: dict[int, Columns] = {}

    def hull(name: str, part: tuple[int, int]) -> tuple[int, int]:
        other = needed.get(name, part)
        return min(part[0], other[0]), max(part[1], other[1])

    for index in reversed(range(first, last + 1)):
        operator = network.operators[index]
        assert isinstance(operator, Conv | Depthwise)
        made = band
        for name in outputs_of(operator):
            made = hull(name, made)
        result[index] = made[0], made[1] - made[0]
        source, stride = network.tensors[operator.input], operator.stride if isinstance(operator, Conv) else 1
        geometry = Geometry(source.height, source.width, network.arrays[operator.weight].shape[2], stride,
                            operator.padding, *result[index])
        needed[operator.input] = hull(operator.input, geometry.reads)
        if operator.neuron.shortcut is not None:
            needed[operator.neuron.shortcut] = hull(operator.neuron.shortcut, made)
    return result


def widest(bands: tuple[dict[int, Columns], ...]) -> int:
    """Most columns that an operator makes."""
    return max(cols for band in bands for _, cols in band.values())
