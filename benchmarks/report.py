"""RESULTS.md and its figures, from the numbers that a run of bench.py kept."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from models import NEW, PEERS, PROMPT

COLOURS = {"llmcore": "#0072b2", "nanoGPT": "#e69f00", "Hugging Face": "#009e73"}


def table(columns: dict[str, Callable[[Any], str]], rows: Iterable[Any]) -> str:
    """A Markdown table; each column has a title and says what it shows of a row."""
    lines = [f"| {' | '.join(columns)} |", "|:--" * len(columns) + "|"]
    lines += [f"| {' | '.join(show(row) for show in columns.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def for_each(names: Iterable[str], title: str, show: Callable[[Any, str], str]) -> dict[str, Any]:
    """A column for each peer: its title, with the peer in place of {}, and what it shows of a row."""
    return {title.format(n): lambda row, n=n: show(row, n) for n in names}


def report(kept: dict[str, Any]) -> str:
    """RESULTS.md of the numbers that were kept."""
    lines = [
        "# llmcore beside its peers",
        "",
        "Made by `make bench`. A ratio above 1 says that llmcore is faster: "
        "the median over interleaved rounds of the peer's",
        "seconds divided by llmcore's of the same round, with its quartiles. "
        "All three models hold the same weights;",
        "the run asserts that they give the same loss, the same greedy text, "
        "the same token ids, the same merges.",
        "",
        *machines(kept),
    ]
    for part, section in SECTIONS.items():
        if part in kept:
            lines += ["", *section(kept[part]["rows"])]
    return "\n".join(lines) + "\n"


def machines(kept: dict[str, Any]) -> list[str]:
    """A line for each machine, with the parts that were measured on it."""
    parts_of: dict[str, list[str]] = {}
    for part in kept:
        m = kept[part]["machine"]
        product, reading = f"{m['gemm'] / 1e9:.0f} GFLOP/s", f"{m['bandwidth'] / 1e9:.0f} GB/s"
        line = (
            f"{m['date']}: {m['device']}; {m['system']}; {m['versions']}; "
            f"measured: a large fp32 product {product}, reading {reading}; nanoGPT's model: {m['nanoGPT']}"
        )
        parts_of.setdefault(line, []).append(part)
    return [f"- {line} ({', '.join(parts)})" for line, parts in parts_of.items()]


def training(rows: list[dict[str, Any]]) -> list[str]:
    columns = {
        "model": lambda r: r["size"],
        "batch x tokens": lambda r: r["batch x tokens"],
        **for_each(PEERS, "{}, tokens/s", lambda r, n: f"{r['tokens/s'][n]:,.0f}"),
        **for_each(PEERS, "{}, MFU", lambda r, n: f"{r['mfu'][n]:.0%}"),
        **for_each(PEERS[1:], "llmcore / {}", lambda r, n: r["ratio"][n]),
    }
    return [
        "## A training step",
        "",
        "Loss, gradients, torch's fused AdamW; fp32 on a CPU, bf16 and compiled on CUDA. MFU: the step's",
        "products, the whole square of scores counted, "
        "over the rate of one large product measured beside it.",
        "",
        table(columns, rows),
        "![tokens a second of a training step](results/training.svg)",
    ]


def memory(rows: list[dict[str, Any]]) -> list[str]:
    columns = {
        "model": lambda r: r["size"],
        **for_each(PEERS, "{}", lambda r, n: f"{r['bytes'][n] / 1e6:,.0f} MB"),
    }
    return [
        "## Peak memory of training",
        "",
        "A process each; three steps; above what the process held before.",
        "",
        table(columns, rows),
    ]


def generation(rows: list[dict[str, Any]]) -> list[str]:
    columns = {
        "model": lambda r: r["size"],
        "choice": lambda r: r["choice"],
        **for_each(PEERS, "{}, tokens/s", lambda r, n: f"{r['tokens/s'][n]:.1f}"),
        "bound": lambda r: f"{r['bound']:.0f}",
        **for_each(("llmcore", "Hugging Face"), "{}, share", lambda r, n: f"{r['share'][n]:.0%}"),
        **for_each(PEERS[1:], "llmcore / {}", lambda r, n: r["ratio"][n]),
    }
    return [
        "## Generation",
        "",
        f"{NEW} tokens after a prompt of {PROMPT}, one sequence, with a cache (nanoGPT has none, and always",
        "draws). Bound: the measured bandwidth over the bytes of the weights, "
        "each of which a new token reads once.",
        "",
        table(columns, rows),
        "![new tokens a second](results/generation.svg)",
    ]


def tokenizers(found: dict[str, Any]) -> list[str]:
    learn, encode = found["learning"]["seconds"], found["encoding"]["mb/s"]
    learning = {
        "learning": lambda item: item[0],
        "seconds": lambda item: f"{item[1]:.2f} s" if item[1] < 100 else f"{item[1]:,.0f} s",
        "times llmcore's": lambda item: f"{item[1] / learn['llmcore']:.2f}",
    }
    encoding = {
        f"encoding, {found['encoding']['vocab_size']:,} entries": lambda item: item[0],
        "MB/s": lambda item: f"{item[1]:.2f}",
        "llmcore is so many times as fast": lambda item: f"{encode['llmcore'] / item[1]:.2f}",
    }
    return [
        "## Tokenizers",
        "",
        f"Text: {found['text']}; vocabulary {found['vocab_size']:,}.",
        "",
        table(learning, learn.items()),
        table(encoding, encode.items()),
        "llmcore's Python begins each round with an empty memory of chunks; "
        "Hugging Face keeps its own from round to round.",
        "",
        "![seconds to learn a vocabulary, megabytes a second of encoding](results/tokenizers.svg)",
    ]


def shakespeare(runs: dict[str, list[tuple[float, float]]]) -> list[str]:
    columns = {
        "": lambda item: item[0],
        "held-out loss, nats a character": lambda item: ", ".join(f"{loss:.3f}" for _, loss in item[1]),
        "seconds": lambda item: ", ".join(f"{seconds:.0f} s" for seconds, _ in item[1]),
    }
    return [
        "## The same run, loss and time",
        "",
        "nanoGPT's small character-level set-up on tiny Shakespeare (its README: a validation loss of 1.88),",
        "by its loop and by `python -m llmcore train`; whole processes, in turn; "
        "losses over the same held-out tenth.",
        "",
        table(columns, runs.items()),
    ]


SECTIONS: dict[str, Callable[[Any], list[str]]] = {
    "training": training,
    "memory": memory,
    "generation": generation,
    "tokenizers": tokenizers,
    "shakespeare": shakespeare,
}


def draw(kept: dict[str, Any], folder: Path) -> None:
    """The figures that RESULTS.md shows."""
    folder.mkdir(exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "llmcore"
    for part, unit in (("training", "tokens a second"), ("generation", "new tokens a second")):
        if part in kept:
            rows = [r for r in kept[part]["rows"] if r.get("choice", "drawn") == "drawn"]
            draw_rates(rows, unit, folder / f"{part}.svg")
    if "tokenizers" in kept:
        draw_tokenizers(kept["tokenizers"]["rows"], folder / "tokenizers.svg")


def draw_rates(rows: list[dict[str, Any]], unit: str, path: Path) -> None:
    """Tokens per second of each peer, a panel for each size of model."""
    size = 3 * len(rows), 2.6
    figure, panels = plt.subplots(1, len(rows), figsize=size, squeeze=False, layout="constrained")
    for axes, row in zip(panels[0], rows, strict=True):
        rates = row["tokens/s"]
        axes.bar(list(rates), list(rates.values()), color=[COLOURS[n] for n in rates])
        axes.set_title(row["size"], fontsize=10)
        axes.tick_params(labelsize=8)
    panels[0][0].set_ylabel(unit)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw_tokenizers(found: dict[str, Any], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
    for axes, values, label in (
        (left, found["learning"]["seconds"], "seconds to learn (log scale)"),
        (right, found["encoding"]["mb/s"], "MB/s of encoding"),
    ):
        names = list(values)[::-1]
        colours = ["#0072b2" if "llmcore" in n else "#999999" for n in names]
        axes.barh(names, [values[n] for n in names], color=colours)
        axes.set_xlabel(label)
        axes.tick_params(labelsize=8)
    left.set_xscale("log")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
