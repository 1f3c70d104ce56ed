"""Matrices and curvlinops' operators in the place of an objective; the same numbers as of the objective."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape import curvature_cases as cases
from valleys.landscape.curvature.density import density
from valleys.landscape.curvature.hvp import KINDS, Curvature
from valleys.landscape.curvature.spectrum import eigenvalues
from valleys.landscape.curvature.trace import METHODS, trace
from valleys.landscape.objective import Objective


def numbers(source: Any, **options: Any) -> dict[str, Tensor]:
    top = eigenvalues(source, 3, which="magnitude", tolerance=1e-10, **options)
    spectrum = density(source, steps=6, samples=3, **options)
    traces = [trace(source, method=method, matvecs=12, **options).value for method in METHODS]
    return {
        "eigenvalues": top.values,
        "traces": torch.tensor(traces, dtype=torch.float64),
        "nodes": torch.stack(spectrum.nodes),
        "density": spectrum.values,
    }


def same(measured: dict[str, Tensor], true: dict[str, Tensor], rtol: float = 1e-8) -> None:
    for name, number in true.items():
        torch.testing.assert_close(measured[name], number, rtol=rtol, atol=rtol * float(number.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_matrix_is_as_good_as_the_objective_that_has_it(dtype: torch.dtype) -> None:
    matrix = cases.rotated([20.0, -8.0, 5.0, *(0.5 - 0.1 * i for i in range(20))]).to(dtype)
    same(numbers(matrix), numbers(cases.quadratic(matrix)), 1e-8 if dtype == torch.float64 else 1e-4)
    spectrum = eigenvalues(matrix, 2, vectors=True)
    assert spectrum.vectors is not None
    assert [[part.shape for part in vector] for vector in spectrum.vectors] == [[(23,)], [(23,)]]
    assert spectrum.batch_values.shape == (2, 1)
    assert spectrum.standard_error.isnan().all()
    torch.testing.assert_close(matrix @ spectrum.vectors[0][0], 20 * spectrum.vectors[0][0], rtol=0, atol=1e-3)


def test_a_curvature_with_a_loss_of_its_own_is_measured() -> None:
    inner = cases.objective("mlp").model
    objective = Objective(nn.Sequential(inner, nn.LogSoftmax(-1)), functional.nll_loss, cases.batches((4,)))
    curvature = Curvature(objective, "ggn", outputs_loss=functional.cross_entropy)
    assert curvature.shape == (43, 43)
    same(numbers(curvature), numbers(cases.objective("mlp"), kind="ggn"))
    vector = torch.randn(43, dtype=torch.float64)
    assert torch.equal(curvature @ vector, curvature.matvec_flat(vector))
    assert eigenvalues(curvature).batch_values.shape == (1, 3)
    for kind in KINDS:
        same(numbers(Curvature(cases.objective("conv"), kind)), numbers(cases.objective("conv"), kind=kind))


@pytest.mark.parametrize("measure", [eigenvalues, trace, density])
def test_what_is_no_symmetric_operator_is_refused(measure: Callable[..., Any]) -> None:
    skewed = torch.randn(30, 30, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"the Tensor is not symmetric: .* give one, such as \(A \+ A.T\) / 2"):
        measure(skewed)
    measure(skewed + skewed.T)
    for wrong in (torch.ones(3, 4), torch.ones(3), torch.ones(3, 3).half(), torch.ones(3, 3).int(), np.eye(3), None):
        with pytest.raises(ValueError, match=r"objective: a (Tensor|ndarray|NoneType) of shape .*; give an Objective"):
            measure(wrong)
    with pytest.raises(ValueError, match="kind 'ggn': what is given is a matrix already"):
        measure(torch.eye(12), kind="ggn")


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(("name", "reduction"), [("mlp", "mean"), ("mlp", "sum"), ("conv", "mean")])
def test_curvlinops_agrees(name: str, reduction: str) -> None:
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops is not installed", exc_type=ImportError)
    whole = cases.objective(name, reduction)
    data = [(inputs, targets) for inputs, targets, _ in whole.batches()]
    for kind, operator in (("hessian", curvlinops.HessianLinearOperator), ("ggn", curvlinops.GGNLinearOperator)):
        reference = operator(whole.model, nn.CrossEntropyLoss(reduction=reduction), list(whole.parameters), data)
        vector = torch.randn(whole.numel, dtype=torch.float64)
        torch.testing.assert_close(Curvature(whole, kind) @ vector, reference @ vector, rtol=1e-11, atol=1e-12)
        if (kind == "ggn") == (name == "conv"):  # with theirs it takes five times as long
            same(numbers(reference), numbers(whole, kind=kind))
