"""Bit-planes of items -> spike banks: each plane to a bank of its own, turned from word to word.

::

    valid, planes -> [ groups of `banks` planes, one per cycle ] -> rotate by `bank`, two bits per cycle -> mask, data
    address, stride ------------ + stride per group ---------------------------------------------------> o_address
"""

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spikeloom.arithmetic import PLANE_BITS
from spikeloom.config import MachineConfig

from .pipeline import delayed, delayed_flag, register

__all__ = ["ADDRESS_BITS", "PlaneWrite"]

ADDRESS_BITS = 20


class PlaneWrite(wiring.Component):
    """Writes the 8 planes of an item: plane p to bank `(bank + p) % banks`, at `address + p // banks * stride`.

    Throughput: one item in `interval` cycles. No handshake. Latency: the first group is put out after `latency`
    cycles, the others follow one per cycle.

    Args:
        config: The machine.

    Ports:
        valid: An item is there; not again in the `interval` - 1 cycles after.
        planes: Plane p at `p * beat_bits`.
        bank, address, stride: See above; `stride` counts with more than one group only.
        o_valid: A group is put out; a register, as `o_mask` is not 0.
        o_mask: A bit per bank: write `o_data[bank * beat_bits:]` to `o_address` of that bank.
    """

    valid: Signal
    planes: Signal
    bank: Signal
    address: Signal
    stride: Signal
    o_valid: Signal
    o_mask: Signal
    o_address: Signal
    o_data: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.banks, self.beat_bits = config.banks, config.beat_bits
        super().__init__({
            "valid": In(1), "planes": In(PLANE_BITS * config.beat_bits), "bank": In(range(config.banks)),
            "address": In(ADDRESS_BITS), "stride": In(ADDRESS_BITS), "o_valid": Out(1), "o_mask": Out(config.banks),
            "o_address": Out(ADDRESS_BITS), "o_data": Out(config.banks * config.beat_bits)})

    @property
    def interval(self) -> int:
        """Cycles per item: groups of planes that the banks can take at once."""
        return max(1, PLANE_BITS // self.banks)

    @property
    def latency(self) -> int:
        """Cycles to the first group: one if the groups are to be told apart, and one for every two bits of `bank`."""
        return int(self.interval > 1) + -(-len(self.bank) // 2)

    def model(self, planes: Sequence[int], bank: int, address: int, stride: int) -> list[tuple[int, int, int]]:
        """(mask, address, data) of every write of an item; `planes`: 8 words; data is 0 outside of the mask."""
        writes = []
        for group in range(self.interval):
            mask = data = 0
            for plane in range(group * PLANE_BITS // self.interval, (group + 1) * PLANE_BITS // self.interval):
                place = (bank + plane) % self.banks
                mask |= 1 << place
                data |= planes[plane] << place * self.beat_bits
            writes.append((mask, (address + group * stride) % (1 << ADDRESS_BITS), data))
        return writes

    def elaborate(self, platform) -> Module:
        m = Module()
        width = self.banks * self.beat_bits
        used = min(self.banks, PLANE_BITS)
        valid, planes, bank, address = self._groups(m)
        mask: Value = Cat(valid.replicate(used), Const(0, self.banks - used))[:self.banks]
        words: Value = Cat(planes, Const(0, width))[:width]
        steps = range(0, len(self.bank), 2)
        for step in steps:
            turns, bank = bank[:2], register(m, bank[2:], f"bank{step}")
            mask = _turned(mask, turns, 1 << step, f"mask{step}", m, reset=True)
            words = _turned(words, turns, self.beat_bits << step, f"words{step}", m, reset=False)
        m.d.comb += [self.o_valid.eq(delayed_flag(m, valid, len(steps), "put_out")[-1]), self.o_mask.eq(mask),
                     self.o_data.eq(words),
                     self.o_address.eq(delayed(m, address, len(steps), "late_address"))]
        return m

    def _groups(self, m: Module) -> tuple[Value, Value, Value, Value]:
        """(valid, planes, bank, address) of each group; only the low `banks` planes count."""
        if self.interval == 1:
            return self.valid, self.planes, self.bank, self.address
        width = self.banks * self.beat_bits
        planes, address, stride = Signal.like(self.planes), Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        bank = Signal.like(self.bank)
        busy = delayed_flag(m, self.valid, self.interval, "group")[1:].any()
        with m.If(self.valid):
            m.d.sync += [planes.eq(self.planes), bank.eq(self.bank), address.eq(self.address), stride.eq(self.stride)]
        with m.Else():
            m.d.sync += [planes.eq(planes >> width), address.eq(address + stride)]
        return busy, planes, bank, address


def _turned(value: Value, turns: Value, unit: int, name: str, m: Module, *, reset: bool) -> Signal:
    """`value` rotated left by `turns * unit`, a cycle later."""
    turned = Array([value.rotate_left(turn * unit) for turn in range(1 << len(turns))])[turns]
    held = Signal(len(value), name=name, reset_less=not reset)
    m.d.sync += held.eq(turned)
    return held
