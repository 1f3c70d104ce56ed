"""Program of each rank of the distributed benchmark: count the collectives of a step, time steps, time all-reduces."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor import ones as sharded_ones
from torch.optim import AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import valleys
from distributed_naive import NaiveLamb
from shapes import Shape

__all__ = ["CLIPPED", "CONTENDERS", "NAIVE", "Collectives", "Found", "Plan", "measure", "on_ranks"]

T = TypeVar("T")

COMMON: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.01}
ALL: dict[str, Any] = {**COMMON, "layer_adaptation": True}  # a ratio for every tensor, as the naive way has

NAIVE, CLIPPED = "naive LAMB", "ALTO, max_grad_norm"

CONTENDERS: dict[str, Callable[[list[Tensor]], Optimizer]] = {
    "ALTO": lambda params: valleys.ALTO(params, **ALL),
    CLIPPED: lambda params: valleys.ALTO(params, max_grad_norm=1.0, **ALL),
    "Lamb": lambda params: valleys.Lamb(params, **ALL),
    NAIVE: lambda params: NaiveLamb(params, **COMMON),
    "AdamW fused": lambda params: AdamW(params, fused=True, **COMMON),
    "AdamW foreach": lambda params: AdamW(params, foreach=True, **COMMON),
}

REPEATED = 10
"""All-reduces behind one another, whose mean is one timing: no rank leaves the barrier before them at the same time."""


@dataclass(frozen=True)
class Plan:
    """Settings of the measurement.

    Args:
        counted: sets of shapes for which collectives are counted.
        stepped: the set whose steps are timed.
        rounds: timed steps of each contender.
        sizes: float64 numbers per all-reduce, to be timed.
        reductions: timings of each.
        seed: of the values and of the order.
    """

    counted: dict[str, Sequence[Shape]]
    stepped: Sequence[Shape]
    rounds: int
    sizes: Sequence[int]
    reductions: int
    seed: int = 0


@dataclass
class Found:
    """Measurements of a rank.

    Args:
        collectives: by set and contender: name and bytes of every collective of one step, in their order.
        steps: by contender: seconds of each timed step.
        reductions: by size: seconds per all-reduce.
        difference: of three steps of the naive way and of Lamb, relative to their length.
    """

    collectives: dict[str, dict[str, list[tuple[str, int]]]] = field(default_factory=dict)
    steps: dict[str, list[float]] = field(default_factory=dict)
    reductions: dict[int, list[float]] = field(default_factory=dict)
    difference: float = 0.0


def on_ranks(function: Callable[..., T], ranks: int, *args: Any, seconds: float = 1800.0) -> list[T]:
    """Calls ``function(*args)`` in new processes that form a world: gloo over loopback, one thread each.

    Args:
        function: of a module's top level.
        ranks: how many processes.
        args: for the function, picklable.
        seconds: how long any of them may wait for another.

    Returns:
        What each rank returned.

    Raises:
        Exception: whatever a rank raised; BrokenProcessPool if one died.
    """
    context = multiprocessing.get_context("spawn")
    # None is done before all have met, so that each process takes one rank.
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(ranks, context) as pool:
        store = f"file://{folder}/store"
        tasks = [pool.submit(_rank, function, rank, ranks, store, seconds, args) for rank in range(ranks)]
        for task in as_completed(tasks):
            task.result()  # the first failure, not the others' complaint about it
        return [task.result() for task in tasks]


def _rank(function: Callable[..., T], rank: int, ranks: int, store: str, seconds: float, args: tuple[Any, ...]) -> T:
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=seconds))
    try:
        result = function(*args)
        dist.barrier()  # nobody leaves while another still needs it
        return result
    finally:
        dist.destroy_process_group()


def measure(plan: Plan) -> Found:
    """Everything in the plan, on this rank; collectives and their times only where there is another rank."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    result = Found()
    if mesh.size() > 1:
        for name, shapes in plan.counted.items():
            _log(f"counting for {name}")
            result.collectives[name] = _count(_sharded(shapes, mesh, plan.seed))
        _log("all-reduces")
        result.reductions = _time_reductions(plan.sizes, plan.reductions, plan.seed)
    _log("steps")
    result.difference = _difference(plan.stepped, mesh, plan.seed)
    result.steps = _time_steps(_sharded(plan.stepped, mesh, plan.seed), plan.rounds, plan.seed)
    return result


class Collectives(TorchDispatchMode):
    """Records every collective that starts while it is entered, with the bytes of the tensors it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Lets DTensors take themselves apart first; what they send is then seen like the rest."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        space, _, name = str(func).removesuffix(".default").partition(".")
        if space in ("c10d", "_c10d_functional") and not name.startswith(("wait_tensor", "_wrap_tensor")):
            size = sum(leaf.nbytes for leaf in tree_leaves(args[0]) if isinstance(leaf, Tensor))
            self.seen.append((name, size))
        return func(*args, **(kwargs or {}))


def _sharded(shapes: Sequence[Shape], mesh: DeviceMesh, seed: int) -> list[Any]:
    """Parameters and gradients, split along their first dimension as fully_shard does."""
    generator = torch.Generator().manual_seed(1000 * seed + dist.get_rank())
    params = []
    with torch.no_grad():
        for shape in shapes:
            pair = [sharded_ones(shape, device_mesh=mesh, placements=[Shard(0)]) for _ in range(2)]
            for tensor, scale in zip(pair, (0.02, 1e-4), strict=True):
                tensor.to_local().normal_(0.0, scale, generator=generator)
            param = torch.nn.Parameter(pair[0])
            param.grad = pair[1]
            params.append(param)
    return params


def _count(params: list[Any]) -> dict[str, list[tuple[str, int]]]:
    """The collectives of every contender's second step; the first one also makes states."""
    counts = {}
    for name, build in CONTENDERS.items():
        optimizer = build(params)
        optimizer.step()
        with Collectives() as collectives:
            optimizer.step()
        counts[name] = collectives.seen
        del optimizer  # one contender's states at a time
        gc.collect()
    return counts


def _difference(shapes: Sequence[Shape], mesh: DeviceMesh, seed: int) -> float:
    """Distance of the naive way's three steps from Lamb's, relative to their length; the worst parameter's."""
    options = {**COMMON, "lr": 0.1}  # long enough for float32 parameters to show it
    naive, exact, start = (_sharded(shapes, mesh, seed) for _ in range(3))
    ratio: dict[str, Any] = {"layer_adaptation": True, "trust_eps": 0.0, "norm_eps": 0.0}
    optimizers = [NaiveLamb(naive, **options), valleys.Lamb(exact, **ratio, **options)]
    for optimizer in optimizers * 3:
        optimizer.step()
    worst = 0.0
    for triple in zip(naive, exact, start, strict=True):
        x, y, z = (param.to_local().detach() for param in triple)
        if x.numel():
            worst = max(worst, float((x - y).norm() / (x - z).norm()))
    return worst


def _time_steps(params: list[Any], rounds: int, seed: int) -> dict[str, list[float]]:
    """Interleaved rounds in an order that all ranks share; all contenders share parameters and gradients."""
    optimizers = {name: build(params) for name, build in CONTENDERS.items()}
    for optimizer in optimizers.values():
        before = _sample(params)
        optimizer.step()
        after = _sample(params)
        if torch.equal(before, after) or not after.isfinite().all():
            raise RuntimeError(f"{type(optimizer).__name__}'s first step moved no parameter, or left one not finite")
        optimizer.step()
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    order = random.Random(seed)
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for name in order.sample(list(optimizers), len(optimizers)):
            dist.barrier()
            start = time.perf_counter()
            optimizers[name].step()
            times[name].append(time.perf_counter() - start)
        gc.collect()
    gc.enable()
    return times


def _time_reductions(sizes: Sequence[int], rounds: int, seed: int) -> dict[int, list[float]]:
    """All sizes once per round, in an order that all ranks share."""
    tensors = {size: torch.zeros(size, dtype=torch.float64) for size in sizes}
    for tensor in tensors.values():
        dist.all_reduce(tensor)
    times: dict[int, list[float]] = {size: [] for size in sizes}
    order = random.Random(seed)
    for _ in range(rounds):
        for size in order.sample(list(sizes), len(sizes)):
            dist.barrier()
            start = time.perf_counter()
            for _ in range(REPEATED):
                dist.all_reduce(tensors[size])
            times[size].append((time.perf_counter() - start) / REPEATED)
    return times


def _sample(params: list[Any]) -> Tensor:
    return torch.cat([param.to_local().detach().flatten()[:64] for param in params]).clone()


def _log(text: str) -> None:
    if dist.get_rank() == 0:
        print(f"{text}, ranks: {dist.get_world_size()}", file=sys.stderr, flush=True)
