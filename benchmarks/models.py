"""Training and generation: llmcore beside nanoGPT and Hugging Face, the same weights in all three.

python benchmarks/models.py memory llmcore "GPT-2 124M" prints one peer's peak memory; bench.py calls it, a process each, because a
process's largest resident size never falls.
"""

import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import Ratio, interleaved
from peers import give, hugging_face, nanogpt
from torch import Tensor, nn
from torch.nn import functional as F

from llmcore.config import GPT2, ModelConfig
from llmcore.model import Transformer
from llmcore.roofline import measure, mfu
from llmcore.sampling import complete

# All three use the exact GELU (nanoGPT's; GPT-2's own is the tanh form) and no dropout, so that they do the same work.
BASE = GPT2.with_(dropout=0.0, feed_forward="gelu")
# name: config, batch, tokens of a training step
SIZES: dict[str, tuple[ModelConfig, int, int]] = {
    "d 128 x 4 layers": (
        BASE.with_(d_model=128, n_layers=4, n_heads=4, d_ff=512, vocab_size=1024, context_length=256),
        16,
        256,
    ),
    "d 384 x 6 layers": (
        BASE.with_(d_model=384, n_layers=6, n_heads=6, d_ff=1536, vocab_size=8192, context_length=256),
        8,
        256,
    ),
    "GPT-2 124M": (BASE, 2, 512),
}
PEERS = ("llmcore", "nanoGPT", "Hugging Face")
PROMPT, NEW = 32, 64


def make(name: str, config: ModelConfig, path: Path | None) -> nn.Module:
    if name == "llmcore":
        return Transformer(config)
    return nanogpt(config, path) if name == "nanoGPT" else hugging_face(config)


def rounds_of(config: ModelConfig, rounds: int) -> int:
    """More rounds of what is quick, so that each size is measured for about as long."""
    return rounds * (1 if config.d_model >= 768 else 4 if config.d_model >= 384 else 16)


def loss_of(name: str, model: nn.Module, ids: Tensor) -> Tensor:
    """The mean next-token loss, as each is used: llmcore and nanoGPT make it themselves, Hugging Face's logits go to torch's loss."""
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    if name == "llmcore":
        return model(x, targets=y) / y.numel()
    return (
        model(x, y)[1] if name == "nanoGPT" else F.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())
    )


def stepper(
    name: str, model: nn.Module, ids: Tensor, dtype: torch.dtype | None, compiled: bool
) -> Callable[[], float]:
    """One update: loss, gradients, torch's fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    called = torch.compile(model) if compiled else model

    def step() -> float:
        with torch.autocast(ids.device.type, dtype, enabled=dtype is not None):
            loss = loss_of(name, called, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def all_three(config: ModelConfig, path: Path | None, device: torch.device) -> dict[str, nn.Module]:
    """The same weights in all; asserts that they give the same loss."""
    made = {name: make(name, config, path) for name in PEERS}
    for name in PEERS[1:]:
        give(made["llmcore"], made[name])
    ids = torch.randint(config.vocab_size, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        losses = [float(loss_of(name, model.eval(), ids)) for name, model in made.items()]
    assert max(losses) - min(losses) < 1e-4, f"the peers compute different losses: {losses}"
    return {name: model.train().to(device) for name, model in made.items()}


def show(title: str, row: dict[str, Any]) -> None:
    print(
        title,
        {n: round(r, 1) for n, r in row["tokens/s"].items()},
        {n: str(r) for n, r in row["ratio"].items()},
        flush=True,
    )


def training(device: torch.device, rounds: int, path: Path | None, sizes: list[str]) -> list[dict[str, Any]]:
    """Tokens a second of one step, ratio to each peer, and the share of the measured rate of a large product (MFU)."""
    dtype, compiled = (torch.bfloat16, True) if device.type == "cuda" else (None, False)
    rows = []
    for size in sizes:
        config, batch, tokens = SIZES[size]
        if device.type == "cuda":
            batch, tokens = 16, config.context_length
        ids = torch.randint(
            config.vocab_size, (batch, tokens + 1), generator=torch.Generator().manual_seed(0)
        ).to(device)
        made = all_three(config, path, device)
        taken = interleaved(
            {n: stepper(n, m, ids, dtype, compiled) for n, m in made.items()},
            rounds_of(config, rounds),
            device,
        )
        gemm = measure(device, dtype or torch.float32).flops
        medians = {n: statistics.median(s) for n, s in taken.items()}
        rows.append(
            {
                "size": size, "batch x tokens": f"{batch} x {tokens}", "gemm": gemm,
                "tokens/s": {n: batch * tokens / m for n, m in medians.items()},
                "mfu": {n: mfu(config, batch, tokens, m, gemm) for n, m in medians.items()},
                "ratio": {n: Ratio.of(taken["llmcore"], taken[n]) for n in PEERS[1:]},
            }
        )  # fmt: skip
        show(size, rows[-1])
    return rows


def resident_peak(reset: bool = False) -> int:
    """The largest resident size of this process, in bytes. Linux can forget the peak of the imports; elsewhere it stays in."""
    if reset and sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    if sys.platform == "linux":
        line = next(
            line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory(name: str, size: str, device: torch.device, path: Path | None) -> int:
    """Bytes at the peak of three steps, above what the process held before the model was made."""
    config, batch, tokens = SIZES[size]
    before = resident_peak(reset=True)
    ids = torch.randint(config.vocab_size, (batch, tokens + 1)).to(device)
    step = stepper(name, make(name, config, path).to(device), ids, None, False)
    for _ in range(3):
        step()
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else resident_peak() - before


def writers(made: dict[str, nn.Module], ids: Tensor, greedy: bool) -> dict[str, Callable[[], Any]]:
    """NEW tokens after the same prompt, by each. nanoGPT always draws."""
    ours, nano, theirs = (made[n].eval() for n in PEERS)
    options = {
        "use_cache": True,
        "pad_token_id": 0,
        "do_sample": not greedy,
        **({} if greedy else {"top_k": 0}),
    }
    seen = torch.ones_like(ids)
    return {
        "llmcore": lambda: complete(ours, ids.tolist(), NEW, greedy=greedy, seed=0),
        "nanoGPT": lambda: nano.generate(ids, NEW),
        "Hugging Face": lambda: theirs.generate(
            ids, attention_mask=seen, max_new_tokens=NEW, min_new_tokens=NEW, **options
        ),
    }


def generation(
    device: torch.device, rounds: int, path: Path | None, sizes: list[str]
) -> list[dict[str, Any]]:
    """New tokens a second after a prompt of 32; at a batch of one each new token reads every weight once, so bandwidth bounds it."""
    rows = []
    for size in sizes:
        config = SIZES[size][0]
        made = all_three(config, path, device)
        weights = sum(p.nbytes for n, p in made["llmcore"].named_parameters() if "position" not in n)
        ids = torch.randint(config.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(0)).to(
            device
        )
        for choice in ("greedy", "drawn"):
            work = writers(made, ids, choice == "greedy")
            if choice == "greedy":
                assert work["llmcore"]()[0] == work["Hugging Face"]()[0, PROMPT:].tolist(), (
                    "the greedy texts differ"
                )
            taken = interleaved(work, rounds_of(config, rounds), device)
            rate = {n: NEW / statistics.median(s) for n, s in taken.items()}
            bound = measure(device).bandwidth / weights
            rows.append(
                {
                    "size": size, "choice": choice, "tokens/s": rate, "bound": bound, "share": {n: r / bound for n, r in rate.items()},
                    "ratio": {n: Ratio.of(taken["llmcore"], taken[n]) for n in PEERS[1:]},
                }
            )  # fmt: skip
            show(f"{size}, {choice}", rows[-1])
    return rows


if __name__ == "__main__":
    assert sys.argv[1] == "memory"
    where = Path(sys.argv[5]) if len(sys.argv) > 5 else None
    print(memory(sys.argv[2], sys.argv[3], torch.device(sys.argv[4]), where))
