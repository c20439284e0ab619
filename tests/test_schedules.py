"""Schedules run on plain numbers: what ranks end with, who sends how much, when stages work and hold."""

import subprocess
import sys

import numpy as np
import pytest

from llmcore.distributed.schedules import (
    COLLECTIVES,
    PIPELINES,
    Action,
    bubble,
    bubble_share,
    bytes_in_all,
    bytes_per_rank,
    gpipe,
    interleaved,
    most_held,
    one_forward_one_backward,
    ring_all_gather,
    seconds,
    step_count,
    timeline,
    tree_broadcast,
    tree_reduce,
)

RANKS = [1, 2, 3, 4, 5, 7, 8, 16]
SIZE = 5  # numbers a chunk


def run(steps, buffers):
    """Every rank's buffer (p, p chunks, SIZE) after the steps; a step's sends read what was before it."""
    for step in steps:
        now = buffers.copy()
        for send in step:
            part = slice(None) if send.chunk is None else send.chunk
            sent = buffers[send.source, part]
            now[send.destination, part] = now[send.destination, part] + sent if send.add else sent
        buffers = now
    return buffers


@pytest.mark.parametrize("p", RANKS)
@pytest.mark.parametrize("kind", COLLECTIVES)
def test_every_collective_ends_with_what_its_name_says(kind, p):
    start = np.random.default_rng(p).integers(-50, 50, (p, p, SIZE))
    end, total = run(COLLECTIVES[kind](p), start), start.sum(0)
    what = kind.split()[1]
    if what == "all-reduce":
        assert (end == total).all()
    elif what == "reduce":
        assert (end[0] == total).all()
    elif what == "broadcast":
        assert (end == start[0]).all()
    elif what == "reduce-scatter":
        assert all((end[r, r] == total[r]).all() for r in range(p))
    else:
        assert all((end[r, c] == start[c, c]).all() for r in range(p) for c in range(p))


@pytest.mark.parametrize("p", [2, 3, 6, 8])
def test_a_tree_may_have_any_root(p):
    start = np.random.default_rng(p).integers(-50, 50, (p, p, SIZE))
    for root in range(p):
        assert (run(tree_broadcast(p, root), start) == start[root]).all()
        assert (run(tree_reduce(p, root), start)[root] == start.sum(0)).all()


@pytest.mark.parametrize("p", RANKS)
@pytest.mark.parametrize("kind", COLLECTIVES)
def test_steps_and_bytes_are_those_of_the_formulas(kind, p):
    steps, n = COLLECTIVES[kind](p), 840 * 16  # divided by every p here
    sent = [
        sum(n if s.chunk is None else n // p for step in steps for s in step if s.source == r)
        for r in range(p)
    ]
    assert len(steps) == step_count(kind, p)
    assert sum(sent) == bytes_in_all(kind, p, n)
    assert max(sent, default=0) == bytes_per_rank(kind, p, n)
    if kind.startswith("ring"):
        assert len(set(sent)) == 1  # everyone the same


@pytest.mark.parametrize("p", RANKS)
@pytest.mark.parametrize("kind", COLLECTIVES)
def test_in_one_step_a_rank_sends_at_most_one_message_and_receives_at_most_one(kind, p):
    for step in COLLECTIVES[kind](p):
        assert len({s.source for s in step}) == len({s.destination for s in step}) == len(step) > 0
        assert all(s.source != s.destination for s in step)


def test_a_ring_talks_to_its_neighbour_alone():
    assert all(s.destination == (s.source + 1) % 5 for step in ring_all_gather(5) for s in step)


def test_a_ring_moves_large_buffers_sooner_and_a_tree_small_ones():
    """All-reduce over 64 ranks: the ring's 126 short messages against the tree's 12 long ones."""
    link = {"latency": 5e-6, "bandwidth": 50e9}
    time = lambda how, n: seconds(f"{how} all-reduce", 64, n, **link)
    assert time("tree", 1_000) < time("ring", 1_000) / 10
    assert time("ring", 10**9) < time("tree", 10**9) / 5
    assert seconds("ring all-reduce", 1, 10**9, **link) == 0


EVERY = [(name, p, m) for name in PIPELINES for p in (1, 2, 3, 4, 8) for m in (1, 2, 3, 4, 8, 13)]
INTERLEAVED = [(p, m, v) for p in (1, 2, 3, 4) for m in (p, 2 * p, 3 * p) for v in (1, 2, 3)]
ORDERS = [PIPELINES[name](p, m) for name, p, m in EVERY] + [interleaved(*sizes) for sizes in INTERLEAVED]


@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize(("forward", "backward"), [(1, 2), (3, 1)])
def test_every_work_starts_as_soon_as_its_stage_is_free_and_its_input_is_there(orders, forward, backward):
    spans = timeline(orders, forward, backward)
    p, v = len(orders), 1 + max(w.chunk for o in orders for w in o)
    end = {
        (s.action.kind, s.action.microbatch, s.action.chunk * p + stage): s.end
        for stage, row in enumerate(spans)
        for s in row
    }
    m = len({w.microbatch for w in orders[0]})
    assert (
        len(end) == 2 * m * p * v == sum(map(len, orders))
    )  # each microbatch once forward and once backward in every part
    for stage, row in enumerate(spans):
        free = 0.0
        for s in row:
            part = s.action.chunk * p + stage
            if s.action.kind == "F":
                arrived = end[("F", s.action.microbatch, part - 1)] if part else 0
            else:
                own = end[("F", s.action.microbatch, part)]
                arrived = max(own, end[("B", s.action.microbatch, part + 1)]) if part < p * v - 1 else own
            assert s.start == max(free, arrived)
            assert s.end - s.start == pytest.approx((forward if s.action.kind == "F" else backward) / v)
            free = s.end


@pytest.mark.parametrize(("forward", "backward"), [(1, 2), (1, 1), (3, 1)])
def test_the_bubble_is_the_one_predicted(forward, backward):
    for name, p, m in EVERY:
        assert bubble(timeline(PIPELINES[name](p, m), forward, backward)) == pytest.approx(
            bubble_share(p, m), abs=1e-12
        )
    for p, m, v in INTERLEAVED:
        assert bubble(timeline(interleaved(p, m, v), forward, backward)) == pytest.approx(
            bubble_share(p, m, v), abs=1e-12
        )


def test_what_a_stage_holds():
    for p, m in ((1, 4), (4, 2), (4, 8), (8, 8)):
        assert [most_held(order) for order in gpipe(p, m)] == [m] * p
        assert [most_held(order) for order in one_forward_one_backward(p, m)] == [
            min(m, p - s) for s in range(p)
        ]
    # interleaving holds more: stage 0 has 2 (p - 1) + (v - 1) p forwards ahead and the one it is in, each of
    # 1 / v stage
    p, m, v = 4, 16, 2
    assert most_held(interleaved(p, m, v)[0]) == 2 * (p - 1) + (v - 1) * p + 1
    assert most_held(interleaved(p, m, v)[0]) / v > p


def test_interleaved_work_is_in_the_order_of_the_published_figure():
    """First stage of 4, two chunks, 8 microbatches: Narayanan et al. 2021, Figure 4 (which counts from 1)."""
    first = interleaved(4, 8, 2)[0]
    forwards = [w for w in first if w.kind == "F"]
    assert forwards == [Action("F", i, c) for group in (range(4), range(4, 8)) for c in (0, 1) for i in group]
    assert [w for w in first if w.kind == "B"] == [Action("B", w.microbatch, 1 - w.chunk) for w in forwards]
    assert first.index(Action("B", 0, 1)) == 11


def test_an_order_that_waits_for_ever_is_named():
    orders = one_forward_one_backward(2, 2)
    orders[0] = [Action("B", 0), Action("F", 0), Action("F", 1), Action("B", 1)]
    with pytest.raises(ValueError, match=r"wait for ever: \{0: B0, 1: F0\}"):
        timeline(orders)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="p=0, root=0"):
        ring_all_gather(0)
    with pytest.raises(ValueError, match="p=4, root=4"):
        tree_broadcast(4, 4)
    with pytest.raises(ValueError, match="kind='star'"):
        step_count("star", 4)
    with pytest.raises(ValueError, match="p=2 stages, m=0 microbatches"):
        gpipe(2, 0)
    with pytest.raises(ValueError, match="v=2 chunks, m=5 microbatches, p=4 stages"):
        interleaved(4, 5, 2)


def test_schedules_need_no_torch():
    code = "import sys, llmcore.distributed.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
