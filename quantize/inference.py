"""Networks as functions from clips to outputs, which is what `tasks.Task.evaluate` asks for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikeloom.network import Network

from .models import SpikeVideoFormer
from .quantizer import as_outputs
from .reference import Reference
from .relatives import Relative
from .tasks import Predict

__all__ = ["integer_predictor", "predictor", "to_input"]


def to_input(model: SpikeVideoFormer | Relative, clips: NDArray[np.uint8] | Tensor) -> Tensor:
    """``uint8[B, T, H, W, 3] -> float32[T, B, 3, H, W]``, normalised."""
    return model.normalise(torch.as_tensor(clips)).transpose(0, 1).contiguous()


class FromPixels(nn.Module):
    """A model that takes ``uint8[B, T, H, W, 3]``; the outputs are its own."""

    def __init__(self, model: SpikeVideoFormer | Relative) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        return self.model(to_input(self.model, clips))


def predictor(module: nn.Module) -> Predict:
    """Outputs of a module of pixels (:class:`FromPixels`, `qat.QuantizationAware`) as NumPy arrays, wherever it is.

    The module's mode (training or evaluation) is left as it is.
    """
    device = next(module.parameters()).device

    @torch.no_grad()
    def predict(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        return module(torch.from_numpy(clips).to(device)).float().cpu().numpy()

    return predict


def integer_predictor(network: Network) -> Predict:
    """Outputs of an integer network in the units and the layout of the float model's."""
    reference = Reference(network)

    def predict(clips: NDArray[np.uint8]) -> NDArray[np.float64]:
        return as_outputs(network, reference.infer_batch(clips)).numpy()

    return predict
