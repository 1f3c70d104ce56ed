"""Test functions: values by hand, closed gradients, minima, valleys and floors."""

from __future__ import annotations

import math

import pytest
import torch

from valleys.paper.walks.functions import FUNCTIONS, beale, cardioid, f1, f2, himmelblau, rastrigin, rosenbrock

POINTS = {
    "cardioid": [(0.5, 1.0), (-2.0, 0.1), (1e-3, -1e-3), (-0.7, -1.9)],
    "rosenbrock": [(-1.2, 1.0), (1.0, 1.1), (0.3, -2.0)],
    "f1": [(2.3,), (0.01,), (4.6,), (31.0,)],
    "f2": [(0.95,), (0.61,), (-0.57,), (0.02,), (-0.4,)],
    "beale": [(1.0, 1.5), (3.1, 0.4), (-4.0, -1.7)],
    "himmelblau": [(-0.5, -5.0), (3.0, 2.1), (4.0, -4.0)],
    "rastrigin": [(4.2, 3.3), (0.01, -0.02), (-1.3, 2.6)],
}


VALLEYS = [name for name, function in FUNCTIONS.items() if function.valley is not None]


def at(*point: float) -> torch.Tensor:
    return torch.tensor(point, dtype=torch.float64)


def window(name: str, count: int = 500) -> torch.Tensor:
    """Points everywhere in a function's window."""
    low, high = torch.tensor(FUNCTIONS[name].bounds, dtype=torch.float64).unbind(-1)
    return low + (high - low) * torch.rand(count, len(low), dtype=torch.float64)


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
        (beale(at(1.0, 2.0)), 2.5**2 + 5.25**2 + 9.625**2),
        (beale(at(-2.0, 0.5)), 2.5**2 + 3.75**2 + 4.375**2),
        (himmelblau(at(1.0, 2.0)), 64.0 + 4.0),
        (himmelblau(at(-2.0, -1.0)), 64.0 + 64.0),
        (rastrigin(at(0.5, -1.0)), 0.25 + 20 + 1.0),
        (rastrigin(at(0.25)), 0.0625 + 10),
        (rastrigin(at(1e-9, 0.0)), (1 + 20 * math.pi**2) * 1e-18),
    ],
)
def test_values_by_hand(value: torch.Tensor, expected: float) -> None:
    torch.testing.assert_close(value, at(expected).squeeze(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_closed_gradient_is_autograd_s_and_the_slope(name: str) -> None:
    function = FUNCTIONS[name]
    points = torch.cat([torch.tensor(POINTS[name], dtype=torch.float64), window(name)]).requires_grad_()
    assert torch.autograd.gradcheck(function.f, [points[: len(points) - 500]], eps=1e-7, atol=1e-6)
    (expected,) = torch.autograd.grad(function.f(points).sum(), points)
    result = function.gradient(points.detach())
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(function.gradient(points.detach().expand(2, *points.shape))[1], result)
    assert function.gradient(points.detach().float()).dtype == torch.float32


@pytest.mark.parametrize("name", FUNCTIONS)
def test_minima_are_minima(name: str) -> None:
    function = FUNCTIONS[name]
    for point in function.minima:
        here = at(*point).requires_grad_()
        (slope,) = torch.autograd.grad(function.f(here), here)
        assert slope.abs().max() < 1e-12
        assert function.gradient(at(*point)).abs().max() < 2e-12
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


def test_the_gradient_of_f1_beyond_its_pole() -> None:
    gradient = FUNCTIONS["f1"].gradient
    assert torch.equal(gradient(at(-1.0).unsqueeze(-1)), at(0.0).unsqueeze(-1))
    assert gradient(at(math.nan).unsqueeze(-1)).isnan().all()


@pytest.mark.parametrize("name", ["f1", "f2"])
def test_no_minimum_of_one_variable_is_missing(name: str) -> None:
    x = torch.linspace(0.05 if name == "f1" else -2.0, 100.0 if name == "f1" else 2.0, 400_001, dtype=torch.float64)
    slope = FUNCTIONS[name].gradient(x.unsqueeze(-1)).squeeze(-1)
    turns = ((slope[:-1] < 0) & (slope[1:] >= 0)).nonzero().squeeze(-1)
    result = torch.tensor(FUNCTIONS[name].minima, dtype=torch.float64).squeeze(-1)
    assert len(result) == len(turns)
    assert (x[turns] - 1e-9 <= result).all()
    assert (result <= x[turns + 1] + 1e-9).all()


def test_minima_of_f1_are_lower_one_after_the_other() -> None:
    assert (FUNCTIONS["f1"].f(torch.tensor(FUNCTIONS["f1"].minima, dtype=torch.float64)).diff() < 0).all()


def test_minima_of_rastrigin_lie_near_whole_numbers_the_lowest_first() -> None:
    minima = torch.tensor(FUNCTIONS["rastrigin"].minima, dtype=torch.float64)
    whole = minima.round()
    assert len({tuple(point.tolist()) for point in whole}) == 11**2
    assert whole.abs().max() == 5
    assert (minima - whole).abs().max() < 0.03
    assert minima[0].tolist() == [0.0, 0.0]
    assert (rastrigin(minima).diff() > -1e-9).all()


def test_rastrigin_has_any_dimension() -> None:
    points = torch.rand(3, 5, dtype=torch.float64)
    expected = 50 + (points.square() - 10 * (2 * math.pi * points).cos()).sum(-1)
    torch.testing.assert_close(rastrigin(points), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_windows_show_start_and_minima(name: str) -> None:
    function = FUNCTIONS[name]
    assert len(function.bounds) == function.dimension == len(function.start)
    low, high = torch.tensor(function.bounds, dtype=torch.float64).unbind(-1)
    for point in (function.start, function.minima[0]):
        assert (low < at(*point)).all()
        assert (at(*point) < high).all()


@pytest.mark.parametrize("name", VALLEYS)
def test_the_start_is_outside_the_valley_and_the_minima_in_it(name: str) -> None:
    function = FUNCTIONS[name]
    assert not function.inside(at(*function.start))
    assert function.inside(torch.tensor(function.minima, dtype=torch.float64)).all()
    points = window(name)
    assert function.valley is not None
    assert torch.equal(function.inside(points), function.f(points) <= function.valley)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in VALLEYS])
def test_a_function_without_a_valley_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*cardioid, rosenbrock, beale"):
        FUNCTIONS[name].inside(at(*FUNCTIONS[name].start))


def test_floors_are_the_floor() -> None:
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    floor = FUNCTIONS["cardioid"].floor
    assert floor is not None
    points = floor(t)
    assert cardioid(points).max() < 1e-28
    assert points[0].norm() < 1e-12
    assert points[-1].norm() < 1e-12
    assert points[1000].tolist() == pytest.approx([-2, 0])
    lengths = points.diff(dim=0).norm(dim=-1)
    assert lengths.sum().item() == pytest.approx(8, rel=1e-5)
    assert lengths.tolist() == pytest.approx([8 / 2000] * 2000, rel=1e-3)  # t is the length
    floor = FUNCTIONS["rosenbrock"].floor
    assert floor is not None
    points = floor(t)
    torch.testing.assert_close(rosenbrock(points), (1 - points[:, 0]).square(), rtol=1e-12, atol=1e-12)
    assert (points[0, 0].item(), points[-1, 0].item()) == (-2.0, 2.0)
    inside = FUNCTIONS["rosenbrock"].inside(points)
    assert inside[(points[:, 0] > -1.2) & (points[:, 0] < 1)].all()  # from the start on
