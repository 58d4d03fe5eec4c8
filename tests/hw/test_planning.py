"""Places on chip, order of the jobs, windows of residual tensors."""

import random

import pytest

from spikeloom.hw.program.buffers import Planner
from spikeloom.hw.program.errors import MappingError
from spikeloom.hw.program.order import StuckError, in_order
from spikeloom.hw.program.residual import Window
from spikeloom.hw.program.work import Content, Job, Lowered, Need, Work


def _check(depth, uses, plan, available=None, made=()):
    """Replay a plan: what a step uses is there, unbroken, and was not fetched too early."""
    rows = {}
    for step, use in enumerate(uses):
        sizes = {key: size for each in uses for key, size in each}

        def bring(fills, step=step, sizes=sizes):
            for key, row in fills:
                assert step >= (available or {}).get(key, 0)
                assert 0 <= row <= depth - sizes[key]
                for other in [k for k in rows if rows[k] < row + sizes[key] and row < rows[k] + sizes[k]]:
                    del rows[other]
                rows[key] = row

        bring(plan.fills[step])
        for key, _ in use:
            assert rows.get(key) == plan.rows[step][key], (step, key)
        before = dict(rows)
        bring(plan.ahead[step])
        assert all(rows.get(key) == before[key] for key, _ in use)  # it is used beside what is fetched
    for key in made:
        assert sum(key == k for part in (*plan.fills, *plan.ahead) for k, _ in part) == 1


def test_what_is_needed_latest_is_given_up():
    uses = [(("a", 5),), (("b", 5),), (("a", 5),), (("c", 5),), (("a", 5),), (("b", 5),)]
    plan = Planner("buffer", 11, uses).run()
    _check(11, uses, plan)
    brought = [key for part in zip(plan.fills, plan.ahead, strict=True) for fills in part for key, _ in fills]
    assert brought == ["a", "b", "c", "b"]
    assert plan.ahead[0] == [("b", plan.rows[1]["b"])]


@pytest.mark.parametrize("seed", range(30))
def test_random_uses(seed):
    rng = random.Random(seed)
    depth = rng.randint(20, 60)
    sizes = {key: rng.randint(1, depth // 2) for key in range(rng.randint(2, 12))}
    uses = []
    for _ in range(60):
        keys = rng.sample(sorted(sizes), rng.choice([1, 1, 1, 2]))
        while sum(sizes[key] for key in keys) > depth:
            keys.pop()
        uses.append(tuple((key, sizes[key]) for key in keys))
    first = {}
    for step, use in enumerate(uses):
        for key, _ in use:
            first.setdefault(key, step)
    available = {key: rng.randint(0, step) for key, step in first.items()}
    _check(depth, uses, Planner("buffer", depth, uses, available=available).run(), available)


def test_made_content_is_neither_moved_nor_fetched():
    uses = [(("planes", 6), ("a", 3)), (("planes", 6), ("b", 3)), (("planes", 6),), (("c", 9),)]
    plan = Planner("buffer", 10, uses, made=frozenset({"planes"})).run()
    _check(10, uses, plan, made=("planes",))


def test_what_is_made_leaves_room_in_one_piece():
    """What lies at both ends is given up, though what is made would fit between."""
    uses = [(("a", 2), ("d", 2)), (("planes", 6),), (("planes", 6), ("e", 3)), (("a", 2),), (("d", 2),)]
    plan = Planner("buffer", 10, uses, ahead=0, made=frozenset({"planes"})).run()
    _check(10, uses, plan, made=("planes",))
    assert plan.rows[1]["planes"] in (0, 4)


def test_an_idle_engine_fetches_more():
    """One content of 100 cycles ahead; more while those that are under way take less than 600."""
    uses = [((key, 1),) for key in range(20)]

    def fetched(durations):
        plan = Planner("buffer", 20, uses, ahead=1, beats=dict.fromkeys(range(20), 100), durations=durations).run()
        _check(20, uses, plan)
        return [len(fills) for fills in plan.ahead[:3]]

    assert fetched(()) == [1, 1, 1]
    assert fetched([1000] * 20) == [5, 6, 6]
    assert fetched([100] * 20) == [5, 1, 1]


def test_too_large():
    with pytest.raises(MappingError, match=r"^the weight buffer has 10 rows, 12 are needed at a time$"):
        Planner("weight buffer", 10, [(("a", 6), ("b", 6))]).run()


def _job(layer, row, *needs, cycles=100, glued=False):
    work = Work(spikes=(Content((layer, row), 1, None, tuple(needs)),), weights=None, chunks=(), compute=lambda _: None)
    return Job(layer=layer, rows=(row, row + 1), words=(0, 1), works=(work,), cycles=cycles, glued=glued)


def _layers(jobs):
    return [(job.layer, job.rows[0]) for job in jobs]


def test_a_strip_goes_as_deep_as_it_can():
    first = Lowered((0,), [_job(0, row, cycles=1000) for row in range(4)])
    second = Lowered((1,), [_job(1, row, Need(0, row, row + 1)) for row in range(4)])
    # the second operator follows when its input has been stored and loaded again, two strips later
    assert _layers(in_order([first, second], {}, {})) == [
        (0, 0), (0, 1), (0, 2), (1, 0), (0, 3), (1, 1), (1, 2), (1, 3)]


def test_room_and_barriers():
    first = Lowered((0,), [_job(0, row, cycles=9000) for row in range(4)])
    second = Lowered((1,), [_job(1, row, Need(0, row, row + 1)) for row in range(4)])
    other = Lowered((2,), [_job(2, 0)])
    order = _layers(in_order([first, second, other], {0: (1, 2, 4)}, {2: [1]}))
    for row in (2, 3):  # row 2 takes the place of row 0
        assert order.index((1, row - 2)) < order.index((0, row))
    assert order[-1] == (2, 0)
    far = Lowered((1,), [_job(1, row, Need(0, 0, 3)) for row in range(4)])
    with pytest.raises(StuckError):
        in_order([first, far], {0: (1, 2, 4)}, {})


def test_glued_jobs_stay_together():
    first = Lowered((0,), [_job(0, 0, glued=True), _job(0, 1, glued=True), _job(0, 2)])
    second = Lowered((1,), [_job(1, 0)])
    assert _layers(in_order([second, first], {}, {})) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_window():
    window = Window(base=10, groups=2, words=3, rows=4, width=5)
    items = [window.item(g, w, y, x) for g in range(2) for w in range(3) for y in range(4) for x in range(5)]
    assert items == list(range(10, 10 + window.size))
    assert window.item(1, 2, 7, 1) == window.item(1, 2, 3, 1)
