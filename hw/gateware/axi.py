"""AXI4 master ports and the interfaces between them and the engines.

    engine --ReadClient--> ReadPort --ReadBus--> AXI4        engine --WriteClient--> WritePort --WriteBus--> AXI4

Members have the conventional flat names, so that `axi` of a port and a prefix give the ports of the top module. Not
implemented: QoS, region, user, lock, exclusive access, narrow and wrapping bursts.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Member, Out

from spikeloom.config import MachineConfig

ID_BITS = 4
ADDRESS_BITS = 40
MAX_BEATS = 16
"""Beats of the longest burst."""

LENGTH_BITS = 5
"""Holds 1..MAX_BEATS."""

BOUNDARY_BYTES = 4096
"""No burst crosses a multiple of this."""

MAX_CLIENTS = 1 << ID_BITS

BURST_INCR = 0b01
CACHE_MODIFIABLE_BUFFERABLE = 0b0011
RESPONSE_OKAY = 0b00

BURST = data.StructLayout({"address": ADDRESS_BITS, "length": LENGTH_BITS})
"""One INCR burst: byte address, beat aligned; beats 1..MAX_BEATS."""


def size_code(config: MachineConfig) -> int:
    """ARSIZE / AWSIZE of a whole beat: log2 of its bytes."""
    return config.beat_bytes.bit_length() - 1


def _address_members(channel: str) -> dict[str, Member]:
    return {
        f"{channel}id": Out(ID_BITS), f"{channel}addr": Out(ADDRESS_BITS), f"{channel}len": Out(8),
        f"{channel}size": Out(3), f"{channel}burst": Out(2), f"{channel}cache": Out(4), f"{channel}prot": Out(3),
        f"{channel}valid": Out(1), f"{channel}ready": In(1)}


def read_members(config: MachineConfig) -> dict[str, Member]:
    """Read channels of an AXI4 master, by conventional name without prefix."""
    return {
        **_address_members("ar"),
        "rid": In(ID_BITS), "rdata": In(config.beat_bits), "rresp": In(2), "rlast": In(1), "rvalid": In(1),
        "rready": Out(1)}


def write_members(config: MachineConfig) -> dict[str, Member]:
    """Write channels of an AXI4 master, by conventional name without prefix."""
    return {
        **_address_members("aw"),
        "wdata": Out(config.beat_bits), "wstrb": Out(config.beat_bytes), "wlast": Out(1), "wvalid": Out(1),
        "wready": In(1), "bid": In(ID_BITS), "bresp": In(2), "bvalid": In(1), "bready": Out(1)}


class ReadBusInterface(wiring.PureInterface):
    """Members of a `ReadBus`."""

    arid: Signal
    araddr: Signal
    arlen: Signal
    arsize: Signal
    arburst: Signal
    arcache: Signal
    arprot: Signal
    arvalid: Signal
    arready: Signal
    rid: Signal
    rdata: Signal
    rresp: Signal
    rlast: Signal
    rvalid: Signal
    rready: Signal


class ReadBus(wiring.Signature):
    """The read channels (AR, R) of an AXI4 master with beats of `config.beat_bits`."""

    def __init__(self, config: MachineConfig) -> None:
        super().__init__(read_members(config))

    def create(self, *, path: Any = None, src_loc_at: int = 0) -> ReadBusInterface:
        return ReadBusInterface(self, path=path, src_loc_at=1 + src_loc_at)


class WriteBusInterface(wiring.PureInterface):
    """Members of a `WriteBus`."""

    awid: Signal
    awaddr: Signal
    awlen: Signal
    awsize: Signal
    awburst: Signal
    awcache: Signal
    awprot: Signal
    awvalid: Signal
    awready: Signal
    wdata: Signal
    wstrb: Signal
    wlast: Signal
    wvalid: Signal
    wready: Signal
    bid: Signal
    bresp: Signal
    bvalid: Signal
    bready: Signal


class WriteBus(wiring.Signature):
    """The write channels (AW, W, B) of an AXI4 master with beats of `config.beat_bits`."""

    def __init__(self, config: MachineConfig) -> None:
        super().__init__(write_members(config))

    def create(self, *, path: Any = None, src_loc_at: int = 0) -> WriteBusInterface:
        return WriteBusInterface(self, path=path, src_loc_at=1 + src_loc_at)


class ReadClientInterface(wiring.PureInterface):
    """Members of a `ReadClient`."""

    request: stream.Interface
    data: stream.Interface
    error: Signal


class ReadClient(wiring.Signature):
    """What a reader sees of its `ReadPort`.

    * `request` (out): stream of `BURST`s. It may stall for long; requests are never withdrawn.
    * `data` (in): stream of beats, in the order of the requests. The client may stall it for any time.
    * `error` (in): a beat of this client came with a response other than OKAY (pulse; the beat is delivered too).
    """

    def __init__(self, config: MachineConfig) -> None:
        super().__init__({
            "request": Out(stream.Signature(BURST)), "data": In(stream.Signature(config.beat_bits)), "error": In(1)})

    def create(self, *, path: Any = None, src_loc_at: int = 0) -> ReadClientInterface:
        return ReadClientInterface(self, path=path, src_loc_at=1 + src_loc_at)


class WriteClientInterface(wiring.PureInterface):
    """Members of a `WriteClient`."""

    request: stream.Interface
    data: stream.Interface
    response: Signal
    error: Signal


class WriteClient(wiring.Signature):
    """What a writer sees of its `WritePort`.

    * `request` (out): stream of `BURST`s; offered only when all its beats are at hand.
    * `data` (out): stream of the beats, burst after burst. Taken only for an accepted request, and then the client
      must have `valid` high without a pause: other clients wait.
    * `response` (in): a burst of this client is finished (pulse).
    * `error` (in): together with `response` if that was not OKAY.
    """

    def __init__(self, config: MachineConfig) -> None:
        super().__init__({
            "request": Out(stream.Signature(BURST)), "data": Out(stream.Signature(config.beat_bits)),
            "response": In(1), "error": In(1)})

    def create(self, *, path: Any = None, src_loc_at: int = 0) -> WriteClientInterface:
        return WriteClientInterface(self, path=path, src_loc_at=1 + src_loc_at)
