"""Stand-in for spikingjelly's neuron of that name: refuses the GPU backend and keeps its membrane between calls."""

from __future__ import annotations

import torch
from torch import nn


class MultiStepLIFNode(nn.Module):
    def __init__(
        self, tau: float = 2.0, v_threshold: float = 1.0, v_reset: float = 0.0, detach_reset: bool = False,
        backend: str = "torch",
    ) -> None:
        super().__init__()
        if backend == "cupy":
            raise RuntimeError("cupy is not installed")
        self.tau, self.v_threshold, self.v_reset = tau, v_threshold, v_reset
        self.v: torch.Tensor | float = 0.0

    def reset(self) -> None:
        self.v = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = []
        for step in x:
            self.v = self.v + (step - self.v) / self.tau
            fired = self.v >= self.v_threshold
            self.v = torch.where(fired, torch.tensor(self.v_reset), self.v)
            spikes.append(fired.float())
        return torch.stack(spikes)
