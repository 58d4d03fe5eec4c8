"""Pairs of operators that the compiler makes as one."""

from spikeloom.network import Conv, Depthwise, MaxConv, Network, inputs_of


def hands_over(network: Network, index: int) -> bool:
    """Operator `index` is depthwise, the next one is a 1 x 1 convolution and alone reads its planes."""
    if index + 1 >= len(network.operators):
        return False
    first, second = network.operators[index:index + 2]
    if not isinstance(first, Depthwise) or first.neuron.planes is None:
        return False
    if not isinstance(second, Conv) or isinstance(second, MaxConv):
        return False
    planes = first.neuron.planes
    readers = [o for o in network.operators if planes in inputs_of(o)]
    shape = network.arrays[second.weight].shape
    return (readers == [second] and second.input == planes and planes != network.output and shape[2:] == (1, 1)
            and second.stride == 1 and second.padding == 0 and not second.neuron.pool)
