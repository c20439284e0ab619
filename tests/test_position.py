"""What each kind of position adds or turns, and what a score then depends on."""

import pytest
import torch
from helpers import BASE

from llmcore.config import LLAMA, RotaryScaling
from llmcore.position import POSITIONS, Rotary, frequencies, scale_frequencies, sinusoids

X = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
Q, K = torch.randn(2, 1, 4, 1, 4, generator=torch.Generator().manual_seed(1)).unbind(0)
PLACES = torch.arange(6)[None]


def test_sinusoids_are_the_formula_entry_by_entry():
    P = sinusoids(torch.arange(50), 6)
    for p in range(50):
        for i in range(3):
            angle = torch.tensor(p / 10000 ** (2 * i / 6))
            torch.testing.assert_close(
                P[p, 2 * i : 2 * i + 2], torch.stack([angle.sin(), angle.cos()]), atol=1e-5, rtol=0
            )


def test_position_p_plus_k_is_a_linear_map_of_position_p():
    """One matrix M_k, the same for every p: P[p + k] = P[p] M_k."""
    P, k = sinusoids(torch.arange(40), 8).double(), 5
    M = torch.linalg.lstsq(P[:-k], P[k:]).solution
    torch.testing.assert_close(P[:-k] @ M, P[k:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["rotary", "rotary_interleaved"])
def test_a_rotary_score_depends_on_the_offset_alone(name):
    position = POSITIONS[name](BASE)
    at = lambda v, p: position.turner(torch.tensor([[p]]))(v)
    score = lambda m, n: (at(Q, m) * at(K, n)).sum(-1)
    torch.testing.assert_close(score(7, 3), score(107, 103), atol=1e-5, rtol=0)
    assert not torch.allclose(score(7, 3), score(7, 4), atol=1e-3)


@pytest.mark.parametrize("name", ["rotary", "rotary_interleaved"])
def test_turning_keeps_every_length(name):
    turned = POSITIONS[name](BASE).turner(PLACES)(torch.randn(2, 4, 6, 4))
    q = torch.randn(2, 4, 6, 4)
    turned = POSITIONS[name](BASE).turner(PLACES)(q)
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1), atol=1e-5, rtol=0)


def test_the_two_layouts_are_one_permutation_apart():
    order = torch.tensor([0, 2, 1, 3])  # half-split pairs (0, 2), (1, 3) become neighbours
    half, interleaved = (POSITIONS[n](BASE).turner(PLACES) for n in ("rotary", "rotary_interleaved"))
    q = torch.randn(2, 4, 6, 4)
    torch.testing.assert_close(half(q)[..., order], interleaved(q[..., order]))


@pytest.mark.parametrize("name", POSITIONS)
def test_a_kind_adds_or_turns_but_not_both(name):
    position = POSITIONS[name](BASE)
    for p in position.parameters():
        torch.nn.init.normal_(p)
    q = torch.randn(2, 4, 6, 4)
    adds, turns = not torch.equal(position(X, PLACES), X), not torch.equal(position.turner(PLACES)(q), q)
    assert (adds, turns) == {
        "none": (False, False), "sinusoidal": (True, False), "learned": (True, False),
        "sinusoidal_halves": (True, False),
        "rotary": (False, True), "rotary_interleaved": (False, True),
    }[name]  # fmt: skip


def test_llama_scaling_keeps_fast_pairs_and_slows_slow_ones():
    theta = frequencies(LLAMA.d_head, LLAMA.rotary_base)
    ratio = scale_frequencies(theta, LLAMA.rotary_scaling) / theta
    torch.testing.assert_close(ratio[[0, -1]], torch.tensor([1.0, 1 / 8]))
    assert (ratio.diff() <= 1e-6).all()
    torch.testing.assert_close(scale_frequencies(theta, RotaryScaling(factor=1.0)), theta)


def test_half_precision_stays_half():
    turn = Rotary(BASE).turner(PLACES)
    assert turn(torch.randn(2, 4, 6, 4).half()).dtype == torch.float16
