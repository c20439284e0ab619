"""Resumed equals uninterrupted, accumulated equals large, two processes equal one."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import BASE, Figures, apart, model_of, rounding, shake

from llmcore import checkpoint
from llmcore.data import Batch, Windows
from llmcore.functional import cross_entropy
from llmcore.trainer import TrainConfig, Trainer, next_token_loss, transformer_loss

TOKENS = np.random.default_rng(0).integers(0, 23, 400)
CONFIG = TrainConfig(steps=12, lr=0.01, warmup=3)
MODEL = BASE.with_(dropout=0.2, tied=True)
# Without biases: a key bias adds the same number to all scores of a row, so its true gradient is 0, and Adam makes full steps of
# what rounding leaves. No two computations agree on those.
PLAIN = MODEL.with_(dropout=0.0, bias=False)


def windows(**changes) -> Windows:
    return Windows(**{"tokens": TOKENS, "context_length": 8, "batch_size": 5, "vocab_size": 23} | changes)


def trainer(config=CONFIG, model=MODEL, dtype=torch.float32, **changes) -> Trainer:
    torch.manual_seed(1)
    return Trainer(model_of(model, 1).to(dtype), windows(), config, **changes)


def outcome(run) -> list:
    return [(r.step, r.epoch, r.tokens, r.loss, r.lr, r.gradient_norm, r.eval_loss) for r in run]


def weights(t: Trainer) -> list[torch.Tensor]:
    return [p.detach() for p in t.model.parameters()]


def figures(trainer: Trainer, noise: float = 0.0) -> Figures:
    """Train: losses, norms and counts of tokens of all steps, all tensors of the model after the last."""
    draw, records = torch.Generator().manual_seed(0), []
    shake(trainer.model, noise, draw)
    for r in trainer.run():
        records.append((r.loss, r.gradient_norm, r.tokens))
        if r.step < trainer.config.steps:
            shake(trainer.model, noise, draw)
    losses, norms, tokens = torch.tensor(records, dtype=torch.float64).unbind(1)
    return {"losses": losses, "norms": norms, "tokens": tokens, "weights": whole(trainer.model)}


def whole(model) -> dict[str, torch.Tensor]:
    full = lambda p: p.full_tensor() if hasattr(p, "full_tensor") else p
    return {n: full(p.detach()).clone() for n, p in model.state_dict().items()}


@cache
def bound(config: TrainConfig) -> float:
    """Of a training of PLAIN in float64; the longest sums run over all tokens of a step, in the gradients of the matrices."""
    return rounding(lambda noise: figures(exact(config), noise), 5 * 8 * config.accumulation, torch.float64)


def exact(config: TrainConfig, **changes) -> Trainer:
    return trainer(config, PLAIN, torch.float64, **changes)


def test_the_loop_equals_torch_written_out():
    config, losses, norms = replace(CONFIG, clip=0.3), [], []
    ours = exact(config)
    found = figures(ours)
    model, data = model_of(PLAIN, 1).double(), windows()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    for step, record in enumerate(exact(config).run()):
        rate = (step + 1) / 4 if step < 3 else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 3) / 9))
        for group in theirs.param_groups:
            group["lr"] = 0.01 * rate
        batch = data.next()
        loss = torch.nn.functional.cross_entropy(model(batch.ids).flatten(0, 1), batch.targets.flatten())
        theirs.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        theirs.step()
        losses.append(loss.item())
        norms.append(norm.item())
        assert math.isclose(record.lr, 0.01 * rate)
        assert record.tokens == 40 * record.step
    as_tensor = lambda values: torch.tensor(values, dtype=torch.float64)
    expected = {"losses": as_tensor(losses), "norms": as_tensor(norms), "weights": whole(model)}
    del found["tokens"]
    assert max(apart(found, expected).values()) <= bound(config)


def test_the_fused_update_and_the_loss_without_logits_change_nothing():
    """Trainer's own ways for a Transformer against the plain ones: losses and weights of 12 steps."""
    own = exact(replace(CONFIG, optimizer="adamw_fused"))
    assert own.loss is transformer_loss
    assert max(apart(figures(own), figures(exact(CONFIG, loss=next_token_loss))).values()) <= bound(CONFIG)


def test_the_fused_update_resumes_bit_for_bit(tmp_path):
    config = replace(CONFIG, optimizer="adamw_fused", checkpoint_every=5)
    whole = trainer(config, folder=tmp_path)
    uninterrupted = outcome(whole.run())
    first = checkpoint.checkpoints(tmp_path)[0]
    again = trainer(config, folder=tmp_path / "again").resume(first)
    assert outcome(again.run()) == uninterrupted[5:]
    assert all(torch.equal(a, b) for a, b in zip(weights(again), weights(whole), strict=True))


@pytest.mark.parametrize("stop", [1, 4, 9])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, stop, precision):
    """Dropout on, in the middle of an epoch, records and weights and optimizer alike."""
    config = replace(CONFIG, precision=precision, eval_every=3)
    whole = trainer(config, eval_windows=windows(seed=9))
    expected = outcome(whole.run())
    first = trainer(config, eval_windows=windows(seed=9), folder=tmp_path)
    for record in first.run():
        if record.step == stop:
            break
    first.save()
    torch.manual_seed(999)
    second = Trainer(model_of(MODEL, 2), windows(), config, windows(seed=9), tmp_path).resume()
    assert outcome(second.run()) == expected[stop:]
    for a, b in zip(weights(whole), weights(second), strict=True):
        assert torch.equal(a, b)
    for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        a, b = whole.optimizer.state[p], second.optimizer.state[q]
        assert a["step"] == b["step"]
        assert torch.equal(a["m"], b["m"])
        assert torch.equal(a["v"], b["v"])


def test_accumulated_equals_one_large_batch():
    config = replace(CONFIG, accumulation=3, steps=5)
    large = Trainer(model_of(PLAIN, 1).double(), windows(batch_size=15), replace(config, accumulation=1))
    large.windows.next = lambda data=windows(): _join([data.next() for _ in range(3)])
    assert max(apart(figures(exact(config)), figures(large)).values()) <= bound(config)


def test_accumulated_equals_one_large_batch_with_unequal_target_counts():
    source = windows()
    batches = []
    for n in range(3):
        batch = source.next()
        targets = batch.targets.clone()
        targets[:, : 2 * n] = -100
        batches.append(Batch(batch.ids, targets))
    config = replace(CONFIG, accumulation=3, steps=1, warmup=0)
    small = exact(config)
    small.windows.next = lambda it=iter(batches): next(it)
    [record] = small.run()
    model, joined = model_of(PLAIN, 1).double(), _join(batches)
    loss = cross_entropy(model(joined.ids), joined.targets)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert math.isclose(record.loss, loss.item(), rel_tol=bound(config))
    assert math.isclose(record.gradient_norm, norm.item(), rel_tol=bound(config))


def _join(batches: list[Batch]) -> Batch:
    return Batch(torch.cat([b.ids for b in batches]), torch.cat([b.targets for b in batches]))


def test_evaluation_is_the_mean_over_all_targets_and_leaves_the_run_alone():
    config = replace(CONFIG, eval_every=4)
    t = trainer(config, dtype=torch.float64, eval_windows=windows(seed=9, batch_size=7))
    records = list(t.run())
    assert [r.step for r in records if r.eval_loss is not None] == [4, 8, 12]
    batch = t.eval_windows.take(range(t.eval_windows.count))
    t.model.eval()
    with torch.no_grad():
        expected = cross_entropy(t.model(batch.ids), batch.targets).item()
    rounded = batch.targets.numel() * torch.finfo(torch.float64).eps  # the loss is a sum over all targets, cut in another way
    assert math.isclose(records[-1].eval_loss, expected, rel_tol=rounded)
    assert outcome(trainer(dtype=torch.float64).run())[-1][3] == records[-1].loss


def test_early_stop_waits_for_patience():
    config = replace(CONFIG, steps=200, lr=1e-12, eval_every=1, patience=3, schedule="constant", warmup=0)
    t = trainer(config, eval_windows=windows(seed=9))
    t.best = -1.0  # no evaluation can be better
    assert len(list(t.run())) == 3


def test_compiled_equals_eager(as_a_reader_calls_it):
    config = replace(CONFIG, steps=2, warmup=0)
    eager, compiled = exact(config), exact(config)
    compiled.forward = torch.compile(compiled.model, backend="eager")  # the same graph, without a compiler's minutes
    assert max(apart(figures(compiled), figures(eager)).values()) <= bound(config)


def test_a_loss_that_is_not_finite_names_the_step():
    t = trainer()
    with torch.no_grad():
        t.model.embedding.table[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="the loss of step 1 is nan: lower lr"):
        next(t.run())


def test_mistakes_are_named(tmp_path, as_a_reader_calls_it):
    for changes, message in {
        ("steps", 0): "steps=0: must be at least 1",
        ("precision", "fp8"): "precision='fp8' is unknown",
        ("optimizer", "adam"): "optimizer='adam' is unknown",
        ("schedule", "cosine"): "schedule='cosine' is unknown",
        ("warmup", 13): r"warmup=13: must lie in 0\.\.total=12",
        ("lr", 0.0): "need lr > 0",
        ("patience", 2): "patience=2 without eval_every would be ignored",
        ("momentum", 0.9): "momentum=0.9 with optimizer='adamw' would be ignored",
    }.items():
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **{changes[0]: changes[1]})
    with pytest.raises(ValueError, match="eval_every=2 without eval_windows"):
        trainer(replace(CONFIG, eval_every=2))
    with pytest.raises(ValueError, match="checkpoint_every=2 without folder"):
        trainer(replace(CONFIG, checkpoint_every=2))
    list(trainer(replace(CONFIG, steps=4, checkpoint_every=2), folder=tmp_path).run())
    with pytest.raises(ValueError, match="other settings: steps=4 there, 9 here, lr=0.01 there, 0.5 here"):
        trainer(replace(CONFIG, steps=9, lr=0.5), folder=tmp_path).resume()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        trainer(folder=tmp_path / "none").resume()


CHILD = textwrap.dedent(
    """
    import sys; sys.path.insert(0, {tests!r})
    import torch; torch.set_num_threads(1)
    from dataclasses import replace
    from pathlib import Path
    from test_trainer import CONFIG, MODEL, PLAIN, Trainer, model_of, windows
    folder = Path(sys.argv[1])
    torch.manual_seed(1)
    t = Trainer(model_of(MODEL, 1), windows(), replace(CONFIG, steps=60, checkpoint_every=1, keep=2), folder=folder)
    if folder.exists() and any(folder.glob("step-*")):
        t.resume()
    print("ready", flush=True)
    for record in t.run():
        print(record.step, record.loss.hex(), flush=True)
    """
).format(tests=str(Path(__file__).parent))


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_uninterrupted(tmp_path):
    """kill -9 a run that writes a checkpoint every step, 20 times at random moments, resuming each time.

    Between the kills every folder that bears a checkpoint's name is whole; the weights at the end are those of a run that was
    never killed.
    """
    random, kills, losses = np.random.default_rng(5), 0, {}
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    while True:
        process = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True, env=env)
        assert process.stdout.readline() == "ready\n"
        if kills < 20:
            time.sleep(random.uniform(0.0, 0.08))
            process.send_signal(signal.SIGKILL)
            kills += 1
        for line in process.stdout:
            if line.endswith("\n"):
                step, loss = line.split()
                assert losses.setdefault(step, loss) == loss  # a step that is done again is the same step
        process.wait()
        for folder in checkpoint.checkpoints(tmp_path / "a"):
            checkpoint.verify(folder)
        if process.returncode == 0:
            break
    assert kills == 20
    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = replace(CONFIG, steps=60, checkpoint_every=1, keep=2)
    whole = Trainer(model_of(MODEL, 1), windows(), config, folder=tmp_path / "b")
    expected = {str(r.step): r.loss.hex() for r in whole.run()}
    torch.set_num_threads(2)
    assert losses.items() <= expected.items()
    model = checkpoint.load_model(tmp_path / "a")
    for a, b in zip(weights(whole), model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_count_that_a_loss_returns_scales_the_gradient():
    """A loss that counts only some targets: the update is that of their mean, whatever the batch's size."""

    def every_third(model, batch):
        kept = batch.targets.clone()
        kept[:, torch.arange(kept.shape[1]) % 3 > 0] = -100
        count = int((kept != -100).sum())
        return cross_entropy(model(batch.ids), kept) * count, count

    config = replace(
        CONFIG, steps=1, optimizer="sgd", lr=0.1, weight_decay=0.0, clip=0.0, schedule="constant", warmup=0, accumulation=2
    )
    ours = exact(config, loss=every_third)
    model, data = model_of(PLAIN, 1).double(), windows()
    sums = [every_third(model, data.next()) for _ in range(2)]
    (sum(s for s, _ in sums) / sum(n for _, n in sums)).backward()
    expected = [p.detach() - 0.1 * p.grad for p in model.parameters()]
    assert next(ours.run()).tokens == sum(n for _, n in sums)
    assert max(float((a - b).abs().max()) for a, b in zip(weights(ours), expected, strict=True)) <= bound(config)
