"""The computations a Transformer is made of, written out. Each equals torch's own in value and in gradient.

Shapes: ... any leading axes, D the last axis, I and O the widths of a linear map, V vocabulary, N positions.
Row vectors: y = x @ W + b, so W is (I, O), the transpose of what torch.nn.Linear stores.

Numerically safe: the row's maximum is subtracted before exp, and statistics are computed in fp32. The result
has the type of the input.
"""

import math

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from llmcore import checks
from llmcore.shortcuts import one_row_product, suits_one_row


def _wide(x: Tensor) -> Tensor:
    """fp16 and bf16 become fp32; fp32 and fp64 stay."""
    if not x.is_floating_point():  # the result, cast back to x's type, would be cut to whole numbers
        raise ValueError(f"x has type {x.dtype}: these functions take floats; pass x.float()")
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _from_largest(x: Float[Tensor, "... D"], dim: int) -> Float[Tensor, "... D"]:
    """x - max(x) along dim, so that the largest exponent is 0; an empty x stays empty."""
    wide = _wide(x)  # the maximum is detached: it cancels in every caller, so its gradient is 0
    return wide - wide.detach().amax(dim, keepdim=True) if x.numel() else wide


def linear(
    x: Float[Tensor, "... I"], W: Float[Tensor, "I O"], b: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "... O"]:
    """y = x @ W + b

    >>> linear(torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 10.0]))
    tensor([ 1., 12.])
    """
    if not x.ndim or W.ndim != 2 or (b is not None and b.shape != W.shape[1:]):
        shapes = f"x {tuple(x.shape)}, W {tuple(W.shape)}, b {None if b is None else tuple(b.shape)}"
        raise ValueError(f"{shapes}: x must be (..., in), W (in, out), b (out); reshape the one that is not")
    if x.shape[-1] != W.shape[0]:
        sizes = f"x ends in {x.shape[-1]} and W starts with {W.shape[0]}"
        layout = "W is (in, out) here, torch.nn.Linear stores its transpose"
        raise ValueError(f"{sizes}: the inner sizes of x @ W must agree; {layout}")
    if suits_one_row(x, W):
        y = one_row_product(x, W)
        return y if b is None else y + b
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # not -1, which is ambiguous for an empty x
    y = rows @ W if b is None else torch.addmm(b, rows, W)  # one call, so that y is written only once
    return y.view(*x.shape[:-1], W.shape[1])


def softmax(x: Float[Tensor, "... D"], dim: int = -1) -> Float[Tensor, "... D"]:
    """p_i = exp(x_i - m) / sum_j exp(x_j - m), m = max_j x_j

    Subtracting m changes nothing (it cancels) and keeps exp from overflowing.

    >>> softmax(torch.tensor([1000.0, 1000.0]))
    tensor([0.5000, 0.5000])
    """
    e = _from_largest(x, dim).exp()
    return (e / e.sum(dim, keepdim=True)).to(x.dtype)


def log_softmax(x: Float[Tensor, "... D"], dim: int = -1) -> Float[Tensor, "... D"]:
    """log p_i = (x_i - m) - log sum_j exp(x_j - m): finite where softmax itself underflows to 0

    >>> log_softmax(torch.tensor([0.0, -1000.0]))
    tensor([    0., -1000.])
    """
    z = _from_largest(x, dim)
    return (z - z.exp().sum(dim, keepdim=True).log()).to(x.dtype)


def softmax_in_parts(
    largest: Float[Tensor, "*N 1"],
    total: Float[Tensor, "*N 1"],
    scores: Float[Tensor, "*N S"],
    allowed: Bool[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "*N 1"], Float[Tensor, "*N 1"], Float[Tensor, "*N S"], Float[Tensor, "*N 1"]]:
    """One step of the online softmax: the next S scores of each row  [Milakov & Gimelshein 2018]

    largest = m = max_j x_j and total = sum_j exp(x_j - m) run over the scores read so far; those that are not
    allowed add 0. Returns the new m and total; exp(scores - m); and exp(old m - new m), by which the caller
    shrinks whatever else it has summed with the old m.

    >>> row, low = torch.tensor([[1.0, 3.0, 2.0]]), torch.full((1, 1), torch.finfo().min)
    >>> m, total, _, _ = softmax_in_parts(low, torch.zeros(1, 1), row[:, :2])
    >>> m, total, _, _ = softmax_in_parts(m, total, row[:, 2:])
    >>> torch.allclose((row - m).exp() / total, softmax(row))
    True
    """
    new = torch.maximum(largest, scores.amax(-1, keepdim=True))
    powers, shrink = (scores - new).exp_(), (largest - new).exp_()
    powers = powers if allowed is None else powers * allowed
    return new, total * shrink + powers.sum(-1, keepdim=True), powers, shrink


def cross_entropy(
    logits: Float[Tensor, "... V"], targets: Integer[Tensor, "..."], ignore_index: int = -100
) -> Float[Tensor, ""]:
    """L = mean over kept positions of -log softmax(logits)[target], in nats

    Positions whose target is ignore_index count neither in the sum nor in its number of terms; their
    gradient is 0, whatever their logits are, inf and NaN included. Every other target must lie in [0, V).

    >>> cross_entropy(torch.zeros(6, 201), torch.tensor([101, 102, 100, 104, 105, 200]))  # ln 201
    tensor(5.3033)
    """
    kept, rows = kept_targets(targets, logits.shape, ignore_index)
    logits = logits.reshape(-1, logits.shape[-1])
    z = _from_largest(logits if rows is None else logits.index_select(0, rows), -1)
    picked = z[torch.arange(len(kept), device=z.device), kept]
    return (z.exp().sum(-1).log() - picked).mean()


def kept_targets(
    targets: Integer[Tensor, "..."], shape: tuple[int, ...], ignore_index: int = -100
) -> tuple[Integer[Tensor, " n"], Integer[Tensor, " n"] | None]:
    """The n targets that count, and their rows in logits of this shape (..., V); rows is None if all count.

    ValueError unless targets are integers of shape (...), at least one counts, and each that counts lies in
    [0, V).
    """
    targets = checks.whole_numbers(targets, "target")
    if shape[:-1] != targets.shape or not shape:
        shapes = f"logits {tuple(shape)} and targets {tuple(targets.shape)}"
        raise ValueError(f"{shapes}: logits need one more axis, the last, of size V")
    targets = targets.reshape(-1)
    counts = targets != ignore_index
    if not counts.any():
        nothing = "the mean of nothing is no number; drop the batch"
        raise ValueError(f"every target is ignore_index={ignore_index}: {nothing}")
    rows = None if counts.all() else counts.nonzero().squeeze(1)
    kept = targets if rows is None else targets[rows]
    wrong = (kept < 0) | (kept >= shape[-1])
    if wrong.any():
        target, rule = int(kept[wrong][0]), "0 <= target < V must hold"
        raise ValueError(f"target {target} is no index of V={shape[-1]} logits: {rule}")
    return kept, rows


def relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(x, 0); NaN stays NaN; the slope at 0 is 0, as in torch

    >>> relu(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """
    return torch.where(x <= 0, 0, x)  # not where(x > 0, x, 0), which turns NaN into 0


def gelu(x: Float[Tensor, "..."], approximate: str = "none") -> Float[Tensor, "..."]:
    """x Phi(x), Phi the normal distribution's cumulative function  [Hendrycks & Gimpel 2016]

    "none": Phi(x) = (1 + erf(x / sqrt 2)) / 2
    "tanh": Phi(x) ~ (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
    """
    wide = _wide(x)
    z = wide.clamp(-40, 40)  # beyond 40, Phi is 0 or 1 to the last digit, and x^3 could overflow
    if approximate == "none":
        phi = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
    elif approximate == "tanh":
        phi = 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)))
    else:
        raise ValueError(f"approximate={approximate!r} is unknown: choose 'none' or 'tanh'")
    return (wide * phi).to(x.dtype)


def gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """GELU in its tanh form, with which GPT-2 was trained."""
    return gelu(x, "tanh")


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x sigmoid(x), also called swish  [Elfwing et al. 2017]

    >>> silu(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7311])
    """
    wide = _wide(x)  # clamped at 1000, where sigmoid's slope is 0: for x = inf, x * slope would be NaN
    return (wide * torch.sigmoid(wide.clamp(-1000, 1000))).to(x.dtype)


def layer_norm(
    x: Float[Tensor, "... D"],
    weight: Float[Tensor, " D"] | None = None,
    bias: Float[Tensor, " D"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "... D"]:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis  [Ba et al. 2016]

    var = mean((x - mean)^2), divided by D, not by D - 1.

    >>> layer_norm(torch.tensor([1.0, 3.0]), eps=0.0)
    tensor([-1.,  1.])
    """
    checks.gain(x, weight=weight, bias=bias)
    wide = _wide(x)  # statistics in fp32: squares overflow in fp16
    centred = wide - wide.mean(-1, keepdim=True)
    y = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y.to(x.dtype)


def rms_norm(
    x: Float[Tensor, "... D"], weight: Float[Tensor, " D"] | None = None, eps: float = 1e-5
) -> Float[Tensor, "... D"]:
    """y = x / sqrt(mean(x^2) + eps) * weight over the last axis  [Zhang & Sennrich 2019]

    >>> rms_norm(torch.tensor([3.0, 4.0]), eps=0.0)  # rms = sqrt(12.5)
    tensor([0.8485, 1.1314])
    """
    checks.gain(x, weight=weight)
    wide = _wide(x)  # statistics in fp32: squares overflow in fp16
    y = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (y if weight is None else y * weight).to(x.dtype)
