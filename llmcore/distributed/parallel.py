"""For use: the same model on torch's own engine, DistributedDataParallel, FSDP2 and DTensor. The files beside this one show how
they work; the trainer takes a Parallel and torchrun starts it on one machine or many.

ddp      the whole model on every rank, its own part of the batch                         [Li et al. 2020]
fsdp     parameters, gradients and optimizer state sharded: ZeRO stage 3                  [Zhao et al. 2023]
tp       each matrix of a block cut over the ranks, all of which read the same batch      [Shoeybi et al. 2019]
fsdp+tp  ranks in a grid: `tensor` neighbours cut the matrices, and what they hold is sharded over the rest
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import (
    DTensor,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.nn.parallel import DistributedDataParallel

from llmcore.attention import Attention
from llmcore.block import Block
from llmcore.distributed.tensor_parallel import SPLITS
from llmcore.feedforward import FeedForward
from llmcore.linear import Linear

KINDS = ("ddp", "fsdp", "tp", "fsdp+tp")


@dataclass(frozen=True)
class Parallel:
    """How the processes share the work; made after torch.distributed is initialised, on every rank alike.

    tensor: how many neighbouring ranks cut the matrices (0: all for "tp", 2 for "fsdp+tp", 1 else). Neighbours are ranks of one
    machine where torchrun starts them, so the many messages of tensor parallelism stay on its fast links.
    """

    kind: str = "ddp"
    tensor: int = 0
    mesh: DeviceMesh = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"plan {self.kind!r} is unknown: choose one of {list(KINDS)}")
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                f"plan {self.kind!r} without processes: start with torchrun, or initialise torch.distributed first"
            )
        world = dist.get_world_size()
        tensor = self.tensor or {"tp": world, "fsdp+tp": 2}.get(self.kind, 1)
        if "tp" not in self.kind and tensor != 1:
            raise ValueError(f"tensor={tensor} with plan {self.kind!r} would be ignored: use tp or fsdp+tp")
        if tensor < 1 or world % tensor or (self.kind == "tp" and tensor != world):
            raise ValueError(
                f"tensor={tensor} for {world} ranks, plan {self.kind!r}: must divide them, and be all of them for tp"
            )
        object.__setattr__(self, "tensor", tensor)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        object.__setattr__(
            self,
            "mesh",
            init_device_mesh(device, (world // tensor, tensor), mesh_dim_names=("data", "tensor")),
        )

    @property
    def data_ranks(self) -> int:
        """How many parts a batch is cut into."""
        return self.mesh["data"].size()

    @property
    def data_rank(self) -> int:
        """Which of them this rank reads; ranks that cut the same matrices read the same."""
        return self.mesh["data"].get_local_rank()

    @property
    def sharded(self) -> bool:
        """Whether no rank holds the whole model, so that checkpoints are written in shards."""
        return self.kind != "ddp"

    def split(self, model: nn.Module) -> nn.Module:
        """Cut and shard the model in place as the plan says; returns what is to be called in its place."""
        config = getattr(model, "config", None)
        if self.kind == "ddp":
            ids = [torch.cuda.current_device()] if self.mesh.device_type == "cuda" else None
            return DistributedDataParallel(model, device_ids=ids, process_group=self.mesh["data"].get_group())
        if config is None:
            raise ValueError(
                f"plan {self.kind!r} for a {type(model).__name__}: only llmcore's Transformer is known; use ddp"
            )
        if "fsdp" in self.kind:
            _check_types(model)
        for x in (
            *model.parameters(),
            *model.buffers(),
        ):  # rank 0's for all, frozen ones too, as ddp does by itself
            whole = x.data.contiguous()
            dist.broadcast(whole, 0)
            x.data.copy_(whole)
        if "tp" in self.kind:
            for name in ("n_heads", "n_kv_heads", "d_ff"):
                if getattr(config, name) % self.tensor:
                    raise ValueError(
                        f"{name}={getattr(config, name)} over tensor={self.tensor} ranks: must divide it"
                    )
            for module in list(model.modules()):
                if isinstance(module, Attention | FeedForward):
                    cut(module, self.mesh["tensor"])
        if "fsdp" in self.kind:
            for module in list(model.modules()):
                if isinstance(module, Block):
                    fully_shard(module, mesh=self.mesh["data"])
            fully_shard(model, mesh=self.mesh["data"])
        return model

    def gradients_wait(self, forward: nn.Module, last: bool) -> contextlib.AbstractContextManager:
        """For accumulated batches: gradients cross the ranks only in the backward of the last."""
        if isinstance(forward, FSDPModule):
            forward.set_requires_gradient_sync(last)
        elif isinstance(forward, DistributedDataParallel) and not last:
            return forward.no_sync()
        return contextlib.nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """In place: sums over the parts of the batch."""
        dist.all_reduce(values, group=self.mesh["data"].get_group())
        return values


def _check_types(model: nn.Module) -> None:
    """ValueError where FSDP would fail in the first backward: it adds up the gradients of a unit as one buffer of one type."""
    blocks = {p: i for i, m in enumerate(model.modules()) if isinstance(m, Block) for p in m.parameters()}
    kinds: dict[int, set[str]] = {}  # by unit: a block, or what lies outside all blocks
    for p in model.parameters():
        if p.requires_grad:
            kinds.setdefault(blocks.get(p, -1), set()).add(str(p.dtype).removeprefix("torch."))
    for found in kinds.values():
        if len(found) > 1:
            raise ValueError(
                f"parameters of {sorted(found)} beside each other: fsdp sums gradients of one type; convert the model"
            )


def cut(layer: Attention | FeedForward, mesh: DeviceMesh) -> None:
    """The matrices of an attention or feed-forward as DTensors: SPLITS, the same as tensor_parallel's, through torch's machinery."""
    if isinstance(layer, Attention):
        layer.n_heads, layer.n_kv_heads = layer.n_heads // mesh.size(), layer.n_kv_heads // mesh.size()
    for name, axis in SPLITS.items():
        linear = getattr(layer, name, None)
        if isinstance(linear, Linear):
            by_columns = axis == 1
            # a column's input is whole on every rank and its output stays cut; a row's input is cut, its output summed
            inward, outward = (Replicate(), Shard(-1)) if by_columns else (Shard(-1), Replicate())
            distribute_module(linear, mesh, _place(by_columns), _enter(inward), _leave(outward))


def _place(by_columns: bool) -> Callable[[str, nn.Module, DeviceMesh], None]:
    def place(_: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in list(module.named_parameters()):
            where = Shard(parameter.ndim - 1) if by_columns else Shard(0) if key == "weight" else Replicate()
            part = distribute_tensor(parameter.data, mesh, [where])
            module.register_parameter(
                key, nn.Parameter(part, requires_grad=parameter.requires_grad)
            )  # a frozen one stays frozen

    return place


def _enter(placement: Placement) -> Callable[[nn.Module, Any, DeviceMesh], Any]:
    return lambda _, inputs, mesh: (DTensor.from_local(inputs[0], mesh, [placement]), *inputs[1:])


def _leave(placement: Placement) -> Callable[[nn.Module, Any, DeviceMesh], Any]:
    return lambda _, output, mesh: output.redistribute(mesh, [placement]).to_local()


def random_states() -> dict[str, Tensor]:
    """torch's random state of every rank, a row each, so that a resumed run drops what the uninterrupted one would have."""
    own = {"random.ranks": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        own["random.cuda.ranks"] = torch.cuda.get_rng_state()
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return {name: torch.stack([states[name] for states in gathered]) for name in own}


def restore_random(states: dict[str, Tensor]) -> None:
    """Take this rank's row; where another number of ranks wrote them there is none, and the state stays as it is."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for name, put in (("random.ranks", torch.set_rng_state), ("random.cuda.ranks", torch.cuda.set_rng_state)):
        if name in states and len(states[name]) == world:
            put(states[name][rank].clone())  # torch reads the state from the start of the tensor's memory


def start(device: torch.device) -> torch.device:
    """Join the processes that torchrun started, by nccl on CUDA and gloo elsewhere; returns this rank's device."""
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device
