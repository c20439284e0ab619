"""make bench: llmcore beside nanoGPT, Hugging Face, tiktoken, rustbpe, sentencepiece and minbpe; writes benchmarks/RESULTS.md.

make bench TEXT="english.txt" SHAKESPEARE=tinyshakespeare.txt NANOGPT=path/of/nanoGPT DEVICE=cpu ROUNDS=8
Without TEXT the tokenizers read made text (words of random letters); without SHAKESPEARE the text is downloaded once.
PARTS="training generation" runs some parts and keeps the others' last results.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from machine import Ratio, describe

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import models
import shakespeare
import tokenizing

from llmcore import corpus, device
from llmcore.roofline import measure as roofs

HERE = Path(__file__).resolve().parent
PARTS = ("training", "memory", "generation", "tokenizers", "shakespeare")
COLOURS = {"llmcore": "#0072b2", "nanoGPT": "#e69f00", "Hugging Face": "#009e73"}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|:--" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def measure(options: argparse.Namespace, place: torch.device) -> dict[str, Any]:
    """Every part asked for, as plain numbers and texts."""
    found: dict[str, Any] = {}
    path = options.nanogpt
    if "training" in options.parts:
        found["training"] = models.training(place, options.rounds, path, options.sizes)
    if "memory" in options.parts:
        command = lambda n, s: [
            sys.executable,
            str(HERE / "models.py"),
            "memory",
            n,
            s,
            str(place),
            *([str(path)] if path else []),
        ]
        peak = lambda n, s: int(
            subprocess.run(command(n, s), check=True, capture_output=True, text=True).stdout
        )
        found["memory"] = [{"size": s, "bytes": {n: peak(n, s) for n in models.PEERS}} for s in options.sizes]
        print(*found["memory"], sep="\n", flush=True)
    if "generation" in options.parts:
        found["generation"] = models.generation(place, options.rounds, path, options.sizes)
    if "tokenizers" in options.parts:
        text = "\n".join(p.read_text(encoding="utf-8") for p in options.text) or tokenizing.made_text(5)
        size = 8192
        found["tokenizers"] = {
            "text": f"{', '.join(p.name for p in options.text) or 'made text'}, {len(text.encode()) / 1e6:.2f} MB", "vocab_size": size,
            "learning": tokenizing.learning(text, size, min(options.rounds, 5)),
            "encoding": tokenizing.encoding(text, options.ranks, size, min(options.rounds, 5)),
        }  # fmt: skip
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
    }
    machine["nanoGPT"] = "its own model.py" if path else "written anew (benchmarks/peers.py)"
    return {part: {"machine": machine, "rows": rows} for part, rows in found.items()}


def report(kept: dict[str, Any]) -> str:
    """RESULTS.md of the numbers that were kept."""
    out = ["# llmcore beside its peers", ""]
    out += [
        "Made by `make bench`. A ratio above 1 says that llmcore is faster: the median over interleaved rounds of the peer's"
    ]
    out += [
        "seconds divided by llmcore's of the same round, with its quartiles. All three models hold the same weights;"
    ]
    out += [
        "the run asserts that they give the same loss, the same greedy text, the same token ids, the same merges.",
        "",
    ]
    by_machine: dict[str, list[str]] = {}
    for part in kept:
        m = kept[part]["machine"]
        rates = f"a large fp32 product {m['gemm'] / 1e9:.0f} GFLOP/s, reading {m['bandwidth'] / 1e9:.0f} GB/s"
        line = f"{m['date']}: {m['device']}; {m['system']}; {m['versions']}; measured: {rates}; nanoGPT's model: {m['nanoGPT']}"
        by_machine.setdefault(line, []).append(part)
    out += [f"- {line} ({', '.join(parts)})" for line, parts in by_machine.items()]
    peers = models.PEERS
    if "training" in kept:
        rows = [
            [r["size"], r["batch x tokens"], *(f"{r['tokens/s'][n]:,.0f}" for n in peers), *(f"{r['mfu'][n]:.0%}" for n in peers),
             *(r["ratio"][n] for n in peers[1:])]
            for r in kept["training"]["rows"]
        ]  # fmt: skip
        head = [
            "model",
            "batch x tokens",
            *(f"{n}, tokens/s" for n in peers),
            *(f"{n}, MFU" for n in peers),
            *(f"llmcore / {n}" for n in peers[1:]),
        ]
        out += [
            "",
            "## A training step",
            "",
            "Loss, gradients, torch's fused AdamW; fp32 on a CPU, bf16 and compiled on CUDA. MFU: the step's",
        ]
        out += [
            "products, the whole square of scores counted, over the rate of one large product measured beside it.",
            "",
            table(head, rows),
        ]
        out += ["![tokens a second of a training step](results/training.svg)"]
    if "memory" in kept:
        rows = [
            [r["size"], *(f"{r['bytes'][n] / 1e6:,.0f} MB" for n in peers)] for r in kept["memory"]["rows"]
        ]
        out += [
            "",
            "## Peak memory of training",
            "",
            "A process each; three steps; above what the process held before.",
            "",
        ]
        out += [table(["model", *peers], rows)]
    if "generation" in kept:
        rows = [
            [r["size"], r["choice"], *(f"{r['tokens/s'][n]:.1f}" for n in peers), f"{r['bound']:.0f}", f"{r['share']['llmcore']:.0%}",
             f"{r['share']['Hugging Face']:.0%}", *(r["ratio"][n] for n in peers[1:])]
            for r in kept["generation"]["rows"]
        ]  # fmt: skip
        head = [
            "model",
            "choice",
            *(f"{n}, tokens/s" for n in peers),
            "bound",
            "llmcore, share",
            "Hugging Face, share",
            *(f"llmcore / {n}" for n in peers[1:]),
        ]
        out += [
            "",
            "## Generation",
            "",
            f"{models.NEW} tokens after a prompt of {models.PROMPT}, one sequence, with a cache (nanoGPT has none, and always",
        ]
        out += [
            "draws). Bound: the measured bandwidth over the bytes of the weights, each of which a new token reads once.",
            "",
            table(head, rows),
        ]
        out += ["![new tokens a second](results/generation.svg)"]
    if "tokenizers" in kept:
        t = kept["tokenizers"]["rows"]
        learn, encode = t["learning"]["seconds"], t["encoding"]["mb/s"]
        out += ["", "## Tokenizers", "", f"Text: {t['text']}; vocabulary {t['vocab_size']:,}.", ""]
        rows = [
            [n, f"{s:.2f} s" if s < 100 else f"{s:,.0f} s", f"{s / learn['llmcore']:.2f}"]
            for n, s in learn.items()
        ]
        out += [table(["learning", "seconds", "times llmcore's"], rows)]
        rows = [[n, f"{r:.2f}", f"{encode['llmcore'] / r:.2f}"] for n, r in encode.items()]
        out += [
            table(
                [
                    f"encoding, {t['encoding']['vocab_size']:,} entries",
                    "MB/s",
                    "llmcore is so many times as fast",
                ],
                rows,
            )
        ]
        out += [
            "llmcore's Python begins each round with an empty memory of chunks; Hugging Face keeps its own from round to round.",
            "",
        ]
        out += ["![seconds to learn a vocabulary, megabytes a second of encoding](results/tokenizers.svg)"]
    if "shakespeare" in kept:
        runs = kept["shakespeare"]["rows"]
        rows = [
            [n, ", ".join(f"{loss:.3f}" for _, loss in r), ", ".join(f"{s:.0f} s" for s, _ in r)]
            for n, r in runs.items()
        ]
        out += [
            "",
            "## The same run, loss and time",
            "",
            "nanoGPT's small character-level set-up on tiny Shakespeare (its README: a validation loss of 1.88),",
        ]
        out += [
            "by its loop and by `python -m llmcore train`; whole processes, in turn; losses over the same held-out tenth.",
            "",
        ]
        out += [table(["", "held-out loss, nats a character", "seconds"], rows)]
    return "\n".join(out) + "\n"


def draw(kept: dict[str, Any], folder: Path) -> None:
    """The figures that RESULTS.md shows."""
    folder.mkdir(exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "llmcore"
    for part, key, unit in (
        ("training", "tokens/s", "tokens a second"),
        ("generation", "tokens/s", "new tokens a second"),
    ):
        if part not in kept:
            continue
        rows = [r for r in kept[part]["rows"] if r.get("choice", "drawn") == "drawn"]
        figure, all_axes = plt.subplots(
            1, len(rows), figsize=(3 * len(rows), 2.6), squeeze=False, layout="constrained"
        )
        for axes, row in zip(all_axes[0], rows, strict=True):
            axes.bar(list(row[key]), list(row[key].values()), color=[COLOURS[n] for n in row[key]])
            axes.set_title(row["size"], fontsize=10)
            axes.tick_params(labelsize=8)
        all_axes[0][0].set_ylabel(unit)
        figure.savefig(folder / f"{part}.svg", metadata={"Date": None})
        plt.close(figure)
    if "tokenizers" in kept:
        t = kept["tokenizers"]["rows"]
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
        for axes, values, label in (
            (left, t["learning"]["seconds"], "seconds to learn (log scale)"),
            (right, t["encoding"]["mb/s"], "MB/s of encoding"),
        ):
            axes.barh(
                list(values)[::-1],
                list(values.values())[::-1],
                color=["#0072b2" if "llmcore" in n else "#999999" for n in list(values)[::-1]],
            )
            axes.set_xlabel(label)
            axes.tick_params(labelsize=8)
        left.set_xscale("log")
        figure.savefig(folder / "tokenizers.svg", metadata={"Date": None})
        plt.close(figure)


def plain(value: Any) -> Any:
    if isinstance(value, Ratio):
        return str(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def targets(kept: dict[str, Any]) -> list[str]:
    """What this machine's results fall short of, in words."""
    short = []
    ratio = lambda text: float(str(text).split()[0])
    for r in kept.get("training", {}).get("rows", []):
        short += [f"training, {r['size']}: {v} of {n}'s speed" for n, v in r["ratio"].items() if ratio(v) < 1]
    for r in kept.get("memory", {}).get("rows", []):
        if r["bytes"]["llmcore"] > r["bytes"]["nanoGPT"]:
            short.append(f"memory, {r['size']}: more than nanoGPT's")
    for r in kept.get("generation", {}).get("rows", []):
        if ratio(r["ratio"]["Hugging Face"]) < 1.2:
            short.append(
                f"generation, {r['size']}, {r['choice']}: {r['ratio']['Hugging Face']} of Hugging Face's speed, below 1.2"
            )
    if "tokenizers" in kept:
        t = kept["tokenizers"]["rows"]
        learn, encode = t["learning"]["seconds"], t["encoding"]["mb/s"]
        if learn["llmcore"] > 4 * learn["Hugging Face"]:
            short.append("learning takes more than 4 times Hugging Face's time")
        if (
            learn["llmcore, backend rustbpe"] > 1.1 * learn["rustbpe"]
            or encode["llmcore, backend tiktoken"] < encode["tiktoken"] / 1.1
        ):
            short.append("a compiled backend is more than 10 % slower than itself alone")
        if encode["llmcore"] < encode["Hugging Face"]:
            short.append("the Python encoder is slower than Hugging Face's")
    if "shakespeare" in kept:
        runs = {
            n: [statistics.median(x) for x in zip(*r, strict=True)]
            for n, r in kept["shakespeare"]["rows"].items()
        }
        short += [
            f"Shakespeare: {what} is above nanoGPT's"
            for i, what in enumerate(("time", "loss"))
            if runs["llmcore"][i] > runs["nanoGPT"][i]
        ]
    return short


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", type=torch.device, default=None)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--runs", type=int, default=2, help="whole runs of tiny Shakespeare")
    parser.add_argument(
        "--nanogpt",
        type=Path,
        help="folder of nanoGPT's repository: its model.py in place of the one written anew",
    )
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="what the tokenizers read")
    parser.add_argument(
        "--ranks",
        type=Path,
        help="a .tiktoken file (GPT-2's, say) for encoding; without it a vocabulary is learned",
    )
    parser.add_argument("--shakespeare", type=Path)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", nargs="*", choices=list(models.SIZES), default=list(models.SIZES))
    options = parser.parse_args()
    place = options.device or device.pick()
    name = f"results-{place.type}.json"
    store = HERE / "results" / name
    kept = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    kept |= plain(measure(options, place))
    store.parent.mkdir(exist_ok=True)
    store.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    draw(kept, store.parent)
    (HERE / ("RESULTS.md" if place.type == "cpu" else f"RESULTS-{place.type}.md")).write_text(
        report(kept), encoding="utf-8"
    )
    short = targets(kept)
    print(*(short or ["every target is reached"]), sep="\n")


if __name__ == "__main__":
    main()
