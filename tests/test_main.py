"""The command line does what the library does: from a file to a tokenizer, a model, a text."""

import os
import subprocess
import sys

import pytest

from llmcore import checkpoint
from llmcore.__main__ import main
from llmcore.corpus import read_text
from llmcore.tokenizer import load

SMALL = ["--set", "n_layers=1", "d_model=32", "n_heads=2", "d_ff=48", "context_length=32"]
SPEED = ["--batch-size", "4", "--eval-every", "5", "--checkpoint-every", "5", "--warmup", "2", "--vocab-size", "300"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    os.environ["LLMCORE_DEVICE"] = "cpu"
    assert main(["train", "--corpus", "fables.en", "--out", str(folder), "--steps", "10", *SMALL, *SPEED]) == 0
    yield folder
    del os.environ["LLMCORE_DEVICE"]


def test_train_writes_what_sample_reads(run, capsys):
    assert checkpoint.latest(run).name == "step-00000010"
    assert checkpoint.load_model(run).config.n_layers == 1
    prompt = ["sample", str(run), "--prompt", "The 水", "--tokens", "10"]
    assert main([*prompt, "--temperature", "0.8", "--top-k", "20"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("The 水")
    assert main([*prompt, "--temperature", "0.8", "--top-k", "20"]) == 0
    assert capsys.readouterr().out == first
    assert main(["sample", str(run), "--greedy", "--tokens", "5"]) == 0


def test_train_again_resumes(run, capsys):
    again = ["train", "--corpus", "fables.en", "--out", str(run), "--steps", "10", *SMALL, *SPEED]
    assert main(again) == 0  # nothing left to do
    assert main([*again[:6], "12", *again[7:]]) == 2
    assert "was trained with other settings: steps=10 there, 12 here" in capsys.readouterr().err


def test_train_by_characters(tmp_path, monkeypatch):
    """The vocabulary is the characters of the part that is learned from, and the fused update is a setting of the run."""
    monkeypatch.setenv("LLMCORE_DEVICE", "cpu")
    options = ["--level", "char", "--optimizer", "adamw_fused", "--beta2", "0.99", "--eval-batches", "2", "--steps", "3"]
    assert main(["train", "--corpus", "fables.en", "--out", str(tmp_path), *options, *SMALL, *SPEED]) == 0
    text = read_text("fables.en")
    tokenizer = load(tmp_path / "tokenizer.json")
    assert tokenizer.kind == "char"
    assert {tokenizer.token(i) for i in tokenizer.ids()} >= set(text[: int(len(text) * 0.9)])
    train = checkpoint.verify(checkpoint.latest(tmp_path))["extra"]["train"]
    assert (train["optimizer"], train["betas"][1], train["eval_batches"]) == ("adamw_fused", 0.99, 2)


def test_tokenize_learns_and_shows(tmp_path, capsys):
    path = tmp_path / "t.json"
    assert main(["tokenize", "--corpus", "fables.zh", "--vocab-size", "400", "--out", str(path)]) == 0
    assert len(load(path)) == 400
    capsys.readouterr()
    assert main(["tokenize", "--tokenizer", str(path), "--text", "一条河<|endoftext|>"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    tokenizer = load(path)
    assert [int(i) for i, _ in lines] == tokenizer.encode("一条河<|endoftext|>", "all")


@pytest.mark.slow
def test_torchrun_starts_it(tmp_path):
    """Two processes; the loss on held-out text is one process's."""
    env = os.environ | {"LLMCORE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    losses = []
    for n in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "-m", "llmcore"]
        command += ["train", "--corpus", "fables.en", "--out", str(tmp_path / str(n)), "--steps", "5", *SMALL, *SPEED]
        result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200)
        assert result.returncode == 0, result.stderr[-1500:]
        losses.append(result.stdout.split("held out")[1].split()[0])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("command", [[], ["tokenize"], ["train"], ["sample"]])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenize"], "needs --corpus and --out to learn"),
        (["tokenize", "--corpus", "fables.en", "--vocab-size", "300"], "without --out"),
        (["train", "--corpus", "no-such-file", "--out", "OUT"], "is no file and no name of a text"),
        (["train", "--corpus", "fables.en", "--out", "OUT", "--set", "layers=3"], "--set layers=3: use FIELD=VALUE"),
        (["train", "--corpus", "fables.en", "--out", "OUT", "--set", "bias=maybe"], "bias is true or false"),
        (["sample", "OUT"], "No such file"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    assert main([a.replace("OUT", str(tmp_path / "x")) for a in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"llmcore {arguments[0]}: ")
    assert message in error


def test_the_corpus_that_ships_is_the_default_text():
    assert len(read_text("fables")) > 20_000
