"""Round-robin arbiter: fair choice among requests."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class RoundRobin(wiring.Component):
    """Chooses the first request after the one that was granted last.

    Ports: `requests` (one bit each), `grant` (index, meaningful while any request is there; combinational from
    `requests`), `advance`: the grant was used in this cycle. A request that stays is granted after at most
    `count - 1` others. Latency 0.
    """

    requests: Signal
    grant: Signal
    advance: Signal

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"`count` must be at least 1, not `{count!r}`")
        self.count = count
        super().__init__({"requests": In(count), "grant": Out(range(count)), "advance": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        last = Signal(range(self.count))
        with m.If(self.advance):
            m.d.sync += last.eq(self.grant)
        with m.Switch(last):
            for before in range(self.count):
                with m.Case(before):
                    # Later assignments win: nearest successor last.
                    for distance in range(self.count, 0, -1):
                        candidate = (before + distance) % self.count
                        with m.If(self.requests[candidate]):
                            m.d.comb += self.grant.eq(candidate)
        return m
