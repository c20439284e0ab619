"""y = x W + b with rows as vectors."""

import pytest
import torch

from llmcore.linear import Linear


def test_equals_torch_with_the_weight_transposed():
    ours, theirs = Linear(5, 3), torch.nn.Linear(5, 3)
    ours.weight.data, ours.bias.data = theirs.weight.data.T.clone(), theirs.bias.data
    x = torch.randn(4, 2, 5)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


def test_under_autocast_the_result_stays_in_half_precision():
    layer = Linear(5, 3)
    torch.nn.init.normal_(layer.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 5)).dtype == torch.bfloat16


def test_a_width_of_zero_is_named():
    with pytest.raises(ValueError, match="d_in=0: must be"):
        Linear(0, 3)
