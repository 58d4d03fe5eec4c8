"""Memory map: channel groups and DDR places of all tensors of a network."""

from __future__ import annotations

from dataclasses import replace

from spikeloom.arithmetic import limb_count
from spikeloom.bounds import keyvalue_bound
from spikeloom.config import MachineConfig
from spikeloom.network import (
    Accumulating,
    Attend,
    Conv,
    Depthwise,
    KeyValue,
    Network,
    TemporalAttend,
    Upsample,
    outputs_of,
)

from .emitter import Emitter, align
from .errors import MappingError
from .layout import ChannelMap, Region, TensorPlace, tensor_size


def place_tensors(network: Network, emitter: Emitter) -> tuple[dict[str, TensorPlace], int]:
    """Places of all tensors and the size of the workspace. Every tensor has memory of its own.

    K^T V goes into the program's constants (offset counts from their start), zeroed.

    Raises:
        MappingError: Two heads' widths compete for one tensor, or K^T V is the output.
    """
    config, places, workspace = emitter.config, {}, 0
    groups = channel_groups(network, config)
    matrices = {o.output: o for o in network.operators if isinstance(o, KeyValue)}
    made = [network.input, *network.given, *(name for o in network.operators for name in outputs_of(o))]
    for name in made:
        tensor = network.tensors[name]
        place = TensorPlace(
            name=name, kind=tensor.kind, region=Region.WORKSPACE, offset=0, size=0, frames=network.frames,
            channels=tensor.channels, height=tensor.height, width=tensor.width, group=groups[name],
            levels=tensor.levels)
        if name in matrices:
            place = _matrix(network, matrices[name], place)
        place = replace(place, size=tensor_size(place, config))
        if place.kind == "keyvalue":
            place = replace(place, region=Region.PROGRAM, offset=emitter.reserve(place.size))
        elif name == network.input or name == network.output:
            place = replace(place, region=Region.INPUT if name == network.input else Region.OUTPUT)
        else:
            place = replace(place, offset=workspace)
            workspace += align(place.size)
        places[name] = place
    return places, workspace


def _matrix(network: Network, operator: KeyValue, place: TensorPlace) -> TensorPlace:
    limbs = limb_count(keyvalue_bound(network, operator))
    if place.name == network.output:
        raise MappingError(f"operator {operator.name}: K^T V cannot be the output of a network")
    return replace(place, heads=operator.heads, keys=network.tensors[operator.key].channels, limbs=limbs,
                   matrices=network.frames if operator.per_frame else 0)


def channel_groups(network: Network, config: MachineConfig) -> dict[str, int]:
    """Channels per group (see `layout.ChannelMap`) of every tensor.

    Tensors that meet channel by channel share a map: key and query; value and what attention makes; input and output of
    a depthwise convolution, a shortcut and what it is added to. Raises MappingError.
    """
    sets = _Sets()
    wanted: list[tuple[str, int, str]] = []
    for operator in network.operators:
        outputs = list(outputs_of(operator))
        if isinstance(operator, KeyValue):
            for name in (operator.key, operator.value):
                channels = network.tensors[name].channels
                wanted.append((name, ChannelMap.of(channels, channels // operator.heads, config).group, operator.name))
        if isinstance(operator, Attend):
            source = network.producer(operator.keyvalue)
            assert isinstance(source, KeyValue)
            sets.join([operator.query, source.key])
            sets.join([source.value, *outputs])
        if isinstance(operator, TemporalAttend):
            sets.join([operator.query, operator.key, operator.value, *outputs])
            channels = network.tensors[operator.query].channels
            width = ChannelMap.of(channels, channels // operator.heads, config).group
            wanted.append((operator.query, width, operator.name))
        if isinstance(operator, Depthwise):
            sets.join([operator.input, *outputs])
        if isinstance(operator, Conv):
            sets.join(outputs)
        if isinstance(operator, Upsample):
            sets.join([operator.input, operator.output])
        if isinstance(operator, Accumulating) and operator.neuron.shortcut:
            sets.join([operator.neuron.shortcut, *outputs])
    found: dict[str, tuple[int, str]] = {}
    for name, width, operator_name in wanted:
        other, first = found.setdefault(sets.root(name), (width, operator_name))
        if other != width:
            raise MappingError(f"operator {operator_name}: tensor {name} is laid out in groups of {other} channels for "
                               f"{first} already, not of {width}")
    return {name: found.get(sets.root(name), (tensor.channels, ""))[0] for name, tensor in network.tensors.items()}


class _Sets:
    """Union of tensor names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        while name in self._parent:
            name = self._parent[name]
        return name

    def join(self, names: list[str]) -> None:
        for name in names[1:]:
            first, other = self.root(names[0]), self.root(name)
            if first != other:
                self._parent[other] = first
