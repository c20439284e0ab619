"""A lookup is a one-hot product, in value and in gradient; a gradient reaches the rows that are present."""

import pytest
import torch
from helpers import BASE, model_of

from llmcore.embedding import Embedding, lookup, one_hot, one_hot_product

IDS = torch.tensor([101, 102, 100, 104, 105, 200])
TABLE = torch.randn(201, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_product_equals_the_lookup_in_value_and_gradient():
    grads = []
    for function in (lookup, one_hot_product):
        table = TABLE.clone().requires_grad_()
        y = function(IDS, table)
        torch.testing.assert_close(y, TABLE[IDS], atol=0, rtol=0)
        (y**3).sum().backward()
        grads.append(table.grad)
    torch.testing.assert_close(*grads, atol=1e-12, rtol=0)


def test_only_rows_of_present_ids_get_a_gradient_and_repeats_sum():
    table = TABLE.clone().requires_grad_()
    ids = torch.tensor([101, 102, 101])
    weights = torch.tensor([[1.0], [10.0], [100.0]], dtype=torch.float64)
    (lookup(ids, table) * weights).sum().backward()
    assert table.grad.nonzero()[:, 0].unique().tolist() == [101, 102]
    assert table.grad[101].tolist() == [101.0] * 4


def test_one_hot_rows_sum_to_one():
    assert torch.equal(one_hot(IDS, 201).sum(-1), torch.ones(6))
    assert torch.equal(one_hot(IDS, 201).argmax(-1), IDS)


def test_scale_segments_and_norm():
    config = BASE.with_(
        family="encoder", scale_embedding=True, n_segments=2, embedding_norm=True, position="none"
    )
    embedding = model_of(config).embedding
    ids, segments = torch.tensor([[3, 4]]), torch.tensor([[0, 1]])
    expected = embedding.norm(embedding.table[ids] * 4.0 + embedding.segments[segments])  # sqrt(16) = 4
    torch.testing.assert_close(embedding(ids, torch.arange(2)[None], segments), expected)


def test_mistakes_are_named(as_a_reader_calls_it):
    with pytest.raises(ValueError, match=r"id 201 is outside 0\.\.200"):
        lookup(torch.tensor([201]), TABLE)
    with pytest.raises(ValueError, match="ids have type torch.float32: each is a row number"):
        lookup(torch.tensor([1.0]), TABLE)
    with pytest.raises(ValueError, match="id -1 is outside"):
        one_hot(torch.tensor([-1]), 3)
    with pytest.raises(ValueError, match="segments were given"):
        Embedding(BASE)(torch.tensor([[1]]), torch.tensor([[0]]), torch.tensor([[0]]))


def test_the_gradient_of_a_lookup_is_the_same_in_every_run():
    """To the last bit, with several threads and an id that stands in most places:
    else a resumed run is another run.
    """
    table = torch.randn(900, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ids = torch.randint(900, (8, 256), generator=torch.Generator().manual_seed(1))
    ids[:, 100:] = 7
    g = torch.randn(8, 256, 128, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad((lookup(ids, table) * g).sum(), table)[0] for _ in range(20)]
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])
