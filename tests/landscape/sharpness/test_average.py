"""Average-case sharpness against the trace."""

from __future__ import annotations

import math

import pytest
import torch

from landscape.sharpness.losses import of_function, quadratic
from valleys.landscape.sharpness.average import average_sharpness


def test_the_average_of_a_quadratic_is_its_trace() -> None:
    start = (0.5, -2.0, 1.0)
    objective, hessian = quadratic(*start)
    theta = torch.tensor(start, dtype=torch.float64)
    for adaptive, scale in ((False, torch.ones_like(theta)), (True, theta.abs())):
        exact = 0.2**2 / 2 * float((hessian.diagonal() * scale**2).sum())
        result = average_sharpness(objective, 0.2, adaptive=adaptive, samples=2000)
        assert abs(result.value - exact) < 4 * result.standard_error
        # Var(z A z / 2) = tr(A^2) / 2 for the scaled matrix A.
        matrix = 0.2**2 * scale[:, None] * hessian * scale
        exact_error = math.sqrt(float((matrix @ matrix).trace()) / 2 / 2000)
        assert result.standard_error == pytest.approx(exact_error, rel=0.15)
        assert result.samples == 2000


def test_opposite_perturbations_leave_nothing_of_a_linear_loss() -> None:
    objective = of_function(lambda theta: 1e3 * theta.sum(), 1.0, 2.0)
    result = average_sharpness(objective, 0.1, samples=5)
    assert abs(result.value) < 1e-11
    assert result.standard_error < 1e-11


def test_bad_options_of_the_average_are_named() -> None:
    objective, _ = quadratic(1.0, 1.0)
    with pytest.raises(ValueError, match="sigma"):
        average_sharpness(objective, -1.0)
    with pytest.raises(ValueError, match="samples"):
        average_sharpness(objective, samples=1)
    with pytest.raises(ValueError, match="eta"):
        average_sharpness(objective, eta=0.1)
