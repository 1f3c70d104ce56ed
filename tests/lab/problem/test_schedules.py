"""Schedules: the rates of whole runs against their formulas."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch.optim import SGD

from valleys.lab.errors import LabError
from valleys.lab.problem.schedules import KINDS, Schedule


def optimizer() -> SGD:
    params = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    return SGD([{"params": params[:1], "lr": 1.0}, {"params": params[1:], "lr": 0.5}])


def rates(schedule: Schedule, total: int) -> list[float]:
    """The first group's rates; the second's must be half of them."""
    base = optimizer()
    scheduler = schedule.build(base, total)
    values = []
    for _ in range(total):
        first, second = (group["lr"] for group in base.param_groups)
        assert second == pytest.approx(first / 2)
        values.append(first)
        base.step()
        scheduler.step()
    return values


def factor(schedule: Schedule, step: int, total: int) -> float:
    """The formulas of the docstring."""
    warm = schedule.warm_up_steps(total)
    if step < warm:
        return (step + 1) / (warm + 1)
    count, steps = step - warm, total - warm
    u = count / steps
    if schedule.kind == "step":
        passed = sum(count >= steps * part / schedule.drops for part in range(1, schedule.drops))
        return float(schedule.gamma**passed)
    if schedule.kind == "wsd":
        falling = max(1, round(schedule.decay * steps))
        return min(1.0, (steps - count) / falling)
    if schedule.kind == "polynomial":
        return float((1 - u) ** schedule.power)
    return 1.0 if schedule.kind == "constant" else 0.5 * (1 + math.cos(math.pi * u))


@pytest.mark.parametrize("total", [1, 2, 3, 20, 101])
@pytest.mark.parametrize("options", [{}, {"warm_up": 0.3}, {"warm_up": 0.0}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_rates_are_the_formulas(kind: Any, options: dict[str, Any], total: int) -> None:
    schedule = Schedule(kind, **options)
    expected = [factor(schedule, step, total) for step in range(total)]
    assert rates(schedule, total) == pytest.approx(expected, abs=1e-12)
    assert max(expected) == pytest.approx(1.0), "every run has a step at the full rate"
    assert min(expected) > 0


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule("step", gamma=0.5, drops=2),
        Schedule("polynomial", power=2.0, warm_up=0.1),
        Schedule("wsd", decay=1.0),
        Schedule("wsd", decay=0.5, warm_up=0.2),
    ],
    ids=str,
)
def test_the_options_have_their_effect(schedule: Schedule) -> None:
    assert rates(schedule, 40) == pytest.approx([factor(schedule, step, 40) for step in range(40)], abs=1e-12)


def test_the_papers_step_decay_drops_tenfold_at_every_quarter() -> None:
    values = rates(Schedule("step"), 400)
    assert [round(math.log10(values[step])) for step in (0, 99, 100, 199, 200, 299, 300, 399)] == [
        0,
        0,
        -1,
        -1,
        -2,
        -2,
        -3,
        -3,
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_resumes_from_its_state_read_with_weights_only(kind: Any) -> None:
    schedule, total, stop = Schedule(kind, warm_up=0.2), 30, 17
    whole = rates(schedule, total)
    first = optimizer()
    scheduler = schedule.build(first, total)
    for _ in range(stop):
        first.step()
        scheduler.step()
    saved = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    second = optimizer()
    scheduler = schedule.build(second, total)
    scheduler.load_state_dict(state["scheduler"])
    second.load_state_dict(state["optimizer"])
    values = []
    for _ in range(stop, total):
        values.append(second.param_groups[0]["lr"])
        second.step()
        scheduler.step()
    assert values == whole[stop:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cosin"}, "schedule 'cosin': choose one of constant, step, cosine"),
        ({"warm_up": 1.0}, "warm-up 1.0: the share of the steps must be at least 0 and below 1"),
        ({"warm_up": -0.1}, "warm-up -0.1"),
        ({"gamma": 0.0}, "gamma 0.0"),
        ({"drops": 0}, "drops 0"),
        ({"power": 0.0}, "power 0.0"),
        ({"decay": 0.0}, "decay 0.0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        Schedule(**{"kind": "cosine", **options})
