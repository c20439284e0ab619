"""trace shows what really passed, changes nothing, and leaves nothing behind."""

import pytest
import torch
from helpers import BASE, ids_of, model_of

from llmcore.functional import cross_entropy
from llmcore.trace import trace

CONFIG = BASE.with_(attention="explicit")


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())


def test_every_module_is_seen_and_the_numbers_fit_together():
    model, ids = model_of(CONFIG), ids_of(2, 5)
    plain = model(ids)
    with trace(model) as seen:
        logits = model(ids)
    assert torch.equal(plain, logits)
    assert torch.equal(seen["output"], logits.detach())
    at = "decoder.blocks.1.attention"
    q, k, v, scores, weights = (seen[f"{at}.{n}"] for n in ("q", "k", "v", "scores", "weights"))
    torch.testing.assert_close(scores, q @ k.transpose(-2, -1) / 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))
    assert (weights.triu(1) == 0).all()
    torch.testing.assert_close(seen[f"{at}.heads"], weights @ v)
    first, second = "decoder.blocks.0.after_feed_forward", "decoder.blocks.1.after_attention"
    torch.testing.assert_close(seen[second], seen[first] + seen[at])
    silent = {name for name, _ in model.named_modules() if name and name not in seen}
    assert silent == {"decoder.blocks"} | {
        f"decoder.blocks.{i}.after_cross" for i in (0, 1)
    }  # a list; no cross-attention


def test_gradients_equal_those_of_autograd():
    model, ids = model_of(CONFIG), ids_of(2, 5)
    with trace(model, gradients=True) as seen:
        loss = cross_entropy(model(ids)[:, :-1], ids[:, 1:])
        path = "decoder.blocks.0.attention.weights"
        expected = torch.autograd.grad(loss, [seen[path], seen["output"]], retain_graph=True)
        loss.backward()
    torch.testing.assert_close(seen.gradients[path], expected[0])
    torch.testing.assert_close(seen.gradients["output"], expected[1])
    assert set(seen.gradients) <= set(seen)


def test_nothing_is_left_behind_even_after_an_error():
    model = model_of(CONFIG)
    before = hooks(model)
    with pytest.raises(ValueError, match="outside"), trace(model):
        model(torch.tensor([[99]]))
    assert hooks(model) == before == 0
    with trace(model, gradients=True) as seen:
        out = model(ids_of(1, 3))
    out.sum().backward()  # outside: nothing is recorded any more
    assert seen.gradients == {}


def test_a_path_that_was_not_seen_names_its_neighbours_and_why():
    model = model_of(BASE)
    with trace(model) as seen:
        model(ids_of(1, 3))
    with pytest.raises(
        KeyError, match=r"nearest are .*scores and weights pass by only with attention='explicit'"
    ):
        seen["decoder.blocks.0.attention.weights"]
    with pytest.raises(KeyError, match=r"nearest are \['decoder.blocks.0.attention'"):
        seen["decoder.blocks.0.atention"]
