"""From logits to text: rules that reshape logits, and the loop that draws, appends and asks again.

Shapes: B batch, T tokens read so far, V vocabulary. A rule is a function (logits (B, V), ids (B, T)) -> logits (B, V); a
token that a rule forbids gets -inf, so its probability is exactly 0. Rules are applied in the order given.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmcore.functional import log_softmax, softmax
from llmcore.mask import Padding
from llmcore.model import Transformer

Rule = Callable[[Tensor, Tensor], Tensor]


def temperature(value: float) -> Rule:
    """logits / value: below 1 sharpens, above 1 flattens; the limit 0 is greedy.

    >>> temperature(0.5)(torch.tensor([[1.0, 2.0]]), torch.tensor([[0]]))
    tensor([[2., 4.]])
    """
    if not value > 0:
        raise ValueError(
            f"temperature={value}: must be above 0; for the limit 0 always take the most probable token (greedy=True, --greedy)"
        )
    return lambda logits, ids: logits / value


def top_k(k: int) -> Rule:
    """Keep the k largest logits; of equal ones at the edge the lower ids stay. k = 1 is greedy.

    >>> top_k(1)(torch.tensor([[1.0, 3.0, 3.0]]), torch.tensor([[0]]))
    tensor([[-inf, 3., -inf]])
    """
    if not k >= 1:  # as NaN is not
        raise ValueError(f"top_k={k}: must keep at least 1 token")

    def rule(logits: Float[Tensor, "B V"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        order = logits.sort(dim=-1, descending=True, stable=True).indices
        return _keep(logits, order, torch.arange(logits.shape[-1], device=logits.device) < min(k, logits.shape[-1]))

    return rule


def top_p(p: float) -> Rule:
    """Keep the fewest most probable tokens whose probabilities sum to at least p  [Holtzman et al. 2019]

    >>> top_p(0.6)(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0]])).exp()
    tensor([[0.5000, 0.3000, 0.0000]])
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p}: is a probability; choose 0 < top_p <= 1")

    def rule(logits: Float[Tensor, "B V"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        sorted_logits, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = softmax(sorted_logits)
        before = probabilities.cumsum(-1) - probabilities  # what the more probable tokens already hold
        kept = (before < p) & (probabilities > 0)
        kept[:, 0] = True  # a p too small for 32 bits is 0 beside them
        return _keep(logits, order, kept)

    return rule


def min_p(p: float) -> Rule:
    """Keep the tokens that are at least p times as probable as the most probable one  [Nguyen et al. 2024]

    >>> min_p(0.5)(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0]])).exp()
    tensor([[0.5000, 0.3000, 0.0000]])
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p={p}: is a share of the largest probability; choose 0 <= min_p <= 1")

    def rule(logits: Float[Tensor, "B V"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        probabilities = softmax(logits)
        return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)

    return rule


def repetition_penalty(penalty: float) -> Rule:
    """Logits of tokens already present are divided by penalty  [Keskar et al. 2019]; negative ones are multiplied, as in Hugging Face

    >>> repetition_penalty(2.0)(torch.tensor([[4.0, -4.0, 4.0]]), torch.tensor([[0, 1]]))
    tensor([[ 2., -8.,  4.]])
    """
    if not penalty > 0:
        raise ValueError(f"repetition_penalty={penalty}: must be above 0; 1 changes nothing")

    def rule(logits: Float[Tensor, "B V"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        present = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids.clamp(min=0), ids >= 0)
        return torch.where(present, torch.where(logits > 0, logits / penalty, logits * penalty), logits)

    return rule


def _keep(logits: Float[Tensor, "B V"], order: Int[Tensor, "B V"], kept: Bool[Tensor, "*B V"]) -> Float[Tensor, "B V"]:
    """Logits with -inf wherever the sorted place is not kept."""
    places = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, kept.expand_as(order))
    return logits.masked_fill(~places, -torch.inf)


RULES = {
    "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty,
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One new token for each sequence. `logits` are the model's own, before any rule."""

    ids: Int[Tensor, " B"]  # a finished sequence repeats eos
    log_probabilities: Float[Tensor, " B"]  # of the chosen ids under the reshaped logits, in nats
    logits: Float[Tensor, "B V"]
    finished: Bool[Tensor, " B"]  # eos has been produced, now or before


def left_pad(prompts: Sequence[Sequence[int]], filler: int = 0) -> tuple[Int[Tensor, "B T"], Padding]:
    """Prompts of unequal length with their ends aligned, so that every sequence's next token is at the same place.

    >>> left_pad([[5], [6, 7]])[0]
    tensor([[0, 5],
            [6, 7]])
    """
    if not prompts or min(len(p) for p in prompts) == 0:
        raise ValueError(f"{len(prompts)} prompts, one of them empty or none at all: each needs a token to continue from")
    width = max(len(p) for p in prompts)
    starts = torch.tensor([width - len(p) for p in prompts])
    ids = torch.tensor([[filler] * (width - len(p)) + list(p) for p in prompts])
    return ids, Padding(start=starts if bool(starts.any()) else None)


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    rules: Sequence[Rule] = (),
    greedy: bool = False,
    eos: int | None = None,
    seed: int | None = None,
    source: Int[Tensor, "B S"] | None = None,
    source_padding: Padding = Padding(),  # noqa: B008 - frozen
    use_cache: bool = True,
) -> Iterator[Step]:
    """Yield a Step a token until every sequence has produced eos or max_new_tokens are made.

    Draws come from a generator on the CPU, so one seed gives the same text on every device that gives the same logits.
    The n-th sequence draws the same numbers whatever its neighbours are. The model is put into eval mode while it runs.
    Raises ValueError when prompt and new tokens together exceed the context.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: must be at least 1")
    if model.decoder is None:
        raise ValueError("generate with family='encoder': it predicts no next token; use a decoder")
    device = model.embedding.table.device
    ids, padding = left_pad(prompts)
    ids, padding = ids.to(device), Padding(start=None if padding.start is None else padding.start.to(device))
    B, T = ids.shape
    total = T + max_new_tokens - 1  # the last token is never read
    if total > model.config.context_length:
        raise ValueError(
            f"{T} prompt tokens and {max_new_tokens} new ones exceed context_length={model.config.context_length}: ask for "
            f"at most {max(0, model.config.context_length - T + 1)} or shorten the prompt"
        )
    generators = [torch.Generator().manual_seed((seed or 0) + 1_000_003 * b) for b in range(B)]
    if seed is None:
        for generator in generators:
            generator.seed()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():  # around each computation, not around the yield: the caller keeps its own mode
            memory = model.encode(source, source_padding) if source is not None else None
        cache = model.new_cache(total, source.shape[1] if source is not None else 0) if use_cache else None
        finished = torch.zeros(B, dtype=torch.bool, device=device)
        fresh = ids
        for _ in range(max_new_tokens):
            new = fresh if cache else ids
            with torch.inference_mode():
                logits = model.decode(new, padding, memory, source_padding, cache=cache, last=True)[:, -1].float()
            shaped, read = logits, _without_padding(ids, padding)
            for rule in rules:
                shaped = rule(shaped, read)
            chosen = shaped.argmax(-1) if greedy else _draw(shaped, generators)
            if eos is not None:
                chosen = torch.where(finished, eos, chosen)
            log_p = log_softmax(shaped).gather(1, chosen[:, None]).squeeze(1)
            if eos is not None:
                finished = finished | (chosen == eos)
            yield Step(chosen, log_p, logits, finished)
            if bool(finished.all()):
                return
            fresh = chosen[:, None]
            ids = torch.cat([ids, fresh], 1)
    finally:
        model.train(was_training)


def complete(model: Transformer, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options) -> list[list[int]]:
    """Each prompt's new ids, eos left out; options are generate's."""
    eos = options.get("eos")
    rows: list[list[int]] = [[] for _ in prompts]
    done = [False] * len(rows)
    for step in generate(model, prompts, max_new_tokens, **options):
        for b, token in enumerate(step.ids.tolist()):
            done[b] = done[b] or token == eos
            if not done[b]:
                rows[b].append(token)
    return rows


def _without_padding(ids: Int[Tensor, "B T"], padding: Padding) -> Int[Tensor, "B T"]:
    """-1 at padding places, so that a rule that counts tokens does not count filler."""
    return ids if padding.empty else ids.masked_fill(~padding.real(ids.shape[1]), -1)


def _draw(logits: Float[Tensor, "B V"], generators: Sequence[torch.Generator]) -> Int[Tensor, " B"]:
    """One id a row by inverse transform: the first whose cumulative probability passes a uniform number."""
    cumulative = softmax(logits.double()).cumsum(-1)
    u = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators]).to(logits.device)
    u = u * cumulative[:, -1:]  # the sum is 1 up to rounding
    return torch.searchsorted(cumulative, u, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
