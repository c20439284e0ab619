"""Every operation equals torch's in value and gradient, alone and in random programs;
so does the toy decoder while it trains.
"""

import builtins
import math
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmcore import autograd
from llmcore.autograd import OPERATIONS, Tensor, central_differences, gradient_check, unbroadcast
from llmcore.autograd import operations as ops
from llmcore.toy import IDS, toy_model

CLOSE = {"atol": 1e-10, "rtol": 1e-10}  # float64: only the order of sums differs
NUMBERS = np.random.default_rng(0)


def normal(*shape):
    return NUMBERS.standard_normal(shape)


def positive(*shape):
    return NUMBERS.uniform(0.5, 2.0, shape)


X, Y = normal(3, 4), normal(3, 4)
IDX = np.array([[0, 2, 2], [2, 1, 0]])
MASK = np.array([True, False, True, True])
TARGETS = np.array([3, 0, -100, 3])
TIES = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
t = torch.from_numpy

# operation: [(ours, torch's, inputs)]
CASES = {
    "neg": [(ops.neg, torch.neg, [X])],
    "add": [
        (ops.add, torch.add, [X, Y]),
        (ops.add, torch.add, [normal(2, 1, 4), normal(3, 1)]),
        (lambda x: 2 + x, lambda x: 2 + x, [X]),
    ],
    "sub": [
        (ops.sub, torch.sub, [X, Y]),
        (ops.sub, torch.sub, [normal(4), X]),
        (lambda x: 2 - x, lambda x: 2 - x, [X]),
    ],
    "mul": [
        (ops.mul, torch.mul, [X, Y]),
        (ops.mul, torch.mul, [X, normal(3, 1)]),
        (lambda x: Y * x, lambda x: t(Y) * x, [X]),
    ],
    "div": [
        (ops.div, torch.div, [X, positive(3, 4)]),
        (ops.div, torch.div, [X, positive(1, 4)]),
        (lambda x: 1 / x, lambda x: 1 / x, [positive(4)]),
    ],
    "pow": [
        (ops.pow_, torch.pow, [positive(3, 4), Y]),
        (ops.pow_, torch.pow, [positive(4), normal(3, 1)]),
        (lambda x: x**3, lambda x: x**3, [X]),
        (lambda x: x**0, lambda x: x**0, [X]),
        (lambda x: 2**x, lambda x: 2**x, [X]),
    ],
    "matmul": [
        (ops.matmul, torch.matmul, [X, normal(4, 2)]),
        (ops.matmul, torch.matmul, [normal(2, 3, 4), normal(4, 2)]),
        (ops.matmul, torch.matmul, [normal(5, 1, 3, 4), normal(2, 4, 2)]),
        (ops.matmul, torch.matmul, [normal(4), normal(4)]),
        (ops.matmul, torch.matmul, [normal(4), normal(2, 4, 3)]),
        (ops.matmul, torch.matmul, [normal(2, 3, 4), normal(4)]),
        (lambda x: Y.T @ x, lambda x: t(Y).T @ x, [X]),
    ],
    "sum": [
        (ops.sum_, torch.sum, [X]),
        (lambda x: x.sum(0), lambda x: x.sum(0), [X]),
        (lambda x: x.sum((0, -1), keepdims=True), lambda x: x.sum((0, -1), keepdim=True), [normal(2, 3, 4)]),
    ],
    "mean": [
        (ops.mean, torch.mean, [X]),
        (lambda x: x.mean(-1, keepdims=True), lambda x: x.mean(-1, keepdim=True), [X]),
        (lambda x: x.mean((0, 1)), lambda x: x.mean((0, 1)), [normal(2, 3, 4)]),
    ],
    "max": [
        (ops.max_, torch.amax, [X]),
        (lambda x: x.max(-1, keepdims=True), lambda x: x.amax(-1, keepdim=True), [X]),
        (lambda x: x.max((0, 2)), lambda x: x.amax((0, 2)), [normal(2, 3, 4)]),
    ],
    "exp": [(ops.exp, torch.exp, [X])],
    "log": [(ops.log, torch.log, [positive(3, 4)])],
    "sqrt": [(ops.sqrt, torch.sqrt, [positive(3, 4)])],
    "tanh": [(ops.tanh, torch.tanh, [X])],
    "relu": [(ops.relu, torch.relu, [X])],
    "silu": [(ops.silu, F.silu, [X])],
    "gelu": [
        (ops.gelu, F.gelu, [X * 3]),
        (lambda x: ops.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh"), [X * 3]),
    ],
    "softmax": [
        (ops.softmax, lambda x: F.softmax(x, -1), [X]),
        (lambda x: ops.softmax(x, 0), lambda x: F.softmax(x, 0), [normal(2, 3, 4)]),
    ],
    "log_softmax": [
        (ops.log_softmax, lambda x: F.log_softmax(x, -1), [X]),
        (lambda x: ops.log_softmax(x, axis=1), lambda x: F.log_softmax(x, 1), [normal(2, 3, 4)]),
    ],
    "layer_norm": [
        (ops.layer_norm, lambda x: F.layer_norm(x, (4,)), [X]),
        (ops.layer_norm, lambda x, w: F.layer_norm(x, (4,), w), [normal(2, 3, 4), normal(4)]),
        (ops.layer_norm, lambda x, *wb: F.layer_norm(x, (4,), *wb), [normal(2, 3, 4), normal(4), normal(4)]),
        (lambda x, b: ops.layer_norm(x, None, b, eps=0.1), lambda x, b: F.layer_norm(x, (4,), None, b, 0.1),
         [X, normal(4)]),
    ],
    "rms_norm": [
        (ops.rms_norm, lambda x: F.rms_norm(x, (4,), None, 1e-5), [X]),
        (lambda x, w: ops.rms_norm(x, w, eps=0.1), lambda x, w: F.rms_norm(x, (4,), w, 0.1),
         [normal(2, 3, 4), normal(4)]),
    ],
    "getitem": [
        (lambda x: x[1], lambda x: x[1], [X]),
        (lambda x: x[..., ::2, None], lambda x: x[..., ::2, None], [X]),
        (lambda x: x[IDX], lambda x: x[t(IDX)], [X]),
        (lambda x: x[IDX, 1:3], lambda x: x[t(IDX), 1:3], [X]),
        (lambda x: x[:, MASK], lambda x: x[:, t(MASK)], [X]),
        (lambda x: x[[0, 0, 1], [1, 1, 2]], lambda x: x[[0, 0, 1], [1, 1, 2]], [X]),
    ],
    "embedding": [
        (lambda E: ops.embedding(IDX, E), lambda E: F.embedding(t(IDX), E), [X]),
        (lambda E: ops.embedding(Tensor(IDX.astype("uint16")), E), lambda E: F.embedding(t(IDX), E), [X]),
    ],
    "concatenate": [
        (ops.concatenate, lambda *parts: torch.cat(parts), [X, normal(1, 4), normal(2, 4)]),
        (lambda a, b: ops.concatenate(a, Y, b, axis=-1), lambda a, b: torch.cat([a, t(Y), b], -1),
         [X, normal(3, 2)]),
    ],
    "transpose": [
        (lambda x: x.T, lambda x: x.T, [X]),
        (lambda x: x.transpose((2, 0, 1)), lambda x: x.permute(2, 0, 1), [normal(2, 3, 4)]),
    ],
    "swapaxes": [(lambda x: x.swapaxes(0, -1), lambda x: x.transpose(0, -1), [normal(2, 3, 4)])],
    "reshape": [
        (lambda x: x.reshape((2, -1)), lambda x: x.reshape(2, -1), [X]),
        (lambda x: x.T.reshape(12), lambda x: x.T.reshape(12), [X]),
    ],
    "where": [
        (lambda a, b: ops.where(MASK, a, b), lambda a, b: torch.where(t(MASK), a, b), [X, normal(3, 1)]),
        (lambda x: ops.where(MASK, x, -9.0), lambda x: x.masked_fill(~t(MASK), -9.0), [X]),
    ],
    "cross_entropy": [
        (lambda x: ops.cross_entropy(x, TARGETS), lambda x: F.cross_entropy(x, t(TARGETS)), [normal(4, 5)]),
        (lambda x: ops.cross_entropy(x, IDX, 2), lambda x: F.cross_entropy(x.mT, t(IDX), ignore_index=2),
         [normal(2, 3, 4)]),
    ],
}  # fmt: skip
EACH = [
    pytest.param(*case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)
]
KINKS = {  # a value and slope that central differences cannot judge
    "relu at 0": (ops.relu, torch.relu, [np.array([-1.0, 0.0, 1.0])]),
    "max of equals": (lambda x: x.max(-1), lambda x: x.amax(-1), [TIES]),
    "0 to the powers 0, 1, 2": (ops.pow_, torch.pow, [np.zeros(3), np.arange(3.0)]),
}


def ours(function, inputs, weight):
    """Value and gradients of sum(weight * function(inputs)) from llmcore.autograd."""
    leaves = [Tensor(x, requires_grad=True) for x in inputs]
    y = function(*leaves)
    y.backward(weight(y.shape))
    return y.data, [np.zeros(x.shape) if x.grad is None else x.grad for x in leaves]


def theirs(function, inputs, weight):
    """The same from torch."""
    leaves = [torch.tensor(x, requires_grad=True) for x in inputs]
    y = function(*leaves)
    y.backward(torch.as_tensor(weight(y.shape), dtype=y.dtype))
    return y.detach().numpy(), [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in leaves]


def slopes(shape):
    return np.linspace(-1, 2, math.prod(shape)).reshape(shape)


def assert_equal(function, torch_function, inputs, weight=slopes):
    y, gradients = ours(function, inputs, weight)
    y_torch, gradients_torch = theirs(torch_function, inputs, weight)
    assert y.shape == y_torch.shape
    np.testing.assert_allclose(y, y_torch, **CLOSE)
    for mine, other in zip(gradients, gradients_torch, strict=True):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, **CLOSE)


def in_operations(name):
    return f"{name}_" if hasattr(builtins, name) else name


def test_every_operation_is_compared_with_torch():
    assert set(CASES) == set(OPERATIONS)
    assert all(getattr(ops, in_operations(name)) is OPERATIONS[name] for name in OPERATIONS)
    for name, cases in CASES.items():
        assert any(is_recorded(name, function, inputs) for function, _, inputs in cases), name


def is_recorded(name, function, inputs):
    return function(*(Tensor(x, requires_grad=True) for x in inputs)).operation == name


@pytest.mark.parametrize(("function", "torch_function", "inputs"), EACH)
def test_equals_torch_in_value_and_gradient(function, torch_function, inputs):
    assert_equal(function, torch_function, inputs)


@pytest.mark.parametrize("name", KINKS)
def test_equals_torch_at_a_kink(name):
    assert_equal(*KINKS[name])


@pytest.mark.parametrize(("function", "torch_function", "inputs"), EACH)
def test_equals_central_differences(function, torch_function, inputs):
    assert gradient_check(function, *inputs) < 1e-7


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32(name):
    function, _, inputs = CASES[name][0]
    leaves = [Tensor(x.astype(np.float32), requires_grad=True) for x in inputs]
    y = 2.0 * function(*leaves) + 1
    y.backward(np.ones(y.shape))
    assert y.dtype == y.grad.dtype == np.float32
    assert all(x.grad.dtype == np.float32 for x in leaves)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "matmul"])
def test_both_inputs_may_be_one_tensor(name):
    x = positive(3, 3)
    assert_equal(
        lambda x: OPERATIONS[name](x, x),
        lambda x: {"matmul": torch.matmul}.get(name, getattr(torch, name))(x, x),
        [x],
    )
    assert gradient_check(lambda x: OPERATIONS[name](x, x), x) < 1e-7


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "where"])
@settings(max_examples=30, deadline=None)
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3, min_side=0))
def test_any_shapes_that_broadcast(name, shapes):
    a, b = (np.random.default_rng(i).uniform(0.5, 2, shape) for i, shape in enumerate(shapes.input_shapes))
    even = np.asarray(np.arange(math.prod(shapes.result_shape)).reshape(shapes.result_shape) % 2 == 0)
    both = {"where": (lambda a, b: ops.where(even, a, b), lambda a, b: torch.where(t(even), a, b))}
    assert_equal(*both.get(name, (OPERATIONS[name], getattr(torch, name, None))), [a, b])


@settings(max_examples=80, deadline=None)
@given(shapes=hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=3, max_side=3))
def test_any_shapes_that_multiply(shapes):
    a, b = (np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate(shapes.input_shapes))
    assert_equal(ops.matmul, torch.matmul, [a, b])


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    x=hnp.arrays(float, hnp.array_shapes(max_dims=4, max_side=4), elements=st.floats(-3, 3), unique=True),
)
def test_any_axes_shapes_and_slices(data, x):
    axes = data.draw(hnp.valid_tuple_axes(x.ndim, min_size=1))
    keep = data.draw(st.booleans())
    for reduce, torch_reduce in ((ops.sum_, torch.sum), (ops.mean, torch.mean), (ops.max_, torch.amax)):
        assert_equal(lambda x, f=reduce: f(x, axes, keep), lambda x, f=torch_reduce: f(x, axes, keep), [x])
    order = tuple(data.draw(st.permutations(range(x.ndim))))
    assert_equal(lambda x: x.transpose(order), lambda x: x.permute(order), [x])
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    assert_equal(lambda x: ops.softmax(x, axis), lambda x: F.softmax(x, axis), [x])
    assert_equal(lambda x: ops.concatenate(x, x, axis=axis), lambda x: torch.cat([x, x], axis), [x])
    index = tuple(
        data.draw(st.slices(n).filter(lambda s: s.step is None or s.step > 0)) for n in x.shape
    )  # torch has no steps back
    assert_equal(lambda x: x[index], lambda x: x[index], [x])
    rows = data.draw(hnp.arrays(int, 5, elements=st.integers(0, len(x) - 1)))
    assert_equal(lambda x: x[rows], lambda x: x[t(rows)], [x])


STEPS = {
    "tanh": (ops.tanh, torch.tanh, 1),
    "silu": (ops.silu, F.silu, 1),
    "softmax": (ops.softmax, lambda x: F.softmax(x, -1), 1),
    "norm": (ops.rms_norm, lambda x: F.rms_norm(x, (3,), None, 1e-5), 1),
    "transpose": (ops.transpose, torch.t, 1),
    "row": (lambda x: x[1], lambda x: x[1], 1),
    "add": (ops.add, torch.add, 2),
    "mul": (ops.mul, torch.mul, 2),
    "matmul": (lambda a, b: ops.tanh(a @ b), lambda a, b: torch.tanh(a @ b), 2),
}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 99), st.integers(0, 99)),
        min_size=1,
        max_size=12,
    )
)
def test_any_program_equals_torch(program):
    """Each step reads any earlier values, so values are used never, once or many times, near and far."""

    def run(which):
        def function(*leaves):
            values = list(leaves)
            for name, i, j in program:
                step = STEPS[name]
                new = step[which](*(values[k % len(values)] for k in (i, j)[: step[2]]))
                values.append(
                    new if new.ndim == 2 else values[0] * new
                )  # a row is copied into a square again
            total = values[-1]
            for value in values:
                total = total + value
            return total

        return function

    inputs = [np.random.default_rng(i).standard_normal((3, 3)) for i in range(2)]
    assert_equal(run(0), run(1), inputs)


def test_gradients_of_several_uses_and_of_several_backwards_add_up():
    x = Tensor([2.0], requires_grad=True)
    square = x * x
    (square * square + square + x).backward()  # x^4 + x^2 + x
    assert x.grad.tolist() == [4 * 8 + 2 * 2 + 1]
    assert square.grad.tolist() == [2 * 4 + 1]
    (3 * x).backward()
    assert x.grad.tolist() == [37 + 3]


@pytest.mark.slow
def test_a_chain_longer_than_pythons_stack(as_a_reader_calls_it):
    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(100_000):
        y = y + x
    assert len(autograd.topological(y)) == 100_001
    y.backward(retain_graph=True)
    assert x.grad == 100_001
    del y  # a record that no backward has freed goes without recursion too


def test_topological_order_puts_inputs_first_and_each_tensor_once():
    x, c = Tensor(X, requires_grad=True), Tensor(Y)
    a = x * c
    b = ops.exp(a)
    y = (a + b + x).sum()
    order = [tensor.operation for tensor in autograd.topological(y)]
    assert order == ["", "mul", "exp", "add", "add", "sum"]  # c needs no gradient and is not there


def test_erf_equals_torchs():
    x = np.concatenate([np.linspace(-7, 7, 2001), [0.0, -0.0, 1e-300, 1e300, np.inf, -np.inf]])
    np.testing.assert_allclose(ops.erf(x), torch.erf(t(x)).numpy(), atol=1e-15, rtol=0)
    assert np.isnan(ops.erf(np.array([np.nan]))).all()


SAFE = {
    name: OPERATIONS[name]
    for name in ("softmax", "log_softmax", "relu", "silu", "gelu", "layer_norm", "rms_norm")
}
SAFE |= {
    "gelu_tanh": lambda x: ops.gelu(x, "tanh"),
    "cross_entropy": lambda x: ops.cross_entropy(x, np.array(1)),
}


@pytest.mark.parametrize("name", SAFE)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_large_values_give_no_nan_no_inf_and_no_warning(name):
    x = Tensor([1e120, -1e120, 1e4, -1e4, 0.0, 1.0], requires_grad=True)
    y = SAFE[name](x)
    y.backward(np.ones(y.shape))
    assert np.isfinite(y.data).all()
    assert np.isfinite(x.grad).all()


def test_the_gradient_of_cross_entropy_is_p_minus_y():
    x = Tensor(X[:1], requires_grad=True)
    ops.cross_entropy(x, np.array([2])).backward()
    np.testing.assert_allclose(x.grad, ops.softmax(X[:1]).data - np.eye(4)[2], atol=1e-12)


NAN, INF = math.nan, math.inf
SPECIAL = [
    [NAN, 1.0, -2.0], [INF, 1.0, -2.0], [-INF, 1.0, -2.0], [INF, -INF, 0.0], [-INF, -INF, -INF],
    [INF, INF, 1.0], [-0.0, 0.0, 1.0], [1e200, 1.0, -1e200], [5e-324, 1.0, -1e-310], [750.0, -750.0, 0.0],
]  # fmt: skip
ROWS = {
    "relu": (ops.relu, torch.relu),
    "silu": (ops.silu, F.silu),
    "gelu": (ops.gelu, F.gelu),
    "gelu_tanh": (lambda x: ops.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "softmax": (ops.softmax, lambda x: F.softmax(x, -1)),
    "log_softmax": (ops.log_softmax, lambda x: F.log_softmax(x, -1)),
    "layer_norm": (ops.layer_norm, lambda x: F.layer_norm(x, (3,))),
    "rms_norm": (ops.rms_norm, lambda x: F.rms_norm(x, (3,), None, 1e-5)),
    "max": (lambda x: x.max(-1), lambda x: x.amax(-1)),
    "mean": (lambda x: x.mean(-1), lambda x: x.mean(-1)),
    **{name: (OPERATIONS[name], getattr(torch, name)) for name in ("neg", "exp", "log", "sqrt", "tanh")},
    "cross_entropy": (
        lambda x: ops.cross_entropy(x, np.array([1])),
        lambda x: F.cross_entropy(x, torch.tensor([1])),
    ),
}


@pytest.mark.parametrize("row", SPECIAL, ids=str)
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_values_give_what_torch_gives(name, row):
    y, (grad,) = ours(ROWS[name][0], [np.array([row])], np.ones)
    y_torch, (grad_torch,) = theirs(ROWS[name][1], [np.array([row])], np.ones)
    if name.startswith("gelu"):  # torch gives inf * 0 = NaN, also where x^3 overflows; here it is the limit
        far = np.abs(row) > 1e100
        grad_torch[0, far] = np.array(row)[far] > 0
    np.testing.assert_allclose(y, y_torch, **CLOSE)
    np.testing.assert_allclose(grad, grad_torch, **CLOSE)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_pairs_give_what_torch_gives(name):
    values = np.array([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 2.0, -2.5, 1e200, 0.5])
    a, b = (x.ravel() for x in np.meshgrid(values, values))
    assert_equal(OPERATIONS[name], getattr(torch, name), [a, b], np.ones)


@pytest.mark.parametrize("filler", [NAN, INF, -INF, 1e308])
def test_an_ignored_row_changes_nothing_whatever_stands_in_it(filler):
    """Value and gradient are those of the other rows alone, and the row's own gradient is exactly 0."""
    x = normal(4, 5)
    x[2] = filler
    kept = TARGETS != -100
    loss, (grad,) = ours(lambda x: ops.cross_entropy(x, TARGETS), [x], np.ones)
    alone, (grad_alone,) = theirs(lambda x: F.cross_entropy(x, t(TARGETS[kept])), [x[kept]], np.ones)
    np.testing.assert_allclose(loss, alone, **CLOSE)
    np.testing.assert_allclose(grad[kept], grad_alone, **CLOSE)
    assert (grad[2] == 0).all()


# The toy decoder, with the weights of llmcore.toy

# what the model itself adds to the vectors of its tokens
POSITIONS = (
    toy_model()
    .embedding.position(torch.zeros(1, 8, 4, dtype=torch.float64), torch.arange(8)[None])[0]
    .numpy()
)


def decoder(p, ids):
    """The toy decoder's logits from its parameters by name: what llmcore.model computes, without torch."""
    T, H, Dh = len(ids), 2, 2
    block = lambda name: p["decoder.blocks.0." + name]
    linear = lambda x, name: x @ block(name + ".weight") + block(name + ".bias")
    norm = lambda x, name: ops.layer_norm(x, p[name + ".weight"], p[name + ".bias"])
    heads = lambda x: x.reshape((T, H, Dh)).swapaxes(0, 1)  # (H, T, Dh)
    x = ops.embedding(ids, p["embedding.table"]) + POSITIONS[:T]
    h = norm(x, "decoder.blocks.0.attention_norm")
    q, k, v = (heads(linear(h, f"attention.{name}")) for name in ("W_q", "W_k", "W_v"))
    allowed = np.tril(np.ones((T, T), dtype=bool))
    weights = ops.softmax(ops.where(allowed, q @ k.swapaxes(-1, -2) / math.sqrt(Dh), np.finfo(float).min))
    x = x + linear((weights @ v).swapaxes(0, 1).reshape((T, H * Dh)), "attention.W_o")
    h = norm(x, "decoder.blocks.0.feed_forward_norm")
    x = x + linear(ops.relu(linear(h, "feed_forward.up")), "feed_forward.down")
    return norm(x, "decoder.norm") @ p["head.table"].T


def sgd(p, state, lr=0.5, momentum=0.9):
    for name, theta in p.items():
        state[name] = momentum * state.get(name, 0) + theta.grad
        theta.data, theta.grad = theta.data - lr * state[name], None


def adamw(p, state, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.1):
    step = state["step"] = state.get("step", 0) + 1
    for name, theta in p.items():
        m, v = state.get(name, (0, 0))
        m, v = state[name] = beta1 * m + (1 - beta1) * theta.grad, beta2 * v + (1 - beta2) * theta.grad**2
        move = m / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + eps)
        theta.data, theta.grad = theta.data - lr * decay * theta.data - lr * move, None


UPDATES = {
    "sgd": (sgd, lambda params: torch.optim.SGD(params, lr=0.5, momentum=0.9)),
    "adamw": (adamw, lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1)),
}


@pytest.mark.parametrize("name", UPDATES)
def test_the_toy_decoder_trains_as_in_torch(name):
    """Logits, loss and every gradient in each of three steps, then every weight."""
    update, optimizer_of = UPDATES[name]
    model = toy_model().double()
    p = {name: Tensor(theta.detach().numpy(), requires_grad=True) for name, theta in model.named_parameters()}
    optimizer, state = optimizer_of(model.parameters()), {}
    ids, targets = np.array(IDS[:-1]), np.array(IDS[1:])
    losses = []
    for _ in range(3):
        logits_torch = model(torch.tensor([IDS[:-1]]))
        loss_torch = F.cross_entropy(logits_torch[0], t(targets))
        optimizer.zero_grad()
        loss_torch.backward()
        logits = decoder(p, ids)
        loss = ops.cross_entropy(logits, targets)
        loss.backward()
        np.testing.assert_allclose(logits.data, logits_torch[0].detach().numpy(), **CLOSE)
        assert math.isclose(loss.item(), loss_torch.item(), rel_tol=1e-12)
        for name, theta in model.named_parameters():
            np.testing.assert_allclose(p[name].grad, theta.grad.numpy(), err_msg=name, **CLOSE)
        optimizer.step()
        update(p, state)
        losses.append(loss.item())
    for name, theta in model.named_parameters():
        # the gradient of a bias of keys is 0 but for rounding, about 1e-17,
        # which AdamW divides by its own size + 1e-8
        np.testing.assert_allclose(p[name].data, theta.detach().numpy(), err_msg=name, atol=1e-8, rtol=0)
    assert losses[0] > losses[1] > losses[2]


def test_the_toy_decoders_gradient_equals_central_differences(as_a_reader_calls_it):
    p = {name: theta.detach().double().numpy() for name, theta in toy_model().named_parameters()}
    block = [name for name in p if "blocks" in name]
    loss = lambda *xs: ops.cross_entropy(
        decoder({**p, **dict(zip(block, xs))}, np.array(IDS[:-1])), np.array(IDS[1:])
    )
    assert gradient_check(loss, *(p[name] for name in block)) < 1e-7


# The record


def test_the_record_is_freed_and_what_it_held_is_let_go():
    x = Tensor(X, requires_grad=True)
    middle = ops.exp(x)
    held = weakref.ref(middle.data)
    y = middle.sum()
    del middle
    assert held() is not None
    y.backward()
    assert held() is None
    with pytest.raises(ValueError, match=r"record of sum \(\) is freed: .* or pass retain_graph=True"):
        y.backward()


def test_a_second_backward_through_a_part_that_is_freed_changes_nothing():
    x = Tensor(X, requires_grad=True)
    shared = ops.exp(x)
    first, second = shared.sum(), (shared * x).sum()
    first.backward()
    before = x.grad
    with pytest.raises(ValueError, match=r"record of exp \(3, 4\) is freed"):
        second.backward()
    assert x.grad is before
    assert second.grad is None


def test_retain_graph_keeps_the_record():
    x = Tensor([3.0], requires_grad=True)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [12.0]
    with pytest.raises(ValueError, match="freed"):
        y.backward()


def test_what_a_vjp_needs_cannot_be_written_into():
    given_array, constant, index = X.copy(), Y.copy(), np.array([0, 1])
    x = Tensor(given_array, requires_grad=True)
    y = (x * constant)[index]
    for tensor in (x, y, x.T, x[0], x.reshape(12)):
        with pytest.raises(ValueError, match="read-only"):
            tensor.data[0] = 1.0
        with pytest.raises(ValueError, match="read-only"):
            tensor.data += 1.0
    given_array[:], constant[:], index[:] = 0, 0, 2  # the caller's own arrays were copied
    seed = np.ones(y.shape)
    y.backward(seed)
    seed[:] = 0
    np.testing.assert_array_equal(x.grad, np.concatenate([Y[:2], np.zeros((1, 4))]))
    np.testing.assert_array_equal(y.grad, np.ones((2, 4)))
    with pytest.raises(ValueError, match="read-only"):
        x.grad *= 0


def test_new_numbers_for_a_leaf_leave_its_record_as_it_was():
    w = Tensor([3.0], requires_grad=True)
    y = w * w
    w.data = w.data - 1.0
    y.backward()
    assert w.grad.tolist() == [6.0]
    assert (w * w).data.tolist() == [4.0]
    x = w
    x += 1.0  # a new Tensor under the name x
    assert w.data.tolist() == [2.0]
    assert x.operation == "add"


def test_no_gradient_no_record():
    y = (Tensor(X) * 2).sum()
    assert not y.requires_grad
    x = Tensor(X, requires_grad=True)
    z = (x.detach() * x).sum()
    z.backward()
    np.testing.assert_array_equal(x.grad, X)


def test_it_loads_without_torch():
    code = "import sys, llmcore.autograd; assert not {'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# The check itself


def test_the_check_finds_a_wrong_vjp_and_a_nan():
    double = Tensor(X)
    wrong = lambda x: ops.where(
        MASK, x * x, x.detach() * x
    )  # half of the slope of x^2 is lost where the mask is False
    with pytest.raises(
        ValueError, match=r"input 0 at \[0, 1\]: backward gives .* must agree; correct the vjp"
    ):
        gradient_check(wrong, double.data)
    with pytest.raises(ValueError, match="backward gives nan"):
        gradient_check(lambda x: x**-1.0 * 0.0 + ops.where(MASK, x, x * np.nan), X)
    with pytest.raises(ValueError, match="kink within 1e-05"):
        gradient_check(ops.relu, np.zeros(1))
    with pytest.raises(ValueError, match="input 1 has type float32: a difference needs 16 digits"):
        central_differences(lambda x, y: (x * y).sum(), X, X.astype(np.float32))


def test_an_operation_of_ones_own(monkeypatch):
    """A function that returns its value and vjps becomes an operation;
    what is wrong with its vjps is said.
    """
    for name in ("cube", "short", "none"):
        monkeypatch.setitem(OPERATIONS, name, None)  # taken out again at the end

    @autograd.operation
    def cube(x, /):
        return x**3, (lambda g: 3 * g * x * x,)

    @autograd.operation
    def short(x, /):
        return x * 2, (lambda g: 2 * g[0],)

    @autograd.operation
    def none(x, /):
        return x * 2, ()

    assert_equal(cube, lambda x: x**3, [X])
    assert gradient_check(cube, X) < 1e-7
    with pytest.raises(ValueError, match=r"gradient \(4,\) of a value \(3, 4\).*correct the vjp"):
        short(Tensor(X, requires_grad=True)).sum().backward()
    with pytest.raises(ValueError, match="none returned 0 vjps for 1 inputs.*add what is missing"):
        none(X)


def test_central_differences_are_exact_for_a_square():
    np.testing.assert_allclose(central_differences(lambda x: (x * x).sum(), X)[0], 2 * X, atol=1e-9)


def test_unbroadcast_is_the_transpose_of_broadcasting():
    """<broadcast(x), g> == <x, unbroadcast(g)>"""
    for shape in [(), (1,), (4,), (3, 1), (1, 4), (1, 1, 1), (2, 3, 4)]:
        x, g = normal(*shape), normal(2, 3, 4)
        assert unbroadcast(g, shape).shape == shape
        assert math.isclose(
            (np.broadcast_to(x, g.shape) * g).sum(), (x * unbroadcast(g, shape)).sum(), abs_tol=1e-12
        )


# Mistakes

x = Tensor(X, requires_grad=True)
MISTAKES = {
    "integers": (lambda: Tensor([1, 2], requires_grad=True),
                 "type int64 with requires_grad=True.*write 1.0 for 1"),
    "booleans": (lambda: Tensor(MASK, requires_grad=True), "type bool with requires_grad=True"),
    "words": (lambda: Tensor(["one"]), "a Tensor holds floats, integers or booleans"),
    "complex": (lambda: Tensor([1j]), "type complex128"),
    "no scalar": (lambda: (x * 1).backward(), r"backward from shape \(3, 4\) without a gradient.*\.sum\(\)"),
    "no requires_grad": (lambda: Tensor(1.0).backward(),
                         r"a Tensor \(\) without requires_grad.*set it on the leaves"),
    "gradient's shape": (lambda: (x * 1).backward(np.ones(4)), r"gradient \(4,\) for a Tensor \(3, 4\)"),
    "assignment": (lambda: x.__setitem__(0, 1.0), r"x\[0\] = \.\.\.: a Tensor is read-only.*where"),
    "data of a result": (lambda: setattr(x * 1, "data", X), "data of a result of mul: only a leaf"),
    "data's shape": (lambda: setattr(Tensor(X), "data", X[0]), r"new data \(4,\) for a Tensor \(3, 4\)"),
    "numpy function": (lambda: np.asarray(x), r"a Tensor \(3, 4\) given to numpy.*x\.data"),
    "index": (lambda: x[Tensor([0])], "given to numpy"),
    "list": (lambda: ops.add(x, [1.0]), "add got a list: an input is a Tensor"),
    "list of parts": (lambda: ops.concatenate([x, x]), "concatenate got a list"),
    "torch": (lambda: x * torch.ones(4), "mul got a Tensor"),
    "broadcast": (lambda: x + np.ones(3), r"shapes \(3, 4\) and \(3,\) do not broadcast.*reshape one"),
    "where's shape": (lambda: ops.where(MASK, x, np.ones(3)),
                      r"shapes \(4,\) and \(3, 4\) and \(3,\) do not"),
    "where's type": (lambda: ops.where(X, x, 0.0), "condition has type float64: it must be boolean"),
    "inner sizes": (lambda: x @ x, r"shapes \(3, 4\) @ \(3, 4\): .*must agree.*transpose"),
    "batches": (lambda: normal(2, 3, 4) @ Tensor(normal(3, 4, 1)), r"shapes \(2, 3, 4\) @ \(3, 4, 1\)"),
    "number in a product": (lambda: x @ 2.0, r"shapes \(3, 4\) @ \(\): .* For a number use \*"),
    "axis": (lambda: x.sum(2), r"axis=2 with shape \(3, 4\): each axis must lie in -2\.\.1"),
    "axis twice": (lambda: x.mean((0, -2)), r"axis=\(0, -2\) with shape"),
    "softmax's axis": (lambda: ops.softmax(x, 5), "axis=5"),
    "mean of nothing": (lambda: Tensor(np.ones((0, 2))).mean(0),
                        r"axis=0 with shape \(0, 2\): a mean or maximum of nothing"),
    "max of nothing": (lambda: ops.softmax(np.ones((2, 0))), "of nothing"),
    "transpose": (lambda: x.transpose((0,)), r"axes=\(0,\) for shape \(3, 4\): .* once"),
    "swapaxes": (lambda: x.swapaxes(0, 2), "axis=2 with shape"),
    "reshape": (lambda: x.reshape((5, -1)), r"shape=\(5, -1\) for 12 numbers of shape \(3, 4\)"),
    "parts": (lambda: ops.concatenate(x, np.ones((3, 5))), r"parts of shapes \[\(3, 4\), \(3, 5\)\], axis=0"),
    "no parts": (lambda: ops.concatenate(), "give at least one"),
    "weight": (lambda: ops.layer_norm(x, np.ones(3)), r"weight has shape \(3,\), x \(3, 4\)"),
    "bias": (lambda: ops.layer_norm(x, None, np.ones((4, 1))), r"bias has shape \(4, 1\)"),
    "rms weight": (lambda: ops.rms_norm(x, np.ones(())), r"weight has shape \(\)"),
    "gelu": (lambda: ops.gelu(x, "fast"), "approximate='fast' is unknown: choose"),
    "id": (lambda: ops.embedding(np.array([0, 3]), x), r"ids hold 3, which is outside 0\.\.2"),
    "id below 0": (lambda: ops.embedding(np.array([-1]), x), "ids hold -1"),
    "id's type": (lambda: ops.embedding(np.array([1.0]), x), "ids have type float64.*integers"),
    "target": (lambda: ops.cross_entropy(x, np.array([0, 4, 1])), r"targets hold 4, which is outside 0\.\.3"),
    "target's type": (lambda: ops.cross_entropy(x, np.array([0.0, 1.0, 1.0])), "targets have type float64"),
    "targets' shape": (lambda: ops.cross_entropy(x, np.array([0, 1])),
                       r"logits \(3, 4\) and targets \(2,\): .*one more axis"),
    "all ignored": (lambda: ops.cross_entropy(x, np.full(3, -100)), "every target is ignore_index=-100"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name, as_a_reader_calls_it):
    mistake, message = MISTAKES[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        mistake()


def test_a_place_that_is_not_there_is_an_index_error():
    """As Python's own protocol asks: a loop over the rows ends by it."""
    with pytest.raises(IndexError, match="out of bounds"):
        x[3]
    assert len(list(x)) == 3
