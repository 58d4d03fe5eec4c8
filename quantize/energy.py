"""Energy by the method of the papers on spiking networks: operations counted on real spikes x energy of an operation.

    spiking network   0.9 pJ x accumulates that spikes cause + 4.6 pJ x multiply-accumulates on values
    its ANN twin      4.6 pJ x multiply-accumulates of the same network with real numbers in place of spikes

45 nm, 32-bit floating point, operations only: no memory, no clock, no idle power. **A model, not a measurement**:
nothing here is the power of an FPGA. What a clip of T frames costs, taps on the padding left out on both sides:

    operator             accumulates                                       twin
    conv on spikes       spikes x outputs that each of them reaches        all inputs x outputs that each reaches
    depthwise on spikes  likewise, one output channel; an integer spike p counts as p spikes everywhere
    conv, depthwise on pixels or planes: values, not spikes: multiply-accumulates in both networks
    keyvalue             bipolar: spikes of V x D x levels of K; else pairs of spikes         T*C*H*W * D of V
    attend               bipolar: T*C*H*W * E x levels of Q; else spikes of Q x E             T*C*H*W * E of Q
                         D, E: head widths of K, V
    temporalattend       spikes of V x T, and for the scores               T*C*H*W * 2 T
                         bipolar: T*C*H*W * T x levels of Q and of K; else pairs of spikes of Q and K in all pairs of
                         frames
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.network import (
    SPIKING,
    Attend,
    Conv,
    Depthwise,
    KeyValue,
    Network,
    Operator,
    TemporalAttend,
    Upsample,
)

from .reference import Reference

__all__ = ["ACCUMULATE_PJ", "FILE_NAME", "MULTIPLY_ACCUMULATE_PJ", "OperatorEnergy", "count", "energy_model"]

ACCUMULATE_PJ, MULTIPLY_ACCUMULATE_PJ = 0.9, 4.6
"""Picojoules of a 32-bit floating-point operation in 45 nm (M. Horowitz, ISSCC 2014), as the papers use them."""

FILE_NAME = "energy_model.json"


@dataclass(frozen=True, kw_only=True)
class OperatorEnergy:
    """Operations of one operator for one clip: `accumulates` and `macs` of the spiking network, `twin_macs`."""

    operator: str
    accumulates: int
    macs: int
    twin_macs: int


def count(network: Network, tensors: Mapping[str, Any]) -> list[OperatorEnergy]:
    """Operations of every operator, counted on the tensors of one clip (`Reference.run`)."""
    values = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    return [_count(network, operator, values) for operator in network.operators]


def energy_model(network: Network, clips: NDArray[Any], directory: str | Path | None = None) -> dict[str, Any]:
    """Model the energy of `clips` uint8[N, T, H, W, 3]; written to `directory/energy_model.json` if given.

    `firing_rates` are spikes per neuron and frame, of every tensor of spikes; an integer spike p counts as p.

    Raises:
        ValueError: There is no clip, or it does not fit the network.
    """
    if not len(clips):
        raise ValueError("`clips` must not be empty")
    reference = Reference(network)
    sums: dict[str, list[int]] = {operator.name: [0, 0, 0] for operator in network.operators}
    rates = dict.fromkeys((name for name, tensor in network.tensors.items() if tensor.kind in SPIKING), 0.0)
    for clip in clips:
        tensors = reference.run(clip)
        for part in count(network, tensors):
            for i, value in enumerate((part.accumulates, part.macs, part.twin_macs)):
                sums[part.operator][i] += value
        for name in rates:
            rates[name] += float(np.mean(np.asarray(tensors[name]), dtype=np.float64)) / len(clips)
    report = {**_report(network, sums, len(clips)), "firing_rates": rates}
    if directory is not None:
        path = Path(directory) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _report(network: Network, sums: Mapping[str, list[int]], clips: int) -> dict[str, Any]:
    accumulates, macs, twin = (sum(entry[i] for entry in sums.values()) / clips for i in range(3))
    energy = 1e-9 * (ACCUMULATE_PJ * accumulates + MULTIPLY_ACCUMULATE_PJ * macs)
    twin_energy = 1e-9 * MULTIPLY_ACCUMULATE_PJ * twin
    return {
        "what": "model: operations counted on the spikes of the integer reference x 45 nm energies; not a measurement",
        "accumulate_pj": ACCUMULATE_PJ, "multiply_accumulate_pj": MULTIPLY_ACCUMULATE_PJ,
        "network_hash": network.hash, "clips": clips, "frames": network.frames,
        "per_clip": {
            "accumulates": accumulates, "multiply_accumulates": macs, "energy_mj": energy,
            "ann_twin_multiply_accumulates": twin, "ann_twin_energy_mj": twin_energy,
            "ratio": twin_energy / energy if energy else None},
        "operators": [
            asdict(OperatorEnergy(operator=name, accumulates=entry[0], macs=entry[1], twin_macs=entry[2]))
            for name, entry in sums.items()]}


def _count(network: Network, operator: Operator, values: Mapping[str, NDArray[Any]]) -> OperatorEnergy:
    name = operator.name
    if isinstance(operator, (Conv, Depthwise)):
        reached = _reached(network, operator)
        source = network.tensors[operator.input]
        dense = int(reached.sum()) * network.frames * source.channels
        if source.kind not in SPIKING:
            return OperatorEnergy(operator=name, accumulates=0, macs=dense, twin_macs=dense)
        fired = values[operator.input].astype(np.int64).sum(axis=(0, 1))
        return OperatorEnergy(operator=name, accumulates=int((fired * reached).sum()), macs=0, twin_macs=dense)
    if isinstance(operator, KeyValue):
        key, value = values[operator.key], values[operator.value]
        width = key.shape[1] // operator.heads
        bipolar = int(value.sum()) * width * network.tensors[operator.key].levels
        found = bipolar if operator.bipolar else _pairs(key, value, operator.heads)
        return OperatorEnergy(operator=name, accumulates=found, macs=0, twin_macs=value.size * width)
    if isinstance(operator, TemporalAttend):
        query, key, value = (values[name] for name in (operator.query, operator.key, operator.value))
        frames = len(query)
        pairs = (query.sum(axis=0, dtype=np.int64) * key.sum(axis=0, dtype=np.int64)).sum()
        levels = network.tensors[operator.query].levels * network.tensors[operator.key].levels
        found = int(value.sum()) * frames + (query.size * frames * levels if operator.bipolar else int(pairs))
        return OperatorEnergy(operator=name, accumulates=found, macs=0, twin_macs=2 * query.size * frames)
    if isinstance(operator, Upsample):
        return OperatorEnergy(operator=name, accumulates=0, macs=0, twin_macs=0)
    query = values[operator.query]
    width = network.tensors[operator.keyvalue].channels // _heads(network, operator)
    found = query.size * network.tensors[operator.query].levels if operator.bipolar else int(query.sum())
    return OperatorEnergy(operator=name, accumulates=found * width, macs=0, twin_macs=query.size * width)


def _reached(network: Network, operator: Conv | Depthwise) -> NDArray[np.int64]:
    """Outputs, channels included, that an input pixel of one channel reaches: int64[H, W]."""
    source = network.tensors[operator.input]
    channels, _, *kernel = network.arrays[operator.weight].shape
    stride = operator.stride if isinstance(operator, Conv) else 1
    rows, columns = (_reached_along(size, taps, stride, operator.padding)
                     for size, taps in zip((source.height, source.width), kernel, strict=True))
    return np.outer(rows, columns) * (channels if isinstance(operator, Conv) else 1)


def _reached_along(size: int, taps: int, stride: int, padding: int) -> NDArray[np.int64]:
    outputs = (size + 2 * padding - taps) // stride + 1
    places = np.arange(outputs)[:, None] * stride - padding + np.arange(taps)
    inside = places[(places >= 0) & (places < size)]
    return np.bincount(inside, minlength=size)


def _pairs(key: NDArray[Any], value: NDArray[Any], heads: int) -> int:
    """Pairs of spikes of K and V in the same head, frame and pixel."""
    def per_head(tensor: NDArray[Any]) -> NDArray[np.int64]:
        return tensor.reshape(tensor.shape[0], heads, -1, *tensor.shape[2:]).sum(axis=2, dtype=np.int64)

    return int((per_head(key) * per_head(value)).sum())


def _heads(network: Network, operator: Attend) -> int:
    producer = network.producer(operator.keyvalue)
    assert isinstance(producer, KeyValue), "Network.check() lets nothing else make a keyvalue tensor"
    return producer.heads
