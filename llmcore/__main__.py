"""python -m llmcore tokenize|train|sample: the library's own functions on real files.

tokenize  learn a byte-pair vocabulary from a text and save it, or show how a text is cut
train     learn to predict the next token of a text; checkpoints go to a folder
sample    let a trained model continue a prompt

A text is a path, a URL, or a name: fables, fables.en, fables.zh, shakespeare. Training also starts under
torchrun, on one machine or many:
python -m torch.distributed.run --nproc-per-node=2 -m llmcore train --plan fsdp ...
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from llmcore import checkpoint, device, run
from llmcore.config import PRESETS, ModelConfig, RotaryScaling
from llmcore.corpus import END
from llmcore.data import Windows, read_tokens
from llmcore.distributed import parallel, sharded
from llmcore.distributed.parallel import KINDS
from llmcore.files import alone, check_writable, text_of
from llmcore.model import Transformer
from llmcore.optim import OPTIMIZERS, SCHEDULES
from llmcore.sampling import RULES, generate
from llmcore.tokenizer import SPLIT_PATTERNS, BPETokenizer, load
from llmcore.trainer import TrainConfig, Trainer

INTERRUPTED, PIPE_CLOSED = 130, 141  # what a shell reports of a program that SIGINT or SIGPIPE ended


def seed(text: str) -> int:
    """A whole number that python, numpy and torch all take."""
    number = int(text)
    if not 0 <= number < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text}: choose 0..2^32 - 1")
    return number


def arguments() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="llmcore", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose, add_options in (
        ("tokenize", "learn a vocabulary, or show a text's tokens", tokenize_options),
        ("train", "train a decoder on a text", train_options),
        ("sample", "continue a prompt", sample_options),
    ):
        shown = argparse.ArgumentDefaultsHelpFormatter
        add_options(commands.add_parser(name, help=purpose, formatter_class=shown).add_argument)
    return parser


def tokenize_options(add: Callable[..., Any]) -> None:
    add("--corpus", help="learn from this text")
    add("--vocab-size", type=int, default=4096, help="256 bytes + merges + the end-of-text token")
    patterns = list(SPLIT_PATTERNS)
    add("--pattern", choices=patterns, default="gpt4-han", help="how a text is cut into chunks first")
    add("--out", type=Path, help="where to save what is learned; only another vocabulary is written over")
    add("--tokenizer", type=Path, help="show how this saved vocabulary cuts --text")
    add("--text", help="the text to cut; - reads standard input")


def train_options(add: Callable[..., Any]) -> None:
    levels, schedules, plans = list(run.LEVELS), list(SCHEDULES), list(KINDS)
    decoders = [name for name, config in PRESETS.items() if config.family == "decoder"]
    optimizers = [name for name in OPTIMIZERS if name != "sgd"]
    # data and model
    add("--corpus", required=True, help="the text to learn; a tenth at its end is held out")
    add("--tokenizer", type=Path, help="a saved vocabulary; without it one of --vocab-size is learned")
    add("--level", choices=levels, default="bpe", help="learn byte pairs or single characters")
    add("--vocab-size", type=int, default=1024, help="of byte pairs that are learned")
    add("--out", type=Path, required=True, help="folder of the run; the same command again resumes it")
    add("--preset", choices=decoders, default="small", help="the model's config")
    example = "change fields of the config, e.g. n_layers=6 d_model=256"
    add("--set", nargs="*", default=[], metavar="FIELD=VALUE", help=example)
    # updates
    add("--steps", type=int, default=1000, help="updates; with a constant schedule more can follow later")
    add("--batch-size", type=int, default=32, help="windows per batch, of all processes together")
    add("--accumulation", type=int, default=1, help="batches per update")
    add("--lr", type=float, default=2e-3, help="the highest learning rate")
    add("--warmup", type=int, default=50, help="steps of rising learning rate")
    add("--schedule", choices=schedules, default="warmup_cosine", help="how the learning rate goes on")
    add("--optimizer", choices=optimizers, default="adamw", help="adamw_fused: torch's, in one kernel")
    add("--beta2", type=float, default=0.95, help="how long AdamW remembers squares of gradients")
    add("--weight-decay", type=float, default=0.1, help="times lr: share taken off each matrix per update")
    # speed
    add("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="type of the matrix products")
    add("--compile", action="store_true", help="torch.compile the model")
    add("--plan", choices=plans, default="ddp", help="under torchrun: how the processes share the work")
    cut = "neighbouring processes that cut each matrix; 0: all for tp, 2 for fsdp+tp"
    add("--tensor", type=int, default=0, help=cut)
    # evaluation and checkpoints
    add("--eval-every", type=int, default=100, help="steps between losses on held-out text")
    add("--eval-batches", type=int, default=0, help="held-out batches per evaluation; 0 all")
    patience = "stop after so many evaluations without a better loss; 0 never"
    add("--patience", type=int, default=0, help=patience)
    add("--checkpoint-every", type=int, default=200, help="steps between checkpoints")
    add("--seed", type=seed, default=0, help="of weights, dropout and the order of windows")


def sample_options(add: Callable[..., Any]) -> None:
    add("run", type=Path, help="a folder that train wrote")
    add("--prompt", default="", help="empty: begin a text")
    add("--tokens", type=int, default=100, help="at most so many new tokens")
    add("--greedy", action="store_true", help="always the most probable token, the limit of temperature 0")
    add("--temperature", type=float, help="below 1 bolder towards the probable, above 1 wilder")
    add("--top-k", type=int, help="only the k most probable tokens")
    add("--top-p", type=float, help="only the most probable tokens that hold this probability together")
    add("--min-p", type=float, help="only tokens at least this share as probable as the most probable")
    add("--repetition-penalty", type=float, help="above 1: tokens already there become less probable")
    add("--seed", type=seed, default=0, help="the same seed, the same text")


def tokenize(options: argparse.Namespace) -> None:
    if options.corpus:
        if options.out is None:
            raise ValueError("--corpus without --out: say where to save the vocabulary")
        check_vocabulary_file(options.out)
        pieces = run.pieces(run.located(options.corpus))
        learned = BPETokenizer.train(pieces, options.vocab_size, [END], options.pattern, progress=True)
        learned.save(options.out)
        print(f"{len(learned)} tokens -> {options.out}")
    elif options.tokenizer and options.text is not None:
        tokenizer = load(options.tokenizer)
        text = text_of(sys.stdin.buffer.read(), "standard input") if options.text == "-" else options.text
        for id_ in tokenizer.encode(text, "all"):
            print(f"{id_}\t{tokenizer.token(id_)!r}")
    else:
        raise ValueError("tokenize needs --corpus and --out to learn, or --tokenizer and --text to show")


def check_vocabulary_file(path: Path) -> None:
    """Refuse, before the long work, a path that cannot be written or that holds what is no vocabulary."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out {path}: {path.parent} is no folder; make it first, or choose another")
    check_writable(path.parent)
    if not path.exists():
        return
    if run.is_run(path.parent) and path.name in run.FILES:
        raise ValueError(f"--out {path} belongs to the run {path.parent}: choose another file")
    try:
        load(path)
    except (ValueError, OSError):
        raise ValueError(
            f"--out {path} exists and is no vocabulary: choose another file, or remove it first"
        ) from None


def changed(config: ModelConfig, settings: list[str]) -> ModelConfig:
    """The config with each FIELD=VALUE applied.

    ValueError for a field that does not exist, or a value that it cannot have.
    """
    known = {f.name: str(f.type) for f in fields(ModelConfig)}
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            raise ValueError(f"--set {setting}: use FIELD=VALUE with one of {sorted(known)}")
        try:
            changes[name] = VALUES.get(known[name], str)(value)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"--set {setting}: {name} is {SAID.get(known[name], 'a name')}") from None
    return config.with_(**changes)


def _scaling(text: str) -> RotaryScaling | None:
    return None if text.lower() == "none" else RotaryScaling(**json.loads(text))


# by the type of a field: how its value is read, and what the value must be
VALUES: dict[Any, Any] = {
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "RotaryScaling | None": _scaling,
}
SAID = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "RotaryScaling | None": 'none, or {"factor": 8, "low": 1, "high": 4, "original": 8192} in quotes',
}


def train(options: argparse.Namespace) -> None:
    settings = settings_of(options)
    check_model(options)
    rank, place, plan = int(os.environ.get("RANK", 0)), device.pick(), None
    if "WORLD_SIZE" in os.environ:  # started by torchrun
        place = parallel.start(place)
        plan = parallel.Parallel(options.plan, options.tensor)
    elif options.plan != "ddp" or options.tensor:
        raise ValueError(
            f"--plan {options.plan} without torchrun: "
            "start with python -m torch.distributed.run -m llmcore train ..."
        )
    try:
        with alone(options.out) if rank == 0 else contextlib.nullcontext():
            if rank == 0:
                prepare(options)
            if plan:
                dist.barrier()
            trainer = trainer_of(options, settings, place, plan, progress=None if rank == 0 else False)
            go(trainer, options.out, first=rank == 0)
    finally:
        if plan:
            dist.destroy_process_group()


def prepare(options: argparse.Namespace) -> None:
    """Vocabulary, tokens and settings in the run's folder, by one process."""
    given = options.corpus, options.tokenizer, options.level, options.vocab_size
    for remark in run.prepare(options.out, *given):
        print(remark, file=sys.stderr)
    others = {"batch_size": options.batch_size, "seed": options.seed}
    run.settle(options.out, config_of(options).to_dict() | others)


def settings_of(options: argparse.Namespace) -> TrainConfig:
    return TrainConfig(
        steps=options.steps,
        lr=options.lr,
        weight_decay=options.weight_decay,
        schedule=options.schedule,
        warmup=options.warmup,
        accumulation=options.accumulation,
        precision=options.precision,
        compile=options.compile,
        optimizer=options.optimizer,
        betas=(0.9, options.beta2),
        eval_batches=options.eval_batches,
        eval_every=options.eval_every,
        patience=options.patience,
        checkpoint_every=options.checkpoint_every,
    )


def check_model(options: argparse.Namespace) -> None:
    """Refuse an impossible model before vocabulary and tokens are made."""
    size = len(load(options.tokenizer)) if options.tokenizer else max(options.vocab_size, 1)
    config = changed(PRESETS[options.preset], [f"vocab_size={size}", *options.set])
    if config.family != "decoder":
        raise ValueError(
            f"--set family={config.family}: train teaches to predict the next token, "
            "which only a decoder cannot read beforehand; leave the family as it is"
        )


def config_of(options: argparse.Namespace) -> ModelConfig:
    """The model's config, for the vocabulary of the run's folder."""
    _, vocab_size = read_tokens(options.out / "train.bin")
    return changed(PRESETS[options.preset], [f"vocab_size={vocab_size}", *options.set])


def trainer_of(
    options: argparse.Namespace,
    settings: TrainConfig,
    place: torch.device,
    plan: parallel.Parallel | None,
    progress: bool | None,
) -> Trainer:
    """The trainer of a run whose folder is prepared, at its newest checkpoint if it has one."""
    config = config_of(options)
    part, parts = (plan.data_rank, plan.data_ranks) if plan else (0, 1)
    with naming("the part of the corpus to learn from (its first nine tenths)"):
        ids, vocab_size = read_tokens(options.out / "train.bin")
        sizes = config.context_length, options.batch_size, vocab_size
        windows = Windows(np.asarray(ids), *sizes, seed=options.seed, rank=part, world=parts)
    with naming("the held-out part of the corpus (its last tenth)"):
        ids, _ = read_tokens(options.out / "held-out.bin")
        batch = min(options.batch_size, max(1, (len(ids) - 1) // config.context_length))
        held_out = Windows(np.asarray(ids), config.context_length, batch, vocab_size)
    device.seed(options.seed)
    model = Transformer(config).to(place)
    # until here all ranks draw alike, for equal weights; now each draws its own dropout for its own tokens
    torch.manual_seed(options.seed + part)
    trainer = Trainer(model, windows, settings, held_out, options.out, progress=progress, parallel=plan)
    return trainer.resume() if checkpoint.checkpoints(options.out) else trainer


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """A ValueError of this block begins with what it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def go(trainer: Trainer, out: Path, first: bool) -> None:
    """Train to the end; the first process prints."""
    say = print if first else lambda *_, **__: None
    last = trainer.config.steps
    if trainer.step >= last or trainer.stopped:
        why = "all that --steps asks for"
        if trainer.step < last:
            why = f"no better held-out loss for {trainer.waited} evaluations"
        done = f"step {trainer.step} of {last} is done, {why}"
        say(f"{out} is finished: {done}. Go on with llmcore sample {out}")
        return
    if trainer.step:
        say(f"{out} goes on after step {trainer.step}", flush=True)
    for record in trainer.run():
        if record.eval_loss is not None:
            losses = f"loss {record.loss:.3f}  held out {record.eval_loss:.3f}"
            speed = f"{record.tokens_per_second:,.0f} tokens/s"
            say(f"step {record.step}  {losses}  lr {record.lr:.1e}  {speed}", flush=True)
    found = checkpoint.checkpoints(out)
    if not found or checkpoint.step_of(found[-1]) != trainer.step:
        trainer.save()


def sample(options: argparse.Namespace) -> None:
    tokenizer = run.vocabulary(options.run)
    rules = [RULES[name](getattr(options, name)) for name in RULES if getattr(options, name) is not None]
    model = sharded.load_model(options.run).to(device.pick())
    end = tokenizer.special_tokens.get(END)
    prompt = tokenizer.encode(options.prompt, "all") or ([end] if end is not None else [])
    ids: list[int] = []
    shown = ""
    how = {"rules": rules, "greedy": options.greedy, "eos": end, "seed": options.seed}
    for step in generate(model, [prompt], options.tokens, **how):
        if not bool(step.finished.all()):
            ids.append(int(step.ids[0]))
        text = options.prompt + tokenizer.decode(ids)
        if not text.endswith("\ufffd") or not ids:  # half a character: wait for the rest
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print()


def main(argv: list[str] | None = None) -> int:
    """Run one command; a mistake of the caller is one line on standard error and status 2."""
    options = arguments().parse_args(argv)
    try:
        {"tokenize": tokenize, "train": train, "sample": sample}[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has enough
        with contextlib.suppress(
            OSError, ValueError
        ):  # the interpreter flushes at its end: not into the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"llmcore {options.command}: interrupted{how_to_go_on(options)}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"llmcore {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def how_to_go_on(options: argparse.Namespace) -> str:
    if options.command != "train":
        return ""
    found = checkpoint.checkpoints(options.out)
    if not found:
        return f"; no checkpoint is in {options.out} yet, so the same command begins at step 0"
    step = checkpoint.step_of(found[-1])
    return f"; the same command goes on after step {step}, the last checkpoint in {options.out}"


if __name__ == "__main__":
    sys.exit(main())
