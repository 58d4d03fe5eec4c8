"""The page's sections on energy and firing rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..energy import ACCUMULATE_PJ, MULTIPLY_ACCUMULATE_PJ
from .measuring import COUNTED_CLIPS
from .rows import NETWORKS, SPIKES, Row
from .table import NOT_RUN, table

__all__ = ["activity"]

ENERGY = """\
## Energy by the paper's method

A model, not a measurement, and not the power of an FPGA: accumulates that spikes cause, counted one by one on the first
{clips} test clips in the int8 network (after training), x {accumulate} pJ; its multiply-accumulates on pixels and
planes of separable convolutions, and all those of the ANN twin (the same network on real numbers), x {multiply} pJ.
45 nm, 32-bit floating point, no memory. What is counted: `quantize/energy.py`. The paper's ratios (ViViT 16, GLoT 10,
SegFormer 4) are to other networks of like accuracy, not to a twin, so they are not to be compared with these.
"""

RATES = """\
## Firing rates

Per cent of the neurons of a layer that fire in a frame, over the same clips. A layer has the name of the operator in
front of its neurons.
"""


def activity(results: Mapping[str, dict[str, Any] | None]) -> Iterator[str]:
    """Lines of both sections."""
    found = {network: results[Row(network=network, precision=SPIKES).key] for network in NETWORKS}
    yield ENERGY.format(clips=COUNTED_CLIPS, accumulate=ACCUMULATE_PJ, multiply=MULTIPLY_ACCUMULATE_PJ)
    yield from table(
        ["network, per clip", "accumulates, M", "multiply-accumulates, M", "energy, µJ",
         "twin's multiply-accumulates, M", "twin's energy, µJ", "ratio", "key"],
        ([network, *_energy(result), f"`{Row(network=network, precision=SPIKES).key}`"]
         for network, result in found.items()))
    yield ""
    yield RATES
    rates = {network: result["energy"]["firing_rates"] if result else {} for network, result in found.items()}
    layers = list(dict.fromkeys(layer for each in rates.values() for layer in each))
    yield from table(["layer", *NETWORKS], (
        [layer.removesuffix(".spikes"), *(_percent(each.get(layer)) for each in rates.values())] for layer in layers))


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.1f}"


def _energy(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return [NOT_RUN, *[""] * 5]
    per_clip = result["energy"]["per_clip"]
    return [f"{per_clip['accumulates'] / 1e6:.2f}", f"{per_clip['multiply_accumulates'] / 1e6:.2f}",
            f"{1e3 * per_clip['energy_mj']:.1f}", f"{per_clip['ann_twin_multiply_accumulates'] / 1e6:.2f}",
            f"{1e3 * per_clip['ann_twin_energy_mj']:.1f}", f"{per_clip['ratio']:.1f}"]
