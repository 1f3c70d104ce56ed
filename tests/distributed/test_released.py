"""The step inside backward on shards equals backward and step, bit for bit, and lets every gradient go."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

import valleys
from backends import largest_error
from distributed.models import Net, Result, Run, Spread, batch, counted, fsdp, fsdp_tp, hsdp, new_net, tp, two_meshes
from distributed.worlds import SINCE_2_13, spawn
from valleys._engine.dtensor import is_sharded, local

DOUBLE, SINGLE, HALF = torch.float64, torch.float32, torch.bfloat16
STEPS = 3


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
        sizes: of each step, how many numbers each call of ``torch.distributed.all_reduce`` added up.
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
LAYERWISE = ("ALTO", "Lamb", "ALTO bfloat16")
ELEMENTWISE = ("EAdamW", "AdamW", "E AdamW fused", "E SGD", "E RMSprop", "E AdamW bfloat16")
BOTH = ("ALTO", "EAdamW")
CASES: dict[int, dict[str, Case]] = {
    1: {name: Case(name, sharded) for name in BOTH},
    2: {
        **{name: Case(name, sharded) for name in LAYERWISE + ELEMENTWISE},
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
SUMS_OF_FOUR = {"ALTO", "Lamb", "ALTO, FSDP2 x TP"}
"""Layers of these cases lie on four ranks. An all-reduce adds more than two numbers in an order that depends on where
they stand in the message, so the sums differ in the last bit of float64."""


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
    net.gate.requires_grad_(is_sharded(net.gate))  # tensor parallelism leaves it a plain tensor
    names = {param: name for name, param in net.named_parameters()}
    outcome = Outcome(None, [], [], [], [], [])  # type: ignore[arg-type]
    memory: list[StorageWeakRef] = []

    def gradients() -> tuple[int, int]:
        present = [local(param.grad).untyped_storage() for param in names if param.grad is not None]
        memory.extend(StorageWeakRef(storage) for storage in present)
        return len(present), len({ref.cdata for ref in memory if not ref.expired()})

    def before_step(*_: Any) -> None:
        moving = [name for param, name in names.items() if param.grad is not None]
        outcome.moved[-1].extend(moving)
        if moving:
            outcome.alive.append(gradients())

    run.optimizer.register_step_pre_hook(before_step)
    if release:
        valleys.release_gradients(run.optimizer)
    for step in range(STEPS):
        outcome.moved.append([])
        spread.model.zero_grad()
        # Counting takes more time than the step.
        counting: AbstractContextManager[Counter[str]] = counted() if case.spread is sharded else nullcontext(Counter())
        with counting as collectives, sizes_of_all_reduces() as sizes:
            backward(case, spread, step)
            outcome.after.append(gradients())
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


def check(title: str, usual: Outcome, released: Outcome, exact: bool) -> None:
    """Raise where the two ways of training differ, or where gradients stay."""
    expected, result = usual.result.shards, released.result.shards
    assert expected.keys() == result.keys(), title
    if exact:
        assert [name for name, (_, shard) in expected.items() if not torch.equal(shard, result[name][1])] == [], title
    else:
        assert largest_error(*([shard for _, shard in shards.values()] for shards in (result, expected))) < 1e-12, title
    for step, (moved, names) in enumerate(zip(released.moved, usual.moved, strict=True)):
        assert sorted(moved) == sorted(names), title  # each parameter once
        assert ("branch.weight" in moved) == (step % 2 == 0), title
    assert {gradients for gradients, _ in released.alive} == {1}, title
    if "HSDP" not in title:  # torch itself keeps what it has averaged over replicas until backward ends
        assert {pieces for _, pieces in released.alive} == {1}, title
    assert set(released.after) == {(0, 0)}, title
    assert min(gradients for gradients, _ in usual.after) >= 10, title


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=SINCE_2_13), pytest.param(4, marks=SINCE_2_13)])
def test_backward_and_step_give_the_same_shards(ranks: int) -> None:
    start = dict(new_net().named_parameters())
    for outcomes in spawn(both_ways, ranks, ranks):
        assert outcomes.keys() == CASES[ranks].keys()
        for title, (usual, released) in outcomes.items():
            case = CASES[ranks][title]
            check(title, usual, released, exact=ranks < 4 or title not in SUMS_OF_FOUR)
            for name, value in released.result.params.items():
                still = name.startswith("unused") or (name == "gate" and case.spread is tp)
                assert torch.equal(value, start[name].to(case.dtype)) == still, (title, name)
            if ranks > 1 and case.spread is sharded:
                check_messages(case, usual, released)


def check_messages(case: Case, usual: Outcome, released: Outcome) -> None:
    """Elementwise optimizers send nothing; layerwise ones four numbers a layer as soon as it moves."""
    if case.optimizer in ELEMENTWISE:
        assert released.collectives == usual.collectives
        assert not any(released.sizes)
        return
    for names, messages, (all_layers,) in zip(released.moved, released.sizes, usual.sizes, strict=True):
        layers = [3 if name == "qkv.weight" else 1 for name in names if name.endswith("weight") or name == "gate"]
        # The call of step behind backward, which finds no gradient, sends zeros as usual.
        assert messages == [*(4 * count for count in layers), all_layers]


# --- what else a loop does -------------------------------------------------------------------------------------------


class Reused(nn.Module):
    """A layer of which backward runs through two uses, one of them computed again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.twice = nn.Linear(7, 7), nn.Linear(7, 7)
        for layer in (self.first, self.twice):
            fully_shard(layer)
        fully_shard(self)

    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.twice(torch.tanh(self.first(x))))
        return checkpoint(self.twice, x, use_reentrant=False)


def reused(release: bool) -> list[Tensor]:
    """Parameters after steps on a layer with several uses, behind a checkpoint that a fresh optimizer gave."""
    net = Reused()
    optimizer = valleys.ALTO(net.parameters(), lr=0.1)
    if release:
        valleys.release_gradients(optimizer)
    get_optimizer_state_dict(net, optimizer)
    for step in range(3):
        optimizer.zero_grad()
        (net(batch(step, SINGLE)[0]).mean() + net(-batch(step, SINGLE)[0]).square().mean()).backward()
        optimizer.step()
        assert all((param.grad is None) == release for param in net.parameters())
    return [local(param.detach()) for param in net.parameters()]


def removed() -> list[bool]:
    """Presence of gradients, and of states, after the handle was removed, and after the optimizer has gone."""
    net = Reused()
    optimizer = valleys.EAdamW(net.parameters())
    valleys.release_gradients(optimizer).remove()
    valleys.release_gradients(valleys.Lamb(net.parameters()))
    net(batch(0, SINGLE)[0]).mean().backward()
    return [all(param.grad is not None for param in net.parameters()), not optimizer.state]


def messages() -> list[str]:
    """Errors, by what is wrong: loose parameters, replicas, options."""
    from distributed.models import ddp

    texts = []
    loose, replicas, net = new_net(), new_net(), Reused()
    fsdp(loose)
    ddp(replicas)
    for optimizer in (
        valleys.EAdamW(loose.parameters()),
        valleys.ALTO(replicas.parameters()),
        valleys.ALTO(net.parameters(), max_grad_norm=1.0),
        valleys.Lamb(net.parameters(), skip_nonfinite=True),
    ):
        with pytest.raises(RuntimeError) as error:
            valleys.release_gradients(optimizer)
        texts.append(str(error.value))
    net(batch(0, SINGLE)[0]).mean().backward()
    assert all(param.grad is not None for param in net.parameters())  # no hook was left
    return texts


def others() -> Any:
    warnings.simplefilter("ignore")
    return reused(False), reused(True), removed(), messages()


@SINCE_2_13
def test_uses_checkpoints_the_handle_and_refusals() -> None:
    for usual, released, outcome, (loose, replicas, clipping, skipping) in spawn(others, 2):
        assert all(map(torch.equal, usual, released))
        assert outcome == [True, True]
        assert "(1, 3) is no DTensor" in loose
        assert "fully_shard" in replicas
        assert "max_grad_norm=1.0" in clipping
        assert "skip_nonfinite=True" in skipping
