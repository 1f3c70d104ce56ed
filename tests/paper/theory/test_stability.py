"""Stability on a quadratic: against the reference's own steps, against eigenvalues, and against known methods."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from valleys import reference
from valleys.paper.theory import continuous_limit, frequency_response, largest_stable_lr, spectral_radius, widest
from valleys.paper.theory.checks import Floats
from valleys.paper.theory.stability import flip_limit, iteration_matrix, rotation_limit

BETAS = st.floats(0.0, 0.999)
C = st.floats(-3.0, 3.0)


def of_reference(
    h: float, lr: float, alpha: float, beta1: float, beta2: float, steps: int, dampening: float = 0.0
) -> Floats:
    """theta, m / h and s / h after each step of the reference, from theta = 1."""
    theta, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    memory: reference.TwoBuffer | reference.OneBuffer = reference.OneBuffer(zero)
    m = zero
    states = []
    for _ in range(steps):
        g = h * theta
        if dampening == 0:
            theta, memory, m = reference.esgd(theta, g, memory, m, lr=lr, alpha=alpha, b1=beta1, b2=beta2)
        else:
            adapted, memory = reference.explore(g, memory, alpha, beta1)
            m = beta2 * m + (1 - dampening) * adapted
            theta = theta - lr * m
        assert isinstance(memory, reference.OneBuffer)
        states.append([theta.item(), m.item() / h, memory.s.item() / h])
    return np.array(states)


@pytest.mark.parametrize("dampening", [0.0, 0.7])
@pytest.mark.parametrize(("alpha", "beta1"), [(0.0, 0.5), (-5.0, 0.99), (0.5, 0.01), (-90.0, 0.99), (-3.0, 0.2)])
def test_powers_of_the_matrix_are_the_steps_of_the_reference(alpha: float, beta1: float, dampening: float) -> None:
    h, lr, beta2 = 0.3, 0.7, 0.9
    matrix = iteration_matrix(lr * h, alpha, beta1, beta2, dampening)
    state = np.array([1.0, 0.0, 0.0])
    for row in of_reference(h, lr, alpha, beta1, beta2, 40, dampening):
        state = matrix @ state
        assert state == pytest.approx(row, rel=1e-11, abs=1e-12)


@given(c=C, beta1=BETAS, beta2=BETAS, dampening=st.sampled_from([0.0, 0.5, 0.9]), share=st.floats(0.01, 0.99))
@settings(max_examples=300, deadline=None)
def test_every_lr_below_the_limit_is_stable_and_every_one_above_it_is_not(
    c: float, beta1: float, beta2: float, dampening: float, share: float
) -> None:
    alpha = c / (1 - beta1)
    limit = largest_stable_lr(alpha, beta1, beta2, dampening)
    assert 0 < limit < math.inf
    assert spectral_radius(share * limit, alpha, beta1, beta2, dampening) < 1
    assert spectral_radius(limit, alpha, beta1, beta2, dampening) == pytest.approx(1, abs=1e-6)
    assert spectral_radius(limit / share, alpha, beta1, beta2, dampening) > 1


def test_the_limits_of_the_projects_notes() -> None:
    alpha = np.array([0.0, -0.05, -0.5, -0.9]) / 0.01
    assert largest_stable_lr(alpha, 0.99, 0.9) == pytest.approx([3.80, 4.00, 7.64, 39.8], abs=0.005)


def test_without_momentum_the_closed_form_of_the_notes_holds_until_c_is_minus_beta1() -> None:
    beta1 = 0.99
    for c in (0.9, 0.0, -0.5, -0.98):
        expected = 2 * (1 + beta1) / (1 + beta1 + 2 * c)
        assert largest_stable_lr(c / (1 - beta1), beta1, 0.0) == pytest.approx(expected, rel=1e-12)
    assert largest_stable_lr(-0.999 / (1 - beta1), beta1, 0.0) == pytest.approx(0.01 / 0.009, rel=1e-9)


def test_at_the_flip_an_eigenvalue_is_minus_one_and_at_the_rotation_a_pair_is_on_the_circle() -> None:
    flip = np.linalg.eigvals(iteration_matrix(flip_limit(-50.0, 0.99, 0.9), -50.0, 0.99, 0.9))
    assert np.abs(flip + 1).min() < 1e-9
    turn = np.linalg.eigvals(iteration_matrix(rotation_limit(-1.5, 0.5, 0.9), -1.5, 0.5, 0.9))
    pair = turn[np.abs(turn.imag) > 0.01]
    assert np.abs(pair) == pytest.approx([1, 1], rel=1e-9)


@given(beta1=BETAS, beta2=BETAS)
@settings(max_examples=60, deadline=None)
def test_the_widest_alpha_has_the_largest_limit_and_obeys_the_papers_bound(beta1: float, beta2: float) -> None:
    alpha, limit = widest(beta1, beta2)
    c = alpha * (1 - beta1)
    assert -1 < c < 0
    assert largest_stable_lr(alpha, beta1, beta2) == pytest.approx(limit, rel=1e-6)
    grid = np.linspace(-1.5, 1.5, 3001) / (1 - beta1)
    assert largest_stable_lr(grid, beta1, beta2).max() <= limit * (1 + 1e-9)


def test_the_papers_lower_bound_is_the_limit_of_a_long_memory_and_neither_needed_nor_enough_for_a_short_one() -> None:
    memory = np.array([1e2, 1e4, 1e6])
    beta1 = 1 - 1 / memory
    above, below = (largest_stable_lr(c * memory, beta1, 0.9) for c in (-0.8, -1.2))
    assert above == pytest.approx([3.8 / 0.2] * 3, rel=0.05)  # 2 (1 + beta2) / (1 + c): survives
    assert below[1] / below[2] == pytest.approx(100, rel=0.02)  # falls like 1 / memory: vanishes
    assert below[2] < 1e-6
    assert largest_stable_lr(-1.2 / 0.5, 0.5, 0.9) > 0  # not needed: c = -1.2 is stable
    assert largest_stable_lr(-0.95 / 0.01, 0.99, 0.9) < 0.01 * largest_stable_lr(0.0, 0.99, 0.9)  # not enough


@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.9])
def test_e_with_beta1_zero_and_alpha_beta2_is_nesterovs_momentum(beta2: float) -> None:
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    curvature = torch.tensor([1.0, 0.3, 0.01], dtype=torch.float64)
    parameter = torch.nn.Parameter(start.clone())
    nesterov = torch.optim.SGD([parameter], lr=0.3, momentum=beta2, nesterov=beta2 > 0)
    theta, m = start, torch.zeros(3).double()
    memory: reference.TwoBuffer | reference.OneBuffer = reference.OneBuffer(m)
    for _ in range(50):
        parameter.grad = curvature * parameter.detach()
        nesterov.step()
        theta, memory, m = reference.esgd(theta, curvature * theta, memory, m, lr=0.3, alpha=beta2, b1=0.0, b2=beta2)
        assert torch.allclose(theta, parameter.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("nu", "beta"), [(0.7, 0.999), (1.0, 0.9), (0.3, 0.5)])
def test_e_without_momentum_is_quasi_hyperbolic_momentum_with_nu_minus_c_over_beta1(nu: float, beta: float) -> None:
    curvature = torch.tensor([1.0, 0.03], dtype=torch.float64)
    theta = other = torch.ones(2, dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    memory: reference.TwoBuffer | reference.OneBuffer = reference.OneBuffer(zero)
    average = zero
    for _ in range(80):
        alpha = -nu * beta / (1 - beta)
        theta, memory, _ = reference.esgd(theta, curvature * theta, memory, zero, lr=0.4, alpha=alpha, b1=beta, b2=0.0)
        gradient = curvature * other
        average = beta * average + (1 - beta) * gradient
        other = other - 0.4 * ((1 - nu) * gradient + nu * average)
        assert torch.allclose(theta, other, rtol=1e-11, atol=1e-13)


@given(c=st.floats(-1.4, 1.4), beta1=st.floats(0.0, 0.99))
@settings(max_examples=60, deadline=None)
def test_the_adapted_gradient_never_opposes_the_gradient_iff_c_is_above_half_of_minus_one_plus_beta1(
    c: float, beta1: float
) -> None:
    edge = -(1 + beta1) / 2
    if abs(c - edge) < 1e-6:
        return
    response = frequency_response(np.linspace(0, np.pi, 2001), c / (1 - beta1), beta1)
    assert response[0] == pytest.approx(1)
    assert response[-1] == pytest.approx(1 + 2 * c / (1 + beta1))
    assert (response.real > 0).all() == (c > edge)


def test_the_response_is_what_the_reference_does_to_a_wave() -> None:
    omega, alpha, beta1 = 0.7, -20.0, 0.95
    memory: reference.TwoBuffer | reference.OneBuffer = reference.OneBuffer(torch.zeros(1, dtype=torch.complex128))
    for k in range(600):
        wave = torch.exp(torch.tensor([1j * omega * k], dtype=torch.complex128))
        adapted, memory = reference.explore(wave, memory, alpha, beta1)
    assert (adapted / wave).item() == pytest.approx(complex(frequency_response(omega, alpha, beta1)), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: largest_stable_lr(np.inf, 0.9, 0.9), r"alpha must be finite numbers in \(-inf, inf\), got inf"),
        (lambda: largest_stable_lr(0.0, 1.0, 0.9), "beta1 must be"),
        (lambda: spectral_radius(0.1, 0.0, 0.9, [-0.1, 0.5]), r"beta2 must be .* got -0.1"),
        (lambda: iteration_matrix(0.1, 0.0, 0.9, 0.9, 1.0), "dampening must be"),
        (lambda: iteration_matrix(np.nan, 0.0, 0.9, 0.9), "x must be"),
        (lambda: widest(0.9, 1.5), "beta2 must be"),
        (lambda: continuous_limit(np.nan, 0.9), "alpha must be"),
        (lambda: continuous_limit(0.0, 0.9, 1.0), "beta2 must be"),
    ],
)
def test_arguments_out_of_range_are_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_the_documented_cliffs_are_those_of_the_widest_alpha() -> None:
    text = " ".join((Path(__file__).parents[3] / "docs" / "analysis.md").read_text(encoding="utf-8").split())
    sentence = text[text.index("With a momentum of 0.9, c* is") + len("With a momentum of 0.9") :]
    pairs = re.findall(r"(-0\.\d+) for (?:beta1 = )?(\.\d+)", sentence)[:4]
    assert len(pairs) == 4
    for c, beta1 in pairs:
        alpha = widest(float(beta1), 0.9)[0]
        assert f"{alpha * (1 - float(beta1)):.3f}" == c
