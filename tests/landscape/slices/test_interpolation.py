"""The way between two solutions: barriers with a known height, exact ends, statistics."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from valleys.landscape.objective import Objective
from valleys.landscape.slices.interpolation import interpolate


class Point(nn.Module):
    """Parameters alone; the output is them."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.theta


def of_function(function: Callable[[Tensor], Tensor], *start: float) -> Objective:
    return Objective(Point(*start), lambda theta, _: function(theta), [(torch.zeros(1), torch.zeros(1))])


def tilted_well(theta: Tensor) -> Tensor:
    return ((theta**2 - 1) ** 2 + 0.5 * theta).sum()


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_between_two_wells_the_barrier_is_the_hill_above_the_line() -> None:
    objective = of_function(tilted_well, 5.0)
    path = interpolate(objective, vector(-1.0), vector(1.0), points=41)
    x = 2 * path.t - 1
    torch.testing.assert_close(path.losses, (x**2 - 1) ** 2 + x / 2, rtol=1e-13, atol=1e-13)
    # The tilt lies in the line between the ends, so the hill alone is left: (x^2 - 1)^2, 1 at x = 0.
    torch.testing.assert_close(path.excess, (x**2 - 1) ** 2, rtol=1e-12, atol=1e-13)
    assert path.barrier == pytest.approx(1.0, rel=1e-13)
    assert path.barrier_at == 0.5
    # The highest loss is at -(x^2 - 1) 4 x = 1/2; above the mean of the ends, 0.
    assert path.instability == float(path.losses.max())
    assert path.instability > path.barrier
    assert path.metric is None


def test_a_lower_barrier_beside_the_middle_is_found_where_it_is() -> None:
    objective = of_function(lambda theta: torch.exp(-((theta - 0.75) ** 2) * 200).sum(), 0.0)
    path = interpolate(objective, vector(0.0), vector(1.0), points=21)
    assert path.barrier_at == 0.75
    assert path.barrier == pytest.approx(1 - 0.75 * math.exp(-200 / 16), rel=1e-12)


def test_on_a_convex_loss_there_is_no_barrier() -> None:
    objective = of_function(lambda theta: theta.square().sum() + theta.exp().sum(), 0.0, 0.0)
    path = interpolate(objective, vector(-1.0, 2.0), vector(3.0, 0.5))
    assert path.barrier == 0.0
    assert bool((path.excess[1:-1] < 0).all())


def test_the_ends_are_the_solutions_exactly_and_the_middle_is_the_middle() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))  # float32: 1 - t + t is not always 1
    objective = Objective(model, nn.functional.mse_loss, [(torch.randn(7, 4), torch.randn(7, 2))])
    first, second = (tuple(torch.randn_like(p) * 3 for p in objective.parameters) for _ in range(2))
    before = [parameter.detach().clone() for parameter in objective.parameters]
    points_seen: list[Tensor] = []

    def note(*_: Tensor) -> float:
        points_seen.append(objective.flatten(objective.parameters))
        return 0.0

    path = interpolate(objective, first, objective.flatten(second), points=3, metric=note)
    assert torch.equal(points_seen[0], objective.flatten(first))
    assert torch.equal(points_seen[2], objective.flatten(second))
    assert all(torch.equal(p, old) for p, old in zip(objective.parameters, before, strict=True))
    exact = []
    for point in (first, tuple((a + b) / 2 for a, b in zip(first, second, strict=True)), second):
        with torch.no_grad():
            for parameter, value in zip(objective.parameters, point, strict=True):
                parameter.copy_(value)
        exact.append(objective.value())
    assert path.losses[0] == exact[0]
    assert path.losses[2] == exact[2]
    assert float(path.losses[1]) == pytest.approx(exact[1], rel=1e-5)
    assert path.excess[0] == path.excess[2] == 0


def test_the_way_does_not_depend_on_where_the_model_is() -> None:
    results = [interpolate(of_function(tilted_well, at), vector(-1.0), vector(2.0)).losses for at in (0.1, 3e8)]
    assert torch.equal(*results)


def test_a_metric_comes_along() -> None:
    path = interpolate(
        of_function(tilted_well, 0.0), vector(2.0), vector(4.0), points=3, metric=lambda theta, _: theta.sum()
    )
    assert path.metric is not None
    assert path.metric.tolist() == [2.0, 3.0, 4.0]


def test_losses_that_overflow_are_kept() -> None:
    wall = of_function(lambda theta: torch.where(theta.abs() < 0.1, math.inf, theta).sum(), 1.0)
    assert interpolate(wall, vector(-1.0), vector(1.0), points=5).barrier == math.inf
    hole = of_function(lambda theta: torch.where(theta.abs() < 0.1, math.nan, theta).sum(), 1.0)
    assert math.isnan(interpolate(hole, vector(-1.0), vector(1.0), points=5).barrier)


def test_a_loss_that_raises_midway_leaves_the_parameters() -> None:
    objective = of_function(tilted_well, 5.0)

    def fail(theta: Tensor, _: Tensor) -> Tensor:
        if float(theta) > 0:
            raise RuntimeError("out of memory")
        return tilted_well(theta)

    objective.loss = fail
    with pytest.raises(RuntimeError, match="memory"):
        interpolate(objective, vector(-1.0), vector(1.0))
    assert objective.parameters[0].item() == 5.0


def test_statistics_are_estimated_at_the_ends_too_and_then_restored() -> None:
    def build(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).double()

    inputs, targets = torch.randn(40, 3).double(), torch.randn(40, 2).double()
    own = []  # each model's loss with statistics of its own
    models = [build(seed) for seed in (1, 2)]
    for model in models:
        model[1].momentum = None  # type: ignore[assignment]
        with torch.no_grad():
            model(inputs)
        model.eval()
        with torch.no_grad():
            own.append(float(nn.functional.mse_loss(model(inputs), targets)))
    objective = Objective(models[0], nn.functional.mse_loss, [(inputs, targets)])
    first, second = (tuple(p.detach().clone() for p in model.parameters()) for model in models)
    before = {name: value.clone() for name, value in models[0].state_dict().items()}
    with pytest.warns(UserWarning, match="recalibrate=batches") as caught:
        stored = interpolate(objective, first, second)
    assert caught[0].filename == __file__
    fresh = interpolate(objective, first, second, recalibrate=[(inputs, targets)])
    assert [float(fresh.losses[0]), float(fresh.losses[-1])] == pytest.approx(own, rel=1e-12)
    assert float(stored.losses[0]) == pytest.approx(own[0], rel=1e-12)
    assert float(stored.losses[-1]) != pytest.approx(own[1], rel=0.01), "the first model's statistics do not fit"
    assert torch.equal(interpolate(objective, first, second, recalibrate=False).losses, stored.losses)
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not models[0][1].training
    assert models[0][1].momentum is None


def test_progress_counts_to_its_end_and_bad_arguments_are_named() -> None:
    objective = of_function(tilted_well, 0.0)
    calls: list[tuple[int, int]] = []
    interpolate(objective, vector(0.0), vector(1.0), 3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(ValueError, match="points 1"):
        interpolate(objective, vector(0.0), vector(1.0), 1)
    with pytest.raises(ValueError, match="first: a vector of shape"):
        interpolate(objective, vector(0.0, 1.0), vector(1.0))
    with pytest.raises(ValueError, match="second: tensors of shapes"):
        interpolate(objective, vector(0.0), [vector(1.0, 2.0)])
    with pytest.raises(ValueError, match="second: it holds infinities"):
        interpolate(objective, vector(0.0), vector(math.inf))
