"""The parameters, operations and bytes that a config costs, predicted without building the model.

B batch, T tokens (of the target in an encoder-decoder), S source tokens, D d_model, H n_heads, Hkv
n_kv_heads, Dh d_head, F d_ff, V vocab_size, L n_layers of each stack. Every count is exact for llmcore's own
modules; see tests/test_accounting.py.
"""

from dataclasses import dataclass

from llmcore.config import ModelConfig
from llmcore.quantities import count


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by part; the values sum to the model's own count, a tied table counted once.

    >>> from llmcore.config import GPT2
    >>> count = parameters(GPT2)
    >>> sum(count.values()), round(count["feed_forward"] / sum(count.values()), 3)
    (124439808, 0.455)
    """
    D, F, V, L, bias = config.d_model, config.d_ff, config.vocab_size, config.n_layers, int(config.bias)
    q, kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    attention = (D * q + q * bias) + 2 * (D * kv + kv * bias) + (q * D + D * bias)  # W_q, W_k and W_v, W_o
    ups = 2 if config.feed_forward == "swiglu" else 1
    feed_forward = ups * (D * F + F * bias) + (F * D + D * bias)
    norm = D * (1 + bias) if config.norm == "layer" else D
    both, last = config.family == "encoder-decoder", config.residual == "pre"
    stacks, biased = 2 if both else 1, config.head_transform or config.head_bias
    # two per block, a third with cross-attention, one at the end of each pre-norm stack
    norms = L * (2 * stacks + both) + stacks * last + config.embedding_norm + config.head_transform
    return {
        "embedding": V * D,
        "positions": config.context_length * D if config.position == "learned" else 0,
        "segments": config.n_segments * D,
        "attention": stacks * L * attention,
        "cross_attention": L * attention if both else 0,
        "feed_forward": stacks * L * feed_forward,
        "norms": norms * norm,
        "head": (0 if config.tied else V * D) + (D * D + D if config.head_transform else 0) + V * biased,
    }


def flops(config: ModelConfig, B: int, T: int, S: int = 0) -> dict[str, int]:
    """Operations of the matrix products of one forward pass, by part: 2 m n k for (m, n) @ (n, k)

    Scores are counted for the whole T x T square, causal or not, as the explicit path computes them.
    Operations outside matrix products (norms, softmax, activations) are left out: at real sizes they are
    below 1 %. S is an encoder-decoder's source length.
    """
    check_lengths(config, B, T, S)
    D, F, L = config.d_model, config.d_ff, config.n_layers
    q, kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    ups = 2 if config.feed_forward == "swiglu" else 1

    projections = lambda queries, keys: 2 * B * (queries * D * q + 2 * keys * D * kv + queries * q * D)
    square = lambda queries, keys: 2 * 2 * B * queries * keys * q  # Q K^T and weights @ V

    return {
        "projections": L * (projections(T, T) + (projections(S, S) + projections(T, S) if S else 0)),
        "scores": L * (square(T, T) + (square(S, S) + square(T, S) if S else 0)),
        "feed_forward": L * 2 * B * (T + S) * (ups + 1) * D * F,
        "head": 2 * B * T * D * (config.vocab_size + (D if config.head_transform else 0)),
    }


def training_flops(config: ModelConfig, B: int, T: int, S: int = 0) -> int:
    """Three times the forward pass: y = x W is one product, and its backward two (dx = dy W^T, dW = x^T dy).

    About 6 N per token while T is small beside D; N counts the parameters outside the embedding
    [Kaplan et al. 2020].
    """
    return 3 * sum(flops(config, B, T, S).values())


def kv_bytes(config: ModelConfig, B: int, T: int, bytes_per_number: int = 2) -> int:
    """Bytes of the keys and values of B sequences of T tokens: 2 L Hkv Dh B T numbers

    >>> from llmcore.config import LLAMA
    >>> kv_bytes(LLAMA, 1, 8192) / 2**30  # GiB at 16 bits
    1.0
    """
    count(B=B, T=T, bytes_per_number=bytes_per_number)
    return 2 * config.n_layers * config.n_kv_heads * config.d_head * B * T * bytes_per_number


@dataclass(frozen=True)
class Saved:
    """The numbers that one part keeps for its backward pass, and the bytes of its booleans and indices."""

    numbers: int
    flags: int = 0

    def __add__(self, other: "Saved") -> "Saved":
        return Saved(self.numbers + other.numbers, self.flags + other.flags)

    def times(self, n: int) -> "Saved":
        return Saved(self.numbers * n, self.flags * n)


def activation_bytes(config: ModelConfig, B: int, T: int, bytes_per_number: int = 4) -> dict[str, int]:
    """Bytes of the tensors that a forward pass of a decoder or encoder keeps for backward, by part.

    Counted for llmcore as written (no dropout, no padding, no autocast), up to the logits, without the loss.
    The explicit path keeps two T x T squares per head and block, the T^2 term; fused and tiled keep none.
    [Korthikanti et al. 2022] do the same count for Megatron's kernels. Raises ValueError for an
    encoder-decoder, and for a batch or a length that the model cannot read.
    """
    if config.family == "encoder-decoder":
        raise ValueError(
            "activation_bytes with family='encoder-decoder': count its two stacks as an encoder and a decoder"
        )
    check_lengths(config, B, T)
    count(bytes_per_number=bytes_per_number)
    D, F, H, q = config.d_model, config.d_ff, config.n_heads, config.n_heads * config.d_head
    rows, L, rotary = B * T, config.n_layers, config.position.startswith("rotary")
    # LayerNorm keeps its input and each row's mean and 1 / deviation; RMSNorm, which is written out, keeps
    # its input, the normalised rows and each row's 1 / rms
    norm = Saved(rows * (D + 2 if config.norm == "layer" else 2 * D + 1))
    # the input; q, k and v for every query head; the joined heads. Rotary changes the layout of q, and
    # thereby of fused attention's result: joining its heads then makes a copy, and both are kept
    vectors = rows * (D + 4 * q) + (rows * q if rotary and config.attention == "fused" and T > 1 else 0)
    # the mask and its complement; a single token needs no mask
    masks = 2 * T * T if config.family == "decoder" and T > 1 else 0
    # explicit keeps exp(scores - max), weights and row sums; fused and tiled keep the log of the row sums
    explicit = config.attention == "explicit"
    squares = Saved(2 * B * H * T * T + B * H * T, masks) if explicit else Saved(B * H * T)
    hidden = {
        "relu": Saved(rows * F, rows * F),  # its result, and a boolean per entry: x <= 0
        "gelu": Saved(rows * 2 * F),  # its input and its result
        "gelu_tanh": Saved(rows * 2 * F),
        "silu": Saved(rows * 2 * F),
        "swiglu": Saved(rows * 4 * F),  # gate, SiLU of the gate, up, their product
    }[config.feed_forward]
    angles = Saved(T * config.d_head if rotary else 0)  # cosine and sine of Dh / 2 angles per token
    # 8 bytes per index into a table
    places = 8 * (rows * (2 if config.n_segments else 1) + (T if config.position == "learned" else 0))
    head = Saved(rows * D) + (norm + Saved(rows * 4 * D) if config.head_transform else Saved(0))
    parts = {
        "embedding": Saved(0, places) + angles + (norm if config.embedding_norm else Saved(0)),
        "norms": norm.times(2 * L + (config.residual == "pre")),
        "attention": (Saved(vectors) + squares).times(L),
        "feed_forward": (Saved(rows * D) + hidden).times(L),
        "head": head,
    }
    return {name: saved.numbers * bytes_per_number + saved.flags for name, saved in parts.items()}


def check_lengths(config: ModelConfig, B: int, T: int, S: int = 0) -> None:
    """Raise ValueError for a batch or a length that a model of this config cannot read."""
    count(B=B)
    count(0, T=T, S=S)
    if (S > 0) != (config.family == "encoder-decoder"):
        raise ValueError(
            f"S={S} with family={config.family!r}: "
            "a source length belongs to an encoder-decoder, and only there"
        )
    if not 1 <= T <= config.context_length or config.context_length < S:
        raise ValueError(
            f"T={T}, S={S} with context_length={config.context_length}: "
            "a model reads 1 to context_length tokens"
        )
