"""The density of the eigenvalues: moments, nodes, smoothing, error bars; Lanczos with and without memory."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from landscape import curvature_cases as cases
from valleys.landscape.curvature import hvp
from valleys.landscape.curvature.density import Density, density, lanczos
from valleys.landscape.curvature.hvp import KINDS
from valleys.landscape.curvature.trace import trace


def integral(found: Density) -> float:
    return float(torch.trapezoid(found.values, found.grid))


def smooth(grid: Tensor, nodes: Tensor, sigma: float) -> Tensor:
    each = torch.exp(-((grid[:, None] - nodes) ** 2) / (2 * sigma**2)) / math.sqrt(2 * math.pi * sigma**2)
    return each.mean(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", cases.MODELS)
def test_moments_are_those_of_the_dense_matrix(name: str, kind: str) -> None:
    exact = torch.linalg.eigvalsh((cases.dense_hessian if kind == "hessian" else cases.dense_ggn)(name))
    result = density(cases.objective(name), kind=kind, steps=6, samples=12)
    for order in range(4):
        value, error = result.moment(order)
        assert abs(value - float((exact**order).mean())) <= 4 * error + 1e-14
    assert result.moment(0) == pytest.approx((1, 0), abs=1e-14)
    assert integral(result) == pytest.approx(1, abs=1e-7)
    assert bool((result.values >= 0).all())
    assert result.matvecs == 72
    assert [nodes.shape for nodes in result.nodes] == [weights.shape for weights in result.weights] == [(6,)] * 12


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_the_first_moment_is_hutchinsons_trace(reorthogonalize: bool) -> None:
    result = density(cases.objective("mlp"), steps=4, samples=7, seed=3, reorthogonalize=reorthogonalize)
    hutchinson = trace(cases.objective("mlp"), matvecs=7, seed=3)
    assert result.moment(1) == pytest.approx((hutchinson.value / 43, hutchinson.standard_error / 43), rel=1e-12)


def test_quadrature_is_exact_up_to_twice_the_steps() -> None:
    matrix = cases.rotated(torch.linspace(-1, 2, 30))
    start = torch.randn(30, dtype=torch.float64)
    diagonal, beside = lanczos(lambda v: matrix @ v, start, 4)
    nodes, vectors = torch.linalg.eigh(diagonal.diag() + beside.diag(1) + beside.diag(-1))
    unit = start / start.norm()
    for order in range(9):
        true = float(unit @ torch.linalg.matrix_power(matrix, order) @ unit)
        moment = float(vectors[0].square() @ nodes**order)
        if order < 8:
            assert moment == pytest.approx(true, rel=1e-12)
        else:
            assert abs(moment - true) > 1e-6


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_as_many_steps_as_different_eigenvalues_find_them_all(reorthogonalize: bool) -> None:
    matrix = cases.rotated([3.0] * 5 + [1.0] * 10 + [-2.0] * 15)
    exact, basis = torch.linalg.eigh(matrix)
    result = density(cases.quadratic(matrix), samples=3, steps=3, reorthogonalize=reorthogonalize)
    random = torch.Generator().manual_seed(0)
    for nodes, weights in zip(result.nodes, result.weights, strict=True):
        signs = torch.empty(30, dtype=torch.float64).bernoulli_(0.5, generator=random) * 2 - 1
        shares = (basis.T @ signs).square() / 30
        torch.testing.assert_close(nodes, torch.tensor([-2.0, 1, 3], dtype=torch.float64), rtol=0, atol=1e-10)
        true = torch.stack([shares[(exact - value).abs() < 1e-8].sum() for value in (-2, 1, 3)])
        torch.testing.assert_close(weights, true, rtol=0, atol=1e-10)


def test_lanczos_stops_where_its_space_ends() -> None:
    for n in (3, 30):
        result = density(cases.quadratic(cases.rotated([3.0, 1.0, -2.0] * (n // 3))), samples=4, steps=20)
        assert [len(nodes) for nodes in result.nodes] == [3] * 4
        assert result.matvecs == 12


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_diagonal_is_exact_for_signs(dtype: torch.dtype, reorthogonalize: bool) -> None:
    """Each eigenvalue has the weight 1 / n then; without orthogonality its copies share it."""
    exact = torch.cat([torch.logspace(-3, -1, 20, dtype=torch.float64), torch.tensor([1.0, 3.0, 10.0]).double()])
    steps = 23 if reorthogonalize else 120
    wide = cases.quadratic(exact.to(dtype).repeat(10))
    result = density(wide, steps=steps, samples=2, sigma=0.3, reorthogonalize=reorthogonalize)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(result.values, smooth(result.grid, exact, 0.3), rtol=0, atol=tolerance)
    assert float(result.standard_error.max()) < tolerance
    if reorthogonalize:
        assert all(len(nodes) <= 24 for nodes in result.nodes)
    else:
        assert min(len(nodes) for nodes in result.nodes) > 23  # the copies were there


def test_reorthogonalisation_leaves_no_copies() -> None:
    exact = torch.logspace(-6, 2, 60, dtype=torch.float64)
    start = torch.ones(60, dtype=torch.float64)
    for keep in (True, False):
        diagonal, beside = lanczos(lambda v: exact * v, start, 60, reorthogonalize=keep)
        values = torch.linalg.eigvalsh(diagonal.diag() + beside.diag(1) + beside.diag(-1))
        error = float((values - exact).abs().max()) if len(values) == 60 else math.inf
        assert (error < 1e-11) == keep


def test_the_error_bar_is_calibrated() -> None:
    matrix = cases.rotated([20.0, -8.0, 5.0, *(0.5 - 0.1 * i for i in range(12))])
    objective, true = cases.quadratic(matrix), float(matrix.trace()) / 15
    exact = torch.linalg.eigvalsh(matrix)
    runs = [density(objective, samples=10, steps=12, sigma=2.0, points=64, seed=seed) for seed in range(30)]
    moments = torch.tensor([run.moment(1) for run in runs])
    errors = (moments[:, 0] - true) / moments[:, 1]
    assert 0.7 < float(errors.square().mean().sqrt()) < 1.5
    # At the peak of the bulk, on grids that may differ a little.
    places = [int((run.grid - 0.0).abs().argmin()) for run in runs]
    scores = torch.tensor(
        [
            float((run.values - smooth(run.grid, exact, 2.0))[place] / run.standard_error[place])
            for run, place in zip(runs, places, strict=True)
        ]
    )
    assert 0.7 < float(scores.square().mean().sqrt()) < 1.5
    assert abs(float(scores.mean())) < 0.6


def test_the_band_is_the_standard_error_over_samples() -> None:
    result = density(cases.objective("mlp"), steps=5, samples=4)
    each = torch.stack(
        [
            (torch.exp(-((result.grid[:, None] - nodes) ** 2) / 2 / result.sigma**2) * weights).sum(1)
            for nodes, weights in zip(result.nodes, result.weights, strict=True)
        ]
    ) / (result.sigma * math.sqrt(2 * math.pi))
    torch.testing.assert_close(result.values, each.mean(0), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(result.standard_error, each.std(0) / 2, rtol=1e-10, atol=1e-12)


def test_sum_is_the_mean_times_the_examples() -> None:
    mean, total = (density(cases.objective("mlp", reduction), steps=8, samples=2) for reduction in ("mean", "sum"))
    for one, twelve in zip(mean.nodes, total.nodes, strict=True):
        torch.testing.assert_close(twelve, 12 * one, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(total.values * 12, mean.values, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-12])
def test_a_single_eigenvalue(value: float) -> None:
    result = density(cases.quadratic(torch.full((9,), value, dtype=torch.float64)), samples=2, steps=5)
    assert integral(result) == pytest.approx(1, abs=1e-7)
    assert float(result.grid[result.values.argmax()]) == pytest.approx(value, abs=0.02 * abs(value) or 1e-2)
    assert result.matvecs == 2


def test_the_default_width_is_a_hundredth_of_the_range() -> None:
    result = density(cases.quadratic(torch.linspace(-1, 4, 40, dtype=torch.float64)), samples=2, steps=40)
    assert result.sigma == pytest.approx(0.05, rel=1e-6)
    assert result.grid.shape == (1024,)
    assert float(result.grid[0]) == pytest.approx(-1.3, rel=1e-6)
    assert float(result.grid[-1]) == pytest.approx(4.3, rel=1e-6)


def test_progress_counts_the_products() -> None:
    calls: list[tuple[int, int]] = []
    result = density(cases.objective("mlp"), steps=5, samples=3, progress=lambda *call: calls.append(call))
    assert calls == [*((count, 15) for count in range(1, 16)), (15, 15)]
    calls.clear()
    result = density(
        cases.quadratic(torch.ones(9)), steps=5, samples=3, progress=lambda *call: calls.append(call)
    )  # each run ends after a step
    assert calls == [(1, 15), (2, 11), (3, 7), (3, 3)]
    assert result.matvecs == 3


def test_the_seed_decides() -> None:
    first, again, other = (density(cases.objective("mlp"), steps=4, samples=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "fisher"}, "kind 'fisher'"),
        ({"steps": 0}, "steps 0: choose 1 or more"),
        ({"samples": 1}, "samples 1: choose 2 or more"),
        ({"points": 1}, "points 1: choose 2 or more"),
        ({"sigma": 0.0}, r"sigma 0.0: choose a width above 0"),
        ({"sigma": math.inf}, r"sigma inf: choose a width above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        density(cases.objective("mlp"), **arguments)


def test_a_grid_too_coarse_for_the_width_is_refused_and_the_remedy_works() -> None:
    objective = cases.quadratic(torch.linspace(0, 1, 20, dtype=torch.float64))
    # The width divides almost evenly: which side of 1013 it falls on is the processor's last bit.
    with pytest.raises(ValueError, match=r"or points to 101[34]$") as caught:
        density(objective, steps=20, samples=2, sigma=1e-3, points=1000)
    assert "would miss eigenvalues" in str(caught.value)
    result = density(objective, steps=20, samples=2, sigma=1e-3, points=int(str(caught.value)[-4:]))
    assert integral(result) == pytest.approx(1, abs=1e-7)


def test_a_zero_start_or_moment_order_is_refused() -> None:
    result = density(cases.objective("mlp"), steps=2, samples=2)
    with pytest.raises(ValueError, match="order -1: choose 0 or more"):
        result.moment(-1)


def test_vectors_that_do_not_fit_are_refused_and_the_remedy_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hvp, "_memory", lambda device: 5 * 43 * 8.0)
    objective = cases.objective("mlp")
    density(objective, steps=5, samples=2)
    with pytest.raises(ValueError, match=r"6 vectors .*: fewer steps, or reorthogonalize=False"):
        density(objective, steps=6, samples=2)
    assert density(objective, steps=6, samples=2, reorthogonalize=False).matvecs == 12
