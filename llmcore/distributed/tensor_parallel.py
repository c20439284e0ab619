"""Tensor parallel: every rank holds a part of each matrix and computes a part of each product.

p ranks, rank r; column split: W = [W_1 ... W_p], x W = [x W_1 ... x W_p]; row split: x W = sum_r x_r W_r.
W_q, W_k, W_v of an attention by columns are H / p heads per rank, W_o by rows adds them up; up (and gate) of
a feed-forward by columns, down by rows  [Shoeybi et al. 2019]. So a block needs one sum over the ranks for
each of the two, forward and backward. The table is split by vocabulary entries.

With sequence parallelism each rank holds T / p of the tokens between these layers (norms, residual sums):
each sum becomes a reduce-scatter, each copy an all-gather, the same bytes in all  [Korthikanti et al. 2022].

The model never knows: SPLITS below is applied to it from outside.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmcore.attention import Attention
from llmcore.config import ModelConfig
from llmcore.distributed import collectives
from llmcore.distributed.collectives import Group
from llmcore.embedding import lookup
from llmcore.feedforward import FeedForward
from llmcore.linear import Linear
from llmcore.model import Transformer

# which axis of which matrix is cut: weight (I, O), so 1 is by columns and 0 by rows
SPLITS = {"W_q": 1, "W_k": 1, "W_v": 1, "W_o": 0, "gate": 1, "up": 1, "down": 0}


class _Copy(torch.autograd.Function):
    """Forward x; backward the sum over the ranks: each has computed with its own part of the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return collectives.ring_all_reduce(gradient.contiguous().clone(), ctx.group), None


class _Sum(torch.autograd.Function):
    """Forward the sum over the ranks; backward the gradient as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return collectives.ring_all_reduce(x.contiguous().clone(), group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _gather_tokens(x: Float[Tensor, "B t D"], group: Group) -> Float[Tensor, "B T D"]:
    first = x.transpose(0, 1).contiguous()  # (t, B, D): the parts of the ranks follow each other
    T = first.shape[0] * collectives.size(group)
    whole = collectives.all_gather(first.view(-1), T * first[0].numel(), group)
    # contiguous: else each product with it would save a copy of its own for backward
    return whole.view(T, *first.shape[1:]).transpose(0, 1).contiguous()


def _scatter_tokens(x: Float[Tensor, "B T D"], group: Group) -> Float[Tensor, "B t D"]:
    first = x.transpose(0, 1).contiguous()
    own = collectives.reduce_scatter(first, group)
    return own.view(first.shape[0] // collectives.size(group), *first.shape[1:]).transpose(0, 1)


class _Gather(torch.autograd.Function):
    """Forward all tokens from the ranks' parts; backward the sum over the ranks of the own part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _gather_tokens(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _scatter_tokens(gradient, ctx.group), None


class _Scatter(torch.autograd.Function):
    """Forward the sum over the ranks of the own part of the tokens; backward the gradient of all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _scatter_tokens(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gather_tokens(gradient, ctx.group), None


class _Part(torch.autograd.Function):
    """Forward the own part of tokens that every rank has; backward the gradient of all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.tensor_split(collectives.size(group), 1)[collectives.rank(group)].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gather_tokens(gradient, ctx.group), None


class TensorParallel:
    """Cuts a decoder's matrices in place; then model(ids) is this rank's part of the logits, (B, T, V / p).

    parallel = TensorParallel(model)
    loss = cross_entropy(model(ids), targets, parallel.start, group); loss.backward(); parallel.finish()

    Every rank reads the same batch. The parts are cut from rank 0's weights, which are sent to all first; a
    frozen parameter stays frozen. Raises ValueError where p does not divide the heads, for dropout, which
    the ranks would draw apart, and for a model that is no decoder with a plain head.
    """

    def __init__(self, model: Transformer, group: Group = None, sequence: bool = False):
        config, p = model.config, collectives.size(group)
        _check(config, p)
        self.model, self.group, self.sequence = model, group, sequence
        self.p, self.rank = p, collectives.rank(group)
        collectives.share(model, group=group)
        self.cut: dict[nn.Parameter, tuple[int, int]] = {}  # parameter -> axis, its size before the cut
        self.partial: list[nn.Parameter] = []  # whole parameters that see only this rank's tokens
        self.start = sum(len(part) for part in torch.arange(config.vocab_size).tensor_split(p)[: self.rank])
        for module in list(model.modules()):
            if isinstance(module, Attention | FeedForward):
                self._cut_layer(module)
        self._cut_table()
        if sequence:
            norms = [q for name, q in model.named_parameters() if ".norm." in name or "_norm." in name]
            sums = [q for name, q in model.named_parameters() if name.endswith(("W_o.bias", "down.bias"))]
            self.partial = norms + sums

    def _cut(self, parameter: nn.Parameter, axis: int) -> None:
        self.cut[parameter] = axis, parameter.shape[axis]
        parameter.data = parameter.data.tensor_split(self.p, axis)[self.rank].clone()

    def _cut_layer(self, layer: nn.Module) -> None:
        if isinstance(layer, Attention):
            layer.n_heads, layer.n_kv_heads = layer.n_heads // self.p, layer.n_kv_heads // self.p
        enter = _Gather if self.sequence else _Copy
        layer.register_forward_pre_hook(lambda _, args: (enter.apply(args[0], self.group), *args[1:]))
        for name, axis in SPLITS.items():
            linear = getattr(layer, name, None)
            if not isinstance(linear, Linear):
                continue
            self._cut(linear.weight, axis)
            if axis == 1 and linear.bias is not None:
                self._cut(linear.bias, 0)
            if axis == 0:
                linear.forward = self._summed(linear)  # type: ignore[method-assign]

    def _summed(self, linear: Linear):
        """y = sum_r x_r W_r + b: the bias once, after the sum."""
        leave = _Scatter if self.sequence else _Sum

        def forward(x: Tensor) -> Tensor:
            y = leave.apply(x @ linear.weight, self.group)
            return y if linear.bias is None else y + linear.bias

        return forward

    def _cut_table(self) -> None:
        model = self.model
        embedding, head = model.embedding, model.head
        self._cut(embedding.table, 0)
        if head.table is not None:
            self._cut(head.table, 0)

        def rows(ids: Tensor) -> Tensor:
            """This rank's rows where an id is among them, else zeros; the sum over ranks is the whole."""
            place = ids - self.start
            own = (place >= 0) & (place < embedding.table.shape[0])
            return _Sum.apply(lookup(place.where(own, 0), embedding.table) * own[..., None], self.group)

        embedding.rows = rows  # type: ignore[method-assign]
        if self.sequence:
            embedding.register_forward_hook(lambda _, args, x: self._own_tokens(x))
        enter = _Gather if self.sequence else _Copy
        head.register_forward_pre_hook(lambda _, args: (enter.apply(args[0], self.group), *args[1:]))

    def _own_tokens(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B t D"]:
        if x.shape[1] % self.p:
            tokens = f"{x.shape[1]} tokens over {self.p} ranks"
            raise ValueError(f"{tokens}: with sequence parallelism p must divide them")
        return _Part.apply(x, self.group)

    @torch.no_grad()
    def finish(self) -> None:
        """After backward: with sequence parallelism, sum the gradients of what saw a part of the tokens."""
        for parameter in self.partial:
            if parameter.grad is not None:  # a frozen one has none
                collectives.ring_all_reduce(parameter.grad, self.group)

    def clip(self, max_norm: float) -> float:
        """Scale the gradients to a global norm of at most max_norm; returns the norm before."""
        gradients = {p: p.grad for p in self.model.parameters() if p.grad is not None}
        # a cut matrix is counted by its parts, a whole one by rank 0
        counted = [g for p, g in gradients.items() if p in self.cut or self.rank == 0]
        return collectives.clip(gradients.values(), counted, max_norm, self.group)

    @torch.no_grad()
    def whole(self, gradients: bool = False) -> dict[str, Tensor]:
        """The model's state_dict, whole, or the gradients by parameter name. All ranks must call it."""
        held = self.model.state_dict(keep_vars=True)  # frozen parameters and buffers too
        if gradients:
            held = {name: p for name, p in self.model.named_parameters() if p.grad is not None}
        return {name: self._join(x, x.grad if gradients else x.detach()) for name, x in held.items()}

    def _join(self, x: Tensor, value: Tensor) -> Tensor:
        """A copy of parameter x or of its gradient (`value`), put together from the ranks where x is cut."""
        if x not in self.cut:
            return value.clone()
        axis, n = self.cut[x]  # type: ignore[index]
        shape = [*value.shape[:axis], n, *value.shape[axis + 1 :]]
        parts = [part.contiguous() for part in value.new_empty(shape).tensor_split(self.p, axis)]
        parts[self.rank].copy_(value)
        for root, part in enumerate(parts):
            collectives.broadcast(part, root, self.group)
        return torch.cat(parts, axis)


def _check(config: ModelConfig, p: int) -> None:
    if config.family != "decoder" or config.head_transform or config.head_bias:
        head = f"head_transform={config.head_transform}, head_bias={config.head_bias}"
        raise ValueError(f"family={config.family!r}, {head}: only a decoder with a plain head is cut")
    for name in ("n_heads", "n_kv_heads"):
        if getattr(config, name) % p:
            heads = f"{name}={getattr(config, name)} over {p} ranks"
            raise ValueError(f"{heads}: heads are not cut; use ranks that divide it")
    if config.dropout:
        dropout = f"dropout={config.dropout}"
        raise ValueError(f"{dropout}: ranks would draw different masks for the same numbers; set dropout=0")
    if p > config.vocab_size or p > config.d_ff:
        sizes = f"vocab_size={config.vocab_size}, d_ff={config.d_ff}"
        raise ValueError(f"{p} ranks for {sizes}: some would hold nothing")


def cross_entropy(
    logits: Float[Tensor, "B T v"], targets: Int[Tensor, "B T"], start: int, group: Group = None
) -> Float[Tensor, ""]:
    """Sum over kept targets of log sum_j exp z_j - z_target, in nats; rank r holds logits start .. start+v-1.

    Three numbers per token cross the ranks (maximum, sum of exponentials, the target's logit) instead of V
    logits. Targets of -100 are left out. Every rank gets the same loss and the gradient of its own logits,
    softmax - one_hot.
    """
    highest = logits.detach().amax(-1)
    ranks = collectives.size(group)
    n_bytes = 2 * (ranks - 1) * highest.numel() * highest.element_size() // ranks
    collectives.note("all-reduce", n_bytes, messages=2 * (ranks - 1))
    dist.all_reduce(highest, dist.ReduceOp.MAX, group)
    total = _Sum.apply((logits - highest[..., None]).exp().sum(-1), group)
    place = targets - start
    own = (place >= 0) & (place < logits.shape[-1])
    aim = logits.gather(-1, place.where(own, 0)[..., None])[..., 0] * own
    losses = total.log() + highest - _Sum.apply(aim, group)
    return losses[targets != -100].sum()
