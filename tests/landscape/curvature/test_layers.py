"""The table of layers against the blocks of dense matrices."""

import pytest
import torch
from torch import nn

from landscape import curvature_cases as cases
from valleys.landscape.curvature.hvp import KINDS
from valleys.landscape.curvature.layers import layerwise_curvature
from valleys.landscape.curvature.spectrum import eigenvalues
from valleys.landscape.objective import Objective


@pytest.mark.parametrize("matvecs", [6, 1000])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", cases.MODELS)
def test_rows_are_those_of_the_blocks(name: str, kind: str, matvecs: int) -> None:
    whole = (cases.dense_hessian if kind == "hessian" else cases.dense_ggn)(name)
    objective = cases.objective(name)
    before = objective.parameters
    table = layerwise_curvature(objective, kind=kind, matvecs=matvecs)
    assert [(row.name, row.numel) for row in table] == [(n, p.numel()) for n, p in objective.model.named_parameters()]
    start = 0
    for row in table:
        rows = slice(start, start + row.numel)
        start += row.numel
        block = whole[rows, rows]
        exact = torch.linalg.eigvalsh(block)
        assert abs(row.eigenvalue - float(exact[-1])) <= row.residual + 1e-12
        assert row.eigenvalue == pytest.approx(float(exact[-1]), rel=1e-5, abs=1e-9)
        assert row.residual <= 1e-3 * float(exact.abs().max())
        if row.numel <= matvecs:
            assert row.trace_error == 0
            assert row.trace == pytest.approx(float(block.trace()), rel=1e-10, abs=1e-12)
        else:
            assert row.trace_error > 0 or bool((block - block.diag().diag()).abs().max() < 1e-12)
            assert abs(row.trace - float(block.trace())) <= 5 * row.trace_error + 1e-12
    assert objective.parameters is before
    if matvecs > objective.numel:  # what holds of the blocks of any symmetric matrix
        assert sum(row.trace for row in table) == pytest.approx(float(whole.trace()), rel=1e-10)
        top = float(eigenvalues(objective, kind=kind, tolerance=1e-9).values)
        assert max(row.eigenvalue for row in table) <= top * (1 + 1e-6)


def test_batches_weigh_as_in_the_objective() -> None:
    x, y = torch.randn(40, 4, dtype=torch.float64), torch.arange(40) % 3
    y[:10] = -100

    def table(sizes: list[int]) -> list[tuple[float, float]]:
        batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
        torch.manual_seed(0)
        of = Objective(
            cases.mlp().double(), nn.CrossEntropyLoss(), batches, denominator=lambda targets: (targets != -100).sum()
        )
        return [(row.eigenvalue, row.trace) for row in layerwise_curvature(of)]

    for one, other in zip(table([40]), table([25, 15]), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_parameters_of_no_name_are_numbered_and_progress_counts_layers() -> None:
    with pytest.raises(ValueError, match="matvecs 1: hutchinson needs 2 or more"):
        layerwise_curvature(cases.objective("mlp"), matvecs=1)
    calls: list[tuple[int, int]] = []
    objective = cases.objective("mlp")
    last = list(objective.parameters)[2:]
    part = Objective(objective.model, objective.loss, cases.batches((4,)), parameters=last)
    rows = layerwise_curvature(part, progress=lambda *call: calls.append(call))
    assert [row.name for row in rows] == ["2.weight", "2.bias"]
    assert calls == [(1, 2), (2, 2)]
    matrix = cases.quadratic(torch.arange(12, dtype=torch.float64))
    theta = matrix.parameters[0]
    matrix.loss, matrix.model = (lambda z, y: (theta**2).sum()), nn.Identity()
    (row,) = layerwise_curvature(matrix)
    assert row.name == "parameters[0]"
    assert row.eigenvalue == pytest.approx(2)
