"""Reverse-mode differentiation: operations are recorded, and backward walks the record from end to start.

Each operation y = f(x) comes with its vector-Jacobian product (vjp): g = dL/dy goes in, dL/dx = g @ J comes
out, where J[i, j] = dy_i / dx_j is never built. backward calls the vjps in the reverse of the order in which
the results were made; a value that was used several times receives the sum of what each use returns. That is
the chain rule [Linnainmaa 1970; Griewank & Walther 2008].

Arrays are numpy's, and read-only because a vjp may still need them: `x.data[0] = 1` and `x.data -= 1` raise
numpy's ValueError. A parameter is updated by assigning a new array, `W.data = W.data - lr * W.grad`; earlier
records keep the old one.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from itertools import count
from typing import Any

import numpy as np
from jaxtyping import Float

Array = np.ndarray
Vjp = Callable[[Array], Array]
Result = tuple[Any, tuple[Vjp | None, ...]]  # of an operation's function: the value, and a vjp per input

OPERATIONS: dict[str, Callable[..., "Tensor"]] = {}  # filled by @operation
_numbers = count()


class Tensor:
    """An array, and how it was computed.

    data           the numbers, a read-only copy of what was given
    requires_grad  whether backward computes dL/d(this); a result inherits it from its inputs
    grad           dL/d(this) in data's shape and type, of results too; None at first; backward adds to it
    operation      the name of the operation that computed it; "" for a leaf

    ValueError if data is no array of numbers, or, with requires_grad, not one of floats.

    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x + x).sum().backward()
    >>> x.grad  # 2 x + 1
    array([3., 5.])
    """

    __slots__ = ("_data", "_links", "_number", "_requires_grad", "grad", "operation")
    __array_ufunc__ = None  # numpy_array * tensor is then left to Tensor.__rmul__

    def __init__(
        self,
        data: Any,
        requires_grad: bool = False,
        _operation: str = "",
        _links: tuple[tuple["Tensor", Vjp], ...] = (),
    ):
        self._data = _locked(np.asarray(data) if _operation else np.array(data))
        kind = self._data.dtype.kind
        if kind not in "fiub" or (requires_grad and kind != "f"):
            raise ValueError(
                f"data of type {self._data.dtype} with requires_grad={requires_grad}: a Tensor holds floats, "
                "integers or booleans; only floats have a gradient, so write 1.0 for 1, or use astype(float)"
            )
        self._requires_grad, self.operation = requires_grad, _operation
        # (input, its vjp) for each input; None once backward has freed the record
        self._links: tuple[tuple[Tensor, Vjp], ...] | None = _links
        self._number = next(_numbers)
        self.grad: Array | None = None

    @property
    def data(self) -> Array:
        return self._data

    @data.setter
    def data(self, new: Array) -> None:
        if self.operation:
            rule = "only a leaf takes new numbers; make a Tensor of them"
            raise ValueError(f"data of a result of {self.operation}: {rule}")
        if np.shape(new) != self.shape:
            shapes = f"new data {np.shape(new)} for a Tensor {self.shape}"
            raise ValueError(f"{shapes}: shapes must agree; make a new Tensor")
        self._data = _locked(np.array(new, dtype=self.dtype))

    requires_grad = property(lambda self: self._requires_grad)
    shape, ndim = property(lambda self: self._data.shape), property(lambda self: self._data.ndim)
    dtype = property(lambda self: self._data.dtype)

    # The operators and methods are operations: llmcore/autograd/operations.py has each with its vjp.
    __add__, __radd__ = lambda a, b: op.add(a, b), lambda a, b: op.add(b, a)
    __sub__, __rsub__ = lambda a, b: op.sub(a, b), lambda a, b: op.sub(b, a)
    __mul__, __rmul__ = lambda a, b: op.mul(a, b), lambda a, b: op.mul(b, a)
    __truediv__, __rtruediv__ = lambda a, b: op.div(a, b), lambda a, b: op.div(b, a)
    __pow__, __rpow__ = lambda a, b: op.pow_(a, b), lambda a, b: op.pow_(b, a)
    __matmul__, __rmatmul__ = lambda a, b: op.matmul(a, b), lambda a, b: op.matmul(b, a)
    __neg__, __getitem__ = lambda x: op.neg(x), lambda x, index: op.getitem(x, index)
    sum = lambda x, axis=None, keepdims=False: op.sum_(x, axis, keepdims)
    mean = lambda x, axis=None, keepdims=False: op.mean(x, axis, keepdims)
    max = lambda x, axis=None, keepdims=False: op.max_(x, axis, keepdims)
    exp, log, sqrt = lambda x: op.exp(x), lambda x: op.log(x), lambda x: op.sqrt(x)
    tanh, reshape = lambda x: op.tanh(x), lambda x, shape: op.reshape(x, shape)
    transpose = lambda x, axes=None: op.transpose(x, axes)
    swapaxes = lambda x, first, second: op.swapaxes(x, first, second)
    T = property(transpose)

    def __setitem__(self, index: Any, value: Any) -> None:
        why = "a Tensor is read-only, as a vjp may still need it; compute a new one with where"
        raise ValueError(f"x[{index!r}] = ...: {why}")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise ValueError(
            f"a Tensor {self.shape} given to numpy: its record would end there unnoticed; "
            "call an operation of llmcore.autograd, or give x.data where no gradient is wanted"
        )

    def __repr__(self) -> str:
        numbers = np.array2string(self.data, separator=", ")
        origin = f", operation={self.operation}" if self.operation else ""
        return f"Tensor({numbers}, requires_grad={self.requires_grad}{origin})"

    def item(self) -> float:
        """The number, of a Tensor that holds only one."""
        return self._data.item()

    def detach(self) -> "Tensor":
        """The same numbers as a leaf without requires_grad: a constant in what is computed from it."""
        return Tensor(self._data)

    def backward(self, gradient: Float[Array, "..."] | None = None, retain_graph: bool = False) -> None:
        """t.grad += dL/dt for this Tensor and all it was computed from, L = sum(gradient * this)

        gradient defaults to 1 for a single number. The record is freed on the way, so a second backward
        through it raises, unless retain_graph keeps it. ValueError, before any grad has changed, for a
        Tensor without requires_grad, for several numbers without a gradient, for a gradient of another
        shape, for a freed record.
        """
        if not self.requires_grad:
            why = "nothing is recorded; set it on the leaves"
            raise ValueError(f"backward from a Tensor {self.shape} without requires_grad: {why}")
        if gradient is None and self._data.size != 1:
            raise ValueError(
                f"backward from shape {self.shape} without a gradient: only one number has a gradient by "
                "default, 1; take .sum() or .mean() first, or pass dL/d(this)"
            )
        g = np.ones(self.shape) if gradient is None else np.array(gradient)
        if g.shape != self.shape:
            raise ValueError(f"gradient {g.shape} for a Tensor {self.shape}: shapes must agree; reshape it")
        order = topological(self)
        gradients = {self._number: _locked(g.astype(self.dtype))}
        while order:
            tensor = order.pop()
            # complete: every result that used this tensor was made later, so it has been walked already
            g = gradients.pop(tensor._number)
            tensor.grad = g if tensor.grad is None else _locked(tensor.grad + g)
            assert tensor._links is not None
            for source, vjp in tensor._links:
                part = unbroadcast(np.asarray(vjp(g)), source.shape).astype(source.dtype, copy=False)
                if source._number in gradients:
                    # not +=, because a vjp may have returned g itself, which others hold
                    part = gradients[source._number] + part
                gradients[source._number] = _locked(part)
            if tensor._links and not retain_graph:
                tensor._links = None


def _locked(array: Array) -> Array:
    array = np.asarray(array)
    array.flags.writeable = False
    return array


def topological(root: Tensor) -> list[Tensor]:
    """root and all that it was computed from and that requires a gradient, inputs before results

    Tensors are numbered as they are made, a result after its inputs, so rising numbers give the order. There
    is no recursion: a chain may be longer than Python's stack. ValueError at a freed record.
    """
    reached: dict[int, Tensor] = {}
    todo = [root]
    while todo:
        tensor = todo.pop()
        if tensor._links is None:
            raise ValueError(
                f"the record of {tensor.operation} {tensor.shape} is freed: a backward walks a record once; "
                "compute it again, or pass retain_graph=True to the first backward"
            )
        if tensor._number not in reached:
            reached[tensor._number] = tensor
            todo.extend(source for source, _ in tensor._links)
    return [reached[number] for number in sorted(reached)]


def unbroadcast(g: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Sum g over the axes along which an array of this shape was broadcast: each copy's gradient counts

    ValueError if an array of this shape does not broadcast to g's.

    >>> unbroadcast(np.ones((2, 3)), (3,)), unbroadcast(np.ones((1, 3)), (1, 1))
    (array([2., 2., 2.]), array([[3.]]))
    """
    if g.shape == shape:
        return g
    if g.ndim < len(shape) or any(size not in (1, n) for size, n in zip(shape[::-1], g.shape[::-1])):
        rule = "must have its shape or one it broadcasts to; correct the vjp"
        raise ValueError(f"gradient {g.shape} of a value {shape}: {rule}")
    g = g.sum(tuple(range(g.ndim - len(shape))))
    return np.asarray(g.sum(tuple(i for i, size in enumerate(shape) if size == 1), keepdims=True))


def operation(function: Callable[..., Result]) -> Callable[..., Tensor]:
    """Turn a function on arrays that returns (value, vjps) into an operation on Tensors, kept in OPERATIONS

    Its parameters before the slash, or its *parts, are inputs: a Tensor, an array, a number, or None if left
    out. The others are options. vjps has a vjp for each input, or None for one of integers or booleans.
    ValueError for other inputs.
    """
    name = function.__name__.rstrip("_")  # sum_ is the operation sum: Python has a sum of its own
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    n_inputs = kinds.count(inspect.Parameter.POSITIONAL_ONLY)
    any_number = inspect.Parameter.VAR_POSITIONAL in kinds  # of inputs: *parts

    @wraps(function)
    def recorded(*args: Any, **options: Any) -> Tensor:
        inputs, positional = (args, ()) if any_number else (args[:n_inputs], args[n_inputs:])
        types = [x.dtype for x in inputs if isinstance(x, (Tensor, np.ndarray))]
        tensors = [_tensor(name, x, types) for x in inputs]
        value, vjps = function(*[x if x is None else x._data for x in tensors], *positional, **options)
        if len(vjps) < len(tensors):
            counts = f"{len(vjps)} vjps for {len(tensors)} inputs"
            raise ValueError(f"{name} returned {counts}: each needs one, or None; add what is missing")
        pairs = [(x, vjp) for x, vjp in zip(tensors, vjps) if x is not None and vjp is not None]
        links = tuple((x, vjp) for x, vjp in pairs if x._requires_grad)
        return Tensor(value, bool(links), name, links)

    OPERATIONS[name] = recorded
    return recorded


def _tensor(name: str, x: Any, types: list[np.dtype]) -> Tensor | None:
    """An operation's input as a Tensor; a number gets the type that numpy gives it beside `types`"""
    if x is None or isinstance(x, Tensor):
        return x
    if isinstance(x, (np.ndarray, np.generic, bool)):
        return Tensor(x)  # a copy: the caller may write into the array before backward
    if type(x) in (int, float):
        return Tensor(np.asarray(x, np.result_type(x, *types)))
    rule = "an input is a Tensor, a numpy array or a number; make a Tensor of it"
    raise ValueError(f"{name} got a {type(x).__name__}: {rule}")


def central_differences(
    function: Callable[..., Tensor], *inputs: Float[Array, "..."], step: float = 1e-5
) -> list[Float[Array, "..."]]:
    """(f(x + h e_i) - f(x - h e_i)) / 2h for each entry i of each input, h = step: the gradient up to O(h^2)

    function takes a Tensor for each input and returns one number. ValueError if an input is not float64: a
    difference divided by 2h loses as many digits as h has zeros.

    >>> central_differences(lambda x: (x * x).sum(), np.array([1.0, 2.0]))[0].round(6)
    array([2., 4.])
    """

    def at(i: int, place: tuple[int, ...], h: float) -> float:
        moved = [x.copy() for x in inputs]
        moved[i][place] += h
        return function(*map(Tensor, moved)).item()

    for i, x in enumerate(inputs):
        if x.dtype != np.float64:
            why = "a difference needs 16 digits; pass x.astype(float)"
            raise ValueError(f"input {i} has type {x.dtype}: {why}")
    slope = lambda i, place: (at(i, place, step) - at(i, place, -step)) / (2 * step)
    slopes = lambda i, x: np.array([slope(i, place) for place in np.ndindex(x.shape)]).reshape(x.shape)
    return [slopes(i, x) for i, x in enumerate(inputs)]


def gradient_check(
    function: Callable[..., Tensor],
    *inputs: Float[Array, "..."],
    step: float = 1e-5,
    atol: float = 1e-7,
    rtol: float = 1e-6,
) -> float:
    """The largest |backward - central difference| over all entries of all inputs

    Both differentiate L = sum(v * function(inputs)), v random but the same in each call. function takes a
    Tensor for each input and returns one of any shape. ValueError if they differ by more than atol + rtol *
    |central difference|, and as in central_differences.

    >>> gradient_check(lambda x, W: (x @ W).tanh(), np.ones((2, 3)), np.ones((3, 4))) < 1e-8
    True
    """
    leaves = [Tensor(x, requires_grad=True) for x in inputs]
    y = function(*leaves)
    v = np.random.default_rng(0).standard_normal(y.shape)
    y.backward(v)
    largest = 0.0
    weighted = lambda *xs: (function(*xs) * v).sum()
    for i, expected in enumerate(central_differences(weighted, *inputs, step=step)):
        grad = leaves[i].grad
        found = np.zeros(expected.shape) if grad is None else grad
        error = np.abs(found - expected)
        # "not <=" rather than ">", so that NaN is wrong too
        for place in np.argwhere(~(error <= atol + rtol * np.abs(expected)))[:1]:
            a, b = found[tuple(place)], expected[tuple(place)]
            raise ValueError(
                f"input {i} at {place.tolist()}: backward gives {a}, central differences {b}: they must "
                f"agree; correct the vjp, or move the input if the function has a kink within {step}"
            )
        largest = max(largest, float(error.max(initial=0)))
    return largest


# Last, because operations.py imports this module; Tensor's methods need the operations only when called.
from llmcore.autograd import operations as op  # noqa: E402
