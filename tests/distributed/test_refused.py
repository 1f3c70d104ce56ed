"""Flat shards have no layers: refused where a norm is asked for, with what to use instead; else they are fine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import valleys
from distributed.worlds import spawn


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def fsdp1(original: bool, before: bool) -> Any:
    """Messages of each optimizer about FSDP1, made before or after the model is wrapped."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    messages = []
    for make in (valleys.ALTO, valleys.Lamb, valleys.EAdamW, lambda p: valleys.ALTO(p, layer_adaptation=False)):
        net = model()
        optimizer = make(net.parameters()) if before else None
        wrapped = FullyShardedDataParallel(net, use_orig_params=original, device_id=torch.device("cpu"))
        optimizer = make(wrapped.parameters()) if optimizer is None else optimizer
        wrapped(torch.ones(2, 7)).sum().backward()
        try:
            optimizer.step()
            messages.append("")
        except RuntimeError as error:
            messages.append(str(error))
    return messages


@pytest.mark.parametrize(("original", "before"), [(True, True), (True, False), (False, False)], ids=str)
def test_fsdp1(original: bool, before: bool) -> None:
    for alto, lamb, elementwise, no_ratio in spawn(fsdp1, 2, original, before):
        for message in (alto, lamb):
            assert "FSDP1" in message
            assert "fully_shard" in message
        assert elementwise == ""
        assert no_ratio == ""


def partitions(params: list[torch.Tensor], ranks: int = 2) -> torch.Tensor:
    """The flat partition of rank 0, as DeepSpeed's ZeRO and Megatron make it."""
    flat = torch.cat([p.detach().flatten() for p in params])
    return nn.Parameter(flat[: len(flat) // ranks].clone())


@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_partitions_that_take_the_parameters_place(cls: Any) -> None:
    """ZeRO 1 and 2 put one flat tensor into each group, behind the optimizer's back."""
    optimizer = cls(model().parameters())
    group = optimizer.param_groups[0]
    group["params"] = [partitions(group["params"])]
    group["params"][0].grad = torch.ones_like(group["params"][0])
    with pytest.raises(RuntimeError, match="flat partition"):
        optimizer.step()
    assert not optimizer.state


def test_partitions_of_zero_3() -> None:
    """ZeRO-3 keeps the parameters, empty, with attributes that give it away."""
    optimizer = valleys.ALTO(model().parameters())
    for param in optimizer.param_groups[0]["params"]:
        param.ds_id = 0
        param.data = torch.empty(0)
        param.grad = torch.empty(0)
    with pytest.raises(RuntimeError, match="ZeRO-3"):
        optimizer.step()


def test_the_clipping_norm_of_a_flat_shard_is_wrong_too() -> None:
    optimizer = valleys.ALTO(model().parameters(), layer_adaptation=False, max_grad_norm=1.0)
    group = optimizer.param_groups[0]
    group["params"] = [partitions(group["params"])]
    group["params"][0].grad = torch.ones_like(group["params"][0])
    with pytest.raises(RuntimeError, match="flat partition"):
        optimizer.step()


def test_master_weights_of_the_same_shapes_are_fine() -> None:
    """Mixed-precision wrappers put float32 copies in the parameters' place."""
    optimizer = valleys.ALTO(model().bfloat16().parameters())
    group = optimizer.param_groups[0]
    group["params"] = [nn.Parameter(p.detach().float()) for p in group["params"]]
    for p in group["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()


def whole_parameters_per_rank() -> Any:
    """torch's own ZeRO 1 keeps parameters whole: every rank steps some of them and tells the others."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    nets = [model(), model()]
    optimizers = [
        ZeroRedundancyOptimizer(nets[0].parameters(), valleys.ALTO, lr=0.1),
        valleys.ALTO(nets[1].parameters(), lr=0.1),
    ]
    for _ in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net(torch.ones(2, 7)).square().sum().backward()
            optimizer.step()
    return all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_zero_redundancy_optimizer() -> None:
    assert all(spawn(whole_parameters_per_rank, 2))


def released() -> str:
    try:
        valleys.release_gradients(valleys.ALTO(model().parameters()))
    except RuntimeError as error:
        return str(error)
    return ""


def test_gradients_are_not_released_before_they_are_averaged() -> None:
    """DDP's gradients are this rank's own when the hooks of backward run."""
    assert all("several ranks" in message for message in spawn(released, 2))


def foreign_states(name: str) -> list[str]:
    """Messages of each optimizer about states of a DTensor with other placements, or without any."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    messages = []
    for make in (valleys.ALTO, valleys.Lamb, valleys.EAdamW, lambda p: valleys.adapt(torch.optim.SGD(p, lr=0.1))):
        param: Any = nn.Parameter(distribute_tensor(torch.ones(8, 6), mesh, [Shard(0)]))
        optimizer = make([param])
        param.grad = distribute_tensor(torch.ones(8, 6), mesh, [Shard(0)])
        optimizer.step()
        before = param.detach().full_tensor().clone()
        key = "exp_avg" if make is valleys.Lamb else "explore_exp_avg"
        whole = optimizer.state[param][key].full_tensor()
        optimizer.state[param][key] = {
            "otherwise": lambda whole=whole: distribute_tensor(whole, mesh, [Shard(1)]),
            "replicated": lambda whole=whole: distribute_tensor(whole, mesh, [Replicate()]),
            "whole": lambda whole=whole: whole,
            "local": lambda whole=whole: whole[:4].clone(),
        }[name]()
        try:
            optimizer.step()
            messages.append("")
        except ValueError as error:
            messages.append(str(error))
        assert torch.equal(param.detach().full_tensor(), before)
    return messages


@pytest.mark.parametrize("name", ["otherwise", "replicated", "whole", "local"])
def test_states_that_are_not_sharded_like_their_parameter(name: str) -> None:
    """A kernel would take the memory of one shard for that of another."""
    expected = "has the shape" if name == "local" else "shard both alike"
    for messages in spawn(foreign_states, 2, name):
        assert all(expected in message for message in messages), messages
