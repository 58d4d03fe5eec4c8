"""Parameter rows of a neuron: bias, threshold, shift and sign of every channel, for each threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikeloom.arithmetic import SHIFT_MAX
from spikeloom.bounds import prove_bounds
from spikeloom.network import Network, Neuron

from .constants import NEVER, pack_parameters
from .errors import MappingError
from .layout import ChannelMap

__all__ = ["neuron_parameters"]


def neuron_parameters(network: Network, neuron: Neuron, out_map: ChannelMap) -> list[bytes]:
    """Rows of all output words, for each threshold of integer spikes.

    A spatial sum is taken with the first; the others are for an item that adds nothing to it: bias 0, and a shift that
    leaves nothing of the accumulator.

    Raises:
        MappingError: The widest shift leaves something of an accumulator.
    """
    def values(name: str | None, fill: int = 0) -> NDArray[np.int64]:
        array = np.full(out_map.channels, fill, np.int64) if name is None else network.arrays[name].astype(np.int64)
        return out_map.spread(array, array.ndim - 1, fill)

    bias, shift, negate = values(neuron.bias), values(neuron.shift), values(neuron.negate)
    first, *others = np.atleast_2d(values(neuron.threshold, NEVER))
    rows = [pack_parameters(bias, first, shift, negate)]
    if neuron.pool and others:
        _check_vanishing(network, neuron)
        bias, shift = np.zeros_like(bias), np.full_like(shift, SHIFT_MAX)
    return rows + [pack_parameters(bias, threshold, shift, negate) for threshold in others]


def _check_vanishing(network: Network, neuron: Neuron) -> None:
    """MappingError unless +-accumulators are 0 when they are shifted by SHIFT_MAX and rounded half up."""
    name = next(o.name for o in network.operators if getattr(o, "neuron", None) is neuron)
    limit, reach = 1 << SHIFT_MAX - 1, prove_bounds(network)[name].magnitude
    if reach >= limit:
        raise MappingError(f"integer spikes of a spatial sum need accumulators below {limit}, these reach {reach}")
