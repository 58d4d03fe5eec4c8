"""Our float model against the original network, on the same checkpoint and the same random input.

The original runs in a process of its own, under the Python of its own environment (`original_runner.py`), with the
tensors of the checkpoint as they are in the file. A random clip goes through all stages, and an image, repeated over
time, through the whole network with its head. The first stage that differs is where to look.

This runs the code of the repository that is named: name only what you trust.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .architectures import SPIKE_VIDEO_FORMER, V1, V3
from .importing import ImportedModel
from .reading import CheckpointError

__all__ = ["Agreement", "StageAgreement", "compare_with_original"]

TOLERANCE = 1e-3
"""Difference that counts, as a share of the largest magnitude of a stage."""
SHARE = 1e-3
"""Largest share of such values: sums in another order may make a neuron at its threshold fire or not."""
RUNNER = Path(__file__).parent / "original_runner.py"
MODULES = {
    SPIKE_VIDEO_FORMER.name: ("classification/models/metaspikformer.py", "classification/models.py", "models.py"),
    V3.name: ("SDT_V3/Classification/Model_Base/models.py",),
    V1.name: ("model/spikeformer.py",),
}
"""Family -> files of the released repositories that define it, tried in this order."""
CLASSES = {
    SPIKE_VIDEO_FORMER.name: ["Spiking_vit_MetaFormer"],
    V3.name: ["Spiking_vit_MetaFormer_Spike_SepConv"],
    V1.name: ["SpikeDrivenTransformer"],
}
RELEASED = {"depths": (6, 2), "strides": (2, 2, 2, 2, 1), "conv_ratio": 4, "sep_ratio": 2}
"""What the released classes have built in."""
ATTENTION = {("hamming", "joint"): "3D_ham", ("dot", "joint"): "3D_dot", ("dot", "neuron"): "2D"}
"""(attention, design) -> `att_mode` of the original."""


@dataclass(frozen=True, kw_only=True)
class StageAgreement:
    """Of one stage: largest difference, largest magnitude, share of values that differ; equal bit for bit."""

    name: str
    difference: float
    magnitude: float
    share: float
    equal: bool

    @property
    def agrees(self) -> bool:
        """Few enough values differ."""
        return self.share <= SHARE

    def __str__(self) -> str:
        if self.equal:
            return f"{self.name}: equal"
        return (f"{self.name}: {'agrees' if self.agrees else 'DIFFERS'}, at most {self.difference:.3g} of "
                f"{self.magnitude:.3g}, {100 * self.share:.3g} % of values")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """All stages in order, the logits last."""

    module: Path
    stages: tuple[StageAgreement, ...]

    @property
    def agrees(self) -> bool:
        """Every stage does."""
        return all(stage.agrees for stage in self.stages)


def compare_with_original(
    imported: ImportedModel, repository: str | Path, *, module: str | None = None, builder: str | None = None,
    python: str | Path | None = None, frames: int = 2, size: int | None = None, seed: int = 0,
) -> Agreement:
    """Run both networks on random input.

    Args:
        imported: Our model with its checkpoint.
        repository: A copy of the original's repository.
        module: File in it that defines the network; None tries those of the released ones.
        builder: Function or class to call without arguments; None calls the released class with the sizes of the model.
        python: Interpreter of the original's environment; None is this one.
        frames: Time steps.
        size: Height and width in pixels; None is those of the configuration.
        seed: Of the input.

    Raises:
        CheckpointError: The repository has no such file, or the original cannot be run.
    """
    repository = Path(repository).resolve()
    file = _module(repository, module, imported)
    config = imported.config
    shape = (config.in_channels, size or config.height, size or config.width)
    generator = torch.Generator().manual_seed(seed)
    clip, image = (torch.randn((n, 1, *shape), generator=generator) for n in (frames, 1))
    with tempfile.TemporaryDirectory() as folder:
        task = _task(imported, Path(folder), repository, file, builder or "")
        np.savez(task["inputs"], clip=clip.numpy(), image=image[0].numpy())
        original = _run(task, str(python or sys.executable))
    ours = _ours(imported, clip, image.expand(frames, -1, -1, -1, -1))
    stages = [_compare(name, values, original[name].reshape(values.shape)) for name, values in ours.items()]
    return Agreement(module=file, stages=tuple(stages))


def _module(repository: Path, module: str | None, imported: ImportedModel) -> Path:
    tried = [module] if module else MODULES[imported.family.name]
    for path in tried:
        if (repository / path).is_file():
            return Path(path)
    raise CheckpointError(f"{repository}: has no {' or '.join(tried)}: name the file of the network with --module")


def _arguments(imported: ImportedModel) -> dict[str, Any]:
    """What the released classes are called with."""
    config, tensors = imported.config, imported.checkpoint.tensors
    arguments = {
        "img_size_h": config.height, "img_size_w": config.width, "patch_size": 16, "in_channels": config.in_channels,
        "num_classes": config.classes, "num_heads": _heads(config.heads), "mlp_ratios": config.mlp_ratio,
        "sr_ratios": 1, "kd": "head_kd.weight" in tensors}
    if imported.family is V1:
        pooling = "".join(str(int(pool)) for pool in config.pooling)
        return arguments | {"embed_dims": config.dim, "depths": config.depth, "pooling_stat": pooling}
    fixed = [name for name, value in RELEASED.items() if getattr(config, name) != value]
    if fixed:
        raise CheckpointError(
            f"the released class has {fixed[0]} {RELEASED[fixed[0]]}, this model {getattr(config, fixed[0])}: name a "
            "function that builds the original with --builder")
    arguments |= {"embed_dim": list(config.widths), "depths": sum(config.depths)}
    if imported.family is SPIKE_VIDEO_FORMER:
        kind = (config.attention, config.design)
        if kind not in ATTENTION:
            raise CheckpointError(f"the released class has no {kind[0]} attention of the design `{kind[1]}`")
        arguments["att_mode"] = ATTENTION[kind]
    return arguments


def _heads(heads: int | tuple[int, int]) -> int | list[int]:
    """As the released class takes them: one number, or four of which it uses the last two."""
    return heads if isinstance(heads, int) else [*heads, *heads]


def _task(imported: ImportedModel, folder: Path, repository: Path, module: Path, builder: str) -> dict[str, Any]:
    torch.save(imported.checkpoint.tensors, folder / "weights.pt")
    return {
        "repository": str(repository), "module": str(module), "builder": builder,
        "classes": CLASSES[imported.family.name], "arguments": {} if builder else _arguments(imported),
        "per_stage": ["num_heads", "mlp_ratios", "depths", "sr_ratios"],
        "weights": str(folder / "weights.pt"), "inputs": str(folder / "inputs.npz"), "out": str(folder / "out.npz"),
        "stages": [name for name, _ in imported.model.stages()], "without_time": imported.family is V3}


def _run(task: dict[str, Any], python: str) -> dict[str, NDArray[np.float32]]:
    words = Path(task["out"]).with_name("task.json")
    words.write_text(json.dumps(task))
    try:
        done = subprocess.run([python, str(RUNNER), str(words)], capture_output=True, text=True)
    except OSError as error:
        raise CheckpointError(f"{python}: cannot be run: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise CheckpointError(
            f"{task['repository']}: the original did not run under {python}: {lines[-1]} (its environment needs torch, "
            "numpy and what the module imports: --python names its interpreter)")
    with np.load(task["out"]) as results:
        return dict(results)


@torch.no_grad()
def _ours(imported: ImportedModel, clip: torch.Tensor, repeated: torch.Tensor) -> dict[str, NDArray[np.float32]]:
    results: dict[str, NDArray[np.float32]] = {}
    x = clip
    for name, module in imported.model.stages():
        x = module(x) if imported.family is not V3 else module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        results[name] = x.numpy()
    return results | {"logits": imported.model(repeated).numpy()}


def _compare(name: str, ours: NDArray[np.float32], original: NDArray[np.float32]) -> StageAgreement:
    difference = np.abs(ours - original)
    magnitude = float(np.abs(original).max())
    return StageAgreement(
        name=name, difference=float(difference.max()), magnitude=magnitude, equal=bool((ours == original).all()),
        share=float((difference > TOLERANCE * max(magnitude, 1e-12)).mean()))
