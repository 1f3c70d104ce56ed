"""An adapted optimizer under schedulers and a gradient scaler."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler

import valleys
from engine.adapted import ALL_AND_OURS, adapted
from optimizer_cases import CASES, Case, parameters, set_gradients
from test_adapt import ALPHA, BETA, bits, close, same

# --- schedulers -------------------------------------------------------------------------------------------------------

SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda k: 0.9**k),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 7], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=8),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.02, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.03, total_steps=20),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.001, anneal_epochs=5),
}


def test_every_scheduler_of_torch_is_in_the_table() -> None:
    public = {name for name in lr_scheduler.__all__ if name != "LRScheduler"}
    assert public <= set(SCHEDULERS)


def advance(scheduler: Any, step: int) -> None:
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(1.0 + step)
    else:
        scheduler.step()


def train(optimizer: Optimizer, params: list[torch.nn.Parameter], scheduler: Any, steps: range) -> list[float]:
    rates = []
    for step in steps:
        set_gradients(params, step)
        optimizer.step()
        advance(scheduler, step)
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("base", ["SGD loop", "AdamW foreach"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_schedulers_reach_the_adapted_optimizer(name: str, base: str, when: str) -> None:
    """Made before or after adapting, the same learning rates and, with warnings as errors, no complaint."""
    case = CASES[base]
    base_params = parameters(case)
    plain = case.build(base_params)
    expected = train(plain, base_params, SCHEDULERS[name](plain), range(12))
    assert len(set(expected)) > 1

    params = parameters(case)
    optimizer = case.build(params)
    if when == "before":
        scheduler = SCHEDULERS[name](optimizer)
        valleys.adapt(optimizer, ALPHA, BETA)
    else:
        valleys.adapt(optimizer, ALPHA, BETA)
        scheduler = SCHEDULERS[name](optimizer)
    assert train(optimizer, params, scheduler, range(12)) == expected
    # E was not bypassed by the scheduler's patched step.
    assert all("explore_exp_avg" in optimizer.state[param] for param in params)
    assert not same(bits(params), bits(base_params))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_schedules_survive_a_load(name: str, when: str) -> None:
    case = CASES["AdamW loop"]

    def build(params: list[torch.nn.Parameter]) -> tuple[Optimizer, Any]:
        optimizer = case.build(params)
        if when == "after":
            return valleys.adapt(optimizer, ALPHA, BETA), SCHEDULERS[name](optimizer)
        scheduler = SCHEDULERS[name](optimizer)
        return valleys.adapt(optimizer, ALPHA, BETA), scheduler

    params = parameters(case)
    optimizer, scheduler = build(params)
    train(optimizer, params, scheduler, range(6))
    checkpoint = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict(), bits(params)))
    expected = train(optimizer, params, scheduler, range(6, 12))

    resumed = [torch.nn.Parameter(value) for value in checkpoint[2]]
    again, schedule = build(resumed)
    again.load_state_dict(checkpoint[0])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The epoch parameter")
        schedule.load_state_dict(checkpoint[1])
    assert train(again, resumed, schedule, range(6, 12)) == expected
    assert same(bits(params), bits(resumed))


def test_a_scheduler_still_warns_when_it_is_called_first() -> None:
    """The flag that schedulers look at is kept, not just set."""
    params = [torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.SGD(params, lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    valleys.adapt(optimizer, ALPHA, BETA)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_a_foreign_patch_of_step_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.step = lambda closure=None: None  # type: ignore[assignment, method-assign, misc]
    with pytest.raises(RuntimeError, match="adapt the optimizer first"):
        valleys.adapt(optimizer)
    assert type(optimizer) is torch.optim.SGD


# --- GradScaler -------------------------------------------------------------------------------------------------------


@ALL_AND_OURS
@pytest.mark.parametrize("unscale_first", [False, True])
def test_grad_scaler(case: Case, unscale_first: bool) -> None:
    """Scaled training equals unscaled training; a step with an infinite gradient changes nothing."""
    params, base_params = parameters(case), parameters(case)
    optimizer, plain = adapted(case, params), adapted(case, base_params)
    if not hasattr(case.build(parameters(case)), "_step_supports_amp_scaling") and case.amp:
        pytest.skip("this torch's own has no support for it")
    assert bool(getattr(optimizer, "_step_supports_amp_scaling", False)) == case.amp
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=4)
    # torch's fused SGD leaves its momentum uninitialised if the very first step overflows; that is not E's to mend.
    overflows = (3, 8) if case is CASES["SGD fused"] else (0, 5)
    for step in range(14):
        set_gradients(base_params, step)
        set_gradients(params, step)
        scaler.scale(torch.ones(()))  # the scaler makes its scale at the first loss
        for param in params:
            if param.grad is not None:
                param.grad *= scaler.get_scale()
        overflow = step in overflows
        if overflow:
            next(p.grad for p in params if p.grad is not None).view(-1)[0] = torch.inf
            before = bits(params), copy.deepcopy(optimizer.state_dict()["state"])
        if unscale_first:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if overflow:
            assert same(bits(params), before[0])
            for index, entry in optimizer.state_dict()["state"].items():
                old = before[1].get(index, {}).get("explore_exp_avg")
                buffer = entry.get("explore_exp_avg", torch.zeros(()))
                assert torch.equal(buffer, torch.zeros_like(buffer) if old is None else old)
        else:
            plain.step()
    close(params, base_params, rtol=1e-7 if case.amp else 1e-12)


def test_scaled_gradients_with_a_group_that_is_off() -> None:
    """The fused base must not unscale twice, nor miss the group whose alpha is 0."""
    case = CASES["Adam fused"]
    params, base_params = parameters(case), parameters(case)
    optimizer, unscaled = (
        adapted(case, [{"params": members[:1], "explore_alpha": 0.0}, {"params": members[1:]}])
        for members in (params, base_params)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for step in range(5):
        set_gradients(params, step, missing=False)
        scaler.scale(torch.ones(()))
        for param in params:
            assert param.grad is not None
            param.grad *= 64.0
        scaler.step(optimizer)
        scaler.update()
    for step in range(5):
        set_gradients(base_params, step, missing=False)
        unscaled.step()
    close(params, base_params, rtol=1e-12)
