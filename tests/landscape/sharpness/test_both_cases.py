"""Promises of the worst case and of the average alike: invariance, repeatability, nothing left behind."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from landscape.sharpness.losses import NORMS, network, of_function, quadratic, rescale_layer, rescale_units
from valleys.landscape.sharpness.average import average_sharpness
from valleys.landscape.sharpness.worst_case import sharpness


@pytest.mark.parametrize("rescale", [rescale_units, rescale_layer])
def test_a_rescaled_relu_network_has_the_same_adaptive_numbers_and_other_plain_ones(
    rescale: Callable[[nn.Sequential], None],
) -> None:
    model, build = network()

    def numbers(adaptive: bool) -> list[float]:
        objective = build()
        rho = {"l2": 0.5, "linf": 0.05}
        worst = [sharpness(objective, rho[norm], norm=norm, adaptive=adaptive, restarts=3) for norm in NORMS]
        average = average_sharpness(objective, 0.1, adaptive=adaptive, samples=10)
        return [
            *(x for one in worst for x in (one.value, one.one_step, one.first_order, *one.by_restart)),
            average.value,
            average.standard_error,
        ]

    before, plain, loss = numbers(adaptive=True), numbers(adaptive=False), build().value()
    rescale(model)
    assert build().value() == pytest.approx(loss, rel=1e-13)
    assert numbers(adaptive=True) == pytest.approx(before, rel=1e-9)
    for old, new in zip(plain, numbers(adaptive=False), strict=True):
        assert new != pytest.approx(old, rel=0.01)


def test_a_downward_curve_has_a_negative_average_and_no_worst_case() -> None:
    objective = of_function(lambda theta: -(theta**2).sum(), 0.0, 0.0)
    assert average_sharpness(objective, 0.1).value < 0
    result = sharpness(objective, 0.1, restarts=3)
    assert result.value == 0.0
    assert not result.direction[0].any()
    assert result.by_restart == pytest.approx((0, 0, 0), abs=1e-15), "from the border they climb back to the centre"
    oblique = of_function(lambda theta: -(theta[0] ** 2) - 10 * theta[1] ** 2, 0.0, 0.0)
    short = sharpness(oblique, 0.1, steps=1, restarts=3)
    assert max(short.by_restart) < 0, "they did not get there in one step"
    assert short.value == 0.0, "but the centre itself is in the ball"
    assert not short.direction[0].any()


def test_a_loss_that_overflows_is_refused_and_counted() -> None:
    objective = of_function(lambda theta: torch.where(theta > 1.5, math.inf, theta).sum(), 1.0)
    result = sharpness(objective, 1.0, steps=60)
    assert result.nonfinite > 0
    assert result.value == pytest.approx(0.5, abs=1e-6), "as far as it is finite"
    undefined = of_function(lambda theta: torch.where(theta > 0, math.nan, theta * 0).sum(), 0.0)
    assert sharpness(undefined, 1.0, restarts=8).value == 0.0
    assert sharpness(undefined, 1.0, restarts=8).nonfinite > 0
    assert math.isnan(average_sharpness(undefined, 1.0).value)
    assert math.isnan(average_sharpness(undefined, 1.0).standard_error)


def test_the_parameters_and_gradients_are_left_as_they_were() -> None:
    model, build = network()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    objective = build()
    sharpness(objective, 0.5, adaptive=True, restarts=2)
    average_sharpness(objective, 0.5, samples=3)
    calls = 0

    def fail(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        sharpness(objective, 0.5, progress=fail)
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is not None
        assert bool((parameter.grad == 1).all())


def test_a_loss_that_raises_midway_leaves_the_parameters() -> None:
    objective = of_function(lambda theta: theta.square().sum(), 1.0, 2.0)
    calls = 0

    def loss(theta: Tensor, _: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls % 6 == 0:
            raise RuntimeError("out of memory")
        return theta.square().sum()

    objective.loss = loss
    for measure in (sharpness, average_sharpness):
        with pytest.raises(RuntimeError, match="memory"):
            measure(objective, 0.3)
        assert objective.parameters[0].tolist() == [1.0, 2.0]


def test_seeds_repeat_and_differ() -> None:
    _, build = network()
    objective = build()
    first, again, other = (average_sharpness(objective, 0.1, samples=3, seed=seed).value for seed in (1, 1, 2))
    assert first == again != other
    first, again, other = (sharpness(objective, 0.1, restarts=3, steps=1, seed=s).by_restart[1] for s in (1, 1, 2))
    assert first == again != other


def test_progress_counts_to_its_end() -> None:
    objective, _ = quadratic(1.0, 2.0)
    calls: list[tuple[int, int]] = []
    sharpness(objective, steps=3, restarts=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 6) for i in range(1, 7)]
    calls.clear()
    average_sharpness(objective, samples=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
