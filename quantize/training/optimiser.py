"""Initial norm scales, AdamW, and the learning rate: linear warm-up, then a cosine to zero."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..layers import RepConv
from .config import Schedule

__all__ = ["initialise", "optimiser", "rate_factor"]


def initialise(model: nn.Module, *, drive: float = 1.4, branch: float = 0.4) -> None:
    """Set the batch norm scales: ``drive`` in front of neurons, ``branch`` at the end of branches, which modules name
    as their ``branch_norms``.

    A balance, found by trial on the moving digits: with a drive of 1 few neurons fire, directions are learnt within
    200 steps and digits hardly; with 2 it is the other way round, for a strongly driven neuron answers at once
    and keeps little of earlier frames.
    """
    ends: set[nn.Module] = set()
    for block in model.modules():
        ends.update(getattr(block, "branch_norms", ()))
    inside = {norm for conv in model.modules() if isinstance(conv, RepConv) for norm in conv.modules()}
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) and norm not in inside:
            nn.init.constant_(norm.weight, branch if norm in ends else drive)


def optimiser(model: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW, weight decay on tensors of two or more dimensions only."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": schedule.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.99))


def rate_factor(step: int, schedule: Schedule) -> float:
    """Learning rate of step 0, 1, ... over its peak."""
    warmup = max(1, round(schedule.warmup * schedule.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, schedule.steps - warmup)))
