"""Several processes equal one: gradients, weights after five steps and loss, for every way to split the work.

Each test launches the ranks once and checks there all that it states; `one` is the same run in one process.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import replace
from functools import cache
from typing import NamedTuple
from unittest.mock import patch

import psutil
import pytest
import torch
import torch.distributed as dist
from helpers import BASE, Figures, apart, model_of, rounding, shake

from llmcore.data import Batch
from llmcore.distributed import collectives, context_parallel, schedules, tensor_parallel
from llmcore.distributed.context_parallel import ContextParallel
from llmcore.distributed.data_parallel import DataParallel
from llmcore.distributed.launch import RankError, launch
from llmcore.distributed.pipeline import Part, PipelineParallel
from llmcore.distributed.tensor_parallel import TensorParallel
from llmcore.distributed.zero import Zero
from llmcore.functional import cross_entropy
from llmcore.optim import SGD, AdamW, clip_gradients, decay_groups

# Sizes that four ranks do not divide: vocabulary 23, feed-forward 26, biases of 16 and 26.
PLAIN = BASE.with_(n_layers=4, d_ff=26)
CONFIGS = {
    "gpt": PLAIN,
    "tied": PLAIN.with_(tied=True),
    "llama": PLAIN.with_(norm="rms", feed_forward="swiglu", position="rotary", bias=False, d_ff=26),
}
pytestmark = pytest.mark.slow
B, T = 8, 12
STEPS, CLIP, DECAY = 5, 0.5, 0.1
# AdamW's eps bounds what it makes of rounding: an update moves by at most lr / eps per unit of gradient.
# With the usual 1e-8 it would make whole steps of the noise where a true gradient is 0 (a key bias); 1e-4 is
# still small beside the gradients here.
OPTIMIZERS = {
    "sgd": lambda groups: SGD(groups, lr=0.1, momentum=0.9),
    "adamw": lambda groups: AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-4),
}
NOTHING = "$^"
# Names of parameters that do not learn: gains and biases in and out of blocks; tables, a whole block and a
# matrix of each other block; nearly all, so that gradients pass through blocks that learn nothing to reach
# the little that does.
FROZEN = [
    r"norm|bias",
    r"embedding|blocks\.1\.|W_o|down\.weight",
    r"^(?!.*(blocks\.0\.attention\.W_q|blocks\.2\.feed_forward\.down))",
]


class Run(NamedTuple):
    """One training: float64 proves the identity on any processor, float32 is what is used."""

    name: str
    optimizer: str
    dtype: torch.dtype = torch.float64
    frozen: str = NOTHING
    wide: str = NOTHING  # what is in float64 all the same


DOUBLE = [Run("gpt", "sgd"), Run("tied", "adamw"), Run("llama", "sgd")]
SINGLE = [Run(*run[:2], torch.float32) for run in DOUBLE]
MIXED = Run("gpt", "sgd", torch.float32, wide="norm")
FREEZING = [Run(name, "adamw", frozen=names) for name, names in zip(("gpt", "tied", "tied"), FROZEN)]
several = pytest.mark.parametrize("ranks", [1, 2, 4])


@pytest.fixture(autouse=True)
def one_thread():
    """As the ranks have it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def runs_of(ranks: int) -> list[Run]:
    """All for two ranks; for one and four those in float64, which prove the identity, and one in float32."""
    return [*DOUBLE, *SINGLE, *FREEZING, MIXED] if ranks == 2 else [*DOUBLE, SINGLE[1]]


@contextlib.contextmanager
def case(name):
    """A failure inside names the case: several share a launch."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"case: {name}")
        raise


class Buffers(torch.nn.Module):
    """x * scale + shift, which are no parameters; only the first is stored in a state_dict."""

    def __init__(self, seed: int, dtype: torch.dtype):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.register_buffer("scale", 1 + 0.1 * torch.rand(1, generator=draw).to(dtype))
        self.register_buffer("shift", 0.1 * torch.rand(1, generator=draw).to(dtype), persistent=False)
        self.register_buffer("seed", torch.tensor(seed))

    def forward(self, x):
        return x * self.scale + self.shift


def built(run: Run, seed: int = 0):
    """A run's model, with buffers in and out of a block; ranks have other seeds: rank 0's must be sent."""
    model = model_of(CONFIGS[run.name], seed).to(run.dtype)
    model.embedding.tokens = Buffers(seed, run.dtype)
    model.decoder.blocks[2].after_attention = Buffers(seed + 100, run.dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not re.search(run.frozen, name))
        parameter.data = parameter.data.double() if re.search(run.wide, name) else parameter.data
    return model


def batch(step: int) -> Batch:
    """The global batch of a step; some targets are left out, more of them in some rows than in others."""
    draw = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(23, (B, T + 1), generator=draw)
    targets = ids[:, 1:].clone()
    targets[torch.rand(B, T, generator=draw) < torch.linspace(0.1, 0.6, B)[:, None]] = -100
    return Batch(ids[:, :-1], targets)


def rows(data: Batch, parts: int, part: int) -> Batch:
    return Batch(data.ids.tensor_split(parts)[part], data.targets.tensor_split(parts)[part])


def kept(data: Batch) -> int:
    return int((data.targets != -100).sum())


def summed_loss(logits, targets):
    return cross_entropy(logits, targets) * (targets != -100).sum()


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def weights_of(model) -> dict[str, torch.Tensor]:
    """Parameters and stored buffers."""
    return {n: x.detach().clone() for n, x in model.state_dict().items()}


def figures(backward, clip, update, gradients, weights) -> Figures:
    """Train. backward(step) gives the loss, clip(CLIP) the norm; gradients: of the first step, clipped."""
    losses, norms, first = [], [], {}
    for step in range(STEPS):
        losses.append(float(backward(step)))
        norms.append(float(clip(CLIP)))
        first = first or gradients()
        update()
    as_tensor = lambda values: torch.tensor(values, dtype=torch.float64)
    return {"losses": as_tensor(losses), "norms": as_tensor(norms), "gradients": first, "weights": weights()}


def updating(optimizer):
    def update():
        optimizer.step()
        optimizer.zero_grad()

    return update


@cache
def one(run: Run, noise: float = 0.0) -> Figures:
    """What one process does with the whole batches."""
    model, draw = built(run), torch.Generator().manual_seed(0)

    def backward(step):
        shake(model, noise, draw)
        data = batch(step)
        loss = cross_entropy(model(data.ids), data.targets)
        loss.backward()
        return loss.detach()

    update = updating(OPTIMIZERS[run.optimizer](decay_groups(model, DECAY)))
    return figures(
        backward,
        lambda most: clip_gradients(model.parameters(), most),
        update,
        lambda: gradients_of(model),
        lambda: weights_of(model),
    )


@cache
def bound(run: Run) -> float:
    """The longest sums run over all tokens of a batch, in the gradients of the matrices."""
    return rounding(lambda noise: one(run._replace(dtype=torch.float64), noise), B * T, run.dtype)


def known(runs) -> dict[Run, tuple[Figures, float]]:
    """The figures of one process in float64, computed here, once, and how near the ranks' must be."""
    return {run: (one(run._replace(dtype=torch.float64)), bound(run)) for run in runs}


def equal(run: Run, found: Figures, expected: tuple[Figures, float]) -> None:
    """A run's figures against those of one process; what does not learn must be the same bit for bit."""
    figures, within = expected
    exact = {n: x for n, x in found["weights"].items() if n not in figures["gradients"]}
    for name, x in exact.items():
        assert torch.equal(x, figures["weights"][name].to(x.dtype)), (run, name)
    assert set(found["gradients"]) <= set(figures["gradients"]), run
    learned = {n: x for n, x in found["weights"].items() if n not in exact}
    for name, x in learned.items():
        assert x.dtype == (torch.float64 if re.search(run.wide, name) else run.dtype), (run, name)
    for kind, share in apart(found | {"weights": learned}, figures).items():
        assert share <= within, f"{run}: {kind} lie {share:.1e} apart, more than {within:.1e}"


def loss_of_all(own) -> float:
    return float(collectives.ring_all_reduce(own.detach().clone().reshape(1)))


def test_one_process_in_float32_lies_within_the_bound_of_float64():
    """The bound is one of rounding: float32 lies within it, and it is far below what a mistake changes."""
    for run in SINGLE:
        assert bound(run) == bound(run._replace(dtype=torch.float64)) * 2**29  # eps is all that differs
        assert bound(run) < 1e-3
        equal(run, one(run), known([run])[run])


# launch


def test_launch_returns_what_each_rank_returns_and_prints_in_their_order(capsys):
    offset = 10

    def where(factor):
        print("here", dist.get_rank())
        return factor * (dist.get_rank() + offset), dist.get_world_size()

    assert launch(where, 3, 2) == [(20, 3), (22, 3), (24, 3)]
    assert capsys.readouterr().out == "[rank 0] here 0\n[rank 1] here 1\n[rank 2] here 2\n"


def marked(mark: str) -> list[psutil.Process]:
    """The processes that were started, by whomever, under an environment that holds the mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            bears_it = process.environ().get("LLMCORE_TEST_MARK") == mark
            if bears_it and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def leaving_nothing(monkeypatch, folder):
    """Afterwards no process that was started inside is left, so none of their ports, and no folder."""
    folder.mkdir()
    monkeypatch.setenv("LLMCORE_TEST_MARK", mark := uuid.uuid4().hex)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # as this process has found it before
    yield mark
    monkeypatch.delenv("LLMCORE_TEST_MARK")
    until = time.monotonic() + 60  # only for a test that fails: what is killed is gone a moment later
    while (left := marked(mark)) or list(folder.glob("llmcore-ranks-*")):
        assert time.monotonic() < until, (left, list(folder.iterdir()))
        time.sleep(0.05)


def start_sleepers():
    """One process in the rank's session, one in its own, and ones that their parents leave behind there."""
    subprocess.Popen(["sleep", "1000"])
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    leaving = "setsid sleep 1000 & setsid sh -c 'setsid sleep 1000 & exit' & exit"
    subprocess.run(["sh", "-c", leaving], check=True)


needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a process that leaves its session is not found"
)


def ends_by(how):
    start_sleepers()
    if dist.get_rank() == 1:
        how()
    dist.barrier()


def raise_boo():
    raise KeyError("boo")


@needs_linux
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (raise_boo, r"rank 1 raised.*in ends_by.*KeyError: 'boo'"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"^rank 1 was ended by signal 9 \(SIGKILL\)"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"^rank 1 was ended by signal 11 \(SIGSEGV\)"),
        (lambda: os._exit(0), "^rank 1 exited with status 0 before its function returned"),
        (lambda: os._exit(7), "^rank 1 exited with status 7 before its function returned"),
        (lambda: sys.exit(0), "rank 1 raised.*SystemExit: 0"),
    ],
)
def test_a_rank_that_ends_otherwise_is_named_and_nothing_is_left(how, said, tmp_path, monkeypatch):
    with leaving_nothing(monkeypatch, tmp_path / "t"), pytest.raises(RankError) as caught:
        launch(ends_by, 3, how, timeout=600)
    assert caught.value.rank == 1
    assert re.search(said, str(caught.value), re.DOTALL), caught.value


@needs_linux
def test_what_the_ranks_have_started_ends_with_them(tmp_path, monkeypatch):
    def count():
        start_sleepers()
        dist.barrier()
        until = time.monotonic() + 60  # a shell that has started its sleeper is there for a moment longer
        while (found := len(marked(mark))) != 11 and time.monotonic() < until:
            time.sleep(0.05)
        dist.barrier()  # a rank that returns takes its sleepers with it, so both count before either ends
        return found

    with leaving_nothing(monkeypatch, tmp_path / "t") as mark:
        assert launch(count, 2, timeout=600) == [11, 11]


def test_a_hang_ends_after_the_stated_time_and_shows_where_each_rank_stood(tmp_path, monkeypatch):
    def wait_for_ever():
        if dist.get_rank() == 1:
            time.sleep(10_000)
        dist.barrier()

    with leaving_nothing(monkeypatch, tmp_path / "t"), pytest.raises(RankError) as caught:
        launch(wait_for_ever, 2, timeout=3)
    assert "rank 0 had not returned after 3 s (nor had [1])" in str(caught.value)
    assert re.search(r"rank 0 stood at:.*in barrier.*in wait_for_ever", str(caught.value), re.DOTALL)
    assert re.search(r"rank 1 stood at:.*in wait_for_ever", str(caught.value), re.DOTALL)


@needs_linux
def test_where_the_process_between_is_killed_the_ranks_end(tmp_path, monkeypatch):
    def kill_it():
        if dist.get_rank() == 0:
            os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(10_000)

    with (
        leaving_nothing(monkeypatch, tmp_path / "t"),
        pytest.raises(RankError, match=r"was ended by signal 9 \(SIGKILL\)"),
    ):
        launch(kill_it, 3, timeout=600)


CALLER = """
import os, time
from pathlib import Path
from llmcore.distributed.launch import launch
from test_distributed import start_sleepers
def note(folder):
    start_sleepers()
    Path(folder, str(os.getpid())).touch()
    time.sleep(10_000)
launch(note, 2, {folder!r}, timeout=float("inf"))
"""


@needs_linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ending_the_caller_ends_the_ranks_and_removes_their_folder(number, tmp_path, monkeypatch):
    there, script = tmp_path / "there", tmp_path / "call.py"
    there.mkdir()
    script.write_text(CALLER.format(folder=str(there)))
    with leaving_nothing(monkeypatch, tmp_path / "t"):
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        caller = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE)
        while len(list(there.iterdir())) < 2:
            assert caller.poll() is None, caller.stderr.read()
            time.sleep(0.05)
        assert len(list((tmp_path / "t").glob("llmcore-ranks-*"))) == 1
        caller.send_signal(number)
        caller.communicate()
        assert caller.returncode == -number


@needs_linux
def test_a_caller_that_ends_while_the_ranks_start_leaves_nothing(tmp_path, monkeypatch):
    script = tmp_path / "call.py"
    script.write_text("from llmcore.distributed.launch import launch\nlaunch(print, 2)")
    with leaving_nothing(monkeypatch, tmp_path / "t") as mark:
        caller = subprocess.Popen([sys.executable, script])
        while len(marked(mark)) < 2:  # the process between is there
            assert caller.poll() is None
            time.sleep(0.01)
        caller.kill()
        caller.wait()


@pytest.mark.parametrize(
    ("ranks", "timeout", "message"),
    [
        (0, 1.0, "ranks=0"),
        (2.0, 1.0, "ranks=2.0"),
        (True, 1.0, "ranks=True"),
        (1, 0.0, "timeout=0"),
        (1, -1, "timeout=-1"),
        (1, float("nan"), "timeout=nan: must be above 0 seconds; math.inf waits"),
    ],
)
def test_launch_refuses(ranks, timeout, message, as_a_reader_calls_it):
    with pytest.raises(ValueError, match=message):
        launch(print, ranks, timeout=timeout)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_launch_without_a_limit(timeout):
    assert launch(dist.get_rank, 2, timeout=timeout) == [0, 1]


# collectives


def test_collectives_equal_torch_and_their_bytes_the_formula():
    """For 1, 2, 3 and 4 ranks, each a group of the same four."""

    def check():
        for p in (1, 2, 3, 4):
            group = dist.new_group(range(p))
            if dist.get_rank() < p:
                with case(f"{p} ranks"):
                    compare(p, group)
        with case("all ranks, without a group"):
            compare(4, None)

    def compare(p, group):
        me = collectives.rank(group)
        for n in (1, 3, 12, 240):  # fewer numbers than ranks too
            # whole numbers, whose sums are exact in any order
            x = torch.randint(-999, 1000, (n,), generator=torch.Generator().manual_seed(17 * me + n)).float()
            total = x.clone()
            dist.all_reduce(total, group=group)
            for kind, all_reduce in collectives.ALL_REDUCES.items():
                with collectives.traffic() as sent:
                    assert torch.equal(all_reduce(x.clone(), group), total)
                if n == 240 and p in (1, 2, 4):
                    most = torch.tensor(float(sent.total()))
                    dist.all_reduce(most, dist.ReduceOp.MAX, group)
                    assert most == schedules.bytes_per_rank(f"{kind} all-reduce", p, 4 * n)
            with collectives.traffic() as sent:
                own = collectives.reduce_scatter(x, group)
            assert torch.equal(own, total.tensor_split(p)[me])
            if n % p == 0:
                assert sent.total() == schedules.bytes_per_rank("ring reduce-scatter", p, 4 * n)
                assert sent.messages == p - 1
            assert torch.equal(collectives.all_gather(own, n, group), total)
            for root in range(p):
                theirs = x.clone()
                dist.broadcast(theirs, root, group)
                assert torch.equal(collectives.broadcast(x.clone(), root, group), theirs)
                up = collectives.reduce(x.clone(), root, group)
                if me == root:
                    assert torch.equal(up, total)
        whole = torch.arange(6.0).view(2, 3) + me
        expected = sum(torch.arange(6.0).view(2, 3) + r for r in range(p))
        assert torch.equal(collectives.ring_all_reduce(whole, group), expected)
        for refuse, message in [
            (lambda: collectives.ring_all_reduce(torch.zeros(2, 3).T, group), "not contiguous"),
            (lambda: collectives.all_gather(torch.zeros(5), 4, group), "part"),
        ]:
            with pytest.raises(ValueError, match=message):
                refuse()

    launch(check, 4)


def test_a_group_is_some_of_the_ranks():
    def check():
        group = dist.new_group([1, 3])
        x = torch.tensor([10.0 ** collectives.rank(), 1.0])
        if collectives.rank() in (1, 3):
            collectives.ring_all_reduce(x, group)
        return x.tolist()

    assert launch(check, 4) == [[1, 1], [1010, 2], [100, 1], [1010, 2]]


# data parallel and ZeRO


def data_parallel_run(run, accumulation=1, bucket_bytes=1 << 20, scale=1.0):
    p, me = collectives.size(), collectives.rank()
    model = built(run, seed=me)
    parallel = DataParallel(model, bucket_bytes)
    bytes_sent = set()

    def backward(step):
        data, total = batch(step), torch.zeros((), dtype=run.dtype)
        with collectives.traffic() as sent:
            for i in range(accumulation):
                part = rows(rows(data, p, me), accumulation, i)
                loss = summed_loss(model(part.ids), part.targets) / kept(data)
                with parallel.no_sync() if i < accumulation - 1 else contextlib.nullcontext():
                    (scale * loss).backward()
                total = total + loss.detach()
            parallel.finish()
        bytes_sent.add(sent.total())
        return loss_of_all(total)

    found = figures(
        backward,
        lambda most: clip_gradients(model.parameters(), most),
        updating(OPTIMIZERS[run.optimizer](decay_groups(model, DECAY))),
        lambda: gradients_of(model),
        lambda: weights_of(model),
    )
    order = [e.bucket for e in parallel.events if e.what == "ready"]
    parallel.remove()
    n_bytes = sum(q.numel() * q.element_size() for q in parallel.parameters)
    assert all(abs(b - 2 * (p - 1) / p * n_bytes) <= len(parallel.buckets) for b in bytes_sent)
    assert sorted(order) == list(range(len(parallel.buckets)))
    assert order[0] == 0  # the head's gradients come first
    return found, len(order)


@several
def test_data_parallel(ranks):
    expected = known([*runs_of(ranks), Run("tied", "sgd")])

    def check():
        for run in expected:
            equal(run, data_parallel_run(run)[0], expected[run])
        equal(run, data_parallel_run(run, accumulation=2)[0], expected[run])
        found, buckets = data_parallel_run(DOUBLE[0], bucket_bytes=4000)
        equal(DOUBLE[0], found, expected[DOUBLE[0]])
        assert buckets > 5

    launch(check, ranks, timeout=120)


def test_the_first_sum_starts_before_the_last_gradient_is_there():
    """Counted, not timed: how many gradients exist when a bucket's sum starts."""

    def check():
        model = built(DOUBLE[0])
        parallel, there, start = DataParallel(model, 4000), [], DataParallel._sum

        def counting(self, bucket):
            there.append(sum(q.grad is not None for q in self.parameters))
            start(self, bucket)

        with patch.object(DataParallel, "_sum", counting):
            summed_loss(model(batch(0).ids), batch(0).targets).backward()
            parallel.finish()
        return there, len(parallel.parameters)

    for there, parameters in launch(check, 2):
        assert there[0] < parameters / 4
        assert there == sorted(there)
        assert there[-1] == parameters


def test_data_parallel_with_a_parameter_that_some_ranks_do_not_use():
    def check():
        torch.manual_seed(0)
        model = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
        parallel = DataParallel(model, 1)
        model[collectives.rank()](torch.ones(1, 2)).sum().backward()
        parallel.finish()
        return [q.grad.tolist() for q in model.parameters()]

    assert launch(check, 2) == [[[[1, 1], [1, 1]], [1, 1]] * 2] * 2


def zero_run(run, stage, accumulation=1):
    p, me = collectives.size(), collectives.rank()
    model = built(run, seed=me)
    sharded = Zero(model, OPTIMIZERS[run.optimizer], stage, DECAY)
    names = {q: n for n, q in model.named_parameters()}
    held = {}

    def backward(step):
        data, total = batch(step), torch.zeros((), dtype=run.dtype)
        for i in range(accumulation):
            part = rows(rows(data, p, me), accumulation, i)
            loss = summed_loss(model(part.ids), part.targets) / kept(data)
            loss.backward()
            total = total + loss.detach()
        held.update(sharded.held())  # all that is there: after backward, before the update
        return loss_of_all(total)

    def gradients():
        made = [(q, s.grad.clone()) for q, s in sharded.shards.items() if s.grad is not None]
        return {names[q]: collectives.all_gather(g, q.numel()).view(q.shape) for q, g in made}

    found = figures(backward, sharded.clip, sharded.step, gradients, sharded.whole)
    return found, held, sharded.most_gathered, sum(q.numel() for q in model.parameters())


@several
def test_zero_and_the_bytes_that_each_rank_holds(ranks):
    accumulated = {2: Run("tied", "sgd"), 3: Run("llama", "sgd")}  # by stage
    trained = [*DOUBLE[:2], SINGLE[1]] if ranks == 2 else DOUBLE[:2]
    others = [*FREEZING, MIXED] if ranks == 2 else []
    expected = known([*trained, *others, *accumulated.values()])

    def check():
        p = collectives.size()
        for run, stage in itertools.product(trained, (1, 2, 3)):
            with case(f"stage {stage}"):
                found, held, gathered, N = zero_run(run, stage)
                equal(run, found, expected[run])
                size, own, moments = run.dtype.itemsize, N / p, {"adamw": 2, "sgd": 1}[run.optimizer]
                slack = 60 * size  # a parameter's shards differ by one number
                state = {
                    "parameters": own if stage == 3 else N,
                    "gradients": N if stage == 1 else own,
                    "optimizer": moments * own,
                }
                for what, numbers in state.items():
                    tensors = 2 if what == "optimizer" else 1
                    assert abs(held[what] - size * numbers) <= slack * tensors, (what, held, numbers)
                if stage == 3:
                    assert gathered < size * N * 0.75  # never the whole model: the rest and one block
        for stage, run in accumulated.items() if p == 2 else ():
            with case(f"stage {stage}, accumulated"):
                equal(run, zero_run(run, stage, accumulation=2)[0], expected[run])
        for run, stage in itertools.product(others, (1, 2, 3)):
            with case(f"stage {stage}, {run}"):
                found, held, gathered, N = zero_run(run, stage)
                equal(run, found, expected[run])
                if stage == 3 and run != MIXED:
                    assert held["parameters"] <= 8 * (N / p + 60)  # frozen ones are sharded too
                    assert gathered < 8 * N * 0.75
        with pytest.raises(ValueError, match="stage=4"):
            Zero(model_of(PLAIN), OPTIMIZERS["sgd"], 4)

    launch(check, ranks, timeout=240)


def test_zero_keeps_the_optimizer_s_own_decay():
    """Without weight_decay it holds for all parameters, as in one process; with one, for the matrices."""

    def make(groups):
        return SGD(groups, lr=0.1, weight_decay=0.3)

    one = built(DOUBLE[0])
    alone, grouped = make(list(one.parameters())), make(decay_groups(one, 0.1))
    expected = []
    for optimizer in (alone, grouped):
        one.load_state_dict(built(DOUBLE[0]).state_dict())
        for p in one.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        expected.append(weights_of(one))

    def check():
        for wanted, decay in zip(expected, ({}, {"weight_decay": 0.1}), strict=True):
            for stage in (1, 2, 3):
                model = built(DOUBLE[0])
                zero = Zero(model, make, stage, **decay)
                (0 * model(batch(0).ids).sum()).backward()
                zero.step()
                for name, value in zero.whole().items():
                    torch.testing.assert_close(value, wanted[name], atol=0, rtol=1e-15, msg=name)

    launch(check, 2)


def test_zero_with_a_parameter_that_some_ranks_do_not_use():
    """Sums are taken in one order on all ranks, whatever each of them has used."""

    def check():
        found = []
        for stage in (1, 2, 3):
            torch.manual_seed(0)
            model = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3)).double()
            model.forward = lambda x, i, model=model: model[2](model[i](x))
            zero = Zero(model, lambda groups: SGD(groups, lr=1.0), stage)
            x = torch.full((1, 2), 10.0 ** collectives.rank(), dtype=torch.float64)
            model(x, collectives.rank()).sum().backward()
            zero.step()
            found.append(zero.whole())
        return found

    torch.manual_seed(0)
    model = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3)).double()
    for i in (0, 1):
        model[2](model[i](torch.full((1, 2), 10.0**i, dtype=torch.float64))).sum().backward()
    for of_rank in launch(check, 2):
        for found in of_rank:
            for name, p in model.named_parameters():
                torch.testing.assert_close(found[name], (p - p.grad).detach(), atol=1e-14, rtol=1e-14)


def test_a_look_between_two_steps_leaves_no_old_weights():
    """A forward whose backward never comes leaves gathered parameters behind: the update makes them old."""
    run, expected = DOUBLE[0], known(DOUBLE[:1])[DOUBLE[0]]

    def check():
        look, step = Zero.clip, []

        def clip(self, most):
            norm = look(self, most)
            self.model(batch(len(step)).ids)
            with torch.no_grad():
                self.model(batch(len(step)).ids)
            return norm

        with patch.object(Zero, "clip", clip):
            for stage in (1, 2, 3):
                equal(run, zero_run(run, stage)[0], expected)

    launch(check, 2)


# tensor parallel


def tensor_parallel_run(run, sequence):
    model = built(run, seed=collectives.rank())
    parallel = TensorParallel(model, sequence=sequence)
    in_last_step = {}

    def backward(step):
        data = batch(step)
        with collectives.traffic() as sent:
            loss = tensor_parallel.cross_entropy(model(data.ids), data.targets, parallel.start) / kept(data)
            loss.backward()
        in_last_step.update(sent)
        parallel.finish()
        return loss.detach()

    update = updating(OPTIMIZERS[run.optimizer](decay_groups(model, DECAY)))
    return figures(
        backward, parallel.clip, update, lambda: parallel.whole(gradients=True), parallel.whole
    ), in_last_step


@several
def test_tensor_parallel(ranks):
    expected = known(runs_of(ranks))

    def check():
        for sequence in (False, True):
            with case(f"sequence={sequence}"):
                for run in expected:
                    found, sent = tensor_parallel_run(run, sequence)
                    equal(run, found, expected[run])
                    if run == DOUBLE[2]:
                        count(sent, sequence, run.dtype.itemsize)

    def count(sent, sequence, size):
        """A block: two sums forward, two backward; the table's rows one, the head's input one."""
        p, tokens = collectives.size(), B * T
        one_way = (p - 1) / p * tokens * PLAIN.d_model  # a sum is twice that
        if not sequence:
            per_token = 3 * 2 * (p - 1) / p * tokens  # of the loss: maximum, sum, the target's logit
            numbers = 2 * (4 * PLAIN.n_layers + 2) * one_way + per_token
            assert abs(sum(sent.values()) - size * numbers) <= 16 * len(sent)
        else:  # reduce-scatter and all-gather in place of each sum; the embedding's output is gathered too
            blocks = sent.get("ring all-gather", 0) + sent.get("ring reduce-scatter", 0)
            assert blocks == size * (2 * (4 * PLAIN.n_layers + 1) + 1 + 1 - 1) * one_way

    launch(check, ranks, timeout=240)


def test_tensor_parallel_refuses():
    def check():
        for changes, message in [
            ({"n_kv_heads": 1}, "n_kv_heads=1 over 2 ranks"),
            ({"dropout": 0.1}, "dropout=0.1"),
            ({"family": "encoder"}, "family='encoder'"),
            ({"vocab_size": 1}, "some would hold nothing"),
        ]:
            with pytest.raises(ValueError, match=message):
                TensorParallel(model_of(PLAIN.with_(**changes)))
        model = model_of(PLAIN)
        TensorParallel(model, sequence=True)
        with pytest.raises(ValueError, match="3 tokens over 2 ranks"):
            model(torch.zeros(1, 3, dtype=torch.long))

    launch(check, 2)


# pipeline


def pipeline_run(run, make, microbatches, v=1):
    p, s = collectives.size(), collectives.rank()
    model = built(run, seed=s)
    collectives.share(model)
    parts = [Part(model, c * p + s, p * v) for c in range(v)]
    parallel, own, order = PipelineParallel(parts), torch.nn.ModuleList(parts), make(p, microbatches)[s]
    names = {q: n for n, q in model.named_parameters()}
    names |= {b: n for n, b in model.state_dict(keep_vars=True).items()}

    def backward(step):
        data = batch(step)
        loss = lambda logits, part: summed_loss(logits, part.targets) / kept(data)
        ran = parallel.run(order, [rows(data, microbatches, i) for i in range(microbatches)], loss)
        assert [span.action for span in ran.spans] == order
        assert ran.most_held == schedules.most_held(order)
        parallel.finish()
        return loss_of_all(torch.tensor(ran.loss, dtype=torch.float64))

    class Nothing:  # a stage of which all is frozen
        def step(self):
            pass

        zero_grad = step

    learns = any(q.requires_grad for q in own.parameters())
    update = updating(OPTIMIZERS[run.optimizer](decay_groups(own, DECAY)) if learns else Nothing())
    own_state = lambda: {names[x]: x.detach() for x in own.state_dict(keep_vars=True).values() if x in names}
    gradients = lambda: {names[q]: q.grad.clone() for q in own.parameters() if q.grad is not None}
    return figures(backward, parallel.clip, update, gradients, own_state)


@several
def test_pipeline(ranks):
    tied = Run("tied", "sgd")
    expected = known([*runs_of(ranks), tied])

    def check():
        for run in expected:
            found = pipeline_run(run, schedules.gpipe, 4)
            equal(run, found, expected[run])
            if run == DOUBLE[2]:
                names = set(found["weights"])
            if run in DOUBLE:
                with case("1F1B"):
                    equal(run, pipeline_run(run, schedules.one_forward_one_backward, 8), expected[run])
        if collectives.size() == 2:
            with case("two chunks"):
                by_chunks = pipeline_run(tied, lambda p, m: schedules.interleaved(p, m, 2), 4, 2)
                equal(tied, by_chunks, expected[tied])
        return names

    stages = launch(check, ranks, timeout=240)
    assert set().union(*stages) == set(one(DOUBLE[2])["weights"])  # every parameter stands on one stage
    assert sum(map(len, stages)) == len(one(DOUBLE[2])["weights"])


def test_the_bubble_of_what_ran_is_the_formula():
    """No clock decides, but what waits for what: a message carries its time of sending, in units of work."""
    forward, backward = 1, 2

    class Counted(torch.nn.Module):
        """One unit forward, two backward; each starts when the one before is done and its input is here."""

        first = last = False
        dtype = torch.float32

        def __init__(self, config):
            super().__init__()
            self.config, self.now, self.spans = config, 0.0, []

        def work(self, arrived, units):
            start = max(self.now, arrived)
            self.now = start + units
            self.spans.append((start, self.now))
            return self.now

        def forward(self, x):
            if not x.is_floating_point():
                x = torch.zeros(*x.shape, self.config.d_model, requires_grad=True)
            return Step.apply(x, self)

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, module):
            ctx.module = module
            return torch.full_like(x, module.work(float(x.max()), forward))

        @staticmethod
        def backward(ctx, gradient):
            return torch.full_like(gradient, ctx.module.work(float(gradient.max()), backward)), None

    orders = {make: make(4, 5) for make in (schedules.gpipe, schedules.one_forward_one_backward)}

    def check():
        return [counted_spans(order[collectives.rank()], 5) for order in orders.values()]

    def counted_spans(order, m):
        part = Counted(PLAIN)
        data = [Batch(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))] * m
        last_has_no_gradient_to_wait_for = lambda y, _: 0 * y.sum()
        ran = PipelineParallel([part]).run(order, data, last_has_no_gradient_to_wait_for)
        pairs = zip(ran.spans, part.spans, strict=True)
        return [replace(span, start=start, end=end) for span, (start, end) in pairs]

    for make, counted in zip(orders, zip(*launch(check, 4), strict=True), strict=True):
        assert schedules.bubble(counted) == pytest.approx(schedules.bubble_share(4, 5), abs=1e-12), make
        assert list(counted) == schedules.timeline(orders[make], forward, backward), make


def test_parts_refuse():
    for family, part, parts, message in [
        ("encoder", 0, 2, "family='encoder'"),
        ("decoder", 0, 5, "use at most n_layers"),
        ("decoder", 2, 2, "part 2 of 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            Part(model_of(PLAIN.with_(family=family)), part, parts)


# context parallel


def context_parallel_run(run):
    model = built(run, seed=collectives.rank())
    parallel = ContextParallel(model)

    def backward(step):
        data = batch(step)
        loss = summed_loss(parallel(parallel.own(data.ids)), parallel.own(data.targets)) / kept(data)
        loss.backward()
        parallel.finish()
        return loss_of_all(loss)

    update = updating(OPTIMIZERS[run.optimizer](decay_groups(model, DECAY)))
    return figures(
        backward,
        lambda most: clip_gradients(model.parameters(), most),
        update,
        lambda: gradients_of(model),
        lambda: weights_of(model),
    )


@several
def test_context_parallel(ranks):
    expected = known(runs_of(ranks))

    def check():
        for run in expected:
            equal(run, context_parallel_run(run), expected[run])

    launch(check, ranks, timeout=240)


def test_ring_attention_equals_torch_in_value_and_gradient():
    def check(causal):
        p, r = collectives.size(), collectives.rank()
        draw = torch.Generator().manual_seed(0)
        q, k, v, out = (torch.randn(2, 3, 16, 8, generator=draw, dtype=torch.float64) for _ in range(4))
        q, k, v = (30 * x if x is q else x for x in (q, k, v))  # sharp: maxima differ much from part to part
        own = [x.tensor_split(p, 2)[r].clone().requires_grad_() for x in (q, k, v)]
        with collectives.traffic() as sent:
            y = context_parallel.RingAttention.apply(*own, causal, None)
        y.backward(out.tensor_split(p, 2)[r])
        whole = [x.clone().requires_grad_() for x in (q, k, v)]
        expected = torch.nn.functional.scaled_dot_product_attention(*whole, is_causal=causal)
        expected.backward(out)
        # scores reach some 30 * 8 = 240: rounded to 240 eps each, sums of 16 of them; a gradient of k bears
        # the factor 30 once more
        within = 240 * 16 * 30 * torch.finfo(torch.float64).eps
        torch.testing.assert_close(y, expected.tensor_split(p, 2)[r], atol=within, rtol=within)
        for a, b in zip(own, whole):
            torch.testing.assert_close(a.grad, b.grad.tensor_split(p, 2)[r], atol=within, rtol=within)
        assert sent.total() == (p - 1) * 2 * own[1].numel() * 8  # keys and values, p - 1 times on

    def both():
        for causal in (False, True):
            with case(f"causal={causal}"):
                check(causal)

    launch(both, 4)


# what the bound is for


def test_the_bound_refuses_mistakes():
    """A gradient not summed or scaled by 1 / p, a bias left out, momentum forgotten: each differs from one
    process by far more than the bound, in both types.
    """
    runs = [DOUBLE[0], SINGLE[0]]
    expected = known(runs)

    def without_bias(self, linear):
        return lambda x: tensor_parallel._Sum.apply(x @ linear.weight, self.group)

    def unsummed(ctx, gradient):
        return gradient, None

    def forget(self, step=Zero.step):
        step(self)
        self.optimizer.state.clear()

    cut = lambda run: tensor_parallel_run(run, False)[0]
    scaled = lambda run: data_parallel_run(run, scale=1 / collectives.size())[0]
    mistakes = [
        (patch.object(ContextParallel, "finish", lambda self: None), context_parallel_run),
        (patch.object(tensor_parallel._Copy, "backward", unsummed), cut),
        (contextlib.nullcontext(), scaled),
        (patch.object(TensorParallel, "_summed", without_bias), cut),
        (patch.object(Zero, "step", forget), lambda run: zero_run(run, 1)[0]),
    ]

    def check():
        least = []
        for run in runs:
            for mistake, trained in mistakes:
                with mistake:
                    found = trained(run)
                with pytest.raises(AssertionError, match="apart, more than"):
                    equal(run, found, expected[run])
                least.append(max(apart(found, expected[run][0]).values()))
        return min(least)

    for least in launch(check, 2, timeout=120):
        # a hundred times the bound in float32, a million times and more that in float64
        assert least > 1e-3
