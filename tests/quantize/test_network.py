"""Network files: what is written comes back, and what is wrong is refused with its name."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from spikeloom.network import (
    Attend,
    Conv,
    Depthwise,
    KeyValue,
    Lif,
    Network,
    NetworkError,
    Neuron,
    TemporalAttend,
    Tensor,
    Upsample,
    inputs_of,
    outputs_of,
)


def tensor(name: str, kind: str, channels: int, size: int = 4) -> Tensor:
    return Tensor(name=name, kind=kind, channels=channels, height=size, width=size)


def small() -> Network:
    """Every operator and mode once: pixels, depthwise to planes, residual, attention, pool, logits."""
    lif = {"lif": Lif(), "threshold": "th"}
    made = [
        tensor("pixels", "pixels", 3), tensor("s0", "spikes", 4), tensor("r0", "residual", 4),
        tensor("p0", "planes", 4), tensor("s1", "spikes", 4), tensor("r1", "residual", 4),
        tensor("kv", "keyvalue", 4, 1), tensor("s2", "spikes", 4), tensor("s3", "spikes", 4, 1),
        tensor("out", "logits", 4, 1)]
    arrays = {
        "w3": np.ones((4, 3, 3, 3), np.int8), "dw": np.ones((4, 1, 3, 3), np.int8),
        "w1": np.ones((4, 4, 1, 1), np.int8), "zero": np.zeros(4, np.int32), "th": np.full(4, 3, np.int32)}
    shifted = {"mode": "residual", "bias": "zero", "shift": "zero"}
    return Network(frames=2, input="pixels", output="out", tensors={t.name: t for t in made}, arrays=arrays, operators=[
        Conv(name="stem", input="pixels", weight="w3", padding=1, pad_codes=(1, 2, 3), neuron=Neuron(
            **shifted, **lif, spikes="s0", residual="r0")),
        Depthwise(name="dw", input="s0", weight="dw", padding=1, neuron=Neuron(
            mode="planes", bias="zero", shift="zero", planes="p0")),
        Conv(name="pw", input="p0", weight="w1", neuron=Neuron(
            **shifted, **lif, shortcut="r0", spikes="s1", residual="r1")),
        KeyValue(name="kv", key="s1", value="s0", heads=2, bipolar=True, output="kv"),
        Attend(name="attend", query="s1", keyvalue="kv", bipolar=True, neuron=Neuron(
            mode="direct", bias="zero", negate="zero", **lif, spikes="s2")),
        Conv(name="last", input="s2", weight="w1", neuron=Neuron(
            **shifted, **lif, shortcut="r1", pool=True, spikes="s3")),
        Conv(name="head", input="s3", weight="w1", neuron=Neuron(mode="direct", bias="zero", logits="out"))])


def test_names():
    network = small()
    network.check()
    assert [outputs_of(o) for o in network.operators][:2] == [("s0", "r0"), ("p0",)]
    assert inputs_of(network.operators[2]) == ("p0", "r0")
    assert inputs_of(network.operators[4]) == ("s1", "kv")
    assert network.producer("kv") is network.operators[3]
    assert network.producer("pixels") is None


def test_part_that_reads_no_spikes():
    network = small()
    network.tensors["wide"] = tensor("wide", "residual", 4, 8)
    network.operators.insert(3, Upsample(name="up", input="r1", output="wide"))
    network.check()
    assert network.part(1, 4).output == "wide"
    with pytest.raises(NetworkError, match="operators 3:4 read neither spikes nor pixels"):
        network.part(3, 4)


def test_round_trip(tmp_path):
    network = small()
    network.metadata = {"names": ["a", "b"], "scale": 0.125}
    network.save(tmp_path)
    again = Network.load(tmp_path)
    assert again.hash == network.hash
    assert again.operators == network.operators
    assert again.tensors == network.tensors
    assert again.metadata == network.metadata
    for name, array in network.arrays.items():
        assert again.arrays[name].dtype == array.dtype
        assert np.array_equal(again.arrays[name], array)


def test_hash_covers_everything():
    changes = [
        lambda n: n.arrays.__setitem__("th", n.arrays["th"] + 1), lambda n: n.arrays.__setitem__("extra", np.ones(1)),
        lambda n: n.metadata.__setitem__("a", 1), lambda n: setattr(n, "frames", 3),
        lambda n: n.operators.__setitem__(0, replace(n.operators[0], pad_codes=(1, 2, 4)))]
    hashes = {small().hash}
    for change in changes:
        network = small()
        change(network)
        hashes.add(network.hash)
    assert len(hashes) == len(changes) + 1


def test_a_flipped_byte_is_found(tmp_path):
    small().save(tmp_path)
    path = tmp_path / "network.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(NetworkError, match=r"content hash is [0-9a-f]{16}\.\.\., file says [0-9a-f]{16}"):
        Network.load(tmp_path)


def test_a_changed_graph_is_found(tmp_path):
    small().save(tmp_path)
    path = tmp_path / "network.json"
    path.write_text(path.read_text().replace('"decayed"', '"quarter"', 1))
    with pytest.raises(NetworkError, match="content hash"):
        Network.load(tmp_path)


@pytest.mark.parametrize("missing", ["network.json", "network.safetensors"])
def test_missing_files(tmp_path, missing):
    small().save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(NetworkError, match=r"no such file|cannot read the network"):
        Network.load(tmp_path)


@pytest.mark.parametrize(("name", "keep"), [
    ("network.json", 100), ("network.safetensors", 60), ("network.safetensors", 3)])
def test_truncated_files(tmp_path, name, keep):
    small().save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(NetworkError, match="cannot read the network"):
        Network.load(tmp_path)


def description() -> dict:
    return json.loads(json.dumps(small().description()))


def edit(path: str, value):
    """Sets one entry of the description; `path` with slashes, numbers index lists."""
    def change(data):
        *front, last = path.split("/")
        for key in front:
            data = data[int(key)] if isinstance(data, list) else data[key]
        data[int(last) if isinstance(data, list) else last] = value
    return change


@pytest.mark.parametrize(("change", "message"), [
    (edit("format", "else"), "not a spikeloom network"),
    (edit("version", 7), "version must be 1, not `7`"),
    (edit("frames", 0), "`frames` must be a positive integer"),
    (edit("frames", "2"), "`frames` must be a positive integer"),
    (edit("operators/0/type", "pool"), "unknown operator type"),
    (edit("operators/0/colour", 1), "unknown fields"),
    (edit("operators/0/neuron", {"mode": "direct"}), "malformed graph"),
    (edit("operators/0/neuron", None), "malformed graph"),
    (edit("operators/0/neuron/lif", {"tau": 2}), "malformed graph"),
    (edit("tensors/0", {"name": "pixels"}), "malformed graph"),
    (edit("tensors/0/channels", "3"), "malformed graph"),
    (edit("tensors/0/kind", "voxels"), "tensor pixels: bad kind or shape"),
    (edit("tensors/1/height", 0), "tensor s0: bad kind or shape"),
    (edit("operators/3/heads", "2"), "malformed graph"),
    (edit("operators", None), "malformed graph"),
    (edit("output", "nothing"), "output nothing: no operator makes it"),
    (edit("input", "nothing"), "input nothing: must be a declared tensor"),
    (edit("tensors/0/channels", 4), "input pixels: must be a declared tensor of spikes or of pixels of 3 colours"),
])
def test_malformed_descriptions(change, message):
    data = description()
    change(data)
    with pytest.raises(NetworkError, match=message):
        Network.from_description(data, small().arrays)


@pytest.mark.parametrize("data", [None, [], "text", {}])
def test_not_a_network(data):
    with pytest.raises(NetworkError, match="not a spikeloom network"):
        Network.from_description(data, {})


def operator(index: int, **fields):
    def change(network: Network):
        network.operators[index] = replace(network.operators[index], **fields)
    return change


def neuron(index: int, **fields):
    def change(network: Network):
        old = network.operators[index]
        network.operators[index] = replace(old, neuron=replace(old.neuron, **fields))
    return change


def stored(name: str, value):
    return lambda network: network.arrays.__setitem__(name, value)


def given(name: str, also):
    """Spikes that no operator makes, of half the size of the others."""
    def change(network: Network) -> None:
        network.tensors[name], network.given = tensor(name, "spikes", 4, 2), (name,)
        also(network)
    return change


def declare(name: str, **fields):
    return lambda network: network.tensors.__setitem__(name, replace(network.tensors[name], **fields))


def integers(levels: int, lif: Lif, rows=None, name: str = "s0", index: int = 0, also=lambda network: None):
    """Operator `index` makes integer spikes, by thresholds `rows` [levels]."""
    def change(network: Network):
        declare(name, kind="integers", levels=levels)(network)
        neuron(index, levels=levels, lif=lif, threshold="rows")(network)
        thresholds = 2 * np.arange(1, levels + 1) - 1 if rows is None else rows
        network.arrays["rows"] = np.repeat(thresholds[:, None], 4, axis=1).astype(np.int32)
        also(network)
    return change


LIF = Lif(leak="memoryless")
FILL = np.full(4, 1, np.int32)


@pytest.mark.parametrize(("change", "message"), [
    (operator(1, input="s2"), "operator dw: input s2 is not made by an earlier operator"),
    (operator(1, name="stem"), "operator stem: another operator has this name"),
    (neuron(1, planes="s0"), "operator dw: output s0 is undeclared or made twice"),
    (neuron(1, planes="new"), "operator dw: output new is undeclared"),
    (operator(3, key="p0"), "operator kv: key and value must be spikes"),
    (operator(3, heads=3), "operator kv: 3 heads do not divide 4 channels"),
    (operator(3, heads=0), "operator kv: 0 heads do not divide"),
    (given("more", operator(3, value="more")), "operator kv: key and value differ in height or width"),
    (declare("kv", channels=8), "operator kv: output kv must have 4 channels, not 8"),
    (operator(4, query="p0"), "operator attend: query must be spikes and as wide as the key of keyvalue"),
    (operator(2, input="r0"), "operator pw: input r0 of kind residual cannot be convolved"),
    (operator(2, weight="none"), r"operator pw: array none must be int8\[Co, Ci, kh, kw\]"),
    (operator(2, weight="zero"), "operator pw: array zero must be int8"),
    (stored("w1", np.full((4, 4, 1, 1), -128, np.int8)), "operator pw: array w1 has a weight beyond 127"),
    (stored("w1", np.ones((4, 5, 1, 1), np.int8)), r"operator pw: weight \[4, 5, 1, 1\] does not fit 4 input channels"),
    (stored("w1", np.ones((4, 4, 1, 2), np.int8)), "operator pw: weight .* does not fit"),
    (stored("dw", np.ones((8, 1, 3, 3), np.int8)), "operator dw: weight .* does not fit"),
    (stored("dw", np.ones((4, 1, 9, 9), np.int8)), "operator dw: a depthwise kernel must be odd, at most 7"),
    (stored("dw", np.ones((4, 1, 2, 2), np.int8)), "operator dw: a depthwise kernel must be odd"),
    (stored("w3", np.ones((4, 3, 7, 7), np.int8)), "operator stem: the output has no pixels"),
    (operator(0, stride=0), "operator stem: stride 0 must be positive"),
    (operator(0, padding=-1), "operator stem: stride 1 must be positive, padding -1 must not be negative"),
    (operator(0, pad_codes=(0, 0, 256)), r"operator stem: pad_codes must be three values in \[0, 255\]"),
    (operator(0, stride=2), r"operator stem: output s0 must be spikes \[4, 2, 2\]"),
    (neuron(0, mode="fast"), "operator stem: mode must be one of"),
    (neuron(0, bias="none"), "operator stem: array none is missing"),
    (stored("zero", np.zeros(4, np.int64)), r"operator stem: array zero must be int32\[4\], not int64\[4\]"),
    (stored("zero", np.zeros(3, np.int32)), r"operator stem: array zero must be int32\[4\], not int32\[3\]"),
    (neuron(0, shift=None), "operator stem: array None is missing"),
    (stored("th", 0 * FILL), r"operator stem: thresholds must lie in \[1, 2\*\*27\)"),
    (stored("th", FILL << 27), "operator stem: thresholds must lie in"),
    (neuron(4, negate="th"), "operator attend: negate must be 0 or 1"),
    (neuron(0, lif=Lif(leak="slow")), "operator stem: unknown neuron"),
    (neuron(0, lif=Lif(reset="never")), "operator stem: unknown neuron"),
    (neuron(0, lif=None), "operator stem: lif and spikes go together"),
    (neuron(6, spikes="s1", lif=Lif(), threshold="th"), "operator head: output s1 is undeclared or made twice"),
    (neuron(6, logits=None), r"operator head: mode direct cannot make \(\)"),
    (neuron(6, mode="planes", shift="zero"), r"operator head: mode planes cannot make \('logits',\)"),
    (neuron(2, shortcut="s0"), "operator pw: shortcut s0 does not fit"),
    (neuron(4, shortcut="r0"), "operator attend: shortcut r0 does not fit"),
    (neuron(2, pool=True), "operator pw: pool needs mode residual and no residual output"),
    (operator(6, input="s2"), "operator head: logits need a 1x1 map"),
    (declare("p0", kind="residual"), "operator dw: output p0 must be planes"),
    (declare("s1", channels=5), r"operator pw: output s1 must be spikes \[4, 4, 4\]"),
    (declare("s0", kind="integers"), "tensor s0: levels must be 2..7 of kind integers, 1 of all others, not 1 of int"),
    (declare("s0", levels=4), "tensor s0: levels must be 2..7 of kind integers, 1 of all others, not 4 of spikes"),
    (declare("s0", kind="integers", levels=4), r"operator stem: output s0 must be spikes \[4, 4, 4\]"),
    (integers(4, Lif()), "operator stem: integer spikes need leak memoryless, not decayed, and thresholds that rise"),
    (integers(4, LIF, rows=np.array([3, 5, 4, 9])), "operator stem: integer spikes need leak memoryless, not memory"),
    (integers(4, LIF, rows=np.array([3])), r"operator stem: array rows must be int32\[4, 4\], not int32\[1, 4\]"),
    (integers(8, LIF), "tensor s0: levels must be"),
    (neuron(1, levels=2), "operator dw: levels must be 1..7, 1 without lif, not 2"),
])
def test_refused_networks(change, message):
    network = small()
    network.arrays = copy.copy(network.arrays)
    change(network)
    with pytest.raises(NetworkError, match=message):
        network.check()


@pytest.mark.parametrize(("change", "message"), [
    ({}, None), ({"key": "s5"}, None), ({"key": "p0"}, "operator attend: query, key and value must be spikes"),
    ({"value": "pixels"}, "operator attend: query, key and value must be spikes"),
    ({"key": "s4"}, "operator attend: query, key and value differ in shape"),
    ({"heads": 3}, "operator attend: 3 heads do not divide 4 channels"),
    ({"heads": 0}, "operator attend: 0 heads do not divide 4 channels"),
    ({"key": "s3"}, "operator attend: input s3 is not made by an earlier operator")])
def test_temporal_attention(tmp_path, change, message):
    network = small()
    network.tensors["s4"], network.given = tensor("s4", "spikes", 8), ("s4", "s5")
    network.tensors["s5"] = replace(tensor("s5", "integers", 4), levels=3)
    attend = {"query": "s1", "key": "s0", "value": "s1", "heads": 2} | change
    network.operators[4] = TemporalAttend(
        name="attend", bipolar=False, neuron=network.operators[4].neuron, **attend)
    if message is not None:
        with pytest.raises(NetworkError, match=message):
            network.check()
        return
    if change:
        network.check()
        return
    network.given = ()
    network.save(tmp_path)
    assert Network.load(tmp_path).operators == network.operators
    assert inputs_of(network.operators[4]) == ("s1", "s0", "s1")


@pytest.mark.parametrize("shift", [-9, 24])
def test_shift_range(shift):
    network = small()
    network.arrays["shift"] = np.full(4, shift, np.int32)
    neuron(1, shift="shift")(network)
    with pytest.raises(NetworkError, match=r"operator dw: shifts must lie in \[-8, 23\]"):
        network.check()


def test_saving_checks_first(tmp_path):
    network = replace(small(), frames=0)
    with pytest.raises(NetworkError, match="frames"):
        network.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
