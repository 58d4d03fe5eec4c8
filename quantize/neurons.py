"""Leaky integrate-and-fire neurons with a surrogate gradient, in plain torch.

One neuron per element of the input, one input per time step (= video frame)::

    H[t] = a * V[t-1] + b * X[t]              leak, see below; V[-1] = 0
    S[t] = H[t] >= threshold                  (`>` when strict)
    V[t] = H[t] * (1 - S[t])                  reset "hard": back to 0
         = H[t] - threshold * S[t]            reset "soft": subtract

==============  =========================  =============================================
leak            H                          used by
==============  =========================  =============================================
``none``        ``V + X``                  integrate and fire (IF)
``decayed``     ``V + (X - V) / 2``        SpikeVideoFormer, Meta-SpikeFormer (tau = 2)
``half``        ``V / 2 + X``              tau = 2 with undecayed input
``quarter``     ``V / 4 + X``              Decision SpikeFormer (arXiv 2504.03800)
``memoryless``  ``X``                      image networks: every frame on its own
==============  =========================  =============================================

With ``levels`` > 1 the neuron is I-LIF: integer spikes, no memory, whatever ``leak``, ``reset`` and ``strict`` say::

    S[t] = round(clamp(X[t] / threshold, 0, levels)) / levels      halves rounded up, or to even: ``ties``

Its gradient is that of the clamp.

The backward pass treats the reset as a constant (``detach_reset=True`` of spikingjelly) and replaces
the derivative of the step by a surrogate, following Neftci et al., arXiv 1901.09948.
Forward and gradient are held value for value against spikingjelly in ``tests/quantize/test_neurons.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikeloom.arithmetic import LEVELS_MAX

__all__ = ["LEAKS", "LIF", "RESETS", "SURROGATES", "TIES", "NeuronConfig", "integer_spikes", "integrate",
           "surrogate_derivative"]

LEAKS: dict[str, tuple[float, float]] = {
    "none": (1.0, 1.0),
    "decayed": (0.5, 0.5),
    "half": (0.5, 1.0),
    "quarter": (0.25, 1.0),
    "memoryless": (0.0, 1.0),
}
"""Leak name -> (a, b) of ``H = a * V + b * X``."""

RESETS = ("hard", "soft")
SURROGATES = ("sigmoid", "atan", "triangle")
TIES = ("up", "even")
"""Where integer spikes round halves: 1.5 and 2.5 to 2 and 3, or both to 2 (as ``torch.round``)."""


@dataclass(frozen=True, kw_only=True)
class NeuronConfig:
    """Behaviour of every neuron of a network.

    Attributes
    ----------
    leak : str
        One of :data:`LEAKS`.
    reset : str
        ``"hard"`` (to 0) or ``"soft"`` (subtract the threshold).
    strict : bool
        Fire at ``H > threshold`` instead of ``H >= threshold``.
    threshold : float
        Firing threshold, > 0, in units of the input; of integer spikes the step from level to level.
    levels : int
        Largest integer spike, 1 to ``LEVELS_MAX``; 1: binary spikes.
    ties : str
        One of :data:`TIES`; of integer spikes only.
    surrogate : str
        Derivative used in the backward pass, one of :data:`SURROGATES`. No effect on the forward pass.

    Raises
    ------
    ValueError
        If an option is unknown, the threshold is not positive or the levels are out of range.
    """

    leak: str = "decayed"
    reset: str = "hard"
    strict: bool = False
    threshold: float = 1.0
    surrogate: str = "sigmoid"
    levels: int = 1
    ties: str = "up"

    def __post_init__(self) -> None:
        _check_choice("leak", self.leak, tuple(LEAKS))
        _check_choice("reset", self.reset, RESETS)
        _check_choice("surrogate", self.surrogate, SURROGATES)
        _check_choice("ties", self.ties, TIES)
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ValueError(f"`threshold` must be a positive number, not `{self.threshold!r}`")
        if self.levels not in range(1, LEVELS_MAX + 1):
            raise ValueError(f"`levels` must be from 1 to {LEVELS_MAX}, not `{self.levels!r}`")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, not `{value!r}`")


def integrate(v: Tensor, x: Tensor, leak: str, out: Tensor | None = None) -> Tensor:
    """Membrane before firing, ``H[...]``, from the last membrane ``V[...]`` and the input ``X[...]``.

    ``decayed`` is evaluated as ``V + (X - V) / 2``, the order spikingjelly uses.
    """
    if leak == "decayed":
        return torch.add(v, x - v, alpha=0.5, out=out)
    a, _ = LEAKS[leak]
    return torch.add(x, v, alpha=a, out=out)


def surrogate_derivative(u: Tensor, kind: str) -> Tensor:
    """Stand-in for the derivative of the step function at ``u = H - threshold``.

    ``sigmoid``: ``4 s (1 - s)``, ``s = sigmoid(4 u)`` (spikingjelly ``Sigmoid(alpha=4)``);
    ``atan``: ``1 / (1 + (pi u)^2)`` (``ATan(alpha=2)``); ``triangle``: ``max(0, 1 - |u|)``.
    """
    if kind == "sigmoid":
        s = torch.sigmoid(4.0 * u)
        return 4.0 * s * (1.0 - s)
    if kind == "atan":
        return (math.pi * u).square_().add_(1.0).reciprocal_()
    return (1.0 - u.abs()).clamp_min_(0.0)


class _MultiStepLIF(torch.autograd.Function):
    """All time steps of a LIF neuron in one graph node; keeps ``H`` and the spikes for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, config: NeuronConfig) -> Tensor:
        h, spikes = torch.empty_like(x), torch.empty_like(x)
        fires = torch.gt if config.strict else torch.ge
        v = torch.zeros_like(x[0])
        for t in range(x.shape[0]):
            integrate(v, x[t], config.leak, out=h[t])
            fires(h[t], config.threshold, out=spikes[t])
            v = reset(h[t], spikes[t], config)
        ctx.save_for_backward(h, spikes)
        ctx.config = config
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        h, spikes = ctx.saved_tensors
        return lif_backward(grads[0], h, spikes, ctx.config), None


class _IntegerSpikes(torch.autograd.Function):
    """round(clamp(x, 0, levels)) with the gradient of the clamp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int, ties: str) -> Tensor:
        ctx.save_for_backward((x >= 0) & (x <= levels))
        x = x.clamp(0, levels)
        return x.round_() if ties == "even" else x.add_(0.5).floor_()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None


def integer_spikes(x: Tensor, levels: int, ties: str) -> Tensor:
    """``round(clamp(x, 0, levels))``, halves as `ties` (one of :data:`TIES`) says; the gradient is the clamp's."""
    return _IntegerSpikes.apply(x, levels, ties)  # type: ignore[no-any-return]


def lif_backward(grad: Tensor, h: Tensor, spikes: Tensor, config: NeuronConfig) -> Tensor:
    """Gradient of the inputs from that of the spikes, given membranes before firing and spikes, ``[T, ...]``."""
    a, b = LEAKS[config.leak]
    grad_h = torch.empty_like(h)
    for t in range(h.shape[0] - 1, -1, -1):
        derivative = surrogate_derivative(h[t] - config.threshold, config.surrogate)
        torch.mul(grad[t], derivative, out=grad_h[t])
        if t + 1 < h.shape[0]:
            grad_h[t].add_(grad_h[t + 1], alpha=a)
            if config.reset == "hard":  # nothing passes where the membrane was set to 0
                grad_h[t].addcmul_(grad_h[t + 1], spikes[t], value=-a)
    return grad_h if b == 1.0 else grad_h.mul_(b)


def reset(h: Tensor, spikes: Tensor, config: NeuronConfig) -> Tensor:
    """Membrane after firing, ``V[...]``."""
    if config.reset == "hard":
        return torch.addcmul(h, h, spikes, value=-1.0)  # h - h * s: exactly 0 or exactly h
    return torch.sub(h, spikes, alpha=config.threshold)


class LIF(nn.Module):
    """Leaky integrate-and-fire layer over time, without state between calls.

    ``forward(x: float[T, ...]) -> float[T, ...]`` with values in {0, 1}, or {0, 1 / levels, .., 1};
    the membrane starts at 0 in every call. No parameters and no buffers, so it adds nothing to a ``state_dict``.

    Parameters
    ----------
    config : NeuronConfig
        Behaviour; the default is the released SpikeVideoFormer's neuron.

    Raises
    ------
    ValueError
        From ``forward``: if the input has no time axis or it is empty.
    """

    def __init__(self, config: NeuronConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else NeuronConfig()

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 1 or x.shape[0] == 0:
            raise ValueError(f"`x` must have at least one time step, not shape `{tuple(x.shape)!r}`")
        if self.config.levels > 1:
            levels = self.config.levels
            return integer_spikes(x / self.config.threshold, levels, self.config.ties) / levels
        return _MultiStepLIF.apply(x, self.config)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return str(self.config)
