"""The loss without logits equals torch's cross_entropy of the logits, in value and in every gradient, and
never holds them all.
"""

import pytest
import torch
from helpers import within
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from llmcore import loss
from llmcore.config import BERT_BASE, GPT2, VASWANI_BASE
from llmcore.loss import head_loss
from llmcore.model import Transformer

SIZES = {
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 2,
    "d_ff": 32,
    "vocab_size": 37,
    "context_length": 12,
    "dropout": 0.0,
}


def made(N: int, V: int, D: int = 8, dtype: torch.dtype = torch.float32, bias: bool = True) -> tuple:
    torch.manual_seed(0)
    x, table = (torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in ((N, D), (V, D)))
    targets = torch.randint(V, (N,))
    targets[::3] = -100
    return x, table, targets, torch.randn(V, dtype=dtype, requires_grad=True) if bias else None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("N", "V"), [(1, 2), (255, 5), (256, 4097), (257, 4097), (700, 4097), (5000, 300)])
def test_equals_the_loss_of_all_logits(N, V, bias):
    """Chunks of one row up to several, the last not full;
    fp64, so that a chunk left out or counted twice cannot hide.
    """
    x, table, targets, b = made(N, V, dtype=torch.float64, bias=bias)
    if N == 1:
        targets[:] = 1
    leaves = [x, table, *([b] if bias else [])]
    ours = head_loss(x, table, targets, b) * 0.25
    theirs = cross_entropy(x @ table.T + (b if bias else 0), targets, reduction="sum") * 0.25
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-12)
    for got, expected in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("filler", [float("nan"), float("inf"), -float("inf"), 1e38])
@pytest.mark.parametrize("N", [9, 700])
def test_an_ignored_row_changes_nothing_whatever_stands_in_it(N, filler):
    """A chunk and several: value and every gradient are those of the kept rows alone, and the row's own
    is exactly 0.
    """
    x, table, targets, b = made(N, 4097, dtype=torch.float64)
    kept = targets != -100
    with torch.no_grad():
        x[~kept] = filler
        b[7] = -torch.inf  # a token that is forbidden everywhere
    targets[targets == 7] = 8
    loss = head_loss(x, table, targets, b)
    alone = x.detach()[kept].requires_grad_()
    theirs = cross_entropy(alone @ table.T + b, targets[kept], reduction="sum")
    torch.testing.assert_close(loss, theirs, **within(4097, torch.float64))
    d_x, d_table, d_b = torch.autograd.grad(loss, [x, table, b])
    assert (d_x[~kept] == 0).all()
    for got, expected in zip(
        (d_x[kept], d_table, d_b), torch.autograd.grad(theirs, [alone, table, b]), strict=True
    ):
        torch.testing.assert_close(got, expected, **within(4097, torch.float64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16])
def test_targets_of_any_whole_type(dtype):
    x, table, targets, b = made(9, 37)
    targets = targets.clamp(min=0)
    assert torch.equal(head_loss(x, table, targets.to(dtype), b), head_loss(x, table, targets, b))


def test_gradients_equal_finite_differences():
    x, table, targets, b = made(7, 5, 3, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *leaves: head_loss(leaves[0], leaves[1], targets, leaves[2]), (x, table, b)
    )


def test_only_what_needs_a_gradient_gets_one():
    x, table, targets, b = made(6, 5)
    head_loss(x.detach(), table, targets, b).backward()
    assert x.grad is None
    assert table.grad is not None
    with torch.no_grad():
        assert not head_loss(x, table, targets, b).requires_grad


def test_a_loss_of_huge_logits_is_finite():
    x, table = torch.full((2, 1), 1e4), torch.tensor([[1.0], [-1.0]])
    torch.testing.assert_close(head_loss(x, table, torch.tensor([0, 1])), torch.tensor(2e4))


def test_under_autocast_the_loss_is_summed_in_fp32():
    x, table, targets, b = made(600, 50)
    with torch.autocast("cpu", torch.bfloat16):
        ours = head_loss(x, table, targets, b)
        logits = torch.nn.functional.linear(x, table, b)
    assert (ours.dtype, logits.dtype) == (torch.float32, torch.bfloat16)
    theirs = cross_entropy(logits.float(), targets, reduction="sum")
    torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-5)
    for got, expected in zip(
        torch.autograd.grad(ours, [x, table]), torch.autograd.grad(theirs, [x, table]), strict=True
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(
            got, expected, atol=0.02, rtol=0.02
        )  # products in bf16, 8 bits, in another order


CONFIGS = {
    "tied": GPT2.with_(**SIZES),
    "untied": GPT2.with_(**SIZES, tied=False),
    "head with a transform": BERT_BASE.with_(**SIZES),
    "encoder-decoder": VASWANI_BASE.with_(**SIZES),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_with_targets_gives_the_loss_of_its_logits(name):
    """All parameters' gradients too; a tied table's is the sum of both its uses."""
    torch.manual_seed(0)
    model = Transformer(CONFIGS[name])
    ids, targets = torch.randint(37, (2, 9)), torch.randint(37, (2, 9))
    targets[0, :4] = -100
    source = {"source": torch.randint(37, (2, 5))} if name == "encoder-decoder" else {}
    leaves = list(model.parameters())
    ours = model(ids, targets=targets, **source)
    theirs = cross_entropy(model(ids, **source).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-6)
    for got, expected in zip(
        torch.autograd.grad(ours, leaves, allow_unused=True),
        torch.autograd.grad(theirs, leaves, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


class Largest(TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_no_tensor_is_as_large_as_the_logits():
    N, V = 2000, 5000
    x, table, targets, _ = made(N, V, bias=False)
    with Largest() as seen:
        head_loss(x, table, targets).backward()
    assert seen.numbers == max(loss.ROWS, loss.NUMBERS // V) * V  # one chunk of logits
    with Largest() as seen:
        cross_entropy(x @ table.T, targets).backward()
    assert seen.numbers == N * V


def test_mistakes_are_named(as_a_reader_calls_it):
    x, table, targets, b = made(6, 5)
    for wrong in (
        targets[:3],
        targets.view(2, 3),
        targets[:, None],
    ):  # of these (2, 3) has as many as are wanted
        with pytest.raises(ValueError, match="one more axis"):
            head_loss(x, table, wrong)
    with pytest.raises(ValueError, match="targets have type torch.float32"):
        head_loss(x, table, targets.float())
    with pytest.raises(ValueError, match=r"bias \(1,\): x must be"):
        head_loss(x, table, targets, b[:1])  # would broadcast
    model = Transformer(CONFIGS["tied"])
    for wrong in (torch.zeros(18).long(), torch.zeros(9, 2).long(), torch.zeros(2, 10).long()):
        with pytest.raises(ValueError, match=r"logits \(2, 9, 37\) and targets"):
            model(torch.zeros(2, 9).long(), targets=wrong)
    with pytest.raises(ValueError, match="every target is ignore_index"):
        head_loss(x, table, torch.full((6,), -100))
    with pytest.raises(ValueError, match="target 5 is no index of V=5"):
        head_loss(x, table, targets.clamp(min=0) + 5 - targets.clamp(min=0))
