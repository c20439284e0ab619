"""One training step beside Hugging Face's GPT-2 of the same size: python benchmarks/step.py [--rounds 12] [--device cpu]

Both models read the same ids, compute the mean next-token loss, its gradients, and make the same AdamW update (torch's own, fused).
One interleaved run: a slow minute of the machine meets both. Printed: medians, spread, and the ratio of llmcore to Hugging Face.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmcore.config import GPT2
from llmcore.functional import cross_entropy
from llmcore.model import Transformer

SMALL = {"d_model": 128, "n_layers": 4, "n_heads": 4, "d_ff": 512, "vocab_size": 1024, "context_length": 256}
MIDDLE = {"d_model": 384, "n_layers": 6, "n_heads": 6, "d_ff": 1536, "vocab_size": 8192, "context_length": 256}
# name: changes of GPT2, batch, tokens
SIZES: dict[str, tuple[dict, int, int]] = {
    "d 128 x 4 layers": (SMALL, 16, 256),
    "d 384 x 6 layers": (MIDDLE, 8, 256),
    "GPT-2 124M": ({}, 2, 512),
}


def models(changes: dict, device: torch.device) -> dict[str, torch.nn.Module]:
    """The same config in both, without dropout, so that both do the same work."""
    config = GPT2.with_(dropout=0.0, **changes)
    theirs = GPT2Config(
        vocab_size=config.vocab_size, n_positions=config.context_length, n_embd=config.d_model, n_layer=config.n_layers,
        n_head=config.n_heads, n_inner=config.d_ff, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, use_cache=False,
    )  # fmt: skip
    made = {"llmcore": Transformer(config), "Hugging Face": GPT2LMHeadModel(theirs)}
    assert len({sum(p.numel() for p in m.parameters()) for m in made.values()}) == 1
    return {name: model.to(device) for name, model in made.items()}


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> float:
    """Seconds of one update."""
    start = time.perf_counter()
    out = model(ids[:, :-1])
    loss = cross_entropy(out if isinstance(out, torch.Tensor) else out.logits, ids[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    arguments = parser.parse_args()
    for name in arguments.sizes:
        changes, batch, tokens = SIZES[name]
        made = models(changes, arguments.device)
        vocab_size = changes.get("vocab_size", GPT2.vocab_size)
        ids = torch.randint(vocab_size, (batch, tokens + 1), generator=torch.Generator().manual_seed(0)).to(arguments.device)
        optimizers = {n: torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True) for n, m in made.items()}
        seconds: dict[str, list[float]] = {n: [] for n in made}
        for round_ in range(arguments.rounds + 1):
            for n in made if round_ % 2 else reversed(made):
                taken = step(made[n], optimizers[n], ids)
                if round_:  # the first is warm-up
                    seconds[n].append(taken)
        ratios = [theirs / ours for ours, theirs in zip(seconds["llmcore"], seconds["Hugging Face"], strict=True)]
        print(
            json.dumps(
                {
                    "size": name, "batch x tokens": [batch, tokens],
                    "tokens/s": {n: round(batch * tokens / statistics.median(s)) for n, s in seconds.items()},
                    "llmcore / Hugging Face": round(statistics.median(ratios), 3),
                    "from": round(min(ratios), 2), "to": round(max(ratios), 2),
                }
            ),
            flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
