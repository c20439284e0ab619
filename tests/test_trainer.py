"""Resumed equals uninterrupted, accumulated equals large, two processes equal one."""

import math
import os
import re
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
from llmcore.model import Transformer
from llmcore.trainer import LEAST, RANGES, TrainConfig, Trainer, next_token_loss, transformer_loss

TOKENS = np.random.default_rng(0).integers(0, 23, 400)
CONFIG = TrainConfig(steps=12, lr=0.01, warmup=3)
MODEL = BASE.with_(dropout=0.2, tied=True)
# Without biases: a key bias adds the same number to all scores of a row, so its true gradient is 0, and Adam
# makes full steps of what rounding leaves. No two computations agree on those.
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
    """Of a training of PLAIN in float64; the longest sums, in the gradients, run over a step's tokens."""
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
@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(p, marks=pytest.mark.slow) for p in ("bf16", "fp16"))]
)
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
    # the loss is a sum over all targets, cut in another way
    rounded = batch.targets.numel() * torch.finfo(torch.float64).eps
    assert math.isclose(records[-1].eval_loss, expected, rel_tol=rounded)
    assert outcome(trainer(dtype=torch.float64).run())[-1][3] == records[-1].loss


def test_early_stop_waits_for_patience():
    config = replace(CONFIG, steps=200, lr=1e-12, eval_every=1, patience=3, schedule="constant", warmup=0)
    t = trainer(config, eval_windows=windows(seed=9))
    t.best = -1.0  # no evaluation can be better
    assert len(list(t.run())) == 3


@pytest.mark.slow
def test_compiled_equals_eager(as_a_reader_calls_it):
    config = replace(CONFIG, steps=2, warmup=0)
    eager, compiled = exact(config), exact(config)
    # "eager": the same graph, without a compiler's minutes
    compiled.forward = torch.compile(compiled.model, backend="eager")
    assert max(apart(figures(compiled), figures(eager)).values()) <= bound(config)


def test_a_loss_that_is_not_finite_names_the_step():
    t = trainer()
    with torch.no_grad():
        t.model.embedding.table[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="the loss of step 1 is nan: lower lr"):
        next(t.run())


NUMBERS = [f for f in TrainConfig.__dataclass_fields__.values() if f.type in ("int", "float", int, float)]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -5, "1", None, True])
def test_every_number_of_a_config_is_finite_and_in_its_range(field, value, as_a_reader_calls_it):
    with pytest.raises(ValueError, match=re.escape(f"{field.name}={value!r}: ")):
        TrainConfig(**{"steps": 12} | {field.name: value})


def test_every_number_of_a_config_has_a_range():
    """So that a field that is added is checked too."""
    assert {f.name for f in NUMBERS} | {"betas"} == {*LEAST, *RANGES}


def test_other_ids_are_another_run(tmp_path):
    """As many windows, one id changed: refused, and model and position stay as they were."""
    list(trainer(replace(CONFIG, steps=4, checkpoint_every=2), folder=tmp_path).run())
    tokens = TOKENS.copy()
    tokens[200] = (tokens[200] + 1) % 23
    t = Trainer(model_of(MODEL, 2), windows(tokens=tokens), replace(CONFIG, steps=4), folder=tmp_path)
    before = [p.clone() for p in weights(t)]
    with pytest.raises(ValueError, match="other ids: their SHA-256 is .* in the saved position"):
        t.resume()
    assert all(torch.equal(a, b) for a, b in zip(weights(t), before, strict=True))
    assert t.windows.state() == windows(tokens=tokens).state()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["constant", "warmup_stable_decay", "warmup_cosine"])
@pytest.mark.parametrize("stop", [2, 12])
def test_a_longer_run_is_resumed_where_it_equals_an_uninterrupted_one(tmp_path, schedule, stop):
    """From step 2 or 12 of 12 to 20: the schedule gave the same rates so far, or it is refused."""
    config = replace(CONFIG, schedule=schedule, checkpoint_every=2)
    longer = replace(config, steps=20)
    for record in trainer(config, folder=tmp_path).run():
        if record.step == stop:
            break
    again = trainer(longer, folder=tmp_path)
    same = all(config.multiplier(step) == longer.multiplier(step) for step in range(stop))
    assert same == (schedule == "constant" or stop == 2)
    if not same:
        with pytest.raises(
            ValueError,
            match="steps=12 there, 20 here, and with schedule=.*schedule='constant', or 'warmup_stable",
        ):
            again.resume()
        return
    whole = trainer(replace(longer, checkpoint_every=0))
    expected = outcome(whole.run())
    assert outcome(again.resume().run()) == expected[stop:]
    assert all(torch.equal(a, b) for a, b in zip(weights(again), weights(whole), strict=True))
    with pytest.raises(ValueError, match="steps=20 there, 12 here, and 20 steps are done"):
        trainer(config, folder=tmp_path).resume()


def test_a_folder_with_later_steps_is_refused_before_the_first(tmp_path):
    config = replace(CONFIG, steps=6, checkpoint_every=2, keep_checkpoints=1)
    list(trainer(config, folder=tmp_path).run())
    t = trainer(config, folder=tmp_path)
    with pytest.raises(
        ValueError, match="step-00000006 is later than step 0: resume from it, or write to another folder"
    ):
        next(t.run())
    assert t.step == 0
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-00000006"]


def test_an_encoder_learns_no_next_token(as_a_reader_calls_it):
    """Each of its tokens reads the one that it is to predict."""
    for family in ("encoder", "encoder-decoder"):
        model = model_of(MODEL.with_(family=family))
        with pytest.raises(
            ValueError,
            match=f"next-token loss with family='{family}': .*use family='decoder', or pass a loss",
        ):
            Trainer(model, windows(), CONFIG)
        Trainer(model, windows(), CONFIG, loss=next_token_loss)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adamw_fused"])
def test_parameters_without_values_or_of_16_bits_are_refused(optimizer, as_a_reader_calls_it):
    config = replace(CONFIG, optimizer=optimizer)
    with pytest.raises(
        ValueError,
        match=r"is float16, where squares of gradients and eps become 0: keep the parameters in float32",
    ):
        Trainer(model_of(MODEL).half(), windows(), config)
    with torch.device("meta"):
        model = Transformer(MODEL)
    with pytest.raises(ValueError, match="is on the meta device, where a tensor has no values"):
        Trainer(model, windows(), config)


def test_a_run_never_ends_in_weights_that_are_not_finite(tmp_path):
    """The last loss is a number; the update after it is not, and neither is a gradient without clipping."""
    config = replace(CONFIG, steps=1, warmup=0, lr=1e38, weight_decay=100.0, schedule="constant")
    t = trainer(replace(config, lr=1e36), folder=tmp_path)
    with torch.no_grad():
        t.model.embedding.table[0, 0] = 30.0
    with pytest.raises(
        FloatingPointError,
        match=r"after step 1 embedding.table holds numbers that are not finite: lower lr=1e\+36",
    ):
        list(t.run())
    with pytest.raises(FloatingPointError, match="holds numbers that are not finite"):
        t.save()
    assert checkpoint.checkpoints(tmp_path) == []

    def steep(model, batch):
        loss, kept = next_token_loss(model, batch)
        return loss + (model.embedding.table[0, 0] * 0).sqrt() * 0, kept  # 0, and its derivative is infinite

    with pytest.raises(FloatingPointError, match="the gradient of step 1 has norm nan: lower lr"):
        next(trainer(replace(CONFIG, clip=0.0), loss=steep).run())
    held = trainer(replace(CONFIG, eval_every=1, schedule="constant"), eval_windows=windows(seed=9))
    with torch.no_grad():
        held.model.embedding.table[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="the held-out loss after step 0 is nan"):
        held.evaluate()


def test_mistakes_are_named(tmp_path, as_a_reader_calls_it):
    for changes, message in {
        ("steps", 0): "steps=0: must be a whole number of at least 1",
        ("precision", "fp8"): "precision='fp8' is unknown",
        ("optimizer", "adam"): "optimizer='adam' is unknown",
        ("schedule", "cosine"): "schedule='cosine' is unknown",
        ("warmup", 13): r"warmup=13: must lie in 0\.\.total=12",
        ("lr", 0.0): "lr=0.0: need lr > 0",
        ("betas", (0.9,)): "AdamW has two",
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
    settings = replace(CONFIG, steps=60, checkpoint_every=1, keep_checkpoints=2)
    t = Trainer(model_of(MODEL, 1), windows(), settings, folder=folder)
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

    Between the kills every folder that bears a checkpoint's name is whole; the weights at the end are those
    of a run that was never killed.
    """
    random, kills, losses = np.random.default_rng(5), 0, {}
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True, env=env
        )
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
    config = replace(CONFIG, steps=60, checkpoint_every=1, keep_checkpoints=2)
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

    plain = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "schedule": "constant", "warmup": 0}
    config = replace(CONFIG, steps=1, clip=0.0, accumulation=2, **plain)
    ours = exact(config, loss=every_third)
    model, data = model_of(PLAIN, 1).double(), windows()
    sums = [every_third(model, data.next()) for _ in range(2)]
    (sum(s for s, _ in sums) / sum(n for _, n in sums)).backward()
    expected = [p.detach() - 0.1 * p.grad for p in model.parameters()]
    assert next(ours.run()).tokens == sum(n for _, n in sums)
    differences = [float((a - b).abs().max()) for a, b in zip(weights(ours), expected, strict=True)]
    assert max(differences) <= bound(config)
