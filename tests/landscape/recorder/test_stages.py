"""The four stages of the paper's Table 1, on walks whose derivatives are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import Optimizer

from valleys.landscape.recorder.recorder import record
from valleys.landscape.recorder.stages import PAPER, QUANTITIES, STAGES, signs, stage, table_1, well
from valleys.paper.walks.functions import FUNCTIONS


class Walk(Optimizer):
    """Moves by ``lr`` in the negative direction, whatever the gradient."""

    def __init__(self, x: Tensor, lr: float) -> None:
        super().__init__([x], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for x in group["params"]:
                x.sub_(group["lr"])


def walked(steps: int = 401) -> list[dict[str, object]]:
    """Rows of a walk through ``well`` from 2 to -2, one per step."""
    x = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    optimizer = Walk(x, lr=4 / steps)
    recorder = record(optimizer, every=1)
    for _ in range(steps + 1):
        optimizer.zero_grad()
        well(x).sum().backward()
        optimizer.step()
    return recorder.rows[:steps]


def test_the_measured_table_is_the_papers() -> None:
    printed = """
    - - - -
    - - + +
    + - + -
    + - - +
    - + + -
    - + - +
    """
    rows = [line.split() for line in printed.strip().splitlines()]
    expected = {name: dict(zip(STAGES, row, strict=True)) for name, row in zip(QUANTITIES, rows, strict=True)}
    assert table_1() == expected == PAPER


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.square() / (1 + x.square()),
        lambda x: -1 / torch.cosh(3 * x),
        lambda x: 1 - torch.exp(-900 * (x / 20).square()),
    ],
)
def test_the_table_holds_for_other_wells(function: object) -> None:
    assert table_1(function) == PAPER  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "start", "stop"),
    [("f1", 4.5, 3.2), ("f1", 7.8, 6.4), ("f2", 0.35, -0.35), ("f2", 0.65, 0.55), ("rastrigin", 0.5, -0.5)],
)
def test_the_table_holds_on_the_functions_of_one_variable(name: str, start: float, stop: float) -> None:
    function = FUNCTIONS[name]

    def curve(x: Tensor) -> Tensor:
        rest = torch.zeros(function.dimension - 1, dtype=x.dtype).expand(*x.shape, -1)  # Rastrigin's along an axis
        return function.f(torch.cat([x.unsqueeze(-1), rest], dim=-1))

    assert table_1(curve, start, stop) == PAPER


def test_a_hill_is_told_apart() -> None:
    # A maximum between two bowls meets the stages in another order, and each with the paper's signs all the same.
    assert table_1(lambda x: torch.exp(-x.square())) == PAPER
    with pytest.raises(ValueError, match="no step within stage 1-2"):
        table_1(torch.square)


def test_a_recorder_meets_the_stages_in_order() -> None:
    rows = walked()
    met = [row["stage"] for row in rows]
    assert None not in met
    assert [name for i, name in enumerate(met) if i == 0 or met[i - 1] != name] == list(STAGES)
    # The inflexions are at +-1/sqrt(2): the stages change where they should, to a step.
    step = 4 / 401
    ends = [2 - step * (i + 1) for i, name in enumerate(met) if i + 1 < len(met) and met[i + 1] != name]
    assert ends == pytest.approx([math.sqrt(0.5), 0, -math.sqrt(0.5)], abs=1.5 * step)


def test_a_recorders_rows_have_the_signs_of_the_table() -> None:
    step = 4 / 401
    for number, row in enumerate(walked()):
        here = 2 - step * (number + 1)
        if min(abs(abs(here) - math.sqrt(0.5)), abs(here)) < 2 * step:
            continue  # a step from one stage into the next
        row_signs = signs(row)  # type: ignore[arg-type]
        assert row_signs == {name: PAPER[name][str(row["stage"])] for name in QUANTITIES}


def test_a_row_without_its_next_gradient_has_no_signs() -> None:
    assert signs({"slope": None, "inner": None, "gradient_norm": None, "gradient_norm_before": 1.0}) is None
    row = {"slope": 0.0, "inner": 0.0, "gradient_norm": 1.0, "gradient_norm_before": 1.0}
    assert list((signs(row) or {}).values()) == ["-", "0", "0", "0", "0", "0"]


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_a_stage_is_named_exactly_where_both_signs_are(slope: float, curvature: float) -> None:
    name = stage(slope, curvature)
    if slope == 0 or curvature == 0 or math.isnan(slope) or math.isnan(curvature):
        assert name is None
    else:
        assert name is not None
        assert (slope < 0) == (name in ("1-2", "2-3"))
        assert (curvature > 0) == (name in ("2-3", "3-4"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"start": -1.0, "stop": 1.0}, "start above stop"), ({"steps": 3}, "at least 8"), ({"stop": 1.0}, "stage 2-3")],
)
def test_walks_that_cannot_show_the_table_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table_1(**options)  # type: ignore[arg-type]


def test_steps_that_disagree_are_shown() -> None:
    # Steps as long as the ripples: the signs at both ends do not tell what the gradient does between them.
    measured = table_1(lambda x: well(x) + 0.001 * torch.sin(40 * x), steps=24)
    assert "?" in measured["g_k - g_{k-1}"].values()
    assert set(measured["theta_k - theta_{k-1}"].values()) == {"-"}
