"""The searches: known optima, nested families, the numbers of the project's notes, and what decay does to strong E."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from valleys.paper.theory import FAMILIES, STRONG, Family, NoisyQuadratic, fewest_steps, shortest_horizon
from valleys.paper.theory.quadratic import Hyper, final_loss, loss_after, steps_to
from valleys.paper.theory.search import SCHEDULES, best_for_horizon

SGD, MOMENTUM, LARGE, SMALL, FREE, ALONE = FAMILIES
MODEL = NoisyQuadratic()


@pytest.mark.parametrize(
    ("family", "batch", "published"),
    [(SGD, 1e5, 24), (SGD, 1000, 32), (SGD, 100, 104), (MOMENTUM, 100, 82), (SMALL, 100, 66), (FREE, 100, 51)],
)
def test_the_notes_steps_are_found_again(family: Family, batch: float, published: int) -> None:
    best = fewest_steps(MODEL, family, batch, limit=300, budget=0.5)
    assert published * 0.97 <= best.value <= published * 1.02
    hyper = Hyper(best.lr, best.c, best.beta1, best.beta2)
    assert steps_to(MODEL, hyper, batch, 0.01, 300) == [best.value]


def test_one_curvature_without_noise_is_solved_in_one_step() -> None:
    one = NoisyQuadratic(curvatures=[0.5], noise=[0.0])
    best = best_for_horizon(one, SGD, 1, 1)
    assert best.lr == pytest.approx(2.0, rel=0.02)
    assert best.value < 1e-3
    assert fewest_steps(one, SGD, 1, limit=50).value == 1


def test_descent_with_noise_finds_the_lr_of_a_fine_grid() -> None:
    one = NoisyQuadratic(curvatures=[1.0], noise=[1.0])
    grid = np.geomspace(0.01, 1.9, 4000)
    losses = loss_after(one, Hyper(grid), 10, 20)
    best = best_for_horizon(one, SGD, 10, 20)
    assert best.value == pytest.approx(losses.min(), rel=1e-3)
    assert best.lr == pytest.approx(grid[losses.argmin()], rel=0.05)


def test_what_is_fixed_stays_fixed_and_what_is_found_has_the_stated_value() -> None:
    best = best_for_horizon(MODEL, LARGE, 100, 40, "cosine", budget=0.2)
    assert (best.c, best.beta1) == (-0.05, 0.99)
    assert best.beta2 >= 0
    hyper = Hyper(best.lr, best.c, best.beta1, best.beta2)
    assert final_loss(MODEL, hyper, 100, SCHEDULES["cosine"](40)) == pytest.approx([best.value])
    assert best_for_horizon(MODEL, SGD, 100, 40, budget=0.2).beta2 == 0
    strong = best_for_horizon(MODEL, STRONG, 100, 40, budget=0.2)
    assert strong.c == -0.75
    assert strong.beta1 == pytest.approx(0.9)
    assert strong.evaluations == pytest.approx(0.2 * 384 + 3 * 64, abs=2)


def test_the_seed_decides_everything() -> None:
    first, again, other = (best_for_horizon(MODEL, FREE, 100, 30, seed=seed, budget=0.1) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_start_is_tried() -> None:
    good = best_for_horizon(MODEL, FREE, 100, 60, seed=1)
    poor = best_for_horizon(MODEL, FREE, 100, 60, seed=2, budget=0.03)
    better = best_for_horizon(MODEL, FREE, 100, 60, seed=2, budget=0.03, start=good)
    assert poor.value > better.value
    assert better.value <= good.value * (1 + 1e-9)


def test_an_out_of_reach_target_says_so() -> None:
    best = fewest_steps(MODEL, SGD, 1, limit=30, budget=0.1)
    assert best.value == math.inf
    assert math.isfinite(best.lr)


def test_strong_e_halves_the_steps_at_a_constant_lr_and_loses_with_a_decaying_one() -> None:
    constant = {
        family.name: fewest_steps(MODEL, family, 30, limit=500, budget=0.4).value for family in (MOMENTUM, FREE)
    }
    assert constant[FREE.name] < 0.6 * constant[MOMENTUM.name]
    cosine = {
        family.name: shortest_horizon(MODEL, family, 30, "cosine", guess=60, budget=0.15)[0]
        for family in (MOMENTUM, FREE, STRONG)
    }
    assert cosine[MOMENTUM.name] < 0.5 * constant[FREE.name]
    assert cosine[STRONG.name] > 1.05 * cosine[MOMENTUM.name]
    assert cosine[FREE.name] > 0.85 * cosine[MOMENTUM.name]


def test_the_shortest_horizon_with_a_constant_lr_is_the_fewest_steps() -> None:
    steps, best = shortest_horizon(MODEL, SGD, 100, "constant", guess=70, budget=0.1)
    assert steps == pytest.approx(104, abs=3)
    assert best.value <= 0.01
    from_above, _ = shortest_horizon(MODEL, SGD, 100, "constant", guess=150, budget=0.1)
    assert from_above == pytest.approx(104, abs=3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: best_for_horizon(MODEL, SGD, 1, 10, "triangle"), "schedule 'triangle': choose one of constant"),
        (lambda: best_for_horizon(MODEL, SGD, 1, 0), "steps must be"),
        (lambda: best_for_horizon(MODEL, SGD, 1, 10, budget=0.0), "budget must be"),
        (lambda: fewest_steps(MODEL, SGD, 1, limit=0), "limit must be"),
        (lambda: fewest_steps(MODEL, STRONG, 1), "use shortest_horizon"),
        (lambda: fewest_steps(MODEL, SGD, 1, target=2.0), "target must be"),
        (lambda: shortest_horizon(MODEL, SGD, 1, "linear", target=0.0), "target must be"),
        (lambda: shortest_horizon(MODEL, SGD, 1, "linear", guess=0), "guess must be"),
        (lambda: fewest_steps(MODEL, replace(SGD, beta1=1.5), 1, limit=9), "beta1 must be"),
    ],
)
def test_arguments_out_of_range_are_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
