"""Tokens, early loads, buffers."""

import pytest

from spikeloom.hw.isa import Engine, Instruction, Opcode
from spikeloom.hw.program.buffers import LeastRecentBuffer, PlannedBuffer, Regions
from spikeloom.hw.program.schedule import Access, Step, hoist_constants, insert_tokens


def _step(opcode, *accesses, early=False):
    return Step(Instruction(opcode=opcode), tuple(Access(*a) for a in accesses), early=early)


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


def test_early_loads_pass_what_they_do_not_touch():
    compute = _step(Opcode.COMPUTE, ("WEIGHTS", 0, 4), ("acc", 0, 1, True))
    drain, store = _step(Opcode.DRAIN, ("acc", 0, 1)), _step(Opcode.STORE, ("d", 0, 1, True))
    free = _step(Opcode.LOAD_WEIGHTS, ("WEIGHTS", 4, 8, True), early=True)
    used = _step(Opcode.LOAD_WEIGHTS, ("WEIGHTS", 0, 2, True), early=True)
    late = _step(Opcode.LOAD_WEIGHTS, ("WEIGHTS", 4, 8, True))
    assert hoist_constants([compute, drain, store, free]) == [free, compute, drain, store]
    assert hoist_constants([compute, drain, store, used]) == [compute, used, drain, store]
    assert hoist_constants([compute, drain, store, late]) == [compute, drain, store, late]
    assert hoist_constants([compute, drain, store, used, free]) == [compute, used, free, drain, store]


@pytest.mark.parametrize("reverse", [False, True])
def test_planned_buffer(reverse):
    """What is needed latest is given up; the next absent content comes as soon as a region is free for it."""
    filled = []
    uses = ["a", "b", "a", "c", "a", "b"]
    buffer = PlannedBuffer(Regions(11, 5, reverse), uses, lambda key, row: filled.append((key, row)))
    rows = (6, 1) if reverse else (0, 5)
    assert buffer.place(0) == rows[0]
    buffer.prefetch(0)
    assert buffer.place(1) == rows[1]
    buffer.prefetch(1)  # no room: a is needed before c
    assert filled == [("a", rows[0]), ("b", rows[1])]
    buffer.place(2)
    buffer.prefetch(2)  # b is needed last
    assert filled[2:] == [("c", rows[1])]
    assert [buffer.place(i) for i in (3, 4)] == [rows[1], rows[0]]
    buffer.prefetch(4)
    assert filled[3:] == [("b", rows[1])]


def test_least_recent_buffer():
    filled = []
    buffer = LeastRecentBuffer(Regions(8, 4))
    for key in "abacb":
        buffer.place(key, filled.append)
    assert filled == [0, 4, 4, 0]
