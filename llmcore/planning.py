"""What a training step costs on many GPUs, predicted: bytes held by the fullest rank, bytes sent, seconds. No torch, no GPU.

A `Plan` splits a step over data x tensor x pipeline ranks. The rest is accounting: a tensor-parallel rank is a model with
1 / tensor of the heads, of d_ff and of the vocabulary [Shoeybi et al. 2019]; a pipeline stage is some of its blocks. So parameters,
FLOPs and activations are those of `llmcore.accounting` for that smaller model, and equal to it where nothing is split.

B sequences of the whole (global) batch, T tokens each, b = B / (data microbatches) of them in a microbatch; D d_model, V vocab_size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from llmcore.accounting import activation_bytes, flops, parameters, training_flops
from llmcore.config import GPT2, LLAMA, ModelConfig
from llmcore.quantities import amount, count

Recompute = Literal["none", "selective", "full"]
Precision = Literal["fp32", "bf16"]
PARTS = ("parameters", "gradients", "optimizer", "activations", "logits", "working")
KINDS = ("data", "tensor", "pipeline")

# Bytes a parameter: weight, gradient, optimizer. Adam keeps two moments in fp32; with bf16 also a master copy of the weight in fp32,
# so that both come to 16  [Rajbhandari et al. 2020, 3.1]. A run that sums gradients in fp32, as Megatron and Llama 3 do, has 2 more.
BYTES = {"fp32": (4, 4, 8), "bf16": (2, 2, 12)}


@dataclass(frozen=True)
class Plan:
    """How a step is split over data x tensor x pipeline ranks. Combinations that would be ignored or cannot be run raise ValueError.

    zero: what data-parallel ranks share out instead of copying: 1 the optimizer, 2 also gradients, 3 also parameters  [Rajbhandari
    et al. 2020]. Stage 3 with a pipeline is refused: every microbatch would gather every weight twice. microbatches: pieces of a
    rank's batch, run one after the other. chunks: of blocks a stage, run by interleaved 1F1B. sequence_parallel: norms and residual
    stream split along T among the tensor ranks. recompute: in the backward, "selective" runs explicit attention's squares again,
    "full" whole blocks  [Korthikanti et al. 2022].

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
        count(
            data=self.data,
            tensor=self.tensor,
            pipeline=self.pipeline,
            microbatches=self.microbatches,
            chunks=self.chunks,
        )
        for name, known in (
            ("zero", (0, 1, 2, 3)),
            ("recompute", get_args(Recompute)),
            ("precision", get_args(Precision)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose one of {list(known)}")
        if self.zero and self.data == 1:
            raise ValueError(
                f"zero={self.zero} with data=1 would be ignored: there is nobody to share with; set zero=0 or data above 1"
            )
        if self.zero == 3 and self.pipeline > 1:
            raise ValueError(
                "zero=3 with a pipeline gathers every weight twice a microbatch: choose zero 1 or 2, or pipeline=1"
            )
        if self.sequence_parallel and self.tensor == 1:
            raise ValueError(
                "sequence_parallel with tensor=1 would be ignored: it splits T among tensor ranks; set tensor above 1"
            )
        if self.chunks > 1 and self.pipeline == 1:
            raise ValueError(
                f"chunks={self.chunks} with pipeline=1 would be ignored: set chunks=1 or pipeline above 1"
            )
        if self.chunks > 1 and self.microbatches % self.pipeline:
            raise ValueError(
                f"microbatches={self.microbatches} with chunks={self.chunks}: an interleaved schedule runs them in groups of "
                f"pipeline={self.pipeline}; choose a multiple, or chunks=1"
            )

    @property
    def ranks(self) -> int:
        return self.data * self.tensor * self.pipeline


@dataclass(frozen=True)
class Hardware:
    """A GPU and its links. Links are bytes a second that one GPU can send, one way, of the data sheet: real transfers reach less.

    Each GPU has an adapter of its own to the other nodes.
    """

    name: str
    memory: int  # bytes
    peak_bf16: float  # FLOP/s of dense products
    peak_fp32: float  # FLOP/s without tensor cores
    node_size: int  # GPUs that share the fast links
    inside: float  # bytes/s to a GPU of the same node
    between: float  # bytes/s to a GPU of another node

    def __post_init__(self) -> None:
        count(memory=self.memory, node_size=self.node_size)
        amount(peak_bf16=self.peak_bf16, peak_fp32=self.peak_fp32, inside=self.inside, between=self.between)


# NVIDIA's A100 data sheet: 80 GB, 312 TFLOP/s bf16, 19.5 fp32, NVLink 600 GB/s both ways together. Eight 200 Gbit/s adapters a node of
# eight, as in the cluster of Narayanan et al. 2021, 5.
A100 = Hardware("A100 SXM 80 GB", 80 * 10**9, 312e12, 19.5e12, 8, 300e9, 25e9)
# NVIDIA's H100 SXM data sheet: 80 GB, 989 TFLOP/s dense bf16, 67 fp32, NVLink 900 GB/s both ways together. 400 Gbit/s a GPU between
# nodes, as in Grattafiori et al. 2024, 3.3.1.
H100 = Hardware("H100 SXM 80 GB", 80 * 10**9, 989e12, 67e12, 8, 450e9, 50e9)
HARDWARE = {"a100": A100, "h100": H100}


def _gpt(n_layers: int, d_model: int, n_heads: int) -> ModelConfig:
    """A GPT as Megatron trained it: 51,200 tokens (50,257 and padding), sequences of 2,048, attention written out."""
    return GPT2.with_(
        n_layers=n_layers, d_model=d_model, n_heads=n_heads, d_ff=4 * d_model, vocab_size=51200, context_length=2048,
        attention="explicit", dropout=0.0,
    )  # fmt: skip


GPT3 = GPT2.with_(
    n_layers=96, d_model=12288, n_heads=96, d_ff=4 * 12288, context_length=2048
)  # 175B  [Brown et al. 2020, Table 2.1]
LLAMA_70B = LLAMA.with_(
    n_layers=80, d_model=8192, n_heads=64, d_ff=28672
)  # [Grattafiori et al. 2024, Table 3], as the next
LLAMA_405B = LLAMA.with_(n_layers=126, d_model=16384, n_heads=128, d_ff=53248)
MODELS = {
    "GPT-2 124M": GPT2, "GPT-3 175B": GPT3, "Llama 3.1 8B": LLAMA, "Llama 3.1 70B": LLAMA_70B, "Llama 3.1 405B": LLAMA_405B,
}  # fmt: skip


def check(config: ModelConfig, plan: Plan, B: int, T: int) -> None:
    """Raise ValueError where this model and batch cannot be split by this plan; the message says what to change."""
    count(0, B=B, T=T)
    if config.family == "encoder-decoder":
        raise ValueError(
            "family='encoder-decoder' cannot be planned: count its two stacks as an encoder and a decoder"
        )
    for name in ("n_heads", "n_kv_heads", "d_ff"):
        if getattr(config, name) % plan.tensor:
            raise ValueError(
                f"tensor={plan.tensor} does not divide {name}={getattr(config, name)}: ranks take equal shares; choose a divisor"
            )
    if B < 1 or B % (plan.data * plan.microbatches):
        raise ValueError(
            f"B={B} is no multiple of data x microbatches = {plan.data} x {plan.microbatches}: all microbatches have one size; "
            "change B or the plan"
        )
    if plan.sequence_parallel and T % plan.tensor:
        raise ValueError(
            f"T={T} is no multiple of tensor={plan.tensor}: sequence_parallel cuts T into equal pieces; pad T or turn it off"
        )
    if plan.recompute == "selective" and config.attention != "explicit":
        raise ValueError(
            f"recompute='selective' with attention={config.attention!r} would be ignored: it keeps no squares to save; "
            "choose 'none', 'full' or attention='explicit'"
        )
    layers(config, plan)


def layers(config: ModelConfig, plan: Plan) -> list[int]:
    """Blocks of each pipeline stage: n_layers in equal parts, or n_layers + 2 with one block fewer on the first and the last stage

    Those two carry the embedding and the head instead, as in Llama 3.1 405B  [Grattafiori et al. 2024, 3.3.2].

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
        f"pipeline x chunks = {p} x {plan.chunks} divides neither n_layers={L} nor {L + 2}: stages take equal parts, or the first and "
        "the last one block fewer; choose a divisor"
    )


def held(plan: Plan, stage: int) -> float:
    """Microbatches whose activations a stage holds at most, in units of the whole stage: 1F1B, `schedules.most_held`."""
    ahead = plan.pipeline - stage - 1
    if plan.chunks == 1:
        return min(plan.microbatches, ahead + 1)
    return (
        min(plan.microbatches * plan.chunks, 2 * ahead + (plan.chunks - 1) * plan.pipeline + 1) / plan.chunks
    )


@dataclass(frozen=True)
class _Stage:
    """One rank of one pipeline stage. Per microbatch: what its forward keeps (bytes), computes (FLOPs) and sends (bytes)."""

    parameters: int
    gathered: int  # parameters that ZeRO 3 has whole at once: a block, and what lies outside the blocks from first to last
    activations: int  # of all microbatches held
    working: int  # bytes of the block that is being recomputed
    logits: int
    flops: int  # forward, backward and recomputation
    tensor: float
    pipeline: float


def tensor_rank(config: ModelConfig, tensor: int) -> ModelConfig:
    """The model that one of `tensor` ranks computes: its share of heads, of d_ff and of the vocabulary  [Shoeybi et al. 2019]

    >>> tensor_rank(LLAMA, 8).n_heads, tensor_rank(LLAMA, 8).d_head, tensor_rank(LLAMA, 8).d_ff
    (4, 128, 1792)
    """
    return replace(
        config, n_heads=config.n_heads // tensor, n_kv_heads=config.n_kv_heads // tensor, d_head=config.d_head,
        d_ff=config.d_ff // tensor, vocab_size=math.ceil(config.vocab_size / tensor),
    )  # fmt: skip


def per_block(
    f: Callable[[ModelConfig], dict[str, int]], config: ModelConfig
) -> tuple[dict[str, int], dict[str, int]]:
    """What f counts for one block, and for what stands outside the blocks: every count is linear in n_layers."""
    one, two = f(replace(config, n_layers=1)), f(replace(config, n_layers=2))
    block = {part: two[part] - one[part] for part in one}
    return block, {part: one[part] - block[part] for part in one}


def _stages(config: ModelConfig, plan: Plan, B: int, T: int) -> list[_Stage]:
    check(config, plan, B, T)
    t, p, m, size = plan.tensor, plan.pipeline, plan.microbatches, BYTES[plan.precision][0]
    b, D = B // (plan.data * m), config.d_model
    rank = tensor_rank(config, t)
    weights, outside = per_block(parameters, rank)
    kept, kept_outside = per_block(lambda c: activation_bytes(c, b, T, size), rank)
    work, work_outside = per_block(lambda c: flops(c, b, T), rank)
    norm = weights["norms"] // 2
    stream = b * T * D * size  # bytes of one tensor (b, T, D)
    split = t if plan.sequence_parallel else 1

    # what every tensor rank holds alike is cut along T by sequence parallelism: norms, and the inputs of attention, FFN and head
    alike = kept["norms"] + 2 * stream
    block = sum(kept.values()) - alike + alike // split
    squares = kept["attention"] - (stream + 4 * b * T * rank.n_heads * rank.d_head * size)
    stays = {"none": block, "selective": block - squares, "full": stream // split}[plan.recompute]
    ends = (kept_outside["norms"] + kept_outside["head"]) // split
    again = {"none": 0, "selective": work["scores"], "full": sum(work.values())}[plan.recompute]

    # a ring sends (t - 1) / t of a tensor in an all-gather or reduce-scatter, twice that in an all-reduce. A block: two all-reduces
    # forward, two backward [Shoeybi et al. 2019]; sequence parallel: as many bytes in halves, and two inputs gathered again for the
    # weights' gradients [Korthikanti et al. 2022]
    ring = (t - 1) / t * stream
    messages = (10 if plan.sequence_parallel else 8) + (4 if plan.recompute == "full" else 0)
    stages = []
    for stage, k in enumerate(layers(config, plan)):
        first, last, count = stage == 0, stage == p - 1, held(plan, stage)
        n = k * sum(weights.values())
        if first:
            n += (
                outside["embedding"]
                + outside["positions"]
                + outside["segments"]
                + norm * config.embedding_norm
            )
        if last:  # a tied head's table lies on the first stage: the last needs a copy
            n += outside["norms"] - norm * config.embedding_norm + outside["head"]
            n += outside["embedding"] * (config.tied and p > 1)
        in_pipe = (
            round(count * k * stays) + first * math.ceil(count) * kept_outside["embedding"] + last * ends
        )
        tensor = ring * (messages * k + 2 * first + (3 if plan.sequence_parallel else 2) * last)
        tensor += (
            last * 2 * (t - 1) / t * 3 * b * T * 4
        )  # cross-entropy over a split vocabulary: maximum, sum and target of each row
        stages.append(
            _Stage(
                parameters=n,
                gathered=n - (k - 1) * sum(weights.values()),
                activations=in_pipe,
                working=block - stays,
                logits=last * 2 * 4 * b * T * rank.vocab_size,
                flops=k * (3 * sum(work.values()) + again) + last * 3 * work_outside["head"],
                tensor=tensor,
                pipeline=stream / split * (2 * plan.chunks - first - last) if p > 1 else 0.0,
            )
        )
    return stages


def memory(config: ModelConfig, plan: Plan, B: int, T: int) -> dict[str, int]:
    """Bytes of the fullest rank, by part

    parameters, gradients, optimizer: 16 bytes a parameter of the rank's stage, of which ZeRO shares out parts  [Rajbhandari et al.
    2020]. activations: kept for the backward, of all microbatches in the pipe. logits: the exponentials that the loss keeps and the
    logits' gradient, fp32. working: there for a moment, the block recomputed now and the weights gathered by ZeRO 3. Not counted: a
    second block where an engine gathers ahead, the allocator's gaps, communication buffers, CUDA's context. Activations in bf16 are
    half of those in fp32, norms' statistics too.

    >>> {part: round(size / 1e9, 1) for part, size in memory(GPT2, Plan(precision="fp32"), 8, 1024).items()}
    {'parameters': 0.5, 'gradients': 0.5, 'optimizer': 1.0, 'activations': 4.9, 'logits': 3.3, 'working': 0.0}
    """
    weight, gradient, moments = BYTES[plan.precision]

    def of(stage: _Stage) -> dict[str, int]:
        part = math.ceil(stage.parameters / plan.data)  # ZeRO pads to a whole number
        return {
            "parameters": weight * (part if plan.zero >= 3 else stage.parameters),
            "gradients": gradient * (part if plan.zero >= 2 else stage.parameters),
            "optimizer": moments * (part if plan.zero >= 1 else stage.parameters),
            "activations": stage.activations,
            "logits": stage.logits,
            "working": stage.working + (weight * stage.gathered if plan.zero == 3 else 0),
        }

    return max(map(of, _stages(config, plan, B, T)), key=lambda parts: sum(parts.values()))


def _data_bytes(plan: Plan, stage: _Stage) -> float:
    """Reduce-scatter and all-gather of N; ZeRO 2 reduces after each microbatch, ZeRO 3 also gathers twice in each."""
    weight, gradient, _ = BYTES[plan.precision]
    m = plan.microbatches
    sent = {0: 2 * gradient, 1: gradient + weight, 2: m * gradient + weight, 3: m * (gradient + 2 * weight)}[
        plan.zero
    ]
    return sent * (plan.data - 1) * math.ceil(stage.parameters / plan.data)


def _table_bytes(config: ModelConfig, plan: Plan, stage: int) -> int:
    """A tied table lies on the first and the last stage: they sum its gradient, an all-reduce over two ranks."""
    tied = config.tied and plan.pipeline > 1 and stage in (0, plan.pipeline - 1)
    return tied * math.ceil(config.vocab_size / plan.tensor) * config.d_model * BYTES[plan.precision][1]


def communication(config: ModelConfig, plan: Plan, B: int, T: int) -> dict[str, float]:
    """Bytes that the busiest rank sends in a step, by kind: ring collectives over data and tensor ranks, activations between stages

    Not counted: the norms' gradients that sequence parallel sums over tensor ranks, and single numbers such as the loss.

    >>> communication(GPT2, Plan(data=4, precision="fp32"), 8, 1024)["data"] == 2 * 3 / 4 * 4 * 124439808
    True
    """
    sent = [
        {
            "data": _data_bytes(plan, s),
            "tensor": plan.microbatches * s.tensor,
            "pipeline": plan.microbatches * s.pipeline + _table_bytes(config, plan, stage),
        }
        for stage, s in enumerate(_stages(config, plan, B, T))
    ]
    return max(sent, key=lambda kinds: sum(kinds.values()))


def hardware_flops(config: ModelConfig, plan: Plan, B: int, T: int) -> int:
    """FLOPs that all ranks run in a step: training_flops, and what recomputation runs twice."""
    check(config, plan, B, T)
    work = flops(config, B, T)
    again = {"none": 0, "selective": work["scores"], "full": sum(work.values()) - work["head"]}[
        plan.recompute
    ]
    return training_flops(config, B, T) + again


def ring_rate(hardware: Hardware, ranks: int, apart: int = 1) -> float:
    """Bytes a second that each rank of a ring collective sends, the ranks being `apart` numbers from each other

    Inside a node: its fast links. Across nodes a ring enters and leaves a node once, whatever the number of its ranks in it; so g
    ranks in a node can run g rings, each over another adapter, and the g adapters carry what one rank sends: g x between, at most
    what the fast links carry. NCCL does so ("multiple rings", nccl-tests issue 277). Real transfers reach less.

    >>> [ring_rate(H100, 8) / 1e9, ring_rate(H100, 16) / 1e9, ring_rate(H100, 16, apart=8) / 1e9]
    [450.0, 400.0, 50.0]
    """
    count(ranks=ranks, apart=apart)
    if ranks * apart <= hardware.node_size:
        return hardware.inside
    return min(hardware.inside, max(1, hardware.node_size // apart) * hardware.between)


def step_time(
    config: ModelConfig,
    plan: Plan,
    hardware: Hardware,
    B: int,
    T: int,
    efficiency: float = 0.6,
    overhead: float = 0.0,
) -> dict[str, float]:
    """Seconds of a step, by what they go into; their sum is the step

    compute: FLOPs / (peak x efficiency) of the slowest stage, and overhead seconds for each of its blocks. efficiency is what its
    kernels reach of the peak while they run; overhead is what a block of a microbatch takes forward and backward however small it
    is, to start kernels and messages (a third more where it runs again): both to be measured or stated. tensor, pipeline: bytes /
    link, not hidden. bubble: (pipeline - 1) / chunks microbatches of waiting [Narayanan et al. 2021]. data: what does not hide
    behind the backward of the last microbatch (ZeRO 2 and 3: behind all compute). Neighbours in rank are first tensor, then
    pipeline, then data ranks; collectives go at `ring_rate`, activations between stages over one link.
    """
    if not 0 < efficiency <= 1:
        raise ValueError(
            f"efficiency={efficiency}: is the share of the peak that is reached; choose 0 < efficiency <= 1"
        )
    if not 0 <= overhead < math.inf:
        raise ValueError(
            f"overhead={overhead}: is in seconds for each block and microbatch; choose 0 or more"
        )
    peak = hardware.peak_bf16 if plan.precision == "bf16" else hardware.peak_fp32
    m, stages = plan.microbatches, _stages(config, plan, B, T)
    sums = ring_rate(hardware, plan.tensor)
    on = hardware.inside if plan.tensor * plan.pipeline <= hardware.node_size else hardware.between
    fixed = overhead * (4 / 3 if plan.recompute == "full" else 1)
    parts = [
        (s.flops / (peak * efficiency) + k * fixed, s.tensor / sums, s.pipeline / on)
        for s, k in zip(stages, layers(config, plan), strict=True)
    ]
    compute, tensor, pipeline = max(parts, key=sum)
    hides = m * compute if plan.zero >= 2 else compute * 2 / 3
    data = max(_data_bytes(plan, s) for s in stages) / ring_rate(
        hardware, plan.data, plan.tensor * plan.pipeline
    )
    table = _table_bytes(config, plan, 0) / on
    return {
        "compute": m * compute,
        "tensor": m * tensor,
        "pipeline": m * pipeline + table,
        "bubble": (plan.pipeline - 1) / plan.chunks * (compute + tensor + pipeline),
        "data": max(0.0, data - hides),
    }


def utilization(config: ModelConfig, plan: Plan, hardware: Hardware, B: int, T: int, seconds: float) -> float:
    """MFU: training_flops of the step, recomputation left out, over what the GPUs could do in that time  [Chowdhery et al. 2022]"""
    amount(seconds=seconds)
    peak = hardware.peak_bf16 if plan.precision == "bf16" else hardware.peak_fp32
    return training_flops(config, B, T) / (seconds * plan.ranks * peak)


def training_days(
    n_parameters: float, tokens: float, gpus: int, flops_per_gpu: float, recompute: bool = True
) -> float:
    """8 T P / (n X), in days: 6 FLOPs a parameter and token, 8 with full recomputation  [Narayanan et al. 2021, eq. 4]

    >>> round(training_days(175e9, 300e9, 1024, 140e12)), round(training_days(1008e9, 450e9, 3072, 163e12))
    (34, 84)
    """
    amount(n_parameters=n_parameters, tokens=tokens, gpus=gpus, flops_per_gpu=flops_per_gpu)
    return (8 if recompute else 6) * tokens * n_parameters / (gpus * flops_per_gpu) / 86400


@dataclass(frozen=True)
class Run:
    """A published run. It reports the seconds of a step, or TFLOP/s a GPU (recomputed FLOPs counted where there are any)."""

    name: str
    config: ModelConfig
    plan: Plan
    hardware: Hardware
    B: int
    T: int
    source: str
    seconds: float = 0.0
    tflops: float = 0.0
    assumed: str = ""  # what the source does not say, or what a Plan cannot say

    def measured(self) -> float:
        """Seconds of a step as reported, or as they follow from TFLOP/s a GPU."""
        amount(zero=True, seconds=self.seconds, tflops=self.tflops)
        if not self.seconds and not self.tflops:
            raise ValueError(
                f"{self.name} has neither seconds nor tflops: a published run reports one of them"
            )
        return self.seconds or hardware_flops(self.config, self.plan, self.B, self.T) / (
            self.plan.ranks * self.tflops * 1e12
        )

    def predicted(self, efficiency: float = 0.6, overhead: float = 0.0) -> float:
        """Seconds of a step as step_time predicts them."""
        return sum(
            step_time(self.config, self.plan, self.hardware, self.B, self.T, efficiency, overhead).values()
        )

    def counted(self, share: float) -> float:
        """Seconds of a step if all GPUs always reached this share of their peak: no bubble, no messages. The baseline of predicted."""
        peak = self.hardware.peak_bf16 if self.plan.precision == "bf16" else self.hardware.peak_fp32
        return hardware_flops(self.config, self.plan, self.B, self.T) / (self.plan.ranks * peak * share)


def _published() -> list[Run]:
    runs = []
    for name, sizes, plan, B, times in (
        ("22B", (48, 6144, 64), Plan(tensor=8), 4, (1.42, 1.10)),
        ("175B", (96, 12288, 96), Plan(tensor=8, pipeline=8, microbatches=64, chunks=3), 64, (18.13, 13.75)),
        (
            "530B",
            (105, 20480, 128),
            Plan(tensor=8, pipeline=35, microbatches=280, chunks=3),
            280,
            (49.05, 37.83),
        ),
        ("1T", (128, 25600, 160), Plan(tensor=8, pipeline=64, microbatches=512), 512, (94.42, 71.49)),
    ):
        source, config = "Korthikanti et al. 2022, Tables 3 and 5", _gpt(*sizes)
        full, selective = (
            replace(plan, recompute="full"),
            replace(plan, recompute="selective", sequence_parallel=True),
        )
        runs.append(Run(f"{name}, full recomputation", config, full, A100, B, 2048, source, seconds=times[0]))
        runs.append(
            Run(
                f"{name}, selective recomputation", config, selective, A100, B, 2048, source, seconds=times[1]
            )
        )
    interleaved = "microbatches of one sequence; one chunk a stage and whole activations sent, where the paper interleaves and scatters"
    for name, sizes, (t, p, gpus), B, tflops in (
        ("1.7B", (24, 2304, 24), (1, 1, 32), 512, 137),
        ("3.6B", (30, 3072, 32), (2, 1, 64), 512, 138),
        ("7.5B", (36, 4096, 32), (4, 1, 128), 512, 142),
        ("18B", (40, 6144, 48), (8, 1, 256), 1024, 135),
        ("39B", (48, 8192, 64), (8, 2, 512), 1536, 138),
        ("76B", (60, 10240, 80), (8, 4, 1024), 1792, 140),
        ("146B", (80, 12288, 96), (8, 8, 1536), 2304, 148),
        ("310B", (96, 16384, 128), (8, 16, 1920), 2160, 155),
        ("530B", (105, 20480, 128), (8, 35, 2520), 2520, 163),
        ("1T", (128, 25600, 160), (8, 64, 3072), 3072, 163),
    ):
        d, source = gpus // (t * p), "Narayanan et al. 2021, Table 1"
        plan = Plan(data=d, tensor=t, pipeline=p, microbatches=B // d, recompute="full")
        runs.append(
            Run(
                f"{name}, {gpus:,} GPUs",
                _gpt(*sizes),
                plan,
                A100,
                B,
                2048,
                source,
                tflops=tflops,
                assumed=interleaved,
            )
        )
    source = "Narayanan et al. 2021, Table 2"
    for name, sizes, p, B, found in (
        ("175B", (96, 12288, 96), 12, 1536, ((384, 153), (768, 149), (1536, 141))),
        ("530B", (105, 20480, 128), 35, 2240, ((560, 171), (1120, 167), (2240, 159))),
    ):
        for gpus, tflops in found:
            d = gpus // (8 * p)
            plan = Plan(data=d, tensor=8, pipeline=p, microbatches=B // d, recompute="full")
            assumed = f"eight tensor ranks of the {8 * p} that hold a model; {interleaved}"
            runs.append(
                Run(
                    f"{name}, {gpus:,} GPUs",
                    _gpt(*sizes),
                    plan,
                    A100,
                    B,
                    2048,
                    source,
                    tflops=tflops,
                    assumed=assumed,
                )
            )
    for name, sizes, sharded in (
        ("175B", (96, 12288, 96), ((384, 1536, 144), (768, 1536, 88), (1536, 1536, 44))),
        ("530B", (105, 20480, 128), ((640, 2560, 138), (1120, 2240, 98), (2240, 2240, 48))),
    ):
        for gpus, B, tflops in sharded:
            plan = Plan(data=gpus, zero=3, recompute="full")
            runs.append(
                Run(
                    f"{name}, ZeRO 3, {gpus:,} GPUs", _gpt(*sizes), plan, A100, B, 2048, source, tflops=tflops
                )
            )
    for d, tflops in ((64, 430), (128, 400)):
        plan = Plan(
            data=d, tensor=8, pipeline=16, zero=2, microbatches=2048 // d, chunks=8, sequence_parallel=True
        )
        name, source = f"Llama 3.1 405B, {plan.ranks:,} GPUs", "Grattafiori et al. 2024, Table 4"
        assumed = "one block a chunk; ZeRO 2 for FSDP that keeps gathered weights; sequence parallel; gradients of 2 bytes, not 4"
        runs.append(Run(name, LLAMA_405B, plan, H100, 2048, 8192, source, tflops=tflops, assumed=assumed))
    return runs


PUBLISHED = _published()


def _contrasts() -> dict[str, list[Run]]:
    """Groups of published runs of one model on one kind of GPU, which differ in the plan (and in the batch for each rank)."""
    counted = [run for run in PUBLISHED if run.plan.zero < 3]
    of = lambda table, name: [
        run for run in counted if run.source.endswith(table) and run.name.startswith(name)
    ]
    groups = {
        "175B, 384 to 1,536 GPUs": of("2021, Table 2", "175B"),
        "530B, 560 to 2,240 GPUs": of("2021, Table 2", "530B"),
        "Llama 405B, 8,192 and 16,384": of("2024, Table 4", "Llama"),
    }
    smith = groups["530B, 2,240 to 3,360 GPUs"] = []
    for d, seconds in ((8, 60.1), (10, 50.2), (12, 44.4)):
        plan = Plan(data=d, tensor=8, pipeline=35, microbatches=1920 // d, recompute="full")
        name, source = f"530B, {plan.ranks:,} GPUs, batch of 1,920", "Smith et al. 2022, 2.4"
        smith.append(
            Run(
                name,
                _gpt(105, 20480, 128),
                plan,
                A100,
                1920,
                2048,
                source,
                seconds=seconds,
                assumed="full recomputation",
            )
        )
    # Llama's shapes, 128,000 tokens, batches of 2,048 sequences of 2,048; fused attention and RMS norm, nothing recomputed, ZeRO 1.
    # Every run that fitted and that a Plan can say (30B: 60 blocks on no 8 or 16 stages). Rows: sequences of a microbatch, tensor,
    # pipeline, seconds.
    source = "Hagemann et al. 2023, sheets of all runs"
    for name, (n_layers, d_model, n_heads, d_ff), gpus, split, rows in (
        ("13B", (40, 5120, 40, 13824), 64, False, (
            (1, 1, 1, 26.5), (1, 1, 2, 31.1), (1, 2, 1, 31.3), (1, 2, 2, 34.8), (2, 1, 2, 33.1), (2, 2, 1, 29.7),
            (2, 2, 2, 35.0), (4, 2, 2, 37.6),
        )),
        ("30B", (60, 6656, 52, 17920), 256, False, (
            (1, 1, 4, 24.0), (1, 2, 2, 28.3), (1, 2, 4, 22.7), (1, 4, 1, 31.8), (1, 4, 2, 26.9), (1, 4, 4, 26.3),
            (2, 2, 4, 24.3), (2, 4, 1, 35.3), (2, 4, 2, 26.3), (2, 4, 4, 25.3), (4, 4, 4, 25.1),
        )),
        ("65B", (80, 8192, 64, 22016), 128, False, (
            (1, 2, 4, 79.3), (1, 2, 8, 79.5), (1, 4, 2, 87.1), (1, 4, 4, 86.6), (1, 4, 8, 92.6), (1, 8, 2, 107.9),
            (1, 8, 4, 111.8), (1, 8, 8, 121.9), (2, 4, 4, 82.9), (2, 4, 8, 86.6), (2, 8, 2, 101.3), (2, 8, 4, 103.2),
            (2, 8, 8, 115.6),
        )),
        ("65B", (80, 8192, 64, 22016), 64, False, (
            (1, 2, 8, 152.7), (1, 4, 2, 169.4), (1, 4, 4, 172.1), (1, 4, 8, 179.8), (1, 8, 2, 207.3), (1, 8, 4, 220.3),
            (1, 8, 8, 233.0), (2, 4, 4, 158.7), (2, 4, 8, 168.7), (2, 8, 2, 193.7), (2, 8, 4, 202.2), (2, 8, 8, 223.1),
            (4, 8, 4, 166.5), (4, 8, 8, 167.7),
        )),
        ("65B", (80, 8192, 64, 22016), 64, True, (
            (1, 2, 4, 147.0), (1, 2, 8, 150.0), (1, 4, 2, 162.3), (1, 4, 4, 159.6), (1, 4, 8, 166.4), (1, 8, 2, 192.5),
            (1, 8, 4, 198.1), (1, 8, 8, 201.4), (2, 4, 4, 149.9), (2, 4, 8, 156.4), (2, 8, 2, 178.6), (2, 8, 4, 179.9),
            (2, 8, 8, 186.5),
        )),
    ):  # fmt: skip
        config = LLAMA.with_(
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_ff=d_ff,
            vocab_size=128000,
            context_length=2048,
        )
        for micro, t, p, seconds in rows:
            d = gpus // (t * p)
            plan = Plan(d, t, p, zero=int(d > 1), microbatches=2048 // (d * micro), sequence_parallel=split)
            told = f"{name}, microbatch {micro}, tensor {t}, pipeline {p}{', T split' * split}"
            groups.setdefault(f"{name}, {gpus} GPUs", []).append(
                Run(told, config, plan, A100, 2048, 2048, source, seconds=seconds)
            )
    return groups


CONTRASTS = _contrasts()
