"""An adapted optimizer among copies, hooks and wrong uses: it behaves as its base does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import valleys
from engine.adapted import ALL, ALL_AND_OURS, adapted
from optimizer_cases import CASES, Case, parameters
from test_adapt import ALPHA, BETA, bits, run_adapted, same

# --- identity, copies -------------------------------------------------------------------------------------------------


@ALL
def test_it_is_the_same_object_of_its_old_class(case: Case) -> None:
    optimizer = case.build(parameters(case))
    base = type(optimizer)
    groups, state = optimizer.param_groups, optimizer.state
    result = valleys.adapt(optimizer, ALPHA, BETA)
    assert result is optimizer
    assert isinstance(optimizer, base)
    assert type(optimizer).__name__ == "E" + base.__name__
    assert optimizer.param_groups is groups
    assert optimizer.state is state


@ALL_AND_OURS
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_bit_for_bit(case: Case, how: str) -> None:
    params = parameters(case)
    optimizer = adapted(case, params, inplace=True)
    run_adapted(optimizer, params, range(10))
    pair = (params, optimizer)
    twins, twin = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert type(twin) is type(optimizer)
    run_adapted(optimizer, params, range(10, 20))
    assert not same(bits(params), bits(twins))
    run_adapted(twin, twins, range(10, 20))
    assert same(bits(params), bits(twins))
    grads = [p.grad for p in twins if p.grad is not None]
    assert same(grads, [p.grad for p in params if p.grad is not None])  # adapt's inplace was copied too


# --- step hooks -------------------------------------------------------------------------------------------------------


@ALL_AND_OURS
def test_step_hooks_fire_once(case: Case) -> None:
    case.build(parameters(case))  # the base's step has its hooks by now
    params = parameters(case)
    optimizer = adapted(case, params)
    events: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: events.append("pre"))
    optimizer.register_step_post_hook(lambda *_: events.append("post"))
    handles = [
        register_optimizer_step_pre_hook(lambda *_: events.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: events.append("global post")),
    ]
    try:
        run_adapted(optimizer, params, range(1))
    finally:
        for handle in handles:
            handle.remove()
    assert events == ["global pre", "pre", "post", "global post"]


def test_hooks_registered_before_adapting_stay() -> None:
    case = CASES["AdamW loop"]
    params = parameters(case)
    optimizer = case.build(params)
    events: list[int] = []
    optimizer.register_step_post_hook(lambda *_: events.append(1))
    valleys.adapt(optimizer, ALPHA, BETA)
    run_adapted(optimizer, params, range(3))
    assert events == [1, 1, 1]


# --- refusals ---------------------------------------------------------------------------------------------------------


def one() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: valleys.adapt(torch.optim.SGD(one(), lr=0.1)), "adapted already"),
        (lambda: valleys.EAdamW(one()), "adapted already"),
        (lambda: valleys.ALTO(one()), "E built in"),
        (lambda: torch.optim.LBFGS(one()), "several times per step"),
        (lambda: torch.optim.SparseAdam(one()), "sparse"),
        (lambda: torch.optim.AdamW, "build the optimizer first"),
        (lambda: "adamw", "torch.optim.Optimizer"),
    ],
)
def test_what_cannot_be_adapted_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        valleys.adapt(build())


@pytest.mark.parametrize(
    "cls",
    [valleys.ALTO, valleys.Lamb, valleys.ESGD, valleys.EAdam, valleys.EAdamW],
    ids=lambda cls: cls.__name__,
)
def test_sparse_gradients_are_refused_before_any_change(cls: Any) -> None:
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    dense = torch.nn.Parameter(torch.ones(2))
    optimizer = cls([dense, embedding.weight], lr=0.1)
    embedding(torch.tensor([1, 2])).sum().backward()
    dense.grad = torch.ones(2)
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert torch.equal(dense.detach(), torch.ones(2))
    assert torch.equal(embedding.weight.detach(), before)
    assert not any(optimizer.state_dict()["state"].values())


def test_an_optimizer_that_evaluates_elsewhere_is_refused_at_the_step() -> None:
    class Sam(Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            (param,) = self.param_groups[0]["params"]
            param.add_(0.1)
            closure()

    (param,) = one()
    optimizer = valleys.adapt(Sam([param]))

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="cannot be adapted"):
        optimizer.step(closure)


def test_grad_is_put_back_when_the_base_fails() -> None:
    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            raise FloatingPointError("no")

    (param,) = one()
    optimizer = valleys.adapt(Broken([param], lr=0.1))
    param.grad = grad = torch.ones(2)
    with pytest.raises(FloatingPointError):
        optimizer.step()
    assert param.grad is grad


@pytest.mark.parametrize("alpha", [-2.0, 2.0, float("nan"), float("inf")])
def test_bad_options_are_refused_and_nothing_is_touched(alpha: float) -> None:
    optimizer = torch.optim.SGD(one(), lr=0.1)
    with pytest.raises(ValueError, match="alpha"):
        valleys.adapt(optimizer, alpha, 0.5)
    optimizer.param_groups[0]["explore_alpha"] = alpha
    with pytest.raises(ValueError, match="explore_alpha"):
        valleys.adapt(optimizer, 0.0, 0.5)
    assert type(optimizer) is torch.optim.SGD
    assert "explore_alpha" not in optimizer.defaults


def test_a_bad_added_group_is_refused_and_not_added() -> None:
    optimizer = valleys.adapt(torch.optim.SGD(one(), lr=0.1))
    with pytest.raises(ValueError, match="explore_beta"):
        optimizer.add_param_group({"params": one(), "explore_beta": 1.0})
    assert len(optimizer.param_groups) == 1


def test_ready_made_classes_refuse_alpha_in_a_group() -> None:
    with pytest.raises(ValueError, match="explore_alpha"):
        valleys.EAdamW([{"params": one(), "alpha": 0.5}])
