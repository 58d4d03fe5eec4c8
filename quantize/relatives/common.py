"""What the configurations of all relatives check alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

Config = TypeVar("Config")

__all__ = ["check_positive", "from_dict"]


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
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
