"""What `spikeloom deploy` packs, unpacked or installed: where its files are, and whether they are whole.

    spikeloom-<preset>/ (or the installed package `spikeloom_overlay`)
        deploy.json           format, version, hashes of network and configuration, SHA-256 of every other file
        bitfile/              spikeloom.bit, spikeloom.hwh
        program/              program and self-test
        network/network.json  what the outputs mean
        labels.json           names of the classes, if there were some (docs/run.md)
        samples.npz           clips to try: clips, labels, outputs of the integer reference (`logits`)

Needs NumPy only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.board import STEM

from .errors import DriverError

__all__ = ["MANIFEST", "OVERLAY_PACKAGE", "Deployment", "Samples", "checksums"]

MANIFEST = "deploy.json"
FORMAT, VERSION = "spikeloom-deployment", 1

OVERLAY_PACKAGE = "spikeloom_overlay"
"""Name of the package of the overlay wheel, which holds the same files."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Clips to try.

    Attributes:
        clips: In the shape that `Accelerator.infer` takes, one after the other.
        labels: What each shows, for people; empty where nobody knows.
        logits: Outputs of the integer reference: `int32[n, classes]`, residual `int16[n, T, C, H, W]`.
    """

    clips: NDArray[Any]
    labels: tuple[str, ...]
    logits: NDArray[Any]


@dataclass(frozen=True)
class Deployment:
    """An unpacked deployment."""

    directory: Path

    @property
    def bitfile(self) -> Path:
        """The bitstream. DriverError if it is not there."""
        path = self.directory / "bitfile" / f"{STEM}.bit"
        for file in (path, path.with_suffix(".hwh")):
            if not file.is_file():
                raise DriverError(f"{file}: no such file; README.txt says how to make it")
        return path

    @property
    def program(self) -> Path:
        """Directory of the program."""
        return self.directory / "program"

    def samples(self) -> Samples:
        """Clips to try. OSError or ValueError if there are none."""
        with np.load(self.directory / "samples.npz") as data:
            return Samples(clips=data["clips"], labels=tuple(map(str, data["labels"])), logits=data["logits"])

    def classes(self) -> dict[str, tuple[int, int]]:
        """Task -> first class and end among the logits; empty if the network does not say."""
        try:
            metadata = json.loads((self.directory / "network" / "network.json").read_text()).get("metadata") or {}
        except OSError:
            return {}
        return {task: (first, end) for task, first, end in metadata.get("tasks") or ()}

    def check(self) -> dict[str, Any]:
        """Compare every file with `deploy.json`, whose content is returned.

        Raises:
            DriverError: It is missing or malformed, or a file is missing or changed: the first one is named.
        """
        path = self.directory / MANIFEST
        try:
            manifest = json.loads(path.read_text())
            if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
                raise ValueError(f"format is {manifest['format']!r}, version {manifest['version']!r}")
            files = dict(manifest["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DriverError(f"{path}: not the description of a deployment: {error!r}") from error
        for name, wanted in files.items():
            file = self.directory / name
            if not file.is_file():
                raise DriverError(f"{file}: missing; unpack again")
            if hashlib.sha256(file.read_bytes()).hexdigest() != wanted:
                raise DriverError(f"{file}: changed or truncated; unpack or copy again")
        return manifest

    @classmethod
    def find(cls, start: str | Path = ".") -> Deployment:
        """The one around a directory, else the one that pip installed.

        Raises:
            DriverError: There is neither.
        """
        start = Path(start).resolve()
        for directory in (start, *start.parents):
            if (directory / MANIFEST).is_file():
                return cls(directory)
        spec = importlib.util.find_spec(OVERLAY_PACKAGE)
        if spec is not None and spec.submodule_search_locations:
            return cls(Path(next(iter(spec.submodule_search_locations))))
        raise DriverError(
            f"no {MANIFEST} in {start} or above it, and no package {OVERLAY_PACKAGE}: go to where the zip of "
            f"`spikeloom deploy` was unpacked, or install its wheels")


def checksums(files: dict[str, bytes]) -> dict[str, str]:
    """SHA-256 of every file, by name in rising order."""
    return {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
