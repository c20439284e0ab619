"""A mask is a rule; its square is what a loop over queries and keys would write."""

import itertools

import pytest
import torch

from llmcore.mask import Mask, Padding

START, STOP = torch.tensor([0, 2, 4]), torch.tensor([6, 5, 4])


@pytest.mark.parametrize(
    ("causal", "start", "stop"), itertools.product([True, False], [None, START], [None, STOP])
)
@pytest.mark.parametrize("T", [6, 2, 1])
def test_the_square_equals_the_rule_read_aloud(causal, start, stop, T):
    S = 6
    square = Mask(causal, Padding(start, stop)).square(T, S)
    for b, t, s in itertools.product(range(3), range(T), range(S)):
        query = S - T + t  # the queries are the last T places
        allowed = not (causal and s > query)
        allowed &= start is None or s >= start[b].item()
        allowed &= stop is None or s < stop[b].item()
        seen = True if square is None else bool(square.expand(3, 1, T, S)[b, 0, t, s])
        assert seen == allowed, (b, t, s)


def test_positions_count_from_the_first_real_token():
    positions = Padding(start=START).positions(6, 0, START.device)
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 0, 1]]
    assert Padding().positions(2, 3, START.device).tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("causal", "start", "stop"), itertools.product([True, False], [None, START], [None, STOP])
)
def test_a_tile_is_that_part_of_the_square(causal, start, stop):
    S, T = 6, 4
    mask = Mask(causal, Padding(start, stop))
    square = mask.square(T, S)
    square = torch.ones(1, 1, T, S, dtype=torch.bool) if square is None else square
    for t, s in itertools.product(
        [range(0, 1), range(1, 4), range(0, 4)], [range(0, 2), range(1, 6), range(5, 6)]
    ):
        tile = mask.tile(range(t.start + S - T, t.stop + S - T), s)
        part = square[:, :, t.start : t.stop, s.start : s.stop]
        assert part.all() if tile is None else torch.equal(tile, part)
