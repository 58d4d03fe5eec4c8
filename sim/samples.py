"""Clips that a deployment carries, with the outputs of the integer reference: something to try on a board."""

from __future__ import annotations

import numpy as np

from spikeloom.network import Network
from spikeloom.quantize.digits import DIRECTIONS, DigitClips
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.reference import Reference

__all__ = ["make_samples"]


def make_samples(network: Network, count: int) -> dict[str, np.ndarray]:
    """Held-out clips of moving digits if the network is one for digits, else random ones.

    Returns:
        `clips`: `[count, ...]` in network shape; `labels`: `str[count]`, empty where there are none; `logits`:
        the outputs, `int32[count, classes]` or, of a network with a residual output, `int16[count, T, C, H, W]`.
    """
    questions = [task for task, *_ in network.metadata.get("tasks") or ()]
    if questions and set(questions) <= {"digit", "direction"}:
        clips, digits, directions = _generator(network).batch(range(count), "test")
        answers = {"digit": [str(digit) for digit in digits], "direction": [DIRECTIONS[to] for to in directions]}
        labels = [" ".join(answers[question][i] for question in questions) for i in range(count)]
    else:
        clips, labels = np.stack([random_clip(network, seed) for seed in range(1, count + 1)]), [""] * count
    reference = Reference(network)
    logits = np.stack([reference.run(clip)[network.output].numpy() for clip in clips])
    return {"clips": clips, "labels": np.array(labels), "logits": logits}


def _generator(network: Network) -> DigitClips:
    pixels = network.tensors[network.input]
    return DigitClips(size=pixels.height, frames=network.frames)
