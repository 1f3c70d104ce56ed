"""Test functions and walks on them: values by hand, gradients by differences, a metric that is the last value."""

from __future__ import annotations

import math

import pytest
import torch

from valleys.lab.functions import FUNCTIONS, cardioid, f1, f2, rosenbrock
from valleys.lab.loop import Diverged, Running
from valleys.lab.tasks import functions

POINTS = {
    "cardioid": [(0.5, 1.0), (-2.0, 0.1), (1e-3, -1e-3), (-0.7, -1.9)],
    "rosenbrock": [(-1.2, 1.0), (1.0, 1.1), (0.3, -2.0)],
    "f1": [(2.3,), (0.01,), (4.6,), (31.0,)],
    "f2": [(0.95,), (0.61,), (-0.57,), (0.02,), (-0.4,)],
}


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
    """Where a walk of that seed begins."""
    run = running(1, seed, lr=0.0)
    functions.load(task).run(run)
    return where(run).clone()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (cardioid(at(0.5, 1.0)), (1.75**2 - 1.25) ** 2),
        (cardioid(at(-1.0, -1.0)), (1.0 - 2.0) ** 2),
        (rosenbrock(at(-1.2, 1.0)), 2.2**2 + 100 * 0.44**2),
        (f1(at(math.pi / 4)), 1 / (0.05 * math.pi / 4 + math.log(1 + math.pi / 4))),
        (f1(at(1e-9)), 1e9),
        (f2(at(0.0)), -2 * math.exp(-324)),
        (f2(at(1e-6)), 25e-12),
        (f2(at(0.6)), -math.exp(-9) - math.exp(-1296)),
        (f2(at(-0.5)), 1 - math.exp(-9) - math.exp(-6.25)),
        (f2(at(0.62)), 1 - math.exp(-0.36) - math.exp(-25 * 0.62**2)),
    ],
)
def test_values_by_hand(value: torch.Tensor, expected: float) -> None:
    torch.testing.assert_close(value, at(expected).squeeze(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_gradient_is_the_slope(name: str) -> None:
    points = torch.tensor(POINTS[name], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FUNCTIONS[name].f, [points], eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_minima_are_minima(name: str) -> None:
    function = FUNCTIONS[name]
    for point in function.minima:
        here = at(*point).requires_grad_()
        (slope,) = torch.autograd.grad(function.f(here), here)
        assert slope.abs().max() < 1e-12
        angles = torch.linspace(0, 2 * math.pi, 17, dtype=torch.float64)
        around = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, : len(point)]
        assert (function.f(here + 1e-3 * around) >= function.f(here)).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_many_points_at_once_and_the_start_is_no_minimum(name: str) -> None:
    function = FUNCTIONS[name]
    points = torch.tensor(POINTS[name], dtype=torch.float32)
    values = function.f(points.expand(2, *points.shape))
    assert values.shape == (2, len(points))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[1], torch.stack([function.f(point) for point in points]))
    here = at(*function.start).requires_grad_()
    assert torch.autograd.grad(function.f(here), here)[0].norm() > 1e-9


def test_the_floor_of_the_cardioid_is_its_curve() -> None:
    phi = torch.linspace(0, 2 * math.pi, 100, dtype=torch.float64)
    r = 1 - phi.cos()
    assert cardioid(torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)).max() < 1e-28  # the square of a rounding error


def test_beyond_its_pole_f1_is_no_progress() -> None:
    here = at(-2.0, -0.5, 0.0).unsqueeze(-1).requires_grad_()
    values = f1(here)
    assert values.isposinf().all()
    assert f1(at(math.nan)).isnan()
    assert torch.equal(torch.autograd.grad(f1(torch.cat([here, at(2.3).unsqueeze(-1)])).sum(), here)[0], 0 * here)


@pytest.mark.parametrize("task", functions.ENTRIES)
def test_a_walk_is_the_optimizers(task: str) -> None:
    loop = functions.ENTRIES[task].load(None, "standard")
    assert (loop.name, loop.metric_name, loop.maximize, loop.batch_size) == (task, "f(x)", False, 1)
    begin, run = start(task, 3).requires_grad_(), running(2, 3)
    f = FUNCTIONS[task.split("-")[1]].f
    values = []
    point = begin
    for _ in range(2):
        values.append(f(point))
        point = point - 1e-3 * torch.autograd.grad(values[-1], point)[0]
    functions.load(task).run(run)
    torch.testing.assert_close(where(run), point.detach(), rtol=1e-14, atol=0)
    assert [e.train_loss for e in run.curve] == [value.item() for value in values]
    assert run.curve[0].validation == values[1].item()
    assert run.result == run.curve[1].validation == f(where(run)).item()


def test_a_walk_is_evaluated_twenty_times_and_tested_if_asked() -> None:
    run = running(50, test=False)
    functions.load("fig1-rosenbrock").run(run)
    assert [e.step for e in run.curve] == [math.ceil(2.5 * part) for part in range(1, 21)]
    assert run.result is None
    assert run.steps == 50 == functions.load("fig1-rosenbrock").plan(1, 50).steps
    assert functions.load("fig1-rosenbrock").examples == 1
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
        functions.load("fig8-f1").run(running(100, lr=1e3, uphill=True))


@pytest.mark.parametrize("task", functions.ENTRIES)
def test_targets_are_met_at_the_minima_and_not_at_the_start(task: str) -> None:
    loop, function = functions.load(task), FUNCTIONS[task.split("-")[1]]
    assert not loop.reached(function.f(at(*function.start)).item())
    assert loop.reached(function.f(at(*function.minima[-1])).item())


def test_the_target_of_f1_is_beyond_its_first_minimum() -> None:
    first, second, third = (f1(at(*point)).item() for point in FUNCTIONS["f1"].minima)
    assert first > functions.load("fig8-f1").target > second > third
