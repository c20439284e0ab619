"""python -m llmcore tokenize|train|sample: the library's own functions on real files.

tokenize  learn a byte-pair vocabulary from a text and save it, or show how a text is cut
train     learn to predict the next token of a text; checkpoints go to a folder
sample    let a trained model continue a prompt

A text is a path, a URL, or a name: fables, fables.en, fables.zh, shakespeare. Training also starts under torchrun, on one
machine or many:
python -m torch.distributed.run --nproc-per-node=2 -m llmcore train --plan fsdp ...
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from llmcore import checkpoint, device
from llmcore.config import PRESETS, ModelConfig
from llmcore.corpus import END, open_text, read_text
from llmcore.data import Windows, read_pieces, read_tokens, write_tokens
from llmcore.distributed import parallel, sharded
from llmcore.distributed.parallel import KINDS
from llmcore.files import check_writable, text_of
from llmcore.model import Transformer
from llmcore.optim import OPTIMIZERS, SCHEDULES
from llmcore.sampling import RULES, generate
from llmcore.tokenizer import SPLIT_PATTERNS, BPETokenizer, CharTokenizer, Tokenizer, load
from llmcore.tokenizer.base import in_no_entry
from llmcore.trainer import TrainConfig, Trainer

TOKENIZER = "tokenizer.json"
LEVELS: dict[str, Callable[[Iterable[str], int], Tokenizer]] = {
    "bpe": lambda texts, vocab_size: BPETokenizer.train(texts, vocab_size, [END]),
    "char": lambda texts, vocab_size: CharTokenizer.train(texts, special_tokens=[END]),
}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llmcore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    shown = argparse.ArgumentDefaultsHelpFormatter

    add = commands.add_parser("tokenize", help="learn a vocabulary, or show a text's tokens", formatter_class=shown).add_argument
    add("--corpus", help="learn from this text")
    add("--vocab-size", type=int, default=4096, help="256 bytes + merges + the end-of-text token")
    add("--pattern", choices=list(SPLIT_PATTERNS), default="gpt4-han", help="how a text is cut into chunks first")
    add("--out", type=Path, help="where the learned vocabulary is saved")
    add("--tokenizer", type=Path, help="show how this saved vocabulary cuts --text")
    add("--text", help="the text to cut; - reads standard input")

    add = commands.add_parser("train", help="train a decoder on a text", formatter_class=shown).add_argument
    add("--corpus", required=True, help="the text to learn; a tenth at its end is held out")
    add("--tokenizer", type=Path, help="a saved vocabulary; without it one of --vocab-size is learned")
    add("--level", choices=list(LEVELS), default="bpe", help="what a learned vocabulary holds: byte pairs or single characters")
    add("--vocab-size", type=int, default=1024, help="of byte pairs that are learned")
    add("--out", type=Path, required=True, help="folder for tokens, vocabulary and checkpoints; resumes if it holds one")
    add("--preset", choices=[n for n, c in PRESETS.items() if c.family == "decoder"], default="small", help="the model's config")
    add("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="change fields of the config, e.g. n_layers=6 d_model=256")
    add("--steps", type=int, default=1000, help="updates")
    add("--batch-size", type=int, default=32, help="windows an update, of all processes together")
    add("--accumulation", type=int, default=1, help="batches an update")
    add("--lr", type=float, default=2e-3, help="the highest learning rate")
    add("--warmup", type=int, default=50, help="steps of rising learning rate")
    add("--schedule", choices=list(SCHEDULES), default="warmup_cosine", help="how the learning rate goes on")
    add("--optimizer", choices=[n for n in OPTIMIZERS if n != "sgd"], default="adamw", help="adamw_fused: torch's, in one kernel")
    add("--beta2", type=float, default=0.95, help="how long AdamW remembers squares of gradients")
    add("--weight-decay", type=float, default=0.1, help="share of each matrix taken away, times lr, an update")
    add("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="type of the matrix products")
    add("--compile", action="store_true", help="torch.compile the model")
    add("--plan", choices=list(KINDS), default="ddp", help="under torchrun: how the processes share the work")
    add("--tensor", type=int, default=0, help="neighbouring processes that cut each matrix; 0: all for tp, 2 for fsdp+tp")
    add("--eval-every", type=int, default=100, help="steps between losses on held-out text")
    add("--eval-batches", type=int, default=0, help="held-out batches an evaluation reads; 0 all")
    add("--patience", type=int, default=0, help="stop after so many evaluations without a better loss; 0 never")
    add("--checkpoint-every", type=int, default=200, help="steps between checkpoints")
    add("--seed", type=int, default=0, help="of weights, dropout and the order of windows")

    add = commands.add_parser("sample", help="continue a prompt", formatter_class=shown).add_argument
    add("run", type=Path, help="a folder that train wrote")
    add("--prompt", default="", help="empty: begin a text")
    add("--tokens", type=int, default=100, help="at most so many new tokens")
    add("--greedy", action="store_true", help="always the most probable token")
    add("--temperature", type=float, help="below 1 bolder towards the probable, above 1 wilder")
    add("--top-k", type=int, help="only the k most probable tokens")
    add("--top-p", type=float, help="only the most probable tokens that hold this probability together")
    add("--min-p", type=float, help="only tokens at least this share as probable as the most probable")
    add("--repetition-penalty", type=float, help="above 1: tokens already there become less probable")
    add("--seed", type=int, default=0, help="the same seed, the same text")
    return parser


def tokenize(options: argparse.Namespace) -> None:
    if options.corpus:
        learned = BPETokenizer.train(pieces(options.corpus), options.vocab_size, [END], options.pattern, progress=True)
        if options.out is None:
            raise ValueError("--corpus without --out: say where to save the vocabulary")
        learned.save(options.out)
        print(f"{len(learned)} tokens -> {options.out}")
    elif options.tokenizer and options.text is not None:
        tokenizer = load(options.tokenizer)
        text = text_of(sys.stdin.buffer.read(), "standard input") if options.text == "-" else options.text
        for id_ in tokenizer.encode(text, "all"):
            print(f"{id_}\t{tokenizer.token(id_)!r}")
    else:
        raise ValueError("tokenize needs --corpus and --out to learn, or --tokenizer and --text to show")


def changed(config: ModelConfig, settings: list[str]) -> ModelConfig:
    """The config with FIELD=VALUE applied; ValueError names a field that does not exist."""
    known = {f.name for f in fields(ModelConfig)}
    changes = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            raise ValueError(f"--set {setting}: use FIELD=VALUE with one of {sorted(known)}")
        now = getattr(config, name)
        if isinstance(now, bool):
            if value.lower() not in ("true", "false"):
                raise ValueError(f"--set {setting}: {name} is true or false")
            changes[name] = value.lower() == "true"
        else:
            changes[name] = type(now)(value)
    return config.with_(**changes)


def pieces(source: str) -> Iterator[str]:
    """The text of a corpus piece by piece: a file of any size is never in memory as a whole."""
    if source in ("fables", "fables.en", "fables.zh"):
        yield read_text(source)
        return
    path, empty = open_text(source), True
    for piece in read_pieces(path):
        empty = empty and not piece.strip()
        yield piece
    if empty:
        raise ValueError(f"{source} is empty: there is nothing to learn from")


def between(parts: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """Characters start .. stop of the parts' concatenation.

    >>> list(between(["abc", "def", "ghi"], 2, 5))
    ['c', 'de']
    """
    at = 0
    for part in parts:
        if at < stop and at + len(part) > start:
            yield part[max(0, start - at) : stop - at]
        at += len(part)


def prepare(options: argparse.Namespace) -> None:
    """Vocabulary and token files of a run's folder, made once."""
    check_writable(options.out)
    if (options.out / "held-out.bin.json").exists():
        return
    total = sum(map(len, pieces(options.corpus)))
    cut = int(total * 0.9)
    tokenizer: Tokenizer = (
        load(options.tokenizer)
        if options.tokenizer
        else LEVELS[options.level](between(pieces(options.corpus), 0, cut), options.vocab_size)
    )
    tokenizer.save(options.out / TOKENIZER)
    for name, start, stop in (("train", 0, cut), ("held-out", cut, total)):
        part, unknown = between(pieces(options.corpus), start, stop), Counter[str]()
        ids = tokenizer.encode_iterable(part, "all", unknown)
        write_tokens(options.out / f"{name}.bin", ids, len(tokenizer))
        if unknown:
            print(f"{name} part: {in_no_entry(unknown)}", file=sys.stderr)


def train(options: argparse.Namespace) -> None:
    rank, place, plan = int(os.environ.get("RANK", 0)), device.pick(), None
    if "WORLD_SIZE" in os.environ:  # started by torchrun
        place = parallel.start(place)
        plan = parallel.Parallel(options.plan, options.tensor)
    elif options.plan != "ddp" or options.tensor:
        raise ValueError(f"--plan {options.plan} without torchrun: start with python -m torch.distributed.run -m llmcore train ...")
    try:
        if rank == 0:
            prepare(options)
        if plan:
            dist.barrier()
        tokens, vocab_size = read_tokens(options.out / "train.bin")
        held_out, _ = read_tokens(options.out / "held-out.bin")
        config = changed(PRESETS[options.preset], [f"vocab_size={vocab_size}", *options.set])
        device.seed(options.seed)
        model = Transformer(config).to(place)
        part, parts = (plan.data_rank, plan.data_ranks) if plan else (0, 1)
        torch.manual_seed(options.seed + part)  # the same weights on every rank, different dropout for different tokens
        settings = TrainConfig(
            steps=options.steps, lr=options.lr, weight_decay=options.weight_decay, schedule=options.schedule,
            warmup=options.warmup, accumulation=options.accumulation, precision=options.precision, compile=options.compile,
            optimizer=options.optimizer, betas=(0.9, options.beta2), eval_batches=options.eval_batches,
            eval_every=options.eval_every, patience=options.patience, checkpoint_every=options.checkpoint_every,
        )  # fmt: skip
        windows = Windows(np.asarray(tokens), config.context_length, options.batch_size, vocab_size, options.seed, True, part, parts)
        count = max(1, (len(held_out) - 1) // config.context_length)
        held = Windows(np.asarray(held_out), config.context_length, min(options.batch_size, count), vocab_size)
        trainer = Trainer(model, windows, settings, held, options.out, progress=None if rank == 0 else False, plan=plan)
        if checkpoint.checkpoints(options.out):
            trainer.resume()
        for record in trainer.run():
            if rank == 0 and record.eval_loss is not None:
                print(
                    f"step {record.step}  loss {record.loss:.3f}  held out {record.eval_loss:.3f}  lr {record.lr:.1e}  "
                    f"{record.tokens_per_second:,.0f} tokens/s",
                    flush=True,
                )
        last = checkpoint.checkpoints(options.out)
        if not last or not last[-1].name.endswith(f"{trainer.step:08d}"):
            trainer.save()
    finally:
        if plan:
            dist.destroy_process_group()


def sample(options: argparse.Namespace) -> None:
    tokenizer = load(options.run / TOKENIZER)
    model = sharded.load_model(options.run).to(device.pick())
    end = tokenizer.special_tokens.get(END)
    prompt = tokenizer.encode(options.prompt, "all") or ([end] if end is not None else [])
    rules = [RULES[name](getattr(options, name)) for name in RULES if getattr(options, name) is not None]
    ids: list[int] = []
    shown = options.prompt
    print(shown, end="", flush=True)
    for step in generate(model, [prompt], options.tokens, rules=rules, greedy=options.greedy, eos=end, seed=options.seed):
        if bool(step.finished.all()):
            break
        ids.append(int(step.ids[0]))
        text = options.prompt + tokenizer.decode(ids)
        if not text.endswith("\ufffd"):  # half a character: wait for the rest
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print()


def main(argv: list[str] | None = None) -> int:
    """Run one command; a mistake of the caller is one line on standard error and status 2."""
    options = arguments().parse_args(argv)
    try:
        {"tokenize": tokenize, "train": train, "sample": sample}[options.command](options)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"llmcore {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
