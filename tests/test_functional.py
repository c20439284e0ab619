"""What is written out equals torch's own, in value and in gradient."""

import pytest
import torch
import torch.nn.functional as F
from helpers import within

from llmcore import functional as ours

X = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
W = torch.randn(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
G = torch.rand(7, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
B = torch.randn(7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
T = torch.tensor([3, 0, 6, -100, 2])

PAIRS = {
    "linear": (lambda x, w: ours.linear(x, w, w[0]), lambda x, w: F.linear(x, w.T, w[0]), (X, W)),
    "softmax": (ours.softmax, lambda x: F.softmax(x, -1), (X,)),
    "softmax_columns": (lambda x: ours.softmax(x, 0), lambda x: F.softmax(x, 0), (X,)),
    "log_softmax": (ours.log_softmax, lambda x: F.log_softmax(x, -1), (X,)),
    "cross_entropy": (lambda x: ours.cross_entropy(x, T), lambda x: F.cross_entropy(x, T), (X,)),
    "relu": (ours.relu, F.relu, (torch.cat([X, torch.zeros(1, 7, dtype=X.dtype)]),)),
    "gelu": (ours.gelu, F.gelu, (X,)),
    "gelu_tanh": (ours.gelu_tanh, lambda x: F.gelu(x, approximate="tanh"), (X,)),
    "silu": (ours.silu, F.silu, (X,)),
    "layer_norm": (ours.layer_norm, lambda x, g, b: F.layer_norm(x, (7,), g, b), (X, G, B)),
    "layer_norm_bare": (ours.layer_norm, lambda x: F.layer_norm(x, (7,)), (X,)),
    "rms_norm": (ours.rms_norm, lambda x, g: F.rms_norm(x, (7,), g, 1e-5), (X, G)),
}


def slopes_of(y):
    return torch.linspace(-1, 2, y.numel()).reshape(y.shape).to(y.dtype)


def value_and_gradients(function, inputs, dtype):
    leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
    y = function(*leaves)
    y.backward(slopes_of(y))
    return y.detach(), [x.grad for x in leaves]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", PAIRS)
def test_equals_torch_in_value_and_gradient(name, dtype):
    mine, theirs, inputs = PAIRS[name]
    tolerance = {"atol": 1e-12, "rtol": 0} if dtype == torch.float64 else {"atol": 1e-5, "rtol": 1e-5}
    y, grads = value_and_gradients(mine, inputs, dtype)
    y_torch, grads_torch = value_and_gradients(theirs, inputs, dtype)
    assert y.dtype == dtype
    torch.testing.assert_close(y, y_torch, **tolerance)
    torch.testing.assert_close(grads, grads_torch, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", PAIRS)
def test_half_precision_keeps_its_type_and_stays_near(name, dtype):
    """fp16 has 11 bits and bf16 has 8, so they agree with fp64 to about 2^-10 and 2^-7 of the size of the
    values.
    """
    mine, _, inputs = PAIRS[name]
    exact = mine(*[x.to(dtype).double() for x in inputs])
    y = mine(*[x.to(dtype) for x in inputs])
    assert y.dtype in (dtype, torch.float32)  # a loss comes in fp32
    torch.testing.assert_close(y.double(), exact, atol=2e-2 if dtype == torch.float16 else 1.5e-1, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", [n for n in PAIRS if n != "linear"])
def test_the_largest_values_give_no_nan_and_no_inf(name, dtype):
    mine, _, inputs = PAIRS[name]
    x = (
        torch.tensor([[3e4, -3e4, 3e4, 0.0, 1.0, -1.0, 2e4]])
        .repeat(inputs[0].shape[0], 1)
        .to(dtype)
        .requires_grad_()
    )
    y = mine(x, *[v.to(dtype) for v in inputs[1:]])
    y.float().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


INF, NAN = float("inf"), float("nan")
SPECIAL = {
    "NaN": lambda f: [NAN, 1.0, -2.0],
    "inf": lambda f: [INF, 1.0, -2.0],
    "-inf": lambda f: [-INF, 1.0, -2.0],
    "both": lambda f: [INF, -INF, 0.0],
    "all -inf": lambda f: [-INF, -INF, -INF],
    "zeros": lambda f: [-0.0, 0.0, 1.0],
    "largest": lambda f: [f.max, f.min, 0.0],
    "all largest": lambda f: [f.max, f.max, f.max],
    "smallest": lambda f: [f.tiny, -f.tiny, 0.0],
    "subnormal": lambda f: [f.tiny / 4, -f.tiny / 4, 0.0],
    "far below 0": lambda f: [-12.0, -40.0, -90.0],
}
SHAPES = {  # the functions of one x, and torch's
    "softmax": (ours.softmax, lambda x: F.softmax(x, -1)),
    "softmax_columns": (lambda x: ours.softmax(x, 0), lambda x: F.softmax(x, 0)),
    "log_softmax": (ours.log_softmax, lambda x: F.log_softmax(x, -1)),
    "relu": (ours.relu, torch.relu),
    "gelu": (ours.gelu, F.gelu),
    "gelu_tanh": (ours.gelu_tanh, lambda x: F.gelu(x, approximate="tanh")),
    "silu": (ours.silu, F.silu),
    "layer_norm": (ours.layer_norm, lambda x: F.layer_norm(x, x.shape[-1:])),
    "rms_norm": (ours.rms_norm, lambda x: F.rms_norm(x, x.shape[-1:], None, 1e-5)),
    "linear": (
        lambda x: ours.linear(x, torch.ones(x.shape[-1], 2).to(x)),
        lambda x: F.linear(x, torch.ones(2, x.shape[-1]).to(x)),
    ),
    "cross_entropy": (
        lambda x: ours.cross_entropy(x, torch.zeros(len(x), dtype=torch.long)),
        lambda x: F.cross_entropy(x, torch.zeros(len(x), dtype=torch.long)),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", SHAPES)
def test_special_values_give_what_torch_gives(name, kind, dtype):
    """Torch's value and gradient in float64:
    its own narrow kernels differ among themselves at the edge of their range.
    """
    mine, theirs = SHAPES[name]
    info = torch.finfo(dtype)
    if "norm" in name and "largest" in kind and dtype != torch.float16:
        pytest.skip("squares overflow in torch too: NaN or 0, as the kernel goes")
    if name == "linear" and "largest" in kind:
        pytest.skip("the sum overflows, or not, as it is ordered")
    x = torch.tensor([SPECIAL[kind](info)], dtype=dtype).repeat(
        40, 1
    )  # long enough for a kernel's vector instructions
    y, (grad,) = value_and_gradients(mine, (x,), dtype)
    y_torch, (grad_torch,) = value_and_gradients(theirs, (x.double(),), torch.float64)
    if name in (
        "gelu",
        "gelu_tanh",
        "silu",
    ):  # torch gives inf * 0 = NaN, also where x^3 overflows; here it is the limit
        up, down = x >= info.max, x <= info.min
        grad_torch[up], grad_torch[down] = slopes_of(y_torch)[up], 0.0
    assert y.dtype == dtype or (name == "cross_entropy" and y.dtype == torch.float32)
    size = 1e3 if "norm" in name else 1.0  # a slope of at most 2 over sqrt(eps)
    close = {
        **within(32, dtype, size),
        "equal_nan": True,
    }  # a row of three, a few functions of it, each right to an ulp or two
    torch.testing.assert_close(y, y_torch.to(y.dtype), **close)
    torch.testing.assert_close(grad, grad_torch.to(dtype), **close)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
@pytest.mark.parametrize("name", [n for n in SHAPES if n != "cross_entropy"])
def test_nothing_in_nothing_out(name, shape):
    mine, theirs = SHAPES[name]
    if name.endswith("norm") and shape[-1] == 0:
        pytest.skip("torch refuses a norm over nothing, or not, by its version")
    x = torch.zeros(shape, requires_grad=True)
    y = mine(x)
    y.sum().backward()
    assert y.shape == theirs(x).shape
    assert x.grad.shape == shape


def test_integers_are_refused_where_they_would_be_cut(as_a_reader_calls_it):
    """softmax([1, 2]) in the type of its input would be [0, 0]."""
    for name in ("softmax", "log_softmax", "gelu", "silu", "layer_norm", "rms_norm"):
        with pytest.raises(ValueError, match="x has type torch.int64"):
            getattr(ours, name)(torch.tensor([[1, 2]]))
    assert ours.relu(torch.tensor([-1, 2])).tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("filler", [NAN, INF, -INF, "largest"])
def test_an_ignored_row_changes_nothing_whatever_stands_in_it(filler, dtype):
    """Value and gradient are torch's, and those of the other rows alone. The row's own gradient is exactly 0,
    where torch's log_softmax multiplies 0 by NaN on the way back.
    """
    filler = torch.finfo(dtype).max if filler == "largest" else filler
    x = X.to(dtype, copy=True)
    x[3], x[4, 5] = filler, -INF  # row 3 is ignored; a kept row holds a forbidden token
    leaf, other, alone = (v.clone().requires_grad_() for v in (x, x.double(), x[T != -100]))
    loss, theirs = ours.cross_entropy(leaf, T), F.cross_entropy(other, T)
    others = [0, 1, 2, 4]
    without = ours.cross_entropy(alone, T[others])
    for value in (loss, theirs, without):
        value.backward()
    assert loss == without
    assert (leaf.grad[3] == 0).all()
    assert torch.equal(leaf.grad[others], alone.grad)
    wide = torch.promote_types(
        dtype, torch.float32
    )  # what the loss is computed in; its gradient is rounded to x's type
    torch.testing.assert_close(loss.double(), theirs, **within(32, wide))
    torch.testing.assert_close(leaf.grad[others].double(), other.grad[others], **within(32, dtype))


def test_huge_logits_lose_no_digit_of_the_loss():
    """m + log(sum) - x would round log(sum) away beside m."""
    x = torch.tensor([[1e8, 1e8, 0.0]])
    assert ours.cross_entropy(x, torch.tensor([0])).item() == pytest.approx(0.693147, abs=1e-6)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64]
)
def test_targets_of_any_whole_type(dtype):
    t = torch.tensor([3, 0, 6, 1, 2])
    assert torch.equal(ours.cross_entropy(X, t.to(dtype)), ours.cross_entropy(X, t))


def test_256_less_than_a_target_is_not_the_same(as_a_reader_calls_it):
    """In uint8 156 and -100 have the same bits: it is a target like any other."""
    wide = torch.zeros(1, 200)
    assert ours.cross_entropy(wide, torch.tensor([156], dtype=torch.uint8)).item() == pytest.approx(
        5.2983, abs=1e-4
    )


def test_softmax_forgets_a_constant():
    torch.testing.assert_close(ours.softmax(X + 1e4), ours.softmax(X), atol=1e-11, rtol=0)


def test_the_gradient_of_softmax_and_cross_entropy_is_p_minus_y():
    x = X[:1].clone().requires_grad_()
    ours.cross_entropy(x, torch.tensor([2])).backward()
    torch.testing.assert_close(
        x.grad, ours.softmax(X[:1]) - F.one_hot(torch.tensor([2]), 7), atol=1e-12, rtol=0
    )


def test_wrong_shapes_and_targets_are_named(as_a_reader_calls_it):
    with pytest.raises(ValueError, match="x ends in 7 and W starts with 4"):
        ours.linear(X, W.T)
    with pytest.raises(ValueError, match="target 7 is no index of V=7"):
        ours.cross_entropy(X, torch.tensor([0, 0, 0, 0, 7]))
    with pytest.raises(ValueError, match="target -1 "):
        ours.cross_entropy(X, torch.tensor([0, 0, 0, 0, -1]))
    with pytest.raises(ValueError, match="one more axis"):
        ours.cross_entropy(X, T[:3])
    with pytest.raises(ValueError, match="every target is ignore_index"):
        ours.cross_entropy(X, torch.full((5,), -100))
    with pytest.raises(ValueError, match="approximate='fast'"):
        ours.gelu(X, "fast")
    for targets in (T.double(), T > 0, T.tolist()):
        with pytest.raises(ValueError, match="(targets have type|targets)"):
            ours.cross_entropy(X, targets)
    with pytest.raises(ValueError, match=r"b \(1,\): x must be"):
        ours.linear(X, W, torch.zeros(1, dtype=X.dtype))  # would broadcast
    with pytest.raises(ValueError, match=r"weight has shape \(1,\)"):
        ours.layer_norm(X, G[:1])
    with pytest.raises(ValueError, match=r"weight has shape \(5, 7\)"):
        ours.rms_norm(X, X)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_a_single_row_is_cut_among_threads_and_is_the_same(threads, layout, monkeypatch):
    """Writing one token: a large matrix is read by all threads, cut where it can be;
    five divide neither 768 nor 513.
    """
    weight = torch.randn(768, 513, generator=torch.Generator().manual_seed(4)) / 768**0.5
    weight = weight if layout == "rows" else weight.T.contiguous().T  # as a tied head has it
    row, bias = torch.randn(1, 1, 768, generator=torch.Generator().manual_seed(5)), torch.randn(513)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    expected = ours.linear(row, weight, bias)  # with gradients: one product
    with torch.no_grad():
        torch.testing.assert_close(ours.linear(row, weight, bias), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            ours.linear(row[0, 0], weight), expected[0, 0] - bias, atol=1e-5, rtol=1e-5
        )
