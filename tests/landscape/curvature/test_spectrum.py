"""Outermost eigenvalues against dense matrices and closed forms: values, residuals, copies, error bars."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from landscape import curvature_cases as cases
from valleys.landscape.curvature import hvp, spectrum
from valleys.landscape.curvature.hvp import Curvature
from valleys.landscape.curvature.spectrum import eigenvalues
from valleys.landscape.objective import Objective


def wanted(exact: Tensor, k: int, which: str) -> Tensor:
    key = {"largest": -exact, "smallest": exact, "magnitude": -exact.abs()}[which]
    return exact[key.argsort()[:k]].sort(descending=True).values


@pytest.mark.parametrize("which", spectrum.WHICH)
@pytest.mark.parametrize("name", cases.MODELS)
def test_values_and_vectors_are_those_of_the_dense_hessian(name: str, which: str) -> None:
    true = cases.dense_hessian(name)
    objective = cases.objective(name)
    exact = wanted(torch.linalg.eigvalsh(true), 5, which)
    result = eigenvalues(objective, 5, which=which, tolerance=1e-9, vectors=True)
    assert result.values.dtype == result.residuals.dtype == torch.float64
    torch.testing.assert_close(result.values, exact, rtol=0, atol=1e-8)
    assert float(result.residuals.max()) < 1e-8
    assert result.vectors is not None
    assert [part.shape for part in result.vectors[0]] == [parameter.shape for parameter in objective.parameters]
    flat = torch.stack([objective.flatten(vector) for vector in result.vectors])
    torch.testing.assert_close(flat @ flat.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(flat @ true, result.values[:, None] * flat, rtol=0, atol=1e-8)


@pytest.mark.parametrize("which", spectrum.WHICH)
def test_the_ggns_too(which: str) -> None:
    exact = wanted(torch.linalg.eigvalsh(cases.dense_ggn("mlp")), 3, which)
    # A cluster of small eigenvalues at the lower end converges slowly.
    tolerance = 1e-2 if which == "smallest" else 1e-10
    result = eigenvalues(cases.objective("mlp"), 3, kind="ggn", which=which, tolerance=tolerance)
    torch.testing.assert_close(result.values, exact, rtol=0, atol=tolerance)
    assert result.vectors is None


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    tolerance=st.sampled_from([0.3, 1e-1, 1e-2, 1e-3]),
    which=st.sampled_from(spectrum.WHICH),
)
def test_residuals_bound_the_errors_and_keep_the_tolerance(seed: int, tolerance: float, which: str) -> None:
    random = torch.Generator().manual_seed(seed)
    exact = torch.randn(40, dtype=torch.float64, generator=random) ** 3
    result = eigenvalues(cases.quadratic(cases.rotated(exact, seed)), 2, which=which, tolerance=tolerance, seed=seed)
    distance = (result.values[:, None] - exact).abs().min(1).values
    assert bool((distance <= result.residuals + 1e-13 * exact.abs().max()).all())
    assert float(result.residuals.max()) <= tolerance * float(exact.abs().max())


def test_residuals_are_those_of_the_vectors() -> None:
    true = cases.dense_hessian("mlp")
    objective = cases.objective("mlp")
    spectrum = eigenvalues(objective, 3, tolerance=0.2, vectors=True)
    assert spectrum.vectors is not None
    for value, residual, vector in zip(spectrum.values, spectrum.residuals, spectrum.vectors, strict=True):
        flat = objective.flatten(vector)
        assert float(flat.norm()) == pytest.approx(1, abs=1e-14)
        assert float((true @ flat - value * flat).norm()) == pytest.approx(float(residual), rel=1e-9)
        assert float(flat @ true @ flat) == pytest.approx(float(value), rel=1e-12)
    assert float(spectrum.residuals.max()) > 1e-6  # the tolerance left something to see


SPREAD = [0.01 * i for i in range(100)]
DEGENERATE = {
    "zero": ([0.0] * 30, 3),
    "identity": ([1.0] * 30, 3),
    "minus-identity": ([-1.0] * 30, 3),
    "rank-one": ([2.0] + [0.0] * 40, 3),
    "two-copies": ([5, 5, 3, 2, *SPREAD], 2),
    "three-copies": ([5, 5, 5, 4, 3, *SPREAD], 3),
    "nine-copies": ([5.0] * 9 + [4.9] * 3 + SPREAD, 9),
    "five-of-nine": ([5.0] * 9 + [4.9] * 3 + SPREAD, 5),
    "negative": ([-2.0 - x for x in SPREAD], 2),
    "both-ends": ([3, 3, -3, -3, -3, *SPREAD], 4),
    "tiny": ([1e-9, 1e-9, *(1e-11 * x for x in SPREAD)], 2),
    "huge": ([1e12, 1e12, *SPREAD], 3),
}


@pytest.mark.parametrize("which", spectrum.WHICH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DEGENERATE)
def test_no_copy_of_an_eigenvalue_is_missed(name: str, dtype: torch.dtype, which: str) -> None:
    values, k = DEGENERATE[name]
    exact = torch.tensor(values, dtype=torch.float64)
    scale = float(exact.abs().max())
    result = eigenvalues(cases.quadratic(exact.to(dtype)), k, which=which, vectors=True)
    assert result.vectors is not None
    close = torch.sort(result.values.abs()).values if which == "magnitude" else result.values
    true = wanted(exact, k, which)
    true = torch.sort(true.abs()).values if which == "magnitude" else true
    torch.testing.assert_close(close, true, rtol=0, atol=1e-3 * scale)
    flat = torch.stack([vector[0] for vector in result.vectors]).double()
    torch.testing.assert_close(flat @ flat.T, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-5)


def test_softmax_regression_at_zero_has_equal_eigenvalues() -> None:
    """At equal probabilities the Hessian is (I / K - 1 1' / K^2) (x) X'X / n: all but one class give the same."""
    x = torch.randn(60, 12, dtype=torch.float64) * torch.logspace(0, -1, 12, dtype=torch.float64)
    model = nn.Linear(12, 10, bias=False).double()
    nn.init.zeros_(model.weight)
    spectrum = eigenvalues(Objective(model, functional.cross_entropy, [(x, torch.arange(60) % 10)]), 12, tolerance=1e-6)
    covariance = torch.linalg.eigvalsh(x.T @ x / 60).flip(0)
    true = (covariance[:, None] / 10).expand(12, 9).reshape(-1)[:12]
    torch.testing.assert_close(spectrum.values, true, rtol=1e-6, atol=0)


def test_small_matrices_are_built_whole() -> None:
    exact = torch.tensor([4.0, 4, -5, 1, 0, 2, 3], dtype=torch.float64)
    objective = cases.quadratic(cases.rotated(exact))
    for k in (1, 3, 7):
        for which in spectrum.WHICH:
            result = eigenvalues(objective, k, which=which, tolerance=0.9)
            torch.testing.assert_close(result.values, wanted(exact, k, which), rtol=0, atol=1e-13)
            assert result.matvecs == 7 + k
            assert float(result.residuals.max()) < 1e-13


def test_a_single_parameter() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    spectrum = eigenvalues(
        Objective(model, functional.mse_loss, [(torch.full((2, 1), 3.0).double(), torch.zeros(2, 1).double())])
    )
    assert spectrum.values.tolist() == pytest.approx([18.0])
    assert math.isnan(spectrum.standard_error[0])


def test_sum_is_the_mean_times_the_examples_and_cuts_do_not_matter() -> None:
    mean, total, whole = (
        eigenvalues(cases.objective("mlp", reduction, sizes), 2, tolerance=1e-10)
        for reduction, sizes in (("mean", cases.SIZES), ("sum", cases.SIZES), ("mean", (12,)))
    )
    torch.testing.assert_close(total.values, 12 * mean.values, rtol=1e-9, atol=0)
    torch.testing.assert_close(whole.values, mean.values, rtol=1e-9, atol=0)
    torch.testing.assert_close(total.batch_values, 12 * mean.batch_values, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(total.standard_error, 12 * mean.standard_error, rtol=1e-5, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batch_values_are_those_of_each_batch_alone(reduction: str) -> None:
    objective = cases.objective("mlp", reduction)
    spectrum = eigenvalues(objective, 2, vectors=True)
    assert spectrum.vectors is not None
    shares = torch.tensor(cases.SIZES, dtype=torch.float64) / 12
    torch.testing.assert_close(spectrum.batch_values @ shares, spectrum.values, rtol=1e-12, atol=0)
    scale = 1 if reduction == "mean" else 12
    for column, batch in enumerate(cases.batches((4,))):
        alone = Curvature(Objective(objective.model, cases.cross_entropy("mean"), [batch])).dense()
        for row, vector in enumerate(spectrum.vectors):
            flat = objective.flatten(vector)
            true = scale * float(flat @ alone @ flat)
            assert float(spectrum.batch_values[row, column]) == pytest.approx(true, rel=1e-10)


def test_the_standard_error_is_that_of_a_mean() -> None:
    spectrum = eigenvalues(cases.objective("mlp", sizes=(3, 3, 3, 3)), 2)
    torch.testing.assert_close(spectrum.standard_error, spectrum.batch_values.std(1) / 2, rtol=1e-10, atol=0)


def test_the_standard_error_tells_how_the_value_varies_from_data_to_data() -> None:
    """One parameter, so that its direction fits nothing: the Hessian is the mean of 2 x^2, here 2 or 6."""
    random = torch.Generator().manual_seed(5)
    model = nn.Linear(1, 1, bias=False).double()
    sizes = [1, 2, 3] * 4
    hits, squares = 0, 0.0
    for _ in range(80):
        x = (1 + 2 * torch.randint(0, 2, (sum(sizes), 1), generator=random)).double().sqrt()
        batches = [(part, torch.zeros_like(part)) for part in x.split(sizes)]
        spectrum = eigenvalues(Objective(model, functional.mse_loss, batches, check=False))
        squares += float(spectrum.standard_error) ** 2 / 80
        hits += abs(float(spectrum.values) - 4) < 2 * float(spectrum.standard_error)
    assert squares == pytest.approx(4 / sum(sizes), rel=0.15)
    assert 65 <= hits <= 80


def test_the_seed_decides() -> None:
    first, again, other = (eigenvalues(cases.objective("conv"), tolerance=0.3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)


def test_float32_stays_float32() -> None:
    objective = cases.objective("mlp")
    batches = [(inputs.float(), targets) for inputs, targets, _ in objective.batches()]
    spectrum = eigenvalues(Objective(objective.model.float(), objective.loss, batches), 2, vectors=True)
    exact = torch.linalg.eigvalsh(cases.dense_hessian("mlp")).flip(0)[:2]
    assert spectrum.vectors is not None
    assert all(part.dtype == torch.float32 for vector in spectrum.vectors for part in vector)
    torch.testing.assert_close(spectrum.values, exact, rtol=1e-5, atol=0)


def test_no_convergence_is_an_error_with_a_remedy() -> None:
    objective = cases.quadratic(torch.linspace(0, 1, 500, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"did not converge after \d+ products .*raise max_iterations \(1\)"):
        eigenvalues(objective, tolerance=1e-10, max_iterations=1)
    spectrum = eigenvalues(objective, tolerance=1e-10)
    assert float(spectrum.values) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("n", [5, 100])
def test_progress_counts_the_products(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, products = Curvature.parts, 0

    def parts(self: Curvature, vector: Any) -> Any:
        nonlocal products
        products += 1
        return inner(self, vector)

    monkeypatch.setattr(Curvature, "parts", parts)
    calls: list[tuple[int, int]] = []
    objective = cases.quadratic(torch.arange(n, dtype=torch.float64))
    spectrum = eigenvalues(objective, 2, progress=lambda *call: calls.append(call))
    assert products - spectrum.matvecs == (2 if n == 5 else 1)  # the test of symmetry
    assert calls[-1] == (spectrum.matvecs, spectrum.matvecs)
    dones = [count for count, _ in calls]
    assert dones == sorted(dones)
    assert all(count < total for count, total in calls[:-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"which": "top"}, "which 'top': choose one of largest, magnitude, smallest"),
        ({"kind": "fisher"}, "kind 'fisher': choose one of"),
        ({"k": 0}, "k 0: choose 1 to 43"),
        ({"k": 44}, "k 44: choose 1 to 43"),
        ({"tolerance": 0.0}, "tolerance 0.0: choose between 0 and 1"),
        ({"tolerance": 1.0}, "tolerance 1.0: choose between 0 and 1"),
        ({"max_iterations": 0}, "max_iterations 0: choose 1 or more"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        eigenvalues(cases.objective("mlp"), **arguments)


def test_vectors_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hvp, "_memory", lambda device: 15 * 43 * 8.0)
    eigenvalues(cases.objective("mlp"))
    with pytest.raises(ValueError, match=r"18 vectors .* and cpu has .*: ask for fewer eigenvalues"):
        eigenvalues(cases.objective("mlp"), 2)
