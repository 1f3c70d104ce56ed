"""Additions of a training loop to a wrapper: precision, offloading, accumulation, clipping, scaling, rounding."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import valleys
from backends import largest_error
from distributed.models import Net, Run, Spread, batch, ddp, fsdp, new_net, train, whole
from distributed.worlds import OLD_DTENSOR, spawn
from valleys import reference
from valleys._engine.dtensor import local

DOUBLE, SINGLE, HALF = torch.float64, torch.float32, torch.bfloat16
STEPS = 8


def error(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return largest_error(list(one.values()), list(other.values()))


# Wrappers whose arithmetic no single process repeats: shadows, optimizers on whole parameters, get the same gradients.

POLICIES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "bfloat16 compute": (SINGLE, {"mp_policy": MixedPrecisionPolicy(param_dtype=HALF, reduce_dtype=SINGLE)}),
    "bfloat16 gradients": (SINGLE, {"mp_policy": MixedPrecisionPolicy(param_dtype=HALF)}),
    # Pinned memory needs an accelerator, torch says.
    "offloading": (DOUBLE, {"offload_policy": CPUOffloadPolicy(pin_memory=False)}),
    "kept after forward": (DOUBLE, {"reshard_after_forward": False}),
}


def shadowed() -> dict[tuple[str, str], tuple[torch.dtype, float, float]]:
    """By policy and optimizer: the dtype, how far off the shadow the parameters are and how far from the start."""
    warnings.simplefilter("ignore")
    results = {}
    for policy, (dtype, options) in POLICIES.items():
        net = new_net(dtype)
        start = {name: whole(param.detach()).clone() for name, param in net.named_parameters()}
        spread = fsdp(net, **options)
        runs = {"ALTO": Run("ALTO", net), "E SGD": Run("E SGD", net, dtype)}
        shadows = {name: Run(name, net, dtype, whole=True) for name in runs}
        train(spread, [*runs.values(), *shadows.values()], STEPS, dtype)
        for name, run in runs.items():
            params = run.result().params
            assert {param.dtype for param in params.values()} == {dtype}
            results[policy, name] = dtype, error(params, shadows[name].result().params), error(params, start)
    return results


def test_every_policy_of_fsdp_equals_a_shadow_with_the_same_gradients() -> None:
    for results in spawn(shadowed, 2):
        assert len(results) == 2 * len(POLICIES)
        for case, (dtype, off, shift) in results.items():
            assert off < (1e-12 if dtype is DOUBLE else 1e-6), case
            assert shift > 0.01, case


# Loops that one process can run as well.


def held_back(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Passes of all micro-batches but the last leave their gradients on the rank."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    return nullcontext()


def backward(spread: Spread, step: int, micro: int = 1, scaler: torch.amp.GradScaler | None = None) -> None:
    """The gradients of this rank's part of a batch, in ``micro`` passes."""
    spread.model.zero_grad()
    x, y = (data.tensor_split(spread.parts)[spread.part].chunk(micro) for data in batch(step))
    for i in range(micro):
        with held_back(spread.model, last=i == micro - 1):
            loss = (spread.model(x[i], step % 2 == 0) - y[i]).square().mean() / micro
            (loss if scaler is None else scaler.scale(loss)).backward()
    for param in spread.loose:
        assert param.grad is not None
        dist.all_reduce(param.grad, group=spread.group)
        param.grad /= spread.parts


def accumulated(net: Net, spread: Spread, run: Run) -> None:
    for step in range(STEPS):
        backward(spread, step, micro=3)
        run.step()


def clipped(net: Net, spread: Spread, run: Run) -> None:
    norms = []
    for step in range(STEPS):
        backward(spread, step)
        norms.append(float(whole(nn.utils.clip_grad_norm_(net.parameters(), 0.3))))
        run.step()
    assert min(norms) < 0.3 < max(norms) / 2


def scaled(net: Net, spread: Spread, run: Run) -> None:
    """With an infinity in one element, so on one rank's shard."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(STEPS):
        backward(spread, step, scaler=scaler)
        if step != 2:
            scaler.step(run.optimizer)
        else:
            assert net.qkv.weight.grad is not None
            shard = local(net.qkv.weight.grad)
            if spread.part == spread.parts - 1:
                shard[-1, -1] = torch.inf
            before = {name: whole(value).clone() for name, value in tensors(net, run)}
            scaler.step(run.optimizer)
            assert all(torch.equal(before[name], whole(value)) for name, value in tensors(net, run))
        scaler.update()
    assert scaler.get_scale() == 4.0


def tensors(net: Net, run: Run) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, param.detach()) for name, param in net.named_parameters())
    for i, entry in run.optimizer.state_dict()["state"].items():
        yield from ((f"{key} of {i}", value) for key, value in entry.items() if key != "step")


Loop = Callable[[Net, Spread, Run], None]
# torch.nn.utils.clip_grad_norm_ and GradScaler take no plain gradients beside DTensors.
sharded = functools.partial(fsdp, loose=False)
CASES: dict[str, tuple[Loop, Callable[[Net], Spread], str]] = {
    "accumulated, DDP": (accumulated, ddp, "ALTO"),
    "accumulated, FSDP2": (accumulated, fsdp, "ALTO"),
    "clipped, DDP": (clipped, ddp, "ALTO"),
    "clipped, FSDP2": (clipped, sharded, "ALTO"),
    "scaled, FSDP2": (scaled, sharded, "ALTO"),
    "scaled, FSDP2, E": (scaled, sharded, "E AdamW"),
    "scaled, FSDP2, E unscales": (scaled, sharded, "E AdamW fused"),
}


def outcome(case: str, alone: bool) -> dict[str, Tensor]:
    loop, wrapper, name = CASES[case]
    net = new_net()
    spread = Spread(net) if alone else wrapper(net)
    run = Run(name, net)
    loop(net, spread, run)
    result = run.result()
    return {**result.params, **result.states}


def outcomes() -> dict[str, dict[str, Tensor]]:
    warnings.simplefilter("ignore")
    return {case: outcome(case, alone=False) for case in CASES}


def test_accumulating_clipping_and_scaling_equal_one_process() -> None:
    expected = {case: outcome(case, alone=True) for case in CASES}
    for results in spawn(outcomes, 2):
        for case in CASES:
            # torch 2.9's clip_grad_norm_ adds float64 DTensors up in float32.
            tolerance = 1e-5 if OLD_DTENSOR and case == "clipped, FSDP2" else 1e-12
            assert error(results[case], expected[case]) < tolerance, case


def rounded() -> dict[str, tuple[list[str], list[str]]]:
    """States that differ from an optimizer's on whole parameters, with the same random bits and with others."""
    warnings.simplefilter("ignore")
    results = {}
    for name, seed in (("ALTO bfloat16", "seed"), ("E AdamW bfloat16", "explore_seed")):
        net = new_net(HALF)
        sharded(net)
        run, shadow, other = (Run(name, net, HALF, whole=i > 0) for i in range(3))
        for group in other.optimizer.param_groups:
            group[seed] = 1
        for step in range(STEPS):
            generator = torch.Generator().manual_seed(step)
            for param in net.parameters():
                assert isinstance(param, DTensor)
                grad = torch.randn(param.shape, generator=generator).to(HALF)
                param.grad = distribute_tensor(grad, param.device_mesh, param.placements, src_data_rank=None)
            for each in (run, shadow, other):
                each.step()
        mine, same, another = ({**r.params, **r.states} for r in (run.result(), shadow.result(), other.result()))
        assert mine.keys() == same.keys()
        differing = [[key for key in mine if not torch.equal(mine[key], replica[key])] for replica in (same, another)]
        results[name] = (differing[0], differing[1])
    return results


def test_shards_are_rounded_with_the_random_bits_of_the_whole() -> None:
    for results in spawn(rounded, 2):
        for name, (differing, with_other_bits) in results.items():
            assert not differing, name
            assert with_other_bits, name


def muons() -> tuple[float, float]:
    """Distance of an adapted Muon from a plain one that gets E's gradients, and of that from one that does not."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    # torch's Muon takes no DTensors that the ranks cannot divide evenly.
    start = torch.randn(8, 4, dtype=DOUBLE)
    layers: list[Any] = [fully_shard(nn.Linear(4, 8, bias=False, dtype=DOUBLE)) for _ in range(3)]
    params = [layer.weight for layer in layers]
    for param in params:
        local(param).copy_(local(distribute_tensor(start, param.device_mesh, param.placements, src_data_rank=None)))
    optimizers = [torch.optim.Muon([param], lr=0.1) for param in params]
    valleys.adapt(optimizers[0], alpha=-5.0, beta=0.9)
    memory: Any = reference.OneBuffer(torch.zeros(8, 4, dtype=DOUBLE))
    for step in range(STEPS):
        grad = torch.randn(8, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(step))
        adapted, memory = reference.explore(grad, memory, -5.0, 0.9)
        for param, optimizer, value in zip(params, optimizers, (grad, adapted, grad), strict=True):
            param.grad = distribute_tensor(value, param.device_mesh, param.placements, src_data_rank=None)
            optimizer.step()
    mine, fed, plain = ([whole(param.detach())] for param in params)
    return largest_error(mine, fed), largest_error(plain, fed)


def test_muon_on_shards_gets_the_gradients_of_e() -> None:
    for same, other in spawn(muons, 2):
        assert same < 1e-12
        assert other > 0.01
