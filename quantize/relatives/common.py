"""What all relatives share: fields of their configurations, and how pixels become their input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from ..models import IMAGENET_MEAN, IMAGENET_STD, as_tuple, check_tasks, normalised, task_slices

Config = TypeVar("Config")

__all__ = ["Relative", "RelativeConfig", "check_positive", "from_dict"]


@dataclass(frozen=True, kw_only=True)
class RelativeConfig:
    """Fields that all relatives have, named as those of SpikeVideoFormer's configuration.

    Attributes:
        in_channels, height, width, frames, classes: Of the clip, and logits.
        tasks: Names and sizes of consecutive groups of logits; empty: `class` alone.
        pixel_mean, pixel_std: Per channel, for pixels scaled to 0..1: the input is ``(pixel / 255 - mean) / std``.

    Raises:
        ValueError: A field is out of range.
    """

    head: ClassVar[str] = "class"

    in_channels: int = 3
    height: int = 224
    width: int = 224
    frames: int = 1
    classes: int = 1000
    tasks: tuple[tuple[str, int], ...] = ()
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN
    pixel_std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        check_positive(self, "in_channels", "height", "width", "frames", "classes")
        for name in ("pixel_mean", "pixel_std"):
            if len(getattr(self, name)) != self.in_channels:
                raise ValueError(f"`{name}` must have {self.in_channels} values, not `{getattr(self, name)!r}`")
        if any(value <= 0 for value in self.pixel_std):
            raise ValueError(f"`pixel_std` must be positive, not `{self.pixel_std!r}`")
        check_tasks(self.tasks, self.classes)

    @property
    def task_slices(self) -> dict[str, slice]:
        """Task name -> its logits."""
        return task_slices(self.tasks, self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; read back by the class's `from_dict`."""
        return asdict(self)


class Relative(nn.Module):
    """Base of the relatives: a module with a configuration that takes normalised pixels."""

    config: Any
    """A :class:`RelativeConfig`, of the class that goes with the module's."""

    def normalise(self, pixels: Tensor) -> Tensor:
        """Network input from ``uint8[..., H, W, in_channels]``: ``float32[..., in_channels, H, W]``."""
        return normalised(pixels, self.config.pixel_mean, self.config.pixel_std)

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """Task name -> its logits ``[..., n]``, from ``[..., classes]``."""
        return {name: logits[..., part] for name, part in self.config.task_slices.items()}


def check_positive(config: object, *names: str) -> None:
    """ValueError unless the fields are positive integers."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, not `{value!r}`")


def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Configuration from plain values, after JSON or not; ValueError for an unknown field."""
    unknown = sorted(set(values) - {field.name for field in fields(cls)})  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"`values` must be fields of {cls.__name__}, not `{unknown!r}`")
    return cls(**{name: as_tuple(value) for name, value in values.items()})
