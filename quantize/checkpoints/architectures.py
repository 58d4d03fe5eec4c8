"""The architectures a checkpoint can be of: names, how one is recognised, what its shapes tell.

Three families are told apart by the names of their tensors. Within a family widths, depths, kernels, ratios and
classes are read from shapes; strides, heads, the tokens of attention and the neuron leave no trace in a checkpoint and
come from the named architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..models import CONFIGS, SpikeVideoFormer, SpikeVideoFormerConfig, named_config
from ..relatives import ESpikeFormer, Relative, RelativeConfig, SpikeDrivenTransformerV1, V1Config, V3Config
from .reading import CheckpointError, listed

__all__ = [
    "ARCHITECTURES", "FAMILIES", "Architecture", "Family", "build_model", "family_of", "family_with", "infer",
    "named_architecture"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks with the same names of tensors.

    Attributes:
        name: As written to the model's `.json`.
        config, model: Classes of configuration and module.
        mark: A tensor that no other family has.
        fields: Field of the configuration -> its value from the tensors; KeyError names a tensor that is missing.
        lacks: The first operator that the integer network does not have, with its layer; empty if it has all.
    """

    name: str
    config: Any
    model: Callable[[Any], nn.Module]
    mark: str
    fields: Mapping[str, Callable[[Mapping[str, Tensor]], Any]]
    lacks: str = ""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A named network: its family, and the configuration where the checkpoint does not say otherwise."""

    family: Family
    config: Any


def _dim(name: str, axis: int) -> Callable[[Mapping[str, Tensor]], int]:
    def read(tensors: Mapping[str, Tensor]) -> int:
        shape = tensors[name].shape
        return shape[axis] if len(shape) > axis else 0
    return read


def _ratio(name: str, outer: int = 1, inner: int = 0) -> Callable[[Mapping[str, Tensor]], int]:
    """Quotient of two sides of a weight, 0 if it is none."""
    def read(tensors: Mapping[str, Tensor]) -> int:
        shape = tensors[name].shape
        return shape[inner] // shape[outer] if len(shape) > max(outer, inner) and shape[outer] else 0
    return read


def _widths(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(_dim(f"downsample{stage}.encode_conv.weight", 0)(tensors) for stage in ("1_2", "2", "3", "4"))


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Blocks `prefix.0`, `prefix.1`, ... up to the first that has no tensor; KeyError if there is none."""
    found = {name.split(".")[1] for name in tensors if name.startswith(f"{prefix}.")}
    count = next(index for index in range(len(found) + 1) if str(index) not in found)
    if not count:
        raise KeyError(f"{prefix}.0")
    return count


def _depths(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    return _count(tensors, "block3"), _count(tensors, "block4")


def _attention(tensors: Mapping[str, Tensor]) -> str:
    """The batch norm behind attention comes with Hamming attention only."""
    return "hamming" if any(".attn_bn." in name for name in tensors) else "dot"


_COMMON: dict[str, Callable[[Mapping[str, Tensor]], Any]] = {
    "widths": _widths,
    "depths": _depths,
    "conv_ratio": _ratio("ConvBlock1_1.0.conv1.weight"),
    "mlp_ratio": _ratio("block3.0.mlp.fc1_conv.weight"),
    "stem_kernel": _dim("downsample1_1.encode_conv.weight", 2),
    "in_channels": _dim("downsample1_1.encode_conv.weight", 1),
    "classes": _dim("head.weight", 0),
}

SPIKE_VIDEO_FORMER = Family(
    name="spikevideoformer", config=SpikeVideoFormerConfig, model=SpikeVideoFormer,
    mark="ConvBlock1_1.0.Conv.pwconv1.weight",
    fields=_COMMON | {
        "sep_ratio": _ratio("ConvBlock1_1.0.Conv.pwconv1.weight"),
        "sep_kernel": _dim("ConvBlock1_1.0.Conv.dwconv.weight", 2),
        "attention": _attention,
    })

V3 = Family(
    name="e-spikeformer", config=V3Config, model=ESpikeFormer, mark="ConvBlock1_1.0.Conv.pwconv1.0.weight",
    fields=_COMMON | {
        "sep_ratio": _ratio("ConvBlock1_1.0.Conv.pwconv1.0.weight"),
        "sep_kernel": _dim("ConvBlock1_1.0.Conv.dwconv.0.weight", 2),
        "block_kernel": _dim("block3.0.conv.dwconv.0.weight", 2),
        "value_ratio": _ratio("block3.0.attn.v_conv.0.weight"),
    })

V1 = Family(
    name="spike-driven-transformer", config=V1Config, model=SpikeDrivenTransformerV1,
    mark="patch_embed.proj_conv.weight",
    fields={
        "dim": _dim("patch_embed.rpe_conv.weight", 0),
        "depth": lambda tensors: _count(tensors, "block"),
        "heads": _dim("block.0.attn.talking_heads.weight", 0),
        "mlp_ratio": _ratio("block.0.mlp.fc1_conv.weight"),
        "in_channels": _dim("patch_embed.proj_conv.weight", 1),
        "classes": _dim("head.weight", 0),
    })

FAMILIES = {family.name: family for family in (SPIKE_VIDEO_FORMER, V3, V1)}
"""Families by name."""


def _meta_spikeformer(widths: tuple[int, int, int, int]) -> Architecture:
    """Meta-SpikeFormer (V2) for images: attention within each time step, neurons that keep their membrane."""
    config = SpikeVideoFormerConfig(widths=widths, attention="dot", design="neuron", frames=1, classes=1000)
    return Architecture(family=SPIKE_VIDEO_FORMER, config=config)


_DIGITS = named_config("digits")
_CLIPS: dict[str, Any] = {
    "height": _DIGITS.height, "width": _DIGITS.width, "frames": _DIGITS.frames, "pixel_mean": _DIGITS.pixel_mean,
    "pixel_std": _DIGITS.pixel_std}

V2_DIGITS = replace(
    _DIGITS, widths=(8, 16, 32, 48), attention="dot", design="neuron", height=16, width=16, frames=4, classes=10,
    tasks=(("digit", 10),))
V1_DIGITS = V1Config(
    dim=32, depth=2, heads=4, mlp_ratio=2, pooling=(True, False, True, True), classes=14, tasks=_DIGITS.tasks,
    neuron=_DIGITS.neuron, **_CLIPS)
V3_DIGITS = V3Config(
    widths=(8, 8, 16, 16), depths=(1, 1), heads=4, mlp_ratio=2, conv_ratio=2, strides=_DIGITS.strides, classes=10,
    tasks=(("digit", 10),), **_CLIPS)
"""A V3 keeps nothing from frame to frame, so it cannot tell directions."""

ARCHITECTURES: dict[str, Architecture] = {
    **{name: Architecture(family=SPIKE_VIDEO_FORMER, config=config) for name, config in CONFIGS.items()},
    "v2-15M": _meta_spikeformer((64, 128, 256, 360)),
    "v2-31M": _meta_spikeformer((96, 192, 384, 480)),
    "v2-55M": _meta_spikeformer((128, 256, 512, 640)),
    "v3-5M": Architecture(family=V3, config=V3Config(widths=(32, 64, 128, 192))),
    "v3-10M": Architecture(family=V3, config=V3Config(widths=(48, 96, 192, 240))),
    "v3-19M": Architecture(family=V3, config=V3Config()),
    "v1-8-384": Architecture(family=V1, config=V1Config(dim=384)),
    "v1-8-512": Architecture(family=V1, config=V1Config()),
    "v1-10-512": Architecture(family=V1, config=V1Config(depth=10)),
    "v1-8-768": Architecture(family=V1, config=V1Config(dim=768)),
    "v1-digits": Architecture(family=V1, config=V1_DIGITS),
    "v2-digits": Architecture(family=SPIKE_VIDEO_FORMER, config=V2_DIGITS),
    "v3-digits": Architecture(family=V3, config=V3_DIGITS),
}
"""Named architectures. Those of SpikeVideoFormer are its named configurations; `*-digits` is for the moving digits."""


def named_architecture(name: str) -> Architecture:
    """The architecture called `name`; ValueError if there is none."""
    if name not in ARCHITECTURES:
        raise ValueError(f"`name` must be one of {', '.join(ARCHITECTURES)}, not `{name!r}`")
    return ARCHITECTURES[name]


def family_with(config: SpikeVideoFormerConfig | RelativeConfig) -> Family:
    """The family that a configuration is of."""
    return next(family for family in FAMILIES.values() if isinstance(config, family.config))


def build_model(config: SpikeVideoFormerConfig | RelativeConfig) -> SpikeVideoFormer | Relative:
    """An untrained network of the class that goes with a configuration."""
    model = family_with(config).model(config)
    assert isinstance(model, (SpikeVideoFormer, Relative))
    return model


FREE = ("classes", "heads")
"""Fields in which a checkpoint may differ from the named architecture."""


def family_of(path: Path, tensors: Mapping[str, Tensor]) -> Family:
    """The family whose mark is among the tensors.

    Raises:
        CheckpointError: There is none.
    """
    for family in FAMILIES.values():
        if family.mark in tensors:
            return family
    marks = "; ".join(f"{family.name}: `{family.mark}`" for family in FAMILIES.values())
    raise CheckpointError(
        f"{path}: of no known architecture ({marks}); if a tensor was renamed, --arch says which one it is and lists "
        f"what is missing. It has {listed(list(tensors), 8)}")


def infer(path: Path, tensors: Mapping[str, Tensor], arch: str | None) -> tuple[str, Family, Any]:
    """(name, family, configuration) of a checkpoint, checked against the architecture `arch` if one is given.

    A tensor that tells a field may be missing or misshaped: the field is then that of `arch`, and comparing names says
    what is wrong.

    Raises:
        CheckpointError: The architecture cannot be told, or is not `arch`.
    """
    return _recognise(path, tensors) if arch is None else _hold_against(path, tensors, arch)


def _recognise(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, Family, Any]:
    family = family_of(path, tensors)
    values, missing = _read(family, tensors)
    if missing:
        raise CheckpointError(
            f"{path}: cannot tell the architecture, {len(missing)} tensors are missing: {listed(missing)}; "
            "--arch says which one it is and lists everything that is wrong")
    name, base = _nearest(family, values)
    return name, family, _config(path, base, values)


def _hold_against(path: Path, tensors: Mapping[str, Tensor], arch: str) -> tuple[str, Family, Any]:
    if arch not in ARCHITECTURES:
        raise CheckpointError(f"no architecture `{arch}`: name one of {', '.join(ARCHITECTURES)}")
    family, base = ARCHITECTURES[arch].family, ARCHITECTURES[arch].config
    found = next((other for other in FAMILIES.values() if other.mark in tensors), family)
    if found is not family:
        raise CheckpointError(f"{path}: its tensors are those of {found.name}, `{arch}` is {family.name}")
    values, _ = _read(family, tensors)
    differing = [
        f"{name} {_shown(value)}, not {_shown(getattr(base, name))}" for name, value in values.items()
        if name not in FREE and value != getattr(base, name)
        # SpikeVideoFormer is released with either attention, Meta-SpikeFormer with the dot product only.
        and not (name == "attention" and base.attention == "hamming")]
    if differing:
        raise CheckpointError(f"{path}: is not `{arch}`: it has {'; '.join(differing)}")
    return arch, family, _config(path, base, values)


def _read(family: Family, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Fields that the tensors tell, and the tensors that are missing for the others."""
    values: dict[str, Any] = {}
    missing: list[str] = []
    for name, read in family.fields.items():
        try:
            values[name] = read(tensors)
        except KeyError as error:
            if error.args[0] not in missing:
                missing.append(error.args[0])
    return values, missing


def _nearest(family: Family, values: Mapping[str, Any]) -> tuple[str, Any]:
    """Named architecture of these sizes, else the family's default and a name made of the widths."""
    for name, architecture in ARCHITECTURES.items():
        config = architecture.config
        if architecture.family is family and all(
                getattr(config, field) == value for field, value in values.items() if field != "classes"):
            return name, config
    return f"{family.name} {_shown(values.get('widths', values.get('dim')))}", family.config()


def _config(path: Path, base: Any, values: Mapping[str, Any]) -> Any:
    changed = {name: value for name, value in values.items() if value != getattr(base, name)}
    if "classes" in changed and "tasks" in {field.name for field in fields(base)}:
        changed["tasks"] = ()
    try:
        return replace(base, **changed)
    except ValueError as error:
        raise CheckpointError(f"{path}: its shapes make no network: {error}") from error


def _shown(value: Any) -> str:
    return "-".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
