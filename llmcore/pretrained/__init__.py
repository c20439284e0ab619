"""Published weights in llmcore's own classes, and llmcore's models in the layout that others load.

load           a folder as Hugging Face lays it out, a GGUF file, or a name of REAL -> (model, tokenizer)
save           a model -> a folder that Hugging Face's library loads, with equal logits
ARCHITECTURES  which published weight is which of ours: a table for each of gpt2, llama, bert, marian
REAL           where published weights come from: gpt2, smollm2, minilm

Loading is strict: a weight that is missing, surplus or of another shape is named. A pickle is never opened,
because it may run code when it is read.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmcore.config import AttentionPath
from llmcore.files import reading, writing
from llmcore.model import Transformer
from llmcore.pretrained import gguf_file
from llmcore.pretrained.sources import REAL, Files, Wheel
from llmcore.pretrained.tables import ARCHITECTURES, Architecture
from llmcore.pretrained.weights import blank, fill, pairs, theirs_of, without_copies
from llmcore.tokenizer import BPETokenizer, Tokenizer, formats

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SHARD = re.compile(r"\w[\w.-]*\.safetensors")  # a file name without a path, so that no other folder is read


def load(
    path_or_name: str | Path,
    tokenizer: bool = True,
    dtype: torch.dtype = torch.float32,
    attention: AttentionPath = "fused",
) -> tuple[Transformer, Tokenizer | None]:
    """The model, in eval mode and without dropout, and the tokenizer that is stored beside the weights.

    path_or_name is a folder with config.json and model.safetensors (one file, or shards with their index), a
    GGUF file, or a name of REAL, whose weights are downloaded once; an existing path takes precedence over a
    name. dtype is that of the weights. attention="explicit" lets trace see the attention weights. The
    tokenizer is None where the folder has none, or with tokenizer=False.

    Raises FileNotFoundError where there are no weights, ConnectionError without a network, and ValueError for
    an architecture that no table has, a truncated file, or weights that do not fit.
    """
    path = Path(path_or_name)
    if not path.exists():
        if str(path_or_name) not in REAL:
            raise FileNotFoundError(
                f"{path_or_name} is no folder, no file and no name of {list(REAL)}: give one of them"
            )
        path = REAL[str(path_or_name)].find()
    if path.is_file():
        if path.suffix == ".gguf":
            return from_gguf(path, tokenizer, dtype, attention)
        if path.suffix == ".safetensors":
            raise ValueError(
                f"{path} holds weights without their config: give the folder with {CONFIG} and {WEIGHTS}"
            )
        raise ValueError(
            f"{path} is none of the files that are read: "
            f"give a folder with {CONFIG} and {WEIGHTS}, or a .gguf file"
        )
    return _from_folder(path, dtype, attention), read_tokenizer(path) if tokenizer else None


def from_gguf(
    path: str | Path,
    tokenizer: bool = True,
    dtype: torch.dtype = torch.float32,
    attention: AttentionPath = "fused",
) -> tuple[Transformer, BPETokenizer | None]:
    """The model of a GGUF file, its weights dequantised, and the tokenizer that the file contains."""
    file = gguf_file.File(Path(path))
    model = gguf_file.read_model(file, dtype, attention)
    return model.eval(), gguf_file.read_tokenizer(file) if tokenizer else None


def _from_folder(folder: Path, dtype: torch.dtype, attention: AttentionPath) -> Transformer:
    """The model of a folder with config.json and safetensors files."""
    if not (folder / CONFIG).is_file():
        inside = [p.name for p in folder.glob("*.gguf")]
        beside = "give the folder that holds it beside the weights"
        remedy = f"give the file {folder / inside[0]}" if inside else beside
        raise FileNotFoundError(f"{folder} has no {CONFIG}: {remedy}")
    settings = _json(folder / CONFIG)
    kind = settings.get("model_type")
    if kind not in [*ARCHITECTURES]:  # a list, since the value in a damaged file may not be hashable
        raise ValueError(
            f"{folder / CONFIG}: model_type={kind!r} is in no table: llmcore has {list(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[kind]
    weights = {architecture.full(name): tensor for name, tensor in _weights(folder).items()}
    with reading(folder / CONFIG, RuntimeError):  # raised by torch for sizes that no tensor can have
        config = architecture.config(settings, set(weights), str(folder / CONFIG)).with_(attention=attention)
        model = blank(config, len(weights))
    table = list(pairs(architecture.names, architecture.out_in, config.n_layers, model.state_dict()))
    needed = {pair.theirs for pair in table}
    weights = without_copies(weights, architecture.copies, architecture.left_out, needed, str(folder))
    return fill(model, table, weights, str(folder), dtype).eval()


def _weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder by its name, from one file or from the shards that the index lists."""
    if (folder / WEIGHTS).is_file():
        return _read(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS}, only {pickles[0]}, a pickle, which may run code when it is opened: "
            "get the safetensors file"
        )
    raise FileNotFoundError(
        f"{folder} holds no weights: there is neither {WEIGHTS} nor {INDEX}; get the whole folder"
    )


def _shards(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the shards, which must hold just those that the index lists."""
    listed = _json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not all(map(_is_shard, listed.values())):
        raise ValueError(
            f"{folder / INDEX} does not list files of this folder that end in .safetensors: "
            "get the folder again"
        )
    weights: dict[str, Tensor] = {}
    for name in sorted(set(listed.values())):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing, and {INDEX} lists it: get this shard too")
        weights |= _read(folder / name)
    different = sorted(set(listed) ^ set(weights))
    if different:
        raise ValueError(
            f"{folder}: {different[:5]} are in the index or in the shards, not in both: get the folder again"
        )
    return weights


def _is_shard(name: Any) -> bool:
    return isinstance(name, str) and SHARD.fullmatch(name) is not None


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file."""
    with path.open("rb") as file:
        head = file.read(9)
    # A pickle of protocol 2 to 5 begins with \x80 and its number; so may the length at the head of a
    # safetensors file, whose ninth byte is then {. torch.save writes a zip archive with a pickle inside.
    is_pickle = head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and head[8:] != b"{"
    if head.startswith(b"PK\x03\x04") or is_pickle:
        raise ValueError(
            f"{path} is a pickle by another name, which may run code when it is opened: "
            "get the safetensors file"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): it is cut short or of another kind; get it again"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    """The object of a JSON file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no whole JSON file ({error}): get it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no table of settings: get it again")
    return value


def read_tokenizer(folder: str | Path) -> Tokenizer | None:
    """The tokenizer of a folder, from tokenizer.json or from vocab.json and merges.txt; None without them."""
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        try:
            return formats.read_hugging_face(folder / "tokenizer.json")
        except ValueError as error:
            raise ValueError(f"{error}; load with tokenizer=False for the weights alone") from error
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return formats.read_gpt2(folder / "vocab.json", folder / "merges.txt")
    return None


def save(
    folder: str | Path,
    model: Transformer,
    architecture: str,
    tokenizer: Tokenizer | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write config.json, model.safetensors and tokenizer.json as Hugging Face's library loads them.

    The folder appears complete or not at all. architecture is a name of ARCHITECTURES. settings are further
    keys for config.json, such as {"eos_token_id": 0}. Raises ValueError if the folder exists, and names the
    config fields in which the model differs from every model of the architecture.
    """
    folder = Path(folder)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture={architecture!r} is in no table: choose one of {list(ARCHITECTURES)}")
    if folder.exists():
        raise ValueError(f"{folder} exists: choose another folder, or remove it")
    table = ARCHITECTURES[architecture]
    written = table.settings(model.config)
    if architecture == "marian":  # padding, the last id, also begins the decoder's sequence
        written |= dict.fromkeys(("pad_token_id", "decoder_start_token_id"), model.config.vocab_size - 1)
    written |= settings or {}
    names = list(pairs(table.names, table.out_in, model.config.n_layers, model.state_dict()))
    if tokenizer is not None and not isinstance(tokenizer, BPETokenizer):
        raise ValueError(
            f"a tokenizer of kind {tokenizer.kind!r} has no place in tokenizer.json: "
            "only byte-level BPE is written"
        )
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
        try:
            save_file(theirs_of(model, names), temporary / WEIGHTS, metadata={"format": "pt"})
            (temporary / CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
            if tokenizer is not None:
                formats.write_hugging_face(tokenizer, temporary / "tokenizer.json")
            temporary.chmod(0o755)  # mkdtemp lets only the owner read
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


__all__ = [
    "ARCHITECTURES", "REAL", "Architecture", "Files", "Wheel", "from_gguf", "load", "read_tokenizer", "save",
]  # fmt: skip
