"""Small configs and models that several test files share."""

import http.server
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from llmcore.config import ModelConfig
from llmcore.model import Transformer

# wide spread: with 0.02 every activation would be nearly linear and many mistakes invisible
BASE = ModelConfig(
    vocab_size=23, context_length=12, d_model=16, n_layers=2, n_heads=4, d_ff=24, init_std=0.3, tied=False
)  # fmt: skip


def model_of(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Transformer:
    """An eval-mode model whose gains and biases are random too, so that a forgotten one shows."""
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    for parameter in model.parameters():
        if parameter.ndim < 2:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.to(dtype)


def within(n: int, dtype: torch.dtype, size: float = 1.0) -> dict[str, float]:
    """How far two computations of one number may lie apart by rounding alone, as assert_close takes it.

    A sum of n products, in any order and with any number of additions fused, errs by at most n u times the
    sum of the products' sizes, u = eps / 2 the unit roundoff  [Higham 2002, Accuracy and Stability, 3.1]; two
    of them differ by twice that, n eps. n counts the roundings on the longest way from input to result, size
    is the sum of absolute terms (of about 1 if left out).
    """
    bound = n * torch.finfo(dtype).eps
    return {"atol": bound * size, "rtol": bound}


def roundings(config: ModelConfig, T: int) -> int:
    """Those on the longest way through a model: a product makes as many as its inner size, a norm two sums
    over d_model, a softmax one over the keys, and 8 stand for what is computed entry by entry. `within` makes
    a bound of it, for float64 as for fp32.
    """
    cross = config.family == "encoder-decoder"
    norm, D, heads = 2 * config.d_model + 8, config.d_model, config.n_heads * config.d_head
    attention = norm + D + config.d_head + T + 8 + T + heads
    block = (1 + cross) * attention + norm + D + 8 + config.d_ff
    return (1 + cross) * config.n_layers * block + norm + D


def ids_of(B: int, T: int, V: int = 23, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


# What a training yields, by kind: "losses": values of all steps, "weights": tensors by name, ...
Figures = dict[str, torch.Tensor | dict[str, torch.Tensor]]


def apart(found: Figures, expected: Figures) -> dict[str, float]:
    """By kind: the largest difference, relative to the largest expected number of that kind. Names that
    `found` lacks are left out.
    """
    shares = {}
    for kind, values in found.items():
        pairs = (
            [(values, expected[kind])]
            if isinstance(values, torch.Tensor)
            else [(v, expected[kind][n]) for n, v in values.items()]
        )
        assert all(a.shape == b.shape for a, b in pairs), kind
        largest = max((float(b.abs().max()) for _, b in pairs), default=1.0)
        difference = max((float((a.double() - b.double()).abs().max()) for a, b in pairs), default=0.0)
        shares[kind] = difference / largest if math.isfinite(difference) else math.inf
    return shares


def rounding(training: Callable[[float], Figures], longest: int, dtype: torch.dtype) -> float:
    """How far two computations of one training, equal in exact arithmetic, may lie `apart`: from steps, sizes
    and eps.

    They differ in the order of their sums. A sum of n terms, each rounding of a sign of its own, is off by
    about sqrt(n) eps of the terms' size [Higham & Mary 2019], and `longest` is the largest n. How that grows
    through layers and steps is no matter of the processor: training(noise) multiplies each weight, at each
    step, by 1 + noise x, x standard normal, and computes in float64; so kappa = apart / noise is what an
    error of relative size 1 in each product with a weight amounts to in the end. Errors add in squares. A
    product has two more in backward; a block has as many sums without a weight (norms, scores, softmax,
    weights V); and both computations round: sqrt(3 * 2 * 2).
    """
    noise = 1e-9  # small, so that kappa is a derivative, and far above float64's own rounding
    kappa = max(apart(training(noise), training(0.0)).values()) / noise
    return math.sqrt(3 * 2 * 2) * math.sqrt(longest) * kappa * torch.finfo(dtype).eps


@torch.no_grad()
def shake(model: torch.nn.Module, noise: float, draw: torch.Generator) -> None:
    """Multiply each weight by 1 + noise x, x standard normal: one step's errors, as `rounding` wants them."""
    for p in model.parameters() if noise else ():
        p.mul_(1 + noise * torch.randn(p.shape, generator=draw, dtype=p.dtype))


@contextmanager
def serving(
    handler: type[http.server.BaseHTTPRequestHandler], monkeypatch, cache
) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server of this machine with its `address`, reached past any proxy; what is brought from it goes to
    the folder `cache`.
    """
    monkeypatch.setenv("LLMCORE_CACHE", str(cache))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()
