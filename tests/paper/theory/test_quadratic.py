"""The noisy quadratic model: every way to the loss against the recursion, and that against the reference."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from valleys import reference
from valleys.paper.theory import NoisyQuadratic
from valleys.paper.theory.checks import Floats
from valleys.paper.theory.quadratic import Hyper, final_loss, loss_after, steps_to
from valleys.paper.theory.search import SCHEDULES
from valleys.paper.theory.stability import iteration_matrix

SETTINGS = (
    Hyper(0.5),
    Hyper(0.3, beta2=0.9),
    Hyper(0.8, c=-0.75, beta1=0.98, beta2=0.3),
    Hyper(0.1, c=0.495, beta1=0.01, beta2=0.95),
    Hyper(2.5, c=-0.95, beta1=0.99),
)
TOGETHER = Hyper(*(np.array(column, dtype=float) for column in zip(*SETTINGS, strict=True)))
SMALL = NoisyQuadratic(curvatures=[1.0, 0.2, 0.01], noise=[0.5, 0.1, 0.3], start=[1.0, -2.0, 3.0])


def moments(model: NoisyQuadratic, hyper: Hyper, batch: float, lrs: Floats) -> tuple[Floats, Floats]:
    """Mean, (d, 3), and second moment, (d, 3, 3), of (theta, m / h, s / h), by the recursion itself."""
    lr, c, b1, b2 = (float(np.asarray(value)) for value in hyper)
    variance = np.asarray(model.noise) / (batch * model.h**2)
    mean = np.zeros((model.h.size, 3))
    mean[:, 0] = np.asarray(model.start)
    second = mean[:, :, None] * mean[:, None, :]
    for factor in lrs:
        x = lr * factor * model.h
        A = iteration_matrix(x, c / (1 - b1), b1, b2)
        b = np.stack([-x * (1 + c), np.full_like(x, 1 + c), np.full_like(x, 1 - b1)], axis=-1)
        mean = np.einsum("dij,dj->di", A, mean)
        second = A @ second @ A.transpose(0, 2, 1) + variance[:, None, None] * b[:, :, None] * b[:, None, :]
    return mean, second


def test_the_moments_of_one_curvature_are_those_by_hand() -> None:
    _, second = moments(NoisyQuadratic(curvatures=[1.0]), Hyper(lr=0.5), 1, np.ones(2))
    assert second[0, 0, 0] == 0.5**4 + 0.25 * (0.25 + 1)


def by_moments(model: NoisyQuadratic, hyper: Hyper, batch: float, schedule: Floats) -> float:
    second = moments(model, hyper, batch, schedule)[1][:, 0, 0]
    return float(0.5 * model.h @ second / model.first_loss)


def of_reference(
    model: NoisyQuadratic, hyper: Hyper, batch: float, schedule: Floats, runs: int, seed: int = 0
) -> tuple[Floats, Floats]:
    """Theta of many runs after the last step, (runs, d), and their s / h."""
    generator = torch.Generator().manual_seed(seed)
    h, v = torch.from_numpy(model.h), torch.from_numpy(np.asarray(model.noise, dtype=float))
    theta = torch.from_numpy(np.asarray(model.start, dtype=float)).expand(runs, -1)
    memory: reference.TwoBuffer | reference.OneBuffer = reference.OneBuffer(torch.zeros(runs, len(h)).double())
    m = torch.zeros(runs, len(h)).double()
    lr, c, b1, b2 = (float(np.asarray(value)) for value in hyper)
    for factor in schedule:
        noise = torch.randn(runs, len(h), dtype=torch.float64, generator=generator)
        g = h * theta + noise * (v / batch).sqrt()
        theta, memory, m = reference.esgd(theta, g, memory, m, lr=lr * float(factor), alpha=c / (1 - b1), b1=b1, b2=b2)
    assert isinstance(memory, reference.OneBuffer)
    return theta.numpy(), (memory.s / h).numpy()


@pytest.mark.parametrize("hyper", SETTINGS[:4])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_without_noise_the_recursion_is_the_references_run(hyper: Hyper, schedule: str) -> None:
    quiet = NoisyQuadratic(curvatures=SMALL.curvatures, noise=[0.0] * 3, start=SMALL.start)
    factors = SCHEDULES[schedule](37)
    theta, s = of_reference(quiet, hyper, 1, factors, runs=1)
    mean, second = moments(quiet, hyper, 1, factors)
    assert mean[:, 0] == pytest.approx(theta[0], rel=1e-11, abs=1e-13)
    assert mean[:, 2] == pytest.approx(s[0], rel=1e-11, abs=1e-13)
    assert second == pytest.approx(mean[:, :, None] * mean[:, None, :], rel=1e-10, abs=1e-14)
    loss = 0.5 * (quiet.h * theta[0] ** 2).sum() / quiet.first_loss
    assert final_loss(quiet, hyper, 1, factors) == pytest.approx([loss], rel=1e-10)


@pytest.mark.parametrize("hyper", SETTINGS[:4])
def test_with_noise_the_recursion_is_the_mean_over_many_runs_of_the_reference(hyper: Hyper) -> None:
    runs, factors = 20_000, SCHEDULES["linear"](30)
    theta, s = of_reference(SMALL, hyper, 4, factors, runs)
    mean, second = moments(SMALL, hyper, 4, factors)
    for measured, exact in ((theta, mean[:, 0]), (theta**2, second[:, 0, 0]), (theta * s, second[:, 0, 2])):
        error = measured.std(axis=0, ddof=1) / math.sqrt(runs)
        assert np.abs(measured.mean(axis=0) - exact).max() > 0
        assert (np.abs(measured.mean(axis=0) - exact) < 4.5 * error).all()  # 36 comparisons: by chance 1 in 4,000


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 64, 301])
def test_powers_and_the_backward_row_give_the_recursions_loss(steps: int) -> None:
    expected = [by_moments(SMALL, hyper, 10, np.ones(steps)) for hyper in SETTINGS] if steps else [1.0] * 5
    assert loss_after(SMALL, TOGETHER, 10, steps) == pytest.approx(expected, rel=1e-9)
    if steps:
        assert final_loss(SMALL, TOGETHER, 10, np.ones(steps)) == pytest.approx(expected, rel=1e-9)


@given(
    lr=st.floats(0.01, 1.0),
    c=st.floats(-0.9, 0.9),
    beta1=st.floats(0, 0.95),
    beta2=st.floats(0, 0.95),
    factors=st.lists(st.floats(0, 1), min_size=1, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_any_schedule_read_backwards_gives_the_recursions_loss(
    lr: float, c: float, beta1: float, beta2: float, factors: list[float]
) -> None:
    hyper = Hyper(lr, c, beta1, beta2)
    expected = by_moments(SMALL, hyper, 3, np.array(factors))
    assert final_loss(SMALL, hyper, 3, factors) == pytest.approx([expected], rel=1e-9)


def test_each_setting_may_have_its_own_schedule() -> None:
    schedules = np.random.default_rng(0).random((5, 20))
    expected = [by_moments(SMALL, hyper, 3, row) for hyper, row in zip(SETTINGS, schedules, strict=True)]
    assert final_loss(SMALL, TOGETHER, 3, schedules) == pytest.approx(expected, rel=1e-9)


def test_descent_on_one_curvature_is_the_geometric_series() -> None:
    one = NoisyQuadratic(curvatures=[2.0], noise=[3.0], start=[1.0])
    lr, batch, steps = 0.3, 7, 25
    q = (1 - 2 * lr) ** 2
    expected = q**steps + lr**2 * 3 / batch * (1 - q**steps) / (1 - q)
    assert loss_after(one, Hyper(lr), batch, steps) == pytest.approx([expected], rel=1e-12)


def test_the_noise_counts_by_its_batch_and_not_by_the_size_of_the_start() -> None:
    far = NoisyQuadratic(curvatures=SMALL.curvatures, noise=SMALL.noise, start=[10.0, -20.0, 30.0])
    near, other = (loss_after(model, SETTINGS[2], 10, 200).item() * model.first_loss for model in (SMALL, far))
    quiet = NoisyQuadratic(curvatures=SMALL.curvatures, noise=[0.0] * 3, start=SMALL.start)
    floor = loss_after(quiet, SETTINGS[2], 10, 200).item() * quiet.first_loss
    assert other - 100 * floor == pytest.approx(near - floor, rel=1e-6)
    assert loss_after(SMALL, SETTINGS[2], 20, 200).item() * SMALL.first_loss - floor == pytest.approx(
        (near - floor) / 2, rel=1e-9
    )


def test_steps_to_is_the_first_crossing_of_the_curve_even_where_the_loss_swings() -> None:
    one = NoisyQuadratic(curvatures=[1.0], noise=[0.0])
    hyper = Hyper(np.array([0.1, 0.5, 1e-9]), beta2=0.97)  # swings below the target and back above it
    curve = np.stack([loss_after(one, hyper, 1, steps) for steps in range(401)], axis=1)
    assert (np.diff(curve[1]) > 0).any()
    steps = steps_to(one, hyper, 1, 0.05, 400)
    for row, step in zip(curve[:2], steps[:2], strict=True):
        assert step == np.flatnonzero(row <= 0.05)[0]
        assert (row[int(step) :] > 0.05).any()
    assert steps[2] == math.inf
    part = steps_to(one, hyper, 1, 0.05, 400, fraction=True)
    assert (np.ceil(part[:2]) == steps[:2]).all()
    first = int(steps[0])
    between = np.interp(part[0], [first - 1, first], np.log(curve[0, first - 1 : first + 1]))
    assert between == pytest.approx(math.log(0.05), rel=1e-9)


def test_the_limit_itself_still_counts() -> None:
    steps = steps_to(NoisyQuadratic(), Hyper(1.5), 1e5, 0.01, 1000)
    assert steps_to(NoisyQuadratic(), Hyper(1.5), 1e5, 0.01, int(steps[0])) == steps
    assert steps_to(NoisyQuadratic(), Hyper(1.5), 1e5, 0.01, int(steps[0]) - 1) == [math.inf]


def test_a_run_that_explodes_has_an_infinite_loss_and_no_warning() -> None:
    assert loss_after(SMALL, Hyper(50.0), 1, 5000) == [math.inf]
    assert final_loss(SMALL, Hyper([50.0, 0.1]), 1, np.ones(5000)).tolist()[0] == math.inf
    assert steps_to(SMALL, Hyper(50.0), 1, 0.01, 5000) == [math.inf]


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_schedules_begin_at_one_and_never_rise(name: str) -> None:
    factors = SCHEDULES[name](100)
    assert factors.shape == (100,)
    assert factors[0] == 1
    assert (np.diff(factors) <= 0).all()
    assert (factors > 0).all()


def test_schedules_are_what_their_names_say() -> None:
    assert SCHEDULES["linear"](4).tolist() == [1.0, 0.75, 0.5, 0.25]
    assert SCHEDULES["cosine"](4) == pytest.approx([1, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)])
    assert SCHEDULES["quarters"](8) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: NoisyQuadratic(curvatures=[1.0, 0.0]), r"curvatures must be finite numbers in \(0, inf\), got 0"),
        (lambda: NoisyQuadratic(curvatures=[1.0], noise=[-1.0]), "noise must be"),
        (lambda: NoisyQuadratic(curvatures=[1.0], noise=[1.0, 2.0]), r"noise has shape \(2,\)"),
        (lambda: NoisyQuadratic(curvatures=[1.0], start=[0.0]), "start: all zero"),
        (lambda: loss_after(SMALL, Hyper(0.0), 1, 3), "lr must be"),
        (lambda: loss_after(SMALL, Hyper(0.1, beta1=1.0), 1, 3), "beta1 must be"),
        (lambda: loss_after(SMALL, Hyper(0.1, c=math.nan), 1, 3), "c must be"),
        (lambda: loss_after(SMALL, Hyper([[0.1]]), 1, 3), r"hyper broadcasts to shape \(1, 1\)"),
        (lambda: loss_after(SMALL, Hyper(0.1), 0, 3), "batch must be"),
        (lambda: loss_after(SMALL, Hyper(0.1), 1, -1), "steps must be"),
        (lambda: final_loss(SMALL, Hyper(0.1), 0, [1.0]), "batch must be"),
        (lambda: final_loss(SMALL, Hyper(0.1), 1, []), "schedule must be .* an empty array"),
        (lambda: steps_to(SMALL, Hyper(0.1), 1, 1.0, 10), "target must be"),
        (lambda: steps_to(SMALL, Hyper(0.1), 1, 0.1, 0), "limit must be"),
    ],
)
def test_arguments_out_of_range_are_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
