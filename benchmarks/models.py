"""Training and generation: llmcore beside nanoGPT and Hugging Face, the same weights in all three.

python benchmarks/models.py memory llmcore "GPT-2 124M" cpu prints one peer's peak memory. bench.py starts a
process for each peer, because a process's largest resident size never falls.
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

# All three use the exact GELU (nanoGPT's; GPT-2's own is the tanh form) and no dropout, to do the same work.
BASE = GPT2.with_(dropout=0.0, feed_forward="gelu")
TINY = BASE.with_(d_model=128, n_layers=4, n_heads=4, d_ff=512, vocab_size=1024, context_length=256)
SMALL = BASE.with_(d_model=384, n_layers=6, n_heads=6, d_ff=1536, vocab_size=8192, context_length=256)
# name: config, batch, tokens of a training step
SIZES: dict[str, tuple[ModelConfig, int, int]] = {
    "d 128 x 4 layers": (TINY, 16, 256),
    "d 384 x 6 layers": (SMALL, 8, 256),
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
    """The mean next-token loss, as each peer is used.

    llmcore and nanoGPT compute it themselves; Hugging Face's logits go to torch's loss.
    """
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    if name == "llmcore":
        return model(x, targets=y) / y.numel()
    if name == "nanoGPT":
        return model(x, y)[1]
    return F.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())


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
    rates = {n: round(r, 1) for n, r in row["tokens/s"].items()}
    print(title, rates, {n: str(r) for n, r in row["ratio"].items()}, flush=True)


def random_ids(config: ModelConfig, *shape: int) -> Tensor:
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0))


def training(device: torch.device, rounds: int, path: Path | None, sizes: list[str]) -> list[dict[str, Any]]:
    """Tokens per second of a step, the ratio to each peer, and MFU.

    MFU: the share that is reached of the measured rate of a large product.
    """
    dtype, compiled = (torch.bfloat16, True) if device.type == "cuda" else (None, False)
    rows = []
    for size in sizes:
        config, batch, tokens = SIZES[size]
        if device.type == "cuda":
            batch, tokens = 16, config.context_length
        ids = random_ids(config, batch, tokens + 1).to(device)
        made = all_three(config, path, device)
        steps = {n: stepper(n, m, ids, dtype, compiled) for n, m in made.items()}
        taken = interleaved(steps, rounds_of(config, rounds), device)
        gemm = measure(device, dtype or torch.float32).flops
        medians = {n: statistics.median(s) for n, s in taken.items()}
        row = {
            "size": size,
            "batch x tokens": f"{batch} x {tokens}",
            "gemm": gemm,
            "tokens/s": {n: batch * tokens / m for n, m in medians.items()},
            "mfu": {n: mfu(config, batch, tokens, m, gemm) for n, m in medians.items()},
            "ratio": {n: Ratio.of(taken["llmcore"], taken[n]) for n in PEERS[1:]},
        }
        rows.append(row)
        show(size, row)
    return rows


def resident_peak(reset: bool = False) -> int:
    """The largest resident size of this process so far, in bytes.

    reset: forget the peak of the imports first, which only Linux can.
    """
    if sys.platform == "linux":
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
    options = {"use_cache": True, "pad_token_id": 0, "do_sample": not greedy}
    options |= {"attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "min_new_tokens": NEW}
    if not greedy:
        options["top_k"] = 0  # draw from all tokens
    return {
        "llmcore": lambda: complete(ours, ids.tolist(), NEW, greedy=greedy, seed=0),
        "nanoGPT": lambda: nano.generate(ids, NEW),
        "Hugging Face": lambda: theirs.generate(ids, **options),
    }


def generation(
    device: torch.device, rounds: int, path: Path | None, sizes: list[str]
) -> list[dict[str, Any]]:
    """New tokens per second after the prompt, one sequence.

    Each new token then reads every weight once, so the bandwidth bounds the rate.
    """
    rows = []
    for size in sizes:
        config = SIZES[size][0]
        made = all_three(config, path, device)
        weights = sum(p.nbytes for n, p in made["llmcore"].named_parameters() if "position" not in n)
        ids = random_ids(config, 1, PROMPT).to(device)
        for choice in ("greedy", "drawn"):
            work = writers(made, ids, choice == "greedy")
            if choice == "greedy":
                same = work["llmcore"]()[0] == work["Hugging Face"]()[0, PROMPT:].tolist()
                assert same, "the greedy texts differ"
            taken = interleaved(work, rounds_of(config, rounds), device)
            rate = {n: NEW / statistics.median(s) for n, s in taken.items()}
            bound = measure(device).bandwidth / weights
            row = {
                "size": size,
                "choice": choice,
                "tokens/s": rate,
                "bound": bound,
                "share": {n: r / bound for n, r in rate.items()},
                "ratio": {n: Ratio.of(taken["llmcore"], taken[n]) for n in PEERS[1:]},
            }
            rows.append(row)
            show(f"{size}, {choice}", row)
    return rows


if __name__ == "__main__":
    assert sys.argv[1] == "memory"
    where = Path(sys.argv[5]) if len(sys.argv) > 5 else None
    print(memory(sys.argv[2], sys.argv[3], torch.device(sys.argv[4]), where))
