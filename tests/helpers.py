"""Small configs and models that several test files share."""

import http.server
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from llmcore.config import ModelConfig
from llmcore.model import Transformer

# a large init_std: with 0.02 every activation would be nearly linear and many mistakes invisible
BASE = ModelConfig(
    vocab_size=23, context_length=12, d_model=16, n_layers=2, n_heads=4, d_ff=24, init_std=0.3, tied=False
)  # fmt: skip


def model_of(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Transformer:
    """A model in eval mode whose gains and biases are random too, so that a forgotten one shows."""
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    for parameter in model.parameters():
        if parameter.ndim < 2:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.to(dtype)


def within(n: int, dtype: torch.dtype, size: float = 1.0) -> dict[str, float]:
    """The bound on the difference of two computations of one number by rounding alone, for assert_close.

    A sum of n products, in any order and with any number of fused additions, errs by at most n u times the
    sum of the products' absolute values, where u = eps / 2 is the unit roundoff  [Higham 2002, Accuracy and
    Stability, 3.1]; two such sums differ by at most twice that, n eps. n counts the roundings on the longest
    path from input to result; size is the sum of absolute values (about 1 if left out).
    """
    bound = n * torch.finfo(dtype).eps
    return {"atol": bound * size, "rtol": bound}


def roundings(config: ModelConfig, T: int) -> int:
    """The roundings on the longest path through a model, for `within`.

    A matrix product makes as many as its inner size, a norm two sums over d_model, a softmax one over the
    keys, and 8 stand for elementwise computations.
    """
    cross = config.family == "encoder-decoder"
    norm, D, heads = 2 * config.d_model + 8, config.d_model, config.n_heads * config.d_head
    attention = norm + D + config.d_head + T + 8 + T + heads
    block = (1 + cross) * attention + norm + D + 8 + config.d_ff
    return (1 + cross) * config.n_layers * block + norm + D


def ids_of(B: int, T: int, V: int = 23, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


# results of a training by kind: "losses": the values of all steps, "weights": tensors by name, ...
Figures = dict[str, torch.Tensor | dict[str, torch.Tensor]]


def apart(found: Figures, expected: Figures) -> dict[str, float]:
    """By kind: the largest difference relative to the largest expected number of that kind.

    Names that `found` lacks are ignored.
    """
    shares = {}
    for kind, values in found.items():
        if isinstance(values, torch.Tensor):
            pairs = [(values, expected[kind])]
        else:
            pairs = [(v, expected[kind][n]) for n, v in values.items()]
        assert all(a.shape == b.shape for a, b in pairs), kind
        largest = max((float(b.abs().max()) for _, b in pairs), default=1.0)
        difference = max((float((a.double() - b.double()).abs().max()) for a, b in pairs), default=0.0)
        shares[kind] = difference / largest if math.isfinite(difference) else math.inf
    return shares


def rounding(training: Callable[[float], Figures], longest: int, dtype: torch.dtype) -> float:
    """A bound, from steps, sizes and eps, on how far rounding moves two runs of one training `apart`.

    The runs are equal in exact arithmetic and differ in the order of their sums. A sum of n terms, whose
    roundings have independent signs, is off by about sqrt(n) eps times the terms' size [Higham & Mary 2019];
    `longest` is the largest n. The growth of such an error through layers and steps does not depend on the
    processor, so it is measured: training(noise) multiplies each weight at each step by 1 + noise x, x
    standard normal, and computes in float64; kappa = apart / noise is then the final effect of a relative
    error of 1 in each product with a weight. Independent errors add in squares: there are 3 products (one
    forward, two backward), for each a sum without a weight in the block (norms, scores, softmax, weights V),
    and 2 runs that round: sqrt(3 * 2 * 2).
    """
    noise = 1e-9  # small, so that kappa is a derivative, and far above float64's own rounding
    kappa = max(apart(training(noise), training(0.0)).values()) / noise
    return math.sqrt(3 * 2 * 2) * math.sqrt(longest) * kappa * torch.finfo(dtype).eps


@torch.no_grad()
def shake(model: torch.nn.Module, noise: float, draw: torch.Generator) -> None:
    """Multiply each weight by 1 + noise x, x standard normal: the errors of one step for `rounding`."""
    for p in model.parameters() if noise else ():
        p.mul_(1 + noise * torch.randn(p.shape, generator=draw, dtype=p.dtype))


@contextmanager
def serving(
    handler: type[http.server.BaseHTTPRequestHandler], monkeypatch, cache
) -> Iterator[http.server.ThreadingHTTPServer]:
    """A local server with its `address`, reached without a proxy; downloads go into the folder `cache`."""
    monkeypatch.setenv("LLMCORE_CACHE", str(cache))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()
