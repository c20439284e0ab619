"""Careless calls of the model's parts: a ValueError names the mistake, or the only meaning is taken."""

import math
import re

import pytest
import torch
from helpers import BASE, ids_of, model_of, within

from llmcore.attention import Attention, split_heads
from llmcore.block import Block, Scope
from llmcore.embedding import Embedding, lookup, one_hot
from llmcore.linear import Linear
from llmcore.mask import Mask, Padding
from llmcore.model import Transformer
from llmcore.norm import NORMS
from llmcore.position import POSITIONS, frequencies, sinusoids
from llmcore.sampling import complete
from llmcore.shortcuts import KVCache
from llmcore.tiled import tiled_attention

pytestmark = pytest.mark.usefixtures("as_a_reader_calls_it")
IDS = ids_of(3, 7)
REAL = torch.arange(7) < torch.tensor([[7], [3], [1]])  # True at real tokens
X = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0))
Q = torch.randn(3, 4, 7, 4, generator=torch.Generator().manual_seed(1))
SEGMENTED = BASE.with_(family="encoder", n_segments=2)
BOTH = BASE.with_(family="encoder-decoder")


@pytest.fixture(scope="module")
def models():
    return {config.family: model_of(config) for config in (BASE, SEGMENTED, BOTH)}


def refused(message, call):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64]
)
def test_ids_of_any_whole_type_are_the_same_ids(models, dtype):
    expected = models["decoder"](IDS)
    assert torch.equal(models["decoder"](IDS.to(dtype)), expected)
    assert torch.equal(
        models["decoder"](IDS.to(dtype), targets=IDS.to(dtype)), models["decoder"](IDS, targets=IDS)
    )
    assert torch.equal(one_hot(IDS.to(dtype), 23), one_hot(IDS, 23))
    segments = ids_of(3, 7, 2)
    encode = models["encoder"]
    assert torch.equal(encode(IDS, segments=segments.to(dtype)), encode(IDS, segments=segments))


WRONG_IDS = {
    "one axis": (IDS[0], r"ids have shape \(7,\): give \(B, T\).*ids\[None\]"),
    "three axes": (IDS[None], r"ids have shape \(1, 3, 7\)"),
    "no axis": (IDS[0, 0], r"ids have shape \(\)"),
    "floats": (IDS.float(), "ids have type torch.float32: each is a row number"),
    "booleans": (IDS > 3, "ids have type torch.bool"),
    "a list": (IDS.tolist(), "ids have type list: .* pass a tensor of integers"),
    "numpy": (IDS.numpy(), "ids have type ndarray"),
    "negative": (-IDS - 1, r"id -\d+ is outside 0\.\.22: does the tokenizer fit the model\?"),
    "too large": (IDS.to(torch.uint8) + 200, r"id 2\d\d is outside 0\.\.22"),
    "beyond int64": (
        torch.tensor([[2**64 - 1]], dtype=torch.uint64),
        r"id 18446744073709551615 is above 2\^63 - 1",
    ),
    "meta": (IDS.to("meta"), "ids are on the device 'meta', which holds no numbers"),
    "no token": (IDS[:, :0], r"ids have shape \(3, 0\): .*at least one token"),
    "too many": (IDS.repeat(1, 2), "14 tokens with context_length=12"),
}


@pytest.mark.parametrize("family", ["decoder", "encoder", "encoder-decoder"])
@pytest.mark.parametrize("kind", WRONG_IDS)
def test_wrong_ids_are_named_in_every_family(models, kind, family):
    ids, message = WRONG_IDS[kind]
    source = {"source": IDS} if family == "encoder-decoder" else {}
    refused(message, lambda: models[family](ids, **source))
    if source:
        refused(message, lambda: models[family](IDS, source=ids))


def test_a_model_without_numbers_is_named(models):
    with torch.device("meta"):
        nowhere = Transformer(BASE)
    refused("ids are on cpu, the table on meta: move both", lambda: nowhere(IDS))
    refused("'meta'", lambda: nowhere(IDS.to("meta")))
    refused("'meta'", lambda: complete(nowhere, [[1]], 1))
    refused("ids are on cpu, the table on meta", lambda: lookup(IDS, nowhere.embedding.table))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (
            torch.zeros(1, 7, dtype=torch.long),
            r"segments are \(1, 7\) .* with ids of shape \(3, 7\): give one per id",
        ),
        (torch.zeros(3, 1, dtype=torch.long), r"segments are \(3, 1\)"),
        (torch.zeros(7, dtype=torch.long), r"segments are \(7,\)"),
        (torch.full((3, 7), 2), r"segment 2 is outside 0\.\.1: a model knows n_segments of them"),
        (torch.zeros(3, 7), "segments have type torch.float32"),
        ([[0] * 7] * 3, "segments are a list"),
    ],
)
def test_wrong_segments_are_named(models, segments, message):
    refused(message, lambda: models["encoder"](IDS, segments=segments))


MASKS = {
    "a square": torch.ones(7, 7, dtype=torch.bool).tril(),
    "real tokens": REAL,
    "floats": REAL.float(),
    "None": None,
    "a list": [7, 3, 1],
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_tensor_is_no_mask(models, kind):
    """What True means in it differs between libraries, so what to pass is said instead."""
    given = MASKS[kind]
    remedy = r".*Mask\(causal=True\) or Mask\(padding=Padding\(stop=lengths\)\).*real\.sum\(1\)"
    for path in ("explicit", "fused", "tiled"):
        attention = Attention(BASE.with_(attention=path))
        refused("mask is " + remedy, lambda a=attention: a(X, given))
    refused("mask is " + remedy, lambda: Block(BASE)(X, Scope(given)))
    refused("mask is " + remedy, lambda: tiled_attention(Q, Q, Q, given))
    refused("padding is " + remedy, lambda: models["decoder"](IDS, padding=given))
    refused("padding is " + remedy, lambda: models["encoder"](IDS, padding=given))
    refused("causal is " + remedy, lambda: Mask(given))


def test_the_remedy_for_booleans_is_right(models):
    lengths = Padding(stop=REAL.sum(1))
    out = models["encoder"](IDS, padding=lengths)
    alone = models["encoder"](IDS[1:2, :3])
    torch.testing.assert_close(out[1:2, :3], alone, **within(200, torch.float32, 10.0))


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        (lambda: Padding(stop=torch.tensor([7])), "stop has 1 entries for a batch of 3"),  # would broadcast
        (lambda: Padding(start=torch.tensor([0, 1])), "start has 2 entries for a batch of 3"),
        (
            lambda: Padding(torch.tensor([0]), torch.tensor([7, 7, 7])),
            r"start and stop have \[1, 3\] entries",
        ),
        (
            lambda: Padding(stop=torch.tensor([7, 8, 7])),
            r"stop=\[7, 8, 7\] for sequences of 7 tokens: each must lie in 0\.\.7",
        ),
        (lambda: Padding(start=torch.tensor([0, -1, 0])), r"start=\[0, -1, 0\]"),
        (lambda: Padding(stop=[7, 3, 1]), "stop is a list: pass a tensor with one integer per sequence"),
        (lambda: Padding(stop=REAL), r"stop is \(3, 7\) of torch.bool: .*one integer per sequence"),
        (lambda: Padding(stop=torch.tensor([7.0, 3.0, 1.0])), r"stop is \(3,\) of torch.float32"),
        (lambda: Padding(stop=7), "stop is a int"),
    ],
)
def test_wrong_lengths_are_named(models, padding, message):
    refused(message, lambda: models["decoder"](IDS, padding=padding()))
    refused(message, lambda: models["encoder"](IDS, padding=padding()))
    refused(message, lambda: models["encoder-decoder"](IDS, source=IDS, source_padding=padding()))
    memory = models["encoder-decoder"].encode(IDS)
    refused(message, lambda: models["encoder-decoder"].decode(IDS, memory=memory, memory_padding=padding()))
    if "entries" in message:
        refused(message, lambda: Attention(BASE)(X, Mask(padding=padding())))


def test_a_causal_mask_needs_as_many_keys_as_queries():
    refused("2 more queries than keys under a causal mask", lambda: Mask(causal=True).square(5, 3))
    refused("2 more queries", lambda: tiled_attention(Q, Q[:, :, :5], Q[:, :, :5], Mask(causal=True)))
    for path in ("explicit", "fused", "tiled"):
        attention = Attention(BASE.with_(attention=path))
        refused("2 more queries", lambda a=attention: a(X, Mask(causal=True), context=X[:, :5]))


def test_another_source_is_not_read_in_silence(models):
    """One context would broadcast over three sequences; cached keys would serve another context."""
    model = models["encoder-decoder"]
    memory = model.encode(IDS)
    with torch.no_grad():
        refused(r"context \(1, 7, 16\) read from \(3, 7, 16\)", lambda: model.decode(IDS, memory=memory[:1]))
        refused(r"context \(2, 7, 16\) read from", lambda: model(IDS, source=IDS[:2]))
        refused(r"context \(7, 16\)", lambda: Attention(BASE)(X, context=X[0]))
        cache = model.new_cache(source_length=7)
        model.decode(IDS[:, :2], memory=memory, cache=cache)
        shorter = model.encode(IDS[:, :5])
        refused(
            "another source; start a new cache", lambda: model.decode(IDS[:, 2:], memory=shorter, cache=cache)
        )


def test_a_cache_of_another_batch_or_model_is_named(models):
    model = models["decoder"]
    with torch.no_grad():
        for B, other in ((3, 1), (1, 3)):
            cache = model.new_cache()
            model.decode(IDS[:B, :3], cache=cache)
            refused(
                "with a cache of .* start a new cache",
                lambda c=cache, n=other: model.decode(IDS[:n, 3:5], cache=c),
            )
        fewer = model_of(BASE.with_(n_kv_heads=1))
        cache = model.new_cache()
        model.decode(IDS[:, :3], cache=cache)
        refused(
            r"keys \(3, 1, 2, 4\) .* with a cache of \(3, 4,", lambda: fewer.decode(IDS[:, 3:5], cache=cache)
        )  # would broadcast
        half = model_of(BASE).bfloat16()
        refused("of torch.bfloat16 .* torch.float32", lambda: half.decode(IDS[:, 3:5], cache=cache))
        for wrong in ([], cache[:1], cache * 2):
            refused(
                f"cache of {len(wrong)} blocks with n_layers=2",
                lambda w=wrong: model.decode(IDS[:, 3:5], cache=w),
            )
        refused(
            "3 tokens do not fit a cache of 0", lambda: model.decode(IDS[:, :3], cache=model.new_cache(0))
        )
    k = torch.zeros(2, 1, 3, 4)
    refused("keys .* and values", lambda: KVCache(4).append(k, k[:1]))
    for wrong in (-1, 2.5, math.nan, True):
        refused(f"capacity={wrong}", lambda w=wrong: KVCache(w))


WRONG_PLACES = [
    torch.arange(7),
    torch.arange(3)[:, None],
    torch.arange(7)[:, None],
    torch.zeros(2, 7).long(),
    torch.zeros(1, 6).long(),
]


@pytest.mark.parametrize("positions", WRONG_PLACES, ids=lambda p: str(tuple(p.shape)))
@pytest.mark.parametrize("name", POSITIONS)
def test_positions_of_another_shape_are_named(name, positions):
    """(3, 1) beside (3, 7) would broadcast: all tokens of a sequence would stand at one place."""
    if name == "none":
        pytest.skip("it reads no positions")
    position = POSITIONS[name](BASE)
    message = rf"positions {re.escape(str(tuple(positions.shape)))} with vectors .*: give \(B or 1, T\)"
    if name.startswith("rotary"):
        refused(message, lambda: position.turner(positions)(Q))
    else:
        refused(message, lambda: position(X, positions))


@pytest.mark.parametrize("name", ["rotary", "rotary_interleaved"])
def test_a_turn_takes_queries_with_heads(name):
    """(B, T, D) beside angles (B, 1, T, D / 2) would broadcast to (B, B, T, D)."""
    turn = POSITIONS[name](BASE).turner(torch.arange(7)[None].expand(3, -1))
    for wrong in (X, Q[:, :, :3], Q[:2], Q[..., :2], Q.repeat(1, 1, 1, 2), Q[0]):
        refused(r"(positions|vectors) \(", lambda w=wrong: turn(w))
    assert turn(Q).shape == Q.shape


def test_places_beyond_the_context_are_named(models):
    learned = POSITIONS["learned"](BASE)
    refused(
        r"position 12 is outside 0\.\.11: context_length ends there",
        lambda: learned(X, torch.arange(6, 13)[None]),
    )
    refused(r"position -1 is outside", lambda: learned(X, torch.arange(-1, 6)[None]))
    refused("positions have type torch.float32", lambda: learned(X, torch.arange(7.0)[None]))
    refused("positions", lambda: Embedding(BASE)(IDS, torch.arange(7)))
    refused("d=5 is odd", lambda: sinusoids(torch.arange(3), 5))  # gave six columns
    for base in (0.0, -1.0, math.nan, math.inf):
        refused(f"base={base}", lambda b=base: frequencies(4, b))


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        (Q[0], Q[0], Q[0]),
        (Q, Q[:, :1], Q[:, :1]),  # heads would broadcast
        (Q[:1], Q, Q),
        (Q, Q[:, :, :5], Q),
        (Q, Q, Q[..., :2]),
        (Q, Q[..., :2], Q[..., :2]),
        (Q.double(), Q, Q),
        (X, X, X),
    ],
)
def test_tiled_attention_names_vectors_that_do_not_fit(q, k, v):
    refused(
        r"q \(.*\) of torch.*: give \(B, H, T, Dh\) and twice \(B, H, S, Dh\)",
        lambda: tiled_attention(q, k, v),
    )


def test_shares_and_widths_are_named():
    for wrong in (1.0, -0.1, math.nan):
        refused(f"dropout={wrong}", lambda w=wrong: tiled_attention(Q, Q, Q, dropout=w))
    refused(r"x \(3, 7, 16\) with n_heads=3: give", lambda: split_heads(X, 3))
    refused(r"x \(7, 16\) with n_heads=4: .*x\[None\]", lambda: split_heads(X[0], 4))
    refused(r"x \(7, 16\)", lambda: Attention(BASE)(X[0]))
    refused("n_heads=0", lambda: split_heads(X, 0))
    for norm in NORMS.values():
        refused(r"weight has shape \(16,\), x \(3, 7, 8\)", lambda n=norm: n(16)(X[..., :8]))
        refused(r"weight has shape \(1,\)", lambda n=norm: n(1)(X))  # would broadcast
        for wrong in (-1.0, math.nan, math.inf):
            refused(f"eps={wrong}", lambda n=norm, w=wrong: n(16, eps=w))


def test_a_weight_of_torch_is_not_loaded_the_wrong_way_round():
    """Square, it would fit and be wrong; not square, torch would say only that shapes differ."""
    ours, theirs = Linear(5, 5), torch.nn.Linear(5, 5)
    refused(
        "weight .* lies as torch.nn.Linear stores it, .*weight.T; .*dict",
        lambda: ours.load_state_dict(theirs.state_dict()),
    )
    ours.load_state_dict({"weight": theirs.weight.T, "bias": theirs.bias})  # the remedy
    x = torch.randn(4, 5)
    torch.testing.assert_close(ours(x), theirs(x), **within(6, torch.float32, 5.0))
    state = theirs.state_dict()
    state["weight"] = state["weight"].T
    ours.load_state_dict(dict(state))  # the other remedy
    torch.testing.assert_close(ours(x), theirs(x), **within(6, torch.float32, 5.0))
    wide = torch.nn.Linear(5, 3).state_dict()
    for given in (wide, dict(wide)):
        refused(
            r"weight \(3, 5\) lies as torch.nn.Linear stores it, .* where \(5, 3\)",
            lambda g=given: Linear(5, 3).load_state_dict(g),
        )
    twin = Linear(5, 5)
    twin.load_state_dict(ours.state_dict())
    assert torch.equal(twin.weight, ours.weight)


def test_a_layer_of_torch_put_into_a_model_is_found_by_its_place(tmp_path):
    """The version is kept beside each module's path, also by torch.save; a model's own state dict passes."""
    model = model_of(BASE)
    state = model.state_dict()
    theirs = torch.nn.Sequential(torch.nn.Linear(16, 16)).state_dict()
    prefix = "decoder.blocks.0.attention.W_q"
    state[f"{prefix}.weight"], state._metadata[prefix] = theirs["0.weight"], theirs._metadata["0"]
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    for given in (state, loaded):
        refused(rf"{prefix}\.weight \(16, 16\)", lambda g=given: model.load_state_dict(g))
    model.load_state_dict(model_of(BASE, seed=1).state_dict())
    assert torch.equal(model(IDS), model_of(BASE, seed=1)(IDS))
