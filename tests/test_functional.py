"""What is written out equals torch's own, in value and in gradient."""

import pytest
import torch
import torch.nn.functional as F

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


def value_and_gradients(function, inputs, dtype):
    leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
    y = function(*leaves)
    y.backward(torch.linspace(-1, 2, y.numel()).reshape(y.shape).to(y.dtype))
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
    """fp16 has 11 bits and bf16 has 8, so they agree with fp64 to about 2^-10 and 2^-7 of the size of the values."""
    mine, _, inputs = PAIRS[name]
    exact = mine(*[x.to(dtype).double() for x in inputs])
    y = mine(*[x.to(dtype) for x in inputs])
    assert y.dtype in (dtype, torch.float32)  # a loss comes in fp32
    torch.testing.assert_close(y.double(), exact, atol=2e-2 if dtype == torch.float16 else 1.5e-1, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", [n for n in PAIRS if n != "linear"])
def test_the_largest_values_give_no_nan_and_no_inf(name, dtype):
    mine, _, inputs = PAIRS[name]
    x = torch.tensor([[3e4, -3e4, 3e4, 0.0, 1.0, -1.0, 2e4]]).repeat(inputs[0].shape[0], 1).to(dtype).requires_grad_()
    y = mine(x, *[v.to(dtype) for v in inputs[1:]])
    y.float().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


def test_softmax_forgets_a_constant():
    torch.testing.assert_close(ours.softmax(X + 1e4), ours.softmax(X), atol=1e-11, rtol=0)


def test_the_gradient_of_softmax_and_cross_entropy_is_p_minus_y():
    x = X[:1].clone().requires_grad_()
    ours.cross_entropy(x, torch.tensor([2])).backward()
    torch.testing.assert_close(x.grad, ours.softmax(X[:1]) - F.one_hot(torch.tensor([2]), 7), atol=1e-12, rtol=0)


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


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_a_single_row_is_cut_among_threads_and_is_the_same(threads, layout, monkeypatch):
    """Writing one token: a large matrix is read by all threads, cut where it can be; five divide neither 768 nor 513."""
    weight = torch.randn(768, 513, generator=torch.Generator().manual_seed(4)) / 768**0.5
    weight = weight if layout == "rows" else weight.T.contiguous().T  # as a tied head has it
    row, bias = torch.randn(1, 1, 768, generator=torch.Generator().manual_seed(5)), torch.randn(513)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    expected = ours.linear(row, weight, bias)  # with gradients: one product
    with torch.no_grad():
        torch.testing.assert_close(ours.linear(row, weight, bias), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.linear(row[0, 0], weight), expected[0, 0] - bias, atol=1e-5, rtol=1e-5)
