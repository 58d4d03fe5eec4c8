"""One engine at a time at a bank of accumulators."""

import pytest

from spikeloom.hw.isa import Core, Instruction, Opcode
from spikeloom.hw.program.bank_turns import BankTurns
from spikeloom.hw.program.memory import InterpreterError


def _turns(*instructions):
    return BankTurns([Instruction(opcode=opcode, body=body) for opcode, body in instructions])


def _compute(bank, core=Core.ARRAY):
    return Opcode.COMPUTE, {"acc_bank": bank, "core": core}


def _drain(bank):
    return Opcode.DRAIN, {"acc_bank": bank}


def test_every_drain_before_a_compute_is_done():
    turns = _turns(_compute(0), _drain(0), _drain(0), _compute(0))
    for index in (0, 1):
        turns.begin(index)
        turns.end(index)
    turns.begin(2)
    with pytest.raises(InterpreterError, match="accumulators 0: a DRAIN before it is not done"):
        turns.begin(3)
    turns.end(2)
    turns.begin(3)


def test_a_drain_awaits_its_compute():
    turns = _turns(_compute(1), _drain(1))
    turns.begin(0)
    with pytest.raises(InterpreterError, match="accumulators 1: a COMPUTE before it is not done"):
        turns.begin(1)
    turns.end(0)
    turns.begin(1)


def test_others_are_free():
    """The other bank; the Hamming unit, which has no accumulators; instructions of other engines."""
    turns = _turns(_compute(0), _drain(0), (Opcode.LOAD, {}), _compute(0, Core.HAMMING), _compute(1), _compute(0))
    turns.begin(0)
    turns.end(0)
    for index in (1, 2, 3, 4):
        turns.begin(index)
    with pytest.raises(InterpreterError):
        turns.begin(5)
