"""The rehearsal: what would fail in training fails in one line before it, and what steps cost is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lab.run.test_checkpoint import task as noisy_task
from valleys.lab import tasks
from valleys.lab.errors import LabError, pointing
from valleys.lab.optimizers.resolve import names, resolve
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Task
from valleys.lab.run.config import RunConfig
from valleys.lab.run.rehearsal import rehearse
from valleys.lab.tasks import from_file

CONFIG = RunConfig(batch_size=10, micro_batch=4)


def toy(**changes: Any) -> Task:
    return replace(noisy_task(Schedule("cosine")), **changes)


def spec(make: Any, closure: bool = False) -> OptimizerSpec:
    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        optimizer: Optimizer = make(model.parameters(), **values)
        return optimizer

    return OptimizerSpec("mine", build, {"lr": Range(0.01, 0.1)}, closure=closure)


def test_every_optimizer_of_the_lab_passes_on_digits() -> None:
    specs = [resolve(name) for name in names()]
    rehearsals = rehearse(tasks.load("digits"), specs, RunConfig(batch_size=1024))
    assert [one.optimizer for one in rehearsals] == names()
    for one in rehearsals:
        assert one.examples == 128
        assert one.gradients == 1 + (one.optimizer == "sam")
        assert min(one.gradient_seconds, one.step_seconds, one.evaluation_seconds) > 0


def test_the_random_state_is_left_alone_and_the_plan_is_that_of_the_runs() -> None:
    state, plans = torch.get_rng_state(), []
    plain = spec(SGD)

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        plans.append((plan, dict(values)))
        return plain.build(model, values, plan)

    (one,) = rehearse(toy(), [replace(plain, build=build)], CONFIG)
    assert torch.equal(torch.get_rng_state(), state)
    ((plan, values),) = plans
    assert plan == Plan(10, 5 * 4)
    assert values == {"lr": pytest.approx(0.0316, rel=1e-2)}
    assert one.examples == 4


class Clock:
    """A clock that goes on where something sleeps: no machine is slow by it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.time = 0.0
        patch.setattr("valleys.lab.run.training_loop.time.perf_counter", lambda: self.time)

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def test_seconds_are_those_of_a_gradient_of_an_update_and_of_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    class Slow(SGD):
        made = 0

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            clock.sleep(0.2 if not self.made else 0.03)  # the first pays for allocations
            self.made += 1
            if closure is not None:
                with torch.enable_grad():
                    closure()
            super().step()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        clock.sleep(0.06)
        return nn.functional.mse_loss(outputs, targets)

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        clock.sleep(0.01)
        return nn.functional.mse_loss(outputs, targets)

    for closure in (False, True):
        (one,) = rehearse(toy(loss=loss, metric=metric), [spec(Slow, closure)], CONFIG)
        assert one.gradients == 1 + closure
        assert one.gradient_seconds == pytest.approx(0.06)
        assert one.step_seconds == pytest.approx(0.03)
        assert one.evaluation_seconds == pytest.approx(0.01)


def test_work_of_every_tenth_update_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    class Tenth(SGD):
        made = 0

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.made += 1
            if self.made % 10 == 0:
                clock.sleep(0.1)
            super().step()

    (one,) = rehearse(toy(), [spec(Tenth)], CONFIG)
    assert one.step_seconds == pytest.approx(0.01, rel=0.5)


def no_constructor(parameters: Any, lr: float) -> Any:
    raise TypeError("two\nlines.")


class NoStep(SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        raise ZeroDivisionError("division by zero")


class SecondStep(SGD):
    made = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.made += 1
        if self.made == 2:
            raise KeyError("buffer")


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (no_constructor, "mine cannot train toy: TypeError: two lines; leave it out"),
        (NoStep, "mine cannot train toy: ZeroDivisionError: division by zero; leave it out, or name a module:callable"),
        (SecondStep, "mine cannot train toy: KeyError: 'buffer'"),
        (
            "torch.optim:SparseAdam",
            "torch.optim:SparseAdam cannot train toy: RuntimeError: SparseAdam does not support dense",
        ),
        ("torch.optim:Muon", "torch.optim:Muon cannot train toy: ValueError: Muon only supports 2D parameters"),
    ],
)
def test_whatever_an_optimizer_raises_is_one_line_that_names_it(optimizer: Any, message: str) -> None:
    failing = resolve(optimizer) if isinstance(optimizer, str) else spec(optimizer)
    with pytest.raises(LabError) as caught:
        rehearse(toy(), [resolve("sgd"), failing], CONFIG)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_model_that_an_optimizer_of_the_lab_refuses() -> None:
    convolutions = toy(
        build_model=lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 1, 3), nn.Flatten()),
    )
    with pytest.raises(LabError, match=r"^muon: Sequential has no weight of two dimensions"):
        rehearse(convolutions, [resolve("muon")], CONFIG)


BROKEN = """
import torch
from torch import nn
from valleys.lab import Split, Task

class Model(nn.Linear):
    steps = 0

    def forward(self, x):
        if self.training:
            self.steps += 1
            if self.steps == 2:
                raise ValueError("of the model")
        return super().forward(x)

split = Split(torch.randn(12, 2), torch.randn(12, 1))
task = Task(name="mine", train=split, validation=split, test=split, build_model=lambda: Model(2, 1),
            loss=nn.functional.mse_loss, metric=nn.functional.mse_loss, metric_name="mse", maximize=False, target=0.1,
            epochs=1)
"""


def test_an_error_of_the_task_is_the_tasks(tmp_path: Path) -> None:
    path = tmp_path / "broken_task.py"
    path.write_text(BROKEN)
    problem = from_file.load(f"{path}:task")
    with pytest.raises(ValueError, match="of the model"):
        rehearse(problem, [resolve("sgd")], CONFIG)
    line = BROKEN.splitlines().index('                raise ValueError("of the model")') + 1
    with (
        pytest.raises(LabError, match=f"broken_task.py, line {line}: ValueError: of the model"),
        pointing(path),
    ):
        rehearse(problem, [resolve("sgd")], CONFIG)


def test_of_a_loop_only_what_it_says_is_checked() -> None:
    loop = Loop(
        name="own", metric_name="m", maximize=True, target=1.0, epochs=1, run=lambda running: None, steps=lambda b, e: 1
    )
    assert rehearse(loop, [resolve("adamw"), spec(NoStep)], CONFIG) == ()
    with pytest.raises(LabError, match="sam computes two gradients in a step, and own has"):
        rehearse(loop, [resolve("adamw"), resolve("sam")], CONFIG)
