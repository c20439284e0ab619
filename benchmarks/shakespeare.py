"""nanoGPT's small character-level run on tiny Shakespeare, by its own loop and by `python -m llmcore train`.

4 layers, 4 heads, d 128, context 64, batch 12, 2,000 steps, no dropout, no biases; AdamW (betas 0.9, 0.99,
decay 0.1 of matrices), clipped at 1, 100 steps of warm-up to 1e-3, a cosine down to 1e-4, every 250 steps an
estimate of the loss: the command of nanoGPT's README for a computer without a GPU, which reports a validation
loss of 1.88. Time and loss are compared; both losses are taken over the same held-out tenth.

python benchmarks/shakespeare.py TEXT [NANOGPT] is the peer's process; bench.py starts it and llmcore's in
turn.
"""

import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from peers import nanogpt
from torch.nn import functional as F

from llmcore.config import GPT2
from llmcore.data import Windows, read_tokens
from llmcore.distributed.sharded import load_model

STEPS, BATCH, CONTEXT, LR, WARMUP = 2000, 12, 64, 1e-3, 100
SIZES = {
    "n_layers": 4,
    "n_heads": 4,
    "n_kv_heads": 4,
    "d_model": 128,
    "d_ff": 512,
    "context_length": CONTEXT,
    "bias": False,
    "dropout": 0.0,
}


def learning_rate(step: int) -> float:
    """A linear rise to LR, then half a cosine down to a tenth of it."""
    if step < WARMUP:
        return LR * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / (STEPS - WARMUP)
    return 1e-4 + 0.5 * (LR - 1e-4) * (1 + math.cos(math.pi * done))


def peer(text: Path, path: Path | None) -> float:
    """nanoGPT's loop, whose batches begin anywhere; returns the loss over the whole held-out tenth."""
    torch.manual_seed(1337)
    data = text.read_text(encoding="utf-8")
    ids = {c: i for i, c in enumerate(sorted(set(data)))}
    everything = torch.tensor([ids[c] for c in data])
    cut = int(0.9 * len(data))
    parts = {"train": everything[:cut], "val": everything[cut:]}
    config = GPT2.with_(vocab_size=len(ids), feed_forward="gelu", **SIZES)
    model = nanogpt(config, path)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99), fused=True)

    def batch(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(parts[part]) - CONTEXT, (BATCH,))
        rows = torch.stack([parts[part][s : s + CONTEXT + 1] for s in starts])
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        if step % 250 == 0:
            with torch.no_grad():
                for part in parts:
                    sum(float(model(*batch(part))[1]) for _ in range(20))
        loss = model(*batch("train"))[1]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    total = count = 0
    with torch.no_grad():
        for b in Windows(parts["val"].numpy(), CONTEXT, BATCH, len(ids)).once():
            total += float(model(b.ids.contiguous(), b.targets.contiguous())[1]) * b.targets.numel()
            count += b.targets.numel()
    return total / count


def ours(text: Path, out: Path) -> None:
    """The same through the command line.

    Weights start with a deviation of 1 / sqrt(d_model), llmcore's advice for small models.
    """
    settings = [f"{k}={v}" for k, v in {**SIZES, "feed_forward": "gelu", "init_std": 0.08}.items()]
    options = {
        "corpus": text,
        "level": "char",
        "out": out,
        "preset": "gpt2",
        "steps": STEPS,
        "batch-size": BATCH,
        "lr": LR,
        "warmup": WARMUP,
        "optimizer": "adamw_fused",
        "beta2": 0.99,
        "eval-every": 250,
        "eval-batches": 20,
        "checkpoint-every": 0,
        "seed": 1337,
    }
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "llmcore", "train", *given, "--set", *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # errors are still shown


@torch.no_grad()
def held_out_loss(out: Path) -> float:
    tokens, vocab_size = read_tokens(out / "held-out.bin")
    model = load_model(out).eval()
    total = count = 0
    for batch in Windows(tokens, CONTEXT, BATCH, vocab_size).once():
        logits = model(batch.ids).flatten(0, 1)
        total += float(F.cross_entropy(logits, batch.targets.flatten(), reduction="sum"))
        count += batch.targets.numel()
    return total / count


def run(text: Path, path: Path | None, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds of the whole process, held-out loss) of each, in turn."""
    results: dict[str, list[tuple[float, float]]] = {"llmcore": [], "nanoGPT": []}
    for _ in range(rounds):
        start = time.perf_counter()
        command = [sys.executable, __file__, str(text), *([str(path)] if path else [])]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results["nanoGPT"].append((time.perf_counter() - start, float(printed)))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            ours(text, Path(folder))
            results["llmcore"].append((time.perf_counter() - start, held_out_loss(Path(folder))))
        print("Shakespeare", {n: f"{r[-1][0]:.1f} s, {r[-1][1]:.3f}" for n, r in results.items()}, flush=True)
    return results


if __name__ == "__main__":
    print(peer(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
