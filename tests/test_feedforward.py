"""Each position alone; each kind is its formula in torch's own functions."""

import pytest
import torch
import torch.nn.functional as F
from helpers import BASE

from llmcore.feedforward import FEED_FORWARDS

FORMULAS = {
    "relu": lambda m, x: m.down(F.relu(m.up(x))),
    "gelu": lambda m, x: m.down(F.gelu(m.up(x))),
    "gelu_tanh": lambda m, x: m.down(F.gelu(m.up(x), approximate="tanh")),
    "silu": lambda m, x: m.down(F.silu(m.up(x))),
    "swiglu": lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)),
}


@pytest.fixture(params=FEED_FORWARDS)
def case(request):
    torch.manual_seed(0)
    module = FEED_FORWARDS[request.param](BASE)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return request.param, module, torch.randn(2, 5, 16)


def test_equals_its_formula(case):
    name, module, x = case
    torch.testing.assert_close(module(x), FORMULAS[name](module, x), atol=1e-5, rtol=1e-5)


def test_each_position_is_computed_alone(case):
    _, module, x = case
    torch.testing.assert_close(module(x)[:, 2], module(x[:, 2]), atol=1e-5, rtol=1e-5)
