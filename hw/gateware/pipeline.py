"""Building pieces of fixed-latency datapaths: registers without reset, delay lines, saturation.

Datapath registers carry no reset: their contents count only behind a valid flag, and without a reset a delay line may
become a shift-register LUT.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed

__all__ = ["chain_sum", "chosen", "delayed", "delayed_flag", "held", "low_sum", "register", "same", "saturated"]


def register(m: Module, value: Value, name: str, shape: Shape | None = None) -> Signal:
    """`value` one cycle later, in `shape` (default: its own)."""
    held = Signal(value.shape() if shape is None else shape, name=name, reset_less=True)
    m.d.sync += held.eq(value)
    return held


def chain_sum(plain: Value, computed: Value, carry: Value | None = None) -> Value:
    """`plain + computed`, plus the bit `carry`, signed: a LUT per bit, in which there is room for `computed`.

    `plain`, a register, goes onto the carry chain beside the LUTs. In a sum the tools choose that operand themselves,
    and one that is computed takes LUTs of its own there; so this is a difference: p + c = p - ~c - 1.
    """
    low = Const(0) if carry is None else carry
    return (Cat(low, plain).as_signed() - Cat(1, ~computed).as_signed()) >> 1


def low_sum(plain: Value, computed: Value, carry: Value | None = None) -> Value:
    """`chain_sum` of unsigned numbers of one width: the low part of a sum, and as the highest bit the carry."""
    return chain_sum(Cat(plain, 0).as_signed(), Cat(computed, 0).as_signed(), carry)[:len(plain) + 1]


def chosen(values: Sequence[Value], index: Value) -> Value:
    """Entry `index` of two to the power of its bits `values`, by multiplexers of two, which LUTs can merge with what
    follows (an `Array` becomes a comparison per entry)."""
    for bit in index:
        values = [Mux(bit, odd, even) for even, odd in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def delayed(m: Module, value: Value, cycles: int, name: str) -> Value:
    """`value`, `cycles` later: one shift register `name`."""
    if cycles == 0:
        return value
    shape, width = value.shape(), len(value)
    line = Signal(cycles * width, name=name, reset_less=True)
    m.d.sync += line.eq(Cat(value, line[:-width]))
    late = line[-width:]
    return late.as_signed() if shape.signed else late


def held(m: Module, value: Value, cycles: int, name: str) -> Value:
    """`value`, `cycles` later, in flip-flops: for short waits of wide values, where a shift register is a LUT per bit.

    The reset is what keeps the tools from making a shift register of it.
    """
    for cycle in range(cycles):
        later = Signal(value.shape(), name=f"{name}_{cycle}")
        m.d.sync += later.eq(value)
        value = later
    return value


def delayed_flag(m: Module, value: Value, cycles: int, name: str) -> Value:
    """Bit i is the one-bit `value`, i cycles later, for i in 0..`cycles`; resets to 0."""
    line = Signal(cycles, name=name)
    m.d.sync += line.eq(Cat(value, line))
    return Cat(value, line)


def saturated(value: Signal, bits: int) -> Value:
    """Hardware of `arithmetic.saturate` for a signed signal: LUTs only, no comparison."""
    if not value.shape().signed or bits >= len(value):
        raise ValueError(f"`value` must be signed and wider than {bits} bits, not {value.shape()!r}")
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    limit = Mux(value[-1], Const(low, signed(bits)), Const(high, signed(bits)))
    return Mux(same(value[bits - 1:]), value[:bits].as_signed(), limit)


def same(bits: Value) -> Value:
    """All bits are equal: a signed number whose bits from some position up are the same fits up to there."""
    return bits.all() | ~bits.any()
