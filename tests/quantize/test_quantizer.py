"""Folding is exact, quantisation is close, and the pieces do what they say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spikeloom.bounds import prove_bounds
from spikeloom.network import SPIKING, Attend, Conv, Network
from spikeloom.quantize.calibration import calibrate, run_float
from spikeloom.quantize.folding import fold, fold_pixels, fold_repconv, repconvs
from spikeloom.quantize.formats import Formats, choose_formats, choose_fraction, choose_step
from spikeloom.quantize.layers import RepConv
from spikeloom.quantize.models import SpikeVideoFormer, SpikeVideoFormerConfig, named_config
from spikeloom.quantize.quantizer import integer_outputs, quantize
from spikeloom.quantize.reference import Reference
from spikeloom.quantize.report import FILE_NAME, QuantizationReport

MICRO = named_config("micro")
CLIPS = 6


def clips_for(config: SpikeVideoFormerConfig, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (CLIPS, config.frames, config.height, config.width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def shake_norms(model: nn.Module) -> None:
    """Batch norms as after training: scales of either sign, biases, and running statistics of real activity."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.8)
            nn.init.uniform_(module.bias, -0.2, 0.9)
            with torch.no_grad():
                module.weight.mul_(torch.where(torch.rand_like(module.weight) < 0.2, -1.0, 1.0))
            module.momentum = 0.5


def make_model(config: SpikeVideoFormerConfig) -> SpikeVideoFormer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SpikeVideoFormer(config)
        shake_norms(model)
        nn.init.normal_(model.get_parameter("head.weight"), std=0.3)
        nn.init.normal_(model.get_parameter("head.bias"))
    model.train()
    with torch.no_grad():
        for _ in range(4):
            model(model.normalise(clips_for(config)).movedim(1, 0))
    return model.eval()


@pytest.fixture(
    scope="module", params=[("hamming", 1), ("dot", 1), ("dot", 4), ("hamming", 3)], ids=lambda p: f"{p[0]}-{p[1]}")
def model(request) -> SpikeVideoFormer:
    attention, levels = request.param
    return make_model(replace(MICRO, attention=attention, neuron=replace(MICRO.neuron, levels=levels)))


@pytest.fixture(scope="module")
def quantized(model):
    return quantize(model, clips_for(model.config), class_names=[f"class {i}" for i in range(14)])


def choice(form: str) -> tuple[str, ...]:
    """RepConvs of MICRO, of which there are q, k, v and proj in each of two blocks, that stay unfused."""
    names = repconvs(MICRO)
    return {"fused": (), "unfused": names, "mixed": names[1::3]}[form]


@pytest.mark.parametrize("form", ["fused", "unfused", "mixed"])
def test_folding_is_the_model_in_float64(model, form):
    clips, config = clips_for(model.config, 1), model.config
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (config.pixel_mean, config.pixel_std))
    pixels = ((clips.double() / 255 - mean) / std).movedim(-1, -3).movedim(1, 0)
    double = SpikeVideoFormer(config).double().eval()
    double.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = double(pixels)
    found = run_float(fold(model, unfused=choice(form)), clips, dtype=torch.float64)["head.logits"] / config.frames
    assert float((found - expected).abs().max()) < 1e-9
    assert float(expected.std()) > 0.1


def test_thresholds_of_integer_spikes(model, quantized):
    """(i - 1/2) steps, where the stream is read exactly: its step is 2**fraction_bits."""
    levels, (network, _) = model.config.neuron.levels, quantized
    operator = next(o for o in network.operators if o.name == "downsample1_1")
    fraction = network.tensors[operator.neuron.residual].fraction_bits
    threshold = network.arrays[operator.neuron.threshold]
    wanted = [1 << fraction] if levels == 1 else [(2 * i - 1) << (fraction - 1) for i in range(1, levels + 1)]
    assert np.atleast_2d(threshold)[:, 0].tolist() == wanted
    assert network.tensors[operator.neuron.spikes].levels == levels


def test_repconv_fuses_into_one_zero_padded_convolution():
    torch.manual_seed(1)
    module, outer = RepConv(6).double(), nn.BatchNorm2d(6).double()
    for part in (module, outer):
        shake_norms(part)
        for norm in part.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean = torch.randn(6).double()
                norm.running_var = 0.3 + torch.rand(6).double()
    spikes = (torch.rand(2, 6, 5, 7) < 0.4).double()
    with torch.no_grad():
        expected = outer.eval()(module.eval()(spikes))
        folded = fold_repconv(module, outer)
        fused = nn.functional.conv2d(spikes, folded.fused(), folded.bias, padding=1)
        assert float((fused - expected).abs().max()) < 1e-12
        parts = nn.functional.conv2d(spikes, folded.first)
        parts = nn.functional.conv2d(parts, folded.depthwise, padding=1, groups=6)
        assert float((nn.functional.conv2d(parts, folded.last, folded.bias) - expected).abs().max()) < 1e-12


def test_pixels_fold_into_the_stem():
    torch.manual_seed(2)
    weight, bias = torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    codes = torch.randint(0, 256, (1, 3, 3, 3)).double()
    normal = (codes / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(std).double().view(3, 1, 1)
    per_code, moved, colour = fold_pixels(weight, bias, mean, std)
    expected = nn.functional.conv2d(normal, weight, bias)
    # float32 constants of mean and deviation would show here
    assert float((nn.functional.conv2d(codes, per_code, moved) - expected).abs().max()) < 1e-5
    zero = nn.functional.conv2d(colour.view(1, 3, 1, 1).expand(1, 3, 3, 3), per_code, moved)
    assert float((zero.flatten() - bias).abs().max()) < 1e-12


@pytest.mark.parametrize("threshold", [None, 1.0, 0.5, 0.3])
def test_steps(threshold):
    torch.manual_seed(3)
    weight = torch.randn(9, 8, 3, 3, dtype=torch.float64) * torch.logspace(-6, 3, 9).view(-1, 1, 1, 1)
    step = choose_step(weight, torch.zeros(9, dtype=torch.float64), kind="spikes", threshold=threshold)
    units = step.scale if threshold is None else step.scale * threshold
    assert np.allclose(units, np.round(units), rtol=1e-12, atol=0) or threshold is None
    assert threshold is not None or np.array_equal(step.scale, np.exp2(step.k))
    assert step.scale.min() >= 1
    assert step.scale.max() <= 2 ** 24
    fine = (step.scale > 1 / (threshold or 1)) & (step.scale < 2 ** 23)
    assert fine.sum() >= 5
    error = step.weight / step.scale.reshape(-1, 1, 1, 1) - weight.numpy()
    assert (np.sqrt((error ** 2).mean((1, 2, 3))) / weight.numpy().std((1, 2, 3)))[fine].max() < 0.02
    assert np.allclose(step.residue, (error * step.scale.reshape(-1, 1, 1, 1)).sum((2, 3)), atol=1e-6)


def test_steps_leave_room_for_bias_and_accumulator():
    weight = torch.full((2, 600, 1, 1), 1e-3, dtype=torch.float64)
    step = choose_step(weight, torch.tensor([0.0, 1000.0], dtype=torch.float64), kind="planes")
    assert 128 * np.abs(step.weight.astype(int)).sum(axis=(1, 2, 3)).max() < 1 << 23
    assert 1000 * step.scale[1] <= 1 << 23
    dead = choose_step(torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.ones(1).double(), kind="spikes")
    assert not dead.weight.any()


def test_shared_step():
    weight = torch.tensor([1.0, 0.01], dtype=torch.float64).view(2, 1, 1, 1)
    step = choose_step(weight, torch.zeros(2, dtype=torch.float64), kind="spikes", shared=True)
    assert step.scale[0] == step.scale[1] == 64


@pytest.mark.parametrize(("largest", "fraction"), [(1.0, 7), (0.9, 7), (100.0, 0), (500.0, -2)])
def test_fractions(largest, fraction):
    assert choose_fraction(torch.linspace(-largest, largest, 1001), 8) == fraction


def test_one_outlier_is_clipped():
    samples = torch.cat([torch.randn(100_000, generator=torch.Generator().manual_seed(0)), torch.tensor([12.0])])
    assert choose_fraction(samples, 8) >= 4


def test_network_is_legal_and_shaped_as_the_model(model, quantized):
    network, _ = quantized
    network.check()
    prove_bounds(network)
    config = model.config
    blocks = sum(config.depths)
    assert len(network.operators) == 5 + 4 * 5 + blocks * 8 + 1
    stem = network.operators[0]
    assert isinstance(stem, Conv)
    assert stem.pad_codes == (64, 64, 64)
    attends = [o for o in network.operators if isinstance(o, Attend)]
    assert len(attends) == blocks
    assert all(o.bipolar == (config.attention == "hamming") for o in attends)
    for operator in network.operators:
        neuron = getattr(operator, "neuron", None)
        if neuron is not None and neuron.shortcut is not None and neuron.residual is not None:
            bits = [network.tensors[n].fraction_bits for n in (neuron.shortcut, neuron.residual)]
            assert bits[0] == bits[1]
    assert network.metadata["class_names"][3] == "class 3"
    assert network.metadata["preprocessing"]["frames"] == config.frames
    assert SpikeVideoFormerConfig.from_dict(network.metadata["model"]) == config


def test_dot_attention_is_exact():
    network, _ = quantize(make_model(replace(MICRO, attention="dot")), clips_for(MICRO))
    attend = next(o for o in network.operators if isinstance(o, Attend))
    assert (network.arrays[str(attend.neuron.threshold)] == 4).all()
    assert not network.arrays[attend.neuron.bias].any()


def test_negative_attention_scales_negate():
    network, _ = quantize(make_model(MICRO), clips_for(MICRO))
    attend = next(o for o in network.operators if isinstance(o, Attend))
    assert attend.neuron.negate is not None
    assert 0 < network.arrays[attend.neuron.negate].mean() < 1


def mean_local(report: QuantizationReport) -> float:
    agreements = [layer.local for layer in report.layers if layer.local is not None]
    return sum(agreements) / len(agreements)


def test_close_to_the_float_network(quantized):
    _, report = quantized
    spikes = [layer for layer in report.layers if layer.kind in SPIKING]
    assert min(layer.local for layer in spikes) > 0.97
    assert mean_local(report) > 0.998
    assert report.layers[0].agreement > (0.998 if report.layers[0].kind == "spikes" else 0.995)
    assert all(abs(layer.rate - layer.float_rate) < 0.03 for layer in spikes)
    assert report.logits_error < 0.25
    assert all(layer.clipped < 0.01 for layer in report.layers if layer.kind in ("residual", "planes"))


@pytest.mark.parametrize("form", ["unfused", "mixed"])
def test_unfused_is_close_too(model, form):
    unfused = choice(form)
    network, report = quantize(model, clips_for(model.config), unfused=unfused)
    assert len(network.operators) == 5 + 20 + sum(model.config.depths) * 8 + 2 * len(unfused) + 1
    made = {operator.name for operator in network.operators}
    for name in repconvs(MICRO):
        parts = {f"{name}.{part}" for part in ("first", "depthwise", "last")}
        assert made & {name, *parts} == (parts if name in unfused else {name})
    assert report.unfused == unfused
    assert report.to_dict()["unfused"] == unfused
    assert f"left as three convolutions: {unfused[0]}, " in report.table()
    # An integer spike has as many thresholds to miss as it has levels.
    assert mean_local(report) > (0.998 if model.config.neuron.levels == 1 else 0.997)


def test_logits_are_in_the_units_of_the_model(model, quantized):
    network, report = quantized
    clips = clips_for(model.config)
    with torch.no_grad():
        expected = model(model.normalise(clips).movedim(1, 0)).double()
    found = integer_outputs(network, clips, batch=4)
    error = float((found - expected).norm() / expected.norm())
    assert error == pytest.approx(report.logits_error, rel=0.01)
    assert found.dtype == torch.float64
    assert Reference(network).infer(clips[0]).dtype == torch.int32


def test_report(quantized, tmp_path):
    network, report = quantized
    path = report.save(tmp_path)
    assert path.name == FILE_NAME
    data = json.loads(path.read_text())
    assert data["network_hash"] == network.hash
    assert data["clips"] == CLIPS
    assert set(data["same_class"]) == {"digit", "direction"}
    assert len(data["layers"]) == len(report.layers)
    table = report.table().splitlines()
    assert len(table) == len(report.layers) + 3
    assert "downsample1_1.spikes" in table[2]


def test_saved_network_comes_back(quantized, tmp_path):
    network, _ = quantized
    network.save(tmp_path)
    again = Network.load(tmp_path)
    assert again.hash == network.hash
    clip = clips_for(MICRO)[0]
    assert torch.equal(Reference(again).infer(clip), Reference(network).infer(clip))


def test_quantising_is_reproducible_and_leaves_the_model_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (quantize(model, clips_for(model.config))[0] for _ in range(2))
    assert first.hash == second.hash
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("change", [lambda c: c.float(), lambda c: c[0], lambda c: c[..., :2], lambda c: c[:0]])
def test_refuses_other_clips(model, change):
    with pytest.raises(ValueError, match=r"`clips` must be uint8\[N, T, H, W, 3\], not"):
        quantize(model, change(clips_for(model.config)))


def test_four_bit_weights(model):
    network, report = quantize(model, clips_for(model.config), weight_bits=4)
    weights = [array for array in network.arrays.values() if array.dtype == np.int8]
    assert max(int(np.abs(array).max()) for array in weights) == 7
    assert network.metadata["weight_bits"] == report.weight_bits == 4
    assert mean_local(report) > 0.95
    with pytest.raises(ValueError, match="`weight_bits` must be from 2 to 8, not `9`"):
        quantize(model, clips_for(model.config), weight_bits=9)


def test_formats_make_the_same_network_again(model, quantized, tmp_path):
    """With stored formats the integer network does not depend on the calibration clips."""
    stages, clips = fold(model), clips_for(model.config)
    formats = choose_formats(stages, *calibrate(stages, clips))
    formats.save(tmp_path / "formats.json")
    other = clips_for(model.config, 7)
    network, _ = quantize(model, other, formats=Formats.load(tmp_path / "formats.json"))
    assert all(np.array_equal(array, quantized[0].arrays[name]) for name, array in network.arrays.items())
    chosen, _ = quantize(model, other)
    assert not all(np.array_equal(array, quantized[0].arrays[name]) for name, array in chosen.arrays.items())


def test_wrong_formats_are_refused(model, tmp_path):
    stages, clips = fold(model), clips_for(model.config)
    formats = choose_formats(stages, *calibrate(stages, clips))
    with pytest.raises(ValueError, match="`weight_bits` must be those of `formats`, 8, not `4`"):
        quantize(model, clips, formats=formats, weight_bits=4)
    with pytest.raises(ValueError, match="scales for operator downsample1_1; are they of another network"):
        quantize(model, clips, formats=replace(formats, scales={}))
    (tmp_path / "formats.json").write_text('{"weight_bits": 8}')
    with pytest.raises(ValueError, match=r"formats\.json: not a file of number formats"):
        Formats.load(tmp_path / "formats.json")
