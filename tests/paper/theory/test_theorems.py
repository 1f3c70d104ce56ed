"""The rows of Alg. 1 against the reference, the fit against known powers, and the rates that the theorems speak of."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from valleys import reference
from valleys.paper.theory import Setting, mean_squared_gradient, regret
from valleys.paper.theory.theorems import State, fit_rate, vanilla_step


def test_every_row_is_the_references_alto_vanilla() -> None:
    random = np.random.default_rng(0)
    rows, setting = 5, Setting(alpha=-50.0, beta1=0.98, beta2=0.85, beta3=0.97, eps1=1e-3, eps2=1e-2, eps3=1e-1)
    theta, zero = random.standard_normal((rows, 4)), np.zeros((rows, 4))
    theta[2] = 0  # a zero parameter: no length to adapt
    state, lrs = State(zero, zero, zero), random.uniform(0.01, 0.3, (rows, 1))
    layers = [torch.from_numpy(row.copy()) for row in theta]
    memories: list[reference.TwoBuffer | reference.OneBuffer] = [
        reference.TwoBuffer(torch.zeros(4).double(), torch.zeros(4).double()) for _ in layers
    ]
    moments = [reference.zeros(layer) for layer in layers]
    for k in range(12):
        g = random.standard_normal((rows, 4))
        g[1] *= k % 3  # a zero gradient now and then: the ratio is at most 1
        theta, state = vanilla_step(theta, g, state, lrs, setting)
        for i in range(rows):
            layers[i], memory, moments[i] = reference.alto_vanilla(
                layers[i], torch.from_numpy(g[i]), memories[i], moments[i], lr=float(lrs[i, 0]), alpha=-50.0, b1=0.98,
                b2=0.85, b3=0.97, lam=0.0, eps1=1e-3, eps2=1e-2, eps3=1e-1,
            )  # fmt: skip
            assert memory is not None
            memories[i] = memory
            assert theta[i] == pytest.approx(layers[i].numpy(), rel=1e-10, abs=1e-13)


def test_an_alpha_of_its_own_replaces_the_settings() -> None:
    theta, g, zero = np.ones((1, 3)), np.array([[1.0, 2.0, 3.0]]), np.zeros((1, 3))
    state, weak, strong = State(np.array([[3.0, 0.0, 1.0]]), zero, zero), Setting(eps1=1.0), Setting(-50.0, eps1=1.0)
    own, _ = vanilla_step(theta, g, state, 0.1, weak, -50.0)
    assert own == pytest.approx(vanilla_step(theta, g, state, 0.1, strong)[0])
    assert np.abs(own - vanilla_step(theta, g, state, 0.1, weak)[0]).max() > 1e-3


def test_the_fit_finds_a_power_and_its_students_interval() -> None:
    from scipy.stats import linregress, ttest_1samp

    horizons = [100, 200, 400, 1600]
    noise = np.random.default_rng(1).normal(0, 0.1, (4, 6))
    values = np.power(np.array(horizons, float)[:, None], -0.7) * np.exp(noise)
    rate = fit_rate(horizons, values)
    slopes = [linregress(np.log(horizons), np.log(column)).slope for column in values.T]
    assert rate.exponent == pytest.approx(np.mean(slopes))
    low, high = ttest_1samp(slopes, 0).confidence_interval(0.95)
    assert rate.interval == pytest.approx((low, high))


def test_theorem_1_exact_gradients_and_epsilons_of_one_have_the_rate_of_the_theorem() -> None:
    rate = mean_squared_gradient([200, 800], lr=0.3, setting=Setting(eps1=1.0, eps2=1.0))
    assert rate.exponent == pytest.approx(-1, abs=0.02)


def test_theorem_1_a_batch_that_grows_with_the_run_keeps_the_rate_and_a_fixed_one_has_half_of_it() -> None:
    setting = Setting(eps1=1.0, eps2=1.0)
    growing = mean_squared_gradient([200, 800], noise=1.0, growing_batch=True, setting=setting, replicates=4)
    fixed = mean_squared_gradient([200, 800], noise=1.0, setting=setting, replicates=4)
    assert growing.exponent < -0.9
    assert -0.75 < fixed.exponent < -0.4
    assert growing.values.shape == (2, 4)


def test_theorem_1_normalised_steps_fall_short_of_it_with_the_papers_epsilons() -> None:
    best = mean_squared_gradient([250, 1000], replicates=4)
    assert -0.9 < best.exponent < -0.65


@pytest.mark.parametrize("game", ["quadratic", "linear"])
def test_theorem_2_the_regret_grows_like_the_root_on_losses_without_a_plan(game: str) -> None:
    rate = regret(game, [500, 2000, 4000])
    assert rate.exponent == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("alpha", [-5.0, 0.0, 50.0])
def test_theorem_2_rare_large_gradients_make_the_regret_linear(alpha: float) -> None:
    rate = regret("rare", [1000, 4000], setting=Setting(alpha=alpha), replicates=3)
    assert rate.exponent > 0.9
    # Per step a good part of what the worst fixed point loses: slope .51 of the mean loss, times the box's width 2.
    assert (rate.values[-1] / 4000 > 0.5).all()


def test_the_regret_is_against_the_best_point_of_the_box() -> None:
    # A learning rate of almost nothing: theta stays at 2, and the regret is a sum that can be written down.
    rate = regret("rare", [1000, 2000], lr0=1e-12, replicates=2)
    mean = (150 - 99) / 100
    assert rate.values == pytest.approx(np.array([[1000.0], [2000.0]]) * mean * np.ones((1, 2)), rel=1e-6)
    z = np.random.default_rng(5)
    z.integers(0, 100, (2, 20))
    draws = np.stack([z.uniform(1, 3, (2, 20)) for _ in range(60)])
    best = draws.mean(axis=0)
    expected = [
        0.5 * (((2 - draws[:T]) ** 2) - (draws[:T].mean(axis=0) - draws[:T]) ** 2).sum(axis=(0, 2)) for T in (30, 60)
    ]
    assert best.min() > 1
    assert regret("quadratic", [30, 60], lr0=1e-12, replicates=2, seed=5).values == pytest.approx(np.array(expected))


def test_the_seed_decides_everything() -> None:
    first, again, other = (regret("linear", [50, 100], seed=seed, replicates=2).values for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Setting(beta3=1.0), "beta3 must be"),
        (lambda: Setting(eps1=0.0), "eps1 must be"),
        (lambda: fit_rate([10, 20], np.array([[1.0, 1.0], [0.0, 1.0]])), "values must be"),
        (lambda: fit_rate([10, 10], np.ones((2, 2))), "two or more of both"),
        (lambda: fit_rate([10, 20], np.ones((2, 1))), "two or more of both"),
        (lambda: mean_squared_gradient([10, 20], lr="worst"), "lr 'worst': choose best, root"),
        (lambda: mean_squared_gradient([10, 20], lr=-1.0), "lr must be"),
        (lambda: mean_squared_gradient([0, 20]), "horizons must be"),
        (lambda: mean_squared_gradient([10, 20], noise=-1.0), "noise must be"),
        (lambda: mean_squared_gradient([10, 20], replicates=1), "replicates must be"),
        (lambda: regret("chess", [10, 20]), "game 'chess': choose one of quadratic"),
        (lambda: regret("linear", [10, 20], lr0=math.inf), "lr0 must be"),
        (lambda: regret("linear", [10, 20], setting=Setting(beta2=0.99, beta3=0.5)), "beta2.2 / beta3 must be below 1"),
    ],
)
def test_arguments_out_of_range_are_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
