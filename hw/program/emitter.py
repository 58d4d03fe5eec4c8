"""Instructions and constants as lowering puts them out, in program order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from spikeloom.config import MachineConfig
from spikeloom.hw.isa import Instruction, Opcode, Source, Target

from .layout import Region, TensorPlace
from .schedule import Access, Step
from .work import EVERY, Need

ALIGNMENT = 64
"""Alignment of constants and tensors in their regions, bytes."""

EXACT_RUNS = 64
"""Transfers of more runs than that count as one range in the hazard analysis."""


HALVED = 64
"""Beats from which on a load of constants is shared by two engines."""


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
        if self.count1 > 1 and self.stride1 == run:
            joined = Transfer(self.place, self.offset, self.run * self.count1, 1, 0, self.count2, self.stride2)
            return joined.accesses(beat_bytes, write)
        if self.count1 * self.count2 > EXACT_RUNS:
            last = self.offset + (self.count1 - 1) * self.stride1 + (self.count2 - 1) * self.stride2
            return (Access(space, self.offset, last + run, write),)
        return tuple(Access(space, start, start + run, write) for start in self._starts())

    def _starts(self) -> Iterator[int]:
        for j in range(self.count2):
            for i in range(self.count1):
                yield self.offset + j * self.stride2 + i * self.stride1


class Emitter:
    """Collects the steps of a program and its constants, for the operator number `layer`.

    `makers`: the operator that makes each tensor; the input has none. `sums`: tensors made of spatial sums, which are
    there when the last tile is. `band`: of the columns that is being made, by the operators `banded`.
    """

    def __init__(self, config: MachineConfig, makers: Mapping[str, int], sums: Collection[str] = ()) -> None:
        self.config, self.makers, self.sums = config, makers, sums
        self.layer = 0
        self.band = 0
        self.banded: Collection[int] = ()
        self.steps: list[Step] = []
        self.constants = bytearray()
        self._known: dict[bytes, int] = {}

    def needs(self, place: TensorPlace, *part: int) -> tuple[Need, ...]:
        """Part of a tensor: first and last row, first and last word, or all."""
        maker = self.makers.get(place.name)
        if maker is None:
            return ()
        need = Need(maker, 0, EVERY, *part[2:]) if place.name in self.sums else Need(maker, *part)
        return (replace(need, band=self.band) if maker in self.banded else need,)

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
            Instruction(opcode=opcode, layer=self.layer, body=dict(body)), tuple(accesses), constant))

    def load_constants(
        self, target: Target, row: int, rows: int, offset: int, beats: int, source: Access | None = None
    ) -> None:
        """Load `beats` beats into `rows` rows, large ones half by LOAD_WEIGHTS and half by LOAD_WEIGHTS_B.

        `source`: DDR range if the program itself writes it.
        """
        first = rows // 2 if beats >= HALVED else rows
        for opcode, start, count in ((Opcode.LOAD_WEIGHTS, 0, first), (Opcode.LOAD_WEIGHTS_B, first, rows - first)):
            if count:
                part, skipped = beats * count // rows, beats * start // rows
                accesses = [Access(target.name, row + start, row + start + count, write=True)]
                body = {"region": Region.PROGRAM, "offset": offset + skipped * self.config.beat_bytes, "beats": part,
                        "target": target, "row": row + start}
                self.emit(opcode, body, accesses + ([source] if source else []), constant=True)

    def load(self, transfer: Transfer, address: int, banks: Sequence[int]) -> None:
        """LOAD into the same addresses of all `banks`."""
        accesses = [Access(f"bank {b}", address, address + transfer.beats, write=True) for b in banks]
        body = transfer.fields(self.config.beat_bytes)
        body |= {"address": address, "bank_mask": sum(1 << b for b in banks)}
        self.emit(Opcode.LOAD, body, [*accesses, *transfer.accesses(self.config.beat_bytes, write=False)])

    def store(self, transfer: Transfer, source: Source, *, constant: bool = False) -> None:
        """STORE from `source`."""
        self.emit(Opcode.STORE, transfer.fields(self.config.beat_bytes) | {"source": source},
                  transfer.accesses(self.config.beat_bytes, write=True), constant=constant)

    def store_residual(self, transfer: Transfer, item: int, items: int) -> None:
        """STORE_RESIDUAL of `items` items."""
        self.emit(Opcode.STORE_RESIDUAL, transfer.fields(self.config.beat_bytes) | {"item": item},
                  [Access("RESIDUAL", item, item + items), *transfer.accesses(self.config.beat_bytes, write=True)])
