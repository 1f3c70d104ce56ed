"""Fields of tasks and optimizers: each is of its type and range, or refused in one line before any run."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

import lab_fakes
from lab.problem.test_loop import loop
from valleys.lab import ComparisonConfig, LabError, Range, Schedule, Split, Stream, compare
from valleys.lab.comparison import dry_run
from valleys.lab.errors import LARGEST
from valleys.lab.landscape import LandscapeConfig
from valleys.lab.optimizers.spec import OptimizerSpec
from valleys.lab.suggestions.brief_run import BriefRunConfig
from valleys.paper.reproduce import ReproductionConfig

TASK = lab_fakes.points()
SPEC = OptimizerSpec("mine", lab_fakes.sgd, {"lr": Range(0.01, 0.1)})
CONFIG = ComparisonConfig(batch_size=8, rounds=1, trials=1, optimizers=(SPEC,))


class Odd:
    """An object with an awkward text."""

    def __repr__(self) -> str:
        return "two\nlines"


VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 10**30, 0.5, -0.5, math.nan, math.inf, -math.inf, 1e200, "", " ", "x", "a\nb"),
    *(
        "\x00",
        "\udcff",
        "yes",
        b"x",
        [],
        [1],
        (),
        {},
        {"lr": 1},
        {"lr": Range(1, 2)},
        {1: Range(1, 2)},
        {"": Range(1, 2)},
    ),
    *(Odd(), object(), int, print, len, lambda *a: None, lambda *a: "x", lambda *a: torch.tensor(math.nan)),
    *(torch.zeros(3), torch.zeros(()), np.float32(1.0), np.int64(3), np.zeros(2), 1j, Schedule("step"), Path("x")),
    *(lab_fakes.split(3), Split(torch.zeros(5, 3), torch.zeros(5, 1)), Stream([(torch.zeros(2), torch.zeros(1))])),  # type: ignore[arg-type]
    *(Stream([(1,)]), Stream([("a", "b")]), Split({"a": torch.zeros(4, 2)}, torch.zeros(4, 1))),  # type: ignore[arg-type]
]


def pairs(instance: Any) -> st.SearchStrategy[tuple[Any, str, Any]]:
    names = [entry.name for entry in fields(instance) if entry.init]
    return st.tuples(st.just(instance), st.sampled_from(names), st.sampled_from(VALUES))


def tried(instance: Any, name: str, value: Any, out: Path) -> None:
    """Do what precedes the first run with one field changed."""
    changed = replace(instance, **{name: value})
    if isinstance(changed, OptimizerSpec):
        dry_run(TASK, replace(CONFIG, optimizers=(changed,)), out)
    elif isinstance(changed, ComparisonConfig):
        dry_run(TASK, changed, out)
    elif not isinstance(changed, (Range, Schedule, LandscapeConfig, BriefRunConfig, ReproductionConfig)):
        dry_run(changed, CONFIG, out)


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.one_of(
        *map(
            pairs, [TASK, SPEC, loop(), CONFIG, Range(0.1, 1.0), Schedule("step"), LandscapeConfig(), BriefRunConfig()]
        ),
        pairs(TASK),
        pairs(ReproductionConfig()),
    )
)
def test_any_value_of_any_field_is_taken_or_refused_in_one_line(case: tuple[Any, str, Any], tmp_path: Path) -> None:
    try:
        tried(*case, tmp_path / "out")
    except LabError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


MODEL = nn.Linear(2, 1)
REFUSED: list[tuple[Any, str, Any, str]] = [
    *(
        (TASK, "target", value, "task 'points': target must be a finite number")
        for value in (math.nan, None, "x", True)
    ),
    (TASK, "target", np.float32(1), "not a float32"),
    (TASK, "maximize", "yes", "task 'points': maximize must be True or False, not 'yes'"),
    (TASK, "metric_name", None, "task 'points': metric_name must be text without control characters, not None"),
    (TASK, "metric_name", " ", "task 'points': metric_name must not be empty"),
    (TASK, "name", "a\nb", r"name must be text without control characters, not 'a\\nb'"),
    (TASK, "epochs", 0, "epochs must be at least 1, not 0"),
    (TASK, "epochs", 2.0, "epochs must be a whole number"),
    (TASK, "batch_size", True, "batch_size must be a whole number"),
    (TASK, "clip", 0.0, "clip must be above 0"),
    (TASK, "schedule", "cosine", "schedule must be a Schedule, not 'cosine'"),
    (TASK, "channels_last", "gpu", "channels_last must be True or False or 'cpu', not 'gpu'"),
    (TASK, "test", lab_fakes.split(0), "task 'points': test holds no example"),
    (TASK, "validation", None, "validation must be a Split or a Stream, not None"),
    (TASK, "test", Split(torch.zeros(5, 3), torch.zeros(5, 1)), "points fails on examples of its test split: Runtime"),
    (
        TASK,
        "validation",
        Split(torch.zeros(5, 3), torch.zeros(5, 1)),
        "points fails on examples of its validation split",
    ),
    (TASK, "build_model", lambda: MODEL, "returns the same model again"),
    (TASK, "build_model", lambda: Shared(MODEL.weight), "returns the same model again"),
    (TASK, "build_model", lambda: 3, "build_model of points must return a torch.nn.Module, got a int"),
    (TASK, "build_model", nn.Identity, "the model of points has no parameter that can be trained"),
    (TASK, "finish", lambda mean: "x", "the metric of points must be a number, got a str"),
    (TASK, "metric", lambda o, t: torch.zeros(2), "has 2 numbers; a metric of several needs a `finish`"),
    (SPEC, "space", {"lr": (0.1, 1.0)}, "optimizer 'mine': space must be a dictionary"),
    (SPEC, "settings", {"a": torch.zeros(1)}, "optimizer 'mine': settings must be of JSON's types"),
    (SPEC, "name", "ä" * 150, "name must have at most 200 bytes"),
    (SPEC, "line", lambda values, plan: 3, "optimizer 'mine': line must return text, not a int"),
    (SPEC, "line", lambda values, plan: values["no"], "mine cannot train points: KeyError: 'no'; leave it out"),
    (
        SPEC,
        "build",
        lambda *a: SGD([MODEL.weight], 0.1),
        "holds no parameter of points's model",
    ),
    (replace(loop(), examples=None), "steps", lambda size, epochs: 0, "must be a whole number of at least 1, not 0"),
    (CONFIG, "optimizers", "sgd", "optimizers must be a list, not 'sgd'"),
    (CONFIG, "rounds", 1.5, "rounds must be a whole number"),
    (CONFIG, "name", "", "name must not be empty"),
    (CONFIG, "optimizers", (SPEC, replace(SPEC, name="mi ne"), replace(SPEC, name="mi/ne")), "named more than once"),
    (Range(0.1, 1.0), "low", 1e-200, "both ends must be finite"),
    (Schedule("step"), "gamma", "x", "schedule 'step': gamma must be a finite number"),
]


class Shared(nn.Module):
    """A module whose weight lies outside of it."""

    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight)


@pytest.mark.parametrize(("instance", "name", "value", "message"), REFUSED)
def test_what_is_wrong_is_named(instance: Any, name: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        tried(instance, name, value, tmp_path / "out")
    assert message.replace("\\\\", "\\") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_secret_is_not_shown() -> None:
    with pytest.raises(LabError, match=r"^storage must be text without control characters or None, not this$"):
        replace(CONFIG, storage="postgresql://u:SECRET@h/d\x00")


@pytest.mark.parametrize("side", [[1], torch.zeros(()), {}, {"a": 1}, None, "x"])
def test_a_split_is_of_tensors(side: Any) -> None:
    with pytest.raises(LabError, match="the inputs of a split must be a tensor, or a dictionary of some"):
        Split(side, torch.zeros(1))
    with pytest.raises(LabError, match="the targets of a split must be a tensor, or a dictionary of some"):
        Split(torch.zeros(1), side)


@pytest.mark.parametrize("changes", [{"dataset": 3}, {"dataset": iter([])}, {"workers": -1}, {"workers": 1.0}])
def test_a_stream_has_a_length_items_and_workers(changes: dict[str, Any]) -> None:
    with pytest.raises(LabError, match="stream"):
        Stream(**{"dataset": [], **changes})


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(
        st.floats(-1e300, 1e300)
        | st.sampled_from([1e217, -1e217, 1e150, LARGEST, -LARGEST, 1e-300, math.inf, math.nan]),
        min_size=3,
        max_size=3,
    ),
    maximize=st.booleans(),
)
@example(numbers=[1e217, -1e217, LARGEST], maximize=True)
@example(numbers=[-LARGEST, LARGEST, 1e150], maximize=False)
@example(numbers=[math.inf, math.nan, 1e-300], maximize=True)
def test_no_finite_metric_costs_the_report(
    numbers: list[float], maximize: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    calls = iter(range(10**6))

    def finish(mean: torch.Tensor) -> float:
        return numbers[next(calls) % len(numbers)]

    task = replace(TASK, finish=finish, maximize=maximize, epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("valleys.lab.report.document.html.write", lambda documents, path: None)
        patch.setattr("valleys.lab.report.document.learning_curves.draw", lambda document, path: None)
        result = compare(
            task,
            ComparisonConfig(batch_size=8, rounds=2, trials=1, optimizers=("sgd", "adamw")),
            out=tmp_path_factory.mktemp("out"),
            progress=False,
        )
    for runs in result.records.values():
        for run in runs:
            assert run.diverged or (run.validation is not None and abs(run.validation) <= LARGEST)
            assert run.test is None or math.isnan(run.test) or abs(run.test) <= LARGEST
