"""Generation beside Hugging Face's GPT-2 of the same size: python benchmarks/generate.py [--rounds 6] [--device cpu]

Both continue the same prompts of 32 tokens by 64, with a cache, greedily and by drawing from the whole distribution. One interleaved
run: a slow minute of the machine meets both. Printed: medians, spread, the ratio of llmcore to Hugging Face, and the share of what
memory allows: at a batch of one, each new token reads every weight once, so tokens/s <= bandwidth / bytes of the weights.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from step import SIZES, models

from llmcore.config import GPT2
from llmcore.sampling import complete

PROMPT, NEW = 32, 64


def bandwidth(device: torch.device, size: int = 2**26) -> float:
    """Bytes a second at which one large fp32 tensor is read (summed), the best of ten."""
    x = torch.ones(size, device=device)
    return x.nbytes / min(seconds(lambda: x.sum(), device) for _ in range(10))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def runs(made: dict[str, torch.nn.Module], ids: torch.Tensor, greedy: bool) -> dict[str, Callable[[], object]]:
    """The same work by both: NEW tokens for each prompt, none of them an end."""
    prompts, ours, theirs = ids.tolist(), made["llmcore"], made["Hugging Face"].eval()
    options = {"use_cache": True, "pad_token_id": 0, "eos_token_id": None, "do_sample": not greedy, **({} if greedy else {"top_k": 0})}
    seen = torch.ones_like(ids)
    return {
        "llmcore": lambda: complete(ours, prompts, NEW, greedy=greedy, seed=0),
        "Hugging Face": lambda: theirs.generate(ids, attention_mask=seen, max_new_tokens=NEW, min_new_tokens=NEW, **options),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    arguments = parser.parse_args()
    device = arguments.device
    for name in arguments.sizes:
        changes = SIZES[name][0]
        made = models(changes, device)
        weights = sum(p.nbytes for n, p in made["llmcore"].named_parameters() if "position" not in n)
        vocab_size = changes.get("vocab_size", GPT2.vocab_size)
        for batch in arguments.batches:
            ids = torch.randint(vocab_size, (batch, PROMPT), generator=torch.Generator().manual_seed(0)).to(device)
            for greedy in (True, False):
                work = runs(made, ids, greedy)
                taken: dict[str, list[float]] = {n: [] for n in work}
                for round_ in range(arguments.rounds + 1):
                    for n in work if round_ % 2 else reversed(work):
                        s = seconds(work[n], device)
                        if round_:  # the first is warm-up
                            taken[n].append(s)
                ratios = [theirs / ours for ours, theirs in zip(taken["llmcore"], taken["Hugging Face"], strict=True)]
                rate = {n: batch * NEW / statistics.median(s) for n, s in taken.items()}
                allowed = batch * bandwidth(device) / weights
                print(
                    json.dumps(
                        {
                            "size": name, "batch": batch, "choice": "greedy" if greedy else "drawn",
                            "tokens/s": {n: round(r, 1) for n, r in rate.items()},
                            "llmcore / Hugging Face": round(statistics.median(ratios), 3),
                            "from": round(min(ratios), 2), "to": round(max(ratios), 2),
                            "share of the memory bound": {n: round(r / allowed, 2) for n, r in rate.items()},
                        }
                    ),
                    flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
