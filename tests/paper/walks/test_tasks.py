"""Walks on test functions as tasks of the lab: the optimizer's own steps, a metric that is the last value."""

from __future__ import annotations

import math

import pytest
import torch

from valleys.lab.problem.loop import Diverged, Running
from valleys.paper.walks import tasks
from valleys.paper.walks.functions import FUNCTIONS, f1


def at(*point: float) -> torch.Tensor:
    return torch.tensor(point, dtype=torch.float64)


def running(epochs: int, seed: int = 0, lr: float = 1e-3, test: bool = True, uphill: bool = False) -> Running:
    torch.manual_seed(seed)
    return Running(
        batch_size=1,
        epochs=epochs,
        seed=seed,
        device=torch.device("cpu"),
        test=test,
        _build=lambda model: torch.optim.SGD(model.parameters(), lr=lr, maximize=uphill),
        _progress=lambda steps: None,
    )


def where(run: Running) -> torch.Tensor:
    assert run.model is not None
    return next(run.model.parameters()).detach()


def start(task: str, seed: int) -> torch.Tensor:
    """The start of a walk of that seed."""
    run = running(1, seed, lr=0.0)
    tasks.load(task).run(run)
    return where(run).clone()


@pytest.mark.parametrize("task", tasks.ENTRIES)
def test_a_walk_is_the_optimizers(task: str) -> None:
    loop = tasks.ENTRIES[task].load(None, "standard")
    assert (loop.name, loop.metric_name, loop.maximize, loop.batch_size) == (task, "f(x)", False, 1)
    begin, run = start(task, 3).requires_grad_(), running(2, 3)
    f = FUNCTIONS[task.split("-")[1]].f
    values = []
    point = begin
    for _ in range(2):
        values.append(f(point))
        point = point - 1e-3 * torch.autograd.grad(values[-1], point)[0]
    tasks.load(task).run(run)
    torch.testing.assert_close(where(run), point.detach(), rtol=1e-14, atol=0)
    assert [e.train_loss for e in run.curve] == [value.item() for value in values]
    assert run.curve[0].validation == values[1].item()
    assert run.result == run.curve[1].validation == f(where(run)).item()


def test_a_walk_is_evaluated_twenty_times_and_tested_if_asked() -> None:
    run = running(50, test=False)
    tasks.load("fig1-rosenbrock").run(run)
    assert [e.step for e in run.curve] == [math.ceil(2.5 * part) for part in range(1, 21)]
    assert run.result is None
    assert run.steps == 50 == tasks.load("fig1-rosenbrock").plan(1, 50).steps
    assert tasks.load("fig1-rosenbrock").examples == 1
    assert run.curve[-1].train_loss > run.curve[-1].validation  # downhill: a mean of the steps before


def test_seeds_start_near_the_start_but_apart() -> None:
    assert torch.equal(start("fig1-rosenbrock", 1), start("fig1-rosenbrock", 1))
    starts = torch.stack([start("fig1-rosenbrock", seed) for seed in range(100)])
    assert starts.dtype == torch.float64
    offsets = starts - at(-1.2, 1.0)
    assert offsets.mean().abs() < 0.004
    assert offsets.std().item() == pytest.approx(0.01 * math.hypot(1.2, 1.0), rel=0.2)


def test_a_jump_across_the_pole_ends_the_walk() -> None:
    with pytest.raises(Diverged):
        tasks.load("fig8-f1").run(running(100, lr=1e3, uphill=True))


@pytest.mark.parametrize("task", tasks.ENTRIES)
def test_targets_are_met_at_the_minima_and_not_at_the_start(task: str) -> None:
    loop, function = tasks.load(task), FUNCTIONS[task.split("-")[1]]
    assert not loop.reached(function.f(at(*function.start)).item())
    assert loop.reached(function.f(at(*function.minima[-1])).item())


def test_the_target_of_f1_is_beyond_its_first_minimum() -> None:
    first, second, third = (f1(at(*point)).item() for point in FUNCTIONS["f1"].minima[:3])
    assert first > tasks.load("fig8-f1").target > second > third
