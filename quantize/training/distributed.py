"""One process or several: `torchrun --nproc-per-node 2 -m spikeloom.quantize.training ...` starts several.

Every process has an equal part of each batch; gradients are averaged (DDP) and batch norm takes its statistics over
the whole batch, so that the number of processes changes rounding alone. gloo on CPUs, nccl on GPUs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

__all__ = ["World", "synchronise_norms", "world"]


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among `size`, and where it computes."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def part(self, batch: int) -> slice:
        """This process's part of a batch.

        Raises:
            ValueError: The batch cannot be divided equally.
        """
        if batch % self.size:
            raise ValueError(f"`schedule.batch` must be a multiple of the {self.size} processes, not `{batch!r}`")
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all processes."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def any(self, flag: bool) -> bool:
        """Whether it is so in one process or more."""
        return self.sum(torch.tensor(float(flag), device=self.device)).item() > 0

    def mean(self, value: Tensor) -> float:
        """Mean over the processes."""
        return self.sum(value.detach().clone()).item() / self.size

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """The processes that torchrun has started, else this one alone.

    Args:
        device: cpu, cuda, or auto: cuda where there is one.

    Raises:
        ValueError: There is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"`device` must be auto, cpu or cuda, not `{device!r}`")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` is cuda, but torch sees no GPU here")
    gpu = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(place)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(device=place)
        return
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield World(device=place, rank=dist.get_rank(), size=dist.get_world_size())
    finally:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """Sum over the processes; so is the gradient, for every process's loss depends on the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


class _Synchronised(_BatchNorm):
    """Batch norm over the batches of all processes, which must be equally large; torch's own is for GPUs only."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        size, axes = dist.get_world_size(), [d for d in range(input.dim()) if d != 1]
        wide = input.float()
        mean = _Sum.apply(wide.mean(axes)) / size
        centred = wide - _channels(mean, input)
        var = _Sum.apply(centred.square().mean(axes)) / size
        with torch.no_grad():
            count = size * input.numel() // input.shape[1]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / max(1, count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (centred * _channels(scale, input) + _channels(self.bias, input)).to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def synchronise_norms(model: nn.Module) -> None:
    """Let every batch norm of `model` take its statistics over all processes; the `state_dict` stays as it is."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = _Synchronised


def _channels(value: Tensor, like: Tensor) -> Tensor:
    return value.view(1, -1, *(1,) * (like.dim() - 2))
