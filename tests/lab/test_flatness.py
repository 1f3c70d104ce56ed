"""What is measured of one model, and how many runs' measurements are put together."""

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
from valleys.lab.store.job import Key

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
    seen: list[tuple[int, int]] = []
    model.train()
    found = measure(task, model, start, progress=lambda done, total: seen.append((done, total)))
    hessian = 2 / 40 * X.T @ X
    assert found["top_eigenvalue"] == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-6)
    assert found["trace"] == pytest.approx(hessian.trace().item(), abs=4 * found["trace_error"] + 1e-9)
    assert found["drift"] == pytest.approx(math.sqrt(1.25))
    residual = X @ (weight(model) - 1).T
    assert found["train_loss"] == pytest.approx(residual.square().mean().item())
    assert found["gap"] == pytest.approx((residual[:10].square().mean() - residual.square().mean()).item())
    assert found["sharpness"] > 0
    assert found["adaptive_sharpness"] > 0
    assert MEASURES.keys() <= found.keys()
    assert all(math.isfinite(value) for value in found.values())
    assert model.training
    assert seen == [(done, len(MEASURES)) for done in range(1, len(MEASURES) + 1)]


def test_the_examples_are_spread_over_the_split() -> None:
    task = linear()
    model = task.build_model()
    found = measure(task, model, model, examples=4)
    chosen = X[[0, 10, 20, 30]]
    expected = (chosen @ (weight(model) - 1).T).square().mean().item()
    assert found["train_loss"] == pytest.approx(expected)
    assert found["drift"] == 0


def test_measuring_again_gives_the_same_numbers() -> None:
    task = linear()
    model, start = task.build_model(), task.build_model()
    assert measure(task, model, start) == measure(task, model, start)


def values(scale: float = 1.0, **changes: Any) -> dict[str, Any]:
    return {**dict.fromkeys(MEASURES, scale), "examples": 8, "note": "", **changes}


def test_means_are_over_the_seeds_of_the_chosen_point() -> None:
    found = {"sgd": {Key(1, 1000): values(2.0), Key(1, 1001): values(5.0), Key(0, 1000): values(99.0)}, "adamw": {}}
    table = tabulate(found, {"sgd": 1, "adamw": 0}, [])
    assert table is not None
    (row,) = table.rows
    assert (row.optimizer, row.runs) == ("sgd", 2)
    assert row.means["trace"] == mean_interval([2.0, 5.0])
    assert table.examples == (8,)


def test_nothing_measured_is_no_table() -> None:
    assert tabulate({"sgd": {}}, {"sgd": 0}, []) is None
    assert tabulate({"sgd": {Key(1, 1000): values()}}, {"sgd": 0}, []) is None


def test_e_is_held_against_its_base_seed_by_seed() -> None:
    """Values that differ wildly between the seeds, but by one factor between the optimizers: the factor is exact."""
    found = {
        "alto": {Key(0, seed): values(3.0 * seed) for seed in (1000, 1001, 1005)},
        "alto-0": {Key(2, seed): values(2.0 * seed) for seed in (1001, 1000, 1002)},
    }
    table = tabulate(found, {"alto": 0, "alto-0": 2}, [("alto", "alto-0"), ("alto", "gone")])
    assert table is not None
    assert [entry.measure for entry in table.contrasts] == list(MEASURES)
    for entry in table.contrasts:
        assert (entry.adapted, entry.base, entry.pairs) == ("alto", "alto-0", 2)
        assert entry.ratio == pytest.approx(1.5)
        assert entry.low == pytest.approx(1.5)
        assert entry.high == pytest.approx(1.5)


def test_the_interval_of_a_ratio_is_students_of_its_logarithm() -> None:
    ratios = (0.5, 0.8, 1.4)
    found = {
        "alto": {Key(0, 1000 + k): values(ratio) for k, ratio in enumerate(ratios)},
        "lamb": {Key(0, 1000 + k): values() for k in range(3)},
    }
    table = tabulate(found, {"alto": 0, "lamb": 0}, [("alto", "lamb")])
    assert table is not None
    center, half = mean_interval([math.log(ratio) for ratio in ratios])
    assert half is not None
    assert table.contrasts[0].low == pytest.approx(math.exp(center - half))
    assert table.contrasts[0].high == pytest.approx(math.exp(center + half))


def test_a_ratio_of_what_may_be_negative_is_left_out() -> None:
    found = {name: {Key(0, 1000): values(gap=-0.1, note="look")} for name in ("alto", "lamb")}
    table = tabulate(found, {"alto": 0, "lamb": 0}, [("alto", "lamb")])
    assert table is not None
    assert [entry.measure for entry in table.contrasts] == [name for name in MEASURES if name != "gap"]
    assert table.contrasts[0].low is None
    assert table.notes == ("look",)
