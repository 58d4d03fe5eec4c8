"""Where attention looks: the designs of the ablation, from the torch model to the integer network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from spikeloom.config import preset
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.interpreter import Interpreter
from spikeloom.network import Attend, KeyValue, TemporalAttend
from spikeloom.quantize.calibration import calibrate, run_float
from spikeloom.quantize.folding import fold, repconvs
from spikeloom.quantize.formats import choose_formats
from spikeloom.quantize.layers import DESIGNS, Attention, MSAttention, MSBlock, RepConv
from spikeloom.quantize.models import SpikeVideoFormer, SpikeVideoFormerConfig, named_config
from spikeloom.quantize.neurons import LIF, NeuronConfig
from spikeloom.quantize.quantizer import build_network, quantize
from spikeloom.quantize.reference import Reference

MICRO = replace(named_config("micro"), frames=3, height=8, width=8)
CLIPS = torch.randint(0, 256, (4, 3, 8, 8, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
CASES = [*((design, attention, 1) for design in DESIGNS for attention in ("hamming", "dot")),
         ("joint", "hamming/2C", 1), ("factorised", "hamming/8", 1),
         ("factorised", "hamming", 4), ("hierarchical", "dot", 3)]
"""Design, attention, levels of spikes."""


def make(config: SpikeVideoFormerConfig) -> SpikeVideoFormer:
    """A network whose norms have scales of either sign and statistics of its own activity."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = SpikeVideoFormer(config)
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.uniform_(module.weight, 0.5, 1.8)
                nn.init.uniform_(module.bias, -0.2, 0.9)
                module.momentum = 0.5
        assert isinstance(model.head, nn.Linear)
        nn.init.normal_(model.head.weight, std=0.3)
    with torch.no_grad():
        for _ in range(3):
            model.train()(model.normalise(CLIPS).movedim(1, 0))
    return model.eval()


@pytest.mark.parametrize(("design", "attention", "levels"), CASES)
def test_folding_is_the_model_and_quantisation_is_close(design: str, attention: str, levels: int) -> None:
    model = make(replace(MICRO, design=design, attention=attention, neuron=NeuronConfig(levels=levels)))
    config = model.config
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (config.pixel_mean, config.pixel_std))
    pixels = ((CLIPS.double() / 255 - mean) / std).movedim(-1, -3).movedim(1, 0)
    double = SpikeVideoFormer(config).double().eval()
    double.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = double(pixels)
    for unfused in ((), repconvs(config)):
        stages = fold(model, unfused=unfused)
        found = run_float(stages, CLIPS, dtype=torch.float64)["head.logits"] / config.frames
        assert float((found - expected).abs().max()) < 1e-9
    assert float(expected.std()) > 0.1
    network, report = quantize(model, CLIPS)
    kinds = Counter(type(operator) for operator in network.operators)
    spatial, temporal = (design != "joint"), design in ("hierarchical", "factorised")
    assert kinds[KeyValue] == kinds[Attend] == 2
    assert kinds[TemporalAttend] == 2 * temporal
    for operator in network.operators:
        if isinstance(operator, KeyValue):
            assert operator.per_frame == spatial
        if isinstance(operator, (KeyValue, Attend, TemporalAttend)):
            assert operator.bipolar == (attention != "dot")
        if not isinstance(operator, KeyValue) and operator.neuron.lif is not None:
            assert (operator.neuron.lif.leak == "memoryless") == (design == "spatial" or levels > 1)
            assert operator.neuron.levels == levels
    local = [layer.local for layer in report.layers if layer.local is not None]
    assert min(local) > 0.95
    assert np.mean(local) > 0.99


@pytest.mark.parametrize(("design", "projections"), [
    ("joint", 4), ("spatial", 4), ("neuron", 4), ("hierarchical", 8), ("factorised", 7)])
def test_parameters_are_those_of_the_ablation(design: str, projections: int) -> None:
    """In projections of D^2, each of them a RepConv."""
    block = MSBlock(16, heads=2, design=design, neuron=NeuronConfig())
    assert sum(isinstance(module, RepConv) for module in block.modules()) == projections
    assert len(block.branch_norms) == 2 + (design == "hierarchical")


@pytest.mark.parametrize(("scope", "shape"), [("clip", (2, 2, 12, 3)), ("frame", (2, 2, 3, 4, 3)),
                                              ("pixel", (2, 2, 4, 3, 3))])
def test_tokens_invert(scope: str, shape: tuple[int, ...]) -> None:
    attention = Attention(6, heads=2, attention="hamming", neuron=NeuronConfig(), scope=scope)
    x = torch.arange(3 * 2 * 6 * 2 * 2).float().reshape(3, 2, 6, 2, 2)
    tokens = attention.tokens(x)
    assert tokens.shape == shape
    frame, pixel = 2, 3
    place = {"clip": (frame * 4 + pixel,), "frame": (frame, pixel), "pixel": (pixel, frame)}[scope]
    assert torch.equal(tokens[(1, 1, *place)], x[frame, 1, 3:, 1, 1])
    assert torch.equal(attention.frames(tokens, x.shape), x)


@pytest.mark.parametrize(("scope", "reaches"), [("clip", (True, True)), ("frame", (True, False)),
                                                ("pixel", (False, True))])
def test_attention_reaches(scope: str, reaches: tuple[bool, bool]) -> None:
    """One value that changes: whether that is seen in other pixels of the frame, and in other frames of the pixel."""
    torch.manual_seed(0)
    attention = MSAttention(6, heads=2, attention="hamming", neuron=NeuronConfig(), scope=scope).eval()
    q, k, v = (torch.rand(3, 1, 6, 2, 2).round() for _ in range(3))

    def run(v: torch.Tensor) -> torch.Tensor:
        tokens = [attention.tokens(x) for x in (q, k, v)]
        return attention.frames((2 * tokens[0] - 1) @ ((2 * tokens[1] - 1).transpose(-2, -1) @ tokens[2]), v.shape)

    changed = v.clone()
    changed[1, 0, 2, 0, 1] = 1 - changed[1, 0, 2, 0, 1]
    seen = (run(v) != run(changed)).any(dim=2)[:, 0]
    assert bool(seen[1, 1].any()) == reaches[0]
    assert bool(seen[[0, 2], 0, 1].any()) == reaches[1]


def test_spatial_design_forgets_every_frame() -> None:
    config = replace(MICRO, design="spatial")
    assert config.neuron.leak == "memoryless"
    assert SpikeVideoFormerConfig.from_dict(config.to_dict()) == config
    model = make(config)
    assert {module.config.leak for module in model.modules() if isinstance(module, LIF)} == {"memoryless"}
    x = model.normalise(CLIPS).movedim(1, 0)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.stack([model(frame[None]) for frame in x]).mean(0))


def test_batch_norm_takes_the_factor_out() -> None:
    """Why the ablation of the factor has no batch norm: 1/8 and 1/2C are one network behind it, and two without."""
    spikes = torch.rand(3, 2, 16, 4, 4, generator=torch.Generator().manual_seed(3)).round()
    made = {}
    for attention in ("hamming", "hamming/2C", "hamming/8"):
        for divisor in (8, 32):
            torch.manual_seed(2)
            module = Attention(16, heads=2, attention=attention, neuron=NeuronConfig())
            assert module.divisor == (8 if attention == "hamming/8" else 32)
            module.divisor, module.attn_lif = divisor, nn.Identity()
            made[attention, divisor] = module.attend(spikes)
    torch.testing.assert_close(made["hamming", 8], made["hamming", 32], rtol=1e-2, atol=1e-3)  # its eps
    torch.testing.assert_close(made["hamming/8", 8], 4 * made["hamming/2C", 32])
    assert float(made["hamming/8", 8].detach().std()) > 0.1


def test_biases_over_time_do_not_depend_on_the_map() -> None:
    """Attention over time sums over frames only, so a large map leaves biases as much room as a small one."""
    stages = fold(make(replace(MICRO, design="factorised", neuron=NeuronConfig(levels=4))))
    formats = choose_formats(stages, *calibrate(stages, CLIPS), weight_bits=8)
    small, large = (build_network(stages, formats, (3, size, size)) for size in (8, 1024))
    biases = [o.neuron.bias for o in small.operators if isinstance(o, TemporalAttend)]
    assert len(biases) == 2
    for name in biases:
        assert np.array_equal(small.arrays[name], large.arrays[name])


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`design` must be one of joint, .*, factorised, not `'late'`"):
        replace(MICRO, design="late")
    with pytest.raises(ValueError, match="`scope` must be one of clip, frame, pixel, not `'row'`"):
        Attention(6, heads=2, attention="hamming", neuron=NeuronConfig(), scope="row")


@pytest.mark.parametrize(("design", "attention", "levels"), [
    *((design, "hamming", 1) for design in DESIGNS if design != "joint"), ("neuron", "dot", 1),
    ("factorised", "dot", 1), ("factorised", "dot", 4), ("hierarchical", "hamming", 3)])
def test_the_machine_runs_it(design: str, attention: str, levels: int) -> None:
    """Program, engines interleaved at random, against the reference; two lane groups."""
    clips = CLIPS[:, [0, 1, 2, 2, 1]]
    config = replace(MICRO, design=design, attention=attention, neuron=NeuronConfig(levels=levels))
    network, _ = quantize(make(config), clips)
    program = compile_network(network, replace(preset("small"), lanes=4, word_channels=8))
    machine = Interpreter(program, clips[1].numpy(), np.random.default_rng(0)).run()
    for name, tensor in Reference(network).run(clips[1]).items():
        if program.tensors[name].stored:
            assert np.array_equal(machine.tensor(name), tensor.numpy()), name
