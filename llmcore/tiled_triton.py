"""Attention tile by tile as GPU kernels in Triton: the steps of llmcore.tiled, one program per tile.

Shapes: B batch, T queries, S keys, H heads, Dh d_head. A tile of scores lives in a program's registers and
is never written to memory. Each result is written by one program, so nothing depends on the order in which
programs run. The module is imported only where it can run: on a GPU, or with TRITON_INTERPRET=1 as plain
Python. It needs no other part of llmcore.

Conventions of the kernels: tensors are laid out (B, T, H, Dh), so the rows of one head lie H Dh numbers
apart. Places are counted among the keys: query t stands at S - T + t. Tile sizes are powers of two; rows and
columns beyond the tensor are loaded as 0 and not stored. Exponentials are powers of two, 2^(x log2 e) = e^x,
for which a GPU has an instruction.
"""

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)  # below every score, yet finite: LOWEST - LOWEST is 0, not NaN


@triton.jit
def load_rows(x, first, N, row_size, DH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DH: tl.constexpr):
    """Rows first .. first + BLOCK - 1 of N rows: (BLOCK, BLOCK_DH), zeros beyond N and beyond DH."""
    n, d = first + tl.arange(0, BLOCK), tl.arange(0, BLOCK_DH)
    return tl.load(x + n[:, None] * row_size + d, mask=(n < N)[:, None] & (d < DH), other=0.0)


@triton.jit
def store_rows(x, values, first, N, row_size, DH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DH: tl.constexpr):
    n, d = first + tl.arange(0, BLOCK), tl.arange(0, BLOCK_DH)
    tl.store(x + n[:, None] * row_size + d, values.to(x.dtype.element_ty), mask=(n < N)[:, None] & (d < DH))


@triton.jit
def product(a, b):
    """a @ b, summed in fp32; fp32 factors are used in full, not cut to TF32's 10 bits."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def readable(
    t_first, s_first, T, S, start, stop, CAUSAL: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr
):
    """(BLOCK_T, BLOCK_S): True where a query of the tile may read a key, False outside the tensors."""
    t, s = t_first + tl.arange(0, BLOCK_T), s_first + tl.arange(0, BLOCK_S)
    allowed = (t < T)[:, None] & (s >= start) & (s < stop)
    if CAUSAL:
        allowed = allowed & (s <= t[:, None] + S - T)
    return allowed


@triton.jit
def dropout_factors(seed, t_first, s_first, T, S, dropout, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr):
    """0 or 1 / (1 - dropout) per weight, from a counter-based generator: backward draws the same again."""
    t, s = t_first + tl.arange(0, BLOCK_T), s_first + tl.arange(0, BLOCK_S)
    head = tl.program_id(1).to(tl.int64) * T
    drawn = tl.rand(seed, (head + t[:, None]) * S + s)
    return tl.where(drawn >= dropout, 1 / (1 - dropout), 0.0)


@triton.jit
def forward_kernel(
    Q,
    K,
    V,
    Out,
    LogSums,
    Starts,
    Stops,
    scale,
    dropout,
    seed,
    T,
    S,
    H,
    CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    DH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_DH: tl.constexpr,
):
    """One tile of queries of one head, over its tiles of keys. LogSums (B, H, T) are base-2 logarithms."""
    t_first, bh = tl.program_id(0) * BLOCK_T, tl.program_id(1)
    b, h, row_size = (bh // H).to(tl.int64), bh % H, H * DH
    Q, Out = Q + b * T * row_size + h * DH, Out + b * T * row_size + h * DH
    K, V = K + b * S * row_size + h * DH, V + b * S * row_size + h * DH
    start, stop = tl.load(Starts + b), tl.load(Stops + b)
    end = tl.minimum(stop, t_first + BLOCK_T + S - T) if CAUSAL else stop  # no key from here on is read

    q = load_rows(Q, t_first, T, row_size, DH, BLOCK_T, BLOCK_DH)
    largest = tl.full((BLOCK_T,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    mixture = tl.zeros((BLOCK_T, BLOCK_DH), tl.float32)
    for s_first in range(start // BLOCK_S * BLOCK_S, end, BLOCK_S):
        k = load_rows(K, s_first, S, row_size, DH, BLOCK_S, BLOCK_DH)
        v = load_rows(V, s_first, S, row_size, DH, BLOCK_S, BLOCK_DH)
        allowed = readable(t_first, s_first, T, S, start, stop, CAUSAL, BLOCK_T, BLOCK_S)
        scores = tl.where(allowed, product(q, tl.trans(k)) * (scale * LOG2E), LOWEST)
        # online softmax: when the largest score grows, what has been summed so far shrinks
        new = tl.maximum(largest, tl.max(scores, 1))
        powers = tl.where(allowed, tl.exp2(scores - new[:, None]), 0.0)
        shrink = tl.exp2(largest - new)
        total = total * shrink + tl.sum(powers, 1)
        if DROPOUT:
            powers *= dropout_factors(seed, t_first, s_first, T, S, dropout, BLOCK_T, BLOCK_S)
        mixture = mixture * shrink[:, None] + product(powers.to(v.dtype), v)
        largest = new
    # changes only a row without keys: in every other the largest score has added 2^0 = 1
    total = tl.maximum(total, 1.0)
    store_rows(Out, mixture / total[:, None], t_first, T, row_size, DH, BLOCK_T, BLOCK_DH)
    t = t_first + tl.arange(0, BLOCK_T)
    tl.store(LogSums + bh.to(tl.int64) * T + t, largest + tl.log2(total), mask=t < T)


@triton.jit
def backward_scores(
    q,
    k,
    v,
    d_out,
    log_sums,
    inner,
    t_first,
    s_first,
    start,
    stop,
    scale,
    dropout,
    seed,
    T,
    S,
    CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Recompute a tile: its weights P after dropout, and dS = P (dP - inner) scale."""
    allowed = readable(t_first, s_first, T, S, start, stop, CAUSAL, BLOCK_T, BLOCK_S)
    scores = tl.where(allowed, product(q, tl.trans(k)) * (scale * LOG2E), LOWEST)
    weights = tl.where(allowed, tl.exp2(scores - log_sums[:, None]), 0.0)
    d_weights = product(d_out, tl.trans(v))
    kept = weights
    if DROPOUT:
        factors = dropout_factors(seed, t_first, s_first, T, S, dropout, BLOCK_T, BLOCK_S)
        kept, d_weights = weights * factors, d_weights * factors
    return kept, weights * (d_weights - inner[:, None]) * scale


@triton.jit
def queries_kernel(
    Q,
    K,
    V,
    dOut,
    LogSums,
    Inner,
    dQ,
    Starts,
    Stops,
    scale,
    dropout,
    seed,
    T,
    S,
    H,
    CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    DH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_DH: tl.constexpr,
):
    """dQ = dS K for one tile of queries, over the same tiles of keys as in forward_kernel."""
    t_first, bh = tl.program_id(0) * BLOCK_T, tl.program_id(1)
    b, h, row_size = (bh // H).to(tl.int64), bh % H, H * DH
    Q, dOut = Q + b * T * row_size + h * DH, dOut + b * T * row_size + h * DH
    dQ = dQ + b * T * row_size + h * DH
    K, V = K + b * S * row_size + h * DH, V + b * S * row_size + h * DH
    start, stop = tl.load(Starts + b), tl.load(Stops + b)
    end = tl.minimum(stop, t_first + BLOCK_T + S - T) if CAUSAL else stop

    q = load_rows(Q, t_first, T, row_size, DH, BLOCK_T, BLOCK_DH)
    d_out = load_rows(dOut, t_first, T, row_size, DH, BLOCK_T, BLOCK_DH)
    t = t_first + tl.arange(0, BLOCK_T)
    log_sums = tl.load(LogSums + bh.to(tl.int64) * T + t, mask=t < T, other=0.0)
    inner = tl.load(Inner + bh.to(tl.int64) * T + t, mask=t < T, other=0.0)
    dq = tl.zeros((BLOCK_T, BLOCK_DH), tl.float32)
    for s_first in range(start // BLOCK_S * BLOCK_S, end, BLOCK_S):
        k = load_rows(K, s_first, S, row_size, DH, BLOCK_S, BLOCK_DH)
        v = load_rows(V, s_first, S, row_size, DH, BLOCK_S, BLOCK_DH)
        _, d_scores = backward_scores(
            q, k, v, d_out, log_sums, inner, t_first, s_first, start, stop, scale, dropout, seed, T, S,
            CAUSAL, DROPOUT, BLOCK_T, BLOCK_S,
        )  # fmt: skip
        dq += product(d_scores.to(k.dtype), k)
    store_rows(dQ, dq, t_first, T, row_size, DH, BLOCK_T, BLOCK_DH)


@triton.jit
def keys_kernel(
    Q,
    K,
    V,
    dOut,
    LogSums,
    Inner,
    dK,
    dV,
    Starts,
    Stops,
    scale,
    dropout,
    seed,
    T,
    S,
    H,
    CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    DH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_DH: tl.constexpr,
):
    """dV = P^T dO and dK = dS^T Q for one tile of keys, over the queries from the first that may read it."""
    s_first, bh = tl.program_id(0) * BLOCK_S, tl.program_id(1)
    b, h, row_size = (bh // H).to(tl.int64), bh % H, H * DH
    Q, dOut = Q + b * T * row_size + h * DH, dOut + b * T * row_size + h * DH
    K, V = K + b * S * row_size + h * DH, V + b * S * row_size + h * DH
    dK, dV = dK + b * S * row_size + h * DH, dV + b * S * row_size + h * DH
    start, stop = tl.load(Starts + b), tl.load(Stops + b)

    k = load_rows(K, s_first, S, row_size, DH, BLOCK_S, BLOCK_DH)
    v = load_rows(V, s_first, S, row_size, DH, BLOCK_S, BLOCK_DH)
    dk = tl.zeros((BLOCK_S, BLOCK_DH), tl.float32)
    dv = tl.zeros((BLOCK_S, BLOCK_DH), tl.float32)
    first = tl.maximum(0, s_first - (S - T)) // BLOCK_T * BLOCK_T if CAUSAL else 0
    for t_first in range(first, T, BLOCK_T):
        q = load_rows(Q, t_first, T, row_size, DH, BLOCK_T, BLOCK_DH)
        d_out = load_rows(dOut, t_first, T, row_size, DH, BLOCK_T, BLOCK_DH)
        t = t_first + tl.arange(0, BLOCK_T)
        log_sums = tl.load(LogSums + bh.to(tl.int64) * T + t, mask=t < T, other=0.0)
        inner = tl.load(Inner + bh.to(tl.int64) * T + t, mask=t < T, other=0.0)
        weights, d_scores = backward_scores(
            q, k, v, d_out, log_sums, inner, t_first, s_first, start, stop, scale, dropout, seed, T, S,
            CAUSAL, DROPOUT, BLOCK_T, BLOCK_S,
        )  # fmt: skip
        dv += product(tl.trans(weights).to(d_out.dtype), d_out)
        dk += product(tl.trans(d_scores).to(q.dtype), q)
    store_rows(dK, dk, s_first, S, row_size, DH, BLOCK_S, BLOCK_DH)
    store_rows(dV, dv, s_first, S, row_size, DH, BLOCK_S, BLOCK_DH)


class TiledKernels(torch.autograd.Function):
    """The kernels above as one step of autograd. Tensors here are (B, T, H, Dh)."""

    @staticmethod
    def forward(
        ctx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        starts: Tensor,
        stops: Tensor,
        causal: bool,
        dropout: float,
        seed: int,
    ) -> Tensor:
        (B, T, H, Dh), S = q.shape, k.shape[1]
        out, log_sums = torch.empty_like(q), torch.empty(B, H, T, dtype=torch.float32, device=q.device)
        tiles = blocks(Dh, q.dtype)
        numbers = (starts, stops, 1 / math.sqrt(Dh), dropout, seed, T, S, H, causal, dropout > 0, Dh)
        forward_kernel[triton.cdiv(T, tiles["BLOCK_T"]), B * H](q, k, v, out, log_sums, *numbers, **tiles)
        ctx.save_for_backward(q, k, v, out, log_sums)
        ctx.tiles, ctx.numbers = tiles, numbers
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            why = "it has no second derivative; use attention='explicit'"
            raise ValueError(f"create_graph=True through tiled attention: {why}")
        q, k, v, out, log_sums = ctx.saved_tensors
        (B, T, H, _), S, tiles = q.shape, k.shape[1], ctx.tiles
        d_out = d_out.contiguous()
        # dO . O = the row sum of dP P, as in llmcore.tiled: (B, H, T)
        inner = (d_out.float() * out.float()).sum(-1).transpose(1, 2).contiguous()
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        given = (q, k, v, d_out, log_sums, inner)
        queries_kernel[triton.cdiv(T, tiles["BLOCK_T"]), B * H](*given, dq, *ctx.numbers, **tiles)
        keys_kernel[triton.cdiv(S, tiles["BLOCK_S"]), B * H](*given, dk, dv, *ctx.numbers, **tiles)
        return dq, dk, dv, None, None, None, None, None


def blocks(Dh: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes: powers of two, and at least 16, as tl.dot needs.

    Wide types and wide rows get smaller tiles, which must fit into registers and shared memory. num_stages
    is the number of tiles on their way from memory at once.
    """
    width = max(16, triton.next_power_of_2(Dh))
    side = (64 if dtype.itemsize == 2 else 32) // (1 if width <= 128 else 2)
    return {"BLOCK_T": side, "BLOCK_S": side, "BLOCK_DH": width, "num_stages": 2}


def attention(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B H S Dh"],
    v: Float[Tensor, "B H S Dh"],
    causal: bool = False,
    start: Int[Tensor, " B"] | None = None,
    stop: Int[Tensor, " B"] | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> Float[Tensor, "B H T Dh"]:
    """softmax(q k^T / sqrt(Dh)) v in fp32, fp16 or bf16; sequence b's real keys are start[b]:stop[b]."""
    S = k.shape[2]
    everywhere = lambda place: torch.full((len(q),), place, dtype=torch.int32, device=q.device)
    starts = everywhere(0) if start is None else start.clamp(max=S).int()
    stops = everywhere(S) if stop is None else stop.clamp(max=S).int()
    # (B, T, H, Dh), the layout from which split_heads makes its view
    rows = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    return TiledKernels.apply(*rows, starts, stops, causal, dropout, seed).transpose(1, 2)
