"""Self-test: a stored input and a checksum of every tensor, so that a board can say which layer is wrong first.

    program/self_test.bin     content of the input region
    program/self_test.json    format, version, network and configuration hash, checksum of the input,
                              [[operator, tensor, CRC-32], ...] in execution order

Tensors that never leave the chip have no checksum: a layer with no other output shows in the next layer that has one.
The checksum is that of the tensor in network shape (`spikeloom.network`), C order, little-endian.
Written by `spikeloom.sim.self_test`, which has a reference to take the tensors from.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.hw.program.errors import ProgramError
from spikeloom.hw.program.program import Program, ReadMemory

__all__ = ["SelfTest", "tensor_checksum"]

FORMAT = "spikeloom-self-test"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """Input and expected checksums.

    Attributes:
        network_hash, config_hash: Of the program that it belongs to.
        input: Content of the input region.
        checksums: (operator, tensor, checksum) in execution order.
    """

    network_hash: str
    config_hash: int
    input: bytes
    checksums: tuple[tuple[str, str, int], ...]

    def first_wrong(self, program: Program, read: ReadMemory) -> str | None:
        """Name of the first operator one of whose outputs differs, None if all agree."""
        for operator, tensor, wanted in self.checksums:
            if tensor_checksum(program.read_tensor(read, tensor)) != wanted:
                return operator
        return None

    def save(self, directory: str | Path) -> None:
        """Write both files beside a program."""
        directory = Path(directory)
        description = {
            "format": FORMAT, "version": VERSION, "network_hash": self.network_hash, "config_hash": self.config_hash,
            "input_bytes": len(self.input), "input_crc": zlib.crc32(self.input), "checksums": self.checksums}
        (directory / "self_test.bin").write_bytes(self.input)
        (directory / "self_test.json").write_text(json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, directory: str | Path, program: Program) -> SelfTest:
        """Read the self-test of `program`.

        Raises:
            ProgramError: A file is missing, malformed, truncated, changed, or belongs to another program.
        """
        path, input_path = Path(directory) / "self_test.json", Path(directory) / "self_test.bin"
        try:
            data, content = json.loads(path.read_text()), input_path.read_bytes()
        except OSError as error:
            raise ProgramError(f"{error.filename}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ProgramError(f"{path}: not JSON: {error}") from error
        try:
            _check(data, content, program)
            checksums = tuple((str(o), str(t), int(c)) for o, t, c in data["checksums"])
        except (KeyError, TypeError, ValueError) as error:
            raise ProgramError(f"{path}: malformed: {error}") from error
        return cls(network_hash=program.network_hash, config_hash=program.config.hash, input=content,
                   checksums=checksums)


def tensor_checksum(tensor: NDArray[Any]) -> int:
    """CRC-32 of a tensor in network shape."""
    little = np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<"))
    return zlib.crc32(little.tobytes())


def _check(data: Any, content: bytes, program: Program) -> None:
    wanted = {
        "format": FORMAT, "version": VERSION, "network_hash": program.network_hash,
        "config_hash": program.config.hash, "input_bytes": len(content), "input_crc": zlib.crc32(content)}
    for key, value in wanted.items():
        if data[key] != value:
            raise ValueError(f"`{key}` must be `{value!r}`, not `{data[key]!r}`")
    size = program.tensors[program.input].size
    if len(content) != size:
        raise ValueError(f"`input_bytes` must be {size}, not `{len(content)}`")
    unknown = sorted({tensor for _, tensor, _ in data["checksums"]} - set(program.tensors))
    if unknown:
        raise ValueError(f"`checksums` names no tensors of the program: {', '.join(unknown)}")
