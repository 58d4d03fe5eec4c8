"""Heads for poses and segmentation as integer networks: folding is exact, quantisation close, enlarging exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from spikeloom.bounds import prove_bounds
from spikeloom.network import Network, NetworkError, Upsample, inputs_of, outputs_of
from spikeloom.operations import additions
from spikeloom.quantize.calibration import run_float
from spikeloom.quantize.energy import count
from spikeloom.quantize.folding import fold
from spikeloom.quantize.heads import Pyramid
from spikeloom.quantize.models import SpikeVideoFormer, named_config
from spikeloom.quantize.quantizer import integer_outputs, quantize
from spikeloom.quantize.reference import Reference
from spikeloom.quantize.shapes import shape_network

CONFIGS = {
    "pose": replace(named_config("micro"), head="pose", tasks=(), classes=6),
    "segment": replace(
        named_config("micro"), head="segment", tasks=(), classes=3, head_width=8, strides=(2, 1, 2, 2, 1))}
CLIPS = torch.randint(0, 256, (5, 4, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request) -> SpikeVideoFormer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = SpikeVideoFormer(CONFIGS[request.param])
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.uniform_(module.weight, 0.5, 1.8)
                nn.init.uniform_(module.bias, -0.2, 0.9)
                module.momentum = 0.5
        last = model.head if isinstance(model.head, nn.Linear) else model.head.classify
        nn.init.normal_(last.weight, std=0.3)
        if isinstance(model.head, Pyramid):
            nn.init.constant_(model.head.get_parameter("laterals.0.1.weight"), 40.0)  # levels differ in range
    model.train()
    with torch.no_grad():
        for _ in range(4):
            model(model.normalise(CLIPS).transpose(0, 1))
    return model.eval()


@pytest.fixture(scope="module")
def quantized(model):
    return quantize(model, CLIPS)


def test_folding_is_the_model_in_float64(model):
    config = model.config
    double = SpikeVideoFormer(config).double().eval()
    double.load_state_dict(model.state_dict())
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (config.pixel_mean, config.pixel_std))
    with torch.no_grad():
        expected = double(((CLIPS.double() / 255 - mean) / std).movedim(-1, -3).transpose(0, 1))
    stages = fold(model)
    found = run_float(stages, CLIPS, dtype=torch.float64)[f"{stages[-1].name}.residual"]
    assert float((found.reshape(expected.shape) - expected).abs().max()) < 1e-9
    assert float(expected.std()) > 0.1


def test_outputs_are_those_of_the_model(model, quantized):
    network, report = quantized
    with torch.no_grad():
        expected = model(model.normalise(CLIPS).transpose(0, 1)).double()
    found = integer_outputs(network, CLIPS, batch=2)
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) == pytest.approx(report.logits_error, rel=0.02)
    assert min(layer.local for layer in report.layers if layer.local is not None) > 0.97
    assert network.tensors[network.output].kind == "residual"
    assert network.metadata["tasks"] == []
    if model.config.head == "segment":
        assert report.same_class["pixel"] == pytest.approx(
            float((found.argmax(2) == expected.argmax(2)).double().mean()), abs=0.01)
    else:
        assert report.same_class == {}
    assert "output error" in report.table()


def test_the_last_layer_is_close_to_the_float_network(model, quantized):
    """Alone, fed with the float network's spikes: untrained networks on noise go different ways altogether."""
    network, _ = quantized
    real, last = run_float(fold(model), CLIPS), network.operators[-1]
    made = Reference(network).operate(last, real)[network.output].double()
    made *= network.metadata["output"]["scale"]
    assert float((made - real[network.output]).abs().max()) < 0.02
    assert float(real[network.output].std()) > 0.1


def test_the_pyramid_shares_the_spikes_of_the_stages(quantized, model):
    if model.config.head != "segment":
        pytest.skip("about the pyramid")
    network, _ = quantized
    operators = {operator.name: operator for operator in network.operators}
    assert inputs_of(operators["head.laterals.0"])[0] in inputs_of(operators["downsample2"])
    enlarged = [operator for operator in network.operators if isinstance(operator, Upsample)]
    assert [operator.name for operator in enlarged] == ["head.enlarge.1", "head.enlarge.0"]
    assert inputs_of(operators["head.laterals.2"])[1] == "head.laterals.3.residual"
    bits = {network.tensors[name].fraction_bits for name in network.tensors if name.startswith(("head.l", "head.e"))
            and name.endswith(".residual")}
    assert len(bits) == 1


def test_enlarging(quantized, model, tmp_path):
    if model.config.head != "segment":
        pytest.skip("about the pyramid")
    network, _ = quantized
    values = Reference(network).run(CLIPS[0])
    operator = next(operator for operator in network.operators if isinstance(operator, Upsample))
    small, large = (values[name].numpy() for name in (operator.input, operator.output))
    assert large.dtype == np.int16
    assert large.shape == (*small.shape[:2], 2 * small.shape[2], 2 * small.shape[3])
    for place in np.ndindex(large.shape):
        assert large[place] == small[place[0], place[1], place[2] // 2, place[3] // 2]
    assert additions(network, operator) == 0
    assert operator.name not in prove_bounds(network)
    energy = next(part for part in count(network, values) if part.operator == operator.name)
    assert (energy.accumulates, energy.macs, energy.twin_macs) == (0, 0, 0)
    network.save(tmp_path)
    assert Network.load(tmp_path).operators == network.operators


@pytest.mark.parametrize(("change", "message"), [
    ({"factor": 3}, "factor must be 2, not 3"),
    ({"input": "downsample2.spikes"}, "input and output must be residual"),
    ({"input": "head.laterals.0.residual"}, "input head.laterals.0.residual is not made by an earlier operator")])
def test_refused_enlarging(change, message):
    network = shape_network("masks")
    place = next(i for i, operator in enumerate(network.operators) if isinstance(operator, Upsample))
    network.operators[place] = replace(network.operators[place], **change)
    with pytest.raises(NetworkError, match=f"operator head.enlarge.1: {message}"):
        network.check()


def test_refused_shapes_of_enlarged_maps():
    for change, message in (({"height": 9}, r"must be residual \[32, 8, 8\]"), ({"fraction_bits": 3}, "same fraction")):
        network = shape_network("masks")
        name = outputs_of(next(o for o in network.operators if isinstance(o, Upsample)))[0]
        network.tensors[name] = replace(network.tensors[name], **change)
        with pytest.raises(NetworkError, match=message):
            network.check()


@pytest.mark.parametrize("name", ["walkers", "masks"])
def test_shapes_of_the_named_networks(name):
    network = shape_network(name)
    output = network.tensors[network.output]
    assert (output.kind, output.channels, output.height) == ("residual", {"walkers": 26, "masks": 4}[name],
                                                             {"walkers": 1, "masks": 16}[name])
