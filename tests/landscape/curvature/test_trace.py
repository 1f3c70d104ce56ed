"""The trace: unbiased, its error bar calibrated, exact where it must be."""

import math
from typing import Any

import pytest
import torch

from landscape import curvature_cases as cases
from valleys.landscape.curvature import hvp
from valleys.landscape.curvature.hvp import KINDS, Curvature
from valleys.landscape.curvature.trace import METHODS, Estimate, _range, rademacher, trace

SPECTRUM = [20.0, -8.0, 5.0, *(0.5 - 0.1 * i for i in range(12))]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_the_dense_trace_lies_within_the_error_bars(method: str, kind: str, reduction: str) -> None:
    dense = cases.dense_hessian if kind == "hessian" else cases.dense_ggn
    estimate = trace(cases.objective("mlp", reduction), kind=kind, method=method, matvecs=60)
    true = float(dense("mlp", reduction).trace())
    assert abs(estimate.value - true) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.2 * true


@pytest.mark.parametrize("method", METHODS)
def test_unbiased_with_a_calibrated_error_bar(method: str) -> None:
    matrix = cases.rotated(SPECTRUM)
    objective, true = cases.quadratic(matrix), float(matrix.trace())
    objective.parameters[0].data.zero_()
    estimates = [trace(objective, method=method, matvecs=24, seed=seed) for seed in range(100)]
    values = torch.tensor([one.value for one in estimates])
    errors = torch.tensor([one.standard_error for one in estimates])
    spread = float(values.std())
    assert abs(float(values.mean()) - true) < 3.5 * spread / math.sqrt(100)
    assert float(errors.square().mean().sqrt()) == pytest.approx(spread, rel=0.2)
    # 2.3 is the 97.5 % quantile of t with 7 degrees of freedom, which are Hutch++'s; 2.07 of Hutchinson's 23.
    covered = ((values - true).abs() < (2.07 if method == "hutchinson" else 2.36) * errors).double().mean()
    assert 0.88 <= float(covered) <= 0.99


def test_hutchinsons_error_is_that_of_the_closed_form() -> None:
    r"""The variance of z'Az is twice the sum of the squares beside the diagonal."""
    matrix = cases.rotated(SPECTRUM)
    estimate = trace(cases.quadratic(matrix), matvecs=600)
    variance = 2 * float((matrix - matrix.diag().diag()).square().sum())
    assert 600 * estimate.standard_error**2 == pytest.approx(variance, rel=0.2)
    assert estimate.samples.shape == (600,)


def test_signs_see_a_diagonal_exactly() -> None:
    estimate = trace(cases.quadratic(torch.arange(30, dtype=torch.float64)), matvecs=2)
    assert estimate.value == pytest.approx(435, rel=1e-14)
    assert estimate.standard_error == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hutch_plus_plus_is_exact_for_a_low_rank(dtype: torch.dtype) -> None:
    matrix = cases.rotated([100.0, 3.0, -2.0, *[0.0] * 60]).to(dtype)
    estimate = trace(cases.quadratic(matrix), method="hutch++", matvecs=30)
    eps = torch.finfo(dtype).eps
    assert estimate.value == pytest.approx(101, abs=3000 * eps)
    assert estimate.standard_error < 3000 * eps
    if dtype == torch.float64:  # three directions, of ten that were looked for
        assert estimate.matvecs == 10 + 3 + 10


def test_hutch_plus_plus_is_exact_where_it_spans_everything() -> None:
    matrix = cases.rotated([3.0, 1.0, -2.0])
    estimate = trace(cases.quadratic(matrix), method="hutch++", matvecs=60)
    assert estimate.value == pytest.approx(2, abs=1e-12)
    assert estimate.standard_error < 1e-12
    assert 3 + 3 + 20 <= estimate.matvecs < 20 + 3 + 20  # no more directions than there are


def test_hutch_plus_plus_wins_where_a_few_eigenvalues_dominate() -> None:
    objective = cases.quadratic(cases.rotated([0.5**i for i in range(60)]))
    plain, better = (trace(objective, method=method, matvecs=30) for method in METHODS)
    assert better.standard_error < 0.02 * plain.standard_error
    assert abs(better.value - (2 - 0.5**59)) < 5 * better.standard_error


def test_the_basis_is_orthonormal_though_its_vectors_are_nearly_parallel() -> None:
    matrix = cases.rotated([10.0**-i for i in range(12)] + [1e-13] * 20)
    basis, products = _range(
        Curvature(cases.quadratic(matrix)), 11, torch.Generator().manual_seed(0), lambda products: None
    )
    assert products == 11
    assert len(basis) >= 10
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("matvecs", [4, 5, 6, 7, 8, 30])
def test_products_are_counted_and_samples_average_to_the_value(method: str, matvecs: int) -> None:
    calls: list[tuple[int, int]] = []
    objective = cases.quadratic(cases.rotated([0.8**i for i in range(40)]))
    estimate = trace(objective, method=method, matvecs=matvecs, progress=lambda *call: calls.append(call))
    samples = matvecs if method == "hutchinson" else matvecs - 2 * (matvecs // 3)
    assert estimate.matvecs == matvecs
    assert calls == [(count, matvecs) for count in range(1, matvecs + 1)]
    assert len(estimate.samples) == samples
    assert estimate.samples.dtype == torch.float64
    assert estimate.value == float(estimate.samples.mean())
    assert estimate.standard_error == pytest.approx(float(estimate.samples.std()) / math.sqrt(samples))


def test_a_zero_matrix_has_trace_zero() -> None:
    objective = cases.quadratic(torch.zeros(20, dtype=torch.float64))
    for method in METHODS:
        estimate = trace(objective, method=method)
        assert (estimate.value, estimate.standard_error) == (0, 0)


def test_the_seed_decides() -> None:
    def run(seed: int, method: str) -> Estimate:
        return trace(cases.objective("mlp"), method=method, matvecs=6, seed=seed)

    for method in METHODS:
        assert run(1, method).value == run(1, method).value
        assert run(1, method).value != run(2, method).value


def test_signs_are_signs() -> None:
    curvature = Curvature(cases.quadratic(torch.ones(20000)))
    signs = rademacher(curvature, torch.Generator().manual_seed(0))
    assert signs.dtype == torch.float32
    assert set(signs.tolist()) == {1.0, -1.0}
    assert abs(float(signs.mean())) < 4 / math.sqrt(20000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "xtrace"}, "method 'xtrace': choose one of hutchinson, hutch"),
        ({"kind": "fisher"}, "kind 'fisher'"),
        ({"matvecs": 1}, "matvecs 1: hutchinson needs 2 or more"),
        ({"matvecs": 3, "method": "hutch++"}, r"matvecs 3: hutch\+\+ needs 4 or more"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(cases.objective("mlp"), **arguments)


def test_a_basis_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = cases.objective("mlp")
    monkeypatch.setattr(hvp, "_memory", lambda device: 10 * objective.numel * 8.0)
    trace(objective, method="hutch++", matvecs=30)
    trace(objective, matvecs=33)
    with pytest.raises(ValueError, match=r"11 vectors .*: fewer matvecs than 33, or method='hutchinson'"):
        trace(objective, method="hutch++", matvecs=33)
