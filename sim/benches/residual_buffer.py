"""Residual buffer against a list: all four users at random, the drain engine with priority, exact latency."""

import random

import cocotb
from cocotb.triggers import RisingEdge

from spikeloom.hw.gateware.residual_buffer import ResidualBuffer

from . import support


class Users:
    """What the users do in one cycle, and what it does to `content`."""

    def __init__(self, dut, config, rng: random.Random) -> None:
        self.dut, self.rng = dut, rng
        self.rows = [rng.randrange(config.residual_depth) for _ in range(5)] + [0, config.residual_depth - 1]
        self.bits = config.residual_beats * config.beat_bits
        self.content: dict[int, int] = {}

    def write(self, valid: str, user: str, share: float) -> tuple[int, int, int]:
        offer = (self.rng.random() < share, self.rng.choice(self.rows), self.rng.getrandbits(self.bits))
        names = (valid, f"{user}_row", f"{user}_data")
        for name, value in zip(names, offer, strict=True):
            getattr(self.dut, name).value = int(value)
        return offer

    def read(self, valid: str, row: str, share: float) -> tuple[int, int]:
        offer = (self.rng.random() < share, self.rng.choice(self.rows))
        getattr(self.dut, valid).value, getattr(self.dut, row).value = (int(value) for value in offer)
        return offer


@cocotb.test()
async def four_users(dut):
    config, rng = support.config(), random.Random(support.seed())
    await support.start(dut)
    users = Users(dut, config, rng)
    for row in users.rows:
        dut.write_en.value, dut.write_row.value = 1, row
        dut.write_data.value = users.content[row] = rng.getrandbits(users.bits)
        await support.ticks(dut, 1)
    under_way: list[tuple[int, int | None]] = [(0, None)] * ResidualBuffer.latency  # for the store?, item
    for number in range(1500):
        busy = (0.1, 0.5, 0.95)[number // 500]
        drain, load = users.write("write_en", "write", busy), users.write("load_valid", "load", 0.5)
        shortcut, store = users.read("read_en", "read_row", busy), users.read("store_valid", "store_row", 0.5)
        await RisingEdge(dut.clk)
        for_store, expected = under_way.pop(0)
        assert int(dut.store_data_valid.value) == for_store
        assert expected is None or int(dut.read_data.value) == expected, f"cycle {support.cycle()}"
        assert int(dut.shortcut_data.value) == (0 if for_store or expected is None else expected)
        assert int(dut.load_ready.value) == (not drain[0])
        assert int(dut.store_ready.value) == (not shortcut[0])
        taken = shortcut if shortcut[0] else store
        under_way.append((int(taken is store and store[0]), users.content[taken[1]] if taken[0] else None))
        written = drain if drain[0] else load
        if written[0]:
            users.content[written[1]] = written[2]
