"""Explicit equals fused equals tiled, cached equals full, over the whole grid;
no row of a mask makes a NaN.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from helpers import BASE, ids_of, model_of, roundings, within

from llmcore import tiled
from llmcore.attention import Attention, join_heads, split_heads
from llmcore.config import AttentionPath, FeedForwardKind, ModelConfig, Position, Residual
from llmcore.linear import Linear
from llmcore.mask import Mask, Padding
from llmcore.shortcuts import KVCache

# the identity is proved in float64; `make test` holds float32 to its bound as well
DTYPES = [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)]
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


def close(y: torch.Tensor, expected: torch.Tensor, config: ModelConfig) -> None:
    """Equal but for the roundings of a model that reads seven tokens."""
    torch.testing.assert_close(
        y, expected, **within(roundings(config, 7), y.dtype, expected.abs().max().item())
    )


def run(config: ModelConfig, padding: Padding, dtype: torch.dtype):
    model = model_of(config, dtype=dtype)
    extra = {}
    if config.family == "encoder-decoder":
        extra = {"source": ids_of(3, 7, seed=5), "source_padding": padding}
    logits = model(ids_of(3, 7), padding=padding, **extra)
    loss = logits.square().mean()
    loss.backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


# every padding proves the identity in float64; one is enough for the types' own steps
FAST = (torch.float64, "both")
CASES = [*((torch.float64, name) for name in PADDINGS), (torch.float32, "both")]


@pytest.mark.parametrize(
    ("dtype", "padding"), [c if c == FAST else pytest.param(*c, marks=pytest.mark.slow) for c in CASES]
)
@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_explicit_equals_the_other_paths_in_value_and_gradient(family, position, n_kv_heads, padding, dtype):
    config = BASE.with_(family=family, position=position, n_kv_heads=n_kv_heads)
    logits, gradients = run(config.with_(attention="explicit"), PADDINGS[padding], dtype)
    assert torch.isfinite(logits).all()
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for path in OTHER_PATHS:
        logits_other, gradients_other = run(config.with_(attention=path), PADDINGS[padding], dtype)
        close(logits_other, logits, config)
        assert gradients.keys() == gradients_other.keys()
        for name, gradient in gradients.items():
            assert torch.isfinite(gradient).all(), name
            # the way of a gradient goes there and back and takes what was kept,
            # and ends in a sum over 3 x 7 tokens; its terms
            # come down one stream, as large as the largest, though some cancel, as those of a key's bias
            limit = within(3 * roundings(config, 7) + 3 * 7, dtype, largest)
            torch.testing.assert_close(
                gradients_other[name], gradient, **limit, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.parametrize(("norm", "ffn", "residual"), itertools.product(NORMS, FFNS, RESIDUALS))
@pytest.mark.parametrize(
    "family", ["decoder", *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES if f != "decoder")]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_other_parts_change_nothing_of_that(family, norm, ffn, residual, dtype):
    config = replace(BASE, family=family, norm=norm, feed_forward=ffn, residual=residual)
    logits, _ = run(replace(config, attention="explicit"), PADDINGS["both"], dtype)
    for path in OTHER_PATHS:
        close(run(replace(config, attention=path), PADDINGS["both"], dtype)[0], logits, config)


CHUNKS = [[7], [1] * 7, [3, 1, 1, 2]]  # the last holds every kind of piece: enough for the slow path of tiles


@pytest.mark.parametrize(
    ("path", "chunks"), [*itertools.product(["explicit", "fused"], CHUNKS), ("tiled", CHUNKS[-1])]
)
@pytest.mark.parametrize("padding", [pytest.param("none", marks=pytest.mark.slow), "left"])
@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(
    ("dtype", "family"),
    [
        (torch.float64, "decoder"),
        pytest.param(torch.float64, "encoder-decoder", marks=pytest.mark.slow),
        pytest.param(torch.float32, "decoder", marks=pytest.mark.slow),
    ],
)
def test_cached_equals_full(family, position, n_kv_heads, padding, path, chunks, dtype):
    config = BASE.with_(family=family, position=position, n_kv_heads=n_kv_heads, attention=path)
    model = model_of(config, dtype=dtype)
    padding, ids, memory = PADDINGS[padding], ids_of(3, 7), None
    with torch.no_grad():
        if family == "encoder-decoder":
            memory = model.encode(ids_of(3, 5, seed=5))
        full = model.decode(ids, padding, memory)
        cache = model.new_cache(capacity=7, source_length=5)
        parts = [model.decode(part, padding, memory, cache=cache) for part in ids.split(chunks, dim=1)]
    close(torch.cat(parts, 1), full, config)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("family", ["decoder", "encoder"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_on_either_side_equals_the_sequence_alone(family, position, side, path, dtype):
    model = model_of(replace(BASE, family=family, position=position, attention=path), dtype=dtype)
    short = ids_of(1, 4, seed=8)
    alone = model(short)
    filler = torch.full((1, 3), 9)
    if side == "left":
        padded = model(torch.cat([filler, short], 1), padding=Padding(start=torch.tensor([3])))[:, 3:]
    else:
        padded = model(torch.cat([short, filler], 1), padding=Padding(stop=torch.tensor([4])))[:, :4]
    close(padded, alone, model.config)


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_heads_are_column_slices_of_one_matrix(dtype):
    """Head h of x W_q is x times columns h Dh .. (h+1) Dh."""
    x, W = torch.randn(2, 5, 16, dtype=dtype), torch.randn(16, 16, dtype=dtype)
    size = (x.abs() @ W.abs()).max().item()
    for h, head in enumerate(split_heads(x @ W, 4).unbind(1)):
        torch.testing.assert_close(head, x @ W[:, 4 * h : 4 * h + 4], **within(16, dtype, size))
    assert torch.equal(join_heads(split_heads(x, 4)), x)


def test_n_kv_heads_equals_full_attention_with_repeated_heads():
    """GQA is MHA whose key heads are copies."""
    small, large = Attention(BASE.with_(n_kv_heads=2)).double(), Attention(BASE).double()
    for linear in small.modules():
        if isinstance(linear, Linear):
            torch.nn.init.normal_(linear.weight)
    for name in ("W_q", "W_o"):
        getattr(large, name).load_state_dict(getattr(small, name).state_dict())
    for name in ("W_k", "W_v"):
        weight = getattr(small, name).weight.data.view(16, 2, 1, 4).expand(16, 2, 2, 4).reshape(16, 16)
        getattr(large, name).weight.data = weight
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    out = small(x, Mask(causal=True))
    close(large(x, Mask(causal=True)), out, BASE)


def test_a_later_token_moves_no_earlier_logit():
    model, ids = model_of(BASE, dtype=torch.float64), ids_of(1, 8)
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 23
    moved = (model(ids) - model(changed)).abs().amax(-1)[0] > 1e-9
    assert moved.tolist() == [False] * 5 + [True] * 3


def test_without_positions_an_encoder_is_permutation_equivariant():
    model, ids = model_of(replace(BASE, family="encoder", position="none"), dtype=torch.float64), ids_of(1, 7)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    close(model(ids[:, order]), model(ids)[:, order], model.config)


def test_a_cache_names_its_limits():
    k = torch.zeros(2, 1, 3, 4)
    cache = KVCache(4)
    cache.append(k, k)
    with pytest.raises(ValueError, match="6 tokens do not fit a cache of 4"):
        cache.append(k, k)
    with pytest.raises(ValueError, match="takes no gradients"):
        KVCache(4).append(k.clone().requires_grad_(), k)
    with pytest.raises(
        ValueError, match=r"keys \(1, 1, 1, 4\) of torch.float32 .* a cache of \(2, 1, 4, 4\)"
    ):
        cache.append(k[:1, :, :1], k[:1, :, :1])
