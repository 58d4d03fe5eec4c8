"""E-SpikeFormer (V3) as an integer network: folded exactly, halves to even, close to the float model; its program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spikeloom.config import preset
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.interpreter import Interpreter
from spikeloom.network import Attend, KeyValue, Network, NetworkError
from spikeloom.quantize.calibration import run_float
from spikeloom.quantize.checkpoints import import_checkpoint
from spikeloom.quantize.convert import ModelError, calibration_clips, load_model, quantize
from spikeloom.quantize.folding import fold
from spikeloom.quantize.inference import to_input
from spikeloom.quantize.neurons import LIF, NeuronConfig
from spikeloom.quantize.quantizer import integer_outputs, rising
from spikeloom.quantize.quantizer import quantize as quantize_model
from spikeloom.quantize.reference import Reference
from spikeloom.quantize.relatives import ESpikeFormer, V3Config
from spikeloom.quantize.relatives.v3 import LinearAttention
from spikeloom.quantize.report import QuantizationReport

SMALL = V3Config(
    widths=(8, 8, 16, 24), depths=(1, 1), heads=4, mlp_ratio=2, conv_ratio=2, height=32, width=32, frames=3, classes=5,
    pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.3, 0.25, 0.2))
"""Heads of 4 channels, whose attention ties often, and of 6, whose attention never does; V of 16 and 24."""

GRID = replace(
    SMALL, widths=(8, 8, 16, 16), frames=2, pixel_mean=(0.0,) * 3, pixel_std=(128 / 255,) * 3)

ENDS = ("conv2", "bn2", "fc2_bn", "proj_conv.1", "pwconv2.1")
"""Batch norms at the ends of branches."""


def clips(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((3 * count, 3, 3, 3), generator=generator)
    smooth = (255 * nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")).round().to(torch.uint8)
    return smooth.unflatten(0, (count, 3)).movedim(2, -1).contiguous()


def norms(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in model.named_modules() if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))]


@pytest.fixture(scope="module")
def model() -> ESpikeFormer:
    """Random weights; batch norms with statistics of clips, so that all levels fire."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ESpikeFormer(SMALL)
        for name, norm in norms(model):
            gain = 0.15 if name.endswith(ENDS) else 1.0
            nn.init.uniform_(norm.weight, 0.5 * gain, 1.5 * gain)
            nn.init.uniform_(norm.bias, 1.5 * gain - 0.3, 1.5 * gain + 0.3)
            norm.momentum = None
    model.train()
    with torch.no_grad():
        model(to_input(model, clips(6)))
    return model.eval()


@pytest.fixture(scope="module")
def on_grid() -> ESpikeFormer:
    """Float weights that 8 bits hold exactly: m / 2**k with |m| <= 127, and one of 127 in every channel."""
    rng, model = np.random.default_rng(0), ESpikeFormer(GRID).double().eval().requires_grad_(False)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Linear)):
                count = part.weight[0].numel()
                whole = np.round(rng.normal(0, 40, (len(part.weight), count))).clip(-127, 127)
                whole[np.arange(len(whole)), rng.integers(0, count, len(whole))] = 127
                exponent = round(np.log2(10 * count ** 0.5))
                part.weight.copy_(torch.from_numpy(whole * 2.0 ** -exponent).reshape(part.weight.shape))
                if part.bias is not None:
                    part.bias.copy_(torch.from_numpy(rng.integers(-8, 8, len(whole)) / 32))
        for _, norm in norms(model):
            norm.running_var.fill_(1 - norm.eps)
            norm.bias.copy_(torch.from_numpy(rng.integers(0, 32, len(norm.bias)) / 32))
    return model


@pytest.fixture(scope="module")
def made(model: ESpikeFormer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, QuantizationReport]:
    """The way of a user: a checkpoint file is imported, the model quantised."""
    path = tmp_path_factory.mktemp("v3")
    torch.save({"model": model.state_dict()}, path / "file.pth")
    import_checkpoint(
        path / "file.pth", path / "model", heads=4, frames=3, size=(32, 32), mean=SMALL.pixel_mean,
        std=SMALL.pixel_std)
    report = quantize(path / "model.safetensors", path / "network", clips=clips(6).numpy())
    return Network.load(path / "network"), report


def test_folding_is_the_model_in_float64(model: ESpikeFormer) -> None:
    double, given = ESpikeFormer(SMALL).double().eval(), clips(2, 1)
    double.load_state_dict(model.state_dict())
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (SMALL.pixel_mean, SMALL.pixel_std))
    with torch.no_grad():
        expected = double(((given.double() / 255 - mean) / std).movedim(-1, -3).movedim(1, 0))
    found = run_float(fold(model), given, dtype=torch.float64)["head.logits"] / SMALL.frames
    assert float((found - expected).abs().max()) < 1e-9
    assert float(expected.std()) > 0.1


def test_every_operator_is_close(made: tuple[Network, QuantizationReport]) -> None:
    """On what the float network feeds it, each gives at least 98 % of the spikes exactly; some of all sizes."""
    spikes = [layer for layer in made[1].layers if layer.local is not None]
    assert min(layer.local or 0 for layer in spikes) > 0.98
    assert all(0.2 < (layer.rate or 0) < 0.6 for layer in spikes)


def test_weights_that_eight_bits_hold_give_the_float_model(on_grid: ESpikeFormer) -> None:
    """Every spike, every value of the stream, and the logits; halves are frequent and go to even in both."""
    given = torch.from_numpy(np.random.default_rng(1).integers(0, 4, (4, 2, 32, 32, 3), np.uint8) * 64)
    network, report = quantize_model(on_grid, given)
    assert all(layer.agreement in (None, 1.0) and not layer.error for layer in report.layers)
    with torch.no_grad():
        expected = on_grid((given.double() / 128).movedim(-1, -3).movedim(1, 0))
    assert torch.equal(integer_outputs(network, given), expected)
    assert float(expected.std()) > 0.1
    values, ties = Reference(network).run(given[0]), 0
    for tensor in network.tensors.values():
        if tensor.kind == "residual":
            stream = values[tensor.name].double() / 2 ** tensor.fraction_bits
            ties += int(((stream % 1 == 0.5) & (stream > 0) & (stream < 4)).sum())
    assert ties > 10


def test_values_are_four_times_as_wide_as_keys(made: tuple[Network, QuantizationReport]) -> None:
    network, _ = made
    matrices = [o for o in network.operators if isinstance(o, KeyValue)]
    widths = [(network.tensors[o.key].channels, network.tensors[o.value].channels) for o in matrices]
    assert widths == [(16, 64), (24, 96)]
    assert all(o.per_frame for o in matrices)
    assert {t.levels for t in network.tensors.values() if t.kind == "integers"} == {4}
    assert not any(t.kind in ("spikes", "planes") for t in network.tensors.values())


def test_attention_is_that_of_torch(model: ESpikeFormer, made: tuple[Network, QuantizationReport]) -> None:
    """On the same q, k, v: every spike, ties included."""
    network, ties = made[0], []
    values = Reference(network).run(clips(1, 3)[0])
    for operator in network.operators:
        if not isinstance(operator, Attend):
            continue
        source = network.producer(operator.keyvalue)
        assert isinstance(source, KeyValue)
        module = model.get_submodule(operator.name.removesuffix(".attend"))
        assert isinstance(module, LinearAttention)
        q, k, v = (module.tokens(values[n].float() / 4) for n in (operator.query, source.key, source.value))
        y = ((q @ k.transpose(2, 3)) @ v * module.scale).transpose(2, 3).flatten(1, 2)
        found = values[str(operator.neuron.spikes)].flatten(2)
        assert torch.equal(module.spike(y) * 4, found.float())
        ties.append(int(((y % 1 == 0.5) & (y < 4)).sum()))
    assert ties[0] > 10
    assert ties[1] == 0  # 2 / sqrt(6) is irrational


@pytest.mark.parametrize(("ties", "thresholds"), [("up", [4, 12, 20, 28]), ("even", [5, 12, 21, 28])])
def test_halves(ties: str, thresholds: list[int]) -> None:
    neuron = NeuronConfig(leak="memoryless", levels=4, ties=ties)
    step = np.array([8.0, 7.0])
    found = rising(step, neuron)
    assert found[:, 0].tolist() == thresholds
    assert found[:, 1].tolist() == [4, 11, 18, 25]  # no ties: 3.5, 10.5, 17.5, 24.5
    for channel, size in enumerate(step):
        current = torch.arange(-3, 40)[:, None]
        fired = (current >= torch.from_numpy(found[:, channel])).sum(1)
        assert torch.equal(fired, (4 * LIF(neuron)(current[:, 0] / size)).long())
    with pytest.raises(ValueError, match=r"`ties` must be one of up, even, not `.odd.`"):
        NeuronConfig(ties="odd")


def test_program_runs_bit_for_bit(made: tuple[Network, QuantizationReport]) -> None:
    """On every tensor; `tests/sim/test_machine.py` has the RTL."""
    network, clip = made[0], clips(1, 7)[0].numpy()
    expected = Reference(network).run(clip)
    program = compile_network(network, preset("small"), observe=True)
    machine = Interpreter(program, clip, np.random.default_rng(0)).run()
    for tensor, value in expected.items():
        assert np.array_equal(machine.tensor(tensor), value.numpy()), tensor


def test_refused(tmp_path: Path, model: ESpikeFormer) -> None:
    binary = V3Config(widths=(8, 8, 16, 16), depths=(1, 1), heads=2, levels=1)
    with pytest.raises(NetworkError, match="operator downsample1_1: integer spikes need 2 levels or more, not 1"):
        fold(ESpikeFormer(binary))
    with pytest.raises(ModelError, match="no calibration clips: name video files with --calibrate"):
        calibration_clips(SMALL)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    import_checkpoint(tmp_path / "file.pth", tmp_path / "model", heads=4)
    with pytest.raises(ModelError, match="must be a SpikeVideoFormer, not `ESpikeFormer`"):
        load_model(tmp_path / "model.safetensors")
    with pytest.raises(TypeError, match="`model` must be a network with an integer form, not `Linear`"):
        fold(nn.Linear(1, 1))
