"""The training loop: `for record in Trainer(model, windows, settings).run()`. It yields values and prints nothing.

Shapes: B batch (of this process), T context_length.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from llmcore import checkpoint
from llmcore.data import Batch, Windows
from llmcore.distributed import sharded
from llmcore.distributed.parallel import Parallel, random_states, restore_random
from llmcore.files import alone, check_writable, reading, writing
from llmcore.functional import cross_entropy
from llmcore.model import Transformer
from llmcore.optim import OPTIMIZERS, SCHEDULES, check_range, clip_gradients, decay_groups

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

MAY_DIFFER = {"keep", "checkpoint_every", "compile", "eval_batches"}  # from the run that is resumed
Precision = Literal["fp32", "bf16", "fp16"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A loss takes (model, batch) and returns the sum over kept targets, in nats, and how many there are.
Loss = Callable[[Callable[[Tensor], Tensor], Batch], tuple[Tensor, int]]

# the whole numbers of a TrainConfig and the least of each; the other numbers, what is allowed and how that is said
LEAST = {
    "steps": 1, "accumulation": 1, "keep": 1, "warmup": 0, "eval_every": 0, "eval_batches": 0, "patience": 0, "checkpoint_every": 0,
}  # fmt: skip
LARGEST = torch.finfo(torch.float32).max
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda x: 0 < x <= LARGEST, "need lr > 0, and finite in float32"),
    "weight_decay": (lambda x: 0 <= x <= LARGEST, "need weight_decay >= 0, and finite in float32"),
    "betas": (lambda x: 0 <= x < 1, "each is a share of the past; choose 0 <= beta < 1"),
    "momentum": (lambda x: 0 <= x < 1, "is a share of the past; choose 0 <= momentum < 1"),
    "floor": (lambda x: 0 <= x <= 1, "is a share of lr; choose 0 <= floor <= 1"),
    "clip": (lambda x: 0 <= x < math.inf, "need clip >= 0, and finite; 0 leaves the gradient as it is"),
}


@dataclass(frozen=True)
class TrainConfig:
    """How a run is made. Batch size and seed of the order belong to the Windows it reads."""

    steps: int
    lr: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.0  # of sgd
    schedule: str = "warmup_cosine"
    warmup: int = 0
    floor: float = 0.1  # the schedule's last rate, as a share of lr
    clip: float = 1.0  # largest global norm of the gradient; 0 leaves it
    accumulation: int = 1  # batches a step
    precision: Precision = "fp32"
    compile: bool = False
    eval_every: int = 0  # steps; 0 never
    eval_batches: int = 0  # of the evaluation windows; 0 all
    patience: int = 0  # evaluations without a better loss before the run stops; 0 never
    checkpoint_every: int = 0
    keep: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", get_args(Precision)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose one of {sorted(known)}")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}: must be a whole number of at least {least}")
        for name, (allowed, rule) in RANGES.items():
            value = getattr(self, name)
            for number in value if name == "betas" else [value]:
                if isinstance(number, bool) or not isinstance(number, int | float) or not allowed(number):
                    raise ValueError(f"{name}={value!r}: {rule}")
        if len(self.betas) != 2:
            raise ValueError(f"betas={self.betas}: AdamW has two, of the mean and of the squares")
        if self.patience and not self.eval_every:
            raise ValueError(
                f"patience={self.patience} without eval_every would be ignored: set eval_every or patience=0"
            )
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} with optimizer={self.optimizer!r} would be ignored: adamw has betas"
            )
        self.multiplier  # noqa: B018 - the schedule checks warm-up against steps

    @property
    def multiplier(self) -> Callable[[int], float]:
        """step -> share of lr"""
        if self.schedule == "constant":
            return SCHEDULES["constant"](self.steps, self.warmup)
        return SCHEDULES[self.schedule](self.steps, self.warmup, self.floor)


@dataclass(frozen=True)
class Record:
    """What one step was. Losses in nats a token."""

    step: int  # from 1
    epoch: int
    tokens: int  # targets learned from so far, by all processes
    loss: float
    lr: float
    gradient_norm: float  # before clipping
    tokens_per_second: float
    memory_bytes: int  # cuda: most ever allocated; else the process's largest resident size; 0 where the system does not tell
    eval_loss: float | None = None


def next_token_loss(model: Callable[[Tensor], Tensor], batch: Batch) -> tuple[Float[Tensor, ""], int]:
    """Sum of -log p(target) over the kept targets, and their number, from the logits of any model."""
    kept = int((batch.targets != -100).sum())
    return cross_entropy(model(batch.ids), batch.targets) * kept, kept


def transformer_loss(model: Callable[..., Tensor], batch: Batch) -> tuple[Float[Tensor, ""], int]:
    """next_token_loss of a Transformer, which can do without all logits at once (llmcore.loss)."""
    return model(batch.ids, targets=batch.targets), int((batch.targets != -100).sum())


class Trainer:
    """Ties model, data, optimizer and schedule together; with `folder` it writes checkpoints there.

    Gradients are those of the mean loss over all targets of the step, of all batches and all processes, so `accumulation` small
    batches equal one large batch even when their target counts differ. Where torch.distributed is initialised the plan says how
    the processes share the work (default: Parallel("ddp")); each reads Windows(rank=plan.data_rank, world=plan.data_ranks).
    """

    def __init__(
        self, model: nn.Module, windows: Windows, config: TrainConfig, eval_windows: Windows | None = None,
        folder: str | Path | None = None, loss: Loss | None = None, progress: bool | None = None, plan: Parallel | None = None,
    ):  # fmt: skip
        if config.eval_every and eval_windows is None:
            raise ValueError(
                f"eval_every={config.eval_every} without eval_windows: pass held-out windows or set it to 0"
            )
        if config.checkpoint_every and folder is None:
            raise ValueError(
                f"checkpoint_every={config.checkpoint_every} without folder: say where to write, or set it to 0"
            )
        self.model, self.windows, self.config, self.eval_windows = model, windows, config, eval_windows
        self.folder = Path(folder) if folder is not None else None
        if loss is None and isinstance(model, Transformer) and model.config.family != "decoder":
            raise ValueError(
                f"next-token loss with family={model.config.family!r}: an encoder's token reads the one it is to predict, and an "
                "encoder-decoder needs a source; use family='decoder', or pass a loss of your own"
            )
        checkpoint.check_place(model)
        check_range(model.parameters())
        self.loss = loss or (transformer_loss if isinstance(model, Transformer) else next_token_loss)
        self.progress = sys.stderr.isatty() if progress is None else progress
        self.device = next(model.parameters()).device
        if plan is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            plan = Parallel("ddp")
        self.plan, parts = plan, plan.data_ranks if plan else 1
        if parts != windows.world:
            raise ValueError(
                f"{parts} parts of each batch and windows for {windows.world}: pass Windows(rank=, world={parts})"
            )
        if plan and plan.sharded and config.precision == "fp16":
            raise ValueError(
                "precision='fp16' with a model in shards: each rank would scale its own; use bf16"
            )
        split = plan.split(model) if plan else model
        groups = decay_groups(
            model, config.weight_decay
        )  # after the split, which makes parameters of its own
        options: dict[str, Any] = (
            {"betas": config.betas} if config.optimizer != "sgd" else {"momentum": config.momentum}
        )
        self.optimizer = OPTIMIZERS[config.optimizer](groups, lr=config.lr, **options)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.split, self.forward = split, torch.compile(split) if config.compile else split
        self.step, self.tokens, self.best, self.waited = 0, 0, float("inf"), 0

    def run(self) -> Iterator[Record]:
        """Train to config.steps (or until patience runs out), one Record a step. A run that was resumed goes on where it was.

        Raises FloatingPointError where the loss or, at the end and before a checkpoint, a weight is not finite. Under fp16 a step
        whose gradients overflow is skipped by the scaler, which then lowers its scale. Raises OSError that names the folder where
        a checkpoint cannot be written: a folder that takes none is found before the first step, a full disk at the checkpoint; the
        ones that are there stay whole. While a run that writes checkpoints lasts, its folder is closed to other processes:
        BlockingIOError. A folder that holds a later step, which this run did not resume from, is a ValueError.
        """
        with contextlib.ExitStack() as held:
            if self.config.checkpoint_every and self.step < self.config.steps:
                assert self.folder is not None
                check_writable(self.folder)
                if self._first:
                    held.enter_context(alone(self.folder))
                checkpoint.check_newest(self.folder, self.step)
            bar = held.enter_context(
                tqdm(total=self.config.steps, initial=self.step, disable=not self.progress, unit="step")
            )
            while self.step < self.config.steps and not self.stopped:
                record = self._step()
                bar.update()
                bar.set_postfix(loss=f"{record.loss:.3f}", refresh=False)
                if self.step == self.config.steps or self.stopped:
                    self._check_weights()
                if self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
                    self.save()
                yield record

    @property
    def _first(self) -> bool:
        """Whether this process writes what one process writes for all."""
        return not self.plan or dist.get_rank() == 0

    @property
    def stopped(self) -> bool:
        return bool(self.config.patience) and self.waited >= self.config.patience

    def _step(self) -> Record:
        start = time.perf_counter()
        self.model.train()
        lr = self.config.lr * self.config.multiplier(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        epoch = self.windows.epoch
        batches = [self._move(self.windows.next()) for _ in range(self.config.accumulation)]
        self.optimizer.zero_grad(set_to_none=True)
        size = (
            batches[0].targets.numel()
        )  # how many targets count is known after the last batch: until then sums are divided by this
        summed = torch.zeros(2, dtype=torch.float64, device=self.device)  # of losses, and how many targets
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with self.plan.gradients_wait(self.split, last) if self.plan else contextlib.nullcontext():
                with self._autocast():
                    loss, kept = self.loss(self.forward, batch)
                self.scaler.scale(loss / size).backward()
            summed += torch.stack(
                [loss.detach().double(), torch.tensor(float(kept), device=self.device).double()]
            )
        if self.plan:
            self.plan.sum(summed)
        mean, total = float(summed[0] / summed[1]), int(summed[1])
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the loss of step {self.step + 1} is {mean}: lower lr={self.config.lr}, or set clip and warmup"
            )
        self.scaler.unscale_(
            self.optimizer
        )  # what overflows under fp16 is seen here, and the step is left out
        parameters = list(self.model.parameters())
        # the plans average over the parts of a batch
        scale = size * (self.plan.data_ranks if self.plan else 1) / total
        for parameter in parameters:
            if scale != 1 and parameter.grad is not None:
                parameter.grad.mul_(scale)
        norm = clip_gradients(parameters, self.config.clip or float("inf"))
        if not self.scaler.is_enabled() and not bool(norm.isfinite()):
            raise FloatingPointError(
                f"the gradient of step {self.step + 1} has norm {float(norm)}: lower lr={self.config.lr}"
            )
        try:
            self.scaler.step(self.optimizer)
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            raise FloatingPointError(
                f"the update of step {self.step + 1} overflows: lower lr={lr}"
            ) from error
        self.scaler.update()
        self.step, self.tokens = self.step + 1, self.tokens + total
        seconds = time.perf_counter() - start
        eval_loss = None
        if self.config.eval_every and (
            self.step % self.config.eval_every == 0 or self.step == self.config.steps
        ):
            eval_loss = self.evaluate()
            better = eval_loss < self.best
            self.best, self.waited = (eval_loss, 0) if better else (self.best, self.waited + 1)
        return Record(
            self.step, epoch, self.tokens, mean, lr, float(norm), total / seconds, self._memory(), eval_loss
        )

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss over the evaluation windows, in eval mode, in nats a token."""
        if self.eval_windows is None:
            raise ValueError("evaluate without eval_windows: pass held-out windows to Trainer")
        was_training = self.model.training
        self.model.eval()
        total, count = 0.0, 0
        for batch in self.eval_windows.once(self.config.eval_batches or None):
            with self._autocast():
                loss, kept = self.loss(self.forward, self._move(batch))
            total, count = total + float(loss), count + kept
        self.model.train(was_training)
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the held-out loss after step {self.step} is {total / count}: lower lr={self.config.lr}"
            )
        return total / count

    def _check_weights(self) -> None:
        """FloatingPointError where an update has made a weight, on whichever rank, that is not finite."""
        local = ((n, p.to_local() if hasattr(p, "to_local") else p) for n, p in self.model.named_parameters())
        wrong = [name for name, value in local if not bool(value.detach().isfinite().all())]
        found = torch.tensor(len(wrong), device=self.device)
        if self.plan:
            dist.all_reduce(found)
        if found:
            where = f"{wrong[0]} holds" if wrong else "another rank holds"
            raise FloatingPointError(
                f"after step {self.step} {where} numbers that are not finite: lower lr={self.config.lr}, or set clip and warmup"
            )

    def save(self) -> None:
        """A checkpoint of this moment: by rank 0, while the others wait, or in shards, by all. Weights that are not finite are
        not written: FloatingPointError.
        """
        assert self.folder is not None
        self._check_weights()
        extra = {
            "train": asdict(self.config), "data": self.windows.state(), "tokens": self.tokens, "best": self.best,
            "waited": self.waited, "scaler": self.scaler.state_dict(),
        }  # fmt: skip
        if self.plan and self.plan.sharded:
            with writing(self.folder):
                sharded.save(self.folder, self.step, self.model, self.optimizer, extra, self.config.keep)
            return
        random = random_states() if self.plan else None
        if self._first:
            checkpoint.save(
                self.folder, self.step, self.model, self.optimizer, extra, self.config.keep, random
            )
        if self.plan:
            dist.barrier()

    def resume(self, path: str | Path | None = None) -> "Trainer":
        """Continue from a checkpoint (default: the newest of `folder`), bit for bit as if nothing had happened.

        Raises ValueError where its settings or the data differ from this trainer's: it would be another run. `steps` may differ
        as long as the schedule gives the steps that are done the same rates: a constant one always, warmup_stable_decay before
        its decay.
        """
        if path is None and self.folder is None:
            raise ValueError("resume without a path and without folder: say where the checkpoint is")
        where = checkpoint.latest(path if path is not None else self.folder)  # type: ignore[arg-type]
        here = asdict(self.config)
        with reading(where, remedy="use another checkpoint"):
            found = checkpoint.verify(where)
            stored, done = dict(found["extra"].get("train", {})), int(found["step"])
        different = [k for k in here if k not in MAY_DIFFER and _plain(here[k]) != _plain(stored.get(k))]
        if different == ["steps"]:
            with reading(where, remedy="use another checkpoint"):
                self._check_steps(where, TrainConfig(**stored | {"betas": tuple(stored["betas"])}), done)
        elif different:
            was = ", ".join(f"{k}={stored.get(k)!r} there, {here[k]!r} here" for k in different)
            raise ValueError(
                f"{where} was trained with other settings: {was}. Use those, or start a new run from its weights"
            )
        with reading(where, remedy="use another checkpoint"):
            self.windows.load(found["extra"]["data"])  # before a weight is changed
        if sharded.is_sharded(where) or (self.plan and self.plan.sharded):
            values = sharded.load(where, self.model, self.optimizer)
        else:
            values = checkpoint.load(where, self.model, self.optimizer)
            if self.plan:
                restore_random(checkpoint.tensors(where))
        with reading(where, RuntimeError, remedy="use another checkpoint"):
            extra = values["extra"]
            self.scaler.load_state_dict(extra["scaler"])
            self.step, self.tokens, self.best, self.waited = (
                values["step"],
                extra["tokens"],
                extra["best"],
                extra["waited"],
            )
        return self

    def _check_steps(self, where: Path, before: TrainConfig, done: int) -> None:
        """ValueError unless a run of this trainer's steps would have done the first `done` as the run before did them."""
        was = f"{where} was trained with other settings: steps={before.steps} there, {self.config.steps} here"
        if self.config.steps < done:
            raise ValueError(
                f"{was}, and {done} steps are done. Use those, or resume from an earlier checkpoint"
            )
        ours, theirs = self.config.multiplier, before.multiplier
        if any(ours(step) != theirs(step) for step in range(done)):
            raise ValueError(
                f"{was}, and with schedule={self.config.schedule!r} the rates of the {done} steps that are done depend on how many "
                "there are. Use those; a run that may be made longer has schedule='constant', or 'warmup_stable_decay' before its "
                "decay"
            )

    def _move(self, batch: Batch) -> Batch:
        return Batch(batch.ids.to(self.device), batch.targets.to(self.device))

    def _autocast(self) -> contextlib.AbstractContextManager:
        kind = TYPES.get(self.config.precision)
        return torch.autocast(self.device.type, kind) if kind else contextlib.nullcontext()

    def _memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if resource is None:
            return 0
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
