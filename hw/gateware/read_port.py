"""Read port: several readers share the read channels of one AXI4 port.

    requests --room?--> round robin --> AR register --> AR        (ARID = client)
    data <-- FIFO per client <-- RID <-- R register <-- R         (always ready)

A burst is issued only when the client's FIFO has room for all of it, counting what is still on the way (credits). So R
is accepted at once, and a client that stalls holds up no other.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from .arbiter import RoundRobin
from .axi import (
    BURST_INCR,
    CACHE_MODIFIABLE_BUFFERABLE,
    MAX_BEATS,
    MAX_CLIENTS,
    RESPONSE_OKAY,
    ReadBus,
    ReadBusInterface,
    ReadClient,
    ReadClientInterface,
    size_code,
)


class ReadPort(wiring.Component):
    """Serves `count` readers; works outside the reset of the core.

    Ports:
        bus: `ReadBus`, towards memory.
        client0, client1, ...: `ReadClient`, seen from the port; the number is the ID on the bus.
        abort: Level. Takes no request and shows no data; an ARVALID that is up stays up until accepted; data
            still to come and data buffered are dropped. To restart: hold it until `idle`, reset the clients, lower it.
        idle: Nothing on offer, outstanding or buffered.

    Answers of different clients may come in any order and interleaved. `data` of a client runs at one beat per cycle
    as long as `credits` beats cover the memory's latency; one burst per cycle is issued at most. Latency: request to
    AR 1 cycle, R to data 3 cycles.
    """

    bus: ReadBusInterface
    abort: Signal
    idle: Signal

    def __init__(self, config: MachineConfig, count: int, *, credits: int = 128) -> None:
        if not 1 <= count <= MAX_CLIENTS:
            raise ValueError(f"`count` must be 1..{MAX_CLIENTS}, not `{count!r}`")
        if credits < MAX_BEATS:
            raise ValueError(f"`credits` must be at least {MAX_BEATS}, not `{credits!r}`")
        self.config, self.count, self.credits = config, count, credits
        super().__init__({
            "bus": Out(ReadBus(config)), "abort": In(1), "idle": Out(1),
            **{f"client{i}": In(ReadClient(config)) for i in range(count)}})

    @property
    def clients(self) -> list[ReadClientInterface]:
        """Ports `client0`, `client1`, ..."""
        return [getattr(self, f"client{i}") for i in range(self.count)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        free = [Signal(range(self.credits + 1), init=self.credits, name=f"free{i}") for i in range(self.count)]
        issued = self._issue(m, free)
        beat = self._receive(m)
        for index, client in enumerate(self.clients):
            popped = self._buffer(m, index, client, beat[index])
            spent = Signal.like(client.request.payload.length, name=f"spent{index}")
            with m.If(issued[index]):
                m.d.comb += spent.eq(client.request.payload.length)
            m.d.sync += free[index].eq(free[index] + popped - spent)
        # A burst on offer has taken its credits already.
        m.d.comb += self.idle.eq(Cat(credit == self.credits for credit in free).all())
        return m

    def _issue(self, m: Module, free: list[Signal]) -> Signal:
        """Requests to AR; returns one bit per client, high when its request is taken."""
        bus, clients = self.bus, self.clients
        m.submodules.arbiter = arbiter = RoundRobin(self.count)
        open_, issued = Signal(), Signal(self.count)
        m.d.comb += open_.eq((~bus.arvalid | bus.arready) & ~self.abort)
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        for index, client in enumerate(clients):
            request = client.request
            m.d.comb += [
                arbiter.requests[index].eq(request.valid & (free[index] >= request.payload.length)),
                issued[index].eq(request.ready & request.valid),
                request.ready.eq(open_ & arbiter.requests[index] & (arbiter.grant == index))]
            with m.If(issued[index]):
                m.d.sync += [
                    bus.arvalid.eq(1), bus.arid.eq(index), bus.araddr.eq(request.payload.address),
                    bus.arlen.eq(request.payload.length - 1)]
        m.d.comb += [
            arbiter.advance.eq(issued.any()), bus.arsize.eq(size_code(self.config)), bus.arburst.eq(BURST_INCR),
            bus.arcache.eq(CACHE_MODIFIABLE_BUFFERABLE)]
        return issued

    def _receive(self, m: Module) -> list[tuple[Signal, Signal]]:
        """R through a register; returns (valid, data) per client and drives `error`."""
        bus = self.bus
        word = Signal(self.config.beat_bits)
        m.d.comb += bus.rready.eq(1)
        m.d.sync += word.eq(bus.rdata)
        beats = []
        for index, client in enumerate(self.clients):
            valid = Signal(name=f"beat{index}")
            hit = bus.rvalid & (bus.rid == index)
            m.d.sync += [valid.eq(hit), client.error.eq(hit & (bus.rresp != RESPONSE_OKAY) & ~self.abort)]
            beats.append((valid, word))
        return beats

    def _buffer(self, m: Module, index: int, client: ReadClientInterface, beat: tuple[Signal, Signal]) -> Signal:
        """FIFO of one client, emptied by `abort`; returns the pulse 'a beat has left'."""
        # One more than the credits: all but the output register of it is a memory, which then is a power of two.
        m.submodules[f"buffer{index}"] = buffer = fifo.SyncFIFOBuffered(
            width=self.config.beat_bits, depth=self.credits + 1)
        valid, word = beat
        popped = Signal(name=f"popped{index}")
        m.d.comb += [
            buffer.w_en.eq(valid), buffer.w_data.eq(word), client.data.payload.eq(buffer.r_data),
            client.data.valid.eq(buffer.r_rdy & ~self.abort), buffer.r_en.eq(client.data.ready | self.abort),
            popped.eq(buffer.r_rdy & buffer.r_en)]
        return popped
