"""A run on disk: all that decides its next step, written whole or not at all, read or refused. No pickle.

A checkpoint is a folder step-00000042 with model.safetensors, state.safetensors (optimizer and random
states), state.json (plain values) and manifest.json (size and SHA-256 of the others). It is made under a
temporary name, every file fsynced, then renamed: a folder that bears the name is whole.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcore.config import ModelConfig
from llmcore.files import alone, reading, writing
from llmcore.model import Transformer

# eight digits; from 10^8 on a step has more, and then none of them a leading 0
NAME = re.compile(r"^step-(\d{8}|[1-9]\d{8,})$")
FORMAT = 1


def save(
    folder: str | Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    extra: dict[str, Any] | None = None,
    keep_checkpoints: int = 3,
    more: dict[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint of this step, then remove all but the newest `keep_checkpoints`; returns its folder.

    extra is anything JSON holds (data position, schedule, settings), more are tensors to go along (tensors()
    reads them). Random states of python, numpy, torch on the CPU and on each CUDA device go in. A
    half-written folder of a process that died is removed here.

    Raises OSError that names the folder where the disk is full or may not be written: the checkpoints that
    were there stay as they were, and the room that the new one took is given back. Raises ValueError where
    this step or a later one is there already, and for values that a checkpoint cannot hold.
    """
    if keep_checkpoints < 1:
        raise ValueError(f"keep_checkpoints={keep_checkpoints}: at least the newest checkpoint must stay")
    folder = Path(folder)
    config = getattr(model, "config", None)
    check_place(model)
    weights = _own_memory(model.state_dict())
    state, values = _random_states()
    state |= more or {}
    if optimizer is not None:
        moments, groups = _flatten(optimizer.state_dict())
        state |= moments
        values["optimizer"] = groups
    values |= {
        "format": FORMAT,
        "step": step,
        "config": config.to_dict() if isinstance(config, ModelConfig) else None,
        "extra": extra or {},
    }
    text = plain_text(values)
    with writing(folder), alone(folder):
        temporary = prepare(folder, step)
        try:
            temporary.mkdir()
            save_file(weights, temporary / "model.safetensors")
            save_file(state, temporary / "state.safetensors")
            (temporary / "state.json").write_text(text, encoding="utf-8")
            return publish(temporary, folder, step, keep_checkpoints)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # gone already where publish has renamed it


def name_of(step: int) -> str:
    """step-00000042"""
    return f"step-{step:08d}"


def temporary_of(step: int) -> str:
    """The name of a checkpoint that is being written."""
    return f".writing-{step:08d}"


def step_of(path: Path) -> int:
    """42 of step-00000042."""
    return int(path.name.removeprefix("step-"))


def _own_memory(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor in memory of its own: safetensors writes no memory twice, nor a part of a larger one."""
    seen, own = set(), {}
    for name, tensor in weights.items():
        _check_values(name, tensor)
        memory = tensor.untyped_storage()
        shared = memory.data_ptr() in seen or memory.nbytes() > tensor.nbytes
        own[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
        seen.add(memory.data_ptr())
    return own


def plain_text(values: dict[str, Any]) -> str:
    """JSON of what a checkpoint holds beside tensors. ValueError names the value that JSON cannot hold."""

    def refuse(value: Any) -> Any:
        raise TypeError(f"a {type(value).__name__}")

    try:
        return json.dumps(values, default=refuse)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"extra and the optimizer's settings may hold numbers, texts, lists and dicts, not {error}: "
            "leave it out, or make it one of those"
        ) from error


def check_newest(folder: str | Path, step: int) -> None:
    """ValueError where a folder holds a later step: what is written next would be older, and be removed."""
    found = checkpoints(folder)
    if found and step_of(found[-1]) > step:
        raise ValueError(f"{found[-1]} is later than step {step}: resume from it, or write to another folder")


def prepare(folder: Path, step: int) -> Path:
    """Clear away half-written checkpoints; the folder to write in. ValueError unless this step is the latest.

    The caller holds files.alone(folder), so no process writes in what bears a temporary name.
    """
    if step < 0:
        raise ValueError(f"step={step}: steps count from 0")
    if (folder / name_of(step)).exists():
        raise ValueError(f"{folder / name_of(step)} exists: resume from it, or write to another folder")
    check_newest(folder, step)
    for left in (*folder.glob(".writing-*"), *folder.glob(".removing-*")):
        shutil.rmtree(left, ignore_errors=True)
    return folder / temporary_of(step)


def publish(temporary: Path, folder: Path, step: int, keep_checkpoints: int) -> Path:
    """Write the manifest, wait for the disk, give the folder its name; then remove the oldest checkpoints."""
    files = sorted(p for p in temporary.rglob("*") if p.is_file())
    entry = lambda file: {"size": file.stat().st_size, "sha256": _sha256(file)}
    manifest = {file.relative_to(temporary).as_posix(): entry(file) for file in files}
    (temporary / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for path in [*temporary.rglob("*"), temporary]:
        _fsync(path)
    final = folder / name_of(step)
    os.rename(temporary, final)
    _fsync(folder)
    for old in checkpoints(folder)[:-keep_checkpoints]:
        # a process that dies while it removes leaves no half folder under a checkpoint's name
        gone = old.with_name(f".removing-{old.name}")
        os.rename(old, gone)
        shutil.rmtree(gone)
    return final


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints of a folder, oldest first, without those that are being written."""
    folder = Path(folder)
    return sorted((p for p in folder.iterdir() if NAME.match(p.name)), key=step_of) if folder.is_dir() else []


def latest(folder: str | Path) -> Path:
    """The newest checkpoint of a folder, or the folder itself where it is one, whatever its name.

    Raises FileNotFoundError that says what is there instead.
    """
    folder = Path(folder)
    if (folder / "manifest.json").is_file() or (NAME.match(folder.name) and folder.is_dir()):
        return folder
    found = checkpoints(folder)
    if found:
        return found[-1]
    remedy = "train with checkpoint_every, or name another folder"
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist, so it holds no checkpoint: {remedy}")
    if not folder.is_dir():
        remedy = "name the folder of a run, or one step-... in it"
        raise FileNotFoundError(f"{folder} is a file and holds no checkpoint: {remedy}")
    if (folder / "config.json").exists() or any(folder.glob("*.safetensors")):
        remedy = "read them by llmcore.pretrained.load"
        raise FileNotFoundError(f"{folder} holds no checkpoint but published weights: {remedy}")
    raise FileNotFoundError(f"{folder} holds no checkpoint: {remedy}")


def verify(path: str | Path) -> dict[str, Any]:
    """Compare all files with the manifest; returns state.json. ValueError names a file that differs."""
    path = Path(path)
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        listed = {name: (entry["size"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}/manifest.json cannot be read ({error}): use another checkpoint") from error
    for name, (expected, digest) in listed.items():
        _check_file(path / name, expected, digest)
    files = (f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file())
    for name in files:  # nothing is read that was not compared
        if name not in listed and Path(name).name != "manifest.json":
            remedy = "use another checkpoint, or remove what is not of it"
            raise ValueError(f"{path}/manifest.json does not list {name}: {remedy}")
    with _whole(path):
        values = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            differ = f"{path} has format {values['format']}, this version reads {FORMAT}"
            raise ValueError(f"{differ}: use the version that wrote it")
        # an entry that is missing or of another kind is found here, before a tensor is read
        int(values["step"]), values["config"], dict(values["extra"])
    return values


def _check_file(file: Path, expected: int, digest: str) -> None:
    size = file.stat().st_size if file.is_file() else -1
    if size != expected:
        how = "missing" if size < 0 else f"{size} bytes instead of {expected}"
        raise ValueError(f"{file} is truncated or changed ({how}): use another checkpoint")
    if _sha256(file) != digest:
        damaged = f"{file} is damaged (its SHA-256 is not the one written)"
        raise ValueError(f"{damaged}: use another checkpoint")


def _whole(path: Path) -> contextlib.AbstractContextManager[None]:
    """Errors from values that save does not write become a ValueError that names the checkpoint."""
    return reading(path, RuntimeError, OSError, SafetensorError, remedy="use another checkpoint")


def load(
    path: str | Path, model: nn.Module, optimizer: Optimizer | None = None, restore_random: bool = True
) -> dict[str, Any]:
    """Put a checkpoint's values into model and optimizer (and the random states); returns its state.json.

    Raises ValueError where a file is not whole or where the checkpoint belongs to another config: the fields
    are named.
    """
    path = latest(path)
    values = verify(path)
    with _whole(path):
        check_place(model)
        check_config(path, values, model)
        weights = _weights(path)
        _check_shapes(path, weights, model)
        model.load_state_dict(weights)
        state = tensors(path)
        if optimizer is not None:
            if "optimizer" not in values:
                raise ValueError(f"{path} holds no optimizer: it was saved without one; load it without")
            optimizer.load_state_dict(_unflatten(state, values["optimizer"]))
        if restore_random:
            _restore_random(state, values)
    return values


def _weights(path: Path) -> dict[str, Tensor]:
    if not (path / "model.safetensors").exists():
        shards = f"{path} holds shards that several ranks wrote"
        raise ValueError(f"{shards}: read it by llmcore.distributed.sharded")
    return load_file(path / "model.safetensors")


def check_place(model: nn.Module) -> None:
    """ValueError where a parameter is on the meta device: what is copied there is gone."""
    for name, parameter in model.named_parameters():
        _check_values(name, parameter)


def _check_values(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        nowhere = f"{name} is on the meta device, where a tensor has no values"
        raise ValueError(f"{nowhere}: make the model on cpu or cuda first")


def _check_shapes(path: Path, weights: dict[str, Tensor], model: nn.Module) -> None:
    own = model.state_dict()
    reshaped = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    wrong = sorted(own.keys() ^ weights.keys()) + sorted(reshaped)
    if wrong:
        names = f"{wrong[:5]} are missing, surplus or of another shape"
        raise ValueError(f"{path} does not fit the model: {names}")


def tensors(path: str | Path) -> dict[str, Tensor]:
    """A checkpoint's tensors beside the weights: the optimizer's, random states, those saved as `more`."""
    path = latest(path)
    with _whole(path):
        return load_file(path / "state.safetensors")


def check_config(path: Path, values: dict[str, Any], model: nn.Module) -> None:
    """Raise a ValueError that names the fields in which the checkpoint's config is not the model's."""
    config = getattr(model, "config", None)
    if isinstance(config, ModelConfig) and values["config"] is not None:
        # ModelConfig fills in the defaults of fields that a later version has added
        stored, here = ModelConfig(**values["config"]).to_dict(), config.to_dict()
        there_here = ((k, stored.get(k), here[k]) for k in here if stored.get(k) != here[k])
        different = "; ".join(f"{k}={there!r} there, {own!r} here" for k, there, own in there_here)
        if different:
            belongs = f"{path} belongs to another config: {different}"
            raise ValueError(f"{belongs}. Build the model with ModelConfig of it")


def load_model(path: str | Path) -> Transformer:
    """The model of a checkpoint, built from the config in it."""
    path = latest(path)
    config = verify(path)["config"]
    if config is None:
        raise ValueError(f"{path} holds no config: build the model yourself and use load")
    with _whole(path):
        made, weights = ModelConfig(**config), _weights(path)
        if made.n_layers > len(weights):
            sizes = f"n_layers={made.n_layers} and {len(weights)} tensors"
            raise ValueError(f"{path} has {sizes}: use another checkpoint")
        with torch.device("meta"):  # no memory is taken before the model is seen to fit
            _check_shapes(path, weights, Transformer(made))
        model = Transformer(made)
    load(path, model, restore_random=False)
    return model


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors by name, and the rest as plain values."""
    tensors, plain = {}, {}
    for index, entry in state["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            elif isinstance(value, list | tuple | dict):
                kind = type(value).__name__
                raise ValueError(
                    f"the optimizer keeps {name} of parameter {index} as a {kind}, as LBFGS does: "
                    "a checkpoint holds tensors and single values; "
                    "save the model without its optimizer, or use SGD or AdamW"
                )
            else:
                plain[f"{index}.{name}"] = value
    return _own_memory(tensors), {"groups": state["param_groups"], "plain": plain}


def _unflatten(tensors: dict[str, Tensor], stored: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's state_dict of what _flatten made."""
    state: dict[int, dict[str, Any]] = {}
    own = {k.removeprefix("optimizer."): v for k, v in tensors.items() if k.startswith("optimizer.")}
    entries = own | stored["plain"]
    for key, value in entries.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = [{k: tuple(v) if k == "betas" else v for k, v in g.items()} for g in stored["groups"]]
    return {"state": state, "param_groups": groups}


def _random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The random states of this process: tensors, and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - the global state is saved
    tensors = {
        "random.torch": torch.get_rng_state(),
        "random.numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
    }
    if torch.cuda.is_available():
        tensors |= {f"random.cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    version, words, gauss_next = random.getstate()
    plain = {"numpy": [kind, position, has_gauss, gauss], "python": [version, list(words), gauss_next]}
    return tensors, {"random": plain}


def _restore_random(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["random.torch"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"random.cuda.{i}" in tensors:
                torch.cuda.set_rng_state(tensors[f"random.cuda.{i}"], i)
    kind, position, has_gauss, gauss = values["random"]["numpy"]
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, gauss))  # noqa: NPY002
    version, words, gauss_next = values["random"]["python"]
    random.setstate((version, tuple(words), gauss_next))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    """Wait until the disk has it; a folder too, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
