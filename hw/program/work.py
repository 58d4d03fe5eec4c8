"""Work: what lowering makes of an operator, before it is put in order and given places on the chip.

An operator becomes jobs, a job (one tile of output) becomes works, and a work is one COMPUTE with what it needs and,
if it is the last of its job, the drains and stores behind it. Contents of the on-chip buffers have names; `Runner`
finds places for them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from .constants import Chunk

Name = Hashable

EVERY = 1 << 30
"""Beyond the last row or word of any map."""


@dataclass(frozen=True)
class Need:
    """Rows [first, last) of output words [first_word, last_word) of what operator `layer` makes.

    `band`: of the columns; None: all of them.
    """

    layer: int
    first: int = 0
    last: int = EVERY
    first_word: int = 0
    last_word: int = EVERY
    band: int | None = None

    def meets(self, rows: tuple[int, int], words: tuple[int, int], band: int) -> bool:
        """Some of it is among these rows and words of a band."""
        return (rows[0] < self.last and self.first < rows[1] and self.band in (None, band)
                and words[0] < self.last_word and self.first_word < words[1])


@dataclass(frozen=True)
class Content:
    """Rows of an on-chip buffer. `fill(row)` emits the loads that bring it in; None: its own works make it.

    `needs`: what must be in DDR before. `beats`: DDR beats of the loads, about.
    """

    name: Name
    size: int
    fill: Callable[[int], None] | None = None
    needs: tuple[Need, ...] = ()
    beats: int = 0


@dataclass(frozen=True)
class Places:
    """Where the runner put what a work needs.

    `spikes`: first bank address by name; the others: first row. `bank`: of the accumulators.
    """

    spikes: Mapping[Name, int]
    weights: int
    headers: int
    parameters: int
    bank: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """One COMPUTE.

    `chunks`: its headers; a function if they depend on where the spikes lie. `compute(places)` emits it,
    `finish(places)` what comes behind it. `prepare` emits loads that can run beside it.
    """

    spikes: tuple[Content, ...]
    weights: Content | None
    chunks: tuple[Chunk, ...] | Callable[[Mapping[Name, int]], tuple[Chunk, ...]]
    compute: Callable[[Places], None]
    parameters: Content | None = None
    prepare: Callable[[], None] | None = None
    finish: Callable[[Places], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A tile of output: its works follow each other.

    Attributes:
        layer: Operator.
        rows, words: Output rows and words [first, last) that it makes.
        cycles: Positions walked, over all chunks.
        accumulates: The works fill a bank of accumulators.
        glued: The next job of the operator must follow at once (potentials are carried from one to the next).
        needs: What must be there besides what its contents need.
        band: Of the columns.
    """

    layer: int
    rows: tuple[int, int]
    words: tuple[int, int]
    works: tuple[Work, ...]
    cycles: int
    accumulates: bool = True
    glued: bool = False
    needs: tuple[Need, ...] = ()
    band: int = 0


@dataclass
class Lowered:
    """Jobs of an operator (or of a pair of operators that hand over on chip) in a valid order.

    `on_chip`: tensors that they make and use up.
    """

    layers: tuple[int, ...]
    jobs: list[Job] = field(default_factory=list)
    on_chip: tuple[str, ...] = ()
