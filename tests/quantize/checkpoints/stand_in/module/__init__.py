"""Stand-in for V1's package of that name, which the network's file finds from the repository's root."""

from __future__ import annotations

from spikingjelly.clock_driven.neuron import MultiStepLIFNode
from torch import Tensor, nn


def lif(threshold: float = 1.0) -> MultiStepLIFNode:
    return MultiStepLIFNode(tau=2.0, v_threshold=threshold, detach_reset=True, backend="cupy")


class Plain(nn.Module):
    """Convolutions, batch norms and neurons by name, applied to `[T, B, C, H, W]`."""

    def layer(self, name: str, inputs: int, outputs: int, kernel: int = 1, *, bias: bool = False) -> None:
        number = name[-1] if name[-1].isdigit() and not name.startswith("fc") else ""
        stem = name.removesuffix(number)
        self.add_module(f"{stem}_conv{number}", nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias))
        self.add_module(f"{stem}_bn{number}", nn.BatchNorm2d(outputs))

    def apply_layer(self, name: str, x: Tensor) -> Tensor:
        number = name[-1] if name[-1].isdigit() and not name.startswith("fc") else ""
        stem = name.removesuffix(number)
        y = self.get_submodule(f"{stem}_conv{number}")(x.flatten(0, 1))
        return self.get_submodule(f"{stem}_bn{number}")(y).unflatten(0, x.shape[:2])
