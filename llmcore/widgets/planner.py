"""MemoryPlanner: a model, a batch and a plan to bytes, sends and seconds."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import traitlets

from llmcore.accounting import activation_bytes, flops, parameters
from llmcore.config import ModelConfig
from llmcore.planning.hardware import HARDWARE, Hardware
from llmcore.planning.memory import memory
from llmcore.planning.models import MODELS
from llmcore.planning.plan import Plan
from llmcore.planning.stages import per_block, tensor_rank
from llmcore.widgets.arrays import number, rows_table
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import brief, named, one_of, real, whole

TENSOR_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)  # tensor-parallel sizes that the page offers


class MemoryPlanner(Widget):
    """llmcore.planning's predictions for any plan: memory of the fullest rank, bytes sent, time per step.

    models: name -> config (decoders or encoders), by default planning.models.MODELS. model, hardware, plan,
    B, T and efficiency (the reached share of the peak FLOP/s) are those at the start. The page contains
    no formula of a model: for each tensor-parallel size it is given the counts of accounting as
    polynomials of b and T. `plan` holds the fields of the last plan that can be run: Plan(**widget.plan).
    Raises ValueError as planning does.
    """

    kind = traitlets.Unicode("planner").tag(sync=True)
    plan = traitlets.Dict().tag(sync=True)
    shared = ("selection", "plan")

    def __init__(
        self,
        model: str = "Llama 3.1 8B",
        plan: Plan | None = None,
        B: int = 64,
        T: int = 8192,
        hardware: str = "h100",
        efficiency: float = 0.6,
        models: Mapping[str, ModelConfig] | None = None,
        caption: str = "",
    ):
        known: dict[str, ModelConfig] = named(MODELS if models is None else models, "models", 12)
        for name, config in known.items():
            if not isinstance(config, ModelConfig) or config.family == "encoder-decoder":
                raise ValueError(
                    f"models[{name!r}]={brief(config)}: give the ModelConfig of a decoder or an encoder"
                )
        if plan is None:
            plan = Plan(data=4, tensor=2, zero=1, microbatches=16, sequence_parallel=True)
        if not isinstance(plan, Plan):
            raise ValueError(f"plan={brief(plan)}: give a Plan, such as Plan(data=4)")
        model, hardware = one_of(model, "model", known), one_of(hardware, "hardware", HARDWARE)
        B, T = whole(B, "B", 1, 10**6), whole(T, "T", 1, 10**9)
        efficiency = real(efficiency, "efficiency", 0, 1, above=True)
        size = memory(known[model], plan, B, T)
        state = {
            "models": {name: ship_model(config) for name, config in known.items()},
            "hardware": {name: ship_hardware(h) for name, h in HARDWARE.items()},
            "model": model, "gpu": hardware, "attention": known[model].attention, "plan": asdict(plan),
            "B": B, "T": T, "efficiency": efficiency,
        }  # fmt: skip
        cells, title = [[str(number(x / 1e9))] for x in size.values()], f"{model} on {plan.ranks} GPUs"
        still = rows_table(cells, list(size), ["GB"], title)
        super().__init__(state, still, f"{model}, {plan.ranks} GPUs", caption, plan=asdict(plan))


def ship_hardware(h: Hardware) -> dict[str, Any]:
    """Its fields under the names that plan.js reads."""
    return {
        "name": h.name, "memory": h.memory, "peak": {"bf16": h.peak_bf16, "fp32": h.peak_fp32},
        "node": h.node_size, "inside": h.inside, "between": h.between,
    }  # fmt: skip


def ship_model(config: ModelConfig) -> dict[str, Any]:
    """A model's sizes, and the counts of one block and of the layers outside the blocks.

    The counts are given for each attention path and for each tensor-parallel size that divides the model.
    """
    divides = lambda t: not (config.n_heads % t or config.n_kv_heads % t or config.d_ff % t)
    paths = dict.fromkeys(("fused", "explicit", config.attention))
    counts = lambda path: {
        str(t): _counts(tensor_rank(replace(config, attention=path), t)) for t in TENSOR_SIZES if divides(t)
    }
    return {
        "n_layers": config.n_layers, "d_model": config.d_model, "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads, "d_head": config.d_head, "d_ff": config.d_ff,
        "vocab_size": config.vocab_size, "context_length": config.context_length, "tied": config.tied,
        "paths": {path: counts(path) for path in paths},
    }  # fmt: skip


def _counts(rank: ModelConfig) -> dict[str, Any]:
    """The counts of one tensor-parallel rank: weights, activations ("kept") and FLOPs ("work") by part.

    Activations and FLOPs are polynomials of b and T.
    """
    weights, outside = per_block(parameters, rank)
    first_norm = weights["norms"] // 2 * rank.embedding_norm  # a block has two norms of this size
    short = replace(rank, context_length=4)  # the longest T of POINTS
    kept = {
        (b, T, n): per_block(partial(activation_bytes, B=b, T=T, bytes_per_number=n), short)
        for b, T, n in POINTS
    }
    work = {(b, T): per_block(partial(flops, B=b, T=T), short) for b, T, n in POINTS if n == 1}
    sizes = {
        "block": lambda block, ends: sum(block.values()), "norms": lambda block, ends: block["norms"],
        "attention": lambda block, ends: block["attention"], "first": lambda block, ends: ends["embedding"],
        "last": lambda block, ends: ends["norms"] + ends["head"],
    }  # fmt: skip
    costs = {
        "block": lambda block, ends: sum(block.values()), "scores": lambda block, ends: block["scores"],
        "head": lambda block, ends: ends["head"],
    }  # fmt: skip
    kept_by_part = lambda part: {at: part(*found) for at, found in kept.items()}
    work_by_part = lambda part: {(b, T, n): part(*work[b, T]) for b, T, n in POINTS}
    return {
        "weights": {
            "block": sum(weights.values()), "embedding": outside["embedding"], "head": outside["head"],
            "first": outside["embedding"] + outside["positions"] + outside["segments"] + first_norm,
            "last": outside["norms"] - first_norm + outside["head"],
        },
        "kept": {name: polynomial(kept_by_part(part)) for name, part in sizes.items()},
        "work": {name: polynomial(work_by_part(part))[1] for name, part in costs.items()},
    }  # fmt: skip


# (b, T, bytes per number) at which a count is evaluated; of each size the last only checks the polynomial
POINTS = [(b, T, size) for size in (1, 2) for b, T in ((1, 2), (2, 2), (1, 4), (2, 4), (3, 3))]


def polynomial(count: dict[tuple[int, int, int], int]) -> tuple[list[int], list[int]]:
    """A count f(b, T, size) of bytes, known at POINTS, as size x numbers + flags (bytes of any other kind).

    Returns the coefficients of (b T, b T^2, T, T^2) of the numbers and of the flags; they hold for T above 1.

    >>> polynomial({(b, T, size): size * (3 * b * T + b * T * T) + 2 * T * T for b, T, size in POINTS})
    ([3, 1, 0, 0], [0, 0, 0, 2])
    """
    found = []
    for first, second in ((-1, 1), (2, -1)):  # f(2) - f(1) is the numbers, 2 f(1) - f(2) the flags
        f = {(b, T): first * count[b, T, 1] + second * count[b, T, 2] for b, T, _ in POINTS}
        with_b = {T: f[2, T] - f[1, T] for T in (2, 4)}
        without_b = {T: 2 * f[1, T] - f[2, T] for T in (2, 4)}
        coefficients = []
        for g in (with_b, without_b):  # g(T) = a T + c T^2
            square = (g[4] // 4 - g[2] // 2) // 2
            coefficients += [g[2] // 2 - 2 * square, square]
        a, c, alone, squares = coefficients
        assert f[3, 3] == 9 * a + 27 * c + 3 * alone + 9 * squares, "the count is no such polynomial"
        found.append(coefficients)
    return found[0], found[1]
