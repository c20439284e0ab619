"""From logits to text: rules that reshape logits, and the loop that draws a token, appends it and goes on.

Shapes: B batch, T tokens read so far, V vocabulary. A rule is a function (logits (B, V), ids (B, T)) ->
logits (B, V). A token that a rule forbids gets -inf, so its probability is exactly 0. Rules are applied in
the order given.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmcore.functional import _wide, log_softmax, softmax
from llmcore.mask import Padding
from llmcore.model import Transformer
from llmcore.quantities import count

Rule = Callable[[Tensor, Tensor], Tensor]


def temperature(value: float) -> Rule:
    """logits / value: below 1 sharpens, above 1 flattens; the limit 0 is greedy.

    Where the quotient overflows, logits - max(logits) is divided instead, which has the same softmax.

    >>> temperature(0.5)(torch.tensor([[1.0, 2.0]]), torch.tensor([[0]]))
    tensor([[2., 4.]])
    """
    if not 0 < value < math.inf:
        remedy = "for the limit 0 use greedy=True (--greedy)"
        raise ValueError(f"temperature={value}: must be above 0 and finite; {remedy}")

    def rule(logits: Float[Tensor, "B V"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        # in fp64, because fp32 would turn a very small or large value into 0 or inf
        shaped = (logits.double() / value).to(logits.dtype)
        if torch.equal(shaped.isinf(), logits.isinf()):
            return shaped
        return ((logits.double() - logits.double().amax(-1, keepdim=True)) / value).to(logits.dtype)

    return rule


def top_k(k: int) -> Rule:
    """Keep the k largest logits; of equal ones at the edge, those of lower ids stay. k = 1 is greedy.

    >>> top_k(1)(torch.tensor([[1.0, 3.0, 3.0]]), torch.tensor([[0]]))
    tensor([[-inf, 3., -inf]])
    """
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise ValueError(f"top_k={k}: must keep at least 1 token, a whole number of them")

    def rule(logits: Float[Tensor, "B V"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        order, V = logits.sort(dim=-1, descending=True, stable=True).indices, logits.shape[-1]
        return _only(logits, order, torch.arange(V, device=logits.device) < min(int(k), V))

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
        probabilities = softmax(_wide(sorted_logits))  # a running sum in 16 bits would stop growing
        before = probabilities.cumsum(-1) - probabilities  # the sum over all more probable tokens
        kept = (before < p) & (probabilities > 0)
        kept[:, 0] = True  # also where p is so small that fp32 makes it 0
        # p = 1 keeps all, where rounding could drop the least probable
        return _only(logits, order, kept) if p < 1 else logits

    return rule


def min_p(p: float) -> Rule:
    """Keep the tokens that are at least p times as probable as the most probable one  [Nguyen et al. 2024]

    >>> min_p(0.5)(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0]])).exp()
    tensor([[0.5000, 0.3000, 0.0000]])
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p={p}: is a share of the largest probability; choose 0 <= min_p <= 1")

    def rule(logits: Float[Tensor, "B V"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        probabilities = softmax(_wide(logits))
        return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)

    return rule


def repetition_penalty(penalty: float) -> Rule:
    """Logits of tokens already present are divided by penalty  [Keskar et al. 2019]

    Negative ones are multiplied, as in Hugging Face, so that a penalty above 1 lowers them too. Results are
    clamped to the type's largest number, so that they have a softmax.

    >>> repetition_penalty(2.0)(torch.tensor([[4.0, -4.0, 4.0]]), torch.tensor([[0, 1]]))
    tensor([[ 2., -8.,  4.]])
    """
    if not 0 < penalty < math.inf:
        raise ValueError(f"repetition_penalty={penalty}: must be above 0 and finite; 1 changes nothing")

    def rule(logits: Float[Tensor, "B V"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        (B, V), limit = logits.shape, torch.finfo(logits.dtype)
        read = ids.long().masked_fill(ids < 0, V)  # filler (-1) marks an extra column V, which is cut off
        present = torch.zeros(B, V + 1, dtype=torch.bool, device=logits.device).scatter(1, read, True)[:, :V]
        wide = logits.double()  # fp32 would turn a very small or large penalty into 0 or inf
        lower = torch.where(wide > 0, wide / penalty, wide * penalty).clamp(limit.min, limit.max)
        return torch.where(present & (logits > -torch.inf), lower.to(logits.dtype), logits)

    return rule


def _only(
    logits: Float[Tensor, "B V"], order: Int[Tensor, "B V"], kept: Bool[Tensor, "*B V"]
) -> Float[Tensor, "B V"]:
    """logits with -inf at each id order[b, i] whose kept[i] is False; order sorts ids by falling logit."""
    places = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, kept.expand_as(order))
    return logits.masked_fill(~places, -torch.inf)


RULES = {
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
    "min_p": min_p,
    "repetition_penalty": repetition_penalty,
}


@dataclass(frozen=True)
class Step:
    """One new token for each sequence. `logits` are the model's own, before any rule."""

    ids: Int[Tensor, " B"]  # a finished sequence repeats eos
    log_probabilities: Float[Tensor, " B"]  # of the chosen ids under the reshaped logits, in nats
    logits: Float[Tensor, "B V"]
    finished: Bool[Tensor, " B"]  # eos has been produced, now or before


def left_pad(prompts: Sequence[Sequence[int]], filler: int = 0) -> tuple[Int[Tensor, "B T"], Padding]:
    """Prompts filled up on the left, so that the next token of every sequence has the same place.

    >>> left_pad([[5], [6, 7]])[0]
    tensor([[0, 5],
            [6, 7]])
    """
    if isinstance(prompts, Tensor) or not all(hasattr(prompt, "__len__") for prompt in prompts):
        remedy = "of a tensor give ids.tolist(), of one prompt [ids]"
        raise ValueError(f"prompts must be a list of lists of ids: {remedy}")
    if not prompts or min(len(p) for p in prompts) == 0:
        remedy = "each needs a token to continue from"
        raise ValueError(f"{len(prompts)} prompts, one of them empty or none at all: {remedy}")
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
    source_padding: Padding = Padding(),
    use_cache: bool = True,
) -> Iterator[Step]:
    """Yield one Step per token until every sequence has produced eos or max_new_tokens are made.

    Each sequence draws from its own generator on the CPU: one seed gives the same text on every device that
    computes the same logits, whatever the other sequences are. The model is in eval mode while this runs.
    Raises ValueError if prompt and new tokens together exceed the context, and FloatingPointError if logits,
    the model's or a rule's, are no distribution: one is NaN or inf, or all are -inf.
    """
    count(max_new_tokens=max_new_tokens)
    if model.decoder is None:
        raise ValueError("generate with family='encoder': it predicts no next token; use a decoder")
    ids, padding = _prompt_ids(model, prompts)
    total = ids.shape[1] + max_new_tokens - 1  # the model never reads the last new token
    _check_length(ids.shape[1], max_new_tokens, model.config.context_length)
    generators = _generators(len(ids), seed)
    was_training = model.training
    model.eval()
    try:
        # inference_mode surrounds each computation but not the yield, so the caller keeps its own mode
        with torch.inference_mode():
            memory = model.encode(source, source_padding) if source is not None else None
        cache = model.new_cache(total, source.shape[1] if source is not None else 0) if use_cache else None
        finished = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        fresh = ids
        for _ in range(max_new_tokens):
            new = fresh if cache else ids  # the tokens that the cache does not hold yet
            with torch.inference_mode():
                logits = model.decode(new, padding, memory, source_padding, cache=cache, last=True)
                logits = logits[:, -1].float()
            shaped, read = _distribution(logits, "the model's logits"), _without_padding(ids, padding)
            for rule in rules:
                shaped = _distribution(rule(shaped, read), "the logits that a rule returned")
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


def _prompt_ids(model: Transformer, prompts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "B T"], Padding]:
    """left_pad's result on the model's device."""
    device = model.embedding.table.device
    if device.type == "meta":
        remedy = "build it elsewhere, or load its weights"
        raise ValueError(f"the model is on the device 'meta', which holds no numbers: {remedy}")
    ids, padding = left_pad(prompts)
    return ids.to(device), Padding(start=None if padding.start is None else padding.start.to(device))


def _check_length(T: int, max_new_tokens: int, context_length: int) -> None:
    if T + max_new_tokens - 1 > context_length:
        raise ValueError(
            f"{T} prompt tokens and {max_new_tokens} new ones exceed context_length={context_length}: "
            f"ask for at most {max(0, context_length - T + 1)} or shorten the prompt"
        )


def _generators(B: int, seed: int | None) -> list[torch.Generator]:
    """One stream of random numbers per sequence, from the seed or, without one, from the system."""
    generators = [torch.Generator().manual_seed((seed or 0) + 1_000_003 * b) for b in range(B)]
    if seed is None:
        for generator in generators:
            generator.seed()
    return generators


def complete(
    model: Transformer, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options
) -> list[list[int]]:
    """Each prompt's new ids, without eos; options go to generate."""
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
    """ids with -1 at padding places, so that a rule that counts tokens does not count filler."""
    return ids if padding.empty else ids.masked_fill(~padding.real(ids.shape[1]), -1)


def _distribution(logits: Float[Tensor, "B V"], name: str) -> Float[Tensor, "B V"]:
    """logits, which must have a softmax: without one, every draw would return the last id."""
    largest = logits.amax(-1)  # NaN if any logit is
    if not bool(largest.isfinite().all()):
        row = int((~largest.isfinite()).nonzero()[0])
        why = "are the weights finite? In fp16 try bf16 or fp32"
        why = "no token is left" if largest[row] == -torch.inf else why
        found = f"the largest of sequence {row} is {largest[row].item()}"
        raise FloatingPointError(f"{name} are no distribution: {found}; {why}")
    return logits


def _draw(logits: Float[Tensor, "B V"], generators: Sequence[torch.Generator]) -> Int[Tensor, " B"]:
    """One id per row by inverse transform: the first whose cumulative probability exceeds a uniform number.

    Probabilities are rounded down to multiples of 2^-52 and summed as integers: the sums are exact in any
    order, so an id of probability 0 is never drawn.
    """
    cumulative = (softmax(logits.double()) * 2**52).long().cumsum(-1)
    u = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators]).to(logits.device)
    place = (u * cumulative[:, -1:]).long()  # below the total, since u < 1
    return torch.searchsorted(cumulative, place, right=True).squeeze(1)
