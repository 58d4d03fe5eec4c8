"""Store engine: output streams of the units -> DDR (STORE, STORE_RESIDUAL).

    sources[source] --> beat FIFO ----------------------> WriteClient.data
    instruction --> transfer generator --> burst FIFO --> WriteClient.request   (a burst enters with its last beat)
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from ..isa import Opcode
from .axi import WriteClient, WriteClientInterface
from .engine import engine_members


class StoreEngine(wiring.Component):
    """Executes STORE or STORE_RESIDUAL, whichever `opcode` says.

    Ports: those of `engine_members`; `write` (`WriteClient`); `sources`: `sources` streams of beats. An instruction
    takes exactly the beats of its transfer from the source that it names (STORE_RESIDUAL: number 0), none from others.
    `done` comes after the response of the last burst.

    Throughput: one beat per cycle, up to `depth` beats ahead of the port.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    error: Signal
    bases: Signal
    write: WriteClientInterface
    sources: list[stream.Interface]

    def __init__(self, config: MachineConfig, opcode: Opcode, sources: int, *, depth: int = 64) -> None:
        if opcode not in (Opcode.STORE, Opcode.STORE_RESIDUAL):
            raise ValueError(f"`opcode` must be STORE or STORE_RESIDUAL, not `{opcode!r}`")
        if not 1 <= sources <= 2:
            raise ValueError(f"`sources` must be 1 or 2, not `{sources!r}`")
        self.config, self.opcode, self.depth = config, opcode, depth
        super().__init__({
            **engine_members(), "write": Out(WriteClient(config)),
            "sources": In(stream.Signature(config.beat_bits)).array(sources)})

    def elaborate(self, platform: object) -> Module:
        raise NotImplementedError("being written")
