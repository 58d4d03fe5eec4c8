"""Compiler and interpreter against the integer reference: attention from frame to frame."""

from dataclasses import replace

import numpy as np
import pytest

from spikeloom.config import preset
from spikeloom.hw.isa import Core
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.errors import MappingError
from spikeloom.network import Network, Neuron, TemporalAttend, Tensor
from spikeloom.quantize.random_networks import random_network

from .machines import MACHINES


@pytest.mark.parametrize("seed", [2, 8, 11, 12, 28, 72])
def test_temporal_attention(check, seed):
    """One to six lane groups, heads of 7, 12, 45 channels and of whole words, maps of one tile and of several."""
    network = random_network(seed, theme="temporal")
    for name in ("tiny", "wide") if seed % 8 else ("small", "cramped"):
        check(network, MACHINES[name], seed)


@pytest.mark.parametrize(("seed", "names", "runs"), [
    (2, ("tiny",), [3]), (7, ("small", "cramped"), [56, 4, 8]), (22, ("tiny",), [6, 8]),
    (31, ("wide", "cramped"), [12, 32, 4, 8])])
def test_temporal_attention_of_integer_spikes(check, seed, names, runs):
    """Maps of K in bank 1 up to seven times or once; as many chunks in a COMPUTE as its header buffer holds."""
    network, found = random_network(seed, theme="timed", cycles=30_000), []
    for name in names:
        program = check(network, MACHINES[name], seed)
        temporal = [i.body["chunks"] for i in program.instructions() if i.body.get("core") == Core.TEMPORAL]
        found += sorted(set(temporal))
    assert found == runs


def test_temporal_attention_of_integer_spikes_in_strips(check):
    """Strips of fewer rows than the map, the last one moved up to end with it."""
    network = random_network(36, theme="timed", cycles=30_000)
    program = check(network, replace(MACHINES["wide"], spike_depth=400), 36)
    pixels = [i.body["rows"] for i in program.instructions() if i.body.get("core") == Core.TEMPORAL]
    assert pixels == [2 * 6] * 10 + [6] * 10


def test_temporal_attention_is_refused():
    network = random_network(2, theme="temporal")
    with pytest.raises(MappingError, match=r"operator temporal6: the machine has no unit for .* \(`temporal_unit`\)"):
        compile_network(network, preset("zcu104"))
    shallow = replace(MACHINES["cramped"], spike_depth=16)
    with pytest.raises(MappingError, match=r"rows of \d+ words do not fit half of a spike bank \(8 words\)"):
        compile_network(network, shallow)


@pytest.mark.parametrize(("channels", "levels", "what"), [(2048, 1, ""), (512, 4, " of spikes of 4 levels")])
def test_wide_heads_of_temporal_attention_are_refused(channels, levels, what):
    spikes = Tensor(name="in", kind="integers" if levels > 1 else "spikes", channels=channels, levels=levels)
    neuron = Neuron(mode="planes", bias="zero", shift="zero", planes="out")
    network = Network(
        frames=1, tensors={"in": spikes, "out": replace(spikes, name="out", kind="planes", levels=1)},
        arrays={"zero": np.zeros(channels, np.int32)}, input="in", output="out", operators=[TemporalAttend(
            name="attend", query="in", key="in", value="in", heads=1, bipolar=True, neuron=neuron)])
    message = f"operator attend: heads of {channels} channels{what} exceed the scores of 12 bits"
    with pytest.raises(MappingError, match=message):
        compile_network(network, preset("tiny"))
