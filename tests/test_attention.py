"""Explicit equals fused equals tiled, cached equals full, over the whole grid; no row of a mask makes a NaN."""

import itertools
from dataclasses import replace

import pytest
import torch
from helpers import BASE, ids_of, model_of

from llmcore import tiled
from llmcore.attention import Attention, KVCache, join_heads, split_heads
from llmcore.config import AttentionPath, FeedForwardKind, ModelConfig, Position, Residual
from llmcore.linear import Linear
from llmcore.mask import Mask, Padding

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
FAMILIES = ["decoder", "encoder", "encoder-decoder"]
KV_HEADS = [4, 2, 1]
PADDINGS = {
    "none": Padding(),
    "right": Padding(stop=torch.tensor([7, 3, 1])),
    "left": Padding(start=torch.tensor([0, 4, 6])),
    "both": Padding(start=torch.tensor([0, 2, 3]), stop=torch.tensor([7, 5, 4])),
    "one sequence wholly padded": Padding(stop=torch.tensor([7, 0, 2])),
}
POSITIONS = list(Position.__args__)
NORMS = ["layer", "rms"]
FFNS = list(FeedForwardKind.__args__)
RESIDUALS = list(Residual.__args__)
PATHS = list(AttentionPath.__args__)
OTHER_PATHS = [path for path in PATHS if path != "explicit"]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of three, so that seven tokens are cut into three tiles, the last of them not full."""
    monkeypatch.setattr(tiled, "TILE", 3)


def run(config: ModelConfig, padding: Padding):
    model = model_of(config)
    extra = {}
    if config.family == "encoder-decoder":
        extra = {"source": ids_of(3, 7, seed=5), "source_padding": padding}
    logits = model(ids_of(3, 7), padding=padding, **extra)
    loss = logits.square().mean()
    loss.backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_explicit_equals_the_other_paths_in_value_and_gradient(family, position, n_kv_heads, padding):
    config = BASE.with_(family=family, position=position, n_kv_heads=n_kv_heads)
    logits, gradients = run(config.with_(attention="explicit"), PADDINGS[padding])
    assert torch.isfinite(logits).all()
    for path in OTHER_PATHS:
        logits_other, gradients_other = run(config.with_(attention=path), PADDINGS[padding])
        torch.testing.assert_close(logits_other, logits, **TOLERANCE)
        assert gradients.keys() == gradients_other.keys()
        for name, gradient in gradients.items():
            assert torch.isfinite(gradient).all(), name
            # a gradient summed over a batch is larger than its terms, and so is its rounding
            limit = 1e-5 * max(1, gradient.abs().max().item())
            torch.testing.assert_close(gradients_other[name], gradient, atol=limit, rtol=1e-5)


@pytest.mark.parametrize(("norm", "ffn", "residual"), itertools.product(NORMS, FFNS, RESIDUALS))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_other_parts_change_nothing_of_that(family, norm, ffn, residual):
    config = replace(BASE, family=family, norm=norm, feed_forward=ffn, residual=residual)
    logits, _ = run(replace(config, attention="explicit"), PADDINGS["both"])
    for path in OTHER_PATHS:
        torch.testing.assert_close(run(replace(config, attention=path), PADDINGS["both"])[0], logits, **TOLERANCE)


CHUNKS = [[7], [1] * 7, [3, 1, 1, 2]]  # the last holds every kind of piece: enough for the slow path of tiles


@pytest.mark.parametrize(("path", "chunks"), [*itertools.product(["explicit", "fused"], CHUNKS), ("tiled", CHUNKS[-1])])
@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_cached_equals_full(family, position, n_kv_heads, padding, path, chunks):
    config = BASE.with_(family=family, position=position, n_kv_heads=n_kv_heads, attention=path)
    model = model_of(config)
    padding, ids, memory = PADDINGS[padding], ids_of(3, 7), None
    with torch.no_grad():
        if family == "encoder-decoder":
            memory = model.encode(ids_of(3, 5, seed=5))
        full = model.decode(ids, padding, memory)
        cache = model.new_cache(capacity=7, source_length=5)
        parts = [model.decode(part, padding, memory, cache=cache) for part in ids.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), full, **TOLERANCE)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_padding_on_either_side_equals_the_sequence_alone(family, position, side, path):
    model = model_of(replace(BASE, family=family, position=position, attention=path))
    short = ids_of(1, 4, seed=8)
    alone = model(short)
    filler = torch.full((1, 3), 9)
    if side == "left":
        padded = model(torch.cat([filler, short], 1), padding=Padding(start=torch.tensor([3])))[:, 3:]
    else:
        padded = model(torch.cat([short, filler], 1), padding=Padding(stop=torch.tensor([4])))[:, :4]
    torch.testing.assert_close(padded, alone, **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("path", PATHS)
def test_a_fully_masked_row_gives_zeros(path, dtype):
    torch.manual_seed(0)
    attention = Attention(BASE.with_(attention=path, bias=False)).to(dtype)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 5, 16, dtype=dtype, requires_grad=True)
    y = attention(x, Mask(padding=Padding(stop=torch.tensor([0, 5]))))
    y.float().sum().backward()
    assert (y[0] == 0).all()
    assert (y[1] != 0).all()
    assert torch.isfinite(x.grad).all()


def test_heads_are_column_slices_of_one_matrix():
    """Head h of x W_q is x times columns h Dh .. (h+1) Dh."""
    x, W = torch.randn(2, 5, 16), torch.randn(16, 16)
    for h, head in enumerate(split_heads(x @ W, 4).unbind(1)):
        torch.testing.assert_close(head, x @ W[:, 4 * h : 4 * h + 4], **TOLERANCE)
    assert torch.equal(join_heads(split_heads(x, 4)), x)


def test_n_kv_heads_equals_full_attention_with_repeated_heads():
    """GQA is MHA whose key heads are copies."""
    small, large = Attention(BASE.with_(n_kv_heads=2)), Attention(BASE)
    for linear in small.modules():
        if isinstance(linear, Linear):
            torch.nn.init.normal_(linear.weight)
    for name in ("W_q", "W_o"):
        getattr(large, name).load_state_dict(getattr(small, name).state_dict())
    for name in ("W_k", "W_v"):
        weight = getattr(small, name).weight.data.view(16, 2, 1, 4).expand(16, 2, 2, 4).reshape(16, 16)
        getattr(large, name).weight.data = weight
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(small(x, Mask(causal=True)), large(x, Mask(causal=True)), atol=1e-4, rtol=1e-4)  # values ~ 100


def test_a_later_token_moves_no_earlier_logit():
    model, ids = model_of(BASE), ids_of(1, 8)
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 23
    moved = (model(ids) - model(changed)).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [False] * 5 + [True] * 3


def test_without_positions_an_encoder_is_permutation_equivariant():
    model, ids = model_of(replace(BASE, family="encoder", position="none")), ids_of(1, 7)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(model(ids[:, order]), model(ids)[:, order], **TOLERANCE)


def test_a_cache_names_its_limits():
    k = torch.zeros(2, 1, 3, 4)
    cache = KVCache(4)
    cache.append(k, k)
    with pytest.raises(ValueError, match="6 tokens do not fit a cache of 4"):
        cache.append(k, k)
    with pytest.raises(ValueError, match="takes no gradients"):
        KVCache(4).append(k.clone().requires_grad_(), k)
    with pytest.raises(ValueError, match=r"keys \(1, 1, 1, 4\) of torch.float32 .* a cache of \(2, 1, 4, 4\)"):
        cache.append(k[:1, :, :1], k[:1, :, :1])
