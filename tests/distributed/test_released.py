"""The step inside backward on shards equals backward and step, bit for bit, and lets every gradient go."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

import valleys
from distributed.models import Net, Result, Run, Spread, batch, counted, fsdp, fsdp_tp, hsdp, new_net, tp, two_meshes
from distributed.worlds import SINCE_2_13, spawn
from valleys._engine.dtensor import is_sharded, local

DOUBLE, SINGLE, HALF = torch.float64, torch.float32, torch.bfloat16
STEPS = 5


class Case(NamedTuple):
    """A training.

    Args:
        optimizer: name in ``models.OPTIMIZERS``.
        spread: shards the model.
        dtype: of the model.
        passes: micro-batches of a step, of which the last reduces the gradients.
    """

    optimizer: str
    spread: Callable[[Net], Spread]
    dtype: torch.dtype = DOUBLE
    passes: int = 1


class Outcome(NamedTuple):
    """Facts of a training on this rank.

    Args:
        result: parameters and states.
        moved: of each step, the names of the parameters as they moved.
        alive: of each movement, how many gradients and how many pieces of memory that held gradients there were.
        after: of each step, the same behind backward.
        sizes: of each step, how many numbers each all-reduce of ``torch.distributed.all_reduce`` had.
        collectives: of each step, by name.
    """

    result: Result
    moved: list[list[str]]
    alive: list[tuple[int, int]]
    after: list[tuple[int, int]]
    sizes: list[list[int]]
    collectives: list[Counter[str]]


def sharded(net: Net, **options: Any) -> Spread:
    """All parameters, ``gate`` too: its gradient is averaged like the others'."""
    return fsdp(net, loose=False, **options)


def all_of(spread: Callable[..., Spread]) -> Callable[[Net], Spread]:
    return functools.partial(spread, loose=False)


POLICIES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "bfloat16 compute": (SINGLE, {"mp_policy": MixedPrecisionPolicy(param_dtype=HALF, reduce_dtype=SINGLE)}),
    "bfloat16 gradients": (SINGLE, {"mp_policy": MixedPrecisionPolicy(param_dtype=HALF)}),
    "offloading": (DOUBLE, {"offload_policy": CPUOffloadPolicy(pin_memory=False)}),
    "kept after forward": (DOUBLE, {"reshard_after_forward": False}),
}
SHARDED = ("ALTO", "Lamb", "EAdamW", "AdamW", "E AdamW fused", "E SGD", "E RMSprop", "E AdamW bfloat16", "ALTO bfloat16")
BOTH = ("ALTO", "EAdamW")
CASES: dict[int, dict[str, Case]] = {
    1: {name: Case(name, sharded) for name in BOTH},
    2: {
        **{name: Case(name, sharded) for name in SHARDED},
        **{f"{name} in float32": Case(name, sharded, SINGLE) for name in BOTH},
        **{f"{name}, 3 passes": Case(name, sharded, passes=3) for name in BOTH},
        **{
            f"{name}, {title}": Case(name, functools.partial(sharded, **options), dtype)
            for title, (dtype, options) in POLICIES.items()
            for name in BOTH
        },
        **{f"{name}, TP": Case(name, tp) for name in BOTH},
    },
    4: {
        **{name: Case(name, sharded) for name in ("ALTO", "Lamb", "EAdamW")},
        **{f"{name}, HSDP": Case(name, all_of(hsdp)) for name in BOTH},
        **{f"{name}, FSDP2 x TP": Case(name, all_of(fsdp_tp)) for name in BOTH},
        **{f"{name}, two meshes": Case(name, all_of(two_meshes)) for name in BOTH},
    },
}


@contextmanager
def sizes_of_all_reduces() -> Iterator[list[int]]:
    original, sizes = dist.all_reduce, []  # type: ignore[var-annotated]

    def all_reduce(tensor: Tensor, *args: Any, **options: Any) -> Any:
        sizes.append(tensor.numel())
        return original(tensor, *args, **options)

    dist.all_reduce = all_reduce
    try:
        yield sizes
    finally:
        dist.all_reduce = original


def train(case: Case, release: bool) -> Outcome:
    """Trains on this rank's part of the batches."""
    net = new_net(case.dtype)
    spread = case.spread(net)
    run = Run(case.optimizer, net)
    names = {param: name for name, param in net.named_parameters()}
    net.gate.requires_grad_(is_sharded(net.gate))  # tensor parallelism leaves it a plain tensor
    outcome = Outcome(None, [], [], [], [], [])  # type: ignore[arg-type]
    memory: list[StorageWeakRef] = []

    def gradients() -> tuple[int, int]:
        present = [local(param.grad).untyped_storage() for param in names if param.grad is not None]
        memory.extend(StorageWeakRef(storage) for storage in present)
        return len(present), len({ref.cdata for ref in memory if not ref.expired()})

    def moving(*_: Any) -> None:
        outcome.moved[-1].extend(name for param, name in names.items() if param.grad is not None)
        outcome.alive.append(gradients())

    run.optimizer.register_step_pre_hook(moving)
    if release:
        valleys.release_gradients(run.optimizer)
    for step in range(STEPS):
        outcome.moved.append([])
        spread.model.zero_grad()
        with counted() as collectives, sizes_of_all_reduces() as sizes:
            backward(case, spread, step)
            outcome.after.append(gradients())
            if not release:
                run.optimizer.step()
        outcome.collectives.append(collectives)
        outcome.sizes.append(sizes)
    return outcome._replace(result=run.result())


def backward(case: Case, spread: Spread, step: int) -> None:
    data = [data.tensor_split(spread.parts)[spread.part].chunk(case.passes) for data in batch(step, case.dtype)]
    for number, (x, y) in enumerate(zip(*data, strict=True)):
        if isinstance(spread.model, FSDPModule):
            spread.model.set_requires_gradient_sync(number == case.passes - 1)
        (spread.model(x, step % 2 == 0) - y).square().mean().backward()


def both_ways(ranks: int) -> dict[str, tuple[Outcome, Outcome]]:
    warnings.simplefilter("ignore")
    return {title: (train(case, False), train(case, True)) for title, case in CASES[ranks].items()}


def differences(usual: Result, released: Result) -> list[str]:
    """Names of the shards of parameters and states that are not the same, bit for bit."""
    assert usual.shards.keys() == released.shards.keys()
    return [name for name, (_, shard) in usual.shards.items() if not torch.equal(shard, released.shards[name][1])]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=SINCE_2_13), pytest.param(4, marks=SINCE_2_13)])
def test_it(ranks: int) -> None:
    for rank, results in enumerate(spawn(both_ways, ranks, ranks)):
        for title, (usual, released) in results.items():
            print(rank, title, differences(usual.result, released.result))
            if rank == 0:
                print(usual.moved[0], released.moved[0], released.alive[:8], usual.after, released.after)
                print(usual.sizes[:2], released.sizes[:2], usual.collectives[:2], released.collectives[:2])
