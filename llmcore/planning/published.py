"""Published runs, to hold the predictions against: one by one, and in groups that differ in the plan alone.

Reported are the seconds of a step, or FLOP/s per GPU.
"""

from dataclasses import dataclass, replace

from llmcore.config import GPT2, LLAMA, ModelConfig
from llmcore.planning.hardware import A100, H100, Hardware
from llmcore.planning.models import LLAMA_405B
from llmcore.planning.plan import Plan
from llmcore.planning.work import hardware_flops, step_time
from llmcore.quantities import amount


@dataclass(frozen=True)
class Run:
    """A published run.

    It reports the seconds of a step, or TFLOP/s per GPU (with recomputed FLOPs, where there are any).
    """

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
        """Seconds of a step as reported, or as they follow from FLOP/s. ValueError for a run with neither."""
        amount(zero=True, seconds=self.seconds, tflops=self.tflops)
        if not self.seconds and not self.tflops:
            raise ValueError(
                f"{self.name} has neither seconds nor tflops: a published run reports one of them"
            )
        return self.seconds or self._flops() / (self.plan.ranks * self.tflops * 1e12)

    def predicted(self, efficiency: float = 0.6, overhead: float = 0.0) -> float:
        """Seconds of a step as step_time predicts them."""
        parts = step_time(self.config, self.plan, self.hardware, self.B, self.T, efficiency, overhead)
        return sum(parts.values())

    def counted(self, share: float) -> float:
        """Seconds of a step if all GPUs always reached this share of their peak: no bubble, no messages.

        The baseline that `predicted` has to beat.
        """
        peak = self.hardware.peak(self.plan.precision)
        return self._flops() / (self.plan.ranks * peak * share)

    def _flops(self) -> int:
        return hardware_flops(self.config, self.plan, self.B, self.T)


def _gpt(n_layers: int, d_model: int, n_heads: int) -> ModelConfig:
    """A GPT as Megatron trained it: 51,200 tokens (50,257 and padding), context 2,048, explicit attention."""
    return GPT2.with_(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_ff=4 * d_model,
        vocab_size=51200,
        context_length=2048,
        attention="explicit",
        dropout=0.0,
    )


GPT_175B, GPT_530B, GPT_1T = _gpt(96, 12288, 96), _gpt(105, 20480, 128), _gpt(128, 25600, 160)
INTERLEAVED = (
    "microbatches of one sequence; one chunk a stage and whole activations sent, "
    "where the paper interleaves and scatters"
)


def _korthikanti() -> list[Run]:
    source, runs = "Korthikanti et al. 2022, Tables 3 and 5", []
    for name, config, p, m, chunks, times in (
        ("22B", _gpt(48, 6144, 64), 1, 1, 1, (1.42, 1.10)),
        ("175B", GPT_175B, 8, 64, 3, (18.13, 13.75)),
        ("530B", GPT_530B, 35, 280, 3, (49.05, 37.83)),
        ("1T", GPT_1T, 64, 512, 1, (94.42, 71.49)),
    ):
        B = 4 if name == "22B" else m
        plain = Plan(tensor=8, pipeline=p, microbatches=m, chunks=chunks)
        full = replace(plain, recompute="full")
        selective = replace(plain, recompute="selective", sequence_parallel=True)
        for plan, seconds in zip((full, selective), times, strict=True):
            told = f"{name}, {plan.recompute} recomputation"
            runs.append(Run(told, config, plan, A100, B, 2048, source, seconds=seconds))
    return runs


def _megatron(
    name: str,
    config: ModelConfig,
    gpus: int,
    t: int,
    p: int,
    B: int,
    tflops: float,
    source: str,
    assumed: str,
) -> Run:
    """A run of Narayanan et al. 2021: full recomputation, microbatches of one sequence."""
    d = gpus // (t * p)
    plan = Plan(data=d, tensor=t, pipeline=p, microbatches=B // d, recompute="full")
    told = f"{name}, {gpus:,} GPUs"
    return Run(told, config, plan, A100, B, 2048, source, tflops=tflops, assumed=assumed)


def _narayanan_scaling() -> list[Run]:
    rows = (  # name, (layers, d_model, heads), tensor, pipeline, GPUs, B, TFLOP/s per GPU
        ("1.7B", (24, 2304, 24), 1, 1, 32, 512, 137),
        ("3.6B", (30, 3072, 32), 2, 1, 64, 512, 138),
        ("7.5B", (36, 4096, 32), 4, 1, 128, 512, 142),
        ("18B", (40, 6144, 48), 8, 1, 256, 1024, 135),
        ("39B", (48, 8192, 64), 8, 2, 512, 1536, 138),
        ("76B", (60, 10240, 80), 8, 4, 1024, 1792, 140),
        ("146B", (80, 12288, 96), 8, 8, 1536, 2304, 148),
        ("310B", (96, 16384, 128), 8, 16, 1920, 2160, 155),
        ("530B", (105, 20480, 128), 8, 35, 2520, 2520, 163),
        ("1T", (128, 25600, 160), 8, 64, 3072, 3072, 163),
    )
    source = "Narayanan et al. 2021, Table 1"
    return [
        _megatron(name, _gpt(*sizes), gpus, t, p, B, tflops, source, INTERLEAVED)
        for name, sizes, t, p, gpus, B, tflops in rows
    ]


def _narayanan_pipelines() -> list[Run]:
    source, runs = "Narayanan et al. 2021, Table 2", []
    for name, config, p, B, reported in (
        ("175B", GPT_175B, 12, 1536, {384: 153, 768: 149, 1536: 141}),
        ("530B", GPT_530B, 35, 2240, {560: 171, 1120: 167, 2240: 159}),
    ):
        assumed = f"eight tensor ranks of the {8 * p} that hold a model; {INTERLEAVED}"
        for gpus, tflops in reported.items():
            runs.append(_megatron(name, config, gpus, 8, p, B, tflops, source, assumed))
    return runs


def _narayanan_zero() -> list[Run]:
    source, runs = "Narayanan et al. 2021, Table 2", []
    for name, config, gpus, B, tflops in (
        ("175B", GPT_175B, 384, 1536, 144),
        ("175B", GPT_175B, 768, 1536, 88),
        ("175B", GPT_175B, 1536, 1536, 44),
        ("530B", GPT_530B, 640, 2560, 138),
        ("530B", GPT_530B, 1120, 2240, 98),
        ("530B", GPT_530B, 2240, 2240, 48),
    ):
        plan, told = Plan(data=gpus, zero=3, recompute="full"), f"{name}, ZeRO 3, {gpus:,} GPUs"
        runs.append(Run(told, config, plan, A100, B, 2048, source, tflops=tflops))
    return runs


def _llama() -> list[Run]:
    source, runs = "Grattafiori et al. 2024, Table 4", []
    assumed = (
        "one block a chunk; ZeRO 2 for FSDP that keeps gathered weights; sequence parallel; "
        "gradients of 2 bytes, not 4"
    )
    alone = Plan(tensor=8, pipeline=16, microbatches=16, chunks=8, sequence_parallel=True)
    for d, tflops in ((64, 430), (128, 400)):
        plan = replace(alone, data=d, zero=2, microbatches=2048 // d)
        told = f"Llama 3.1 405B, {plan.ranks:,} GPUs"
        runs.append(Run(told, LLAMA_405B, plan, H100, 2048, 8192, source, tflops=tflops, assumed=assumed))
    return runs


def _smith() -> list[Run]:
    source, runs = "Smith et al. 2022, 2.4", []
    for d, seconds in ((8, 60.1), (10, 50.2), (12, 44.4)):
        plan = Plan(data=d, tensor=8, pipeline=35, microbatches=1920 // d, recompute="full")
        told, assumed = f"530B, {plan.ranks:,} GPUs, batch of 1,920", "full recomputation"
        runs.append(Run(told, GPT_530B, plan, A100, 1920, 2048, source, seconds=seconds, assumed=assumed))
    return runs


# Hagemann et al. 2023: every run that fitted and that a Plan can say (60 blocks of 30B do not fill 8 or 16
# stages). Model, GPUs, T split; rows of (sequences per microbatch, tensor, pipeline, seconds)
HAGEMANN = (
    ("13B", 64, False, (
        (1, 1, 1, 26.5), (1, 1, 2, 31.1), (1, 2, 1, 31.3), (1, 2, 2, 34.8), (2, 1, 2, 33.1), (2, 2, 1, 29.7),
        (2, 2, 2, 35.0), (4, 2, 2, 37.6),
    )),
    ("30B", 256, False, (
        (1, 1, 4, 24.0), (1, 2, 2, 28.3), (1, 2, 4, 22.7), (1, 4, 1, 31.8), (1, 4, 2, 26.9), (1, 4, 4, 26.3),
        (2, 2, 4, 24.3), (2, 4, 1, 35.3), (2, 4, 2, 26.3), (2, 4, 4, 25.3), (4, 4, 4, 25.1),
    )),
    ("65B", 128, False, (
        (1, 2, 4, 79.3), (1, 2, 8, 79.5), (1, 4, 2, 87.1), (1, 4, 4, 86.6), (1, 4, 8, 92.6), (1, 8, 2, 107.9),
        (1, 8, 4, 111.8), (1, 8, 8, 121.9), (2, 4, 4, 82.9), (2, 4, 8, 86.6), (2, 8, 2, 101.3),
        (2, 8, 4, 103.2), (2, 8, 8, 115.6),
    )),
    ("65B", 64, False, (
        (1, 2, 8, 152.7), (1, 4, 2, 169.4), (1, 4, 4, 172.1), (1, 4, 8, 179.8), (1, 8, 2, 207.3),
        (1, 8, 4, 220.3), (1, 8, 8, 233.0), (2, 4, 4, 158.7), (2, 4, 8, 168.7), (2, 8, 2, 193.7),
        (2, 8, 4, 202.2), (2, 8, 8, 223.1), (4, 8, 4, 166.5), (4, 8, 8, 167.7),
    )),
    ("65B", 64, True, (
        (1, 2, 4, 147.0), (1, 2, 8, 150.0), (1, 4, 2, 162.3), (1, 4, 4, 159.6), (1, 4, 8, 166.4),
        (1, 8, 2, 192.5), (1, 8, 4, 198.1), (1, 8, 8, 201.4), (2, 4, 4, 149.9), (2, 4, 8, 156.4),
        (2, 8, 2, 178.6), (2, 8, 4, 179.9), (2, 8, 8, 186.5),
    )),
)  # fmt: skip
HAGEMANN_SIZES = {  # layers, d_model, heads, d_ff
    "13B": (40, 5120, 40, 13824),
    "30B": (60, 6656, 52, 17920),
    "65B": (80, 8192, 64, 22016),
}


def _llama_shaped(n_layers: int, d_model: int, n_heads: int, d_ff: int) -> ModelConfig:
    """A Llama as Hagemann et al. 2023 trained it: as many heads of keys as of queries, 128,000 tokens."""
    return LLAMA.with_(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_ff=d_ff,
        vocab_size=128000,
        context_length=2048,
    )


def _hagemann() -> dict[str, list[Run]]:
    """Batches of 2,048 texts of 2,048 tokens; fused attention and RMSNorm, nothing recomputed, ZeRO 1."""
    source, groups = "Hagemann et al. 2023, sheets of all runs", dict[str, list[Run]]()
    for name, gpus, split, rows in HAGEMANN:
        config, group = _llama_shaped(*HAGEMANN_SIZES[name]), groups.setdefault(f"{name}, {gpus} GPUs", [])
        for b, t, p, seconds in rows:
            d = gpus // (t * p)
            plan = Plan(d, t, p, zero=int(d > 1), microbatches=2048 // (d * b), sequence_parallel=split)
            told = f"{name}, microbatch {b}, tensor {t}, pipeline {p}{', T split' * split}"
            group.append(Run(told, config, plan, A100, 2048, 2048, source, seconds=seconds))
    return groups


_PIPELINES, _LLAMA = _narayanan_pipelines(), _llama()
PUBLISHED = [*_korthikanti(), *_narayanan_scaling(), *_PIPELINES, *_narayanan_zero(), *_LLAMA]
# Groups of runs of one model on one kind of GPU, which differ in the plan (and in the batch of each rank)
CONTRASTS = {
    "175B, 384 to 1,536 GPUs": [run for run in _PIPELINES if run.config is GPT_175B],
    "530B, 560 to 2,240 GPUs": [run for run in _PIPELINES if run.config is GPT_530B],
    "Llama 405B, 8,192 and 16,384": _LLAMA,
    "530B, 2,240 to 3,360 GPUs": _smith(),
    **_hagemann(),
}
