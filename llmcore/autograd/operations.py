"""The operations of a Transformer, each beside its vector-Jacobian product.

Parameters before the slash are inputs, which may require a gradient; those after it are options. Each
function computes on arrays and returns its value and a vjp for each input: g = dL/dy in, dL/dx out. If an
input was broadcast, its vjp returns the gradient of every copy, and backward sums them (unbroadcast).
@operation turns the function into an operation on Tensors.

Shapes: ... any axes, N leading axes, D the last axis, T rows, K inner size, M columns, V vocabulary. Vectors
are rows: y = x @ W + b.
"""

import copy
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from llmcore.autograd.tensor import Array, Result, operation

Axis = int | tuple[int, ...] | None  # None: all axes
Same = Shaped[Array, "*#y"]  # broadcasts with the other inputs
Gain = Float[Array, " D"] | None


def _check_broadcast(*inputs: Array) -> None:
    try:
        np.broadcast_shapes(*(x.shape for x in inputs))
    except ValueError:
        shapes = " and ".join(str(x.shape) for x in inputs)
        rule = "counted from the right, sizes must be equal or 1; reshape one"
        raise ValueError(f"shapes {shapes} do not broadcast: {rule}") from None


def _axes(x: Array, axis: Axis, needs_some: bool = False) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """axis as numbers from 0, and x's shape with size 1 at these axes"""
    given = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int | np.integer) else axis
    axes, here = tuple(given), f"axis={axis} with shape {x.shape}"
    if not all(-x.ndim <= a < x.ndim for a in axes) or len({a % x.ndim for a in axes}) < len(axes):
        rule = f"each axis must lie in {-x.ndim}..{x.ndim - 1}, once; count from 0, or back from -1"
        raise ValueError(f"{here}: {rule}")
    axes = tuple(a % x.ndim for a in axes)
    if needs_some and any(x.shape[a] == 0 for a in axes):
        raise ValueError(f"{here}: a mean or maximum of nothing is no number; leave the empty batch out")
    return axes, tuple(1 if i in axes else size for i, size in enumerate(x.shape))


# Arithmetic, broadcast


@operation
def neg(x: Float[Array, "..."], /) -> Result:
    """y = -x"""
    return np.negative(x), (lambda g: -g,)


@operation
def add(a: Same, b: Same, /) -> Result:
    """y = a + b. ValueError if the shapes do not broadcast, as in sub, mul, div and pow."""
    _check_broadcast(a, b)
    return np.add(a, b), (lambda g: g, lambda g: g)


@operation
def sub(a: Same, b: Same, /) -> Result:
    """y = a - b"""
    _check_broadcast(a, b)
    return np.subtract(a, b), (lambda g: g, lambda g: -g)


@operation
def mul(a: Same, b: Same, /) -> Result:
    """y = a b, entry by entry"""
    _check_broadcast(a, b)
    return np.multiply(a, b), (lambda g: g * b, lambda g: g * a)


@operation
def div(a: Same, b: Same, /) -> Result:
    """y = a / b, entry by entry"""
    _check_broadcast(a, b)
    y = np.divide(a, b)
    return y, (lambda g: g / b, lambda g: -g * y / b)


@operation
def pow_(a: Same, b: Same, /) -> Result:
    """y = a^b, entry by entry

    dy/da is 0 where b = 0. dy/db is 0 where a = 0 <= b, and NaN where a < 0.
    """
    _check_broadcast(a, b)
    y = np.power(a, b)
    zero = np.equal(b, 0)
    slope = lambda: np.where(zero, 0, b * np.power(a, np.where(zero, 1, np.subtract(b, 1))))
    logs = lambda: np.log(np.where(np.equal(a, 0) & np.greater_equal(b, 0), 1, a))  # 0 * ln 0 would be NaN
    return y, (lambda g: g * slope(), lambda g: g * y * logs())


@operation
def matmul(
    a: Float[Array, "*#N T K"] | Float[Array, " K"], b: Float[Array, "*#N K M"] | Float[Array, " K"], /
) -> Result:
    """Y = A @ B, (..., T, K) @ (..., K, M) -> (..., T, M), leading axes broadcast  [Giles 2008]

    dL/dA = G @ B^T, dL/dB = A^T @ G. An input with one axis is a row on the left, a column on the right, and
    y lacks that axis. ValueError if an input is a number, inner sizes differ or leading axes do not
    broadcast.
    """
    try:
        A, B = a[None, :] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b
        Y = A @ B
    except ValueError:
        rule = (
            "the last size at the left and the last but one at the right must agree, "
            "sizes before them broadcast; transpose one? For a number use *"
        )
        raise ValueError(f"shapes {a.shape} @ {b.shape}: {rule}") from None
    y = Y.squeeze(tuple(axis for axis, x in ((-2, a), (-1, b)) if x.ndim == 1))
    by_a = lambda g: g.reshape(Y.shape) @ np.swapaxes(B, -1, -2)
    by_B = lambda g: np.swapaxes(A, -1, -2) @ g.reshape(Y.shape)
    return y, (by_a, by_B if b.ndim > 1 else lambda g: by_B(g)[..., 0])


# Reductions


@operation
def sum_(x: Float[Array, "..."], /, axis: Axis = None, keepdims: bool = False) -> Result:
    """y = the sum of x over axis. ValueError for an axis that x lacks, as in mean and max."""
    axes, kept = _axes(x, axis)
    return x.sum(axes, keepdims=keepdims), (lambda g: np.broadcast_to(g.reshape(kept), x.shape),)


@operation
def mean(x: Float[Array, "..."], /, axis: Axis = None, keepdims: bool = False) -> Result:
    """y = (sum of x over axis) / n. ValueError if n = 0."""
    axes, kept = _axes(x, axis, needs_some=True)
    n = math.prod(x.shape[a] for a in axes)
    return x.mean(axes, keepdims=keepdims), (lambda g: np.broadcast_to(g.reshape(kept) / n, x.shape),)


@operation
def max_(x: Float[Array, "..."], /, axis: Axis = None, keepdims: bool = False) -> Result:
    """y = the largest x along axis; equal ones share the gradient. ValueError if there is none."""
    axes, kept = _axes(x, axis, needs_some=True)
    y = x.max(axes, keepdims=True)
    top = x == y
    by_x = lambda g: g.reshape(kept) * top / top.sum(axes, keepdims=True)
    return y if keepdims else y.squeeze(axes), (by_x,)


# Functions of one entry


@operation
def exp(x: Float[Array, "..."], /) -> Result:
    """y = e^x"""
    y = np.exp(x)
    return y, (lambda g: g * y,)


@operation
def log(x: Float[Array, "..."], /) -> Result:
    """y = ln x, for x > 0"""
    return np.log(x), (lambda g: g / x,)


@operation
def sqrt(x: Float[Array, "..."], /) -> Result:
    """y = sqrt(x), for x >= 0; the slope at 0 is infinite"""
    y = np.sqrt(x)
    return y, (lambda g: g / (2 * y),)


@operation
def tanh(x: Float[Array, "..."], /) -> Result:
    """y = tanh(x)"""
    y = np.tanh(x)
    return y, (lambda g: g * (1 - y * y),)


@operation
def relu(x: Float[Array, "..."], /) -> Result:
    """y = max(x, 0); the slope is 0 at 0, and 1 at NaN"""
    return np.maximum(x, 0), (lambda g: np.where(x <= 0, 0, g),)


@operation
def silu(x: Float[Array, "..."], /) -> Result:
    """y = x s(x), s(x) = 1 / (1 + e^-x)  [Elfwing et al. 2017]"""
    s = np.exp(-np.logaddexp(0, -x))  # e^-x itself overflows far below 0
    return x * s, (lambda g: g * s * (1 + x * (1 - s)),)


def erf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """2 / sqrt(pi) * integral of e^(-t^2) from 0 to x, by math.erf: to the last digit or two of float64

    >>> erf(np.array([0.0, 1.0, -np.inf]))
    array([ 0.        ,  0.84270079, -1.        ])
    """
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), dtype=x.dtype)


@operation
def gelu(x: Float[Array, "..."], /, approximate: str = "none") -> Result:
    """y = x Phi(x), Phi the normal distribution's cumulative function  [Hendrycks & Gimpel 2016]

    "none": Phi(x) = (1 + erf(x / sqrt 2)) / 2
    "tanh": Phi(x) ~ (1 + tanh(u)) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3)
    ValueError for another word.
    """
    z = np.clip(x, -40, 40)  # beyond 40, Phi is 0 or 1 to the last digit, and x^3 could overflow
    if approximate == "none":
        phi, slope = 0.5 * (1 + erf(z * math.sqrt(0.5))), np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    elif approximate == "tanh":
        c = math.sqrt(2 / math.pi)
        t = np.tanh(c * (z + 0.044715 * z * z * z))
        phi, slope = 0.5 * (1 + t), 0.5 * (1 - t * t) * c * (1 + 3 * 0.044715 * z * z)
    else:
        raise ValueError(f"approximate={approximate!r} is unknown: choose 'none' or 'tanh'")
    return x * phi, (lambda g: g * (phi + z * slope),)


# Along one axis


def _log_softmax(x: Array, axes: tuple[int, ...]) -> Array:
    z = x - x.max(axes, keepdims=True)
    return z - np.log(np.exp(z).sum(axes, keepdims=True))


@operation
def log_softmax(x: Float[Array, "..."], /, axis: int = -1) -> Result:
    """y_i = (x_i - m) - ln sum_j e^(x_j - m), m = max_j x_j along axis

    Finite where softmax itself underflows to 0.
    """
    axes, _ = _axes(x, axis, needs_some=True)
    y = _log_softmax(x, axes)
    return y, (lambda g: g - np.exp(y) * g.sum(axes, keepdims=True),)


@operation
def softmax(x: Float[Array, "..."], /, axis: int = -1) -> Result:
    """p_i = e^(x_i - m) / sum_j e^(x_j - m), m = max_j x_j along axis

    m cancels, and keeps e^x from overflowing. J = diag(p) - p p^T, so g @ J = p (g - sum_j g_j p_j).
    """
    axes, _ = _axes(x, axis, needs_some=True)
    e = np.exp(x - x.max(axes, keepdims=True))
    p = e / e.sum(axes, keepdims=True)
    return p, (lambda g: p * (g - (g * p).sum(axes, keepdims=True)),)


def _check_gain(x: Array, **gains: Gain) -> None:
    _axes(x, -1, needs_some=True)
    for name, gain in gains.items():
        if gain is not None and gain.shape != x.shape[-1:]:
            rule = "give one number for each entry of x's last axis"
            raise ValueError(f"{name} has shape {gain.shape}, x {x.shape}: {rule}")


@operation
def layer_norm(
    x: Float[Array, "*N D"], weight: Gain = None, bias: Gain = None, /, eps: float = 1e-5
) -> Result:
    """y = z * weight + bias, z = (x - mean) / sqrt(var + eps) over the last axis  [Ba et al. 2016]

    var = mean((x - mean)^2). With h = g * weight: dL/dx = (h - mean(h) - z mean(h z)) / sqrt(var + eps).
    ValueError if weight or bias is not (D,).
    """
    _check_gain(x, weight=weight, bias=bias)
    mean = lambda v: v.mean(-1, keepdims=True)
    centred = x - mean(x)
    r = 1 / np.sqrt(mean(centred * centred) + eps)
    z, w = centred * r, 1 if weight is None else weight
    by_x = lambda h: r * (h - mean(h) - z * mean(h * z))
    return z * w + (0 if bias is None else bias), (lambda g: by_x(g * w), lambda g: g * z, lambda g: g)


@operation
def rms_norm(x: Float[Array, "*N D"], weight: Gain = None, /, eps: float = 1e-5) -> Result:
    """y = z * weight, z = x / sqrt(mean(x^2) + eps) over the last axis  [Zhang & Sennrich 2019]

    With h = g * weight: dL/dx = (h - z mean(h z)) / sqrt(mean(x^2) + eps). ValueError if weight is not (D,).
    """
    _check_gain(x, weight=weight)
    mean = lambda v: v.mean(-1, keepdims=True)
    r = 1 / np.sqrt(mean(x * x) + eps)
    z, w = x * r, 1 if weight is None else weight
    by_x = lambda h: r * (h - z * mean(h * z))
    return z * w, (lambda g: by_x(g * w), lambda g: g * z)


# Picking and moving entries: the gradient returns to where each entry came from


def _scatter(g: Array, index: Any, x: Array) -> Array:
    """Zeros in x's shape with g added at index. For a place read twice np.add.at adds both, += only one."""
    total = np.zeros(x.shape, g.dtype)
    np.add.at(total, index, g)
    return total


@operation
def getitem(x: Float[Array, "..."], /, index: Any) -> Result:
    """y = x[index], numpy's rules: slices, integers, arrays of integers, booleans. IndexError outside x."""
    index = copy.deepcopy(index)  # the caller may write into an index array before backward
    return x[index], (lambda g: _scatter(g, index, x),)


def _check_ids(name: str, ids: Array, size: int) -> None:
    if ids.dtype.kind not in "iu":
        raise ValueError(f"{name} have type {ids.dtype}: each is a row number; pass integers")
    outside = ids[(ids < 0) | (ids >= size)]
    if outside.size:
        wrong = f"{name} hold {outside[0]}, which is outside 0..{size - 1}"
        raise ValueError(f"{wrong}: does the tokenizer fit the model?")


@operation
def embedding(ids: Integer[Array, "*N"], table: Float[Array, "V D"], /) -> Result:
    """y = table[ids]. Row i of the gradient sums over the places of id i. ValueError if not 0 <= id < V."""
    _check_ids("ids", ids, table.shape[0])
    return table[ids], (None, lambda g: _scatter(g, ids, table))


@operation
def concatenate(*parts: Float[Array, "..."], axis: int = 0) -> Result:
    """y = the parts joined along axis: concatenate(a, b, axis=-1). ValueError if other sizes differ."""
    if len({(x.ndim, _axes(x, axis)[1]) for x in parts}) != 1:
        shapes = [x.shape for x in parts]
        rule = "give at least one, of equal sizes but along axis"
        raise ValueError(f"parts of shapes {shapes}, axis={axis}: {rule}")
    ends = np.cumsum([x.shape[axis] for x in parts])
    vjps = tuple(lambda g, i=i: np.split(g, ends[:-1], axis)[i] for i in range(len(parts)))
    return np.concatenate(parts, axis), vjps


@operation
def transpose(x: Float[Array, "..."], /, axes: tuple[int, ...] | None = None) -> Result:
    """y[i_axes[0], i_axes[1], ...] = x[i_0, i_1, ...]; None reverses all axes

    ValueError unless axes names each axis once.
    """
    order, _ = _axes(x, tuple(reversed(range(x.ndim))) if axes is None else axes)
    if len(order) != x.ndim:
        rule = f"each of its {x.ndim} axes must stand there once; see also swapaxes"
        raise ValueError(f"axes={axes} for shape {x.shape}: {rule}")
    return x.transpose(order), (lambda g: g.transpose(np.argsort(order)),)


@operation
def swapaxes(x: Float[Array, "..."], /, first: int, second: int) -> Result:
    """y = x with two axes exchanged, which is its own inverse. ValueError for an axis that x lacks."""
    _axes(x, first)
    _axes(x, second)
    return x.swapaxes(first, second), (lambda g: g.swapaxes(first, second),)


@operation
def reshape(x: Float[Array, "..."], /, shape: int | tuple[int, ...]) -> Result:
    """y = x in another shape, in the same order; one size may be -1. ValueError if the counts differ."""
    try:
        y = x.reshape(shape)
    except ValueError:
        rule = f"the sizes' product must be {x.size}"
        raise ValueError(f"shape={shape} for {x.size} numbers of shape {x.shape}: {rule}") from None
    return y, (lambda g: g.reshape(x.shape),)


@operation
def where(condition: Bool[Array, "*#y"], a: Same, b: Same, /) -> Result:
    """y = a where condition, else b, all broadcast

    where(allowed, scores, fill) is the masked fill: no gradient passes where it fills. ValueError if
    condition is not boolean or the shapes do not broadcast.
    """
    if condition.dtype.kind != "b":
        kind = condition.dtype
        raise ValueError(f"condition has type {kind}: it must be boolean; compare first, x.data > 0")
    _check_broadcast(condition, a, b)
    by_a, by_b = lambda g: np.where(condition, g, 0), lambda g: np.where(condition, 0, g)
    return np.where(condition, a, b), (None, by_a, by_b)


@operation
def cross_entropy(
    logits: Float[Array, "*N V"], targets: Integer[Array, "*N"], /, ignore_index: int = -100
) -> Result:
    """L = mean over kept positions of -ln softmax(logits)[target], in nats; kept: target != ignore_index

    dL/dlogits = (softmax(logits) - onehot(target)) / n at the n kept positions, 0 at the others. ValueError
    if the shapes do not fit, no position is kept or a kept target is not in [0, V).
    """
    if logits.shape[:-1] != targets.shape or not logits.ndim:
        shapes = f"logits {logits.shape} and targets {targets.shape}"
        raise ValueError(f"{shapes}: logits need one more axis, the last, of size V")
    kept = np.flatnonzero(targets.reshape(-1) != ignore_index)
    if not kept.size:
        nothing = "the mean of nothing is no number; drop the batch"
        raise ValueError(f"every target is ignore_index={ignore_index}: {nothing}")
    V, picked = logits.shape[-1], targets.reshape(-1)[kept]
    _check_ids("targets", picked, V)
    log_p = _log_softmax(logits.reshape(-1, V)[kept], (-1,))  # (n, V)

    def by_logits(g: Array) -> Array:
        d = np.zeros((targets.size, V), logits.dtype)
        d[kept] = np.exp(log_p)
        d[kept, picked] -= 1
        return (g / len(kept) * d).reshape(logits.shape)

    return -log_p[np.arange(len(kept)), picked].mean(), (by_logits, None)
