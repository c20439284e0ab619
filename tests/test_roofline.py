"""Operations are torch's count, bytes those of the tensors, and no computation is measured above its roof."""

import math
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmcore import roofline
from llmcore.accounting import training_flops
from llmcore.config import GPT2, SMALL
from llmcore.functional import cross_entropy
from llmcore.model import Transformer
from llmcore.roofline import Cost, Machine, best_seconds, measure, mfu, product

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 768, 3072), (6, 4, 4), (33, 5, 7)])
def test_a_product_is_what_torch_counts_and_the_tensors_weigh(m, k, n, dtype):
    a, b = torch.ones(m, k, dtype=dtype), torch.ones(k, n, dtype=dtype)
    with FlopCounterMode(display=False) as counter:
        y = a @ b
    assert product(m, k, n, a.element_size()) == Cost(
        counter.get_total_flops(), a.nbytes + b.nbytes + y.nbytes
    )


def test_the_two_roofs_meet_at_the_ridge():
    machine = Machine(flops=80e9, bandwidth=10e9)
    assert machine.ridge == 8
    assert [machine.rate(i) for i in (4, 8, 16)] == [40e9, 80e9, 80e9]
    for cost in (Cost(1e9, 1e9), Cost(1e9, 1e6), product(64, 64, 64)):
        assert machine.seconds(cost) == pytest.approx(cost.flops / machine.rate(cost.intensity), rel=1e-12)


def test_utilisation_is_that_of_counted_operations():
    """A step that takes as long as its counted products would at the full rate has used all of it."""
    config = SMALL.with_(n_layers=2, context_length=32, attention="explicit")
    model, ids = Transformer(config), torch.zeros(3, 17, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()
    assert counter.get_total_flops() == training_flops(config, 3, 16)
    assert mfu(config, 3, 16, counter.get_total_flops() / 1e9, 1e9) == pytest.approx(1)


def test_the_best_of_some_runs_by_the_thread_s_own_time():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert best_seconds(lambda: time.sleep(0.05), CPU, 2) < 0.02  # asleep is not at work
        machine = measure(CPU)
    finally:
        torch.set_num_threads(threads)
    assert 1e8 < machine.bandwidth < 1e13
    assert 1 < machine.ridge < 1000


def test_the_first_run_does_not_count(monkeypatch):
    runs = []
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: sum(runs))
    monkeypatch.setattr(roofline.torch, "get_num_threads", lambda: 2)
    assert best_seconds(lambda: runs.append([9, 5, 3, 4][len(runs)]), CPU, 3) == 3


def test_mistakes_are_named(as_a_reader_calls_it):
    for call, message in (
        (lambda: product(0, 1, 1), "m=0: must be"),
        (lambda: product(1, 2.5, 1), "k=2.5: must be"),
        (lambda: product(1, 1, 1, 0), "bytes_per_number=0: must be"),
        (lambda: mfu(GPT2, 1, 8, 0.0, 1.0), "seconds=0.0"),
        (lambda: mfu(GPT2, 1, 8, math.nan, 1.0), "seconds=nan"),
        (lambda: mfu(GPT2, 1, 8, 1.0, math.inf), "flops_per_second=inf"),
        (lambda: mfu(GPT2, -1, 8, 1.0, 1.0), "B=-1"),
        (lambda: Machine(0.0, 1.0), "flops=0.0: must be"),
        (lambda: Machine(1.0, math.inf), "bandwidth=inf: must be"),
        (lambda: Machine(1.0, 1.0).rate(-1.0), "intensity=-1.0: must be"),
        (lambda: Cost(math.nan, 1.0), "flops=nan: must be"),
        (lambda: Cost(1.0, 0.0), "bytes=0.0: must be"),
        (lambda: best_seconds(lambda: None, CPU, 0), "repeats=0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
