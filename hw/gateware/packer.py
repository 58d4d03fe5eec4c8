"""Pixel packer: rows of RGB bytes in DDR -> bit-plane words of sliding windows in the spike banks.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Out
from amaranth.utils import ceil_log2

from spikeloom.config import MachineConfig

from .axi import ReadClient, ReadClientInterface
from .engine import engine_members


class PixelPacker(wiring.Component):
    """Executes LOAD_PIXELS.

    Ports: those of `engine_members`; `read` (`ReadClient`); `write_mask`, `write_address`, `write_data` to `SpikeBanks`.
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
