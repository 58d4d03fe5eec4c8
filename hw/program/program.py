"""A compiled program: what goes into DDR and how to read tensors out of it. Needs NumPy only."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.config import MACHINE_VERSION, MachineConfig
from spikeloom.hw.isa import INSTRUCTION_BYTES, EncodingError, Engine, Instruction, Opcode

from .errors import ProgramError
from .layout import Region, TensorPlace

FORMAT = "spikeloom-program"
FORMAT_VERSION = 1

ReadMemory = Callable[[Region, int, int], bytes]
"""(region, offset, size) -> bytes."""


@dataclass(frozen=True, kw_only=True)
class OperatorInfo:
    """Reports: number and first index of its instructions; `synaptic_operations` per clip.

    The first instructions of an operator may lie among the last ones of the operator before. An `Upsample` has none.
    """

    name: str
    kind: str
    first: int
    instructions: int
    synaptic_operations: int
    outputs: tuple[str, ...]


@dataclass(kw_only=True)
class Program:
    """A program for one network on one machine.

    Attributes:
        config: The machine.
        network_hash: `Network.hash`.
        frames: T.
        image: Program region: instructions from offset 0, then constants and room for K^T V.
        instruction_count: Instructions, END included.
        workspace_bytes, input_bytes, output_bytes: Sizes of the other regions.
        input, output: Names of tensors; each lies at offset 0 of its region.
        tensors: Places of all tensors.
        operators: In execution order; the index is `Instruction.layer`.
    """

    config: MachineConfig
    network_hash: str
    frames: int
    image: bytes
    instruction_count: int
    workspace_bytes: int
    input_bytes: int
    output_bytes: int
    input: str
    output: str
    tensors: dict[str, TensorPlace]
    operators: tuple[OperatorInfo, ...]

    @property
    def synaptic_operations(self) -> int:
        """Of a clip, all operators."""
        return sum(o.synaptic_operations for o in self.operators)

    @property
    def on_chip(self) -> list[str]:
        """Tensors that never leave the chip."""
        return [name for name, place in self.tensors.items() if not place.stored]

    def region_size(self, region: Region) -> int:
        """Bytes that a region must have."""
        return (len(self.image), self.workspace_bytes, self.input_bytes, self.output_bytes)[region]

    def instructions(self) -> list[Instruction]:
        """Decoded instructions. Raises ProgramError naming the index of a bad one."""
        result = []
        for index in range(self.instruction_count):
            data = self.image[index * INSTRUCTION_BYTES:(index + 1) * INSTRUCTION_BYTES]
            try:
                result.append(Instruction.decode(data))
            except EncodingError as error:
                raise ProgramError(f"instruction {index}: {error}") from error
        return result

    def pack_input(self, clip: NDArray[Any]) -> bytes:
        """Content of the input region for a clip in network shape (uint8[T, H, W, 3] or bool[T, C, H, W]).

        Raises:
            ValueError: Wrong shape or element type.
        """
        return self.tensors[self.input].pack(clip, self.config)

    def read_tensor(self, read: ReadMemory, name: str) -> NDArray[Any]:
        """A tensor in network shape out of DDR. KeyError for an unknown name."""
        place = self.tensors[name]
        return place.unpack(read(place.region, place.offset, place.size), self.config)

    def listing(self) -> str:
        """Disassembly, one instruction per line, under the names of the operators."""
        lines, name = [], None
        for index, instruction in enumerate(self.instructions()):
            if self._layer_name(instruction) != name:
                name = self._layer_name(instruction)
                lines.append(f"{name}:")
            lines.append(f"{index:6} {_disassemble(instruction)}")
        return "\n".join(lines) + "\n"

    def _layer_name(self, instruction: Instruction) -> str:
        known = instruction.opcode is not Opcode.END and instruction.layer < len(self.operators)
        return self.operators[instruction.layer].name if known else "end"

    def save(self, directory: str | Path) -> None:
        """Write `program.bin` (the image) and `program.json` into `directory`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "program.bin").write_bytes(self.image)
        (directory / "program.json").write_text(json.dumps(self._description(), indent=1) + "\n")

    def _description(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "version": FORMAT_VERSION, "machine_version": MACHINE_VERSION,
            "config": self.config.hardware, "clock_mhz": self.config.clock_mhz, "config_hash": self.config.hash,
            "network_hash": self.network_hash, "frames": self.frames, "image_bytes": len(self.image),
            "image_crc": zlib.crc32(self.image), "instructions": self.instruction_count,
            "workspace_bytes": self.workspace_bytes, "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes, "input": self.input, "output": self.output,
            "tensors": [place.description() for place in self.tensors.values()],
            "operators": [{f.name: getattr(o, f.name) for f in fields(o)} for o in self.operators]}

    @classmethod
    def load(cls, directory: str | Path, config: MachineConfig | None = None) -> Program:
        """Read a program. With `config`, it must be for that machine.

        Raises:
            ProgramError: A file is missing, malformed, truncated, changed, of another version or machine.
        """
        path, image_path = Path(directory) / "program.json", Path(directory) / "program.bin"
        try:
            data = json.loads(path.read_text())
            image = image_path.read_bytes()
        except OSError as error:
            raise ProgramError(f"{error.filename}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ProgramError(f"{path}: not JSON: {error}") from error
        _check_header(data, image, path, image_path, config)
        try:
            program = _from_description(data, image)
        except (KeyError, TypeError, ValueError) as error:
            raise ProgramError(f"{path}: malformed: {error!r}") from error
        if program.config.hash != data["config_hash"]:
            raise ProgramError(f"{path}: `config_hash` does not belong to `config`")
        program._check_image(image_path)
        return program

    def _check_image(self, path: Path) -> None:
        if self.instruction_count * INSTRUCTION_BYTES > len(self.image):
            raise ProgramError(f"{path}: {self.instruction_count} instructions do not fit {len(self.image)} bytes")
        if not self.instruction_count or self.instructions()[-1].opcode is not Opcode.END:
            raise ProgramError(f"{path}: instruction {self.instruction_count - 1} is not END")


def _check_header(data: Any, image: bytes, path: Path, image_path: Path, config: MachineConfig | None) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ProgramError(f"{path}: not a Spikeloom program")
    for key, wanted in (("version", FORMAT_VERSION), ("machine_version", MACHINE_VERSION)):
        if data.get(key) != wanted:
            raise ProgramError(f"{path}: `{key}` must be {wanted}, not `{data.get(key)!r}`")
    if config is not None and data.get("config_hash") != config.hash:
        raise ProgramError(f"{path}: compiled for another machine: `config_hash` is `{data.get('config_hash')!r}`, "
                           f"this machine has {config.hash}")
    if data.get("image_bytes") != len(image):
        raise ProgramError(f"{image_path}: has {len(image)} bytes, `{path.name}` says {data.get('image_bytes')!r}")
    if data.get("image_crc") != zlib.crc32(image):
        raise ProgramError(f"{image_path}: checksum is {zlib.crc32(image)}, `{path.name}` says "
                           f"{data.get('image_crc')!r}")


def _from_description(data: dict[str, Any], image: bytes) -> Program:
    config = MachineConfig(**data["config"], clock_mhz=data["clock_mhz"])
    tensors = [TensorPlace(**{**t, "region": Region(t["region"])}) for t in data["tensors"]]
    operators = [OperatorInfo(**{**o, "outputs": tuple(o["outputs"])}) for o in data["operators"]]
    program = Program(
        config=config, network_hash=data["network_hash"], frames=data["frames"], image=image,
        instruction_count=data["instructions"], workspace_bytes=data["workspace_bytes"],
        input_bytes=data["input_bytes"], output_bytes=data["output_bytes"], input=data["input"],
        output=data["output"], tensors={t.name: t for t in tensors}, operators=tuple(operators))
    for place in tensors:
        if place.offset < 0 or place.offset + place.size > program.region_size(place.region):
            raise ValueError(f"tensor {place.name} lies outside its region")
    if program.input not in program.tensors or program.output not in program.tensors:
        raise ValueError("input or output is no tensor")
    return program


def _disassemble(instruction: Instruction) -> str:
    """`OPCODE field=value ... wait=... signal=...`; zero fields are left out."""
    def names(engines: frozenset[Engine]) -> str:
        return ",".join(e.name.lower() for e in sorted(engines))

    parts = [f"{instruction.opcode.name:14}", *(f"{k}={v}" for k, v in instruction.body.items() if v)]
    if instruction.wait:
        parts.append(f"wait={names(instruction.wait)}")
    if instruction.signal:
        parts.append(f"signal={names(instruction.signal)}")
    return " ".join(parts)


def as_reader(regions: dict[Region, NDArray[np.uint8]]) -> ReadMemory:
    """`ReadMemory` over arrays of bytes, for `Program.read_tensor`."""
    return lambda region, offset, size: regions[region][offset:offset + size].tobytes()
