"""Optimizers and learning-rate schedules, written out. Each optimizer equals torch's own over 100 steps.

theta a parameter, g its gradient, lr the learning rate, t the step, from 1. Updates are in place.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Schedule = Callable[[int], float]


def _check(**values: tuple[float, bool, str]) -> None:
    for name, (value, allowed, rule) in values.items():
        if not allowed:
            raise ValueError(f"{name}={value}: {rule}")


def _at_least_zero(value: float) -> tuple[float, bool, str]:
    return value, 0 <= value < math.inf, "must be 0 or more, and finite"


def _share(value: float) -> tuple[float, bool, str]:
    return value, 0 <= value < 1, "is a share of the past; choose 0 <= value < 1"


RANGES = {"lr": _at_least_zero, "weight_decay": _at_least_zero, "eps": _at_least_zero, "momentum": _share}


class _Checked(Optimizer):
    """Checks the options of each parameter group, because a group may override the constructor's."""

    def add_param_group(self, param_group) -> None:
        group = self.defaults | param_group
        _check(**{name: of(group[name]) for name, of in RANGES.items() if name in group})
        _check(**{f"beta{i}": _share(beta) for i, beta in enumerate(group.get("betas", ()), 1)})
        super().add_param_group(param_group)
        if "betas" in group:
            check_range(self.param_groups[-1]["params"])


class SGD(_Checked):
    """Gradient descent with momentum  [Polyak 1964; Sutskever et al. 2013]

    m <- momentum m + (g + weight_decay theta)
    theta <- theta - lr m

    Weight decay is L2 here: it is added to the gradient. Equals torch.optim.SGD.
    """

    def __init__(self, params, lr: float = 0.1, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient."""
        loss = _loss_of(closure)
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is None:
                    continue
                g = theta.grad
                if group["weight_decay"]:
                    g = g.add(theta, alpha=group["weight_decay"])
                if group["momentum"]:
                    state = self.state[theta]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(theta)
                    g = state["momentum"].mul_(group["momentum"]).add_(g)
                theta.add_(g, alpha=-group["lr"])
        return loss


class AdamW(_Checked):
    """Adam, with weight decay apart from the gradient  [Kingma & Ba 2015; Loshchilov & Hutter 2019]

    m <- beta1 m + (1 - beta1) g                    mean of recent gradients
    v <- beta2 v + (1 - beta2) g^2                  mean of recent squares
    theta <- theta - lr weight_decay theta - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    The division by sqrt(v) makes steps of nearly the same size in every coordinate. Equals torch.optim.AdamW.
    The state of a parameter is m, v and t: two more numbers per weight.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient."""
        loss = _loss_of(closure)
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for theta in group["params"]:
                if theta.grad is None:
                    continue
                state = self.state[theta]
                if not state:
                    state.update(step=0, m=torch.zeros_like(theta), v=torch.zeros_like(theta))
                state["step"] += 1
                t, m, v, g = state["step"], state["m"], state["v"], theta.grad
                theta.mul_(1 - lr * group["weight_decay"])
                m.lerp_(g, 1 - beta1)
                v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                size = (v.sqrt() / math.sqrt(1 - beta2**t)).add_(group["eps"])
                theta.addcdiv_(m, size, value=-lr / (1 - beta1**t))
        return loss


# "adamw_fused" is torch's own code for the same update, all in one kernel
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "adamw": AdamW,
    "adamw_fused": partial(torch.optim.AdamW, fused=True),
}


def _loss_of(closure):
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def check_range(parameters: Iterable[Tensor]) -> None:
    """ValueError for fp16 parameters: Adam's step divides by v and eps = 1e-8, which become 0 there."""
    for theta in parameters:
        if theta.dtype == torch.float16:
            raise ValueError(
                f"a parameter of shape {tuple(theta.shape)} is float16, where squares of gradients "
                "and eps become 0: keep the parameters in float32 (model.float()) and let the products be "
                '16 bits wide, by precision="fp16" or torch.autocast'
            )


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices and tables decay, biases and gains do not. A tied parameter appears once."""
    _check(weight_decay=_at_least_zero(weight_decay))
    parameters = [p for p in model.parameters() if p.requires_grad]  # parameters() yields a tied one once
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by max_norm / norm if their global norm exceeds max_norm  [Pascanu et al. 2013]

    Returns the norm before scaling, sqrt(sum of all squares). A norm that is not finite leaves zeros and NaN,
    as in torch: the caller must check it. Raises ValueError unless max_norm > 0.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = [_whole(g.norm()) for g in gradients]
    norm = torch.stack(norms).norm() if norms else torch.tensor(0.0)
    limit_norm(gradients, norm, max_norm)
    return norm


@torch.no_grad()
def limit_norm(gradients: Iterable[Tensor], norm: Tensor, max_norm: float) -> None:
    """In place, for gradients whose global norm is known: g <- g min(1, max_norm / norm)

    The part of clipping that one process and many share: they only take the norm in different ways.
    """
    _check(max_norm=(max_norm, max_norm > 0, "must be above 0; infinity leaves gradients as they are"))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(scale)


def _whole(x: Tensor) -> Tensor:
    """x as a plain tensor: the norm of a gradient that is sharded over ranks is a DTensor."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def constant(total: int, warmup: int = 0) -> Schedule:
    """min(1, (step + 1) / (warmup + 1)): a linear rise, then 1. Steps count from 0."""
    _check_steps(total, warmup)
    return lambda step: min(1.0, (step + 1) / (warmup + 1))


def warmup_cosine(total: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """A linear rise over warmup steps, then half a cosine from 1 to floor  [Loshchilov & Hutter 2017]

    It reaches floor at step = total.

    >>> [round(warmup_cosine(4, 0)(s), 3) for s in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    _check_steps(total, warmup, floor)

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return at


def warmup_stable_decay(total: int, warmup: int = 0, floor: float = 0.0, decay: float = 0.2) -> Schedule:
    """A linear rise, a plateau at 1, then a linear fall to floor over the last share `decay` of the steps

    The plateau is that of [Hu et al. 2024]. Their rate then falls exponentially; a straight line is simpler.
    """
    _check_steps(total, warmup, floor)
    _check(decay=(decay, 0 < decay <= 1, "is a share of all steps; choose 0 < decay <= 1"))
    length = max(1, round(decay * total))

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return max(floor, min(1.0, 1 - (1 - floor) * (step - (total - length)) / length))

    return at


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "warmup_cosine": warmup_cosine,
    "warmup_stable_decay": warmup_stable_decay,
}


def _check_steps(total: int, warmup: int, floor: float = 0.0) -> None:
    _check(total=(total, total >= 1, "must be at least 1 step"))
    too_long = f"must lie in 0..total={total}: a rise longer than the run never ends"
    _check(warmup=(warmup, 0 <= warmup <= total, too_long))
    _check(floor=(floor, 0 <= floor <= 1, "is a share of the peak rate; choose 0 <= floor <= 1"))
