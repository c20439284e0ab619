"""Small configs and models that several test files share."""

import http.server
import threading
from collections.abc import Iterator
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

    A sum of n products, in any order and with any number of additions fused, errs by at most n u times the sum of the products'
    sizes, u = eps / 2 the unit roundoff  [Higham 2002, Accuracy and Stability, 3.1]; two of them differ by twice that, n eps. n
    counts the roundings on the longest way from input to result, size is the sum of absolute terms (of about 1 if left out).
    """
    bound = n * torch.finfo(dtype).eps
    return {"atol": bound * size, "rtol": bound}


def roundings(config: ModelConfig, T: int) -> int:
    """Those on the longest way through a model: a product makes as many as its inner size, a norm two sums over d_model, a softmax
    one over the keys, and 8 stand for what is computed entry by entry. `within` makes a bound of it, for float64 as for fp32.
    """
    cross = config.family == "encoder-decoder"
    norm, D, heads = 2 * config.d_model + 8, config.d_model, config.n_heads * config.d_head
    attention = norm + D + config.d_head + T + 8 + T + heads
    block = (1 + cross) * attention + norm + D + 8 + config.d_ff
    return (1 + cross) * config.n_layers * block + norm + D


def ids_of(B: int, T: int, V: int = 23, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler], monkeypatch, cache) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server of this machine with its `address`, reached past any proxy; what is brought from it goes to the folder `cache`."""
    monkeypatch.setenv("LLMCORE_CACHE", str(cache))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()
