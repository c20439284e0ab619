"""For use: the same model on torch's own engine, DistributedDataParallel, FSDP2 and DTensor.

The files beside this one show how these work. The trainer takes a Parallel, or a OneProcess with the same
interface; torchrun starts the processes on one machine or many.

ddp      the whole model on every rank, its own part of the batch                     [Li et al. 2020]
fsdp     parameters, gradients and optimizer state sharded: ZeRO stage 3              [Zhao et al. 2023]
tp       each matrix of a block cut over the ranks, all of which read the same batch  [Shoeybi et al. 2019]
fsdp+tp  ranks in a grid: `tensor` neighbours cut the matrices, and their parts are sharded over the rest
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
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

from llmcore import checkpoint
from llmcore.attention import Attention
from llmcore.block import Block
from llmcore.config import ModelConfig
from llmcore.distributed.tensor_parallel import SPLITS
from llmcore.feedforward import FeedForward
from llmcore.linear import Linear

KINDS = ("ddp", "fsdp", "tp", "fsdp+tp")


class OneProcess:
    """Parallel's interface where one process does all: nothing is split, a sum is the number itself."""

    data_ranks, data_rank = 1, 0
    sharded, first = False, True

    def split(self, model: nn.Module) -> nn.Module:
        return model

    def gradients_wait(self, forward: nn.Module, last: bool) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        return values

    def on_any_rank(self, found: bool) -> bool:
        return found

    def wait(self) -> None:
        pass

    def random_states(self) -> dict[str, Tensor]:
        return {}

    def restore_random(self, path: Path) -> None:
        pass


@dataclass(frozen=True)
class Parallel:
    """How the processes share the work; made after torch.distributed is initialised, on every rank alike.

    tensor: how many neighbouring ranks cut the matrices (0: all for "tp", 2 for "fsdp+tp", 1 else). torchrun
    makes the ranks of one machine neighbours, so the many messages of tensor parallelism stay on its fast
    links. Raises ValueError for an unknown kind, without processes, and where `tensor` does not fit them.
    """

    kind: str = "ddp"
    tensor: int = 0
    mesh: DeviceMesh = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"plan {self.kind!r} is unknown: choose one of {list(KINDS)}")
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                f"plan {self.kind!r} without processes: "
                "start with torchrun, or initialise torch.distributed first"
            )
        world = dist.get_world_size()
        tensor = self.tensor or {"tp": world, "fsdp+tp": 2}.get(self.kind, 1)
        if "tp" not in self.kind and tensor != 1:
            raise ValueError(f"tensor={tensor} with plan {self.kind!r} would be ignored: use tp or fsdp+tp")
        if tensor < 1 or world % tensor or (self.kind == "tp" and tensor != world):
            raise ValueError(
                f"tensor={tensor} for {world} ranks, plan {self.kind!r}: "
                "must divide them, and be all of them for tp"
            )
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        mesh = init_device_mesh(device, (world // tensor, tensor), mesh_dim_names=("data", "tensor"))
        object.__setattr__(self, "tensor", tensor)
        object.__setattr__(self, "mesh", mesh)

    @property
    def data_ranks(self) -> int:
        """How many parts a batch is cut into."""
        return self.mesh["data"].size()

    @property
    def data_rank(self) -> int:
        """Which of these parts this rank reads; ranks that cut the same matrices read the same part."""
        return self.mesh["data"].get_local_rank()

    @property
    def sharded(self) -> bool:
        """Whether no rank holds the whole model, so that checkpoints are written in shards."""
        return self.kind != "ddp"

    @property
    def first(self) -> bool:
        """Whether this rank does what one does for all, such as writing a checkpoint."""
        return dist.get_rank() == 0

    def split(self, model: nn.Module) -> nn.Module:
        """Cut and shard the model in place; returns what is to be called in its place.

        All ranks start from rank 0's parameters and buffers, frozen ones too. Raises ValueError for a model
        that this kind cannot split.
        """
        if self.kind == "ddp":
            ids = [torch.cuda.current_device()] if self.mesh.device_type == "cuda" else None
            return DistributedDataParallel(model, device_ids=ids, process_group=self.mesh["data"].get_group())
        config = getattr(model, "config", None)
        if config is None:
            kind = type(model).__name__
            raise ValueError(f"plan {self.kind!r} for a {kind}: only llmcore's Transformer is known; use ddp")
        if "fsdp" in self.kind:
            _check_types(model)
        _share(model)
        modules = list(model.modules())
        if "tp" in self.kind:
            _check_sizes(config, self.tensor)
            for layer in modules:
                if isinstance(layer, Attention | FeedForward):
                    cut(layer, self.mesh["tensor"])
        if "fsdp" in self.kind:
            for block in modules:
                if isinstance(block, Block):
                    fully_shard(block, mesh=self.mesh["data"])
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

    def on_any_rank(self, found: bool) -> bool:
        """Whether it was found on any rank; every rank gets the same answer."""
        ranks = torch.tensor(int(found), device=self.mesh.device_type)
        dist.all_reduce(ranks)
        return bool(ranks)

    def wait(self) -> None:
        """Until all ranks are here."""
        dist.barrier()

    def random_states(self) -> dict[str, Tensor]:
        """torch's random state of every rank, to go into a checkpoint."""
        return random_states()

    def restore_random(self, path: Path) -> None:
        """Take this rank's random state from a checkpoint."""
        restore_random(checkpoint.tensors(path))


def all_processes() -> Parallel | OneProcess:
    """ddp where torch.distributed runs several processes, else OneProcess."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Parallel("ddp") if several else OneProcess()


def _share(model: nn.Module) -> None:
    """Rank 0's parameters and buffers for all, as ddp does by itself."""
    for x in (*model.parameters(), *model.buffers()):
        whole = x.data.contiguous()
        dist.broadcast(whole, 0)
        x.data.copy_(whole)


def _check_sizes(config: ModelConfig, tensor: int) -> None:
    for name in ("n_heads", "n_kv_heads", "d_ff"):
        if getattr(config, name) % tensor:
            raise ValueError(f"{name}={getattr(config, name)} over tensor={tensor} ranks: must divide it")


def _check_types(model: nn.Module) -> None:
    """ValueError where FSDP would fail in backward: it sums a unit's gradients as one buffer of one type."""
    blocks = {p: i for i, m in enumerate(model.modules()) if isinstance(m, Block) for p in m.parameters()}
    kinds: dict[int, set[str]] = {}  # by unit: a block, or what lies outside all blocks
    for p in model.parameters():
        if p.requires_grad:
            kinds.setdefault(blocks.get(p, -1), set()).add(str(p.dtype).removeprefix("torch."))
    for found in kinds.values():
        if len(found) > 1:
            raise ValueError(
                f"parameters of {sorted(found)} beside each other: fsdp sums gradients of one type; "
                "convert the model"
            )


def cut(layer: Attention | FeedForward, mesh: DeviceMesh) -> None:
    """Make DTensors of an attention's or feed-forward's matrices, cut as tensor_parallel's SPLITS says."""
    if isinstance(layer, Attention):
        layer.n_heads, layer.n_kv_heads = layer.n_heads // mesh.size(), layer.n_kv_heads // mesh.size()
    for name, axis in SPLITS.items():
        linear = getattr(layer, name, None)
        if isinstance(linear, Linear):
            by_columns = axis == 1
            # a column's input is whole on every rank and its output stays cut; a row's input is cut, its
            # output summed
            inward, outward = (Replicate(), Shard(-1)) if by_columns else (Shard(-1), Replicate())
            distribute_module(linear, mesh, _place(by_columns), _enter(inward), _leave(outward))


def _place(by_columns: bool) -> Callable[[str, nn.Module, DeviceMesh], None]:
    def place(_: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in list(module.named_parameters()):
            where = Shard(parameter.ndim - 1) if by_columns else Shard(0) if key == "weight" else Replicate()
            part = distribute_tensor(parameter.data, mesh, [where])
            # a frozen parameter stays frozen
            module.register_parameter(key, nn.Parameter(part, requires_grad=parameter.requires_grad))

    return place


def _enter(placement: Placement) -> Callable[[nn.Module, Any, DeviceMesh], Any]:
    return lambda _, inputs, mesh: (DTensor.from_local(inputs[0], mesh, [placement]), *inputs[1:])


def _leave(placement: Placement) -> Callable[[nn.Module, Any, DeviceMesh], Any]:
    return lambda _, output, mesh: output.redistribute(mesh, [placement]).to_local()


def random_states() -> dict[str, Tensor]:
    """torch's random state of every rank, one row per rank, so that a resumed run draws the same dropout."""
    own = {"random.ranks": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        own["random.cuda.ranks"] = torch.cuda.get_rng_state()
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return {name: torch.stack([states[name] for states in gathered]) for name in own}


def restore_random(states: dict[str, Tensor]) -> None:
    """Set this rank's state from its row; where another number of ranks wrote them, leave it as it is."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for name, put in (("random.ranks", torch.set_rng_state), ("random.cuda.ranks", torch.cuda.set_rng_state)):
        if name in states and len(states[name]) == world:
            put(states[name][rank].clone())  # torch reads the state from the start of the tensor's memory


def start(device: torch.device) -> torch.device:
    """Join the processes that torchrun started, by nccl on CUDA, else by gloo; returns this rank's device."""
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device
