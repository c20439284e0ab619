"""Tile by tile equals the square at once, in value and gradient, and never holds the square."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmcore import tiled
from llmcore.attention import Attention
from llmcore.config import ModelConfig
from llmcore.mask import Mask, Padding
from llmcore.tiled import dropout_factors, tiled_attention, tiles

MASKS = {
    "all": Mask(),
    "causal": Mask(causal=True),
    "right": Mask(causal=True, padding=Padding(stop=torch.tensor([9, 4]))),
    "left": Mask(causal=True, padding=Padding(start=torch.tensor([0, 5]))),
    "one without a key": Mask(padding=Padding(stop=torch.tensor([0, 9]))),
}
TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(
    not (TRITON and (INTERPRETED or torch.cuda.is_available())),
    reason="the kernels need the package triton, and a CUDA device or TRITON_INTERPRET=1",
)


@pytest.fixture(scope="module")
def kernels():
    """llmcore.tiled_triton, past the hook that checks shapes:
    Triton compiles a kernel from its source, so it must not be wrapped.
    """
    spec = importlib.util.spec_from_file_location(
        "llmcore.tiled_triton", Path(tiled.__file__).with_name("tiled_triton.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiled, "TILE", 4)


def vectors(T: int, S: int, Dh: int = 6, dtype=torch.float32, B: int = 2, H: int = 3):
    g = torch.Generator().manual_seed(T * S)
    return [torch.randn(B, H, n, Dh, generator=g).to(dtype).requires_grad_() for n in (T, S, S)]


def square(q, k, v, mask: Mask, kept: torch.Tensor | float = 1.0):
    """The definition, with dropout's multipliers given."""
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    allowed = mask.square(q.shape[2], k.shape[2])
    allowed = torch.ones(1, 1, *scores.shape[2:], dtype=torch.bool) if allowed is None else allowed
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1) * allowed
    return (weights * kept) @ v


def value_and_gradients(attention, tensors):
    out = attention(*tensors)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out, *torch.autograd.grad((out * weight).sum(), tensors)]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("T", "S"), [(9, 9), (1, 9), (5, 9), (12, 9)])
def test_equals_the_square(name, T, S, small_tiles):
    if T > S and MASKS[name].causal:
        pytest.skip("with a causal mask the queries are the last of the keys: T <= S")
    tensors = vectors(T, S)
    ours = value_and_gradients(lambda q, k, v: tiled_attention(q, k, v, MASKS[name]), tensors)
    theirs = value_and_gradients(lambda q, k, v: square(q, k, v, MASKS[name]), tensors)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_are_central_differences(dropout, small_tiles):
    tensors = vectors(6, 7, Dh=3, dtype=torch.float64, B=1, H=1)

    def same_seed(q, k, v):
        torch.manual_seed(3)  # the same weights are dropped at every call
        return tiled_attention(q, k, v, Mask(causal=True), dropout)

    assert torch.autograd.gradcheck(same_seed, tensors)


def test_dropout_multiplies_the_weights_by_what_keep_says(small_tiles):
    tensors, dropout, seed = vectors(9, 9), 0.3, 12345
    whole = torch.zeros(2, 3, 9, 9)
    for rows in tiles(9):
        for keys in tiles(9):
            whole[:, :, rows.start : rows.stop, keys.start : keys.stop] = dropout_factors(
                dropout, seed, rows, keys, whole
            )
    torch.testing.assert_close(whole.unique(), torch.tensor([0, 1 / 0.7]))
    mask = MASKS["causal"]
    ours = value_and_gradients(lambda q, k, v: tiled.Tiled.apply(q, k, v, mask, dropout, seed), tensors)
    theirs = value_and_gradients(lambda q, k, v: square(q, k, v, mask, whole), tensors)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_dropout_drops_its_share_and_other_weights_each_time():
    like = torch.empty(4, 4, 1, 1)
    kept = dropout_factors(0.3, 0, range(0, 64), range(0, 64), like)
    assert abs((kept == 0).float().mean().item() - 0.3) < 0.005  # 65,536 draws: three deviations are 0.0054
    config = ModelConfig(
        vocab_size=8, context_length=8, d_model=8, n_layers=1, n_heads=2, d_ff=8, dropout=0.5,
        attention="tiled",
    )  # fmt: skip
    attention, x = Attention(config), torch.randn(1, 8, 8)
    for p in attention.parameters():
        torch.nn.init.normal_(p)
    assert not torch.equal(attention(x), attention(x))
    torch.manual_seed(5)
    first = attention(x)
    torch.manual_seed(5)
    assert torch.equal(attention(x), first)
    assert torch.equal(attention.eval()(x), attention(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_taken_in_fp32(dtype):
    """The mean of 5,000 equal values is the value; a sum in fp16 would stop growing at 2,048."""
    q, v = torch.zeros(1, 1, 1, 16, dtype=dtype), torch.full((1, 1, 5000, 16), 1.5, dtype=dtype)
    out = tiled_attention(q, v, v)
    assert out.dtype == dtype
    assert (out == 1.5).all()


@pytest.mark.parametrize("size", [1e-3, 30.0])
def test_fp16_stays_finite_with_scores_in_the_thousands(size):
    tensors = [(x.detach() * size).half().requires_grad_() for x in vectors(9, 9, Dh=16)]
    results = value_and_gradients(
        lambda q, k, v: tiled_attention(q, k, v, MASKS["one without a key"]), tensors
    )
    assert all(torch.isfinite(r).all() for r in results)
    expected = square(*(x.detach().double() for x in tensors), MASKS["one without a key"])
    torch.testing.assert_close(results[0].double(), expected, atol=2e-3 * size, rtol=2e-3)  # fp16 has 11 bits


def test_autocast_leaves_the_statistics_alone():
    tensors = vectors(9, 9)
    plain = tiled_attention(*tensors, MASKS["causal"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tiled_attention(*tensors, MASKS["causal"]), plain)


def test_tiles_above_the_diagonal_are_not_computed(small_tiles, monkeypatch):
    seen, scores = [], tiled._scores
    monkeypatch.setattr(
        tiled,
        "_scores",
        lambda q, k, mask, rows, keys: seen.append((rows, keys)) or scores(q, k, mask, rows, keys),
    )
    tiled_attention(*vectors(16, 16), MASKS["causal"])
    assert len(seen) == 4 * 5 // 2
    assert all(keys.start < rows.stop for rows, keys in seen)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return out


def test_memory_is_linear_in_the_length(monkeypatch):
    """Kept for the way back: q, k, v, the result, a number a row. Largest temporary:
    one of those, or a tile of scores.
    """
    monkeypatch.setattr(tiled, "TILE", 32)
    Dh, BH = 8, 6

    def measure(attention, T):
        tensors, kept = vectors(T, T, Dh), {}

        def pack(x):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            attention(*tensors, MASKS["causal"]).sum().backward()
        return sum(kept.values()), largest.bytes

    lengths = (128, 256, 512)
    for T in lengths:
        kept, largest = measure(tiled_attention, T)
        assert kept == 4 * BH * T * (4 * Dh + 1)
        assert largest == 4 * BH * max(T * Dh, 32 * 32)
        kept_square, largest_square = measure(square, T)
        assert largest_square == 4 * BH * T * T
        assert kept_square > 4 * BH * T * T


def test_a_gradient_of_the_gradient_is_refused():
    q, k, v = vectors(3, 3)
    with pytest.raises(ValueError, match="it has no second derivative"):
        torch.autograd.grad(tiled_attention(q, k, v).sum(), q, create_graph=True)


@needs_triton
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("T", "S"), [(9, 9), (1, 9), (5, 9), (40, 9), (70, 70)])
def test_the_kernels_equal_the_square(name, T, S, kernels):
    mask = MASKS[name]
    if T > S and mask.causal:
        pytest.skip("with a causal mask the queries are the last of the keys: T <= S")
    if T == 70 and name not in ("all", "causal"):
        pytest.skip("the paddings are for 9 keys")
    device = "cpu" if INTERPRETED else "cuda"
    tensors = vectors(T, S)
    given = [x.detach().to(device).requires_grad_() for x in tensors]
    start, stop = (None if x is None else x.to(device) for x in (mask.padding.start, mask.padding.stop))
    ours = value_and_gradients(lambda q, k, v: kernels.attention(q, k, v, mask.causal, start, stop), given)
    theirs = value_and_gradients(lambda q, k, v: square(q, k, v, mask), tensors)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.cpu(), b, atol=1e-5, rtol=1e-5)


@needs_triton
def test_the_kernels_drop_the_same_weights_on_the_way_back(kernels):
    """out is linear in v: with the same seed, sum(out * w) equals sum(v * d/dv of it);
    and its share is dropped.
    """
    device = "cpu" if INTERPRETED else "cuda"
    q, k, v = (x.detach().to(device).requires_grad_() for x in vectors(33, 33, Dh=16))
    dropped = lambda q, k, v: kernels.attention(q, k, v, causal=True, dropout=0.4, seed=9)
    total = (dropped(q, k, v) * torch.linspace(-1, 1, 16, device=device)).sum()
    dq, dk, dv = torch.autograd.grad(total, (q, k, v))
    torch.testing.assert_close((v * dv).sum(), total, atol=1e-3, rtol=1e-4)  # a sum of 3,168 terms
    torch.testing.assert_close(
        (q * dq).sum(), (k * dk).sum(), atol=1e-4, rtol=1e-4
    )  # a score depends on q . k alone
    weights = dropped(
        torch.zeros_like(q), k, torch.eye(33, device=device)[:, :16].expand(2, 3, 33, 16).contiguous()
    )
    seen = torch.cat([(weights[:, :, t, : min(t + 1, 16)] * (t + 1)).flatten() for t in range(33)])
    assert ((seen.abs() < 1e-5) | ((seen - 1 / 0.6).abs() < 1e-4)).all()
    assert abs((seen == 0).float().mean().item() - 0.4) < 0.05  # 2,448 draws: three deviations are 0.03
    torch.testing.assert_close(dropped(q, k, v), dropped(q, k, v), atol=0, rtol=0)


@needs_triton
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter multiplies bf16's bits"),
        ),
    ],
)
def test_the_kernels_sum_in_fp32(dtype, kernels):
    device = "cpu" if INTERPRETED else "cuda"
    q, v = (
        torch.zeros(1, 1, 1, 16, dtype=dtype, device=device),
        torch.full((1, 1, 3000, 16), 1.5, dtype=dtype, device=device),
    )
    assert (kernels.attention(q, v, v) == 1.5).all()
