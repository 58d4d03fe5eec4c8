"""Instructions and constants as lowering puts them out, in program order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Instruction, Opcode, Source, Target

from .buffers import Regions
from .layout import Region, TensorPlace
from .schedule import Access, Step

ALIGNMENT = 64
"""Alignment of constants and tensors in their regions, bytes."""

EXACT_RUNS = 64
"""Transfers of more runs than that count as one range in the hazard analysis."""


def align(value: int) -> int:
    return -(-value // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Transfer:
    """DDR side of a transfer; offsets and strides in bytes, `run` in beats. `place`: the tensor it touches."""

    place: TensorPlace
    offset: int
    run: int
    count1: int = 1
    stride1: int = 0
    count2: int = 1
    stride2: int = 0

    @property
    def beats(self) -> int:
        return self.run * self.count1 * self.count2

    def fields(self, beat_bytes: int) -> dict[str, int]:
        """Fields of the instruction, runs that touch joined."""
        run, count1, stride1, count2, stride2 = self.run, self.count1, self.stride1, self.count2, self.stride2
        if count1 == 1:
            count1, stride1, count2, stride2 = count2, stride2, 1, 0
        if count1 > 1 and stride1 == run * beat_bytes:
            run, count1, stride1, count2, stride2 = run * count1, count2, stride2, 1, 0
        if count1 > 1 and count2 == 1 and stride1 == run * beat_bytes:
            run, count1, stride1 = run * count1, 1, 0
        if count1 == 1:
            stride1 = 0
        return {"region": self.place.region, "offset": self.offset, "run": run, "count1": count1,
                "stride1": stride1, "count2": count2, "stride2": stride2}

    def accesses(self, beat_bytes: int, write: bool) -> tuple[Access, ...]:
        """Ranges of DDR bytes, exact for few runs."""
        space, run = f"ddr {self.place.name}", self.run * beat_bytes
        if self.count1 * self.count2 > EXACT_RUNS:
            last = self.offset + (self.count1 - 1) * self.stride1 + (self.count2 - 1) * self.stride2
            return (Access(space, self.offset, last + run, write),)
        return tuple(Access(space, start, start + run, write) for start in self._starts())

    def _starts(self) -> Iterator[int]:
        for j in range(self.count2):
            for i in range(self.count1):
                yield self.offset + j * self.stride2 + i * self.stride1


class Emitter:
    """Collects the steps of a program and its constants, for the operator number `layer`; `early`: see `Step`."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.layer = 0
        self.early = False
        self.steps: list[Step] = []
        self.constants = bytearray()
        self._known: dict[bytes, int] = {}

    def regions(self, depth: int, size: int) -> Regions:
        """Regions of a buffer for this operator."""
        return Regions(depth, size, reverse=self.layer % 2 == 1)

    def constant(self, data: bytes) -> int:
        """Offset of `data` among the constants; equal data is held once."""
        offset = self._known.get(data)
        if offset is None:
            offset = self._known[data] = self.reserve(len(data))
            self.constants[offset:offset + len(data)] = data
        return offset

    def reserve(self, size: int) -> int:
        """Offset of `size` zeroed bytes among the constants."""
        offset = len(self.constants)
        self.constants.extend(bytes(align(size)))
        return offset

    def emit(
        self, opcode: Opcode, body: Mapping[str, int], accesses: Sequence[Access] = (), *, constant: bool = False
    ) -> None:
        """Append an instruction; see `Step`."""
        self.steps.append(Step(
            Instruction(opcode=opcode, layer=self.layer, body=dict(body)), tuple(accesses), constant, self.early))

    def load_constants(
        self, target: Target, row: int, rows: int, offset: int, beats: int, source: Access | None = None
    ) -> None:
        """LOAD_WEIGHTS of `beats` beats into `rows` rows. `source`: DDR range if the program itself writes it."""
        accesses = [Access(target.name, row, row + rows, write=True)]
        body = {"region": Region.PROGRAM, "offset": offset, "beats": beats, "target": target, "row": row}
        self.emit(Opcode.LOAD_WEIGHTS, body, accesses + ([source] if source else []), constant=True)

    def load(self, transfer: Transfer, address: int, banks: Sequence[int]) -> None:
        """LOAD into the same addresses of all `banks`."""
        accesses = [Access(f"bank {b}", address, address + transfer.beats, write=True) for b in banks]
        body = transfer.fields(self.config.beat_bytes)
        body |= {"address": address, "bank_mask": sum(1 << b for b in banks)}
        self.emit(Opcode.LOAD, body, [*accesses, *transfer.accesses(self.config.beat_bytes, write=False)])

    def store(self, transfer: Transfer, source: Source | None, *, constant: bool = False) -> None:
        """STORE from `source`, or STORE_RESIDUAL if None."""
        body = transfer.fields(self.config.beat_bytes)
        if source is not None:
            body["source"] = source
        self.emit(Opcode.STORE_RESIDUAL if source is None else Opcode.STORE, body,
                  transfer.accesses(self.config.beat_bytes, write=True), constant=constant)
