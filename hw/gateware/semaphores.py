"""Semaphores: token counters between every pair of engines.

    tokens[p][c] += signal[p][c] - take[p][c]

`put` bit `p * N + c` adds a token from producer p for consumer c, `take` bit `p * N + c` removes one; both in one cycle
cancel. `available` bit `p * N + c` is 1 where a token is there. `overflow` pulses when a full counter is put to.

    put, take -> counter -> any? -> available          registers between all of them: whoever looks at `available`
        '------> full? --> any? --> overflow           has a whole cycle to decide
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

COUNTER_BITS = 8


class Semaphores(wiring.Component):
    """`engines` x `engines` token counters of 8 bits.

    A token is `available` `latency` = 2 cycles after its `put`, and no more so 2 cycles after its `take`. The caller
    takes only what is available, and no token of a pair in the cycle after it took one. `overflow` comes 2 cycles
    after the `put`.
    """

    put: Signal
    take: Signal
    available: Signal
    overflow: Signal

    latency = 2

    def __init__(self, engines: int) -> None:
        if engines < 2:
            raise ValueError(f"`engines` must be at least 2, not `{engines!r}`")
        self.engines = engines
        pairs = engines ** 2
        super().__init__({"put": In(pairs), "take": In(pairs), "available": Out(pairs), "overflow": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        available: list[Value] = []
        full: list[Value] = []
        for pair in range(self.engines ** 2):
            producer, consumer = divmod(pair, self.engines)
            if producer == consumer:
                available.append(Const(0, 1))  # an engine runs its queue in order: no semaphore to itself
                continue
            tokens = Signal(COUNTER_BITS, name=f"tokens_{producer}_{consumer}")
            more, less = self.put[pair] & ~self.take[pair], self.take[pair] & ~self.put[pair]
            available.append(tokens.any())
            full.append(more & tokens.all())
            with m.If(more):
                m.d.sync += tokens.eq(tokens + 1)
            with m.Elif(less):
                m.d.sync += tokens.eq(tokens - 1)
        beyond = Signal(len(full), name="beyond")
        m.d.sync += [self.available.eq(Cat(available)), beyond.eq(Cat(full)), self.overflow.eq(beyond.any())]
        return m
