"""The trainer on torch's engine: each kind equals one process; any ranks read shards; faults are survived."""

import atexit
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch
import torch.distributed as dist
from helpers import BASE, Figures, apart, model_of, rounding
from test_trainer import CONFIG, PLAIN, figures, whole, windows

from llmcore import checkpoint
from llmcore.distributed import sharded
from llmcore.distributed.launch import launch
from llmcore.distributed.parallel import Parallel
from llmcore.functional import cross_entropy
from llmcore.trainer import Trainer

LLAMA = BASE.with_(norm="rms", feed_forward="swiglu", position="rotary", bias=False, n_kv_heads=2)
pytestmark = pytest.mark.slow
MODELS = {"gpt": PLAIN, "llama": LLAMA}  # the first with a tied table, the second without
PLANS = [("ddp", 2), ("ddp", 4), ("fsdp", 2), ("fsdp", 4), ("tp", 2), ("fsdp+tp", 4)]
SETTINGS = replace(CONFIG, steps=5, clip=0.3)
OF = {"gpt": SETTINGS, "llama": replace(SETTINGS, optimizer="sgd", lr=0.1, momentum=0.9)}
NOTHING = "$^"
# Names of parameters that do not learn: norms in and out of blocks; the tied table, a whole block and a
# matrix of the other; all but one matrix of the first block, which gradients reach through a block that
# learns nothing.
FROZEN = {
    "gpt": [r"norm", r"embedding|blocks\.1\.|W_o|down"],
    "llama": [r"^(?!.*blocks\.0\.attention\.W_q)", r"head|gate|W_v"],
}


class Case(NamedTuple):
    """One training: float64 proves the identity on any processor, float32 is what is used."""

    name: str
    accumulation: int = 1
    dtype: torch.dtype = torch.float64
    frozen: str = NOTHING


CASES = [
    Case("gpt"),
    Case("gpt", 2),
    Case("llama"),
    Case("gpt", dtype=torch.float32),
    Case("llama", dtype=torch.float32),
    *(Case(name, frozen=names) for name in FROZEN for names in FROZEN[name]),
]


class Buffers(torch.nn.Module):
    """x * scale, which is no parameter."""

    def __init__(self, seed: int, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("scale", torch.tensor([1 + 0.1 * seed], dtype=dtype))

    def forward(self, x):
        return x * self.scale


def built(case: Case, seed: int):
    """A case's model, with buffers in and out of a block; ranks have other seeds: rank 0's must be sent."""
    model = model_of(MODELS[case.name], seed).to(case.dtype)
    model.embedding.tokens = Buffers(seed, case.dtype)
    model.decoder.blocks[1].after_attention = Buffers(seed + 1, case.dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not re.search(case.frozen, name))
    return model


@pytest.fixture(autouse=True)
def one_thread():
    """As the ranks have it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def of_rank(parallel, model, settings=SETTINGS, **changes):
    data = windows(batch_size=8, rank=parallel.data_rank, world=parallel.data_ranks)
    return Trainer(model, data, settings, parallel=parallel, **changes)


def third(model, batch):
    """A loss that leaves targets out, so many that the ranks' counts differ."""
    targets = batch.targets.masked_fill(batch.targets % 3 == 0, -100)
    kept = int((targets != -100).sum())
    return cross_entropy(model(batch.ids), targets) * kept, kept


def settings_of(case: Case):
    return replace(OF[case.name], accumulation=case.accumulation)


@cache
def one(case: Case, noise: float = 0.0) -> Figures:
    case = case._replace(dtype=torch.float64)
    return figures(Trainer(built(case, 1), windows(batch_size=8), settings_of(case), loss=third), noise)


@cache
def bound(case: Case) -> float:
    """The longest sums run over all tokens of a step, in the gradients of the matrices."""
    return rounding(lambda noise: one(case, noise), 8 * 8 * case.accumulation, case.dtype)


def equal(case: Case, found: Figures, expected: Figures, within: float) -> None:
    """What one process computes; what does not learn stays as rank 0 had it, bit for bit."""
    weights = found["weights"]
    learned = {n: x for n, x in weights.items() if not (re.search(case.frozen, n) or n.endswith("scale"))}
    assert weights.keys() == expected["weights"].keys()
    for name in weights.keys() - learned.keys():
        assert torch.equal(weights[name], expected["weights"][name].to(case.dtype)), (case, name)
    assert torch.equal(found["tokens"], expected["tokens"])
    for kind, share in apart(found | {"weights": learned}, expected).items():
        assert share <= within, f"{case}: {kind} lie {share:.1e} apart, more than {within:.1e}"


@pytest.mark.parametrize(("kind", "ranks"), PLANS)
def test_every_plan_equals_one_process(kind, ranks):
    cases = {case: (one(case), bound(case)) for case in CASES}

    def check():
        for case, (expected, within) in cases.items():
            trainer = of_rank(Parallel(kind), built(case, dist.get_rank() + 1), settings_of(case), loss=third)
            frozen = {n for n, p in trainer.model.named_parameters() if not p.requires_grad}
            assert frozen == {n for n, _ in trainer.model.named_parameters() if re.search(case.frozen, n)}
            found = figures(trainer)
            equal(case, found, expected, within)
            if case == CASES[-1]:  # a change that one step makes is refused
                with pytest.raises(AssertionError, match="apart, more than"):
                    equal(case, found | {"norms": found["norms"].roll(1)}, expected, within)
        if kind != "ddp":  # no rank holds what the plan cuts
            parameters = list(trainer.model.parameters())
            own = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in parameters)
            return own / sum(p.numel() for p in parameters)

    for share in launch(check, ranks, timeout=300):
        if "fsdp" in kind:
            assert share < 1 / (ranks // (2 if kind == "fsdp+tp" else 1)) + 0.02
        elif kind == "tp":  # what is not cut, tables and norms, is less than the blocks' matrices
            assert share < 0.75


def save_and_go_on(kind, folder):
    """Train five steps, saved after the third; the weights after the fifth."""
    settings = replace(SETTINGS, checkpoint_every=3, keep_checkpoints=9)
    trainer = of_rank(Parallel(kind), model_of(PLAIN.with_(dropout=0.2), 1), settings, folder=folder / kind)
    torch.manual_seed(5 + trainer.parallel.data_rank)  # each part of the batch drops its own
    for _ in trainer.run():
        pass
    return whole(trainer.model)


def resume(kind, folder):
    model = model_of(PLAIN.with_(dropout=0.2), 2)
    trainer = of_rank(Parallel(kind), model, SETTINGS, folder=folder / kind).resume()
    assert trainer.step == 3
    for _ in trainer.run():
        pass
    return whole(trainer.model)


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    """With dropout, which each rank draws from its own random state."""
    kinds = ("ddp", "fsdp", "tp")
    first = launch(lambda: {kind: save_and_go_on(kind, tmp_path) for kind in kinds}, 2)[0]
    again = launch(lambda: {kind: resume(kind, tmp_path) for kind in kinds}, 2)[0]
    for kind in kinds:
        for name, value in first[kind].items():
            assert torch.equal(value, again[kind][name]), (kind, name)


def test_shards_are_read_by_another_number_of_ranks_and_by_one_process(tmp_path):
    case = Case("gpt", frozen=FROZEN["gpt"][1])
    settings = settings_of(case)

    def plain(seed):  # in float64, some of it frozen; without buffers, which a config does not know
        model = model_of(PLAIN, seed).double()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not re.search(case.frozen, name))
        return model

    def write():
        saving = replace(settings, checkpoint_every=3, keep_checkpoints=9)
        for _ in of_rank(Parallel("fsdp"), plain(1), saving, folder=tmp_path).run():
            pass

    def read(*kinds):
        return [figures(read_one(kind)) for kind in kinds]

    def read_one(kind):
        trainer = of_rank(Parallel(kind), plain(2), settings, folder=tmp_path).resume()
        assert trainer.step == 3
        return trainer

    launch(write, 2)
    train = lambda noise: figures(Trainer(plain(1), windows(batch_size=8), settings), noise)
    expected, within = train(0.0), rounding(train, 8 * 8, torch.float64)
    last = {kind: values if kind == "weights" else values[3:] for kind, values in expected.items()}
    alone = Trainer(plain(2), windows(batch_size=8), settings, folder=tmp_path).resume()
    for found in (
        figures(alone),
        *launch(read, 4, "fsdp", "fsdp+tp")[0],
        *launch(read, 2, "ddp")[0],
    ):
        equal(case, found, last, within)
    assert sharded.load_model(tmp_path).config == PLAIN
    with pytest.raises(ValueError, match=r"belongs to another config: n_layers=2 there, 3 here"):
        sharded.load(tmp_path, model_of(PLAIN.with_(n_layers=3)))
    with pytest.raises(ValueError, match="holds shards"):
        checkpoint.load(tmp_path, model_of(PLAIN))
    shard = next(f for f in (checkpoint.latest(tmp_path) / "shards").iterdir() if f.suffix == ".distcp")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is truncated or changed"):
        sharded.load_model(tmp_path)


def test_parameters_of_two_types_train_as_in_one_process():
    """Norms in float64, all else in float32, which fsdp refuses."""
    case = Case("gpt", dtype=torch.float32)
    train = lambda model: Trainer(model, windows(batch_size=8), SETTINGS)
    expected, within = figures(train(model_with_norms_in_double())), bound(case)

    def check():
        for kind in ("ddp", "tp"):
            found = figures(of_rank(Parallel(kind), model_with_norms_in_double(dist.get_rank() + 1)))
            assert {x.dtype for x in found["weights"].values()} == {torch.float32, torch.float64}, kind
            assert max(apart(found, expected).values()) <= 2 * within, kind  # both compute in float32

    launch(check, 2)


def model_with_norms_in_double(seed: int = 1):
    model = model_of(PLAIN, seed)
    for name, module in model.named_modules():
        if "norm" in name:
            module.double()
    return model


def test_refusals(tmp_path):
    def check():
        for make, message in [
            (lambda: Parallel("zero"), "plan 'zero' is unknown"),
            (lambda: Parallel("fsdp", 2), "would be ignored: use tp"),
            (lambda: Parallel("fsdp+tp", 3), "tensor=3 for 2 ranks"),
            (
                lambda: of_rank(Parallel("tp"), model_of(LLAMA.with_(n_kv_heads=1))),
                "n_kv_heads=1 over tensor=2",
            ),
            (lambda: of_rank(Parallel("fsdp"), torch.nn.Linear(2, 2)), "only llmcore's Transformer is known"),
            (
                lambda: of_rank(Parallel("fsdp"), model_of(PLAIN), replace(SETTINGS, precision="fp16")),
                "use bf16",
            ),
            (
                lambda: of_rank(Parallel("fsdp"), model_with_norms_in_double()),
                "parameters of ['float32', 'float64'] beside each other",
            ),
            (
                lambda: Trainer(model_of(PLAIN), windows(batch_size=8), SETTINGS),
                "2 parts of each batch and windows for 1",
            ),
        ]:
            with pytest.raises(ValueError, match=re.escape(message)):
                make()

    launch(check, 2)
    with pytest.raises(ValueError, match="without processes: start with torchrun"):
        Parallel("fsdp")


RUN = shlex.split(
    "-m llmcore train --corpus fables.en --batch-size 4 --warmup 2 --vocab-size 300 --eval-every 1 "
    "--set n_layers=1 d_model=32 n_heads=2 d_ff=48 context_length=32"
)
ENV = os.environ | {"LLMCORE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
# with a shared store a restart of torchrun may meet the address of a dead process (pytorch issue 135712)
ENV |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def torchrun(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]


SETTINGS_20 = [*RUN, "--steps", "20", "--checkpoint-every", "5"]


@cache
def uninterrupted(plan: str) -> tuple[Path, str]:
    """The folder of a run of 20 steps on two ranks, and what it printed."""
    folder = Path(tempfile.mkdtemp(prefix=f"llmcore-test-{plan}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = torchrun(*SETTINGS_20, "--plan", plan, "--out", str(folder))
    result = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return folder, result.stdout


@pytest.mark.parametrize("plan", ["ddp", "fsdp"])
def test_a_killed_rank_is_restarted_by_torchrun_and_nothing_is_lost(plan, tmp_path):
    """The elastic agent ends the other rank, starts both again, and they go on from the last checkpoint."""
    command = torchrun("--max-restarts=3", *SETTINGS_20, "--plan", plan, "--out", str(tmp_path))
    process = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("step 7 "):
            ranks = [p for p in psutil.Process(process.pid).children() if "llmcore" in p.cmdline()]
            assert len(ranks) == 2
            ranks[1].send_signal(signal.SIGKILL)
            break
    rest = process.stdout.read()
    errors = process.stderr.read()
    assert process.wait(timeout=120) == 0, errors[-2000:]
    # again from step 5, or from 10 where that checkpoint was there already
    assert "step 6 " in rest or "step 11 " in rest
    assert "step 20 " in rest
    assert checkpoint.latest(tmp_path).name == "step-00000020"
    expected = sharded.load_model(uninterrupted(plan)[0]).state_dict()
    for name, value in sharded.load_model(tmp_path).state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_plans_from_the_command_line_agree(tmp_path):
    losses = {
        plan: re.findall(r"held out ([\d.]+)", uninterrupted(plan)[1]) for plan in ("ddp", "fsdp", "tp")
    }
    assert [len(found) for found in losses.values()] == [20, 20, 20]
    assert losses["ddp"][:5] == losses["fsdp"][:5] == losses["tp"][:5]
    sample = [sys.executable, "-m", "llmcore", "sample", str(uninterrupted("fsdp")[0]), "--tokens", "3"]
    assert subprocess.run(sample, env=ENV, capture_output=True, timeout=100).returncode == 0
    command = [sys.executable, *RUN, "--plan", "fsdp", "--out", str(tmp_path / "x")]
    alone = subprocess.run(command, env=ENV, capture_output=True, text=True)
    assert alone.returncode == 2
    assert "without torchrun" in alone.stderr
