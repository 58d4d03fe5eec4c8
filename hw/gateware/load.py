"""Load engine: DDR -> spike banks, as words (LOAD) or as pixels through the packer (LOAD_PIXELS).

    LOAD        --> transfer generator --> ReadClient --> beats -----> write port of the spike banks
    LOAD_PIXELS --> PixelPacker (rows, windows, bit-planes) ------------^
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Out
from amaranth.utils import ceil_log2

from spikeloom.config import MachineConfig

from .axi import ReadClient, ReadClientInterface
from .engine import engine_members


class LoadEngine(wiring.Component):
    """Executes LOAD and LOAD_PIXELS.

    Ports: those of `engine_members`; `read` (`ReadClient`); `write_mask`, `write_address`, `write_data` to `SpikeBanks`
    (registers). LOAD writes one beat per cycle to consecutive addresses; for LOAD_PIXELS see `PixelPacker`.
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    error: Signal
    bases: Signal
    read: ReadClientInterface
    write_mask: Signal
    write_address: Signal
    write_data: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({
            **engine_members(), "read": Out(ReadClient(config)), "write_mask": Out(config.banks),
            "write_address": Out(ceil_log2(config.spike_depth)), "write_data": Out(config.beat_bits)})

    def elaborate(self, platform: object) -> Module:
        raise NotImplementedError("being written")
