"""Write port: several writers share the write channels of one AXI4 port.

    requests --> round robin --> AW register --> AW               (AWID = client)
    data ------> of the burst taken --> W register --> W
    response <-- BID <-- B                                        (always ready)

A client offers a burst when it has all its beats, so a burst that was begun always ends and nobody waits for data.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from .arbiter import RoundRobin
from .axi import (
    BURST_INCR,
    CACHE_MODIFIABLE_BUFFERABLE,
    LENGTH_BITS,
    MAX_CLIENTS,
    RESPONSE_OKAY,
    WriteBus,
    WriteBusInterface,
    WriteClient,
    WriteClientInterface,
    size_code,
)

OUTSTANDING_BITS = 4


class WritePort(wiring.Component):
    """Serves `count` writers; works outside the reset of the core.

    Ports:
        bus: `WriteBus`, towards memory.
        client0, client1, ...: `WriteClient`, seen from the port; the number is the ID on the bus.
        abort: Level. Takes no request; the burst that was begun is finished (its client goes on giving data), responses
            are awaited. To restart: hold it until `idle`, reset the clients, lower it.
        idle: No burst begun, nothing on offer, no response outstanding.

    At most 15 bursts of a client wait for their response. Latency: request to AW 1 cycle, data to W 1 cycle.
    Throughput: `length` beats in `length + 1` cycles.
    """

    bus: WriteBusInterface
    abort: Signal
    idle: Signal

    def __init__(self, config: MachineConfig, count: int) -> None:
        if not 1 <= count <= MAX_CLIENTS:
            raise ValueError(f"`count` must be 1..{MAX_CLIENTS}, not `{count!r}`")
        self.config, self.count = config, count
        super().__init__({
            "bus": Out(WriteBus(config)), "abort": In(1), "idle": Out(1),
            **{f"client{i}": In(WriteClient(config)) for i in range(count)}})

    @property
    def clients(self) -> list[WriteClientInterface]:
        """Ports `client0`, `client1`, ..."""
        return [getattr(self, f"client{i}") for i in range(self.count)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(LENGTH_BITS)  # beats of the present burst that are still to be taken
        giver = Signal(self.count)  # the client whose burst that is, none if no beat is left
        waiting = [Signal(OUTSTANDING_BITS, name=f"waiting{i}") for i in range(self.count)]
        begun = self._begin(m, left, giver, waiting)
        self._forward(m, left, giver)
        for index, client in enumerate(self.clients):
            answered = self._respond(m, index, client)
            m.d.sync += waiting[index].eq(waiting[index] + begun[index] - answered)
        # A burst waits for its response from the moment it is taken.
        m.d.comb += self.idle.eq(~Cat(count.any() for count in waiting).any())
        return m

    def _begin(self, m: Module, left: Signal, giver: Signal, waiting: list[Signal]) -> Signal:
        """Requests to AW; returns one bit per client, high when its request is taken."""
        bus = self.bus
        m.submodules.arbiter = arbiter = RoundRobin(self.count)
        open_, begun = Signal(), Signal(self.count)
        m.d.comb += open_.eq((~bus.awvalid | bus.awready) & ~giver.any() & ~self.abort)
        with m.If(bus.awready):
            m.d.sync += bus.awvalid.eq(0)
        for index, client in enumerate(self.clients):
            request = client.request
            m.d.comb += [
                arbiter.requests[index].eq(request.valid & ~waiting[index].all()),
                request.ready.eq(open_ & arbiter.requests[index] & (arbiter.grant == index)),
                begun[index].eq(request.ready & request.valid)]
            with m.If(begun[index]):
                m.d.sync += [
                    bus.awvalid.eq(1), bus.awid.eq(index), bus.awaddr.eq(request.payload.address),
                    bus.awlen.eq(request.payload.length - 1), left.eq(request.payload.length), giver.eq(1 << index)]
        m.d.comb += [
            arbiter.advance.eq(begun.any()), bus.awsize.eq(size_code(self.config)), bus.awburst.eq(BURST_INCR),
            bus.awcache.eq(CACHE_MODIFIABLE_BUFFERABLE)]
        return begun

    def _forward(self, m: Module, left: Signal, giver: Signal) -> None:
        """Beats of the client whose burst was begun to W."""
        bus = self.bus
        m.d.comb += bus.wstrb.eq(~0)
        with m.If(bus.wready):
            m.d.sync += bus.wvalid.eq(0)
        for index, client in enumerate(self.clients):
            source = client.data
            m.d.comb += source.ready.eq(giver[index] & (~bus.wvalid | bus.wready))
            with m.If(source.valid & source.ready):
                m.d.sync += [
                    bus.wvalid.eq(1), bus.wdata.eq(source.payload), bus.wlast.eq(left == 1), left.eq(left - 1)]
                with m.If(left == 1):
                    m.d.sync += giver.eq(0)

    def _respond(self, m: Module, index: int, client: WriteClientInterface) -> Signal:
        """B to `response` and `error`, through a register; returns the pulse."""
        bus = self.bus
        answered = Signal(name=f"answered{index}")
        m.d.comb += [bus.bready.eq(1), answered.eq(bus.bvalid & (bus.bid == index))]
        m.d.sync += [client.response.eq(answered), client.error.eq(answered & (bus.bresp != RESPONSE_OKAY))]
        return answered
