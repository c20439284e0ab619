"""From tensors under published names to a model, and back: none missing, none left over, all shapes right.

"Theirs" is a tensor of the published file, "ours" a parameter of llmcore's model. Shapes: a linear map has I
inputs and O outputs.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcore.config import ModelConfig
from llmcore.model import Transformer


@dataclass(frozen=True)
class Pair:
    """One tensor of theirs and its equivalent: one of ours, or several concatenated along the last axis."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool  # theirs is (O, I), ours (I, O)
    row: bool = False  # theirs is (1, O), ours (O)


def pairs(names: Mapping[str, str], out_in: bool, n_layers: int, own: Mapping[str, Tensor]) -> Iterator[Pair]:
    """A table of names (see tables.py) expanded for one model, whose parameters are `own`.

    A row with {} is repeated for each block, and a row that names a module becomes its weight and bias. A row
    for which the model has no parameter is left out.
    """
    for theirs, row in names.items():
        for i in range(n_layers) if "{}" in theirs else (0,):
            name = theirs.format(i)
            ours = tuple(o.format(i) for o in row.removesuffix(" [None]").split(" + "))
            if ours[0] in own:
                yield Pair(name, ours, False, row.endswith(" [None]"))
                continue
            for part in ("weight", "bias"):
                inner = tuple(f"{o}.{part}" for o in ours)
                if inner[0] in own:
                    yield Pair(f"{name}.{part}", inner, out_in and own[inner[0]].ndim == 2)


def blank(config: ModelConfig, tensors: int) -> Transformer:
    """A model without values: shapes only, no memory.

    Raises ValueError for more blocks than the file has tensors: a damaged config may ask for millions.
    """
    if config.n_layers > tensors:
        raise ValueError(
            f"n_layers={config.n_layers} with {tensors} weights: each block has some; is a file cut short?"
        )
    with torch.device("meta"):
        return Transformer(config)


def fill(
    model: Transformer, table: list[Pair], weights: Mapping[str, Tensor], where: str, dtype: torch.dtype
) -> Transformer:
    """The blank model with these weights, cast to dtype.

    Raises ValueError that names the weights that are missing, surplus or of another shape; the model is then
    unchanged.
    """
    own = model.state_dict()
    expected = {pair.theirs: _shape(pair, own) for pair in table}
    faults = [f"{name} is missing" for name in expected if name not in weights]
    faults += [f"{name} is surplus, no part of this architecture" for name in weights if name not in expected]
    for name, shape in expected.items():
        if name in weights and tuple(weights[name].shape) != shape:
            faults.append(f"{name} has shape {tuple(weights[name].shape)} instead of {shape}")
        elif name in weights and not weights[name].is_floating_point():
            faults.append(
                f"{name} holds {weights[name].dtype}: quantised weights are read from GGUF files only"
            )
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise ValueError(
            f"{where} does not fit its config: {'; '.join(faults[:5])}{more}: "
            "is it of another model, or cut short?"
        )
    values: dict[str, Tensor] = {}
    for pair in table:
        tensor = weights[pair.theirs].squeeze(0) if pair.row else weights[pair.theirs]
        tensor = tensor.T if pair.transposed else tensor
        parts = tensor.split([own[o].shape[-1] for o in pair.ours], dim=-1)
        for name, part in zip(pair.ours, parts, strict=True):
            values[name] = part.to(dtype, copy=True, memory_format=torch.contiguous_format)
    assert set(values) == set(own), f"the table of names does not cover {sorted(set(own) - set(values))}"
    model.load_state_dict(values, assign=True)
    return model


def _shape(pair: Pair, own: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape that their tensor must have."""
    shapes = [tuple(own[o].shape) for o in pair.ours]
    shape = (*shapes[0][:-1], sum(s[-1] for s in shapes))
    return (1, *shape) if pair.row else shape[::-1] if pair.transposed else shape


def theirs_of(model: Transformer, table: list[Pair]) -> dict[str, Tensor]:
    """The model's weights under their names; the inverse of fill."""
    own = model.state_dict()
    covered = {o for pair in table for o in pair.ours}
    assert covered == set(own), f"the table of names does not cover {sorted(set(own) - covered)}"
    out = {}
    for pair in table:
        tensor = torch.cat([own[o] for o in pair.ours], dim=-1)
        tensor = tensor[None] if pair.row else tensor.T if pair.transposed else tensor
        out[pair.theirs] = tensor.cpu().clone(memory_format=torch.contiguous_format)
    return out


def without_copies(
    weights: Mapping[str, Tensor],
    copies: Mapping[str, str],
    left_out: Mapping[str, str],
    needed: set[str],
    where: str,
) -> dict[str, Tensor]:
    """The weights without those that are not loaded: what `left_out` matches, and copies of another weight.

    copies: a copy's name -> the original's; `needed` are the names that the model loads. Raises ValueError
    where a copy differs from its original.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if any(re.fullmatch(pattern, name) for pattern in left_out):
            continue
        original = name if name in needed else copies.get(name, name)
        known = weights.get(original, out.get(original))  # a file may hold only copies, and no original
        if original != name and known is not None and not torch.equal(tensor, known):
            raise ValueError(
                f"{where}: {name} differs from {original}, and its config says that they are one weight"
            )
        out[original] = tensor
    return out
