"""Slices of quadratics against their closed form, projections, and that nothing is left changed."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from valleys.landscape.objective import Objective
from valleys.landscape.slices.directions import pca_directions, random_direction
from valleys.landscape.slices.slices import project, slice_1d, slice_2d


class Pair(nn.Module):
    """Two parameter tensors alone; the output is them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[1.0, -2.0], [0.3, 0.7]], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([self.a.reshape(-1), self.b])


def quadratic() -> tuple[Objective, Tensor]:
    root = torch.randn(5, 5, dtype=torch.float64)
    hessian = root @ root.T
    batches = [(torch.zeros(2), torch.zeros(2)), (torch.zeros(1), torch.zeros(1))]
    return Objective(Pair(), lambda theta, _: theta @ hessian @ theta / 2, batches), hessian


def normalised() -> tuple[Objective, list[tuple[Tensor, Tensor]]]:
    """A network with BatchNorm, whose stored statistics are those of its training data."""
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8, momentum=0.3), nn.ReLU(), nn.Linear(8, 2)).double()
    data = [(torch.randn(n, 3, dtype=torch.float64), torch.randn(n, 2, dtype=torch.float64)) for n in (12, 5)]
    model[1].momentum = None  # type: ignore[assignment]
    with torch.no_grad():
        model(data[0][0])
    model[1].momentum = 0.3  # type: ignore[assignment]
    return Objective(model.eval(), nn.functional.mse_loss, data), data


def snapshot(model: nn.Module) -> list[Any]:
    state = [value.clone() for value in model.state_dict().values()]
    return [state, [(module.training, getattr(module, "momentum", None)) for module in model.modules()]]


def same(first: list[Any], second: list[Any]) -> bool:
    return first[1] == second[1] and all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))


def test_a_line_through_a_quadratic_is_a_parabola() -> None:
    objective, hessian = quadratic()
    direction = tuple(torch.randn_like(parameter) for parameter in objective.parameters)
    theta, d = objective.flatten(objective.parameters), objective.flatten(direction)
    curve = slice_1d(objective, direction, (-0.5, 2.0), points=11)
    x = torch.linspace(-0.5, 2, 11, dtype=torch.float64)
    exact = theta @ hessian @ theta / 2 + x * (theta @ hessian @ d) + x**2 * (d @ hessian @ d) / 2
    torch.testing.assert_close(curve.x, x)
    torch.testing.assert_close(curve.values, exact, rtol=1e-12, atol=1e-12)
    assert curve.centre == objective.value()
    assert curve.y is curve.metric is None
    assert curve.nonfinite == 0


def test_along_an_eigenvector_the_parabola_has_its_eigenvalue() -> None:
    objective, hessian = quadratic()
    with torch.no_grad():
        for parameter in objective.parameters:
            parameter.zero_()
    values, vectors = torch.linalg.eigh(hessian)
    for value, vector in zip(values, vectors.T, strict=True):
        curve = slice_1d(objective, objective.unflatten(vector), 2.0, points=9)
        torch.testing.assert_close(curve.values, value * curve.x**2 / 2, rtol=1e-9, atol=1e-12)
        assert curve.values[4] == curve.centre == 0, "the middle is the centre exactly"


def test_a_plane_has_x_along_its_rows() -> None:
    objective, hessian = quadratic()
    x, y = (tuple(torch.randn_like(parameter) for parameter in objective.parameters) for _ in range(2))
    plane = slice_2d(objective, x, y, ((-1, 2), (0, 3)), points=(4, 3))
    assert plane.values.shape == (3, 4)
    assert plane.y is not None
    assert (plane.x.tolist(), plane.y.tolist()) == ([-1, 0, 1, 2], [0, 1.5, 3])
    for row, vertical in enumerate(plane.y):
        for column, horizontal in enumerate(plane.x):
            point = objective.flatten(objective.parameters) + horizontal * objective.flatten(x)
            point = point + vertical * objective.flatten(y)
            assert float(plane.values[row, column]) == pytest.approx(float(point @ hessian @ point / 2), rel=1e-12)
    assert plane.values[0, 1] == plane.centre == objective.value()
    square = slice_2d(objective, x, y, (-1, 2), points=3)
    assert square.y is not None
    assert square.x.tolist() == square.y.tolist() == [-1, 0.5, 2]
    assert slice_2d(objective, x, y, 0.5, points=2).x.tolist() == [-0.5, 0.5]


def test_a_metric_is_measured_beside_the_loss() -> None:
    objective, _ = quadratic()
    direction = random_direction(objective)
    plain = slice_1d(objective, direction, points=5)
    both = slice_1d(objective, direction, points=5, metric=lambda theta, targets: theta[0] * len(targets))
    assert both.metric is not None
    torch.testing.assert_close(both.values, plain.values, rtol=1e-14, atol=0)
    # Weighted as the loss is: batches of 2 and 1 of 3 examples.
    exact = (1 + plain.x * direction[0][0, 0]) * (2 * 2 / 3 + 1 / 3)
    torch.testing.assert_close(both.metric, exact, rtol=1e-12, atol=1e-14)
    plane = slice_2d(objective, direction, random_direction(objective, seed=9), points=3, metric=lambda theta, _: 7)
    assert plane.metric is not None
    assert plane.metric.shape == (3, 3)
    torch.testing.assert_close(plane.metric, torch.full((3, 3), 7.0, dtype=torch.float64), rtol=1e-14, atol=0)


def test_losses_that_overflow_stay_and_are_counted() -> None:
    objective, _ = quadratic()
    objective.loss = lambda theta, _: torch.where(theta[-1] > 1, math.inf, (1 + theta[-1]).log())
    curve = slice_1d(objective, [torch.zeros(2, 2), torch.ones(1)], 2.0, points=5)  # theta = -1.5, -.5, .5, 1.5, 2.5
    assert [math.isnan(x) for x in curve.values.tolist()] == [True, False, False, False, False]
    assert [math.isinf(x) for x in curve.values.tolist()] == [False, False, False, True, True]
    assert curve.nonfinite == 3


@pytest.mark.parametrize("call", range(1, 9))
def test_the_parameters_are_exactly_restored_even_if_the_loss_raises(call: int) -> None:
    objective, data = normalised()
    x, y = random_direction(objective, seed=1), random_direction(objective, seed=2)
    before = snapshot(objective.model)
    slice_1d(objective, x, points=3, recalibrate=data)
    slice_2d(objective, x, y, points=2, recalibrate=data)
    assert same(snapshot(objective.model), before)
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RuntimeError("out of memory")
        return nn.functional.mse_loss(outputs, targets)

    objective.loss = loss
    for measure in (
        lambda: slice_1d(objective, x, points=4, recalibrate=data),
        lambda: slice_2d(objective, x, y, points=2, recalibrate=data),
    ):
        calls = 0
        with pytest.raises(RuntimeError, match="memory"):
            measure()
        assert same(snapshot(objective.model), before)


def test_a_forward_pass_that_raises_while_statistics_are_estimated_leaves_them() -> None:
    objective, data = normalised()
    before = snapshot(objective.model)
    wrong = [data[0], (torch.zeros(3, 99, dtype=torch.float64), torch.zeros(3))]
    with pytest.raises(RuntimeError):
        slice_1d(objective, random_direction(objective), recalibrate=wrong)
    assert same(snapshot(objective.model), before)


def test_statistics_are_those_of_the_displaced_network() -> None:
    objective, data = normalised()
    direction = random_direction(objective)
    curve = slice_1d(objective, direction, 1.0, points=3, recalibrate=data)
    model = objective.model
    for position, value in zip((-1.0, 0.0, 1.0), curve.values.tolist(), strict=True):
        with objective.moved(direction, position), torch.no_grad():
            hidden = [model[0](inputs) for inputs, _ in data]  # type: ignore[index]
            mean = sum(len(h) * h.mean(0) for h in hidden) / 17
            variance = sum(len(h) * h.var(0) for h in hidden) / 17
            outputs = [
                model[3](  # type: ignore[index]
                    ((h - mean) / (variance + 1e-5).sqrt() * model[1].weight + model[1].bias).relu()  # type: ignore[index]
                )
                for h in hidden
            ]
            exact = sum(((o - t) ** 2).sum() for o, (_, t) in zip(outputs, data, strict=True)) / 34
        assert value == pytest.approx(float(exact), rel=1e-12)
    plane = slice_2d(objective, direction, random_direction(objective, seed=4), points=3, recalibrate=data)
    torch.testing.assert_close(plane.values[1], curve.values)
    assert plane.centre == curve.centre == pytest.approx(float(curve.values[1]), rel=1e-14)


def test_a_point_where_statistics_overflow_does_not_spoil_the_next() -> None:
    objective, data = normalised()
    direction = [torch.zeros_like(parameter) for parameter in objective.parameters]
    direction[1] = torch.full_like(direction[1], 1.7e308)
    curve = slice_1d(objective, direction, (-2.0, 0.0), points=3, recalibrate=data)
    assert not math.isfinite(curve.values[0])
    assert curve.values[2] == curve.centre


def test_running_statistics_are_warned_of_unless_one_decides() -> None:
    objective, data = normalised()
    x, y = random_direction(objective, seed=1), random_direction(objective, seed=2)
    with pytest.warns(UserWarning, match=r"BatchNorm1d.*recalibrate=batches") as caught:
        stored = slice_1d(objective, x, points=3)
    assert caught[0].filename == __file__, "it points at the caller"
    with pytest.warns(UserWarning, match="recalibrate"):
        slice_2d(objective, x, y, points=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve = slice_1d(objective, x, points=3, recalibrate=False)
        fresh = slice_1d(objective, x, points=3, recalibrate=data)
        slice_1d(quadratic()[0], [torch.ones(2, 2), torch.ones(1)], recalibrate=data)  # nothing to estimate
    assert torch.equal(stored.values, curve.values)
    assert not torch.allclose(fresh.values, curve.values, rtol=0.01)
    with pytest.raises(ValueError, match="recalibrate"):
        slice_1d(objective, x, recalibrate=iter([]))


def test_progress_counts_to_its_end() -> None:
    objective, _ = quadratic()
    calls: list[tuple[int, int]] = []
    x, y = random_direction(objective, seed=1), random_direction(objective, seed=2, include_biases=True)
    slice_1d(objective, x, points=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    calls.clear()
    slice_2d(objective, x, y, points=(3, 2), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 7) for i in range(2, 8)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.integers(1, 4), st.booleans())
def test_a_path_in_the_plane_is_found_exactly(seed: int, count: int, as_tensors: bool) -> None:
    objective, _ = quadratic()
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    axes, origin, coordinates = draw(count, 5), draw(5), draw(6, count)
    path = list(origin + coordinates @ axes)
    points = [objective.unflatten(point) for point in path] if as_tensors else path
    plane = project(points, origin, [objective.unflatten(axis) for axis in axes])
    torch.testing.assert_close(plane, coordinates, rtol=1e-6, atol=1e-6)


def test_what_is_off_the_plane_is_not_seen() -> None:
    x, y = [torch.tensor([2.0, 0.0, 0.0])], [torch.tensor([1.0, 1.0, 0.0])]
    for height in (0.0, 5.0):
        coordinates = project([torch.tensor([5.0, 1.0, height])], [torch.zeros(3)], [x, y])
        assert coordinates.tolist() == [pytest.approx([2.0, 1.0])]


def test_the_trajectory_is_exact_on_the_plane_of_its_principal_directions() -> None:
    objective, hessian = quadratic()
    basis = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64)).Q.T
    end = objective.flatten(objective.parameters)
    path = [end + torch.randn(2, dtype=torch.float64) @ basis for _ in range(6)] + [end]
    axes, explained = pca_directions(objective, path)
    assert sum(explained) == pytest.approx(1)
    coordinates = project(path, path[-1], axes)
    assert coordinates[-1].tolist() == [0, 0]
    for point, (x, y) in zip(path, coordinates.tolist(), strict=True):
        plane = slice_2d(objective, axes[0], axes[1], ((x, x + 1), (y, y + 1)), points=2)
        assert float(plane.values[0, 0]) == pytest.approx(float(point @ hessian @ point / 2), rel=1e-10)


def test_bad_arguments_are_named() -> None:
    objective, _ = quadratic()
    x = random_direction(objective)
    for span in (0.0, -1.0, math.inf, (1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="span"):
            slice_1d(objective, x, span)
    with pytest.raises(ValueError, match="span"):
        slice_2d(objective, x, random_direction(objective, seed=1), ((0, 1), (1, 0)))
    with pytest.raises(ValueError, match="points 1"):
        slice_1d(objective, x, points=1)
    with pytest.raises(ValueError, match="parallel"):
        slice_2d(objective, x, tuple(-2 * part for part in x))
    with pytest.raises(ValueError, match="direction: tensors of shapes"):
        slice_1d(objective, x[:1])
    with pytest.raises(ValueError, match="y: it is zero"):
        slice_2d(objective, x, tuple(0 * part for part in x))
    with pytest.raises(ValueError, match="infinities"):
        slice_1d(objective, tuple(part / 0 for part in x))
    with pytest.raises(ValueError, match="parallel"):
        project([torch.ones(2)], torch.zeros(2), [[torch.ones(2)], [torch.ones(2)]])
    with pytest.raises(ValueError, match=r"path\[0\]: 3 numbers"):
        project([torch.ones(3)], torch.zeros(2), [[torch.ones(2)]])
    with pytest.raises(ValueError, match=r"directions\[0\]"):
        project([torch.ones(2)], torch.zeros(2), [[torch.ones(1)]])
    with pytest.raises(ValueError, match="zero everywhere"):
        project([torch.ones(2)], torch.zeros(2), [[torch.zeros(2)]])
    with pytest.raises(ValueError, match="at least one"):
        project([], torch.zeros(2), [[torch.ones(2)]])
