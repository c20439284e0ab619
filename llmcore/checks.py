"""Checks on the inputs of the model's parts: a ValueError says what is wrong, where, and the remedy.

Without them many mistakes would pass in silence, because tensors of different shapes broadcast. Signatures
here declare no shapes, since an input under check may have any. B sequences, T tokens, S keys, D width, H
heads, Dh d_head, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from llmcore.quantities import amount, count

Mask = Padding = Any  # the classes of llmcore.mask, which imports this module
RULES = (
    "a mask is Mask(causal=True) or Mask(padding=Padding(stop=lengths)), a padding Padding(stop=lengths). "
    "A tensor of booleans is not taken, since True means read to some libraries and do not read to others; "
    "real, True at real tokens, gives lengths = real.sum(1)"
)
INTEGERS = {getattr(torch, f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)}


def _kind(x: object) -> str:
    return f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"


def whole_numbers(x: Tensor, name: str) -> Tensor:
    """x as int64, with which torch indexes; x is a tensor of integers on a device that holds numbers."""
    if not isinstance(x, Tensor) or x.dtype not in INTEGERS:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}s have type {kind}: each is a row number; pass a tensor of integers")
    if x.is_meta:
        raise ValueError(
            f"{name}s are on the device 'meta', which holds no numbers: put them and the model on a real one"
        )
    rows = x.long()
    if x.dtype == torch.uint64 and bool((rows < 0).any()):  # from 2^63 on, int64 wraps to -2^63
        raise ValueError(
            f"{name} {int(rows.min()) + 2**64} is above 2^63 - 1: no table has so many rows; "
            "where does it come from?"
        )
    return rows


def ids(x: Tensor, size: int, name: str = "id", remedy: str = "does the tokenizer fit the model?") -> Tensor:
    """x as int64; each id must lie in 0 .. size - 1."""
    rows = whole_numbers(x, name)
    outside = (rows < 0) | (rows >= size)
    if bool(outside.any()):
        raise ValueError(f"{name} {int(rows[outside][0])} is outside 0..{size - 1}: {remedy}")
    return rows


def tokens(x: Tensor, offset: int, context_length: int) -> Tensor:
    """x as int64; it must be (B, T) with 1 <= T, and offset + T tokens must fit the context."""
    x = whole_numbers(x, "id")
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(
            f"ids have shape {tuple(x.shape)}: give (B, T), at least one token each; "
            "ids[None] for one sequence"
        )
    if offset + x.shape[1] > context_length:
        raise ValueError(
            f"{offset + x.shape[1]} tokens with context_length={context_length}: shorten the text"
        )
    return x


def rows(ids_: Tensor, table: Tensor, *names: str) -> Tensor:
    """ids_ as int64; each must be a row number of the table, on the table's device."""
    found = ids(ids_, len(table), *names)
    if found.device != table.device:
        raise ValueError(
            f"ids are on {found.device}, the table on {table.device}: "
            "move both to one device that holds numbers"
        )
    return found


def one_for_each(segments: Tensor, ids: Tensor) -> Tensor:
    """segments, which must have one entry per id."""
    if not isinstance(segments, Tensor) or segments.shape != ids.shape:
        raise ValueError(
            f"segments are {_kind(segments)} with ids of shape {tuple(ids.shape)}: give one per id"
        )
    return segments


def blocks(cache: list, n_layers: int) -> list:
    """The cache, which must have one entry per block."""
    if len(cache) != n_layers:
        raise ValueError(
            f"cache of {len(cache)} blocks with n_layers={n_layers}: make it by the model's new_cache"
        )
    return cache


def gain(x: Tensor, **gains: Tensor | None) -> None:
    """Each gain, if given, must hold one number per entry of x's last axis."""
    for name, values in gains.items():
        if values is not None and values.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} has shape {tuple(values.shape)}, x {tuple(x.shape)}: "
                "give one number for each entry of x's last axis"
            )


def positions(x: Tensor, vectors: Tensor, width: int = 0) -> Tensor:
    """x must be (1, T) or (B, T), for vectors (B, T, D), or, with a width, (B, H, T, width)."""
    axes = 4 if width else 3
    if vectors.ndim != axes or x.shape not in ((1, vectors.shape[-2]), (vectors.shape[0], vectors.shape[-2])):
        raise ValueError(
            f"positions {tuple(x.shape)} with vectors {tuple(vectors.shape)}: give (B or 1, T) with vectors "
            f"{'(B, H, T, Dh)' if width else '(B, T, D)'}; for one sequence positions[None]"
        )
    if width and vectors.shape[-1] != width:
        raise ValueError(
            f"vectors {tuple(vectors.shape)} end in {vectors.shape[-1]}: "
            f"these positions turn d_head={width} numbers"
        )
    return x


def pairs(d: int, base: float) -> None:
    """d must be even, since positions take dimensions in pairs, and base a finite number above 0."""
    count(d=d)
    amount(base=base)
    if d % 2:
        raise ValueError(f"d={d} is odd: positions take dimensions in pairs; make it even")


def heads(x: Tensor, n_heads: int) -> None:
    """x must be (B, T, D) with D a multiple of n_heads."""
    count(n_heads=n_heads)
    if x.ndim != 3 or x.shape[-1] % n_heads:
        raise ValueError(
            f"x {tuple(x.shape)} with n_heads={n_heads}: give (B, T, D), D a multiple of n_heads; "
            "x[None] for one sequence"
        )


def rule(causal: bool) -> None:
    """causal must be True or False, not a tensor."""
    if not isinstance(causal, bool):
        raise ValueError(f"causal is {_kind(causal)}: {RULES}")


def ends(**given: Tensor | None) -> None:
    """start and stop, where given, must each hold one integer per sequence."""
    lengths = set()
    for name, x in given.items():
        if x is None:
            continue
        if not isinstance(x, Tensor) or x.ndim != 1 or x.dtype not in INTEGERS:
            raise ValueError(f"{name} is {_kind(x)}: pass a tensor with one integer per sequence")
        lengths.add(len(x))
    if len(lengths) > 1:
        raise ValueError(f"start and stop have {sorted(lengths)} entries: give both one integer per sequence")


def padding(given: Padding, B: int, T: int | None = None) -> None:
    """given must be a Padding of B sequences; with T, the tokens read so far, its values are checked too."""
    if isinstance(given, Tensor) or not hasattr(given, "stop"):
        raise ValueError(f"padding is {_kind(given)}: {RULES}")
    for name, x in (("start", given.start), ("stop", given.stop)):
        if x is not None and len(x) != B:
            raise ValueError(f"{name} has {len(x)} entries for a batch of {B}: give one per sequence")
        if x is not None and T is not None and bool(((x < 0) | ((x > T) if name == "stop" else False)).any()):
            raise ValueError(f"{name}={x.tolist()} for sequences of {T} tokens: each must lie in 0..{T}")


def mask(given: Mask, B: int) -> None:
    """given must be a Mask whose padding is for B sequences."""
    if isinstance(given, Tensor) or not hasattr(given, "padding"):
        raise ValueError(f"mask is {_kind(given)}: {RULES}")
    padding(given.padding, B)


def last_of_the_keys(causal: bool, first: int) -> None:
    """Under a causal mask the first query's place must be 0 or more: at most as many queries as keys."""
    if causal and first < 0:
        raise ValueError(
            f"{-first} more queries than keys under a causal mask: queries are the last of the keys; "
            "pass all keys"
        )


def context(x: Tensor, other: Tensor | None, keys: Tensor | None) -> None:
    """other must have one sequence per sequence of x, and be the context whose keys the cache holds."""
    if other is None:
        return
    if other.ndim != 3 or len(other) != len(x):
        raise ValueError(
            f"context {tuple(other.shape)} read from {tuple(x.shape)}: give (B, S, D), "
            "one sequence for each that reads"
        )
    if keys is not None and (keys.shape[0], keys.shape[2]) != other.shape[:2]:
        raise ValueError(
            f"context {tuple(other.shape)} with a cache of keys {tuple(keys.shape)}: another source; "
            "start a new cache"
        )


def cached(k: Tensor, v: Tensor, keys: Tensor | None, length: int, capacity: int) -> None:
    """New keys and values must match those in the cache, leave it within capacity, and need no gradient."""
    if k.requires_grad or v.requires_grad:
        raise ValueError(
            "a KVCache takes no gradients: use torch.no_grad() to generate, or leave the cache out to train"
        )
    if length + k.shape[2] > capacity:
        raise ValueError(
            f"{length + k.shape[2]} tokens do not fit a cache of {capacity}: make it larger or read fewer"
        )
    wanted = k.shape if keys is None else keys[:, :, : k.shape[2]].shape
    if not k.shape == v.shape == wanted or (keys is not None and k.dtype != keys.dtype):
        raise ValueError(
            f"keys {_kind(k)} and values {_kind(v)} with a cache of {_kind(k if keys is None else keys)}: "
            "batch, heads, d_head and type must be the same; start a new cache"
        )


def qkv(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> None:
    """q (B, H, T, Dh), k and v (B, H, S, Dh) must agree in B, H, Dh and type; dropout must lie in [0, 1)."""
    same = q.ndim == k.ndim == 4 and k.shape == v.shape and q.dtype == k.dtype == v.dtype
    if not same or (*q.shape[:2], q.shape[3]) != (*k.shape[:2], k.shape[3]):
        raise ValueError(
            f"q {_kind(q)}, k {_kind(k)}, v {_kind(v)}: give (B, H, T, Dh) and twice (B, H, S, Dh), "
            "of one type; where a head of keys serves several of queries, repeat_interleave it"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: is a probability; choose 0 <= dropout < 1")


def layout(module: Any, weights: dict[str, Tensor], prefix: str, metadata: dict, *rest: object) -> None:
    """Before loading: a Linear of llmcore needs a weight (in, out), and torch.nn.Linear stores (out, in).

    A square weight's shape does not tell which it is, but the version does that each module writes into its
    state dict: 1 for torch's own. A plain dict, such as safetensors returns, has no versions: its square
    weights are taken as (in, out).
    """
    ours, theirs = module.weight.shape, weights.get(f"{prefix}weight", module.weight).shape
    foreign = metadata.get("version", module._version) != module._version
    if theirs == ours[::-1] and (theirs != ours or foreign):
        raise ValueError(
            f"{prefix}weight {tuple(theirs)} lies as torch.nn.Linear stores it, (out, in), "
            f"where {tuple(ours)}, (in, out), is wanted: load its transpose, weight.T; "
            "if it is (in, out) already, load dict(state_dict)"
        )
