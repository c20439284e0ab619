"""The training loop: `for record in Trainer(model, windows, settings).run()`. It prints nothing.

Shapes: B batch (of this process), T context_length.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from llmcore import checkpoint
from llmcore.data import Batch, Windows
from llmcore.distributed import sharded
from llmcore.distributed.parallel import OneProcess, Parallel, all_processes
from llmcore.files import alone, check_writable, reading, writing
from llmcore.functional import cross_entropy
from llmcore.model import Transformer
from llmcore.optim import OPTIMIZERS, SCHEDULES, check_range, clip_gradients, decay_groups

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

# settings in which a resumed run may differ from the run before: they change no update
MAY_DIFFER = {"keep_checkpoints", "checkpoint_every", "compile", "eval_batches"}
Precision = Literal["fp32", "bf16", "fp16"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A loss takes (model, batch) and returns the sum over kept targets, in nats, and how many there are.
Loss = Callable[[Callable[[Tensor], Tensor], Batch], tuple[Tensor, int]]

# the least value of each whole number in a TrainConfig
LEAST = {
    "steps": 1,
    "accumulation": 1,
    "keep_checkpoints": 1,
    "warmup": 0,
    "eval_every": 0,
    "eval_batches": 0,
    "patience": 0,
    "checkpoint_every": 0,
}
LARGEST = torch.finfo(torch.float32).max
# the other numbers: what is allowed, and how an error says it
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
    """The settings of a run. Batch size and the seed of the order belong to the Windows that it reads.

    Raises ValueError for what is unknown, out of range, or would be ignored.
    """

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
    accumulation: int = 1  # batches per step
    precision: Precision = "fp32"
    compile: bool = False
    eval_every: int = 0  # steps; 0: never
    eval_batches: int = 0  # how many of the evaluation windows' batches; 0: all
    patience: int = 0  # the run stops after so many evaluations without a better loss; 0: never
    checkpoint_every: int = 0  # steps; 0: never
    keep_checkpoints: int = 3  # the newest; older ones are removed

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        choices: dict[str, Collection[str]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
        for name, known in (choices | {"precision": get_args(Precision)}).items():
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
            without = f"patience={self.patience} without eval_every"
            raise ValueError(f"{without} would be ignored: set eval_every or patience=0")
        if self.momentum and self.optimizer != "sgd":
            beside = f"momentum={self.momentum} with optimizer={self.optimizer!r}"
            raise ValueError(f"{beside} would be ignored: adamw has betas")
        self.multiplier  # noqa: B018 - the schedule checks warm-up against steps

    @property
    def multiplier(self) -> Callable[[int], float]:
        """step -> share of lr"""
        if self.schedule == "constant":
            return SCHEDULES["constant"](self.steps, self.warmup)
        return SCHEDULES[self.schedule](self.steps, self.warmup, self.floor)

    def optimizer_of(self, groups: list[dict]) -> Optimizer:
        """The optimizer of these groups of parameters."""
        options = {"momentum": self.momentum} if self.optimizer == "sgd" else {"betas": self.betas}
        return OPTIMIZERS[self.optimizer](groups, lr=self.lr, **options)


@dataclass(frozen=True)
class Record:
    """One step: its loss, the update, the time it took. Losses in nats per token."""

    step: int  # from 1
    epoch: int
    tokens: int  # targets learned from so far, by all processes
    loss: float
    lr: float
    gradient_norm: float  # before clipping
    tokens_per_second: float
    memory_bytes: int  # the peak so far, see peak_memory
    eval_loss: float | None = None


def next_token_loss(model: Callable[[Tensor], Tensor], batch: Batch) -> tuple[Float[Tensor, ""], int]:
    """Sum of -log p(target) over the kept targets, and their number, from the logits of any model."""
    kept = int((batch.targets != -100).sum())
    return cross_entropy(model(batch.ids), batch.targets) * kept, kept


def transformer_loss(model: Callable[..., Tensor], batch: Batch) -> tuple[Float[Tensor, ""], int]:
    """The same for a Transformer, which can do without all logits at once (llmcore.loss)."""
    return model(batch.ids, targets=batch.targets), int((batch.targets != -100).sum())


def default_loss(model: nn.Module) -> Loss:
    """The next-token loss of a model. ValueError for a Transformer that reads the token it is to predict."""
    if not isinstance(model, Transformer):
        return next_token_loss
    if model.config.family != "decoder":
        raise ValueError(
            f"next-token loss with family={model.config.family!r}: an encoder's token reads the one it is to "
            "predict, and an encoder-decoder needs a source; use family='decoder', or pass a loss of your own"
        )
    return transformer_loss


class Trainer:
    """Ties model, data, optimizer and schedule together; with `folder` it writes checkpoints there.

    Gradients are those of the mean loss over all targets of the step, of all batches and all processes, so
    `accumulation` small batches equal one large batch even when their target counts differ. `parallel` says
    how the processes share the work: where torch.distributed runs several, Parallel("ddp") by default. Each
    reads Windows(rank=parallel.data_rank, world=parallel.data_ranks).

    Raises ValueError where the settings need what was not passed, or where the model cannot be trained so.
    """

    def __init__(
        self,
        model: nn.Module,
        windows: Windows,
        config: TrainConfig,
        eval_windows: Windows | None = None,
        folder: str | Path | None = None,
        loss: Loss | None = None,
        progress: bool | None = None,
        parallel: Parallel | OneProcess | None = None,
    ):
        self.model, self.config, self.windows, self.eval_windows = model, config, windows, eval_windows
        self.folder = None if folder is None else Path(folder)
        self.loss = loss or default_loss(model)
        self.progress = sys.stderr.isatty() if progress is None else progress
        self.parallel = parallel or all_processes()
        self._check()

        self.device = next(model.parameters()).device
        self.split = self.parallel.split(model)
        self.forward = torch.compile(self.split) if config.compile else self.split
        # after the split, which makes parameters of its own
        self.optimizer = config.optimizer_of(decay_groups(model, config.weight_decay))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")

        self.step = 0  # steps done
        self.tokens = 0  # targets learned from
        self.best = math.inf  # the lowest held-out loss
        self.waited = 0  # evaluations since then

    def _check(self) -> None:
        config, parts = self.config, self.parallel.data_ranks
        if config.eval_every and self.eval_windows is None:
            without = f"eval_every={config.eval_every} without eval_windows"
            raise ValueError(f"{without}: pass held-out windows or set it to 0")
        if config.checkpoint_every and self.folder is None:
            without = f"checkpoint_every={config.checkpoint_every} without folder"
            raise ValueError(f"{without}: say where to write, or set it to 0")
        checkpoint.check_place(self.model)
        check_range(self.model.parameters())
        if parts != self.windows.world:
            differ = f"{parts} parts of each batch and windows for {self.windows.world}"
            raise ValueError(f"{differ}: pass Windows(rank=, world={parts})")
        if self.parallel.sharded and config.precision == "fp16":
            raise ValueError(
                "precision='fp16' with a model in shards: each rank would scale its own; use bf16"
            )

    def run(self) -> Iterator[Record]:
        """Train to config.steps, or until patience runs out: one Record per step. A resumed run goes on.

        Raises FloatingPointError where the loss or, at the end and before a checkpoint, a weight is not
        finite. Under fp16 the scaler leaves out a step whose gradients overflow, and lowers its scale.

        While a run that writes checkpoints lasts, its folder is closed to other processes: BlockingIOError.
        An OSError names the folder where a checkpoint cannot be written: a folder that takes none is found
        before the first step, a full disk at the checkpoint, and the checkpoints that are there stay whole.
        A folder that holds a later step, from which this run did not resume, is a ValueError.
        """
        with contextlib.ExitStack() as held:
            if self.config.checkpoint_every and self.step < self.config.steps:
                assert self.folder is not None
                check_writable(self.folder)
                if self.parallel.first:
                    held.enter_context(alone(self.folder))
                checkpoint.check_newest(self.folder, self.step)
            bar = tqdm(total=self.config.steps, initial=self.step, disable=not self.progress, unit="step")
            held.enter_context(bar)
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
    def stopped(self) -> bool:
        """Whether patience has run out."""
        return bool(self.config.patience) and self.waited >= self.config.patience

    def _step(self) -> Record:
        start, epoch = time.perf_counter(), self.windows.epoch
        loss, targets = self._gradients()
        lr, norm = self._update()
        self.step, self.tokens = self.step + 1, self.tokens + targets
        speed = targets / (time.perf_counter() - start)
        eval_loss = self._evaluation()
        memory = peak_memory(self.device)
        return Record(self.step, epoch, self.tokens, loss, lr, norm, speed, memory, eval_loss)

    def _gradients(self) -> tuple[float, int]:
        """Make the gradients of the mean loss over all targets; returns that loss and how many targets."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        batches = [self._move(self.windows.next()) for _ in range(self.config.accumulation)]
        # How many targets count is known after the last batch. Until then sums are divided by a guess,
        # because gradients of whole sums would overflow in fp16.
        guess = batches[0].targets.numel()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # of the losses, of the kept targets
        for i, batch in enumerate(batches):
            with self.parallel.gradients_wait(self.split, last=i == len(batches) - 1):
                with self._autocast():
                    loss, kept = self.loss(self.forward, batch)
                self.scaler.scale(loss / guess).backward()
            sums += torch.stack([loss.detach().double(), sums.new_tensor(kept)])
        self.parallel.sum(sums)
        mean, targets = float(sums[0] / sums[1]), int(sums[1])
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the loss of step {self.step + 1} is {mean}: lower lr={self.config.lr}, "
                "or set clip and warmup"
            )
        # here the scaler sees what has overflowed in fp16, and will leave the update out
        self.scaler.unscale_(self.optimizer)
        # DDP and FSDP average over ranks; undo that, and replace the guess by the count
        factor = guess * self.parallel.data_ranks / targets
        for parameter in self.model.parameters():
            if factor != 1 and parameter.grad is not None:
                parameter.grad.mul_(factor)
        return mean, targets

    def _update(self) -> tuple[float, float]:
        """Clip the gradients and move the weights; returns the learning rate and the norm before clipping."""
        lr = self.config.lr * self.config.multiplier(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = float(clip_gradients(self.model.parameters(), self.config.clip or math.inf))
        if not self.scaler.is_enabled() and not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of step {self.step + 1} has norm {norm}: lower lr={self.config.lr}"
            )
        try:
            self.scaler.step(self.optimizer)
        except RuntimeError as error:  # torch refuses a factor that the weights' type cannot hold
            if "overflow" not in str(error):
                raise
            raise FloatingPointError(
                f"the update of step {self.step + 1} overflows: lower lr={lr}"
            ) from error
        self.scaler.update()
        return lr, norm

    def _evaluation(self) -> float | None:
        """The held-out loss where one is due after this step; counts how many in a row were no better."""
        every = self.config.eval_every
        if not every or (self.step % every and self.step < self.config.steps):
            return None
        loss = self.evaluate()
        if loss < self.best:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return loss

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss over the evaluation windows, in eval mode, in nats per token."""
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
        """FloatingPointError where a weight is not finite, on whichever rank."""
        local = ((n, p.to_local() if hasattr(p, "to_local") else p) for n, p in self.model.named_parameters())
        wrong = [name for name, value in local if not bool(value.detach().isfinite().all())]
        if self.parallel.on_any_rank(bool(wrong)):
            where = f"{wrong[0]} holds" if wrong else "another rank holds"
            raise FloatingPointError(
                f"after step {self.step} {where} numbers that are not finite: lower lr={self.config.lr}, "
                "or set clip and warmup"
            )

    def save(self) -> None:
        """Write a checkpoint of this moment: in shards by all ranks, or whole by the first of them.

        Weights that are not finite are not written: FloatingPointError.
        """
        assert self.folder is not None
        self._check_weights()
        extra = {
            "train": asdict(self.config),
            "data": self.windows.state(),
            "tokens": self.tokens,
            "best": self.best,
            "waited": self.waited,
            "scaler": self.scaler.state_dict(),
        }
        moment = self.folder, self.step, self.model, self.optimizer, extra, self.config.keep_checkpoints
        if self.parallel.sharded:
            with writing(self.folder):
                sharded.save(*moment)
            return
        states = self.parallel.random_states()  # gathered from all ranks, so all must call it
        if self.parallel.first:
            checkpoint.save(*moment, states)
        self.parallel.wait()

    def resume(self, path: str | Path | None = None) -> "Trainer":
        """Continue from a checkpoint (default: the newest of `folder`), bit for bit as if without a break.

        Raises ValueError where its settings or the data differ from this trainer's: it would be another run.
        `steps` may differ as long as the schedule gives the steps that are done the same rates: a constant
        one always, warmup_stable_decay before its decay.
        """
        path = self.folder if path is None else path
        if path is None:
            raise ValueError("resume without a path and without folder: say where the checkpoint is")
        where = checkpoint.latest(path)
        with reading(where, remedy="use another checkpoint"):
            found = checkpoint.verify(where)
            self._check_settings(where, dict(found["extra"].get("train", {})), int(found["step"]))
            self.windows.load(found["extra"]["data"])  # before a weight is changed
        if self.parallel.sharded or sharded.is_sharded(where):
            values = sharded.load(where, self.model, self.optimizer)
        else:
            values = checkpoint.load(where, self.model, self.optimizer)
            self.parallel.restore_random(where)
        with reading(where, RuntimeError, remedy="use another checkpoint"):
            extra = values["extra"]
            self.scaler.load_state_dict(extra["scaler"])
            self.step, self.tokens = values["step"], extra["tokens"]
            self.best, self.waited = extra["best"], extra["waited"]
        return self

    def _check_settings(self, where: Path, stored: dict[str, Any], done: int) -> None:
        """ValueError unless these settings continue a run that had stored its own and has `done` steps."""
        here = asdict(self.config)
        different = [k for k in here if k not in MAY_DIFFER and _plain(here[k]) != _plain(stored.get(k))]
        if different == ["steps"]:
            known = {k: v for k, v in stored.items() if k in here}  # an earlier version may have had others
            before = TrainConfig(**known | {"betas": tuple(known["betas"])})
            self._check_steps(where, before, done)
        elif different:
            was = ", ".join(f"{k}={stored.get(k)!r} there, {here[k]!r} here" for k in different)
            raise ValueError(
                f"{where} was trained with other settings: {was}. "
                "Use those, or start a new run from its weights"
            )

    def _check_steps(self, where: Path, before: TrainConfig, done: int) -> None:
        """ValueError unless a run of this many steps would have had the same rates in the first `done`."""
        was = f"{where} was trained with other settings: steps={before.steps} there, {self.config.steps} here"
        if self.config.steps < done:
            raise ValueError(
                f"{was}, and {done} steps are done. Use those, or resume from an earlier checkpoint"
            )
        ours, theirs = self.config.multiplier, before.multiplier
        if any(ours(step) != theirs(step) for step in range(done)):
            raise ValueError(
                f"{was}, and with schedule={self.config.schedule!r} the rates of the {done} steps that are "
                "done depend on how many there are. Use those; a run that may be made longer has "
                "schedule='constant', or 'warmup_stable_decay' before its decay"
            )

    def _move(self, batch: Batch) -> Batch:
        return Batch(batch.ids.to(self.device), batch.targets.to(self.device))

    def _autocast(self) -> contextlib.AbstractContextManager:
        kind = TYPES.get(self.config.precision)
        return torch.autocast(self.device.type, kind) if kind else contextlib.nullcontext()


def peak_memory(device: torch.device) -> int:
    """Bytes: on cuda the most ever allocated, else this process's largest resident size; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _plain(value: Any) -> Any:
    """As JSON stores it."""
    return list(value) if isinstance(value, tuple) else value
