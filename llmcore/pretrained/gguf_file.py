"""GGUF: settings, tokenizer and weights of a few bits in one file  [Gerganov et al., the gguf specification]

A block of Q4_1 holds 32 numbers in 20 bytes: d and m as 16-bit floats and 32 integers q in 0..15; the number
is d q + m. Q4_0 is d (q - 8), Q8_0 is d q with q in -128..127. Weights are returned as 32-bit floats whatever
the file's types; the gguf package dequantises them. The table at the head of the file is read here: no count
that it announces is believed before the file is known to have as many bytes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from llmcore.config import AttentionPath, ModelConfig, RotaryScaling
from llmcore.files import reading
from llmcore.model import Transformer
from llmcore.position import frequencies, scale_frequencies
from llmcore.pretrained.weights import blank, fill, pairs
from llmcore.tokenizer import BPETokenizer
from llmcore.tokenizer.formats import PUBLISHED, byte_level, hide

CONTROL, USER = 3, 4  # token types of the specification: special tokens, and tokens that a user added

LLAMA = {
    "token_embd.weight": "embedding.table",
    "blk.{}.attn_norm": "decoder.blocks.{}.attention_norm",
    "blk.{}.attn_q": "decoder.blocks.{}.attention.W_q",
    "blk.{}.attn_k": "decoder.blocks.{}.attention.W_k",
    "blk.{}.attn_v": "decoder.blocks.{}.attention.W_v",
    "blk.{}.attn_output": "decoder.blocks.{}.attention.W_o",
    "blk.{}.ffn_norm": "decoder.blocks.{}.feed_forward_norm",
    "blk.{}.ffn_gate": "decoder.blocks.{}.feed_forward.gate",
    "blk.{}.ffn_up": "decoder.blocks.{}.feed_forward.up",
    "blk.{}.ffn_down": "decoder.blocks.{}.feed_forward.down",
    "output_norm": "decoder.norm",
    "output.weight": "head.table",
}
GPT2 = {
    "token_embd.weight": "embedding.table",
    "position_embd.weight": "embedding.position.table",
    "blk.{}.attn_norm": "decoder.blocks.{}.attention_norm",
    "blk.{}.attn_qkv": (
        "decoder.blocks.{}.attention.W_q + decoder.blocks.{}.attention.W_k + decoder.blocks.{}.attention.W_v"
    ),
    "blk.{}.attn_output": "decoder.blocks.{}.attention.W_o",
    "blk.{}.ffn_norm": "decoder.blocks.{}.feed_forward_norm",
    "blk.{}.ffn_up": "decoder.blocks.{}.feed_forward.up",
    "blk.{}.ffn_down": "decoder.blocks.{}.feed_forward.down",
    "output_norm": "decoder.norm",
    "output.weight": "head.table",
}
NAMES = {"llama": LLAMA, "gpt2": GPT2}

# the specification's numbers for the types of a setting; before a string or an array stands a count of 8
# bytes
SCALARS = {
    0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "?", 10: "u8", 11: "i8", 12: "f8",
}  # fmt: skip
STRING, ARRAY = 8, 9
# the types of a tensor that are not made of blocks
PLAIN = {"F16": "f2", "F32": "f4", "F64": "f8", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8"}
MOST_AXES = 4  # of a tensor, by the specification


@dataclass(frozen=True)
class Stored:
    """A tensor as the file stores it: `shape` begins with the fastest axis, `data` ends with it."""

    name: str
    tensor_type: Any
    shape: tuple[int, ...]
    data: np.ndarray

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


class Head:
    """Reads the values at the head of a file, one by one; ValueError where a count exceeds the bytes left."""

    def __init__(self, data: np.ndarray):
        self.data, self.at = data, 0
        if bytes(self.numbers("u1", 4)) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self.number("u4")
        if version & 0xFFFF == 0:
            raise ValueError(
                "its numbers have their greatest byte first, and the gguf package does not open such weights"
            )
        if version not in (2, 3):
            raise ValueError(f"it has version {version}: 2 and 3 can be read")

    def need(self, count: int, size: int) -> None:
        """Raise ValueError unless `count` values of at least `size` bytes are left."""
        left = len(self.data) - self.at
        if count * size > left:
            raise ValueError(
                f"at byte {self.at} it announces {count} values of at least {size} bytes, "
                f"and has {left} bytes left"
            )

    def numbers(self, kind: str, count: int) -> np.ndarray:
        dtype = np.dtype(f"<{kind}")
        self.need(count, dtype.itemsize)
        start, self.at = self.at, self.at + count * dtype.itemsize
        return self.data[start : self.at].view(dtype)

    def number(self, kind: str) -> Any:
        return self.numbers(kind, 1)[0].item()

    def text(self) -> str:
        return bytes(self.numbers("u1", self.number("u8"))).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise ValueError(f"a setting has type {kind}, which the specification does not have")
        inner, count = self.number("u4"), self.number("u8")
        if inner in SCALARS:
            return self.numbers(SCALARS[inner], count).tolist()
        self.need(count, 8 if inner == STRING else 12)  # at least the 8 or 12 bytes at their heads
        return [self.value(inner) for _ in range(count)]


class File:
    """A GGUF file: `settings` by key, `tensors` by name, still packed."""

    def __init__(self, path: Path):
        try:
            import gguf
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'{path} is a GGUF file and needs the gguf package: pip install "llmcore[real]"'
            ) from error
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file: give a .gguf file")
        self.path, self._gguf = path, gguf
        self.settings: dict[str, Any] = {}
        self.tensors: dict[str, Stored] = {}
        try:
            self._read(Head(np.memmap(path, mode="r")))
        except (ValueError, LookupError, RecursionError) as error:
            raise ValueError(
                f"{path} is no whole GGUF file ({error}): it is cut short or of another kind; get it again"
            ) from error

    def _read(self, head: Head) -> None:
        n_tensors, n_settings = head.number("u8"), head.number("u8")
        # each at least: 8 bytes for a key's length, 4 for its type, 1 for the value
        head.need(n_settings, 13)
        for _ in range(n_settings):
            key, kind = head.text(), head.number("u4")
            if key in self.settings:
                raise ValueError(f"it says {key} twice")
            self.settings[key] = head.value(kind)
        # each at least: 8 for a name's length, 4 for axes, 4 for a type, 8 for a place
        head.need(n_tensors, 24)
        listed = []
        for _ in range(n_tensors):
            name, axes = head.text(), head.number("u4")
            if axes > MOST_AXES:
                raise ValueError(f"{name} has {axes} axes: at most {MOST_AXES} can be")
            shape = tuple(head.numbers("u8", axes).tolist())
            listed.append((name, shape, head.number("u4"), head.number("u8")))
        alignment = self.settings.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"general.alignment={alignment!r} is no count of bytes")
        start = -(-head.at // alignment) * alignment
        for name, shape, kind, place in listed:
            if name in self.tensors:
                raise ValueError(f"it has {name} twice")
            head.at = start + place
            self.tensors[name] = self._stored(head, name, shape, kind)
        if sum(t.data.nbytes for t in self.tensors.values()) > len(head.data):
            raise ValueError(
                "its tensors have more bytes together than the file: they lie one over the other"
            )

    def _stored(self, head: Head, name: str, shape: tuple[int, ...], kind: int) -> Stored:
        tensor_type = self._gguf.GGMLQuantizationType(kind)
        theirs, plain = shape[::-1], PLAIN.get(tensor_type.name)
        if 0 in shape:
            raise ValueError(f"{name} has shape {list(shape)}: an axis is empty")
        if plain is None:
            theirs = tuple(int(n) for n in self._gguf.quants.quant_shape_to_byte_shape(theirs, tensor_type))
        data = head.numbers(plain or "u1", math.prod(theirs)).reshape(theirs)
        return Stored(name, tensor_type, shape, data)

    def tensor(self, name: str) -> Tensor:
        """A weight as fp32, rows as the file has them: (out, in)."""
        stored = self.tensors[name]
        try:
            numbers = self._gguf.quants.dequantize(stored.data, stored.tensor_type)
            return torch.from_numpy(np.array(numbers, dtype=np.float32))
        except NotImplementedError as error:
            raise ValueError(
                f"{self.path}: {name} has type {stored.tensor_type.name}, which the gguf package cannot open"
            ) from error

    def __getitem__(self, key: str) -> Any:
        if key not in self.settings:
            raise ValueError(f"{self.path} does not say {key}: it is no complete model")
        return self.settings[key]


def read_config(file: File) -> ModelConfig:
    """The config that follows from the file's settings and from which tensors it has."""
    kind = file["general.architecture"]
    if kind not in [*NAMES]:
        raise ValueError(f"{file.path} holds architecture {kind!r}: the tables have {list(NAMES)}")
    of = lambda key: file[f"{kind}.{key}"]
    table = file.tensors.get("token_embd.weight")
    common: dict[str, Any] = {
        "vocab_size": int(table.shape[1]) if table else 0, "context_length": of("context_length"),
        "d_model": of("embedding_length"), "n_layers": of("block_count"),
        "n_heads": of("attention.head_count"), "d_ff": of("feed_forward_length"),
        "tied": "output.weight" not in file.tensors,
    }  # fmt: skip
    if kind == "gpt2":
        return ModelConfig(**common, norm_eps=_short(of("attention.layer_norm_epsilon")))
    scaling = file.settings.get("llama.rope.scaling.type", "none")
    if scaling not in ("none", "llama3"):
        raise ValueError(f"{file.path}: rope scaling {scaling!r} is none that llmcore has")

    def get(key: str, default: Any) -> Any:
        return file.settings.get(f"llama.{key}", default)

    config = ModelConfig(
        **common, n_kv_heads=get("attention.head_count_kv", 0), d_head=get("attention.key_length", 0),
        norm="rms", norm_eps=_short(of("attention.layer_norm_rms_epsilon")), feed_forward="swiglu",
        position="rotary", rotary_base=_short(get("rope.freq_base", 10000.0)),
        bias="blk.0.attn_q.bias" in file.tensors,
    )  # fmt: skip
    if get("rope.dimension_count", config.d_head) != config.d_head:
        raise ValueError(
            f"{file.path} turns {get('rope.dimension_count', 0)} of {config.d_head} dimensions a head: "
            "llmcore turns all"
        )
    if "rope_freqs.weight" in file.tensors:
        config = config.with_(rotary_scaling=_scaling(file, config))
    return config


def _short(value: float) -> float:
    """The shortest decimal that a 32-bit float stands for: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _scaling(file: File, config: ModelConfig) -> RotaryScaling:
    """Llama 3's scaling, whose only trace in the file are the divisors of the frequencies."""
    divisors = file.tensor("rope_freqs.weight")
    theta = frequencies(config.d_head, config.rotary_base)
    scaling = RotaryScaling(factor=round(float(divisors.max()), 3))
    if not torch.allclose(theta / scale_frequencies(theta, scaling), divisors, rtol=1e-4):
        raise ValueError(
            f"{file.path} scales its rotary frequencies otherwise than Llama 3 ({scaling}): "
            "it cannot be loaded"
        )
    return scaling


def halves(weight: Float[Tensor, "HDh *D"], n_heads: int) -> Float[Tensor, "HDh *D"]:
    """Rows of W_q or W_k, or its bias, from rotary pairs (2i, 2i + 1) to rotary pairs (i, i + Dh/2)

    GGUF stores Llama's heads for the rotation of neighbours; Hugging Face's files and llmcore rotate halves.
    The two differ by one permutation of a head's dimensions.
    """
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def read_model(file: File, dtype: torch.dtype, attention: AttentionPath) -> Transformer:
    """Every weight dequantised, in llmcore's layout."""
    with reading(file.path, RuntimeError):
        return _model(file, dtype, attention)


def _model(file: File, dtype: torch.dtype, attention: AttentionPath) -> Transformer:
    kind, config = file["general.architecture"], read_config(file).with_(attention=attention)
    weights = {name: file.tensor(name) for name in file.tensors if name != "rope_freqs.weight"}
    if "output.weight" in weights and torch.equal(weights["output.weight"], weights["token_embd.weight"]):
        config = config.with_(tied=True)  # the file holds the table twice
        del weights["output.weight"]
    if kind == "llama":
        for name in list(weights):
            n_heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}.get(name.split(".")[-2])
            if n_heads:
                weights[name] = halves(weights[name], n_heads)
    model = blank(config, len(weights))
    table = list(pairs(NAMES[kind], True, config.n_layers, model.state_dict()))
    return fill(model, table, weights, str(file.path), dtype)


def read_tokenizer(file: File) -> BPETokenizer | None:
    """The tokenizer in the file, None if it has none; ValueError for one that is not byte-level BPE."""
    with reading(file.path):
        return _tokenizer(file)


def _tokenizer(file: File) -> BPETokenizer | None:
    kind = file.settings.get("tokenizer.ggml.model")
    if kind is None:
        return None
    before = file.settings.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or before not in PUBLISHED:
        raise ValueError(
            f"{file.path} has a tokenizer of kind {kind!r} split as {before!r}: "
            f"byte-level BPE ('gpt2') split as one of {list(PUBLISHED)} can be read; "
            "load with tokenizer=False for the weights alone"
        )
    tokens, types = file["tokenizer.ggml.tokens"], file["tokenizer.ggml.token_type"]
    table = {token: i for i, token in enumerate(tokens)}
    special = {
        token: i for i, (token, t) in enumerate(zip(tokens, types, strict=True)) if t in (CONTROL, USER)
    }
    lines = file["tokenizer.ggml.merges"]
    merges: list[Any] = [tuple(hide(part) for part in line.split(" ")) for line in lines]
    unknown = file.settings.get("tokenizer.ggml.unknown_token_id")
    unknown = unknown if unknown in special.values() else None
    whole = before == "llama-bpe"  # a piece that is an entry of the table is one token, whatever the merges
    return byte_level(table, merges, PUBLISHED[before], special, str(file.path), unknown, whole)
