"""The command line does what the library does: from a file to a tokenizer, a model, a text."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llmcore import __main__ as command_line
from llmcore import checkpoint, corpus
from llmcore.__main__ import main
from llmcore.config import PRESETS
from llmcore.corpus import read_text
from llmcore.data import read_tokens
from llmcore.files import alone
from llmcore.tokenizer import load

SMALL = ["--set", "n_layers=1", "d_model=32", "n_heads=2", "d_ff=48", "context_length=32"]
SPEED = ["--batch-size", "4", "--eval-every", "5", "--checkpoint-every", "5"]
SPEED += ["--warmup", "2", "--vocab-size", "300"]


def small(folder: Path, *more: str) -> list[str]:
    """Arguments of ten steps on the English fables."""
    return ["train", "--corpus", "fables.en", "--out", str(folder), "--steps", "10", *SMALL, *SPEED, *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    os.environ["LLMCORE_DEVICE"] = "cpu"
    assert main(small(folder)) == 0
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
    assert main(small(run)) == 0  # nothing left to do
    assert main(small(run, "--steps", "12")) == 2
    assert "was trained with other settings: steps=10 there, 12 here" in capsys.readouterr().err


def test_a_finished_run_says_so(run, capsys):
    assert main(small(run)) == 0
    done = "step 10 of 10 is done, all that --steps asks for"
    said = f"{run} is finished: {done}. Go on with llmcore sample {run}"
    assert capsys.readouterr().out.strip().splitlines() == [said]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (["--corpus", "fables.zh"], "corpus fables.en (SHA-256 "),
        (["--level", "char"], "vocabulary bpe of 300 there, char here"),
        (["--vocab-size", "301"], "vocabulary bpe of 300 there, bpe of 301 here"),
        (["--set", "n_layers=2", *SMALL[2:]], "n_layers=1 there, 2 here"),
        (["--seed", "1"], "seed=0 there, 1 here"),
        (["--batch-size", "8"], "batch_size=4 there, 8 here"),
        (["--lr", "0.5"], "lr=0.002 there, 0.5 here"),
    ],
)
def test_a_finished_run_is_no_other_run(run, other, said, capsys):
    """Each of these once ended with status 0 and no output: nobody looked at what had been trained."""
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert main(small(run, *other)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Use those" in error
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_the_learned_vocabulary_may_be_given_by_name(run):
    assert main(small(run, "--tokenizer", str(run / "tokenizer.json"))) == 0


def test_sample_refuses_another_vocabulary(run, tmp_path, capsys):
    mine = (run / "tokenizer.json").read_bytes()
    learn = ["tokenize", "--corpus", "fables.zh", "--vocab-size", "300", "--out"]
    try:
        assert main([*learn, str(run / "tokenizer.json")]) == 2
        assert f"belongs to the run {run}: choose another file" in capsys.readouterr().err
        assert main([*learn, str(tmp_path / "t.json")]) == 0
        (run / "tokenizer.json").write_bytes((tmp_path / "t.json").read_bytes())
        assert main(["sample", str(run), "--tokens", "3"]) == 2
        assert "is not the vocabulary that the run was trained with" in capsys.readouterr().err
    finally:
        (run / "tokenizer.json").write_bytes(mine)


# ------------------------------------------------------------------------------------------ a folder's tokens

TINY_MODEL = ["--set", "n_layers=1", "d_model=8", "n_heads=2", "d_ff=8", "context_length=8"]
TINY = ["--level", "char", *TINY_MODEL, "--batch-size", "2", "--warmup", "0"]
TINY += ["--steps", "2", "--eval-every", "2", "--checkpoint-every", "2"]
TEXTS = {"a": "abcdefgh " * 40, "b": "stuvwxyz, " * 40}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """(corpus, folder) -> arguments of a run that takes a second; corpora are the files a and b."""
    monkeypatch.setenv("LLMCORE_DEVICE", "cpu")
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    out = ["--out", str(tmp_path / "run")]
    return lambda name, *more: ["train", "--corpus", str(tmp_path / name), *out, *TINY, *more]


def learned(folder: Path) -> str:
    """The text that a folder's training tokens stand for."""
    return load(folder / "tokenizer.json").decode(read_tokens(folder / "train.bin")[0].tolist())


def nine_tenths(name: str) -> str:
    return TEXTS[name][: int(len(TEXTS[name]) * 0.9)]


def test_after_a_refused_run_another_corpus_is_what_is_trained_on(tiny, tmp_path, capsys):
    assert main(tiny("a", "--batch-size", "1000")) == 2  # found when the tokens are there
    said = "the part of the corpus to learn from (its first nine tenths): batch_size=1000 with "
    assert said in capsys.readouterr().err
    assert learned(tmp_path / "run") == nine_tenths("a")
    assert main(tiny("b")) == 0
    assert learned(tmp_path / "run") == nine_tenths("b")
    vocabulary = load(tmp_path / "run" / "tokenizer.json")
    assert checkpoint.load_model(tmp_path / "run").config.vocab_size == len(vocabulary)


def test_after_a_corpus_too_short_the_folder_takes_another(tiny, tmp_path, capsys):
    (tmp_path / "one").write_text("a")
    assert main(tiny("one")) == 2
    said = "one has 1 characters: a tenth is held out and the rest learned from; use a longer text"
    assert said in capsys.readouterr().err
    (tmp_path / "some").write_text("abcdefgh" * 4)
    assert main(tiny("some")) == 2
    said = "the held-out part of the corpus (its last tenth): 4 tokens with context_length=8"
    assert said in capsys.readouterr().err
    assert main(tiny("a")) == 0
    assert learned(tmp_path / "run") == nine_tenths("a")


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    "lost", ["tokenizer.json", "train.bin", "train.bin.json", "held-out.bin", "held-out.bin.json"]
)
@pytest.mark.parametrize("how", ["removed", "changed"])
def test_a_file_that_is_lost_or_damaged_is_made_again(tiny, tmp_path, lost, trained, how):
    folder = tmp_path / "run"
    assert main(tiny("a", *([] if trained else ["--batch-size", "1000"]))) == (0 if trained else 2)
    before = {name: (folder / name).read_bytes() for name in command_line.run.FILES}
    (folder / lost).unlink()
    if how == "changed":  # as many bytes, other ones
        (folder / lost).write_bytes(before[lost][::-1])
    assert main(tiny("a")) == 0
    assert {name: (folder / name).read_bytes() for name in command_line.run.FILES} == before


def test_a_preparation_that_is_killed_is_done_again(tiny, tmp_path, monkeypatch):
    """At each file that is written, before and after."""
    written = command_line.run.write_tokens
    for stop in range(4):
        at = iter(range(stop))

        def dying(*arguments, at=at):
            if next(at, None) is None:
                raise KeyboardInterrupt
            made = written(*arguments)
            if next(at, None) is None:
                raise KeyboardInterrupt
            return made

        monkeypatch.setattr(command_line.run, "write_tokens", dying)
        assert main(tiny("b" if stop % 2 else "a", "--out", str(tmp_path / f"run{stop}"))) == 130
        monkeypatch.setattr(command_line.run, "write_tokens", written)
        assert main(tiny("a", "--out", str(tmp_path / f"run{stop}"))) == 0
        assert learned(tmp_path / f"run{stop}") == nine_tenths("a")


def test_what_no_run_made_is_not_written_over(tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "train.bin").write_bytes(b"mine")
    assert main(tiny("a")) == 2
    assert "holds train.bin and no run.json, which says what a run was made from" in capsys.readouterr().err
    (folder / "train.bin").rename(folder / "tokenizer.json")
    assert main(tiny("a")) == 2
    assert "choose another folder for --out, or use it by --tokenizer" in capsys.readouterr().err
    assert (folder / "tokenizer.json").read_bytes() == b"mine"


def test_steps_can_be_raised_where_the_schedule_allows(tiny, tmp_path, capsys):
    assert main(tiny("a", "--schedule", "constant")) == 0
    assert main(tiny("a", "--schedule", "constant", "--steps", "4")) == 0
    assert f"{tmp_path / 'run'} goes on after step 2" in capsys.readouterr().out
    assert checkpoint.latest(tmp_path / "run").name == "step-00000004"
    assert main(tiny("a", "--schedule", "constant", "--steps", "4", "--out", str(tmp_path / "whole"))) == 0
    there, here = (checkpoint.load_model(tmp_path / name).state_dict() for name in ("run", "whole"))
    assert all(torch.equal(there[name], here[name]) for name in here)
    assert main(tiny("a", "--out", str(tmp_path / "cosine"))) == 0
    assert main(tiny("a", "--out", str(tmp_path / "cosine"), "--steps", "4")) == 2
    assert "a run that may be made longer has schedule='constant'" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- two at a time


def test_a_second_process_is_kept_out_and_a_dead_one_keeps_no_one_out(tiny, tmp_path, capsys):
    """The first holds the folder and is then killed without a chance to tidy up."""
    hold = (
        "import sys, time; from llmcore.files import alone\n"
        "with alone(sys.argv[1]): print('in', flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in\n"
        assert main(tiny("a")) == 2
        said = f"another process is at work in {tmp_path / 'run'}: wait until it has ended, "
        assert f"{said}or choose another folder" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert main(tiny("a")) == 0


def test_a_process_may_enter_its_own_folder_again(tmp_path):
    with alone(tmp_path / "x"), alone(tmp_path / "x"):
        pass
    with alone(tmp_path / "x"):
        pass


@pytest.mark.slow
def test_two_at_once_in_a_new_folder(tiny, tmp_path):
    """Both start at once, on different corpora: one trains on all of its own, the other is refused."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, "-m", "llmcore", *tiny(name, "--steps", "300")] for name in TEXTS]
    both = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [process.communicate(timeout=300)[1] for process in both]
    status = [process.returncode for process in both]
    assert sorted(status) == [0, 2]
    error = errors[status.index(2)]
    assert "another process is at work" in error or "was trained with other values" in error
    assert learned(tmp_path / "run") == nine_tenths([*TEXTS][status.index(0)])


# ------------------------------------------------------------------------------------- interrupted, cut short


@pytest.mark.slow
def test_ctrl_c_is_one_line_that_says_how_to_go_on(tiny, tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "llmcore", *tiny("a", "--steps", "100000", "--schedule", "constant")]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not checkpoint.checkpoints(tmp_path / "run"):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 130
    [line] = error.strip().splitlines()
    step = checkpoint.step_of(checkpoint.latest(tmp_path / "run"))
    there = f"after step {step}, the last checkpoint in {tmp_path / 'run'}"
    assert line == f"llmcore train: interrupted; the same command goes on {there}"


def test_an_interruption_before_a_checkpoint_says_that_too(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command_line, "go", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(tiny("a")) == 130
    there = f"no checkpoint is in {tmp_path / 'run'} yet, so the same command begins at step 0"
    assert capsys.readouterr().err == f"llmcore train: interrupted; {there}\n"


def test_a_reader_that_has_enough_is_no_error(run, capsys, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main(["sample", str(run), "--tokens", "3"]) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_head_ends_it_quietly(run):
    sample = f"{sys.executable} -m llmcore sample {run} --tokens 20"
    command = ["bash", "-c", f'{sample} | head -c 1; echo "${{PIPESTATUS[0]}}" >&2']
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stderr.strip() in ("141", "0")  # 0 where all was written before head went


# --------------------------------------------------------------------------------------- no number, no output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--lr", "inf"], "lr=inf: need lr > 0, and finite"),
        (["--lr", "1e39"], "lr=1e+39: need lr > 0, and finite"),
        (["--lr", "nan"], "lr=nan: need lr > 0, and finite"),
        (["--weight-decay", "nan"], "weight_decay=nan: need weight_decay >= 0, and finite"),
        (["--weight-decay", "-5"], "weight_decay=-5.0: need weight_decay >= 0, and finite"),
        (["--beta2", "1"], "betas=(0.9, 1.0): each is a share of the past"),
        (["--set", "rotary_base=inf"], "rotary_base=inf: must be a finite number"),
        (["--set", "init_std=inf"], "init_std=inf: must be a finite number"),
        (["--set", "family=encoder"], "--set family=encoder: train teaches to predict the next"),
        (
            ["--set", "family=encoder-decoder"],
            "--set family=encoder-decoder: train teaches to predict the next",
        ),
        (["--set", "n_layers=two"], "--set n_layers=two: n_layers is a whole number"),
        (["--set", "dropout=much"], "--set dropout=much: dropout is a number"),
        (["--set", "rotary_scaling=8"], "--set rotary_scaling=8: rotary_scaling is none, or {"),
        (["--set", "n_heads=5"], "n_heads=5 does not divide d_model=128"),
        (["--tokenizer", "no-such-file"], "no-such-file"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_folder_is_made(tiny, tmp_path, options, said, capsys):
    assert main(tiny("a", *options)) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not (tmp_path / "run").exists()


def test_rotary_scaling_can_be_set():
    scaling = '{"factor": 4, "low": 1, "high": 4, "original": 16}'
    set_to = lambda preset, value: command_line.changed(PRESETS[preset], [f"rotary_scaling={value}"])
    assert set_to("small", scaling).rotary_scaling.factor == 4
    assert set_to("llama", "none").rotary_scaling is None


def test_weights_that_are_no_numbers_do_not_end_with_status_0(tiny, tmp_path, capsys):
    """A step whose decay overflows float32, without an evaluation after it; one whose corrected rate does."""
    huge = ["--lr", "3e37", "--weight-decay", "10", "--schedule", "constant"]
    options = [*TINY_MODEL, "init_std=1"]
    assert main(tiny("a", *huge, "--steps", "1", "--eval-every", "0", *options)) == 2
    assert "holds numbers that are not finite: lower lr=3e+37" in capsys.readouterr().err
    assert main(tiny("a", *huge, "--lr", "1e38", "--steps", "1", "--eval-every", "0", *options)) == 2
    assert "the update of step 1 overflows: lower lr=1e+38" in capsys.readouterr().err
    assert checkpoint.checkpoints(tmp_path / "run") == []


def test_train_by_characters(tmp_path, monkeypatch):
    """The vocabulary is the characters of the part to learn from; the fused update is the run's setting."""
    monkeypatch.setenv("LLMCORE_DEVICE", "cpu")
    options = ["--level", "char", "--optimizer", "adamw_fused", "--beta2", "0.99"]
    assert main(small(tmp_path, *options, "--eval-batches", "2", "--steps", "3")) == 0
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
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
        command = [*launcher, "-m", "llmcore", *small(tmp_path / str(n), "--steps", "5")]
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


FABLES = ["train", "--corpus", "fables.en", "--out", "OUT"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenize"], "needs --corpus and --out to learn"),
        (["tokenize", "--corpus", "fables.en", "--vocab-size", "300"], "without --out"),
        (["train", "--corpus", "no-such-file", "--out", "OUT"], "is no file and no name of a text"),
        ([*FABLES, "--set", "layers=3"], "--set layers=3: use FIELD=VALUE"),
        ([*FABLES, "--set", "bias=maybe"], "bias is true or false"),
        (["sample", "OUT"], "is no folder: name the one that train wrote (its --out)"),
        (["sample", "."], "is no run: it holds no tokenizer.json"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    assert main([a.replace("OUT", str(tmp_path / "x")) for a in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"llmcore {arguments[0]}: ")
    assert message in error


def test_what_sample_refuses_it_refuses_before_the_prompt(run, capsys):
    for options, said in (
        (["--tokens", "1000"], "exceed context_length=32"),
        (["--temperature", "0"], "for the limit 0 use greedy=True (--greedy)"),
        (["--top-p", "2"], "top_p=2.0"),
    ):
        assert main(["sample", str(run), "--prompt", "The", *options]) == 2
        out, error = capsys.readouterr()
        assert (out, said in error) == ("", True)
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(run), "--seed", str(10**30)])
    assert stop.value.code == 2
    assert "argument --seed: 1" in capsys.readouterr().err


def test_more_tokens_than_there_are_keep_all(run, capsys):
    texts = []
    for options in ([], ["--top-k", str(10**20)]):
        assert main(["sample", str(run), "--tokens", "5", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_a_run_without_a_checkpoint_is_no_model_yet(tiny, tmp_path, capsys):
    assert main(tiny("a", "--batch-size", "1000")) == 2
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "run")]) == 2
    assert "holds no checkpoint yet: train it first" in capsys.readouterr().err


def test_a_vocabulary_is_written_over_no_other_file(tmp_path, capsys, monkeypatch):
    """And before anything is learned."""
    text = tmp_path / "text.txt"
    text.write_text("the low well " * 30)
    learn = ["tokenize", "--corpus", str(text), "--vocab-size", "260", "--out"]
    assert main([*learn, str(tmp_path / "t.json")]) == 0
    assert main([*learn, str(tmp_path / "t.json")]) == 0  # a vocabulary is
    capsys.readouterr()
    learned_first = lambda *_, **__: pytest.fail("it was learned first")
    monkeypatch.setattr(command_line.BPETokenizer, "train", learned_first)
    (tmp_path / "notes.json").write_text(json.dumps({"mine": 1}))
    for out, said in (
        (text, "exists and is no vocabulary"),
        (tmp_path / "notes.json", "exists and is no vocabulary"),
        (tmp_path, "exists and is no vocabulary"),
        (tmp_path / "no" / "t.json", "is no folder; make it first"),
    ):
        assert main([*learn, str(out)]) == 2
        assert said in capsys.readouterr().err
    assert main(learn[:-1]) == 2
    assert text.read_text() == "the low well " * 30
    assert corpus.read_text(text)


def test_the_corpus_that_ships_is_the_default_text():
    assert len(read_text("fables")) > 20_000
