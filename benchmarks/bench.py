"""make bench: llmcore beside nanoGPT, Hugging Face, tiktoken, rustbpe, sentencepiece and minbpe.

make bench TEXT="english.txt" SHAKESPEARE=tinyshakespeare.txt NANOGPT=path/of/nanoGPT DEVICE=cpu ROUNDS=8

Writes benchmarks/RESULTS.md. Without TEXT the tokenizers read made text (words of random letters); without
SHAKESPEARE the text is downloaded once. PARTS="training generation" runs some parts and keeps the last
results of the others.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import models
import shakespeare
import tokenizing
import torch
from machine import Ratio, describe
from report import draw, report

from llmcore import corpus, device
from llmcore.roofline import measure as roofs

HERE = Path(__file__).resolve().parent
PARTS = ("training", "memory", "generation", "tokenizers", "shakespeare")


def measure(options: argparse.Namespace, place: torch.device) -> dict[str, Any]:
    """Every part asked for, as plain numbers and texts."""
    found: dict[str, Any] = {}
    path = options.nanogpt
    if "training" in options.parts:
        found["training"] = models.training(place, options.rounds, path, options.sizes)
    if "memory" in options.parts:
        found["memory"] = peak_memory(options, place)
        print(*found["memory"], sep="\n", flush=True)
    if "generation" in options.parts:
        found["generation"] = models.generation(place, options.rounds, path, options.sizes)
    if "tokenizers" in options.parts:
        found["tokenizers"] = tokenizers(options)
        print(found["tokenizers"], flush=True)
    if "shakespeare" in options.parts:
        text_file = options.shakespeare or corpus.shakespeare()
        found["shakespeare"] = shakespeare.run(text_file, path, options.runs)
    limits = roofs(place)
    machine = {
        **describe(place),
        "date": str(datetime.date.today()),
        "gemm": limits.flops,
        "bandwidth": limits.bandwidth,
        "nanoGPT": "its own model.py" if path else "written anew (benchmarks/peers.py)",
    }
    return {part: {"machine": machine, "rows": rows} for part, rows in found.items()}


def peak_memory(options: argparse.Namespace, place: torch.device) -> list[dict[str, Any]]:
    """Bytes of each peer at each size, each in a process of its own: a process's peak never falls."""

    def peak(name: str, size: str) -> int:
        command = [sys.executable, str(HERE / "models.py"), "memory", name, size, str(place)]
        if options.nanogpt:
            command.append(str(options.nanogpt))
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return [{"size": s, "bytes": {n: peak(n, s) for n in models.PEERS}} for s in options.sizes]


def tokenizers(options: argparse.Namespace) -> dict[str, Any]:
    text = "\n".join(p.read_text(encoding="utf-8") for p in options.text) or tokenizing.made_text(5)
    names = ", ".join(p.name for p in options.text) or "made text"
    size, rounds = 8192, min(options.rounds, 5)
    return {
        "text": f"{names}, {len(text.encode()) / 1e6:.2f} MB",
        "vocab_size": size,
        "learning": tokenizing.learning(text, size, rounds),
        "encoding": tokenizing.encoding(text, options.ranks, size, rounds),
    }


def plain(value: Any) -> Any:
    """The value with every Ratio as its text, and every tuple a list: what JSON holds."""
    if isinstance(value, Ratio):
        return str(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def targets(kept: dict[str, Any]) -> list[str]:
    """The targets that this machine's results miss, in words."""
    short = []
    ratio = lambda text: float(str(text).split()[0])
    for r in kept.get("training", {}).get("rows", []):
        short += [f"training, {r['size']}: {v} of {n}'s speed" for n, v in r["ratio"].items() if ratio(v) < 1]
    for r in kept.get("memory", {}).get("rows", []):
        if r["bytes"]["llmcore"] > r["bytes"]["nanoGPT"]:
            short.append(f"memory, {r['size']}: more than nanoGPT's")
    for r in kept.get("generation", {}).get("rows", []):
        speed = r["ratio"]["Hugging Face"]
        if ratio(speed) < 1.2:
            what = f"generation, {r['size']}, {r['choice']}"
            short.append(f"{what}: {speed} of Hugging Face's speed, below 1.2")
    if "tokenizers" in kept:
        short += tokenizer_targets(kept["tokenizers"]["rows"])
    if "shakespeare" in kept:
        runs = kept["shakespeare"]["rows"]
        median = {n: [statistics.median(x) for x in zip(*r, strict=True)] for n, r in runs.items()}
        for what, ours, theirs in zip(("time", "loss"), median["llmcore"], median["nanoGPT"], strict=True):
            if ours > theirs:
                short.append(f"Shakespeare: {what} is above nanoGPT's")
    return short


def tokenizer_targets(found: dict[str, Any]) -> list[str]:
    learn, encode = found["learning"]["seconds"], found["encoding"]["mb/s"]
    slow_to_learn = learn["llmcore, backend rustbpe"] > 1.1 * learn["rustbpe"]
    slow_to_encode = encode["llmcore, backend tiktoken"] < encode["tiktoken"] / 1.1
    short = []
    if learn["llmcore"] > 4 * learn["Hugging Face"]:
        short.append("learning takes more than 4 times Hugging Face's time")
    if slow_to_learn or slow_to_encode:
        short.append("a compiled backend is more than 10 % slower than itself alone")
    if encode["llmcore"] < encode["Hugging Face"]:
        short.append("the Python encoder is slower than Hugging Face's")
    return short


def arguments() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add, sizes = parser.add_argument, list(models.SIZES)
    add("--device", type=torch.device, default=None)
    add("--rounds", type=int, default=8)
    add("--runs", type=int, default=2, help="whole runs of tiny Shakespeare")
    nanogpt = "folder of nanoGPT's repository: its model.py in place of the one written anew"
    add("--nanogpt", type=Path, help=nanogpt)
    add("--text", type=Path, nargs="*", default=[], help="files that the tokenizers read")
    add("--ranks", type=Path, help="a .tiktoken file to encode with; without it a vocabulary is learned")
    add("--shakespeare", type=Path)
    add("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    add("--sizes", nargs="*", choices=sizes, default=sizes)
    return parser


def main() -> None:
    options = arguments().parse_args()
    place = options.device or device.pick()
    store = HERE / "results" / f"results-{place.type}.json"
    kept = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    kept |= plain(measure(options, place))
    store.parent.mkdir(exist_ok=True)
    store.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    draw(kept, store.parent)
    results = HERE / ("RESULTS.md" if place.type == "cpu" else f"RESULTS-{place.type}.md")
    results.write_text(report(kept), encoding="utf-8")
    short = targets(kept)
    print(*(short or ["every target is reached"]), sep="\n")


if __name__ == "__main__":
    main()
