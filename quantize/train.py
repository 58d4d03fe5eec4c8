"""Train on moving digits: ``python -m spikeloom.quantize.train --config digits --out DIR/digits``.

Writes ``<out>.safetensors`` (the ``state_dict``) and ``<out>.json`` (configuration, command, settings,
versions and the accuracy on held-out scans, with Wilson 95 % intervals). Clips are generated as they are
needed; none is shown twice. AdamW with a linear warm-up and a cosine to zero. Most steps compute convolutions
in bfloat16 (CPU autocast); the last ones in float32, so that batch norm ends with float32 statistics.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from .digits import DigitClips, scans
from .layers import MSBlock, MSConvBlock, RepConv
from .models import CONFIGS, SpikeVideoFormer, SpikeVideoFormerConfig, named_config

__all__ = ["TrainConfig", "evaluate", "load", "main", "save", "train", "wilson"]

TASKS = ("digit", "direction")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run.

    Attributes
    ----------
    steps, batch : int
        Optimiser steps and clips per step.
    rate, decay : float
        Peak learning rate; weight decay of convolutions and linear layers (not of biases and batch norm).
    warmup, float32 : float
        Fractions of the steps: warm-up at the start, float32 convolutions at the end.
    smoothing : float
        Label smoothing.
    drive, branch : float
        Initial scales of batch norms, see :func:`initialise`.
    direction : float
        Weight of the direction's loss; the digit's is 1.
    seed : int
        Of the weights and of the training clips.
    """

    steps: int = 1500
    batch: int = 32
    rate: float = 6e-3
    decay: float = 0.02
    warmup: float = 0.05
    float32: float = 0.1
    smoothing: float = 0.05
    drive: float = 1.4
    branch: float = 0.4
    direction: float = 0.5
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, not `{getattr(self, name)!r}`")


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of ``hits / n``; 95 % for the default ``z``. Assumes independent trials."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"`hits` must be within 0..n, not `{hits!r}` of `{n!r}`")
    p, z2 = hits / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def clips_for(config: SpikeVideoFormerConfig) -> DigitClips:
    """Generator of clips of the network's size; ValueError if its tasks are not those of the data set."""
    sizes = {name: part.stop - part.start for name, part in config.task_slices.items()}
    if sizes != {"digit": 10, "direction": 4} or config.height != config.width:
        raise ValueError(f"`config` must have square frames and the tasks of moving digits, not `{sizes!r}`")
    return DigitClips(size=config.height, frames=config.frames)


def to_input(model: SpikeVideoFormer, clips: np.ndarray) -> Tensor:
    """``uint8[B, T, H, W, 3] -> float32[T, B, 3, H, W]``, normalised."""
    return model.normalise(torch.from_numpy(clips)).transpose(0, 1).contiguous()


def batches(clips: DigitClips, config: TrainConfig) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Training batches in order; the next one is drawn in a thread meanwhile."""

    def draw(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return clips.batch(range(step * config.batch, (step + 1) * config.batch), "train", config.seed)

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(draw, 0)
        for step in range(config.steps):
            ready = pending.result()
            pending = pool.submit(draw, step + 1)
            yield ready


def initialise(model: SpikeVideoFormer, config: TrainConfig) -> None:
    """Set the batch norm scales: ``config.drive`` in front of neurons, ``config.branch`` at the end of branches.

    A balance, found by trial on this data set: with a drive of 1 few neurons fire, directions are learnt within
    200 steps and digits hardly; with 2 it is the other way round, for a strongly driven neuron answers at once
    and keeps little of earlier frames.
    """
    ends: set[nn.Module] = set()
    for block in model.modules():
        if isinstance(block, MSConvBlock):
            ends |= {block.Conv.bn2, block.bn2}
        elif isinstance(block, MSBlock):
            ends |= {block.attn.proj_conv[1], block.mlp.fc2_bn}
    inside = {norm for conv in model.modules() if isinstance(conv, RepConv) for norm in conv.modules()}
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) and norm not in inside:
            nn.init.constant_(norm.weight, config.branch if norm in ends else config.drive)


def optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW, weight decay on tensors of two or more dimensions only."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": config.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.99))


def rate_factor(step: int, config: TrainConfig) -> float:
    """Learning rate over its peak: linear warm-up, then cosine to 0."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def loss_of(model: SpikeVideoFormer, logits: Tensor, targets: dict[str, Tensor], config: TrainConfig) -> Tensor:
    """Weighted sum over tasks of the cross entropy of ``[B, classes]`` logits."""
    parts = model.split(logits.float())
    digit, direction = (
        F.cross_entropy(parts[name], targets[name], label_smoothing=config.smoothing) for name in TASKS
    )
    return digit + config.direction * direction


@torch.no_grad()
def evaluate(
    model: SpikeVideoFormer, *, n: int = 2000, split: str = "test", seed: int = 0, batch: int = 100
) -> dict[str, Any]:
    """Accuracy on clips ``0..n-1`` of a split, in float32 and inference mode (the mode is restored).

    Returns ``{"split", "seed", "n", "scans", task: {"hits", "accuracy", "interval"}}``. Clips are drawn
    independently, but ``n`` clips show only ``scans`` different handwritten digits, which the Wilson interval
    does not know.
    """
    clips, was_training = clips_for(model.config), model.training
    model.eval()
    hits = dict.fromkeys(TASKS, 0)
    for start in range(0, n, batch):
        frames, digits, directions = clips.batch(range(start, min(n, start + batch)), split, seed)
        parts = model.split(model(to_input(model, frames)))
        for name, target in zip(TASKS, (digits, directions), strict=True):
            hits[name] += int((parts[name].argmax(-1).numpy() == target).sum())
    model.train(was_training)
    report: dict[str, Any] = {"split": split, "seed": seed, "n": n, "scans": min(n, len(scans(split)[1]))}
    for name, count in hits.items():
        report[name] = {"hits": count, "accuracy": count / n, "interval": list(wilson(count, n))}
    return report


def train(
    model_config: SpikeVideoFormerConfig,
    config: TrainConfig,
    *,
    watch: int = 300,
    start: Path | None = None,
    checkpoint: Path | None = None,
) -> SpikeVideoFormer:
    """Trained network in evaluation mode.

    Every ``watch`` steps the accuracy on ``"val"`` is shown and the weights are written to ``checkpoint``. ``start``
    names a ``.safetensors`` file of weights to begin with; use another seed then, or it sees the same clips.
    """
    torch.manual_seed(config.seed)
    model = SpikeVideoFormer(model_config).train()
    initialise(model, config)
    if start is not None:
        model.load_state_dict(load_file(str(start)))
    optim = optimiser(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optim, lambda step: rate_factor(step, config))
    bar = tqdm(batches(clips_for(model_config), config), total=config.steps, mininterval=5, desc="train")
    for step, (frames, digits, directions) in enumerate(bar, 1):
        targets = {"digit": torch.from_numpy(digits), "direction": torch.from_numpy(directions)}
        half = step <= (1 - config.float32) * config.steps
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(to_input(model, frames))
        loss = loss_of(model, logits, targets, config)
        optim.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optim.step()
        schedule.step()
        if step % 25 == 0:
            right = {name: hit_rate(model.split(logits)[name], targets[name]) for name in TASKS}
            shown = [f"{name} {rate:.2f}" for name, rate in right.items()]
            bar.set_postfix_str(", ".join([f"loss {loss.item():.3f}", *shown]))
        if step % watch == 0 and step < config.steps:
            found = evaluate(model, n=485, split="val")
            bar.write(f"step {step}: val " + ", ".join(f"{t} {found[t]['accuracy']:.3f}" for t in TASKS))
            if checkpoint is not None:
                save(model, checkpoint, {"training": asdict(config) | {"stopped": step}, "val": found})
    return model.eval()


def hit_rate(logits: Tensor, target: Tensor) -> float:
    """Share of rows whose largest logit is the target."""
    return (logits.detach().argmax(-1) == target).float().mean().item()


def save(model: SpikeVideoFormer, out: Path, report: dict[str, Any]) -> None:
    """Write ``<out>.safetensors`` and ``<out>.json``; ``report`` is added to the configuration."""
    out.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, str(out.with_suffix(".safetensors")))
    text = json.dumps({"config": model.config.to_dict(), **report}, indent=2)
    out.with_suffix(".json").write_text(text + "\n")


def load(path: Path) -> SpikeVideoFormer:
    """Network saved by :func:`save` as ``<path>.safetensors`` and ``<path>.json``, in evaluation mode."""
    values = json.loads(path.with_suffix(".json").read_text())
    model = SpikeVideoFormer(SpikeVideoFormerConfig.from_dict(values["config"]))
    model.load_state_dict(load_file(str(path.with_suffix(".safetensors"))))
    return model.eval()


def versions() -> dict[str, str]:
    """Versions that a repetition should use; same version and machine give the same clips."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def start_of(path: Path | None) -> dict[str, Any] | None:
    """What is known of the weights a run began with: the settings beside them, or None without ``--start``."""
    if path is None:
        return None
    known = json.loads(path.with_suffix(".json").read_text())
    return {name: known[name] for name in ("training", "val", "test", "start") if name in known}


def parser() -> argparse.ArgumentParser:
    """Command line; defaults from :class:`TrainConfig`."""
    p = argparse.ArgumentParser(prog="spikeloom.quantize.train", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--config", default="digits", choices=sorted(CONFIGS))
    p.add_argument("--out", type=Path, required=True, help="path without suffix")
    p.add_argument("--start", type=Path, help="weights to begin with (.safetensors)")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--clips", type=int, default=2000, help="held-out clips to measure on")
    for name, default in asdict(TrainConfig()).items():
        p.add_argument(f"--{name}", type=type(default), default=default)
    return p


def main(argv: list[str] | None = None) -> None:
    """Train, measure on the test split, save."""
    words = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(words)
    torch.set_num_threads(args.threads)
    settings = TrainConfig(**{name: getattr(args, name) for name in asdict(TrainConfig())})
    began = time.perf_counter()
    checkpoint = args.out.with_name(args.out.name + "-unfinished")
    model = train(named_config(args.config), settings, start=args.start, checkpoint=checkpoint)
    minutes = (time.perf_counter() - began) / 60
    report = {
        "name": args.config,
        "command": "python -m spikeloom.quantize.train " + shlex.join(words),
        "training": asdict(settings) | {"minutes": round(minutes, 1), "threads": args.threads},
        "versions": versions(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "start": start_of(args.start),
        "test": evaluate(model, n=args.clips),
    }
    save(model, args.out, report)
    print(json.dumps({name: report[name] for name in ("training", "parameters", "test")}, indent=2))


if __name__ == "__main__":
    main()
