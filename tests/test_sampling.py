"""What a rule keeps, and that drawing, caching and batching change nothing but the speed."""

import math

import pytest
import torch
from helpers import BASE, ids_of, model_of, within

from llmcore.functional import softmax
from llmcore.model import Transformer
from llmcore.sampling import (
    RULES,
    _draw,
    complete,
    generate,
    left_pad,
    min_p,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
)

LOGITS = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * 2
IDS = ids_of(6, 9, 50)
EXAMPLE = {"temperature": 0.7, "top_k": 5, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.3}
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5]]


def test_every_rule_has_an_example():
    assert set(RULES) == set(EXAMPLE)


@pytest.mark.parametrize("name", RULES)
def test_equals_hugging_face(name):
    import transformers as hf

    theirs = {
        "temperature": hf.TemperatureLogitsWarper, "top_k": hf.TopKLogitsWarper, "top_p": hf.TopPLogitsWarper,
        "min_p": hf.MinPLogitsWarper, "repetition_penalty": hf.RepetitionPenaltyLogitsProcessor,
    }[name](EXAMPLE[name])  # fmt: skip
    torch.testing.assert_close(
        RULES[name](EXAMPLE[name])(LOGITS, IDS), theirs(IDS, LOGITS.clone()), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("rule", [top_k(1), top_p(1e-9), min_p(1.0), temperature(1e-4)])
def test_the_strictest_setting_is_greedy(rule):
    assert torch.equal(softmax(rule(LOGITS, IDS)).argmax(-1), LOGITS.argmax(-1))
    torch.testing.assert_close(softmax(rule(LOGITS, IDS)).amax(-1), torch.ones(6), atol=1e-5, rtol=0)


BIG = 1e38
EXTREME = {
    "spread": [BIG, -BIG, 0.0, 1.0],
    "ties": [3.0, 3.0, 3.0, 3.0],
    "ties at the top": [BIG, BIG, 1.0, 0.0],
    "one allowed": [-math.inf, -math.inf, -5.0, -math.inf],
    "far below 0": [-BIG, -BIG, -1e37, -BIG],
    "near": [1e-38, 2e-38, 0.0, -1e-38],
    "zeros": [0.0, -0.0, -math.inf, 0.0],
}
STRICT = {
    "temperature": [1e-300, 1e-39, 1e-6, 1.0, 1e6, 1e300],
    "top_k": [1, 2, 3, 10**20],
    "top_p": [1e-300, 1e-9, 0.5, 1.0],
    "min_p": [0.0, 1e-300, 0.5, 1.0],
    "repetition_penalty": [1e-300, 1e-39, 0.5, 1.0, 3.0, 1e300],
}
CASES = [(name, value) for name, values in STRICT.items() for value in values]


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        *(pytest.param(t, marks=pytest.mark.slow) for t in (torch.float64, torch.bfloat16)),
    ],
)
@pytest.mark.parametrize("kind", EXTREME)
@pytest.mark.parametrize(("name", "value"), CASES)
def test_every_rule_leaves_a_distribution_and_forbids_what_was_forbidden(name, value, kind, dtype):
    """Probabilities sum to 1; the largest stays; an id of probability 0 gets none and is never drawn."""
    logits = torch.tensor([EXTREME[kind]], dtype=torch.float64).clamp(
        torch.finfo(dtype).min, torch.finfo(dtype).max
    )
    logits = torch.where(torch.tensor([EXTREME[kind]]) == -math.inf, -math.inf, logits).to(dtype)
    shaped = RULES[name](value)(logits, torch.tensor([[0, 2, -1]]))
    p = softmax(shaped.double())
    assert shaped.dtype == dtype
    assert torch.isfinite(p).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(1, dtype=torch.float64), **within(4, torch.float64))
    assert (p[logits == -math.inf] == 0).all()
    if name != "repetition_penalty":
        assert shaped[0, logits.argmax()] == shaped.max()  # a high temperature may make ties
    drawn = _draw(shaped.expand(200, -1), [torch.Generator().manual_seed(i) for i in range(200)])
    assert (p[0, drawn] > 0).all()


@pytest.mark.parametrize("value", [5e-324, 1e-300, 1e-39, 1e-38])
def test_the_lowest_temperatures_are_greedy(value):
    """1e-39 overflowed to inf, inf - inf is NaN, and a search among NaN ends at the last id."""
    model = model_of(BASE)
    assert complete(model, PROMPTS, 6, rules=[temperature(value)], seed=3) == complete(
        model, PROMPTS, 6, greedy=True
    )
    ties = softmax(temperature(value)(torch.tensor([[2.0, 1.0, 2.0]]), IDS[:1]))
    assert ties.tolist() == [[0.5, 0.0, 0.5]]


@pytest.mark.parametrize("value", [1e40, 1e300])
def test_the_highest_temperatures_are_uniform_among_what_is_allowed(value):
    shaped = temperature(value)(torch.tensor([[5.0, -math.inf, -90.0]]), IDS[:1])
    torch.testing.assert_close(softmax(shaped), torch.tensor([[0.5, 0.0, 0.5]]))


@pytest.mark.parametrize(
    "rules", [(), *((rule(EXAMPLE[name]),) for name, rule in RULES.items())], ids=["none", *RULES]
)
@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_distribution_are_refused(bad, greedy, rules):
    """Also where only one of three sequences, and one of its logits, is bad."""
    model = model_of(BASE.with_(head_bias=True))
    with torch.no_grad():
        model.head.bias[7] = bad
    with pytest.raises(
        FloatingPointError,
        match=f"the model's logits are no distribution: the largest of sequence 0 is {bad}",
    ):
        complete(model, PROMPTS, 3, greedy=greedy, rules=rules)


def test_a_rule_that_forbids_all_or_returns_nan_is_refused():
    model = model_of(BASE)
    with pytest.raises(FloatingPointError, match="that a rule returned .* no token is left"):
        complete(model, PROMPTS, 3, rules=[lambda logits, ids: torch.full_like(logits, -math.inf)])
    with pytest.raises(FloatingPointError, match="the largest of sequence 0 is nan"):
        complete(model, PROMPTS, 3, rules=[lambda logits, ids: logits * math.nan])


def test_filler_does_not_hide_the_first_id():
    """Filler is -1. Were it written to place 0, it would race there with a 0 that the sequence holds."""
    logits = torch.tensor([[4.0, 4.0]]).expand(2, -1)
    for ids in ([[-1, 0], [0, -1]], [[-1, -1], [-1, 0]]):
        shaped = repetition_penalty(2.0)(logits, torch.tensor(ids))
        assert shaped.tolist() == [[2.0 if 0 in row else 4.0, 4.0] for row in ids]


@pytest.mark.parametrize(
    "rule", [top_k(50), top_k(99), top_p(1.0), min_p(0.0), temperature(1.0), repetition_penalty(1.0)]
)
def test_the_mildest_setting_changes_nothing(rule):
    torch.testing.assert_close(rule(LOGITS, IDS), LOGITS, atol=0, rtol=0)


def test_top_p_keeps_the_fewest_that_reach_p():
    kept = torch.isfinite(top_p(0.8)(LOGITS, IDS))
    p = softmax(LOGITS)
    mass = (p * kept).sum(-1)
    least = torch.where(kept, p, 2.0).amin(-1)
    assert (mass >= 0.8 - 1e-6).all()
    assert (mass - least < 0.8).all()


def test_frequencies_follow_the_probabilities():
    """20,000 draws: chi-square over 23 ids stays below the 99.99 % quantile of 22 degrees of freedom,
    54.9.
    """
    model = model_of(BASE)
    p = softmax(model(torch.tensor([[3, 1, 4]]))[0, -1].double())
    counts = torch.zeros(23, dtype=torch.double)
    for step in generate(model, [[3, 1, 4]] * 20_000, 1, seed=1):
        counts += torch.bincount(step.ids, minlength=23)
    expected = 20_000 * p
    assert ((counts - expected) ** 2 / expected).sum() < 54.9


@pytest.mark.parametrize("greedy", [True, False])
def test_with_and_without_cache_say_the_same(greedy):
    model = model_of(BASE)
    cached = complete(model, PROMPTS, 7, greedy=greedy, seed=4)
    assert cached == complete(model, PROMPTS, 7, greedy=greedy, seed=4, use_cache=False)


@pytest.mark.parametrize("position", ["learned", "rotary", "sinusoidal", "none"])
def test_a_batch_of_unequal_prompts_says_what_each_says_alone(position):
    model = model_of(BASE.with_(position=position))
    together = complete(model, PROMPTS, 6, greedy=True)
    assert together == [complete(model, [p], 6, greedy=True)[0] for p in PROMPTS]


def test_generate_equals_hugging_face_greedy():
    from test_model import GPT, gpt2

    model = model_of(GPT)
    reference = gpt2(GPT, model)
    theirs = reference.generate(
        torch.tensor(PROMPTS[:1]), max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    assert complete(model, PROMPTS[:1], 8, greedy=True)[0] == theirs[0, 3:].tolist()


def test_one_seed_one_text():
    model = model_of(BASE)
    assert complete(model, PROMPTS, 6, seed=7) == complete(model, PROMPTS, 6, seed=7)
    texts = {tuple(complete(model, PROMPTS, 6, seed=s)[0]) for s in range(10)}
    assert len(texts) > 1
    assert complete(model, PROMPTS, 6, seed=7)[0] == complete(model, PROMPTS[:1], 6, seed=7)[0]


def test_eos_ends_a_sequence_and_then_all():
    model = model_of(BASE)
    free = complete(model, PROMPTS, 6, greedy=True)
    eos = free[0][2]
    cut = complete(model, PROMPTS, 6, greedy=True, eos=eos)
    assert cut == [row[: row.index(eos)] if eos in row else row for row in free]
    steps = list(generate(model, PROMPTS[:1], 6, greedy=True, eos=free[0][0]))
    assert len(steps) == 1
    assert steps[0].finished.tolist() == [True]


def test_log_probabilities_are_those_of_the_reshaped_logits():
    model = model_of(BASE)
    for step in generate(model, PROMPTS, 3, rules=[temperature(0.5), top_k(4)], seed=0):
        shaped = top_k(4)(step.logits / 0.5, step.ids[:, None])
        expected = torch.log_softmax(shaped, -1).gather(1, step.ids[:, None]).squeeze(1)
        torch.testing.assert_close(step.log_probabilities, expected)


def test_encoder_decoder_generates_with_its_source():
    model = model_of(BASE.with_(family="encoder-decoder"))
    source = ids_of(3, 5, seed=3)
    cached = complete(model, [[1]] * 3, 6, greedy=True, source=source)
    assert cached == complete(model, [[1]] * 3, 6, greedy=True, source=source, use_cache=False)


def test_the_model_goes_back_to_training():
    model = model_of(BASE).train()
    steps = generate(model, PROMPTS, 3, greedy=True)
    next(steps)
    assert not model.training
    steps.close()
    assert model.training


def test_mistakes_are_named(as_a_reader_calls_it):
    model = model_of(BASE)
    for name in RULES:
        for value in (math.nan, -1.0, math.inf, -math.inf):
            with pytest.raises(ValueError, match=f"{name}={value}"):
                RULES[name](value)
    for prompts in (torch.tensor([[1, 2]]), [1, 2], torch.tensor([1, 2]).tolist()):
        with pytest.raises(ValueError, match="list of lists of ids"):
            complete(model, prompts, 1)
    with pytest.raises(ValueError, match="ids have type torch.float32"):
        complete(model, [[1.0]], 1)
    with torch.device("meta"):
        nowhere = Transformer(BASE)
    with pytest.raises(ValueError, match="the device 'meta'"):
        complete(nowhere, PROMPTS, 1)
    for name, value in {
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 0.0,
        "min_p": 1.5,
        "repetition_penalty": 0.0,
    }.items():
        with pytest.raises(ValueError, match=f"{name}={value}"):
            RULES[name](value)
    with pytest.raises(
        ValueError, match="5 prompt tokens and 20 new ones exceed context_length=12: ask for at most 8"
    ):
        complete(model, PROMPTS, 20)
    assert len(complete(model, PROMPTS, 8, seed=0)[0]) == 8
    with pytest.raises(ValueError, match="needs a token to continue from"):
        left_pad([[1], []])
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        complete(model, PROMPTS, 0)
    encoder = model_of(BASE.with_(family="encoder"))
    with pytest.raises(ValueError, match="generate with family='encoder'"):
        complete(encoder, PROMPTS, 1)
