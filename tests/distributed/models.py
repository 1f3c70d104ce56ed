"""A small model of awkward sizes, every way to spread it over ranks, and optimizers that are trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

import valleys

__all__ = [
    "SETTINGS",
    "Net",
    "Result",
    "Run",
    "Setting",
    "Spread",
    "batch",
    "counted",
    "ddp",
    "fsdp",
    "fsdp_tp",
    "hsdp",
    "new_net",
    "tp",
    "train",
    "two_meshes",
    "whole",
]

BATCH, TOKENS = 12, 5
QKV = (3, 3, 1)
BETA = 0.9
COUNTED = 2


class Net(nn.Module):
    """Attention and an MLP of widths 1, 3 and 7, with parameters that are zero, tied, used sometimes or never.

    Args:
        depth: number of further layers.
    """

    def __init__(self, depth: int = 0) -> None:
        super().__init__()
        self.inp = nn.Linear(7, 3)
        self.norm = nn.LayerNorm(3)
        self.qkv = nn.Linear(3, sum(QKV), bias=False)
        self.proj = nn.Linear(1, 3, bias=False)
        nn.init.zeros_(self.proj.weight)  # so that at first qkv's gradient is zero too
        self.branch = nn.Linear(3, 3)
        self.gate = nn.Parameter(torch.tensor([[0.5, 1.0, 1.5]]))
        self.rest = nn.ModuleList(nn.Linear(3, 3) for _ in range(depth))
        self.up = nn.Linear(3, 7)
        self.head = nn.Linear(7, 1)
        self.down = nn.Linear(7, 3, bias=False)
        self.unused = nn.Linear(7, 3)
        self.tie()

    def tie(self) -> None:
        """Makes one parameter of the first layer's weight and the last one's."""
        self.down.weight = self.inp.weight

    def forward(self, x: Tensor, even: bool) -> Tensor:
        """The model's output; ``branch`` takes part on ``even`` steps."""
        h = self.inp(x)
        q, k, v = self.qkv(self.norm(h)).split(QKV, dim=-1)
        h = h + self.proj((q @ k.transpose(-1, -2)).softmax(-1) @ v)
        if even:
            h = h + self.branch(h)
        for layer in self.rest:
            h = h + torch.tanh(layer(h))
        u = torch.tanh(self.up(h * self.gate))
        y: Tensor = self.head(u) + torch.tanh(self.down(u)).sum(-1, keepdim=True)
        return y


class Spread(NamedTuple):
    """A model over ranks.

    Args:
        model: what is called.
        part, parts: which part of the batch is this rank's, and of how many.
        loose: parameters whose gradients the wrapper leaves alone; they are averaged over ``group``.
        group: a process group, None is all ranks.
    """

    model: nn.Module
    part: int = 0
    parts: int = 1
    loose: tuple[nn.Parameter, ...] = ()
    group: Any = None


def ddp(net: Net) -> Spread:
    """Replicas."""
    return Spread(DistributedDataParallel(net, find_unused_parameters=True), dist.get_rank(), dist.get_world_size())


def fsdp(net: Net, loose: bool = True, **options: Any) -> Spread:
    """Some layers, then the rest sharded, all but ``gate`` if ``loose``; ``options`` are those of ``fully_shard``."""
    return _sharded(net, init_device_mesh("cpu", (dist.get_world_size(),)), loose, **options)


def hsdp(net: Net, loose: bool = True) -> Spread:
    """Replicas of shards."""
    spread = _sharded(net, init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")), loose)
    return spread._replace(part=dist.get_rank(), parts=dist.get_world_size(), group=None)


def tp(net: Net) -> Spread:
    """Every matrix divided; ``gate`` stays a plain tensor."""
    _parallelize(net, init_device_mesh("cpu", (dist.get_world_size(),)), _plan(net))
    return Spread(net)


def fsdp_tp(net: Net, loose: bool = True) -> Spread:
    """Every matrix divided and sharded."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    # FSDP2's reduction refuses a parameter of which one rank's division is empty.
    _parallelize(net, mesh["tp"], {**_plan(net), "proj": _WHOLE})
    return _sharded(net, mesh["dp"], loose)


def two_meshes(net: Net, loose: bool = True) -> Spread:
    """One matrix divided, all sharded: most parameters lie on the mesh of the data ranks alone."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(net, mesh["tp"], {"branch": _WHOLE})
    return _sharded(net, mesh["dp"], loose)


_WHOLE = ColwiseParallel(output_layouts=Replicate())


def _plan(net: Net) -> dict[str, ParallelStyle]:
    return {
        "inp": _WHOLE,
        "qkv": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
        "proj": RowwiseParallel(input_layouts=Replicate()),
        "branch": _WHOLE,
        **{f"rest.{i}": _WHOLE for i in range(len(net.rest))},
        # As plain tensors, shards of 4 and 3 would be taken for equal ones.
        "up": ColwiseParallel(use_local_output=False),
        "head": RowwiseParallel(),
        "down": ColwiseParallel(input_layouts=Shard(-1), output_layouts=Replicate()),
        "unused": _WHOLE,
    }


def _parallelize(net: Net, mesh: DeviceMesh, plan: dict[str, ParallelStyle]) -> None:
    parallelize_module(net.norm, mesh, PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Shard(1)))
    parallelize_module(net.norm, mesh, SequenceParallel())
    parallelize_module(net, mesh, plan)
    net.tie()


def _sharded(net: Net, mesh: DeviceMesh, loose: bool = True, **options: Any) -> Spread:
    # Few units: each costs two collectives per pass. The tied parameter's layers are both in the last.
    for layer in (net.qkv, net.branch, net.up):
        fully_shard(layer, mesh=mesh, **options)
    ignored = (net.gate,) if loose else ()
    fully_shard(net, mesh=mesh, ignored_params=set(ignored), **options)
    if mesh.ndim > 1:
        return Spread(net, loose=ignored)
    return Spread(net, mesh.get_local_rank(), mesh.size(), ignored, mesh.get_group())


class Setting(NamedTuple):
    """A way to spread the model.

    Args:
        title: its name.
        ranks: size of the world.
        spread: wraps the model.
        sums: all-reduces of a step beside those of Partial gradients: one per mesh with several ranks to add up over.
    """

    title: str
    ranks: int
    spread: Callable[[Net], Spread]
    sums: int


SETTINGS = (
    Setting("DDP", 2, ddp, 0),
    Setting("DDP", 4, ddp, 0),
    Setting("FSDP2", 1, fsdp, 0),
    Setting("FSDP2", 2, fsdp, 1),
    Setting("FSDP2", 4, fsdp, 1),
    Setting("HSDP", 4, hsdp, 1),
    Setting("TP", 2, tp, 1),
    Setting("TP", 4, tp, 1),
    Setting("FSDP2 x TP", 4, fsdp_tp, 1),
    Setting("FSDP2 x TP, two meshes", 4, two_meshes, 2),
)


def _by_mesh(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of tensors that torch.optim's foreach takes together."""
    by_mesh: dict[Any, list[Tensor]] = {}
    for param in (param for group in groups for param in group["params"]):
        by_mesh.setdefault(getattr(param, "device_mesh", None), []).append(param)
    return [{"params": params} for params in by_mesh.values()]


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], Optimizer]] = {
    "ALTO": lambda groups: valleys.ALTO(groups, lr=0.03, beta=BETA),
    "Lamb": lambda groups: valleys.Lamb(groups, lr=0.03, foreach=True),
    "ALTO clipped": lambda groups: valleys.ALTO(groups, lr=0.03, beta=BETA, max_grad_norm=0.3),
    "E AdamW": lambda groups: valleys.adapt(torch.optim.AdamW(_by_mesh(groups), lr=0.03, foreach=True), beta=0.9),
    "ALTO bfloat16": lambda groups: valleys.ALTO(groups, lr=0.03, beta=BETA, state_dtype=torch.bfloat16),
    "E AdamW fused": lambda groups: valleys.adapt(torch.optim.AdamW(_by_mesh(groups), lr=0.03, fused=True), beta=0.9),
    "E AdamW bfloat16": lambda groups: valleys.adapt(
        torch.optim.AdamW(_by_mesh(groups), lr=0.03), beta=0.9, state_dtype=torch.bfloat16
    ),
    "EAdamW": lambda groups: valleys.EAdamW(_by_mesh(groups), lr=0.03, beta=0.9),
    "AdamW": lambda groups: torch.optim.AdamW(_by_mesh(groups), lr=0.03),
    "E SGD": lambda groups: valleys.adapt(torch.optim.SGD(_by_mesh(groups), lr=0.03, momentum=0.9), beta=0.9),
    "E RMSprop": lambda groups: valleys.adapt(torch.optim.RMSprop(_by_mesh(groups), lr=0.03), beta=0.9),
}


class Result(NamedTuple):
    """Result of an optimizer on this rank.

    Args:
        params, states: by name, whole.
        shards: of parameters and states what this rank holds, and which of the different shards it is.
        collectives: of the first steps, by name.
        partial: of every step, how many gradients torch has left to sum up over the ranks.
    """

    params: dict[str, Tensor]
    states: dict[str, Tensor]
    shards: dict[str, tuple[tuple[int, ...], Tensor]]
    collectives: list[dict[str, int]]
    partial: list[int]


class Run:
    """An optimizer that trains a model or, with a dtype, copies of its parameters with the model's gradients.

    Args:
        name: of ``OPTIMIZERS``.
        net: the model, wrapped already.
        dtype: of the copies.
        whole: whether each rank has the copies whole, as one process has.
    """

    def __init__(self, name: str, net: Net, dtype: torch.dtype | None = None, whole: bool = False) -> None:
        self._whole = whole
        self._own = {
            param: param if dtype is None else nn.Parameter(self._seen(param.detach()).to(dtype, copy=True))
            for param in net.parameters()
        }
        overrides: dict[str, dict[str, Any]] = {
            "qkv.weight": {"blocks": valleys.blocks.sections(QKV)},
            "norm.weight": {"layer_adaptation": True},  # the one with a ratio that tensor parallelism replicates
        }
        groups = valleys.param_groups(net, weight_decay=0.01, overrides=overrides)
        self.optimizer = OPTIMIZERS[name]([{**g, "params": [self._own[p] for p in g["params"]]} for g in groups])
        self._params = {name: self._own[param] for name, param in net.named_parameters()}
        self.collectives: list[dict[str, int]] = []
        self._partial: list[int] = []

    def step(self) -> None:
        """Makes a step."""
        for param, own in self._own.items():
            own.grad = None if param.grad is None else self._seen(param.grad).to(own.dtype)
        grads = [own.grad for own in self._own.values()]
        self._partial.append(sum(isinstance(g, DTensor) and any(p.is_partial() for p in g.placements) for g in grads))
        if len(self._partial) > COUNTED:  # counting takes more time than the step
            self.optimizer.step()
            return
        with counted() as collectives:
            self.optimizer.step()
        self.collectives.append(dict(collectives))

    def _seen(self, value: Tensor) -> Tensor:
        return whole(value) if self._whole else value

    def result(self) -> Result:
        """Return its result."""
        numbers = {p: i for i, p in enumerate(p for group in self.optimizer.param_groups for p in group["params"])}
        saved = self.optimizer.state_dict()["state"]
        params = {name: param.detach() for name, param in self._params.items()}
        states = {
            f"{name} {key}": value
            for name, param in self._params.items()
            for key, value in saved.get(numbers[param], {}).items()
            if isinstance(value, Tensor)
        }
        return Result(
            {name: whole(value) for name, value in params.items()},
            {name: whole(value) for name, value in states.items()},
            {name: _shard(value) for name, value in {**params, **states}.items()},
            self.collectives,
            self._partial,
        )


def new_net(dtype: torch.dtype = torch.float64, depth: int = 0) -> Net:
    """The same model on every rank."""
    torch.manual_seed(0)
    return Net(depth).to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A step's inputs and targets, those of all ranks."""
    x = torch.randn(BATCH, TOKENS, 7, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x.to(dtype), torch.sin(x.sum(-1, keepdim=True)).to(dtype)


def train(spread: Spread, runs: Sequence[Run], steps: int, dtype: torch.dtype = torch.float64) -> None:
    """Trains on this rank's part of the batches; the first of the runs moves the model."""
    for step in range(steps):
        spread.model.zero_grad()
        x, y = (data.tensor_split(spread.parts)[spread.part] for data in batch(step, dtype))
        (spread.model(x, step % 2 == 0) - y).square().mean().backward()
        for param in spread.loose:
            assert param.grad is not None
            dist.all_reduce(param.grad, group=spread.group)
            param.grad /= spread.parts
        for run in reversed(runs):
            run.step()


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts collectives by name; unlike torch's CommDebugMode all of them, point-to-point and barriers included."""
    counts: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(issubclass(kind, DTensor) for kind in types):
                return NotImplemented  # comes back as what it does to plain tensors
            name = func.__name__.split(".")[0].replace("_", "")
            if "c10d" in func.namespace and not name.startswith(("wait", "wrap")):
                counts[name] += 1
            return func(*args, **(kwargs or {}))

    with Count():
        yield counts


def whole(value: Tensor) -> Tensor:
    """A DTensor's value, collected from the ranks; another tensor itself."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _shard(value: Tensor) -> tuple[tuple[int, ...], Tensor]:
    if not isinstance(value, DTensor):
        return (), value
    coordinate = value.device_mesh.get_coordinate()
    assert coordinate is not None
    own = tuple(i for i, p in zip(coordinate, value.placements, strict=True) if not p.is_replicate())
    return own, value.to_local()
