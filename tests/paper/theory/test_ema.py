"""The weights of nested moving averages against the averages themselves and against scipy's distribution."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from valleys import reference
from valleys.paper.theory import ema_age, ema_weights, nested_weights


@given(n=st.integers(1, 6), beta=st.floats(0.0, 0.995), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_weights_are_those_of_the_averages_run_one_inside_another(n: int, beta: float, seed: int) -> None:
    inputs = np.random.default_rng(seed).standard_normal(60)
    value = np.zeros(n)
    for x in inputs:
        for level in range(n):
            value[level] = beta * value[level] + (1 - beta) * (x if level == 0 else value[level - 1])
    assert ema_weights(n, beta, 60) @ inputs[::-1] == pytest.approx(value[-1], rel=1e-10, abs=1e-13)


@pytest.mark.parametrize(("n", "beta"), [(1, 0.9), (2, 0.99), (3, 0.5), (7, 0.8), (1, 0.0), (3, 0.0)])
def test_all_weights_together_are_one_and_their_ages_have_the_stated_moments(n: int, beta: float) -> None:
    weights = ema_weights(n, beta, 8000)
    ages = np.arange(8000)
    mean, deviation = ema_age(n, beta)
    assert weights.sum() == pytest.approx(1, rel=1e-12)
    assert weights @ ages == pytest.approx(mean, rel=1e-10)
    assert np.sqrt(weights @ (ages - mean) ** 2) == pytest.approx(deviation, rel=1e-9)


def test_neither_underflow_nor_overflow_where_powers_and_binomials_have_both() -> None:
    from scipy.stats import nbinom

    n, beta, steps = 400, 0.9, 6000  # (1 - beta)^n is 1e-400, the binomials reach 1e600
    weights = ema_weights(n, beta, steps)
    assert np.isfinite(weights).all()
    assert weights[3500:3700] == pytest.approx(nbinom.pmf(np.arange(3500, 3700), n, 1 - beta), rel=1e-8)


def test_equal_betas_nested_are_the_closed_form_and_the_order_does_not_matter() -> None:
    assert nested_weights([0.9, 0.9, 0.9], 200) == pytest.approx(ema_weights(3, 0.9, 200), rel=1e-10)
    assert nested_weights([0.99, 0.9, 0.3], 200) == pytest.approx(nested_weights([0.3, 0.99, 0.9], 200), rel=1e-10)


def test_e_in_a_momentum_weighs_gradient_differences_with_two_nested_averages() -> None:
    beta1, beta2, steps = 0.8, 0.6, 25
    gradients = torch.randn(steps, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    m = plain = torch.zeros(1, dtype=torch.float64)
    memory: reference.TwoBuffer | reference.OneBuffer = reference.TwoBuffer(m, m)
    for g in gradients:
        _, memory, m = reference.esgd(m, g, memory, m, lr=0.0, alpha=3.0, b1=beta1, b2=beta2)
        plain = beta2 * plain + g
    differences = torch.diff(gradients[:, 0], prepend=torch.zeros(1).double()).numpy()[::-1]
    expected = 3.0 * (nested_weights([beta1, beta2], steps) @ differences) / (1 - beta2)
    assert (m - plain).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ema_weights(0, 0.9, 3), "n must be an integer of at least 1, got 0"),
        (lambda: ema_weights(True, 0.9, 3), "n must be an integer"),
        (lambda: ema_weights(1, 1.0, 3), r"beta must be finite numbers in \[0, 1\), got 1"),
        (lambda: ema_weights(1, 0.9, 0), "steps must be an integer of at least 1"),
        (lambda: ema_age(1, -0.1), "beta must be"),
        (lambda: nested_weights([], 3), "betas must be .* an empty array"),
        (lambda: nested_weights([0.5, float("nan")], 3), "betas must be"),
    ],
)
def test_arguments_out_of_range_are_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
