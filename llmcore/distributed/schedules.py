"""Who does what in which order: the sends of a collective, the actions of a pipeline. Plain lists, no torch.

p ranks (or pipeline stages), numbered from 0. A collective is a list of steps, each a list of `Send`s that
happen at the same time. A pipeline schedule is one list of `Action`s per stage, in order; m microbatches, v
chunks of layers per stage.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Send:
    """One message: source sends a chunk of its buffer to destination, which adds it to its own or copies it.

    chunk: which of p equal parts of the buffer; None is the whole buffer.
    """

    source: int
    destination: int
    chunk: int | None
    add: bool

    def __repr__(self) -> str:
        what = "all" if self.chunk is None else f"chunk {self.chunk}"
        return f"{self.source} -> {self.destination}: {what}, {'add' if self.add else 'copy'}"


Steps = list[list[Send]]


def ring_reduce_scatter(p: int) -> Steps:
    """p - 1 steps; afterwards rank r holds the sum of chunk r over all ranks  [Patarasuk & Yuan 2009]

    A chunk starts beside its home and goes once round the ring; each rank that it passes adds its own part.

    >>> ring_reduce_scatter(2)
    [[0 -> 1: chunk 1, add, 1 -> 0: chunk 0, add]]
    """
    _ranks(p)
    return [[Send(r, (r + 1) % p, (r - 1 - step) % p, True) for r in range(p)] for step in range(p - 1)]


def ring_all_gather(p: int) -> Steps:
    """p - 1 steps; rank r starts with chunk r and every rank ends with all  [Patarasuk & Yuan 2009]

    >>> ring_all_gather(2)
    [[0 -> 1: chunk 0, copy, 1 -> 0: chunk 1, copy]]
    """
    _ranks(p)
    return [[Send(r, (r + 1) % p, (r - step) % p, False) for r in range(p)] for step in range(p - 1)]


def ring_all_reduce(p: int) -> Steps:
    """Reduce-scatter, then all-gather: 2 (p - 1) steps, every rank ends with the sum."""
    return ring_reduce_scatter(p) + ring_all_gather(p)


def tree_broadcast(p: int, root: int = 0) -> Steps:
    """ceil(log2 p) steps of a binomial tree: who has the buffer sends it on, so those who have it double

    >>> tree_broadcast(4)
    [[0 -> 1: all, copy], [0 -> 2: all, copy, 1 -> 3: all, copy]]
    """
    _ranks(p, root)
    rank = lambda place: (place + root) % p  # the root stands at place 0
    doubling = lambda k: [Send(rank(q), rank(q + 2**k), None, False) for q in range(min(2**k, p - 2**k))]
    return [doubling(k) for k in range(math.ceil(math.log2(p)))]


def tree_reduce(p: int, root: int = 0) -> Steps:
    """The broadcast backwards: ceil(log2 p) steps, the root ends with the sum, the others with parts of it

    >>> tree_reduce(4)
    [[2 -> 0: all, add, 3 -> 1: all, add], [1 -> 0: all, add]]
    """
    back = reversed(tree_broadcast(p, root))
    return [[Send(s.destination, s.source, None, True) for s in step] for step in back]


def tree_all_reduce(p: int, root: int = 0) -> Steps:
    """Reduce to the root, then broadcast from it: 2 ceil(log2 p) steps, every rank ends with the sum."""
    return tree_reduce(p, root) + tree_broadcast(p, root)


COLLECTIVES: dict[str, Callable[[int], Steps]] = {
    "ring reduce-scatter": ring_reduce_scatter,
    "ring all-gather": ring_all_gather,
    "ring all-reduce": ring_all_reduce,
    "tree broadcast": tree_broadcast,
    "tree reduce": tree_reduce,
    "tree all-reduce": tree_all_reduce,
}


def step_count(kind: str, p: int) -> int:
    """How many steps: p - 1 of a ring or ceil(log2 p) of a tree, twice for an all-reduce

    >>> step_count("ring all-reduce", 8), step_count("tree all-reduce", 8)
    (14, 6)
    """
    _kind(kind, p)
    once = p - 1 if kind.startswith("ring") else math.ceil(math.log2(p))
    return 2 * once if kind.endswith("all-reduce") else once


def bytes_per_rank(kind: str, p: int, n_bytes: int) -> float:
    """Bytes that the busiest rank sends for a buffer of n = n_bytes. Exact where p divides the buffer.

    Ring (p - 1) / p n, tree broadcast ceil(log2 p) n, tree reduce n. An all-reduce by ring is 2 (p - 1) / p
    n on every rank, below 2 n however many ranks there are. By tree the root sends ceil(log2 p) n, and no
    rank more.

    >>> [bytes_per_rank("ring all-reduce", p, 1000) for p in (2, 4, 8)]
    [1000.0, 1500.0, 1750.0]
    """
    _kind(kind, p)
    if kind.startswith("ring"):
        return step_count(kind, p) / p * n_bytes
    return float(n_bytes * (min(1, p - 1) if kind == "tree reduce" else math.ceil(math.log2(p))))


def bytes_in_all(kind: str, p: int, n_bytes: int) -> int:
    """Bytes that all ranks send together, n = n_bytes: (p - 1) n, for an all-reduce 2 (p - 1) n

    They are as many by ring as by tree; the ring spreads them evenly.

    >>> bytes_in_all("ring all-reduce", 8, 1000) == bytes_in_all("tree all-reduce", 8, 1000) == 14000
    True
    """
    _kind(kind, p)
    return (2 if kind.endswith("all-reduce") else 1) * (p - 1) * n_bytes


def seconds(kind: str, p: int, n_bytes: int, latency: float, bandwidth: float) -> float:
    """steps x (latency + message / bandwidth); n / p a message in a ring, n in a tree  [Thakur et al. 2005]

    latency: seconds that a message takes however short it is; bandwidth: bytes per second of one link.
    """
    message = n_bytes / p if kind.startswith("ring") else n_bytes
    return step_count(kind, p) * (latency + message / bandwidth)


@dataclass(frozen=True)
class Action:
    """An entry of a stage's schedule: forward (F) or backward (B) of a microbatch through a chunk."""

    kind: Literal["F", "B"]
    microbatch: int
    chunk: int = 0

    def __repr__(self) -> str:
        return f"{self.kind}{self.microbatch}" + (f".{self.chunk}" if self.chunk else "")


Orders = list[list[Action]]


def gpipe(p: int, m: int) -> Orders:
    """All forwards, then all backwards, the last microbatch first  [Huang et al. 2019]

    >>> gpipe(2, 3)[0]
    [F0, F1, F2, B2, B1, B0]
    """
    _pipeline(p, m)
    return [
        [Action("F", i) for i in range(m)] + [Action("B", i) for i in reversed(range(m))] for _ in range(p)
    ]


def one_forward_one_backward(p: int, m: int) -> Orders:
    """1F1B: stage s runs p - s - 1 forwards ahead, then one forward and one backward in turn

    The same bubble as GPipe, and at most p - s microbatches held instead of m  [Narayanan et al. 2019, 2021].

    >>> one_forward_one_backward(2, 3)
    [[F0, F1, B0, F2, B1, B2], [F0, B0, F1, B1, F2, B2]]
    """
    return interleaved(p, m, 1)


def interleaved(p: int, m: int, v: int) -> Orders:
    """1F1B with v chunks of layers per stage: chunk c of stage s holds part c p + s of the model

    The bubble is v times shorter  [Narayanan et al. 2021]. Microbatches go in groups of p through one chunk
    after the other: where v > 1, p must divide m, else ValueError.

    >>> interleaved(2, 2, 2)[1]
    [F0, F1, F0.1, B0.1, F1.1, B1.1, B0, B1]
    """
    _pipeline(p, m)
    if v < 1 or (v > 1 and m % p):
        given = f"v={v} chunks, m={m} microbatches, p={p} stages"
        raise ValueError(f"{given}: v is at least 1, and where it is above 1 p divides m")

    def action(k: int, kind: Literal["F", "B"]) -> Action:
        if v == 1:
            return Action(kind, k)
        chunk, microbatch = k // p % v, k // (p * v) * p + k % p
        return Action(kind, microbatch, chunk if kind == "F" else v - 1 - chunk)

    orders = []
    for stage in range(p):
        ahead = p - stage - 1 if v == 1 else 2 * (p - stage - 1) + (v - 1) * p
        order, total = [], m * v
        for k in range(total + ahead):
            if k < total:
                order.append(action(k, "F"))
            if k >= ahead:
                order.append(action(k - ahead, "B"))
        orders.append(order)
    return orders


PIPELINES: dict[str, Callable[[int, int], Orders]] = {"gpipe": gpipe, "1f1b": one_forward_one_backward}


@dataclass(frozen=True)
class Span:
    """An action with the time at which it starts and ends."""

    action: Action
    start: float
    end: float


def timeline(orders: Sequence[Sequence[Action]], forward: float = 1, backward: float = 2) -> list[list[Span]]:
    """When each stage does what: an action starts once its stage is free and its input is there

    Sending takes no time. forward, backward: time of one microbatch through all layers of one stage; with v
    chunks each action takes 1 / v of it. A forward waits for the part of the model before it, a backward for
    the part after it, the last part's backward for its own forward. Raises ValueError for orders in which
    stages would wait for ever.

    >>> [(s.action, s.start, s.end) for s in timeline(gpipe(2, 1))[1]]
    [(F0, 1, 2), (B0, 2, 4)]
    """
    p, v = len(orders), 1 + max((action.chunk for order in orders for action in order), default=0)
    lasts = {"F": forward if v == 1 else forward / v, "B": backward if v == 1 else backward / v}
    done: Ends = {}
    spans: list[list[Span]] = [[] for _ in orders]
    moved = True
    while moved:
        moved = False
        for stage, order in enumerate(orders):
            for action in order[len(spans[stage]) :]:
                part = action.chunk * p + stage
                arrived = _input_ready(done, action, part, last=part == p * v - 1)
                if arrived is None:
                    break
                start = max(arrived, spans[stage][-1].end if spans[stage] else 0)
                end = start + lasts[action.kind]
                spans[stage].append(Span(action, start, end))
                done[action.kind, action.microbatch, part] = end
                moved = True
    waiting = {s: order[len(spans[s])] for s, order in enumerate(orders) if len(spans[s]) < len(order)}
    if waiting:
        remedy = "order every F before its B, and every stage's microbatches alike"
        raise ValueError(f"these stages wait for ever: {waiting}; {remedy}")
    return spans


Ends = dict[tuple[str, int, int], float]  # (kind, microbatch, part of the model) -> when that was done


def _input_ready(done: Ends, action: Action, part: int, last: bool) -> float | None:
    """When the input of an action of this part is there; None where it has not been made yet."""
    if action.kind == "F":
        return 0 if part == 0 else done.get(("F", action.microbatch, part - 1))
    own = done.get(("F", action.microbatch, part))
    after = own if last else done.get(("B", action.microbatch, part + 1))
    return None if own is None or after is None else max(own, after)


def bubble(spans: Sequence[Sequence[Span]]) -> float:
    """The share of all stages' time in which they wait, from the first start to the last end

    >>> bubble(timeline(one_forward_one_backward(4, 8))) == bubble_share(4, 8) == 3 / 11
    True
    """
    length = max(s.end for stage in spans for s in stage) - min(s.start for stage in spans for s in stage)
    return 1 - sum(s.end - s.start for stage in spans for s in stage) / (length * len(spans))


def bubble_share(p: int, m: int, v: int = 1) -> float:
    """The idle share predicted: (p - 1) / (v m + p - 1), to fill and to drain, beside m microbatches

    [Narayanan et al. 2021, 2.2] writes the same as a share of the working time: (p - 1) / (v m).
    """
    _pipeline(p, m)
    return (p - 1) / (v * m + p - 1)


def most_held(order: Sequence[Action]) -> int:
    """The most microbatches that a stage holds the activations of at once: after forward, before backward

    With v chunks it counts microbatches in one chunk each, of which v make one in the whole stage.

    >>> [most_held(order) for order in gpipe(4, 8)]
    [8, 8, 8, 8]
    >>> [most_held(order) for order in one_forward_one_backward(4, 8)]
    [4, 3, 2, 1]
    """
    held = most = 0
    for action in order:
        held += 1 if action.kind == "F" else -1
        most = max(most, held)
    return most


def _ranks(p: int, root: int = 0) -> None:
    if p < 1 or not 0 <= root < p:
        raise ValueError(f"p={p}, root={root}: needs at least one rank, and a root from 0 to p - 1")


def _kind(kind: str, p: int) -> None:
    if kind not in COLLECTIVES:
        raise ValueError(f"kind={kind!r} is unknown: choose one of {list(COLLECTIVES)}")
    _ranks(p)


def _pipeline(p: int, m: int) -> None:
    if p < 1 or m < 1:
        raise ValueError(f"p={p} stages, m={m} microbatches: both must be at least 1")
