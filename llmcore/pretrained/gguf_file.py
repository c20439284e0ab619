"""GGUF, one file with settings, tokenizer and weights in blocks of few bits  [Gerganov et al., the gguf specification]

A block of Q4_1 holds 32 numbers in 20 bytes: d and m as 16-bit floats and 32 whole numbers q in 0..15; the number is d q + m.
Q4_0 has d (q - 8), Q8_0 d q with q in -128..127. Weights are given back as 32-bit floats, whatever the file's types; the gguf
package reads them all.
"""

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
    "blk.{}.attn_qkv": "decoder.blocks.{}.attention.W_q + decoder.blocks.{}.attention.W_k + decoder.blocks.{}.attention.W_v",
    "blk.{}.attn_output": "decoder.blocks.{}.attention.W_o",
    "blk.{}.ffn_norm": "decoder.blocks.{}.feed_forward_norm",
    "blk.{}.ffn_up": "decoder.blocks.{}.feed_forward.up",
    "blk.{}.ffn_down": "decoder.blocks.{}.feed_forward.down",
    "output_norm": "decoder.norm",
    "output.weight": "head.table",
}
NAMES = {"llama": LLAMA, "gpt2": GPT2}


class File:
    """A GGUF file: `settings` by key, `tensors` by name as the gguf package has them (bits packed)."""

    def __init__(self, path: Path):
        try:
            import gguf
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f'{path} is a GGUF file and needs the gguf package: pip install "llmcore[real]"') from error
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file: give a .gguf file")
        self.path, self._dequantize = path, gguf.quants.dequantize
        try:
            reader = gguf.GGUFReader(path)
            self.settings: dict[str, Any] = {key: f.contents() for key, f in reader.fields.items()}
            self.tensors = {t.name: t for t in reader.tensors}
        except Exception as error:  # whatever the reader stumbles over in a file that is not whole
            raise ValueError(f"{path} is no whole GGUF file ({error}): it is cut short or of another kind; get it again") from error

    def tensor(self, name: str) -> Tensor:
        """A weight as fp32, rows as the file has them: (out, in)."""
        stored = self.tensors[name]
        try:
            return torch.from_numpy(np.array(self._dequantize(stored.data, stored.tensor_type), dtype=np.float32))
        except NotImplementedError as error:
            raise ValueError(f"{self.path}: {name} has type {stored.tensor_type.name}, which the gguf package cannot open") from error

    def __getitem__(self, key: str) -> Any:
        if key not in self.settings:
            raise ValueError(f"{self.path} does not say {key}: it is no complete model")
        return self.settings[key]


def read_config(file: File) -> ModelConfig:
    """What the file's settings say, and which tensors are there."""
    kind = file["general.architecture"]
    if kind not in [*NAMES]:
        raise ValueError(f"{file.path} holds architecture {kind!r}: the tables have {list(NAMES)}")
    of = lambda key: file[f"{kind}.{key}"]
    common: dict[str, Any] = {
        "vocab_size": int(file.tensors["token_embd.weight"].shape[1]) if "token_embd.weight" in file.tensors else 0,
        "context_length": of("context_length"), "d_model": of("embedding_length"), "n_layers": of("block_count"),
        "n_heads": of("attention.head_count"), "d_ff": of("feed_forward_length"), "tied": "output.weight" not in file.tensors,
    }  # fmt: skip
    if kind == "gpt2":
        return ModelConfig(**common, norm_eps=_short(of("attention.layer_norm_epsilon")))
    scaling = file.settings.get("llama.rope.scaling.type", "none")
    if scaling not in ("none", "llama3"):
        raise ValueError(f"{file.path}: rope scaling {scaling!r} is none that llmcore has")

    def get(key: str, default: Any) -> Any:
        return file.settings.get(f"llama.{key}", default)

    config = ModelConfig(
        **common, n_kv_heads=get("attention.head_count_kv", 0), d_head=get("attention.key_length", 0), norm="rms",
        norm_eps=_short(of("attention.layer_norm_rms_epsilon")), feed_forward="swiglu", position="rotary",
        rotary_base=_short(get("rope.freq_base", 10000.0)), bias="blk.0.attn_q.bias" in file.tensors,
    )  # fmt: skip
    if get("rope.dimension_count", config.d_head) != config.d_head:
        raise ValueError(f"{file.path} turns {get('rope.dimension_count', 0)} of {config.d_head} dimensions a head: llmcore turns all")
    if "rope_freqs.weight" in file.tensors:
        config = config.with_(rotary_scaling=_scaling(file, config))
    return config


def _short(value: float) -> float:
    """The decimal that was meant by a number kept in 32 bits: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _scaling(file: File, config: ModelConfig) -> RotaryScaling:
    """The rule whose divisors of the frequencies the file lists; it holds no other sign of Llama 3's scaling."""
    divisors = file.tensor("rope_freqs.weight")
    theta = frequencies(config.d_head, config.rotary_base)
    scaling = RotaryScaling(factor=round(float(divisors.max()), 3))
    if not torch.allclose(theta / scale_frequencies(theta, scaling), divisors, rtol=1e-4):
        raise ValueError(f"{file.path} scales its rotary frequencies otherwise than Llama 3 ({scaling}): it cannot be loaded")
    return scaling


def halves(weight: Float[Tensor, "HDh *D"], n_heads: int) -> Float[Tensor, "HDh *D"]:
    """Rows of W_q or W_k, or its bias, from pairs of neighbours to pairs (i, i + Dh/2)

    GGUF stores Llama's heads for rotation of neighbours, Hugging Face's files and llmcore for halves: one permutation apart.
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
        config = config.with_(tied=True)  # the table written a second time
        del weights["output.weight"]
    if kind == "llama":
        for name in list(weights):
            part = name.split(".")[-2]
            if part in ("attn_q", "attn_k"):
                weights[name] = halves(weights[name], config.n_heads if part == "attn_q" else config.n_kv_heads)
    model = blank(config, len(weights))
    table = list(pairs(NAMES[kind], True, config.n_layers, model.state_dict()))
    return fill(model, table, weights, str(file.path), dtype)


def read_tokenizer(file: File) -> BPETokenizer | None:
    """The file's own tables as a tokenizer; None where there are none, ValueError where they are of another kind."""
    with reading(file.path):
        return _tokenizer(file)


def _tokenizer(file: File) -> BPETokenizer | None:
    kind = file.settings.get("tokenizer.ggml.model")
    if kind is None:
        return None
    before = file.settings.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or before not in PUBLISHED:
        raise ValueError(
            f"{file.path} has a tokenizer of kind {kind!r} split as {before!r}: byte-level BPE ('gpt2') split as one of "
            f"{list(PUBLISHED)} can be read; load with tokenizer=False for the weights alone"
        )
    tokens, types = file["tokenizer.ggml.tokens"], file["tokenizer.ggml.token_type"]
    table = {token: i for i, token in enumerate(tokens)}
    special = {token: i for i, (token, t) in enumerate(zip(tokens, types, strict=True)) if t in (CONTROL, USER)}
    merges = [tuple(hide(part) for part in line.split(" ")) for line in file["tokenizer.ggml.merges"]]
    unknown = file.settings.get("tokenizer.ggml.unknown_token_id")
    unknown = unknown if unknown in special.values() else None
    return byte_level(table, merges, PUBLISHED[before], special, str(file.path), unknown, before == "llama-bpe")  # type: ignore[arg-type]
