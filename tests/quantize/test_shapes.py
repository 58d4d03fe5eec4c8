"""Networks of the named shapes: the graph, tensors and parameters of a quantised network of the same model."""

import numpy as np
import pytest

from spikeloom.quantize.checkpoints.architectures import named_architecture
from spikeloom.quantize.quantizer import quantize
from spikeloom.quantize.shapes import shape_network
from spikeloom.quantize.untrained import untrained


@pytest.mark.parametrize("name", ["digits", "v1-digits", "v3-digits"])
def test_same_shapes_as_the_quantised_network(name):
    shapes = shape_network(name)
    clips = np.random.default_rng(0).integers(0, 256, (1, 8, 32, 32, 3), dtype=np.uint8)
    network, _ = quantize(untrained(named_architecture(name).config, clips[0]), clips)
    kinds = [{n: (t.kind, t.channels, t.height, t.width) for n, t in made.tensors.items()}
             for made in (shapes, network)]
    assert kinds[0] == kinds[1]
    assert [type(o) for o in shapes.operators] == [type(o) for o in network.operators]
    common = {n for n in network.arrays if not n.endswith(".negate")}
    assert {n: shapes.arrays[n].shape for n in common} == {n: network.arrays[n].shape for n in common}


def test_frames_and_size():
    network = shape_network("micro", frames=11, size=32)
    assert network.frames == 11
    source = network.tensors[network.input]
    assert (source.height, source.width) == (32, 32)
    assert shape_network("micro", seed=1).hash == shape_network("micro", seed=1).hash
    assert shape_network("micro", seed=1).hash != shape_network("micro", seed=2).hash


@pytest.mark.parametrize(("arguments", "message"), [
    ({"model": "15G"}, "`name` must be one of .*55M.*, not `'15G'`"),
    ({"model": "micro", "frames": 0}, "`frames` must be at least 1, not `0`"),
    ({"model": "micro", "size": -3}, "`size` must be at least 1, not `-3`")])
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        shape_network(**arguments)
