"""The smallest difference that a test metric can show: measured on single examples, or the task's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import lab_fakes
from valleys.lab import LabError, tasks
from valleys.lab.problem.resolution import resolution
from valleys.lab.problem.task import Problem, Task


def digits(**changes: Any) -> Task:
    task = tasks.load("digits")
    assert isinstance(task, Task)
    return replace(task, resolution=None, **changes)


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) != targets).float().mean()


def test_of_right_and_wrong_it_is_one_test_example_s_worth() -> None:
    state = torch.get_rng_state()
    assert resolution(digits()) == pytest.approx(100 / 360)
    assert resolution(digits(metric=error, maximize=False)) == pytest.approx(1 / 360)
    assert torch.equal(torch.get_rng_state(), state)


def test_of_a_continuous_metric_it_is_zero() -> None:
    assert resolution(replace(lab_fakes.points(), resolution=None)) == 0


def test_the_task_s_own_comes_first_and_what_is_no_mean_has_none_unless_it_says_so() -> None:
    assert resolution(replace(digits(), resolution=0.5)) == 0.5
    assert resolution(digits(finish=lambda means: means.item())) == 0
    assert resolution(Problem(name="x", metric_name="y", maximize=True, target=0.0, epochs=1)) == 0


def test_the_scale_is_logarithmic_for_what_is_minimized_unless_the_task_says_otherwise() -> None:
    task = lab_fakes.task()
    assert task.metric_scale == "linear"
    assert replace(task, maximize=False).metric_scale == "log"
    assert replace(task, maximize=False, scale="linear").metric_scale == "linear"
    with pytest.raises(LabError, match="the scale of fake must be linear or log, not 'cubic'"):
        replace(task, scale="cubic")
    with pytest.raises(LabError, match="the resolution of fake must be a number of 0 or more, not -1"):
        replace(task, resolution=-1)
