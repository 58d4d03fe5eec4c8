"""Which RepConvs of a network stay three convolutions: `fused` (none), `unfused` (all), a file, or names.

The file is that of `RepConvChoice.save` (`spikeloom.sim.repconv`): JSON with a list of names under `unfused`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from .folding import repconvs
from .models import SpikeVideoFormerConfig

__all__ = ["unfused_repconvs", "with_repconvs"]


def unfused_repconvs(repconv: str | Path | Collection[str], config: object) -> tuple[str, ...]:
    """Names of the RepConvs of a network of configuration `config` that stay three convolutions.

    Raises:
        ValueError: `repconv` is no form, file or collection of names, or the network has no RepConvs to choose from.
    """
    if repconv == "fused":
        return ()
    config = with_repconvs(config)
    if repconv == "unfused":
        return repconvs(config)
    return _read(Path(repconv)) if isinstance(repconv, (str, Path)) else tuple(repconv)


def with_repconvs(config: object) -> SpikeVideoFormerConfig:
    """The configuration, of a network with RepConvs; ValueError for another one."""
    if not isinstance(config, SpikeVideoFormerConfig):
        raise ValueError(f"`repconv` must be fused: {type(config).__name__} is of networks without such a choice")
    return config


def _read(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise ValueError(f"`repconv` must be fused, unfused, a file or names, not `{path}`")
    try:
        names = json.loads(path.read_text())["unfused"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a choice of RepConvs: {error!r}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: not a choice of RepConvs: `unfused` must be a list of names, not `{names!r}`")
    return tuple(names)
