"""The loss of an output layer, without keeping its logits  [Hsu et al. 2024, Liger Kernel]

A batch's logits, N V numbers, are the largest tensor of a training step, and an ordinary loss makes several
more of that size in the forward and backward pass. Here a few rows of logits exist at a time: they are read
for the loss, then overwritten by their own gradient.

Shapes: ... the places of a batch, N of them in all, D d_model, V vocabulary.
"""

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from llmcore.functional import kept_targets

ROWS = 256  # the fewest rows at a time: with fewer, reading the table would take longer than the products
NUMBERS = 1 << 20  # logits at a time, for a small vocabulary: they stay in the processor's cache


def head_loss(
    x: Float[Tensor, "... D"],
    table: Float[Tensor, "V D"],
    targets: Integer[Tensor, "..."],
    bias: Float[Tensor, " V"] | None = None,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Sum over n kept targets of -log softmax(x @ table^T + bias)[target], in nats: n times cross_entropy

    The forward pass computes the gradients too, because a chunk's logits are gone afterwards:

        s = softmax(logits) - one_hot(target)
        d x = s @ table,  d table = s^T @ x,  d bias = sum of s over rows

    Rows whose target is ignore_index are left out, whatever they hold. Raises ValueError as cross_entropy
    does.

    >>> ids = torch.tensor([101, 102, 100, 104, 105, 200])
    >>> head_loss(torch.zeros(6, 2), torch.ones(201, 2), ids) / 6  # ln 201
    tensor(5.3033)
    """
    if x.shape[-1:] != table.shape[1:] or (bias is not None and bias.shape != table.shape[:1]):
        given = None if bias is None else tuple(bias.shape)
        shapes = f"x {tuple(x.shape)}, table {tuple(table.shape)}, bias {given}"
        raise ValueError(f"{shapes}: x must be (..., D), table (V, D), bias (V); reshape the one that is not")
    kept, rows = kept_targets(targets, (*x.shape[:-1], table.shape[0]), ignore_index)
    if not torch.is_grad_enabled():  # ctx.needs_input_grad looks at requires_grad only
        x, table, bias = x.detach(), table.detach(), None if bias is None else bias.detach()
    x = x.reshape(-1, x.shape[-1])
    return _HeadLoss.apply(x if rows is None else x.index_select(0, rows), table, bias, kept)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, table, bias, targets):
        N, V = len(x), len(table)
        of_x, of_table, of_bias = ctx.needs_input_grad[:3]
        d_x = torch.empty_like(x) if of_x else None
        d_table = torch.zeros_like(table) if of_table else None
        d_bias = torch.zeros_like(bias) if of_bias else None
        total = torch.zeros((), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        rows = max(ROWS, NUMBERS // V)
        for start in range(0, N, rows):
            at = slice(start, start + rows)
            logits = torch.nn.functional.linear(x[at], table, bias)
            # under autocast the product has 16 bits; the exponentials are summed in fp32
            kind, logits = logits.dtype, logits.to(total.dtype)
            target = targets[at, None]
            m = logits.amax(-1, keepdim=True)
            picked = logits.gather(-1, target) - m
            size = logits.sub_(m).exp_().sum(-1, keepdim=True)  # from here on, logits holds exp(logits - m)
            total += (size.log() - picked).sum()
            if d_x is d_table is d_bias is None:
                continue
            # softmax(logits) - one_hot(target), written over the logits
            slope = logits.mul_(1 / size).scatter_add_(-1, target, -torch.ones_like(size)).to(kind)
            if d_x is not None:
                d_x[at] = slope @ table.to(kind)
            if d_table is not None and kind == table.dtype:
                d_table.addmm_(slope.T, x[at].to(kind))
            elif d_table is not None:  # addmm_ takes one type only: the product is made first
                d_table += slope.T @ x[at].to(kind)
            if d_bias is not None:
                d_bias += slope.sum(0)
        ctx.save_for_backward(d_x, d_table, d_bias)
        return total

    @staticmethod
    def backward(ctx, slope):
        return *(None if d is None else d * slope.to(d.dtype) for d in ctx.saved_tensors), None
