"""How many additions a clip costs: the unit in which the machine's peak, utilisation and comparisons are stated.

One synaptic operation = one addition of a weight that one input bit selects (or not: zeros count, the machine skips
none). Per operator and clip, with T frames, outputs Co x Ho x Wo, and P bits per input value (spikes 1, pixels and
planes 8, integer spikes as many as they have levels: they are the sum of that many binary spikes)::

    conv        T * Co * Ho * Wo * Ci * kh * kw * P       on the array
    maxconv     the same, Ho x Wo in front of the maximum; the array adds up again what several windows look at
    attend      T * Cv * H  * W  * D * P                  on the array, D = head width of K; limbs not counted
    depthwise   T * C  * Ho * Wo * k * k * P              in the depthwise unit
    keyvalue    T * Cv * H  * W  * D * P of K * P of V    in the Hamming unit
    temporal    T * C  * H  * W  * T * (P of Q * P of K + P of V)    in the temporal unit: scores of T frames, sums over
                                                          T frames; it makes scores again for each level of V, and
                                                          adds a sum for each level of K
    upsample    0                                         copies

Taps that fall on the padding count as well.
"""

from __future__ import annotations

from collections.abc import Mapping

from .network import Conv, Depthwise, KeyValue, Network, Operator, TemporalAttend, Tensor, Upsample

_INPUT_BITS = {"pixels": 8, "planes": 8}

_ENGINES: Mapping[type, str] = {Depthwise: "depthwise", KeyValue: "hamming", TemporalAttend: "temporal"}
"""Where operators run; all others on the array."""


def input_bits(tensor: Tensor) -> int:
    """Bits of an input value: passes of the array over it."""
    return _INPUT_BITS.get(tensor.kind, tensor.levels)


def additions(network: Network, operator: Operator) -> int:
    """Additions of one operator for one clip."""
    if isinstance(operator, Upsample):
        return 0
    if isinstance(operator, (Conv, Depthwise)):
        source = network.tensors[operator.input]
        channels, inputs, height, width = network.arrays[operator.weight].shape
        stride = operator.stride if isinstance(operator, Conv) else 1
        rows, columns = ((size + 2 * operator.padding - kernel) // stride + 1
                         for size, kernel in ((source.height, height), (source.width, width)))
        per_pixel = channels * inputs * height * width * input_bits(source)
    elif isinstance(operator, TemporalAttend):
        source = network.tensors[operator.query]
        rows, columns = source.height, source.width
        levels = source.levels * network.tensors[operator.key].levels + network.tensors[operator.value].levels
        per_pixel = source.channels * levels * network.frames
    else:
        name, state = ((operator.key, operator.output) if isinstance(operator, KeyValue)
                       else (operator.query, operator.keyvalue))
        source, values = network.tensors[name], network.tensors[state].channels
        rows, columns = source.height, source.width
        per_pixel = values * (source.channels // _heads(network, state)) * source.levels
        if isinstance(operator, KeyValue):
            per_pixel *= network.tensors[operator.value].levels
    return network.frames * rows * columns * per_pixel


def _heads(network: Network, keyvalue: str) -> int:
    producer = network.producer(keyvalue)
    assert isinstance(producer, KeyValue), "Network.check() lets nothing else make a keyvalue tensor"
    return producer.heads


def additions_by_engine(network: Network) -> dict[str, int]:
    """Additions of one clip on `array`, `depthwise`, `hamming` and `temporal`."""
    totals = {"array": 0, "depthwise": 0, "hamming": 0, "temporal": 0}
    for operator in network.operators:
        engine = _ENGINES.get(type(operator), "array")
        totals[engine] += additions(network, operator)
    return totals
