"""A checkpoint file -> plain tensors by name. Nothing in the file is ever executed.

::

    .safetensors ------------------------------------------+
    .pth, .pt, .bin, .pth.tar  --weights_only unpickler--> nested dictionaries
        -> the entry with the weights ("model", "state_dict", EMA ...)
        -> names without "module.", "model.", "_orig_mod."

What a file is, is told from its content: downloads often end up with a wrong suffix, or as a web page. A zip archive is
looked through before torch opens it, so that a small file cannot unpack into a large one.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["Checkpoint", "CheckpointError", "listed", "read_checkpoint"]

WEIGHTS = ("model", "state_dict", "model_state", "model_state_dict", "module", "net", "network", "weights")
"""Names of the entry with the weights, in the order they are tried."""
EMA = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema")
"""Names of the entry with their exponential moving average."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DistributedDataParallel, wrapping modules and torch.compile put in front of names."""
COUNTERS = ("n_averaged",)
"""Tensors beside the weights that are none."""
NESTING = 4
RESAVE = "re-save its weights as .safetensors in the environment it was written in (docs/checkpoints.md says how)"

_FOREIGN = (
    (b"<!DOCTYPE", "a web page, not the file behind it: download it again"),
    (b"<html", "a web page, not the file behind it: download it again"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file behind it: run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
)
_TORCH_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError,
    struct.error, OverflowError, MemoryError, OSError)
"""What torch's reader raises on bytes that are no checkpoint."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be imported: the message names the file, what is wrong, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights of a file.

    Attributes:
        path: The file.
        sha256: Of its bytes, hexadecimal.
        entry: Where in the file the weights lay, as `model.state_dict`; empty if at the top.
        tensors: By name, prefixes taken off, on the CPU, types as in the file.
        notices: What was left out or chosen on the way, one sentence each.
    """

    path: Path
    sha256: str
    entry: str
    tensors: dict[str, Tensor]
    notices: tuple[str, ...]


def read_checkpoint(path: str | Path, *, ema: bool = False) -> Checkpoint:
    """Weights of a `.safetensors` file or a file that `torch.save` wrote.

    Args:
        path: The file.
        ema: Take the exponential moving average of the weights.

    Raises:
        CheckpointError: The file is none, is damaged, would need code to be run, or holds no weights.
        OSError: The file cannot be read.
    """
    path = Path(path)
    sha256, start = _digest(path)
    loaded = _load(path, start)
    entry, weights, notices = _find(path, loaded, ema)
    tensors, others = _named(path, weights)
    if others:
        notices.append(f"left out {len(others)} entries that are no weights: {listed(others, 5)}")
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.numel() > size:
            raise CheckpointError(
                f"{path}: damaged: `{name}` claims {tensor.numel():,} values, the file has {size:,} bytes")
    return Checkpoint(path=path, sha256=sha256, entry=entry, tensors=tensors, notices=tuple(notices))


def listed(names: list[str], most: int = 20) -> str:
    """Names with commas between them, at most `most` and then how many more."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _digest(path: Path) -> tuple[str, bytes]:
    """SHA-256 and the first bytes."""
    digest, start = hashlib.sha256(), b""
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            start = start or part[:64]
            digest.update(part)
    return digest.hexdigest(), start


def _load(path: Path, start: bytes) -> Any:
    for magic, what in _FOREIGN:
        if start.lstrip()[: len(magic)].lower() == magic.lower():
            raise CheckpointError(f"{path}: not a checkpoint but {what}")
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        try:
            return load_file(str(path))
        except SafetensorError as error:
            raise CheckpointError(f"{path}: damaged, truncated or no .safetensors file: {error}") from error
    if start[:4] == b"PK\x03\x04":
        _check_archive(path)
    elif start[:1] != b"\x80":
        raise CheckpointError(f"{path}: neither a .safetensors file nor one that torch.save wrote (.pth, .pt)")
    return _load_torch(path)


def _check_archive(path: Path) -> None:
    """torch.save stores without compression, so entries cannot be larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or truncated: {error}") from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path}: a compressed zip archive, not what torch.save writes: unpack it first")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path}: damaged: the entries of the archive overlap")


def _load_torch(path: Path) -> Any:
    # Training scripts after MAE's put their parsed arguments beside the weights: a class without behaviour.
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _TORCH_ERRORS as error:
        reason = str(error)
    if "weights_only" in reason or "Weights only" in reason:
        needs = re.search(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)", reason)
        what = f"`{needs[1] or needs[2]}` beside plain tensors" if needs else "more than plain tensors, or is damaged"
        raise CheckpointError(
            f"{path}: holds {what}; reading that would run code from the file, which is never done: {RESAVE}")
    first = reason.strip().splitlines()[0] if reason.strip() else "empty"
    raise CheckpointError(f"{path}: damaged, truncated or not written by torch.save: {first}")


def _find(path: Path, loaded: Any, ema: bool) -> tuple[str, Mapping[Any, Any], list[str]]:
    """(entry, weights, notices): the dictionary of tensors within dictionaries."""
    notices: list[str] = []
    where: list[str] = []
    taken = False
    while isinstance(loaded, Mapping) and len(where) < NESTING:
        average = next((name for name in EMA if isinstance(loaded.get(name), Mapping)), None)
        plain = next((name for name in WEIGHTS if isinstance(loaded.get(name), Mapping)), None)
        if average and not taken and (ema or not (plain or _has_tensors(loaded))):
            name, taken = average, True
            if not ema:
                notices.append(f"the weights are the moving average `{average}`, the file has no others")
        else:
            if average:
                notices.append(f"the file has a moving average of the weights as well, `{average}`: --ema takes it")
            if not plain:
                break
            name = plain
        where.append(name)
        loaded = loaded[name]
    if ema and not taken:
        raise CheckpointError(f"{path}: has no moving average of the weights ({', '.join(EMA)}): leave --ema out")
    if not isinstance(loaded, Mapping) or not _has_tensors(loaded):
        found = f" with the entries {listed([str(name) for name in loaded])}" if isinstance(loaded, Mapping) else ""
        raise CheckpointError(f"{path}: holds no weights: a {type(loaded).__name__}{found}")
    return ".".join(where), loaded, notices


def _has_tensors(values: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in values.values())


def _named(path: Path, weights: Mapping[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by name without prefix, and the names of what is no weight."""
    tensors: dict[str, Tensor] = {}
    others: list[str] = []
    for key, value in weights.items():
        name = str(key)
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if not isinstance(value, Tensor) or name in COUNTERS:
            others.append(str(key))
        elif name in tensors:
            raise CheckpointError(f"{path}: two tensors are called `{name}` once {', '.join(PREFIXES)} is taken off")
        else:
            tensors[name] = value.detach()
    return tensors, others
