"""The peers: Hugging Face's GPT-2, and nanoGPT's model and minbpe's algorithms as rewritten here.

github.com/karpathy/nanoGPT and github.com/karpathy/minbpe are no packages: both are written anew from their
published description. Where nanoGPT lies on this machine, nanogpt(path=...) takes its own model.py instead.
`give` copies llmcore's weights into a peer, so that a benchmark can assert that both compute the same.
"""

import contextlib
import importlib.util
import io
import itertools
from collections import Counter
from pathlib import Path

import regex
import torch
from torch import nn
from torch.nn import functional as F

from llmcore.config import ModelConfig
from llmcore.model import Transformer


class NanoAttention(nn.Module):
    """One product for queries, keys and values; torch's fused attention."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.n_head = c.n_heads
        self.c_attn = nn.Linear(c.d_model, 3 * c.d_model, bias=c.bias)
        self.c_proj = nn.Linear(c.d_model, c.d_model, bias=c.bias)

    def forward(self, x):
        parts = (p.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for p in self.c_attn(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(*parts, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().flatten(2))


class NanoBlock(nn.Module):
    def __init__(self, c: ModelConfig):
        super().__init__()
        self.ln_1, self.ln_2 = (nn.LayerNorm(c.d_model, bias=c.bias) for _ in range(2))
        self.attn = NanoAttention(c)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(c.d_model, c.d_ff, bias=c.bias),
                "c_proj": nn.Linear(c.d_ff, c.d_model, bias=c.bias),
            }
        )

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class NanoGPT(nn.Module):
    """GPT-2 with the head's table tied; the loss is torch's cross_entropy of all logits."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        parts = {
            "wte": nn.Embedding(c.vocab_size, c.d_model),
            "wpe": nn.Embedding(c.context_length, c.d_model),
            "h": nn.ModuleList(NanoBlock(c) for _ in range(c.n_layers)),
            "ln_f": nn.LayerNorm(c.d_model, bias=c.bias),
        }
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(c.d_model, c.vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight
        for name, p in self.named_parameters():
            if p.ndim == 2:  # matrices that write into the residual stream start smaller
                scale = (2 * c.n_layers) ** 0.5 if name.endswith("c_proj.weight") else 1
                nn.init.normal_(p, std=0.02 / scale)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids, targets=None):
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.transformer["wte"](ids) + self.transformer["wpe"](places)
        for block in self.transformer["h"]:
            x = block(x)
        x = self.transformer["ln_f"](x)
        if targets is None:
            return self.lm_head(x[:, [-1]]), None
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    @torch.no_grad()
    def generate(self, ids, max_new_tokens, temperature=1.0, top_k=None):
        """Every token reads the whole text anew: nanoGPT has no cache."""
        for _ in range(max_new_tokens):
            probabilities = F.softmax(self(ids)[0][:, -1] / temperature, dim=-1)
            ids = torch.cat([ids, torch.multinomial(probabilities, 1)], 1)
        return ids


def nanogpt(config: ModelConfig, path: Path | None = None) -> nn.Module:
    """The model written anew, or that of nanoGPT's own model.py in the folder `path`."""
    if path is None:
        return NanoGPT(config)
    spec = importlib.util.spec_from_file_location("nanogpt_model", path / "model.py")
    if spec is None or spec.loader is None or not (path / "model.py").exists():
        raise ValueError(f"--nanogpt {path}: there is no model.py; give the folder of nanoGPT's repository")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs = module.GPTConfig(
        block_size=config.context_length,
        vocab_size=config.vocab_size,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_embd=config.d_model,
        dropout=0.0,
        bias=config.bias,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        return module.GPT(theirs)


def hugging_face(config: ModelConfig) -> nn.Module:
    """GPT-2 with torch's fused attention and the exact GELU, as in the other two."""
    # imported here, because nanoGPT's process need not wait for it
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_embd=config.d_model,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_inner=config.d_ff,
        activation_function="gelu",
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    return GPT2LMHeadModel(theirs)


@torch.no_grad()
def give(ours: Transformer, theirs: nn.Module) -> None:
    """Put llmcore's weights into a peer. Hugging Face's matrices are (in, out), nn.Linear's transposed."""
    as_ours = type(theirs).__name__ == "GPT2LMHeadModel"
    own = dict(theirs.named_parameters())

    def put(name: str, *parts: nn.Parameter) -> None:
        matrix, table = parts[0].ndim == 2, name[0] == "w"
        turned = [p.T if matrix and not table and not as_ours else p for p in parts]
        own[f"transformer.{name}"].copy_(torch.cat(turned, 1 if matrix and as_ours else 0))

    put("wte.weight", ours.embedding.table)
    put("wpe.weight", ours.embedding.position.table)
    for i, block in enumerate(ours.decoder.blocks):
        a, f = block.attention, block.feed_forward
        for kind in ("weight", "bias"):
            put(f"h.{i}.attn.c_attn.{kind}", *(getattr(m, kind) for m in (a.W_q, a.W_k, a.W_v)))
            put(f"h.{i}.attn.c_proj.{kind}", getattr(a.W_o, kind))
            put(f"h.{i}.mlp.c_fc.{kind}", getattr(f.up, kind))
            put(f"h.{i}.mlp.c_proj.{kind}", getattr(f.down, kind))
            put(f"h.{i}.ln_1.{kind}", getattr(block.attention_norm, kind))
            put(f"h.{i}.ln_2.{kind}", getattr(block.feed_forward_norm, kind))
    for kind in ("weight", "bias"):
        put(f"ln_f.{kind}", getattr(ours.decoder.norm, kind))


class MinBPE:
    """minbpe's two algorithms.

    Learning counts all pairs anew for every merge; encoding merges the lowest pair until none is left.
    """

    def __init__(self, merges: dict[tuple[int, int], int], pattern: str):
        self.merges, self.pattern = merges, regex.compile(pattern)

    @staticmethod
    def merge(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
        out, i = [], 0
        while i < len(ids):
            if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
                out.append(new)
                i += 2
            else:
                out.append(ids[i])
                i += 1
        return out

    @classmethod
    def train(cls, text: str, merges: int, pattern: str) -> "MinBPE":
        """Every chunk of the text is kept, also where it occurs again."""
        chunks = [list(chunk.encode()) for chunk in regex.findall(pattern, text)]
        learned = {}
        for new in range(256, 256 + merges):
            counts: Counter[tuple[int, int]] = Counter()
            for chunk in chunks:
                for pair in itertools.pairwise(chunk):
                    counts[pair] += 1
            best = max(counts, key=counts.__getitem__)
            chunks = [cls.merge(chunk, best, new) for chunk in chunks]
            learned[best] = new
        return cls(learned, pattern)

    def encode(self, text: str) -> list[int]:
        out = []
        for chunk in self.pattern.findall(text):
            ids = list(chunk.encode())
            while len(ids) > 1:
                pair = min(set(itertools.pairwise(ids)), key=lambda p: self.merges.get(p, float("inf")))
                if pair not in self.merges:
                    break
                ids = self.merge(ids, pair, self.merges[pair])
            out.extend(ids)
        return out
