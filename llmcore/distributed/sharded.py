"""A checkpoint of which every rank writes its own shards, read back by any number of ranks, or by one process.

A folder step-00000042 as llmcore.checkpoint makes it, with the same manifest, but for model and optimizer a folder `shards` that
torch.distributed.checkpoint writes. Its index, shards/.metadata, is a pickle: that is torch's own format. Hashes are compared before
it is read, which finds damage, not malice: read only shards that your own runs wrote. llmcore.checkpoint's files hold no pickle.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcore import checkpoint
from llmcore.config import ModelConfig
from llmcore.distributed.parallel import random_states, restore_random
from llmcore.model import Transformer


def is_sharded(path: str | Path) -> bool:
    """Whether a checkpoint's folder holds shards."""
    return (Path(path) / "shards").is_dir()


def save(
    folder: str | Path, step: int, model: nn.Module, optimizer: Optimizer, extra: dict[str, Any] | None = None, keep: int = 3
) -> Path:
    """Write this step's checkpoint, all ranks together; whole or not at all. Then all but the newest `keep` are removed."""
    folder = Path(folder)
    temporary = folder / f".writing-{step:08d}"
    first = dist.get_rank() == 0
    if first:
        checkpoint.prepare(folder, step)
        temporary.mkdir()
    dist.barrier()
    tensors, plain = _state(model, optimizer)
    dcp.save(tensors, checkpoint_id=str(temporary / "shards"))
    random = random_states()
    if first:
        config = getattr(model, "config", None)
        groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        values = {
            "format": checkpoint.FORMAT, "step": step, "extra": extra or {}, "optimizer": {"groups": groups, "plain": plain},
            "config": config.to_dict() if isinstance(config, ModelConfig) else None, "ranks": dist.get_world_size(),
            "tensors": sorted(tensors),
        }  # fmt: skip
        save_file(random, temporary / "state.safetensors")
        (temporary / "state.json").write_text(json.dumps(values), encoding="utf-8")
        checkpoint.publish(temporary, folder, step, keep)
    dist.barrier()
    return folder / f"step-{step:08d}"


def load(path: str | Path, model: nn.Module, optimizer: Optimizer | None = None) -> dict[str, Any]:
    """Put a sharded checkpoint into a model that is cut in whatever way, or not at all; returns its state.json.

    Raises ValueError where a file is not whole, or where it belongs to another config.
    """
    path = checkpoint.latest(path)
    if not is_sharded(path):
        raise ValueError(f"{path} holds no shards: it was written by one process or by ddp; use the plan ddp, or llmcore.checkpoint")
    values = checkpoint.verify(path)
    checkpoint.check_config(path, values, model)
    if optimizer is not None:
        _make_state(model, optimizer, values)
    tensors, _ = _state(model, optimizer)
    wrong = sorted(set(tensors) - set(values["tensors"]))
    if wrong:
        raise ValueError(f"{path} does not fit the model: {wrong[:5]} are missing in it")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*intent is to load in a single process")  # it is
        dcp.load(tensors, checkpoint_id=str(path / "shards"), no_dist=not dist.is_initialized())
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    if optimizer is not None:
        for group, stored in zip(optimizer.param_groups, values["optimizer"]["groups"], strict=True):
            group.update({k: tuple(v) if k == "betas" else v for k, v in stored.items()})
    if dist.is_initialized():
        restore_random(load_file(path / "state.safetensors"))
    return values


def load_model(path: str | Path) -> Transformer:
    """The model of a checkpoint, sharded or not, whole in one process."""
    path = checkpoint.latest(path)
    if not is_sharded(path):
        return checkpoint.load_model(path)
    model = Transformer(ModelConfig(**checkpoint.verify(path)["config"]))
    load(path, model)
    return model


def _named(model: nn.Module, optimizer: Optimizer) -> list[tuple[str, nn.Parameter]]:
    managed = {p for g in optimizer.param_groups for p in g["params"]}
    return [(n, p) for n, p in model.named_parameters() if p in managed]


def _state(model: nn.Module, optimizer: Optimizer | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, cut as they are; and the optimizer's plain values."""
    tensors = {f"model.{n}": t for n, t in model.state_dict().items()}
    plain = {}
    for name, parameter in _named(model, optimizer) if optimizer is not None else []:
        for key, value in optimizer.state.get(parameter, {}).items():  # type: ignore[union-attr]
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{key}"] = value
            else:
                plain[f"{name}.{key}"] = value
    return tensors, plain


def _make_state(model: nn.Module, optimizer: Optimizer, values: dict[str, Any]) -> None:
    """Empty tensors like the parameters, to be filled, and the plain values."""
    parameters = dict(_named(model, optimizer))
    for stored in values["tensors"]:
        kind, _, rest = stored.partition(".")
        name, _, key = rest.rpartition(".")
        if kind == "optimizer":
            optimizer.state[parameters[name]][key] = torch.zeros_like(parameters[name].data)
    for stored, value in values["optimizer"]["plain"].items():
        name, _, key = stored.rpartition(".")
        optimizer.state[parameters[name]][key] = value
