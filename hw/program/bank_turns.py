"""Whose turn it is at a bank of accumulators, for the interpreter.

A bank has one read port, for COMPUTE's updates and for DRAIN. So an instruction may begin on it when those of the other
engine that come before it in the program are done, whichever addresses they touch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from spikeloom.hw.isa import Core, Instruction, Opcode

from .memory import InterpreterError

__all__ = ["BankTurns"]

_OTHER = {Opcode.COMPUTE: Opcode.DRAIN, Opcode.DRAIN: Opcode.COMPUTE}


class BankTurns:
    """Follows the instructions of a program, by their index, in any order in which engines execute them."""

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self._users: dict[int, tuple[Opcode, int]] = {}
        self._awaited: dict[int, int] = {}
        self._done: Counter[tuple[Opcode, int]] = Counter()
        seen: Counter[tuple[Opcode, int]] = Counter()
        for index, instruction in enumerate(instructions):
            body, opcode = instruction.body, instruction.opcode
            if opcode not in _OTHER or body.get("core") == Core.HAMMING:
                continue
            bank = body["acc_bank"]
            self._users[index], self._awaited[index] = (opcode, bank), seen[_OTHER[opcode], bank]
            seen[opcode, bank] += 1

    def begin(self, index: int) -> None:
        """Raises InterpreterError if the other engine is not done with the bank."""
        if index not in self._users:
            return
        opcode, bank = self._users[index]
        if self._done[_OTHER[opcode], bank] < self._awaited[index]:
            raise InterpreterError(f"accumulators {bank}: a {_OTHER[opcode].name} before it is not done")

    def end(self, index: int) -> None:
        """The instruction is done."""
        if index in self._users:
            self._done[self._users[index]] += 1
