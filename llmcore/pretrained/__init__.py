"""Published weights in llmcore's own classes, and llmcore's models in the layout that others load.

load           a folder as Hugging Face lays it out, a GGUF file, or a name of REAL -> (model, tokenizer)
save           a model -> a folder that Hugging Face's library loads, with equal logits
ARCHITECTURES  whose weight is which: a table for each of gpt2, llama, bert, marian
REAL           where published weights come from: gpt2, smollm2, minilm

Loading is strict: a weight that is missing, surplus or of another shape is named. Files of pickles are never
opened, because a pickle may run code when it is read.
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
SHARD = re.compile(r"\w[\w.-]*\.safetensors")  # a name, no path


def load(
    path_or_name: str | Path,
    tokenizer: bool = True,
    dtype: torch.dtype = torch.float32,
    attention: AttentionPath = "fused",
) -> tuple[Transformer, Tokenizer | None]:
    """The model, in eval mode and without dropout, and its tokenizer where one lies beside the weights.

    path_or_name is a folder with config.json and model.safetensors (one file, or shards with their index), a
    GGUF file, or a name of REAL, whose weights are brought from the network once; a path that exists comes
    before a name. attention="explicit" lets trace see the attention weights. tokenizer=False leaves the
    tokenizer out.

    Raises FileNotFoundError where there are no weights, ConnectionError without a network, and ValueError for
    an architecture that is in no table, a file that is not whole, or weights that do not fit.
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
    """The model of a GGUF file, its weights dequantised, and the tokenizer of its own tables."""
    file = gguf_file.File(Path(path))
    model = gguf_file.read_model(file, dtype, attention)
    return model.eval(), gguf_file.read_tokenizer(file) if tokenizer else None


def _from_folder(folder: Path, dtype: torch.dtype, attention: AttentionPath) -> Transformer:
    if not (folder / CONFIG).is_file():
        inside = [p.name for p in folder.glob("*.gguf")]
        remedy = (
            f"give the file {folder / inside[0]}"
            if inside
            else "give the folder that holds it beside the weights"
        )
        raise FileNotFoundError(f"{folder} has no {CONFIG}: {remedy}")
    settings = _json(folder / CONFIG)
    kind = settings.get("model_type")
    if kind not in [*ARCHITECTURES]:  # a list: what a damaged file says may have no hash
        raise ValueError(
            f"{folder / CONFIG}: model_type={kind!r} is in no table: llmcore has {list(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[kind]
    weights = {architecture.full(name): tensor for name, tensor in _weights(folder).items()}
    with reading(folder / CONFIG, RuntimeError):  # torch's, of sizes that no tensor can have
        config = architecture.config(settings, set(weights), str(folder / CONFIG)).with_(attention=attention)
        model = blank(config, len(weights))
    table = list(pairs(architecture.names, architecture.out_in, config.n_layers, model.state_dict()))
    kept = {pair.theirs for pair in table}
    weights = without_copies(weights, architecture.copies, architecture.left_out, kept, str(folder))
    return fill(model, table, weights, str(folder), dtype).eval()


def _weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder by its name, of one file or of the shards that the index lists."""
    if (folder / WEIGHTS).is_file():
        return _read(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        listed = _json(folder / INDEX).get("weight_map")
        weights: dict[str, Tensor] = {}
        if not isinstance(listed, dict) or not all(
            isinstance(n, str) and SHARD.fullmatch(n) for n in listed.values()
        ):
            raise ValueError(
                f"{folder / INDEX} does not list files of this folder that end in .safetensors: "
                "get the folder again"
            )
        for name in sorted(set(listed.values())):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing, and {INDEX} lists it: get this shard too"
                )
            weights |= _read(folder / name)
        different = sorted(set(listed) ^ set(weights))
        if different:
            raise ValueError(
                f"{folder}: {different[:5]} are in the index or in the shards, not in both: "
                "get the folder again"
            )
        return weights
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS}, only {pickles[0]}, a pickle, which may run code when it is opened: "
            "get the safetensors file"
        )
    raise FileNotFoundError(
        f"{folder} holds no weights: there is neither {WEIGHTS} nor {INDEX}; get the whole folder"
    )


def _read(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        head = file.read(9)
    # torch.save's archive, or a pickle of protocol 2 to 5; a safetensors file has 8 bytes of length, then {
    if head.startswith(b"PK\x03\x04") or (
        head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and head[8:] != b"{"
    ):
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
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no whole JSON file ({error}): get it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no table of settings: get it again")
    return value


def read_tokenizer(folder: str | Path) -> Tokenizer | None:
    """The tokenizer of a folder: of tokenizer.json, or of vocab.json and merges.txt; None where there is
    neither.
    """
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
    folder: str | Path, model: Transformer, architecture: str, tokenizer: Tokenizer | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write config.json, model.safetensors and tokenizer.json as Hugging Face's library loads them; the
    folder appears whole.

    architecture is a name of ARCHITECTURES. settings are further keys for config.json, such as
    {"eos_token_id": 0}. Raises ValueError where the architecture cannot have what the model has (the fields
    are named), or where the folder exists.
    """
    folder = Path(folder)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture={architecture!r} is in no table: choose one of {list(ARCHITECTURES)}")
    if folder.exists():
        raise ValueError(f"{folder} exists: choose another folder, or remove it")
    table = ARCHITECTURES[architecture]
    ends = {
        "pad_token_id": model.config.vocab_size - 1,
        "decoder_start_token_id": model.config.vocab_size - 1,
    }
    written = {
        **table.settings(model.config),
        **(ends if architecture == "marian" else {}),
        **(settings or {}),
    }
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
            temporary.chmod(0o755)  # mkdtemp's is the owner's alone
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


__all__ = [
    "ARCHITECTURES",
    "REAL",
    "Architecture",
    "Files",
    "Wheel",
    "from_gguf",
    "load",
    "read_tokenizer",
    "save",
]
