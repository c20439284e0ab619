"""Several processes equal one: gradients, weights after five steps and loss, for every way to split the work.

Each test launches the ranks once and checks there all that it states; `one` is the same run in one process.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from functools import cache

import psutil
import pytest
import torch
import torch.distributed as dist
from helpers import BASE, model_of

from llmcore.data import Batch
from llmcore.distributed import collectives, context_parallel, pipeline, schedules, tensor_parallel
from llmcore.distributed.context_parallel import ContextParallel
from llmcore.distributed.data_parallel import DataParallel
from llmcore.distributed.launch import RankError, launch
from llmcore.distributed.pipeline import Part
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
STEPS, CLIP, DECAY = 5, 0.5, 0.1
# SGD with momentum passes rounding on as it is: 1e-6. AdamW divides by the size of the gradient and so makes whole steps of the
# rounding noise where a true gradient is zero (a key bias) or tiny: its losses and weights are compared to 1e-5.
OPTIMIZERS = {
    "sgd": lambda groups: SGD(groups, lr=0.1, momentum=0.9),
    "adamw": lambda groups: AdamW(groups, lr=0.01, betas=(0.9, 0.95)),
}
WITHIN = {"sgd": 1e-6, "adamw": 1e-5}
RUNS = [("gpt", "sgd"), ("tied", "adamw"), ("llama", "sgd")]
several = pytest.mark.parametrize("ranks", [1, 2, 4])


def batch(step: int, B: int = 8, T: int = 12) -> Batch:
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


@cache
def one(name: str, optimizer: str):
    """What one process does with the whole batches: losses, gradients of the first step (clipped), weights after the last."""
    model = model_of(CONFIGS[name])
    update = OPTIMIZERS[optimizer](decay_groups(model, DECAY))
    losses, norms, gradients = [], [], {}
    for step in range(STEPS):
        data = batch(step)
        loss = cross_entropy(model(data.ids), data.targets)
        update.zero_grad()
        loss.backward()
        norms.append(float(clip_gradients(model.parameters(), CLIP)))
        gradients = gradients or {n: p.grad.clone() for n, p in model.named_parameters()}
        update.step()
        losses.append(float(loss.detach()))
    return losses, norms, gradients, {n: p.detach().clone() for n, p in model.named_parameters()}


def equal(run, losses, norms, gradients, weights):
    """A run's figures against those of one process: gradients and their norm of every step, losses, weights after the last."""
    expected, within = one(*run), WITHIN[run[1]]
    near = lambda a, b, what: torch.testing.assert_close(a, b, atol=within, rtol=within, msg=lambda m: f"{run} {what}: {m}")
    near(torch.tensor(losses), torch.tensor(expected[0]), "losses")
    near(torch.tensor(norms), torch.tensor(expected[1]), "norms")
    for path, value in gradients.items():
        torch.testing.assert_close(value, expected[2][path], atol=1e-6, rtol=1e-6, msg=lambda m, path=path: f"{run} {path}: {m}")
    for path, value in weights.items():
        if not (run[1] == "adamw" and path.endswith("W_k.bias")):
            near(value, expected[3][path], path)


def loss_of_all(own) -> float:
    return float(collectives.ring_all_reduce(own.detach().clone().reshape(1)))


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
            if process.environ().get("LLMCORE_TEST_MARK") == mark:
                found.append(process)
    return found


def leaves_nothing(run):
    """Its error, having checked that no process of it is left, and so none of their ports."""
    mark = os.environ["LLMCORE_TEST_MARK"] = uuid.uuid4().hex
    start = time.monotonic()
    try:
        with pytest.raises(RankError) as caught:
            run()
    finally:
        del os.environ["LLMCORE_TEST_MARK"]
    seconds = time.monotonic() - start
    until = time.monotonic() + 5  # a killed process is gone a moment later
    while left := marked(mark):
        assert time.monotonic() < until, left
        time.sleep(0.05)
    return caught.value, seconds


def test_an_exception_ends_all_ranks_with_its_traceback():
    def fail():
        if dist.get_rank() == 1:
            raise KeyError("boo")
        dist.barrier()

    error, seconds = leaves_nothing(lambda: launch(fail, 3, timeout=60))
    assert error.rank == 1
    assert seconds < 30
    assert "in fail" in str(error)
    assert "KeyError: 'boo'" in str(error)


def test_a_hang_ends_after_the_stated_time_and_shows_where_each_rank_stood():
    def wait_for_ever():
        if dist.get_rank() == 1:
            time.sleep(1000)
        dist.barrier()

    error, seconds = leaves_nothing(lambda: launch(wait_for_ever, 2, timeout=3))
    assert 3 < seconds < 30
    assert re.search(r"rank 0 stood at:.*in barrier.*in wait_for_ever", str(error), re.DOTALL)
    assert re.search(r"rank 1 stood at:.*in wait_for_ever", str(error), re.DOTALL)


def test_a_killed_rank_ends_all():
    def die():
        if dist.get_rank() == 2:
            subprocess.Popen(["sleep", "1000"])  # what a rank starts ends with it too
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()

    error, seconds = leaves_nothing(lambda: launch(die, 3))
    assert error.rank == 2
    assert "SIGKILL" in str(error)
    assert seconds < 30


def test_killing_the_caller_ends_the_ranks(tmp_path):
    script = tmp_path / "call.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, time
            from pathlib import Path
            from llmcore.distributed.launch import launch
            def note():
                Path({str(tmp_path)!r}, str(os.getpid())).touch()
                time.sleep(1000)
            launch(note, 2, timeout=500)
            """
        )
    )
    caller = subprocess.Popen([sys.executable, script])
    until = time.monotonic() + 60
    while len(ranks := [p for p in tmp_path.iterdir() if p.name.isdigit()]) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    caller.kill()
    caller.wait()
    until = time.monotonic() + 10
    while any(psutil.pid_exists(int(p.name)) for p in ranks):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(("ranks", "timeout", "message"), [(0, 1.0, "ranks=0"), (1, 0.0, "timeout=0")])
def test_launch_refuses(ranks, timeout, message):
    with pytest.raises(ValueError, match=message):
        launch(print, ranks, timeout=timeout)


# collectives


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_collectives_equal_torch_and_their_bytes_the_formula(p):
    def check():
        me = collectives.rank()
        for n in (1, 3, 12, 240):  # fewer numbers than ranks too
            x = torch.randn(n, generator=torch.Generator().manual_seed(17 * me + n))
            total = x.clone()
            dist.all_reduce(total)
            for kind, all_reduce in collectives.ALL_REDUCES.items():
                with collectives.traffic() as sent:
                    torch.testing.assert_close(all_reduce(x.clone()), total)
                if n == 240 and p in (1, 2, 4):
                    most = torch.tensor(float(sent.total()))
                    dist.all_reduce(most, dist.ReduceOp.MAX)
                    assert most == schedules.bytes_per_rank(f"{kind} all-reduce", p, 4 * n)
            with collectives.traffic() as sent:
                own = collectives.reduce_scatter(x)
            torch.testing.assert_close(own, total.tensor_split(p)[me])
            if n % p == 0:
                assert sent.total() == schedules.bytes_per_rank("ring reduce-scatter", p, 4 * n)
                assert sent.messages == p - 1
            torch.testing.assert_close(collectives.all_gather(own, n), total)
            for root in range(p):
                theirs = x.clone()
                dist.broadcast(theirs, root)
                assert torch.equal(collectives.broadcast(x.clone(), root), theirs)
                up = collectives.reduce(x.clone(), root)
                if me == root:
                    torch.testing.assert_close(up, total)
        whole = torch.arange(6.0).view(2, 3) + me
        assert torch.equal(collectives.ring_all_reduce(whole), sum(torch.arange(6.0).view(2, 3) + r for r in range(p)))
        for refuse, message in [
            (lambda: collectives.ring_all_reduce(torch.zeros(2, 3).T), "not contiguous"),
            (lambda: collectives.all_gather(torch.zeros(5), 4), "part"),
        ]:
            with pytest.raises(ValueError, match=message):
                refuse()

    launch(check, p)


def test_a_group_is_some_of_the_ranks():
    def check():
        group = dist.new_group([1, 3])
        x = torch.tensor([10.0 ** collectives.rank(), 1.0])
        if collectives.rank() in (1, 3):
            collectives.ring_all_reduce(x, group)
        return x.tolist()

    assert launch(check, 4) == [[1, 1], [1010, 2], [100, 1], [1010, 2]]


# data parallel and ZeRO


@several
def test_data_parallel(ranks):
    def run(which, accumulation, bucket_bytes):
        p, me = collectives.size(), collectives.rank()
        model = model_of(CONFIGS[which[0]], seed=me)  # rank 0's weights go to all
        parallel = DataParallel(model, bucket_bytes)
        update = OPTIMIZERS[which[1]](decay_groups(model, DECAY))
        losses, norms, gradients, bytes_sent = [], [], {}, set()
        for step in range(STEPS):
            data, total = batch(step), torch.zeros(())
            update.zero_grad()
            with collectives.traffic() as sent:
                for i in range(accumulation):
                    part = rows(rows(data, p, me), accumulation, i)
                    loss = summed_loss(model(part.ids), part.targets) / kept(data)
                    if i < accumulation - 1:
                        with parallel.no_sync():
                            loss.backward()
                    else:
                        loss.backward()
                    total = total + loss.detach()
                parallel.finish()
            bytes_sent.add(sent.total())
            losses.append(loss_of_all(total))
            norms.append(float(clip_gradients(model.parameters(), CLIP)))
            gradients = gradients or {n: q.grad.clone() for n, q in model.named_parameters()}
            update.step()
        order = [e.bucket for e in parallel.events if e.what == "ready"]
        early = [e.at for e in parallel.events if e.what == "ready"]
        parallel.remove()
        equal(which, losses, norms, gradients, {n: q.detach() for n, q in model.named_parameters()})
        n_bytes = 4 * sum(q.numel() for q in model.parameters())
        assert all(abs(b - 2 * (p - 1) / p * n_bytes) <= len(parallel.buckets) for b in bytes_sent)
        assert sorted(order) == list(range(len(parallel.buckets)))
        assert order[0] == 0  # the head's gradients come first
        return len(order), early[0] < early[-1]

    def check():
        for which in RUNS:
            run(which, 1, 1 << 20)
        run(("tied", "sgd"), 2, 1 << 20)
        return run(("gpt", "sgd"), 1, 2000)

    for buckets, spread in launch(check, ranks):
        assert buckets > 5
        assert spread  # the first bucket's sum starts before the last gradient is there


def test_data_parallel_with_a_parameter_that_some_ranks_do_not_use():
    def check():
        torch.manual_seed(0)
        model = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
        parallel = DataParallel(model, 1)
        model[collectives.rank()](torch.ones(1, 2)).sum().backward()
        parallel.finish()
        return [q.grad.tolist() for q in model.parameters()]

    assert launch(check, 2) == [[[[1, 1], [1, 1]], [1, 1]] * 2] * 2


def zero_run(which, stage, accumulation=1):
    p, me = collectives.size(), collectives.rank()
    model = model_of(CONFIGS[which[0]], seed=me)
    sharded = Zero(model, OPTIMIZERS[which[1]], stage, DECAY)
    losses, norms = [], []
    for step in range(STEPS):
        data, total = batch(step), torch.zeros(())
        for i in range(accumulation):
            part = rows(rows(data, p, me), accumulation, i)
            loss = summed_loss(model(part.ids), part.targets) / kept(data)
            loss.backward()
            total = total + loss.detach()
        losses.append(loss_of_all(total))
        held = sharded.held()  # all that is there: after backward, before the update
        norms.append(sharded.clip(CLIP))
        if step == 0:
            names = {q: n for n, q in model.named_parameters()}
            gradients = {names[q]: collectives.all_gather(s.grad.clone(), q.numel()).view(q.shape) for q, s in sharded.shards.items()}
        sharded.step()
    equal(which, losses, norms, gradients, sharded.whole())
    return held, sharded.most_gathered, sum(q.numel() for q in model.parameters())


@several
def test_zero_and_the_bytes_that_each_rank_holds(ranks):
    def check():
        p = collectives.size()
        for which in RUNS[:2]:
            for stage in (1, 2, 3):
                held, gathered, N = zero_run(which, stage)
                own, moments = N / p, {"adamw": 2, "sgd": 1}[which[1]]
                slack = 4 * 60  # a parameter's shards differ by one number
                state = {
                    "parameters": own if stage == 3 else N,
                    "gradients": N if stage == 1 else own,
                    "optimizer": moments * own,
                }
                for what, numbers in state.items():
                    assert abs(held[what] - 4 * numbers) <= slack * (1 + (what == "optimizer")), (stage, what, held, numbers)
                if stage == 3:
                    assert gathered < 4 * N * 0.75  # never the whole model: the rest and one block
        zero_run(("tied", "sgd"), 2, accumulation=2)
        zero_run(("llama", "sgd"), 3, accumulation=2)
        with pytest.raises(ValueError, match="stage=4"):
            Zero(model_of(PLAIN), OPTIMIZERS["sgd"], 4)

    launch(check, ranks, timeout=120)


# tensor parallel


@several
@pytest.mark.parametrize("sequence", [False, True])
def test_tensor_parallel(ranks, sequence):
    def run(which):
        model = model_of(CONFIGS[which[0]])
        parallel = TensorParallel(model, sequence=sequence)
        update = OPTIMIZERS[which[1]](decay_groups(model, DECAY))
        losses, norms = [], []
        for step in range(STEPS):
            data = batch(step)
            update.zero_grad()
            with collectives.traffic() as sent:
                loss = tensor_parallel.cross_entropy(model(data.ids), data.targets, parallel.start) / kept(data)
                loss.backward()
            parallel.finish()
            losses.append(float(loss.detach()))
            norms.append(parallel.clip(CLIP))
            if step == 0:
                gradients = parallel.whole(gradients=True)
            update.step()
        equal(which, losses, norms, gradients, parallel.whole())
        return sent

    def check():
        p = collectives.size()
        for which in RUNS:
            sent = run(which)
        # a block: two sums forward, two backward; the table's rows one, the head's input one; a sum is 2 (p - 1) / p of B T D
        D, tokens = PLAIN.d_model, 8 * 12
        numbers = (4 * PLAIN.n_layers + 2) * 2 * (p - 1) / p * tokens * D
        if not sequence:
            per_token = 3 * 2 * (p - 1) / p * tokens  # of the loss: maximum, sum, the target's logit
            assert abs(sent.total() - 4 * (numbers + per_token)) <= 16 * len(sent)
        else:  # reduce-scatter and all-gather in place of each sum; for the embedding's output one gather more
            blocks = sent["ring all-gather"] + sent["ring reduce-scatter"]
            assert blocks == 4 * (2 * (4 * PLAIN.n_layers + 1) + 1 + 1 - 1) * (p - 1) / p * tokens * D

    launch(check, ranks, timeout=120)


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


def pipeline_run(which, make, microbatches, v=1):
    p, s = collectives.size(), collectives.rank()
    model = model_of(CONFIGS[which[0]])
    parts = [Part(model, c * p + s, p * v) for c in range(v)]
    own = torch.nn.ModuleList(parts)
    update = OPTIMIZERS[which[1]](decay_groups(own, DECAY))
    order = make(p, microbatches)[s]
    losses, norms, gradients = [], [], {}
    names = {q: n for n, q in model.named_parameters()}
    for step in range(STEPS):
        data = batch(step)
        update.zero_grad()
        ran = pipeline.run(
            parts, order, [rows(data, microbatches, i) for i in range(microbatches)],
            lambda logits, part, data=data: summed_loss(logits, part.targets) / kept(data),
        )  # fmt: skip
        pipeline.finish(parts)
        losses.append(loss_of_all(torch.tensor(ran.loss)))
        norms.append(pipeline.clip(parts, CLIP))
        gradients = gradients or {names[q]: q.grad.clone() for q in own.parameters()}
        update.step()
    assert [span.work for span in ran.spans] == order
    assert ran.most_held == schedules.most_held(order)
    equal(which, losses, norms, gradients, {names[q]: q.detach() for q in own.parameters()})
    return sorted(gradients)


@several
def test_pipeline(ranks):
    def check():
        p, seen = collectives.size(), []
        for which in RUNS:
            seen = pipeline_run(which, schedules.gpipe, 4)
            pipeline_run(which, schedules.one_forward_one_backward, 8)
        if p == 2:
            pipeline_run(("tied", "sgd"), lambda p, m: schedules.interleaved(p, m, 2), 4, 2)
        return seen

    found = launch(check, ranks, timeout=120)
    assert sorted(n for stage in found for n in stage) == sorted(one("llama", "sgd")[3])  # every parameter stands on one stage


def test_the_bubble_measured_is_the_formula():
    """Stages that sleep, as a processor of their own would work: idle share against (p - 1) / (m + p - 1)."""

    class Sleeping(torch.nn.Module):
        first = last = False

        def __init__(self, config):
            super().__init__()
            self.config, self.weight = config, torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            return Nap.apply(x * self.weight if x.is_floating_point() else self.weight.expand(*x.shape, self.config.d_model))

    class Nap(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            time.sleep(0.05)
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            time.sleep(0.1)
            return gradient

    def check(make, m):
        part = Sleeping(PLAIN)
        dist.barrier()
        data = [Batch(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))] * m
        return pipeline.run([part], make(4, m)[collectives.rank()], data, lambda y, _: y.sum()).spans

    for make in (schedules.gpipe, schedules.one_forward_one_backward):
        for _ in range(3):  # on a busy machine a sleeper wakes late
            measured = schedules.bubble(launch(check, 4, make, 5))
            if measured < schedules.bubble_share(4, 5) + 0.08:
                break
        assert schedules.bubble_share(4, 5) - 0.01 < measured < schedules.bubble_share(4, 5) + 0.08


def test_parts_refuse():
    for family, part, parts, message in [
        ("encoder", 0, 2, "family='encoder'"),
        ("decoder", 0, 5, "use at most n_layers"),
        ("decoder", 2, 2, "part 2 of 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            Part(model_of(PLAIN.with_(family=family)), part, parts)


# context parallel


@several
def test_context_parallel(ranks):
    def check():
        for which in RUNS:
            model = model_of(CONFIGS[which[0]])
            parallel = ContextParallel(model)
            update = OPTIMIZERS[which[1]](decay_groups(model, DECAY))
            losses, norms, gradients = [], [], {}
            for step in range(STEPS):
                data = batch(step)
                update.zero_grad()
                targets = parallel.own(data.targets)
                loss = summed_loss(parallel(parallel.own(data.ids)), targets) / kept(data)
                loss.backward()
                parallel.finish()
                losses.append(loss_of_all(loss))
                norms.append(float(clip_gradients(model.parameters(), CLIP)))
                gradients = gradients or {n: q.grad.clone() for n, q in model.named_parameters()}
                update.step()
            equal(which, losses, norms, gradients, {n: q.detach() for n, q in model.named_parameters()})

    launch(check, ranks)


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
        torch.testing.assert_close(y, expected.tensor_split(p, 2)[r], atol=1e-10, rtol=1e-10)
        for a, b in zip(own, whole):
            torch.testing.assert_close(a.grad, b.grad.tensor_split(p, 2)[r], atol=1e-10, rtol=1e-10)
        assert sent.total() == (p - 1) * 2 * own[1].numel() * 8  # keys and values, p - 1 times on

    for causal in (False, True):
        launch(check, 4, causal)
