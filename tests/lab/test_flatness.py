"""Measurements of one model, and their table over many runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import lab_fakes
from valleys.lab.flatness import MEASURES, measure, tabulate
from valleys.lab.problem.task import Split, Task
from valleys.lab.statistics import mean_interval

X = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def weight(model: nn.Module) -> torch.Tensor:
    return next(iter(model.parameters())).detach()


def linear() -> Task:
    """Least squares, whose Hessian is 2/n X^T X wherever one stands."""
    y = X.sum(1, keepdim=True)
    return replace(
        lab_fakes.task("linear", maximize=False),
        train=Split(X, y),
        test=Split(X[:10], y[:10]),
        build_model=lambda: nn.Linear(2, 1, bias=False, dtype=torch.float64),
    )


def test_a_linear_model_has_the_flatness_of_its_data() -> None:
    task = linear()
    start, model = task.build_model(), task.build_model()
    with torch.no_grad():
        weight(start).zero_()
        weight(model).copy_(torch.tensor([[0.5, -1.0]]))
    calls: list[tuple[int, int]] = []
    model.train()
    values = measure(task, model, start, progress=lambda count, total: calls.append((count, total)))
    hessian = 2 / 40 * X.T @ X
    assert values["top_eigenvalue"] == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-6)
    assert values["trace"] == pytest.approx(hessian.trace().item(), abs=4 * values["trace_error"] + 1e-9)
    assert values["drift"] == pytest.approx(math.sqrt(1.25))
    residual = X @ (weight(model) - 1).T
    assert values["train_loss"] == pytest.approx(residual.square().mean().item())
    assert values["gap"] == pytest.approx((residual[:10].square().mean() - residual.square().mean()).item())
    assert values["sharpness"] > 0
    assert values["adaptive_sharpness"] > 0
    assert MEASURES.keys() <= values.keys()
    assert all(math.isfinite(value) for value in values.values())
    assert model.training
    assert calls == [(count, len(MEASURES)) for count in range(1, len(MEASURES) + 1)]


def test_the_examples_are_spread_over_the_split() -> None:
    task = linear()
    model = task.build_model()
    measurements = measure(task, model, model, examples=4)
    examples = X[[0, 10, 20, 30]]
    expected = (examples @ (weight(model) - 1).T).square().mean().item()
    assert measurements["train_loss"] == pytest.approx(expected)
    assert measurements["drift"] == 0


def test_measuring_again_gives_the_same_numbers() -> None:
    task = linear()
    model, start = task.build_model(), task.build_model()
    assert measure(task, model, start) == measure(task, model, start)


def values(scale: float = 1.0, **changes: Any) -> dict[str, Any]:
    return {**dict.fromkeys(MEASURES, scale), "examples": 8, "note": "", **changes}


def test_means_are_over_units_however_many_runs_they_have() -> None:
    table = tabulate(
        {"sgd": {1: [values(2.0), values(4.0)], 2: [values(5.0)], 3: []}, "adamw": {}, "lamb": {1: []}}, []
    )
    assert table is not None
    (row,) = table.rows
    assert (row.optimizer, row.units) == ("sgd", 2)
    mean, half = mean_interval([3.0, 5.0])
    assert half is not None
    trace = row.means["trace"]
    assert (trace.estimate, trace.low, trace.high) == pytest.approx((mean, mean - half, mean + half))
    assert table.examples == (8,)


def test_nothing_measured_is_no_table() -> None:
    assert tabulate({"sgd": {}}, []) is None
    assert tabulate({"sgd": {1: []}}, []) is None


def test_pairs_are_compared_unit_by_unit() -> None:
    """Values that differ wildly between the units, but by one factor between the optimizers: the factor is exact."""
    measurements = {
        "alto": {unit: [values(3.0 * unit)] for unit in (1, 2, 6)},
        "lamb": {unit: [values(2.0 * unit)] for unit in (2, 1, 3)},
    }
    table = tabulate(measurements, [("alto", "lamb"), ("alto", "gone")])
    assert table is not None
    assert [entry.measure for entry in table.contrasts] == list(MEASURES)
    for entry in table.contrasts:
        assert (entry.first, entry.second, entry.units) == ("alto", "lamb", 2)
        assert (entry.ratio.estimate, entry.ratio.low, entry.ratio.high) == pytest.approx((1.5, 1.5, 1.5))


def test_the_interval_of_a_ratio_is_students_of_its_logarithm() -> None:
    ratios = (0.5, 0.8, 1.4)
    measurements = {
        "alto": {k: [values(ratio)] for k, ratio in enumerate(ratios)},
        "lamb": {k: [values()] for k in range(3)},
    }
    table = tabulate(measurements, [("alto", "lamb")])
    assert table is not None
    center, half = mean_interval([math.log(ratio) for ratio in ratios])
    assert half is not None
    assert table.contrasts[0].ratio.low == pytest.approx(math.exp(center - half))
    assert table.contrasts[0].ratio.high == pytest.approx(math.exp(center + half))


def test_a_ratio_of_what_may_be_negative_is_left_out() -> None:
    measurements = {name: {1: [values(gap=-0.1, note="look")]} for name in ("alto", "lamb")}
    table = tabulate(measurements, [("alto", "lamb")])
    assert table is not None
    assert [entry.measure for entry in table.contrasts] == [name for name in MEASURES if name != "gap"]
    assert table.contrasts[0].ratio.low is None
    assert table.notes == ("look",)
