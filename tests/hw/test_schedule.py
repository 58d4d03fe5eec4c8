"""Tokens: which engine waits for which."""

from spikeloom.hw.isa import Engine, Instruction, Opcode
from spikeloom.hw.program.schedule import Access, Step, insert_tokens


def _step(opcode, *accesses):
    return Step(Instruction(opcode=opcode), tuple(Access(*a) for a in accesses))


def _tokens(steps):
    insert_tokens(steps)
    return [({e.name for e in s.instruction.wait}, {e.name for e in s.instruction.signal}) for s in steps]


def test_hazards():
    """Read after write, write after read, write after write; other ranges and memories need nothing."""
    tokens = _tokens([
        _step(Opcode.LOAD, ("a", 0, 8, True)),
        _step(Opcode.COMPUTE, ("a", 4, 6), ("b", 0, 1, True)),
        _step(Opcode.LOAD, ("a", 6, 8, True)),
        _step(Opcode.LOAD, ("a", 0, 5, True)),
        _step(Opcode.DRAIN, ("b", 1, 2), ("c", 0, 1, True)),
        _step(Opcode.STORE, ("b", 0, 2, True)),
        _step(Opcode.END)])
    assert tokens[0] == (set(), {"COMPUTE"})
    assert tokens[1] == ({"LOAD"}, {"LOAD", "STORE"})
    assert tokens[2] == (set(), set())
    assert tokens[3] == ({"COMPUTE"}, {"SEQUENCER"})
    assert tokens[4] == (set(), {"STORE"})
    assert tokens[5] == ({"COMPUTE", "DRAIN"}, {"SEQUENCER"})
    assert tokens[6] == ({"LOAD", "STORE"}, set())


def test_knowledge_is_passed_on():
    """DRAIN waits for COMPUTE, which waited for LOAD: no token from LOAD to DRAIN."""
    tokens = _tokens([
        _step(Opcode.LOAD, ("a", 0, 1, True)), _step(Opcode.COMPUTE, ("a", 0, 1), ("b", 0, 1, True)),
        _step(Opcode.DRAIN, ("a", 0, 1), ("b", 0, 1)), _step(Opcode.END)])
    assert tokens[2][0] == {"COMPUTE"}
    assert tokens[3][0] == {"DRAIN"}


def test_tokens_do_not_pile_up():
    """A thousand results, each waited for alone and late: the consumer waits for all of them instead."""
    steps = [_step(Opcode.STORE, ("d", i, i + 1, True)) for i in range(1000)]
    steps += [_step(Opcode.LOAD, ("d", i, i + 1)) for i in range(1000)] + [_step(Opcode.END)]
    insert_tokens(steps)
    assert sum(Engine.LOAD in s.instruction.signal for s in steps) <= 102
