"""Ours equal torch's own over 100 steps; a tied weight is updated once; clipping keeps the direction."""

import copy
import math

import pytest
import torch
from helpers import BASE, ids_of, model_of

from llmcore import optim
from llmcore.functional import cross_entropy

PAIRS = {
    "sgd": (optim.SGD, torch.optim.SGD, {"lr": 0.1}),
    "momentum": (optim.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "l2": (optim.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    "adam": (optim.AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.0}),
    "adamw": (optim.AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.95)}),
}


def train(model, optimizer, steps=100, clip=None):
    ids = ids_of(4, 8, seed=3)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(ids)[:, :-1], ids[:, 1:]).backward()
        if clip:
            clip(model.parameters(), 0.5)
        optimizer.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("groups", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", PAIRS)
def test_equals_torch_over_100_steps(name, groups):
    ours, theirs, options = PAIRS[name]
    result = []
    for kind in (ours, theirs):
        model = model_of(BASE.with_(tied=True)).double()
        params = optim.decay_groups(model, options.get("weight_decay", 0.0)) if groups else model.parameters()
        result.append(train(model, kind(params, **options)))
    # float64: only the order of operations differs. What it makes of a gradient that is truly 0 (a key bias)
    # is noise of 1e-17; a step of AdamW is lr m / (sqrt(v) + eps), so at most 1e-2 * 1e-17 / 1e-8 = 1e-11 of
    # that, in 100 steps 1e-9.
    torch.testing.assert_close(*result, atol=1e-9, rtol=1e-9)


def test_a_state_dict_continues_the_run():
    model = model_of(BASE)
    optimizer = optim.AdamW(model.parameters())
    train(model, optimizer, 5)
    twin = model_of(BASE)
    twin.load_state_dict(model.state_dict())
    other = optim.AdamW(twin.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for a, b in zip(train(model, optimizer, 5), train(twin, other, 5), strict=True):
        assert torch.equal(a, b)


def test_decay_groups_hold_each_parameter_once():
    model = model_of(BASE.with_(tied=True))
    decayed, kept = (g["params"] for g in optim.decay_groups(model, 0.1))
    assert {id(p) for p in decayed + kept} == {id(p) for p in model.parameters()}
    assert len(decayed) + len(kept) == len(list(model.parameters()))
    assert all(p.ndim >= 2 for p in decayed)
    assert all(p.ndim == 1 for p in kept)


@pytest.mark.parametrize("max_norm", [0.1, 1e3])
def test_clipping_equals_torch(max_norm):
    grads, norms = [], []
    for clip in (optim.clip_gradients, torch.nn.utils.clip_grad_norm_):
        model, ids = model_of(BASE).double(), ids_of(4, 8)
        cross_entropy(model(ids), ids).backward()
        norms.append(clip(model.parameters(), max_norm))
        grads.append([p.grad for p in model.parameters()])
    within = (
        sum(p.numel() for p in model.parameters()) ** 0.5 * torch.finfo(torch.float64).eps
    )  # the norm is one sum of squares
    torch.testing.assert_close(*norms, atol=0, rtol=within)
    torch.testing.assert_close(*grads, atol=0, rtol=2 * within)


def test_schedules_equal_compositions_of_torchs_own():
    """Warm-up 10, then cosine or plateau and decay, over 100 steps."""
    from torch.optim import lr_scheduler as lrs

    def rates(make):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler, seen = make(optimizer), []
        for _ in range(100):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return torch.tensor(seen, dtype=torch.float64)

    rise = lambda o: lrs.LinearLR(o, 1 / 11, 1.0, total_iters=10)
    cosine = rates(lambda o: lrs.SequentialLR(o, [rise(o), lrs.CosineAnnealingLR(o, 90, eta_min=0.1)], [10]))
    table = lambda at: torch.tensor([at(s) for s in range(100)], dtype=torch.float64)
    near = {
        "atol": 100 * torch.finfo(torch.float64).eps,
        "rtol": 0,
    }  # torch makes each rate from the one before, 100 times
    ours = table(optim.warmup_cosine(100, 10, 0.1))
    torch.testing.assert_close(ours, cosine, **near)
    flat = lambda o: lrs.ConstantLR(o, 1.0, total_iters=0)
    fall = lambda o: lrs.LinearLR(o, 1.0, 0.1, total_iters=20)
    stable = rates(lambda o: lrs.SequentialLR(o, [rise(o), flat(o), fall(o)], [10, 80]))
    ours = table(optim.warmup_stable_decay(100, 10, 0.1))
    torch.testing.assert_close(ours, stable, **near)
    ours = table(optim.constant(100, 10))
    torch.testing.assert_close(ours, rates(rise), **near)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_a_schedule_stays_between_zero_and_one_and_after_its_end(name):
    at = optim.SCHEDULES[name](50, 5)
    assert all(0 <= at(s) <= 1 for s in range(80))
    assert math.isclose(at(5), 1.0)


def test_weight_decay_is_not_l2_in_adam():
    """L2 passes through the division by sqrt(v); decay does not."""
    a, b = (torch.tensor([1.0, 100.0], requires_grad=True) for _ in range(2))
    decoupled, l2 = (
        optim.AdamW([a], lr=0.1, weight_decay=0.1),
        torch.optim.Adam([b], lr=0.1, weight_decay=0.1),
    )
    for p, opt in ((a, decoupled), (b, l2)):
        p.grad = torch.zeros(2)
        opt.step()
    torch.testing.assert_close(a.detach(), torch.tensor([0.99, 99.0]))
    torch.testing.assert_close(b.detach(), torch.tensor([0.9, 99.9]))


SETTINGS = {"sgd": ("lr", "momentum", "weight_decay"), "adamw": ("lr", "betas", "eps", "weight_decay")}


@pytest.mark.parametrize("in_a_group", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -5.0])
@pytest.mark.parametrize(("name", "setting"), [(n, s) for n, names in SETTINGS.items() for s in names])
def test_every_setting_is_finite_and_in_its_range(name, setting, value, in_a_group):
    """As an argument, and as what a group of parameters sets for itself."""
    group = {"params": [torch.zeros(1, requires_grad=True)]}
    given = {setting: (0.9, value) if setting == "betas" else value}
    with pytest.raises(ValueError, match=rf"{'beta2' if setting == 'betas' else setting}={value}: "):
        optim.OPTIMIZERS[name]([group | given if in_a_group else group], **({} if in_a_group else given))


@pytest.mark.parametrize("value", [math.nan, math.inf, -5.0])
def test_groups_with_an_impossible_decay_are_not_made(value):
    """The fused update is torch's own, which looks at no group."""
    with pytest.raises(ValueError, match=f"weight_decay={value}: must be 0 or more, and finite"):
        optim.decay_groups(model_of(BASE), value)


def test_parameters_of_16_bits_are_refused_where_eps_would_be_0():
    """torch's own update makes them NaN at the first step without a gradient, 0 / (0 + 0)."""
    theta = torch.ones(2, dtype=torch.float16, requires_grad=True)
    theta.grad = torch.tensor([1e-5, 1.0], dtype=torch.float16)
    torch.optim.AdamW([theta]).step()
    assert not theta.isfinite().all()
    with pytest.raises(
        ValueError, match=r"shape \(2,\) is float16, where squares of gradients and eps become 0: keep"
    ):
        optim.AdamW([theta])
    optim.SGD([theta])


def test_mistakes_are_named():
    p = [torch.zeros(1, requires_grad=True)]
    with pytest.raises(ValueError, match="lr=-1: must be 0 or more"):
        optim.SGD(p, lr=-1)
    with pytest.raises(ValueError, match="momentum=1.0: is a share"):
        optim.SGD(p, momentum=1.0)
    with pytest.raises(ValueError, match="beta2=1.5"):
        optim.AdamW(p, betas=(0.9, 1.5))
    with pytest.raises(ValueError, match="weight_decay=-0.1"):
        optim.AdamW(p, weight_decay=-0.1)
    with pytest.raises(ValueError, match="empty parameter list"):
        optim.AdamW([])
    with pytest.raises(ValueError, match="max_norm=0"):
        optim.clip_gradients(p, 0)
    with pytest.raises(ValueError, match=r"warmup=11: must lie in 0\.\.total=10"):
        optim.warmup_cosine(10, 11)
    with pytest.raises(ValueError, match="floor=2"):
        optim.warmup_cosine(10, 1, 2)
    with pytest.raises(ValueError, match="decay=0"):
        optim.warmup_stable_decay(10, 1, 0, 0)
