"""Worst-case sharpness against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landscape.sharpness.losses import NORMS, network, of_function, quadratic
from valleys.landscape.objective import Objective
from valleys.landscape.sharpness.worst_case import sharpness


@pytest.mark.parametrize("rho", [0.01, 1.0])
def test_in_the_minimum_of_a_quadratic_it_is_the_largest_eigenvalue(rho: float) -> None:
    objective, hessian = quadratic(0.0, 0.0, 0.0, 0.0)
    result = sharpness(objective, rho, steps=60, restarts=3)
    assert result.value == pytest.approx(rho**2 / 2 * float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-9)
    assert result.one_step == result.first_order == 0.0, "there is no gradient to take a step along"
    assert result.spread == pytest.approx(0, abs=1e-8 * result.value)
    assert torch.linalg.vector_norm(result.direction[0]) == pytest.approx(rho)


def test_steps_that_pay_become_longer() -> None:
    # With steps of rho throughout, 15 of them leave 0.7 % of this quadratic's maximum; with doubled ones 0.009 %.
    curvature = torch.linspace(0.1, 0.8, 20, dtype=torch.float64)
    curvature[-1] = 1.0
    objective = of_function(lambda theta: (curvature * theta**2).sum() / 2, *[0.0] * 20)
    assert sharpness(objective, 1.0, steps=15).value == pytest.approx(0.5, rel=5e-4)


def test_beside_the_minimum_it_solves_the_trust_region_problem() -> None:
    # max g d + d H d / 2 on the sphere has its solution where (mu - H) d = g with mu above the largest eigenvalue.
    start, rho = (0.3, -0.2, 0.5), 0.7
    objective, hessian = quadratic(*start)
    gradient = hessian @ torch.tensor(start, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(hessian)
    parts = vectors.T @ gradient
    low, high = float(values[-1]), float(values[-1]) + float(gradient.norm()) / rho
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if float((parts / (middle - values)).norm()) > rho else (low, middle)
    step = vectors @ (parts / (high - values))
    result = sharpness(objective, rho, steps=50)
    assert result.value == pytest.approx(float(gradient @ step + step @ hessian @ step / 2), rel=1e-9)
    torch.testing.assert_close(result.direction[0], step, rtol=1e-4, atol=1e-5)


def test_a_linear_loss_has_the_dual_norm_of_its_gradient() -> None:
    slope = torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64)
    objective = of_function(lambda theta: slope @ theta, 1.0, 2.0, 5.0)
    for norm, adaptive, dual in (
        ("l2", False, 5.0),
        ("linf", False, 7.0),
        ("l2", True, math.hypot(3, 8)),
        ("linf", True, 11.0),
    ):
        result = sharpness(objective, 0.1, norm=norm, adaptive=adaptive)
        for number in (result.value, result.one_step, result.first_order):
            assert number == pytest.approx(0.1 * dual, rel=1e-12)
        assert result.spread is None, "of one start"


def test_a_convex_loss_is_highest_at_a_corner_of_the_cube() -> None:
    objective, hessian = quadratic(0.2, -0.1, 0.4, 0.3)
    rho = 0.25
    corners = torch.cartesian_prod(*[torch.tensor([-rho, rho], dtype=torch.float64)] * 4)
    points = objective.parameters[0].detach() + corners
    losses = (points @ hessian * points).sum(1) / 2
    result = sharpness(objective, rho, norm="linf", restarts=8)
    assert result.value == pytest.approx(float(losses.max()) - objective.value(), rel=1e-12)
    assert torch.equal(result.direction[0].abs(), torch.full((4,), rho, dtype=torch.float64))


def test_the_ascent_finds_a_maximum_inside_the_ball() -> None:
    # |theta| <= 1 around 0.1; the maximum of cos is at 0, well within.
    objective = of_function(lambda theta: theta.cos().sum(), 0.3, -0.4)
    result = sharpness(objective, 2.0, steps=60)
    assert result.value == pytest.approx(2 - math.cos(0.3) - math.cos(0.4), abs=1e-10)


def test_more_steps_and_restarts_never_find_less_and_start_with_sams_step() -> None:
    _, build = network()
    objective = build()
    values = [sharpness(objective, 1.0, steps=steps).value for steps in (1, 2, 5, 20)]
    assert values == sorted(values)
    assert values[0] < values[-1]
    gradient = objective.gradient()
    length = math.sqrt(sum(float(part.square().sum()) for part in gradient))
    with objective.moved(gradient, 1.0 / length):
        after = objective.value()
    for norm in NORMS:
        one, several = (sharpness(objective, 1.0, norm=norm, restarts=restarts) for restarts in (1, 4))
        assert several.value == max(several.by_restart) >= one.value == several.by_restart[0]
        assert len(several.by_restart) == 4
        assert several.spread is not None
        assert several.spread == max(several.by_restart) - min(several.by_restart)
        assert one.steps == 20
    assert sharpness(objective, 1.0).one_step == pytest.approx(after - objective.value(), rel=1e-12)
    assert sharpness(objective, 1.0).first_order == pytest.approx(length, rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("adaptive", [False, True])
def test_its_direction_lies_in_the_ball_and_explains_the_value(norm: str, adaptive: bool) -> None:
    _, build = network()
    objective = build()
    result = sharpness(objective, 0.3, norm=norm, adaptive=adaptive, restarts=2)
    scaled = torch.cat(
        [
            (d / (p.detach().abs() if adaptive else 1)).reshape(-1)
            for d, p in zip(result.direction, objective.parameters, strict=True)
        ]
    )
    assert torch.linalg.vector_norm(scaled, 2 if norm == "l2" else math.inf) <= 0.3 * (1 + 1e-12)
    before = objective.value()
    with objective.moved(result.direction):
        assert objective.value() - before == pytest.approx(result.value, rel=1e-12)
    assert result.value > 0


def test_a_zero_parameter_stays_in_an_adaptive_ball_unless_eta_moves_it() -> None:
    objective = of_function(lambda theta: theta.sum(), 0.0, 2.0)
    assert sharpness(objective, 0.1, adaptive=True, restarts=2).direction[0][0] == 0
    assert sharpness(objective, 0.1, adaptive=True).value == pytest.approx(0.2)
    moved = sharpness(objective, 0.1, norm="linf", adaptive=True, eta=0.01)
    assert moved.value == pytest.approx(0.1 * (0.01 + 2.01))
    with pytest.raises(ValueError, match="eta above 0"):
        sharpness(of_function(lambda theta: theta.sum(), 0.0), adaptive=True)


def test_a_saddle_with_zero_parameters_starts_within_the_ball() -> None:
    # The gradient is zero, so the start is random; the element that cannot move must take no part of the radius.
    objective = of_function(lambda theta: (theta[1] - 2) ** 2 + 0 * theta[0], 0.0, 2.0)
    assert sharpness(objective, 0.1, adaptive=True, steps=1).value == pytest.approx(0.04, rel=1e-12)


def test_a_tiny_gradient_still_has_a_direction() -> None:
    model = nn.Linear(2, 1, bias=False)
    objective = Objective(
        model, lambda outputs, _: 1e-30 * outputs.sum(), [(torch.tensor([[3.0, 4.0]]), torch.zeros(1))]
    )
    assert sharpness(objective, 1.0).one_step == pytest.approx(5e-30, rel=1e-5)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from(NORMS), st.booleans(), st.floats(0.01, 3))
def test_no_random_point_of_the_ball_is_higher(seed: int, norm: str, adaptive: bool, rho: float) -> None:
    # For convex losses the first-order promise is a lower bound of the rise, and no random corner may beat the ascent.
    generator = torch.Generator().manual_seed(seed)
    root, start = torch.randn(3, 3, generator=generator, dtype=torch.float64), torch.randn(3, generator=generator)
    objective = of_function(lambda theta: (root @ theta).square().sum(), *start.tolist())
    result = sharpness(objective, rho, norm=norm, adaptive=adaptive, steps=50, restarts=6)
    assert result.value >= result.one_step >= result.first_order * (1 - 1e-9)
    points = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    length = torch.linalg.vector_norm(points, 2 if norm == "l2" else math.inf, dim=1, keepdim=True)
    theta = objective.parameters[0].detach()
    moved = theta + rho * points / length * (theta.abs() if adaptive else 1)
    rises = (moved @ root.T).square().sum(1) - (root @ theta).square().sum()
    assert result.value >= float(rises.max()) * (1 - 1e-6)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"rho": 0.0}, "rho"),
        ({"rho": math.inf}, "rho"),
        ({"norm": "l1"}, "norm"),
        ({"steps": 0}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"adaptive": True, "eta": -0.1}, "eta"),
        ({"eta": 0.1}, "eta"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], name: str) -> None:
    objective, _ = quadratic(1.0, 1.0)
    with pytest.raises(ValueError, match=name):
        sharpness(objective, **options)  # type: ignore[arg-type]
