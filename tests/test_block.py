"""A block is its formula, in both residual orders, and equals torch's own layer."""

import pytest
import torch
from helpers import BASE
from test_model import pair_linear, pair_norm, put

from llmcore.block import RESIDUALS, Block, Scope, post_norm, pre_norm
from llmcore.linear import Linear
from llmcore.mask import Mask

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


def block_of(**changes) -> Block:
    torch.manual_seed(0)
    block = Block(BASE.with_(feed_forward="relu", **changes)).eval()
    for module in block.modules():
        if isinstance(module, Linear):
            torch.nn.init.normal_(module.weight, std=0.3)
            torch.nn.init.normal_(module.bias, std=0.3)
    return block


def test_orders_by_hand():
    norm, layer = (lambda x: 10 * x), (lambda x: x + 1)
    x = torch.tensor([[[2.0]]])
    assert pre_norm(x, norm, layer).item() == 2 + (20 + 1)
    assert post_norm(x, norm, layer).item() == 10 * (2 + 3)


@pytest.mark.parametrize("order", RESIDUALS)
def test_equals_torchs_encoder_layer(order):
    block = block_of(residual=order)
    reference = torch.nn.TransformerEncoderLayer(
        16, 4, 24, 0.0, batch_first=True, norm_first=order == "pre"
    ).eval()
    qkv = [block.attention.W_q, block.attention.W_k, block.attention.W_v]
    put(
        [
            (reference.self_attn.in_proj_weight, torch.cat([m.weight.T for m in qkv])),
            (reference.self_attn.in_proj_bias, torch.cat([m.bias for m in qkv])),
            *pair_linear(reference.self_attn.out_proj, block.attention.W_o),
            *pair_linear(reference.linear1, block.feed_forward.up),
            *pair_linear(reference.linear2, block.feed_forward.down),
            *pair_norm(reference.norm1, block.attention_norm),
            *pair_norm(reference.norm2, block.feed_forward_norm),
        ]
    )
    torch.testing.assert_close(block(X, Scope(Mask())), reference(X), atol=1e-5, rtol=1e-5)


def test_pre_norm_with_silent_sublayers_is_the_identity():
    """Zero what writes into the stream and the stream passes through untouched:
    the path that gradients take.
    """
    block = block_of()
    for linear in (block.attention.W_o, block.feed_forward.down):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    assert torch.equal(block(X, Scope(Mask())), X)
