"""A norm forgets length, keeps its type, and equals torch's."""

import pytest
import torch

from llmcore.norm import NORMS

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
TORCH = {"layer": torch.nn.LayerNorm, "rms": torch.nn.RMSNorm}


@pytest.mark.parametrize("name", NORMS)
def test_scaling_the_input_changes_nothing(name):
    """f(c x) == f(x)."""
    norm = NORMS[name](8, eps=0.0)
    torch.testing.assert_close(norm(7.0 * X), norm(X), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NORMS)
def test_equals_torch_in_value_and_gradient(name):
    ours, theirs = NORMS[name](8, eps=1e-5), TORCH[name](8, eps=1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        p.data = q.data = torch.rand(8) + 0.5
    for module in (ours, theirs):
        module(X).square().mean().backward()
    torch.testing.assert_close(ours(X), theirs(X), atol=1e-5, rtol=0)
    torch.testing.assert_close([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("size", [1e-3, 6e4])
def test_fp16_keeps_its_type_and_stays_finite(name, size):
    y = NORMS[name](8)((X.sign() * size).half())
    assert y.dtype == torch.float16
    assert torch.isfinite(y).all()


def test_layer_norm_also_forgets_the_mean_and_rms_does_not():
    torch.testing.assert_close(NORMS["layer"](8)(X + 3), NORMS["layer"](8)(X), atol=1e-5, rtol=0)
    assert not torch.allclose(NORMS["rms"](8)(X + 3), NORMS["rms"](8)(X), atol=1e-2)


@pytest.mark.parametrize("name", NORMS)
def test_a_width_of_zero_is_named(name):
    with pytest.raises(ValueError, match="d_model=0: must be at least 1"):
        NORMS[name](0)
