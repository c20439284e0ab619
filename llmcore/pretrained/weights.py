"""From tensors under their names to a model, and back: every weight found, none left over, each of the right
shape.

Shapes: I in, O out of a linear map.
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
    """One tensor of theirs and what it is here: one of ours, or several side by side on the last axis."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool  # theirs is (O, I), ours (I, O)
    row: bool = False  # theirs is (1, O), ours (O)


def pairs(names: Mapping[str, str], out_in: bool, n_layers: int, own: Mapping[str, Tensor]) -> Iterator[Pair]:
    """The rows of a table of names for one model: blocks counted, modules opened; a row of which the model
    has nothing is left out.
    """
    for theirs, row in names.items():
        for i in range(n_layers) if "{}" in theirs else (0,):
            name, ours = (
                theirs.format(i),
                tuple(o.format(i) for o in row.removesuffix(" [None]").split(" + ")),
            )
            if ours[0] in own:
                yield Pair(name, ours, False, row.endswith(" [None]"))
                continue
            for part in ("weight", "bias"):
                inner = tuple(f"{o}.{part}" for o in ours)
                if inner[0] in own:
                    yield Pair(f"{name}.{part}", inner, out_in and own[inner[0]].ndim == 2)


def blank(config: ModelConfig, tensors: int) -> Transformer:
    """A model without values: shapes only, no memory. ValueError where so many tensors are too few for its
    blocks.
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
    """The blank model with these weights. ValueError names what is missing, surplus or of another shape;
    nothing is filled before.
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
        for name, part in zip(
            pair.ours, tensor.split([own[o].shape[-1] for o in pair.ours], dim=-1), strict=True
        ):
            values[name] = part.to(dtype, copy=True, memory_format=torch.contiguous_format)
    assert set(values) == set(own), f"the table of names does not cover {sorted(set(own) - set(values))}"
    model.load_state_dict(values, assign=True)
    return model


def _shape(pair: Pair, own: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape in which theirs must be stored."""
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
    kept: set[str],
    where: str,
) -> dict[str, Tensor]:
    """Weights less what is not read: copies, once they are seen to be equal, and what the table leaves out
    with a reason.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if any(re.fullmatch(pattern, name) for pattern in left_out):
            continue
        original = name if name in kept else copies.get(name, name)
        known = weights.get(
            original, out.get(original)
        )  # a file may hold a shared weight under the copies' names alone
        if original != name and known is not None and not torch.equal(tensor, known):
            raise ValueError(
                f"{where}: {name} differs from {original}, and its config says that they are one weight"
            )
        out[original] = tensor
    return out
