"""A checkpoint of which every rank writes its own shards, read back by any number of ranks or by one process.

A folder step-00000042 as llmcore.checkpoint makes it, with the same manifest, but for model and optimizer a
folder `shards` that torch.distributed.checkpoint writes. shards/index.json says which part of which tensor
lies in which file. torch's own index is a pickle, which can run any program when it is opened: none is
written and none is opened. What lies in the files is read with torch.load(weights_only=True).
"""

import contextlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.optim import Optimizer

from llmcore import checkpoint
from llmcore.config import ModelConfig
from llmcore.distributed.parallel import random_states, restore_random
from llmcore.files import alone, reading
from llmcore.model import Transformer

INDEX = "index.json"
TYPES = {str(kind): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}


class _Writer(dcp.FileSystemWriter):
    """torch's writer, but with a JSON index: {tensor: {type, size, parts: [{offsets, sizes, file, ...}]}}."""

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        places = {written.index: written.storage_data for of_rank in results for written in of_rank}
        index = {}
        for name, tensor in metadata.state_dict_metadata.items():
            assert isinstance(tensor, TensorStorageMetadata)  # _state hands over nothing else
            parts = [_part(chunk, places[MetadataIndex(name, chunk.offsets)]) for chunk in tensor.chunks]
            index[name] = {"type": str(tensor.properties.dtype), "size": list(tensor.size), "parts": parts}
        (Path(self.path) / INDEX).write_text(json.dumps(index), encoding="utf-8")


def _part(chunk: ChunkStorageMetadata, place: _StorageInfo) -> dict[str, Any]:
    """Where a part of a tensor belongs, and where it lies."""
    return {
        "offsets": list(chunk.offsets),
        "sizes": list(chunk.sizes),
        "file": place.relative_path,
        "start": place.offset,
        "length": place.length,
    }


class _Reader(dcp.FileSystemReader):
    """torch's reader, but for the index."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return _read_index(Path(self.path))


def _read_index(shards: Path) -> Metadata:
    """The index of a folder of shards, as torch's reader wants it. ValueError unless it fits the folder."""
    file = shards / INDEX
    if not file.is_file():
        raise ValueError(
            f"{shards} has no {INDEX}: what an earlier version or another program wrote has a pickle for an "
            "index, which could run any program and is not opened; use another checkpoint"
        )
    with reading(file, remedy="use another checkpoint"):
        tensors, places = {}, {}
        for name, entry in json.loads(file.read_bytes()).items():
            size, chunks = torch.Size(entry["size"]), []
            for part in entry["parts"]:
                offsets, sizes = torch.Size(part["offsets"]), torch.Size(part["sizes"])
                _check_part(shards, name, size, offsets, sizes, part)
                chunks.append(ChunkStorageMetadata(offsets, sizes))
                place = _StorageInfo(part["file"], part["start"], part["length"])
                places[MetadataIndex(name, offsets)] = place
            twice = len({c.offsets for c in chunks}) != len(chunks)
            if twice or sum(c.sizes.numel() for c in chunks) != size.numel():
                raise ValueError(f"the parts of {name} do not make a tensor of shape {tuple(size)}")
            tensors[name] = TensorStorageMetadata(TensorProperties(dtype=TYPES[entry["type"]]), size, chunks)
    return Metadata(tensors, storage_data=places)  # type: ignore[arg-type]


def _check_part(
    shards: Path, name: str, size: torch.Size, offsets: torch.Size, sizes: torch.Size, part: dict[str, Any]
) -> None:
    inside = len(size) == len(offsets) == len(sizes) and all(
        at >= 0 and n >= 0 and at + n <= whole for at, n, whole in zip(offsets, sizes, size, strict=True)
    )
    if not inside:
        where = f"at {tuple(offsets)} of shape {tuple(sizes)}"
        raise ValueError(f"a part of {name} {where} is not inside {tuple(size)}")
    if part["file"] not in [f.name for f in shards.iterdir()]:  # so that no name leads out of the folder
        raise ValueError(f"a part of {name} lies in {part['file']!r}, which is no file of this folder")
    if any(type(part[key]) is not int or part[key] < 0 for key in ("start", "length")):
        raise ValueError(f"a part of {name} starts at byte {part['start']!r} and has {part['length']!r}")


def is_sharded(path: str | Path) -> bool:
    """Whether a checkpoint's folder holds shards."""
    return (Path(path) / "shards").is_dir()


def save(
    folder: str | Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    extra: dict[str, Any] | None = None,
    keep_checkpoints: int = 3,
) -> Path:
    """Write this step's checkpoint, all ranks together, whole or not at all; returns its folder.

    Then all but the newest `keep_checkpoints` are removed.
    """
    folder = Path(folder)
    first = dist.get_rank() == 0
    checkpoint.check_place(model)
    with alone(folder) if first else contextlib.nullcontext():
        temporary = checkpoint.prepare(folder, step) if first else folder / checkpoint.temporary_of(step)
        if first:
            temporary.mkdir()
        dist.barrier()
        tensors, plain = _state(model, optimizer)
        dcp.save(tensors, storage_writer=_Writer(temporary / "shards"))
        random = random_states()
        if first:
            config = getattr(model, "config", None)
            groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
            values = {
                "format": checkpoint.FORMAT,
                "step": step,
                "extra": extra or {},
                "ranks": dist.get_world_size(),
                "optimizer": {"groups": groups, "plain": plain},
                "tensors": sorted(tensors),
                "config": config.to_dict() if isinstance(config, ModelConfig) else None,
            }
            save_file(random, temporary / "state.safetensors")
            (temporary / "state.json").write_text(checkpoint.plain_text(values), encoding="utf-8")
            checkpoint.publish(temporary, folder, step, keep_checkpoints)
        dist.barrier()
    return folder / checkpoint.name_of(step)


def load(path: str | Path, model: nn.Module, optimizer: Optimizer | None = None) -> dict[str, Any]:
    """Put a sharded checkpoint into a model, cut in whatever way or not at all; returns its state.json.

    Raises ValueError where a file is not whole, or where it belongs to another config.
    """
    path = checkpoint.latest(path)
    if not is_sharded(path):
        raise ValueError(
            f"{path} holds no shards: it was written by one process or by ddp; "
            "use the plan ddp, or llmcore.checkpoint"
        )
    values = checkpoint.verify(path)
    checkpoint.check_place(model)
    with reading(path, RuntimeError, remedy="use another checkpoint"):
        checkpoint.check_config(path, values, model)
        if optimizer is not None:
            _make_state(model, optimizer, values)
        tensors, _ = _state(model, optimizer)
        wrong = sorted(set(tensors) - set(values["tensors"]))
        if wrong:
            raise ValueError(f"{path} does not fit the model: {wrong[:5]} are missing in it")
        _read(tensors, path / "shards")
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        model.load_state_dict(weights)
        if optimizer is not None:
            for group, stored in zip(optimizer.param_groups, values["optimizer"]["groups"], strict=True):
                group.update({k: tuple(v) if k == "betas" else v for k, v in stored.items()})
        if dist.is_initialized():
            restore_random(load_file(path / "state.safetensors"))
    return values


def _read(tensors: dict[str, Tensor], shards: Path) -> None:
    """Fill the tensors, however they are cut, from a folder of shards. ValueError names a failed rank."""
    try:
        with warnings.catch_warnings():
            # torch asks whether one process is meant to load; it is
            warnings.filterwarnings("ignore", message=".*intent is to load in a single process")
            dcp.load(tensors, storage_reader=_Reader(shards), no_dist=not dist.is_initialized())
    except dcp.api.CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        if isinstance(cause, ValueError) and str(shards) in str(cause):
            raise cause from error
        said = (str(cause).splitlines() or [type(cause).__name__])[0]
        failed = f"{shards} cannot be read on rank {rank} ({said})"
        raise ValueError(f"{failed}: use another checkpoint") from error


def load_model(path: str | Path) -> Transformer:
    """The model of a checkpoint, sharded or not, whole in one process."""
    path = checkpoint.latest(path)
    if not is_sharded(path):
        return checkpoint.load_model(path)
    config = checkpoint.verify(path)["config"]
    with reading(path, remedy="use another checkpoint"):
        model = Transformer(ModelConfig(**config))
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
