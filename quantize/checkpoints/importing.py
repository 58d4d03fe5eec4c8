"""A checkpoint file -> a model file pair that `spikeloom quantize` takes, with its origin written beside it.

    report = import_checkpoint("SVF_15M.pth", "models/m15", arch="15M")
    # models/m15.safetensors, models/m15.json; then: spikeloom quantize models/m15.safetensors --calibrate ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..neurons import NeuronConfig
from .architectures import FAMILIES, SPIKE_VIDEO_FORMER, Family, infer
from .fitting import DISTILLED, fit, merge_heads
from .reading import Checkpoint, CheckpointError, read_checkpoint

__all__ = ["ImportedModel", "ImportOptions", "check_integer_form", "import_checkpoint", "import_model",
           "load_imported"]


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a checkpoint does not say. None: as the named architecture has it.

    Attributes:
        arch: One of `ARCHITECTURES`; None infers the sizes from shapes.
        ema: Take the moving average of the weights.
        distilled: Of the heads of a distilled network: `average`, `head` or `head_kd`.
        heads: Attention heads, one number or those of stages 3 and 4.
        design: Where attention looks in space and time, one of `DESIGNS` of `quantize.layers`.
        frames, size: Time steps of a clip; height and width in pixels.
        mean, std: Of pixels from 0 to 1, per channel.
        neuron: Fields of `NeuronConfig` and their values, as text or as they are; the others stay.

    Raises:
        ValueError: `distilled` is none of the three.
    """

    arch: str | None = None
    ema: bool = False
    distilled: str = "average"
    heads: int | tuple[int, int] | None = None
    design: str | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    neuron: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.distilled not in DISTILLED:
            raise ValueError(f"`distilled` must be one of {', '.join(DISTILLED)}, not `{self.distilled!r}`")


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A checkpoint in a model of ours.

    Attributes:
        name: Of the architecture.
        family: Of the architecture.
        model: A module of the family's class, in evaluation mode.
        checkpoint: What was read.
        notices: What was chosen, converted, left out, or is not certain, one sentence each.
    """

    name: str
    family: Family
    model: Any
    checkpoint: Checkpoint
    notices: tuple[str, ...]

    @property
    def config(self) -> Any:
        """Configuration of the model."""
        return self.model.config

    def save(self, out: str | Path) -> list[Path]:
        """Write `OUT.safetensors` and `OUT.json`; their paths."""
        weights, text = _files(out)
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, str(weights))
        values = {
            "config": self.config.to_dict(),
            "name": self.name,
            "family": self.family.name,
            "source": {
                "file": self.checkpoint.path.name, "sha256": self.checkpoint.sha256, "entry": self.checkpoint.entry,
                "notices": list(self.notices)},
            "parameters": sum(value.numel() for value in self.model.parameters()),
        }
        text.write_text(json.dumps(values, indent=2) + "\n")
        return [weights, text]


def import_checkpoint(
    file: str | Path, out: str | Path, *, progress: Callable[[str], None] | None = None, **options: Any
) -> ImportedModel:
    """Import a checkpoint and write it as a model.

    Args:
        file: `.safetensors`, or what `torch.save` wrote.
        out: Path of the model without suffix.
        progress: Hears one line per step.
        options: Fields of :class:`ImportOptions`.

    Returns:
        The model and what is known of it.

    Raises:
        CheckpointError: See :func:`import_model`.
        OSError: A file cannot be read or written.
    """
    tell = progress or (lambda message: None)
    tell(f"read {file}")
    imported = import_model(file, ImportOptions(**options))
    tell(f"write {out}")
    imported.save(out)
    return imported


def import_model(file: str | Path, options: ImportOptions) -> ImportedModel:
    """The checkpoint in a model of ours, nothing written.

    Raises:
        CheckpointError: The file is no checkpoint, is damaged, would need code to be run, is of no supported
            architecture, or its tensors do not fit: the message names all that are missing, left over, misshaped or not
            finite.
    """
    checkpoint = read_checkpoint(file, ema=options.ema)
    tensors, merged = merge_heads(checkpoint.path, checkpoint.tensors, options.distilled)
    name, family, config = infer(checkpoint.path, tensors, options.arch)
    config = _configured(checkpoint.path, config, options)
    with torch.device("meta"):
        model = family.model(config)
    state, converted = fit(checkpoint.path, tensors, model.state_dict(), name=name)
    model.load_state_dict(state, assign=True)
    notices = (*checkpoint.notices, *merged, *converted, *_uncertain(family, config, options, tensors))
    return ImportedModel(name=name, family=family, model=model.eval(), checkpoint=checkpoint, notices=notices)


def load_imported(path: str | Path) -> nn.Module:
    """A model of any family that :func:`import_checkpoint` wrote, in evaluation mode.

    Raises:
        CheckpointError: The family is unknown, or the files do not fit each other.
        OSError: A file cannot be read.
    """
    weights, text = _files(path)
    values = json.loads(text.read_text())
    name = values.get("family", SPIKE_VIDEO_FORMER.name)
    if name not in FAMILIES:
        raise CheckpointError(f"{text}: `family` must be one of {', '.join(FAMILIES)}, not `{name}`")
    family = FAMILIES[name]
    model = family.model(family.config.from_dict(values["config"]))
    state, _ = fit(weights, load_file(str(weights)), model.state_dict(), name=name)
    model.load_state_dict(state)
    return model.eval()


def check_integer_form(path: str | Path) -> None:
    """Raise CheckpointError if the model is of a family that has no integer network."""
    _, text = _files(path)
    family = FAMILIES.get(json.loads(text.read_text()).get("family", SPIKE_VIDEO_FORMER.name))
    if family is not None and family.lacks:
        raise CheckpointError(f"{text}: {family.name} runs in torch only: {family.lacks}: there is no operator for it")


def _files(path: str | Path) -> tuple[Path, Path]:
    """Both files of a model, named with or without the suffix of the weights; ValueError if its name has a dot."""
    path = Path(path)
    stem = path.name.removesuffix(".safetensors")
    if not stem or "." in stem:
        raise ValueError(f"{path}: the name of a model must have no dot but that of .safetensors")
    return path.with_name(f"{stem}.safetensors"), path.with_name(f"{stem}.json")


def _configured(path: Path, config: Any, options: ImportOptions) -> Any:
    """The configuration with the options that were given; all of them exist in all families but the pixels'."""
    chosen = {
        "heads": options.heads, "design": options.design, "frames": options.frames, "pixel_mean": options.mean,
        "pixel_std": options.std,
        "height": options.size and options.size[0], "width": options.size and options.size[1],
        "neuron": options.neuron or None}
    given = {name: value for name, value in chosen.items() if value is not None}
    known = asdict(config)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise CheckpointError(f"{path}: {type(config).__name__} has no `{unknown[0]}`")
    try:
        if options.neuron:
            given["neuron"] = _neuron(config.neuron, options.neuron)
        return replace(config, **given)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _neuron(neuron: NeuronConfig, values: Mapping[str, Any]) -> NeuronConfig:
    """The neuron with other fields, whose values may be text; ValueError for one that it has not or that is none."""
    known = asdict(neuron)
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"a neuron has {', '.join(known)}, not `{unknown[0]}`")
    return replace(neuron, **{name: _as(type(known[name]), name, value) for name, value in values.items()})


def _as(kind: type, name: str, value: Any) -> Any:
    words = {"true": True, "false": False} if kind is bool else {}
    try:
        return words[value.lower()] if words and isinstance(value, str) else kind(value)
    except (KeyError, ValueError):
        raise ValueError(f"`{name}` of a neuron must be a {kind.__name__}, not `{value}`") from None


def _shown_heads(heads: int | tuple[int, int]) -> str:
    return str(heads) if isinstance(heads, int) else f"{heads[0]} and {heads[1]}"


def _uncertain(family: Family, config: Any, options: ImportOptions, tensors: dict[str, Tensor]) -> list[str]:
    """What no checkpoint says and was assumed."""
    notices: list[str] = []
    if options.heads is None and family is SPIKE_VIDEO_FORMER:
        notices.append(f"assumed {_shown_heads(config.heads)} attention heads: shapes do not tell, --heads does")
    if options.design is None and family is SPIKE_VIDEO_FORMER and config.attention == "dot":
        where = "within each frame" if config.design == "neuron" else "over all tokens of the clip"
        notices.append(f"assumed dot-product attention {where}: nothing in the file tells, --design does")
    if family is SPIKE_VIDEO_FORMER and config.attention == "dot" and options.distilled != "head_kd":
        notices.append(
            "no `attn_bn`: dot product. If this is a Meta-SpikeFormer: its first release feeds `head` with reals, a "
            "later one with spikes as here; nothing in the file tells, --check with its repository does")
    if family.lacks:
        notices.append(f"a float model only, `spikeloom quantize` refuses it: {family.lacks}")
    return notices
