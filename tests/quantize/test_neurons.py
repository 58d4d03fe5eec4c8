"""LIF against spikingjelly, value for value, and against the recurrence written out."""

from __future__ import annotations

import pytest
import torch

from spikeloom.quantize.neurons import LEAKS, LIF, RESETS, SURROGATES, NeuronConfig, surrogate_derivative

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")

SHAPE = (8, 3, 5, 4)


def inputs(seed: int = 0) -> torch.Tensor:
    """Inputs of which about a third of the neurons fire, some exactly at the threshold."""
    x = 2 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    x[0, 0] = 2.0
    return x


def run(module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes, and the gradient of a weighted sum of them."""
    x = x.clone().requires_grad_()
    spikes = module(x)
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    (spikes * weight).sum().backward()
    assert x.grad is not None
    return spikes.detach(), x.grad


def spikingjelly_node(config: NeuronConfig) -> torch.nn.Module:
    reset = 0.0 if config.reset == "hard" else None
    kinds = {"sigmoid": surrogate.Sigmoid(alpha=4.0), "atan": surrogate.ATan(alpha=2.0)}
    common = {"v_threshold": config.threshold, "v_reset": reset, "surrogate_function": kinds[config.surrogate]}
    common |= {"detach_reset": True, "step_mode": "m"}
    if config.leak == "none":
        return neuron.IFNode(**common)
    return neuron.LIFNode(tau=2.0, decay_input=config.leak == "decayed", **common)


@pytest.mark.parametrize("kind", ["sigmoid", "atan"])
@pytest.mark.parametrize("threshold", [1.0, 0.5])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("leak", ["none", "decayed", "half"])
def test_same_spikes_and_gradient_as_spikingjelly(leak: str, reset: str, threshold: float, kind: str) -> None:
    config = NeuronConfig(leak=leak, reset=reset, threshold=threshold, surrogate=kind)
    spikes, grad = run(LIF(config), inputs())
    expected_spikes, expected_grad = run(spikingjelly_node(config), inputs())
    assert 0.1 < spikes.mean() < 0.7
    assert torch.equal(spikes, expected_spikes)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("levels", "threshold"), [(4, 1.0), (4, 0.5), (7, 2.0)])
def test_integer_spikes_and_their_gradient(levels: int, threshold: float) -> None:
    """I-LIF: rounded and clamped, with the gradient of the clamp; nothing is kept from frame to frame."""
    config = NeuronConfig(levels=levels, threshold=threshold, reset="soft")
    x = levels * threshold * torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    spikes, grad = run(LIF(config), x)
    clamped = x.clone().requires_grad_()
    value = (clamped / threshold).clamp(0, levels)
    torch.testing.assert_close(spikes, value.detach().round() / levels)
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    (value / levels * weight).sum().backward()
    torch.testing.assert_close(grad, clamped.grad)
    assert spikes.unique().numel() == levels + 1
    halves = LIF(NeuronConfig(levels=4))(torch.tensor([0.5, 1.5, 2.5, -0.5, 9.0]))
    assert halves.tolist() == [0.25, 0.5, 0.75, 0.0, 1.0]  # half up, not to even


@pytest.mark.parametrize("levels", [0, 8, 2.5])
def test_levels_out_of_range_are_refused(levels: float) -> None:
    with pytest.raises(ValueError, match=rf"^`levels` must be from 1 to 7, not `{levels}`$"):
        NeuronConfig(levels=levels)  # type: ignore[arg-type]


def written_out(x: torch.Tensor, config: NeuronConfig) -> torch.Tensor:
    a, b = LEAKS[config.leak]
    v, spikes = torch.zeros_like(x[0]), []
    for frame in x:
        h = a * v + b * frame
        s = (h > config.threshold if config.strict else h >= config.threshold).float()
        v = torch.where(s.bool(), torch.zeros_like(h) if config.reset == "hard" else h - config.threshold, h)
        spikes.append(s)
    return torch.stack(spikes)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("leak", LEAKS)
def test_every_option_follows_its_recurrence_on_exact_numbers(leak: str, reset: str, strict: bool) -> None:
    config = NeuronConfig(leak=leak, reset=reset, strict=strict)
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(-8, 16, SHAPE, generator=generator) / 4  # few bits: no rounding within 8 steps
    assert torch.equal(LIF(config)(x), written_out(x, config))


def test_strict_differs_exactly_at_the_threshold() -> None:
    x = torch.full((1, 1), 1.0)
    assert LIF(NeuronConfig(leak="none"))(x).item() == 1
    assert LIF(NeuronConfig(leak="none", strict=True))(x).item() == 0


@pytest.mark.parametrize("kind", SURROGATES)
def test_surrogate_peaks_at_one_and_is_even(kind: str) -> None:
    u = torch.linspace(-2, 2, 9)
    d = surrogate_derivative(u, kind)
    assert d[4] == 1
    torch.testing.assert_close(d, d.flip(0))


def test_no_state_between_calls() -> None:
    lif, x = LIF(), inputs()
    assert torch.equal(lif(x), lif(x))
    assert not lif.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leak": "slow"}, "`leak` must be one of none, decayed, half, quarter, memoryless, not `'slow'`"),
        ({"reset": "firm"}, "`reset` must be one of hard, soft, not `'firm'`"),
        ({"surrogate": "relu"}, "`surrogate` must be one of"),
        ({"threshold": 0.0}, "`threshold` must be a positive number, not `0.0`"),
    ],
)
def test_config_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuronConfig(**options)


def test_input_without_time_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="`x` must have at least one time step"):
        LIF()(torch.zeros(0, 3))
