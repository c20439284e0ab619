"""How a training step is split over GPUs, and whether a model can be split that way."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from llmcore.accounting import check_lengths
from llmcore.config import ModelConfig
from llmcore.quantities import count

Recompute = Literal["none", "selective", "full"]
Precision = Literal["fp32", "bf16"]


class StateBytes(NamedTuple):
    """Bytes per parameter."""

    weight: int
    gradient: int
    optimizer: int


# Adam keeps two moments in fp32. With bf16 it also keeps a master copy of the weight in fp32, so both come to
# 16 bytes  [Rajbhandari et al. 2020, 3.1]. A run that sums gradients in fp32, as Megatron and Llama 3 do, has
# 2 bytes more.
BYTES = {"fp32": StateBytes(4, 4, 8), "bf16": StateBytes(2, 2, 12)}


@dataclass(frozen=True)
class Plan:
    """A step split over data x tensor x pipeline ranks.

    data, tensor, pipeline: ranks along each axis of parallelism.
    zero: what data-parallel ranks share out instead of copying: 1 the optimizer, 2 also gradients, 3 also
        parameters  [Rajbhandari et al. 2020].
    microbatches: pieces of a rank's batch, run one after the other.
    chunks: groups of blocks per stage, run by interleaved 1F1B  [Narayanan et al. 2021].
    sequence_parallel: norms and the residual stream are split along T among the tensor ranks.
    recompute: what the backward pass computes again: "selective" the squares of explicit attention, "full"
        whole blocks  [Korthikanti et al. 2022].

    Raises ValueError for an option that would be ignored, and for zero=3 with a pipeline, where every
    microbatch would gather every weight twice.

    >>> Plan(data=2, tensor=8, pipeline=4, microbatches=16).ranks
    64
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    zero: int = 0
    microbatches: int = 1
    chunks: int = 1
    sequence_parallel: bool = False
    recompute: Recompute = "none"
    precision: Precision = "bf16"

    def __post_init__(self) -> None:
        for name in ("data", "tensor", "pipeline", "microbatches", "chunks"):
            count(**{name: getattr(self, name)})
        choices = {"zero": (0, 1, 2, 3), "recompute": get_args(Recompute), "precision": get_args(Precision)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose one of {list(known)}")
        if self.zero and self.data == 1:
            raise ValueError(
                f"zero={self.zero} with data=1 would be ignored: there is nobody to share with; "
                "set zero=0 or data above 1"
            )
        if self.zero == 3 and self.pipeline > 1:
            raise ValueError(
                "zero=3 with a pipeline gathers every weight twice a microbatch: "
                "choose zero 1 or 2, or pipeline=1"
            )
        if self.sequence_parallel and self.tensor == 1:
            raise ValueError(
                "sequence_parallel with tensor=1 would be ignored: it splits T among tensor ranks; "
                "set tensor above 1"
            )
        if self.chunks > 1 and self.pipeline == 1:
            raise ValueError(
                f"chunks={self.chunks} with pipeline=1 would be ignored: set chunks=1 or pipeline above 1"
            )
        if self.chunks > 1 and self.microbatches % self.pipeline:
            raise ValueError(
                f"microbatches={self.microbatches} with chunks={self.chunks}: an interleaved schedule runs "
                f"them in groups of pipeline={self.pipeline}; choose a multiple, or chunks=1"
            )

    @property
    def ranks(self) -> int:
        return self.data * self.tensor * self.pipeline


def check(config: ModelConfig, plan: Plan, B: int, T: int) -> None:
    """Raise ValueError where this model and batch cannot be split by this plan; it says what to change."""
    count(0, B=B, T=T)
    if config.family == "encoder-decoder":
        raise ValueError(
            "family='encoder-decoder' cannot be planned: count its two stacks as an encoder and a decoder"
        )
    for name in ("n_heads", "n_kv_heads", "d_ff"):
        if getattr(config, name) % plan.tensor:
            raise ValueError(
                f"tensor={plan.tensor} does not divide {name}={getattr(config, name)}: "
                "ranks take equal shares; choose a divisor"
            )
    if B < 1 or B % (plan.data * plan.microbatches):
        raise ValueError(
            f"B={B} is no multiple of data x microbatches = {plan.data} x {plan.microbatches}: "
            "all microbatches have one size; change B or the plan"
        )
    if plan.sequence_parallel and T % plan.tensor:
        raise ValueError(
            f"T={T} is no multiple of tensor={plan.tensor}: "
            "sequence_parallel cuts T into equal pieces; pad T or turn it off"
        )
    if plan.recompute == "selective" and config.attention != "explicit":
        raise ValueError(
            f"recompute='selective' with attention={config.attention!r} would be ignored: "
            "it keeps no squares to save; choose 'none', 'full' or attention='explicit'"
        )
    layers(config, plan)
    check_lengths(config, B, T)


def layers(config: ModelConfig, plan: Plan) -> list[int]:
    """The number of blocks on each pipeline stage. Raises ValueError where they cannot be shared out.

    n_layers in equal parts; or n_layers + 2 in equal parts, with one block fewer on the first and on the last
    stage, which carry the embedding and the head instead  [Grattafiori et al. 2024, 3.3.2].

    >>> from llmcore.planning.models import LLAMA_405B
    >>> layers(LLAMA_405B, Plan(pipeline=16, microbatches=16, chunks=8))[:3]
    [7, 8, 8]
    """
    L, p, pieces = config.n_layers, plan.pipeline, plan.pipeline * plan.chunks
    if L % pieces == 0:
        return [L // p] * p
    if (L + 2) % pieces == 0 and (L + 2) // p >= 2:
        k = (L + 2) // p
        return [k - 1, *[k] * (p - 2), k - 1]
    raise ValueError(
        f"pipeline x chunks = {p} x {plan.chunks} divides neither n_layers={L} nor {L + 2}: "
        "stages take equal parts, or the first and the last one block fewer; choose a divisor"
    )
