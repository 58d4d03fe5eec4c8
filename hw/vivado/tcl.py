"""Small pieces of Tcl text."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["braced", "set_dict", "words"]


def braced(text: str) -> str:
    """`text` as one Tcl word that is taken literally.

    Raises:
        ValueError: It has a brace or a backslash, which braces do not protect.
    """
    if any(character in text for character in "{}\\"):
        raise ValueError(f"`text` must have no braces and no backslashes, not `{text!r}`")
    return f"{{{text}}}"


def words(values: Iterable[str], indent: str = "    ") -> str:
    """The elements of a list that is written over several lines between braces."""
    return "".join(f"{indent}{value}\n" for value in values)


def set_dict(settings: Iterable[tuple[str, str]], target: str, prefix: str = "") -> str:
    """`set_property -dict` with a line per property."""
    lines = words(f"{prefix}{name} {braced(value)}" for name, value in settings)
    return f"set_property -dict {{\n{lines}}} {target}\n"
